//! Where a window can be opened that shows a session.

use serde::{Deserialize, Serialize};

/// A program that opens windows, tabs or panes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Terminal {
    /// The one that Loom was started from, or one that is installed.
    Auto,
    /// None is opened: `loom attach` shows a session.
    #[default]
    None,
    Tmux,
    Kitty,
    Wezterm,
    Alacritty,
    Ghostty,
    Foot,
    GnomeTerminal,
    Konsole,
    Xfce4Terminal,
    Xterm,
    Iterm,
    TerminalApp,
}

impl Terminal {
    pub const ALL: [Terminal; 14] = [
        Terminal::Auto,
        Terminal::None,
        Terminal::Tmux,
        Terminal::Kitty,
        Terminal::Wezterm,
        Terminal::Alacritty,
        Terminal::Ghostty,
        Terminal::Foot,
        Terminal::GnomeTerminal,
        Terminal::Konsole,
        Terminal::Xfce4Terminal,
        Terminal::Xterm,
        Terminal::Iterm,
        Terminal::TerminalApp,
    ];
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Terminal::Auto => "auto",
            Terminal::None => "none",
            Terminal::Tmux => "tmux",
            Terminal::Kitty => "kitty",
            Terminal::Wezterm => "wezterm",
            Terminal::Alacritty => "alacritty",
            Terminal::Ghostty => "ghostty",
            Terminal::Foot => "foot",
            Terminal::GnomeTerminal => "gnome-terminal",
            Terminal::Konsole => "konsole",
            Terminal::Xfce4Terminal => "xfce4-terminal",
            Terminal::Xterm => "xterm",
            Terminal::Iterm => "iterm",
            Terminal::TerminalApp => "terminal-app",
        }
    }
}

impl std::str::FromStr for Terminal {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Terminal::ALL.into_iter().find(|terminal| terminal.as_str() == text);
        known.ok_or_else(|| format!("one of {}", Terminal::ALL.map(Terminal::as_str).join(", ")))
    }
}

//! Windows that show sessions: a window, tab or pane that runs `loom attach`.
//! Only a viewer: closing it ends no session, and where none can be opened
//! nothing is lost. Arguments go to a program as they are, through no shell.

use std::io;
use std::process::Stdio;

use crate::base::process;
use crate::model::terminal::Terminal;

/// Looks a variable of the environment up.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Which program `wanted` means here. `has` says whether a program is installed. Without a
/// display to open a window on it is none, and never an error.
pub fn resolve(wanted: Terminal, variable: Variable, has: impl Fn(&str) -> bool) -> Terminal {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let has_display = is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
    let found = match wanted {
        Terminal::Auto => detect(variable).or_else(|| {
            let installed = INSTALLED.into_iter().find(|terminal| program(*terminal).is_some_and(&has));
            installed.filter(|_| has_display)
        }),
        wanted => Some(wanted),
    };
    match found {
        Some(Terminal::Tmux | Terminal::Iterm | Terminal::TerminalApp) | None => {}
        // Inside wezterm its own multiplexer opens tabs, also over ssh.
        Some(Terminal::Wezterm) if is_set("WEZTERM_PANE") => {}
        Some(_) if has_display => {}
        Some(_) => return Terminal::None,
    }
    found.filter(|terminal| program(*terminal).is_some_and(&has)).unwrap_or(Terminal::None)
}

/// Without a sign of where Loom was started from: in this order.
const INSTALLED: [Terminal; 9] = [
    Terminal::Kitty,
    Terminal::Wezterm,
    Terminal::Alacritty,
    Terminal::Ghostty,
    Terminal::Foot,
    Terminal::GnomeTerminal,
    Terminal::Konsole,
    Terminal::Xfce4Terminal,
    Terminal::Xterm,
];

/// The terminal that this process was started from, by the marks it leaves.
fn detect(variable: Variable) -> Option<Terminal> {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let is = |name: &str, wanted: &str| variable(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
    // The innermost first: tmux runs inside one of the others.
    let marks = [
        (Terminal::Tmux, is_set("TMUX")),
        (Terminal::Kitty, is_set("KITTY_WINDOW_ID")),
        (Terminal::Wezterm, is_set("WEZTERM_PANE")),
        (Terminal::Ghostty, is_set("GHOSTTY_RESOURCES_DIR") || is("TERM_PROGRAM", "ghostty")),
        (Terminal::Alacritty, is_set("ALACRITTY_WINDOW_ID") || is_set("ALACRITTY_SOCKET")),
        (Terminal::GnomeTerminal, is_set("GNOME_TERMINAL_SCREEN")),
        (Terminal::Konsole, is_set("KONSOLE_VERSION")),
        (Terminal::Foot, variable("TERM").is_some_and(|term| term == "foot" || term.starts_with("foot-"))),
        (Terminal::Xfce4Terminal, is("COLORTERM", "xfce4-terminal")),
        (Terminal::Iterm, is("TERM_PROGRAM", "iTerm.app")),
        (Terminal::TerminalApp, is("TERM_PROGRAM", "Apple_Terminal")),
        (Terminal::Xterm, is_set("XTERM_VERSION")),
    ];
    marks.into_iter().find(|(_, is_here)| *is_here).map(|(terminal, _)| terminal)
}

fn program(terminal: Terminal) -> Option<&'static str> {
    match terminal {
        Terminal::Auto | Terminal::None => None,
        Terminal::Iterm | Terminal::TerminalApp => Some("osascript"),
        named => Some(named.as_str()),
    }
}

/// The command line that opens a window called `title` which runs `command`; none where no
/// window is wanted.
pub fn argv(terminal: Terminal, title: &str, command: &[String], variable: Variable) -> Option<Vec<String>> {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let title_option = |name: &str| format!("{name}={title}");
    // tmux takes `.` and `:` for parts of a target, and reads formats in names.
    let plain: String = title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let line = || shlex::try_join(command.iter().map(String::as_str)).ok();
    let before: Vec<String> = match terminal {
        Terminal::Auto | Terminal::None => return None,
        Terminal::Tmux if is_set("TMUX") => words(&["tmux", "new-window", "-d", "-n", &plain, "--"]),
        Terminal::Tmux => words(&["tmux", "new-session", "-d", "-s", &plain, "--"]),
        Terminal::Kitty => words(&["kitty", "--detach", &title_option("--title")]),
        Terminal::Wezterm if is_set("WEZTERM_PANE") => words(&["wezterm", "cli", "spawn", "--"]),
        Terminal::Wezterm => words(&["wezterm", "start", "--"]),
        Terminal::Alacritty => words(&["alacritty", "--title", title, "-e"]),
        Terminal::Ghostty => words(&["ghostty", &title_option("--title"), "-e"]),
        Terminal::Foot => words(&["foot", &title_option("--title")]),
        Terminal::GnomeTerminal => words(&["gnome-terminal", &title_option("--title"), "--"]),
        Terminal::Konsole => words(&["konsole", "-p", &title_option("tabtitle"), "-e"]),
        Terminal::Xfce4Terminal => words(&["xfce4-terminal", &title_option("--title"), "-x"]),
        Terminal::Xterm => words(&["xterm", "-T", title, "-e"]),
        Terminal::TerminalApp => {
            return Some(osascript("tell application \"Terminal\" to do script (item 1 of argv)", line()?));
        }
        Terminal::Iterm => {
            let script = "tell application \"iTerm\" to create window with default profile command (item 1 of argv)";
            return Some(osascript(script, line()?));
        }
    };
    Some(before.into_iter().chain(command.iter().cloned()).collect())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The command is an argument of the script and never a part of it.
fn osascript(script: &str, line: String) -> Vec<String> {
    let mut argv = words(&["osascript", "-e", "on run argv", "-e", script, "-e", "end run"]);
    argv.push(line);
    argv
}

/// Opens a window that runs `command`. It is nobody's child to wait for but a thread's.
///
/// # Errors
/// When its program cannot be started.
pub fn open(terminal: Terminal, title: &str, command: &[String]) -> io::Result<()> {
    let Some(argv) = argv(terminal, title, command, &|name| std::env::var(name).ok()) else { return Ok(()) };
    let mut opener = process::command(&argv[0]);
    opener.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = opener.spawn()?;
    let reap = move || drop(child.wait());
    std::thread::Builder::new().name("terminal".to_owned()).stack_size(64 << 10).spawn(reap)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(wanted: Terminal, environment: &[(&str, &str)], installed: &[&str]) -> &'static str {
        let variable =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        resolve(wanted, &variable, |program| installed.contains(&program)).as_str()
    }

    #[test]
    fn the_terminal_is_the_one_around_loom() {
        let x = ("DISPLAY", ":0");
        let auto = |environment: &[(&str, &str)], installed: &[&str]| resolved(Terminal::Auto, environment, installed);
        assert_eq!(auto(&[("TMUX", "/tmp/t,1,0"), x, ("KITTY_WINDOW_ID", "1")], &["tmux", "kitty"]), "tmux");
        assert_eq!(auto(&[x, ("KITTY_WINDOW_ID", "1")], &["kitty", "xterm"]), "kitty");
        assert_eq!(auto(&[("WEZTERM_PANE", "3")], &["wezterm"]), "wezterm");
        assert_eq!(auto(&[x, ("TERM_PROGRAM", "ghostty")], &["ghostty"]), "ghostty");
        assert_eq!(auto(&[x, ("ALACRITTY_SOCKET", "s")], &["alacritty"]), "alacritty");
        assert_eq!(auto(&[x, ("GNOME_TERMINAL_SCREEN", "s")], &["gnome-terminal"]), "gnome-terminal");
        assert_eq!(auto(&[x, ("KONSOLE_VERSION", "1")], &["konsole"]), "konsole");
        assert_eq!(auto(&[("WAYLAND_DISPLAY", "w"), ("TERM", "foot-extra")], &["foot"]), "foot");
        assert_eq!(auto(&[x, ("COLORTERM", "xfce4-terminal")], &["xfce4-terminal"]), "xfce4-terminal");
        assert_eq!(auto(&[x, ("XTERM_VERSION", "XTerm(379)")], &["xterm"]), "xterm");
        assert_eq!(auto(&[("TERM_PROGRAM", "iTerm.app")], &["osascript"]), "iterm");
        assert_eq!(auto(&[("TERM_PROGRAM", "Apple_Terminal")], &["osascript"]), "terminal-app");
        assert_eq!(auto(&[x], &["xterm", "konsole"]), "konsole");
    }

    #[test]
    fn no_display_is_no_window_and_no_error() {
        assert_eq!(resolved(Terminal::Auto, &[], &["xterm", "kitty"]), "none");
        assert_eq!(resolved(Terminal::Auto, &[("DISPLAY", "")], &["xterm"]), "none");
        assert_eq!(resolved(Terminal::Auto, &[("DISPLAY", ":0")], &[]), "none");
        assert_eq!(resolved(Terminal::Xterm, &[], &["xterm"]), "none");
        assert_eq!(resolved(Terminal::Xterm, &[("DISPLAY", ":0")], &[]), "none");
        assert_eq!(resolved(Terminal::Xterm, &[("DISPLAY", ":0")], &["xterm"]), "xterm");
        assert_eq!(resolved(Terminal::Tmux, &[], &["tmux"]), "tmux");
        assert_eq!(resolved(Terminal::None, &[("TMUX", "x")], &["tmux"]), "none");
    }

    #[test]
    fn arguments_reach_the_program_as_they_are() {
        let command = words(&["/opt/my loom/loom", "-C", "/p/$(touch x); 'q\" #{x}", "attach", "api.1"]);
        for terminal in Terminal::ALL {
            let Some(argv) = argv(terminal, "loom api.1", &command, &|_| None) else {
                assert!(matches!(terminal, Terminal::Auto | Terminal::None), "{terminal:?}");
                continue;
            };
            let (before, rest) = argv.split_at(argv.len() - if argv[0] == "osascript" { 1 } else { command.len() });
            if argv[0] == "osascript" {
                assert_eq!(shlex::split(&rest[0]), Some(command.clone()));
                assert!(!before.iter().any(|word| word.contains("/p/")));
            } else {
                assert_eq!(rest, command, "{terminal:?}");
            }
            let expected = match terminal {
                Terminal::Tmux => "tmux new-session -d -s loom-api-1 --",
                Terminal::Kitty => "kitty --detach --title=loom api.1",
                Terminal::Wezterm => "wezterm start --",
                Terminal::Alacritty => "alacritty --title loom api.1 -e",
                Terminal::Ghostty => "ghostty --title=loom api.1 -e",
                Terminal::Foot => "foot --title=loom api.1",
                Terminal::GnomeTerminal => "gnome-terminal --title=loom api.1 --",
                Terminal::Konsole => "konsole -p tabtitle=loom api.1 -e",
                Terminal::Xfce4Terminal => "xfce4-terminal --title=loom api.1 -x",
                Terminal::Xterm => "xterm -T loom api.1 -e",
                Terminal::TerminalApp => {
                    "osascript -e on run argv -e tell application \"Terminal\" to do script (item 1 of argv) -e end run"
                }
                Terminal::Iterm => {
                    "osascript -e on run argv -e tell application \"iTerm\" to create window with default profile command (item 1 of argv) -e end run"
                }
                Terminal::Auto | Terminal::None => "",
            };
            assert_eq!(before.join(" "), expected);
        }
        let inside = |name: &str| matches!(name, "TMUX" | "WEZTERM_PANE").then(|| "1".to_owned());
        let of = |terminal| argv(terminal, "loom api.1", &command, &inside).unwrap();
        assert_eq!(of(Terminal::Tmux)[..6], ["tmux", "new-window", "-d", "-n", "loom-api-1", "--"]);
        assert_eq!(of(Terminal::Wezterm)[..4], ["wezterm", "cli", "spawn", "--"]);
    }
}

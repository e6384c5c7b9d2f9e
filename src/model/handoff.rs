//! What a session leaves for the next one of its stage and for dependents. One
//! format: this struct in the journal, and the same as Markdown in
//! `.work/handoffs/` and on the standard input of `loom handoff`.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::ids::SessionId;
use super::limits::{HANDOFF_BYTES_MAX, HANDOFF_LIST_MAX};

/// A handoff. Every entry of a list is one paragraph.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Handoff {
    /// Where the work stands, in a few sentences.
    pub status: String,
    pub done: Vec<String>,
    /// Each with its reason.
    pub decisions: Vec<String>,
    /// What is not done yet.
    pub open: Vec<String>,
    pub next: Vec<String>,
    /// Files changed since the stage's base.
    pub files: Vec<String>,
    /// Commits since the stage's base, newest first: id and subject.
    pub commits: Vec<String>,
    /// Files with work that is not committed.
    pub uncommitted: Vec<String>,
    #[serde(skip_serializing_if = "Lists::is_empty")]
    pub lists: Lists,
}

/// What dependents get of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lists {
    pub interfaces: Vec<String>,
    pub patterns: Vec<String>,
    pub integration: Vec<String>,
    pub assumptions: Vec<String>,
    pub warnings: Vec<String>,
}

/// Who wrote a handoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Author {
    Agent,
    /// From git, the checks and the transcript, because the agent could not.
    Loom,
}

/// A handoff as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Counts the stage's handoffs from 1.
    pub number: u32,
    pub session: SessionId,
    pub by: Author,
    pub handoff: Handoff,
}

/// Why a text is no handoff.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoffError {
    #[error("line {line}: there is no section `{name}`; the sections are {}", section_names())]
    UnknownSection { line: usize, name: String },
    #[error("line {line}: text before the first section; begin with `## Status`")]
    BeforeSections { line: usize },
    #[error("the handoff is longer than {HANDOFF_BYTES_MAX} bytes: leave out what the next session finds in the code")]
    TooLong,
}

/// A list of a handoff by its heading.
const SECTIONS: [&str; 13] = [
    "Status",
    "Done",
    "Decisions",
    "Open work",
    "Next steps",
    "Files",
    "Commits",
    "Uncommitted work",
    "Interfaces introduced",
    "Patterns established",
    "Integration points",
    "Assumptions",
    "Warnings",
];

fn section_names() -> String {
    SECTIONS.map(|name| format!("`## {name}`")).join(", ")
}

impl Lists {
    /// The five lists with their headings.
    pub fn named(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("Interfaces introduced", &self.interfaces),
            ("Patterns established", &self.patterns),
            ("Integration points", &self.integration),
            ("Assumptions", &self.assumptions),
            ("Warnings", &self.warnings),
        ]
    }
    pub fn is_empty(&self) -> bool {
        self.named().iter().all(|(_, list)| list.is_empty())
    }
}

impl Handoff {
    /// Whether it tells a next session anything that git does not.
    pub fn says_nothing(&self) -> bool {
        self.status.trim().is_empty() && self.done.is_empty() && self.open.is_empty() && self.next.is_empty()
    }

    /// Reads the Markdown form: `## Section` and lines; `- ` begins an entry.
    ///
    /// # Errors
    /// A heading that is no section, text before the first one, or too much of it.
    pub fn parse(text: &str) -> Result<Handoff, HandoffError> {
        if text.len() > HANDOFF_BYTES_MAX {
            return Err(HandoffError::TooLong);
        }
        let mut handoff = Handoff::default();
        let mut section = None;
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            if let Some(name) = line.strip_prefix("## ") {
                let known = SECTIONS.iter().position(|known| known.eq_ignore_ascii_case(name.trim()));
                let known = known
                    .ok_or_else(|| HandoffError::UnknownSection { line: line_number, name: name.trim().to_owned() })?;
                section = Some(known);
                continue;
            }
            // The title and its line of origin, as rendered.
            let is_title = line.starts_with("# ") || line.starts_with("> ");
            match section {
                None if line.trim().is_empty() || is_title => {}
                None => return Err(HandoffError::BeforeSections { line: line_number }),
                Some(section) => handoff.take(section, line),
            }
        }
        handoff.status = handoff.status.trim().to_owned();
        Ok(handoff)
    }

    fn take(&mut self, section: usize, line: &str) {
        let Some(list) = self.list_mut(section) else {
            self.status.push_str(line);
            self.status.push('\n');
            return;
        };
        match line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")) {
            Some(entry) if list.len() < HANDOFF_LIST_MAX => list.push(entry.trim().to_owned()),
            Some(_) => {}
            None if line.trim().is_empty() || line.trim() == "(none)" => {}
            // A line that goes on with the entry before, or an entry without its dash.
            None => match list.last_mut() {
                Some(last) => {
                    last.push(' ');
                    last.push_str(line.trim());
                }
                None => list.push(line.trim().to_owned()),
            },
        }
    }

    fn list_mut(&mut self, section: usize) -> Option<&mut Vec<String>> {
        Some(match section {
            1 => &mut self.done,
            2 => &mut self.decisions,
            3 => &mut self.open,
            4 => &mut self.next,
            5 => &mut self.files,
            6 => &mut self.commits,
            7 => &mut self.uncommitted,
            8 => &mut self.lists.interfaces,
            9 => &mut self.lists.patterns,
            10 => &mut self.lists.integration,
            11 => &mut self.lists.assumptions,
            12 => &mut self.lists.warnings,
            _ => return None,
        })
    }

    /// The Markdown form, without empty sections.
    pub fn render(&self) -> String {
        let mut out = String::new();
        if !self.status.is_empty() {
            let _ = writeln!(out, "## Status\n\n{}\n", self.status);
        }
        let own = [&self.done, &self.decisions, &self.open, &self.next, &self.files, &self.commits, &self.uncommitted];
        let named = SECTIONS[1..8].iter().copied().zip(own).chain(self.lists.named());
        for (name, list) in named.filter(|(_, list)| !list.is_empty()) {
            let _ = writeln!(out, "## {name}\n");
            for entry in list {
                let _ = writeln!(out, "- {}", entry.lines().map(str::trim).collect::<Vec<_>>().join(" "));
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Handoff {
        let list = |name: &str| vec![format!("{name} one"), format!("{name} two")];
        Handoff {
            status: "Half done.\nThe parser stands.".to_owned(),
            done: list("done"),
            decisions: list("decision"),
            open: list("open"),
            next: list("next"),
            files: list("file"),
            commits: list("commit"),
            uncommitted: list("uncommitted"),
            lists: Lists {
                interfaces: list("interface"),
                patterns: list("pattern"),
                integration: list("integration"),
                assumptions: list("assumption"),
                warnings: list("warning"),
            },
        }
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        assert_eq!(Handoff::parse(&full().render()), Ok(full()));
        assert_eq!(Handoff::parse(""), Ok(Handoff::default()));
        assert_eq!(Handoff::default().render(), "");
    }

    #[test]
    fn people_write_lists_in_many_ways() {
        let read = Handoff::parse("# A title\n\n## done\nno dash\ngoes on\n* star\n\n## Open work\n(none)\n").unwrap();
        assert_eq!(read.done, ["no dash goes on", "star"]);
        assert!(read.open.is_empty() && !read.says_nothing());
    }

    #[test]
    fn what_is_no_handoff_says_why() {
        let unknown = Handoff::parse("## Status\nx\n## Todo\n- y\n").unwrap_err();
        assert!(unknown.to_string().starts_with("line 3: there is no section `Todo`"), "{unknown}");
        assert_eq!(Handoff::parse("\nhello\n"), Err(HandoffError::BeforeSections { line: 2 }));
        assert_eq!(Handoff::parse(&"x".repeat(HANDOFF_BYTES_MAX + 1)), Err(HandoffError::TooLong));
        assert!(Handoff { files: vec!["a".to_owned()], ..Handoff::default() }.says_nothing());
    }
}

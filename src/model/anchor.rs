//! The journal's head as git holds it, at `refs/loom/journal`.

/// Names one record of the journal. Written with every landing and whenever a writer ends,
/// so that a journal that lost or changed its history is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Number of the record.
    pub seq: u64,
    /// Its hash, as lower-case hex.
    pub hash: String,
}

/// Its first line.
pub const TITLE: &str = "loom-journal 1";

impl Anchor {
    /// Reads what [`Anchor`]'s `Display` wrote, and nothing else.
    pub fn parse(text: &str) -> Option<Anchor> {
        let mut lines = text.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name).map(str::to_owned);
        field(TITLE).filter(String::is_empty)?;
        let anchor = Anchor { seq: field("seq ")?.parse().ok()?, hash: field("hash ")? };
        (anchor.to_string() == text).then_some(anchor)
    }
}

impl std::fmt::Display for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{TITLE}\nseq {}\nhash {}\n", self.seq, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let anchor = Anchor { seq: 7, hash: "ab".to_owned() };
        let text = anchor.to_string();
        assert_eq!(Anchor::parse(&text), Some(anchor));
        for other in ["", "seq 7\nhash ab\n", "loom-journal 1\nseq 07\nhash ab\n", "loom-journal 1\nseq 7\nhash ab"] {
            assert_eq!(Anchor::parse(other), None, "{other:?}");
        }
        assert_eq!(Anchor::parse(&format!("{text}more\n")), None);
    }
}

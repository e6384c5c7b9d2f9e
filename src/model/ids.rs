//! Identifiers. Every id is a validated newtype: a path, a ref or an argument
//! is only ever built from one of these, never from free text. They are named all over the world:
//! a copy shares its text.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what}: {why}")]
pub struct IdError {
    pub what: &'static str,
    pub text: String,
    pub why: &'static str,
}

/// Names that Windows keeps for devices; a checkout there could not hold them.
const DEVICE_NAMES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

fn check_name(text: &str) -> Result<(), &'static str> {
    let mut bytes = text.bytes();
    match bytes.next() {
        None => return Err("it is empty"),
        Some(b'a'..=b'z' | b'0'..=b'9' | b'A'..=b'Z') => {}
        Some(_) => return Err("it starts with something other than a letter or a digit"),
    }
    if text.len() > crate::model::limits::ID_BYTES_MAX {
        return Err("it is longer than 63 characters");
    }
    if !bytes.all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-')) {
        return Err("only letters, digits, `-` and `_` are allowed");
    }
    if DEVICE_NAMES.contains(&text.to_ascii_lowercase().as_str()) {
        return Err("Windows keeps this name for a device");
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses `text`, or says what is wrong with it.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                match $check(&text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(why) => Err(IdError { what: $what, text, why }),
                }
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().into()
            }
        }
        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
    };
}

text_id!(
    /// A stage's id: `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`, no Windows device name.
    StageId, "stage id", check_name
);
text_id!(
    /// A plan's id: its file's stem, slugged to the pattern of a stage id.
    PlanId, "plan id", check_name
);
text_id!(
    /// A session's id: `<stage>.<n>`, `n` counting the sessions of the stage from 1.
    /// The number is the fence of the session's lease.
    SessionId, "session id", check_session
);
text_id!(
    /// A git object id, as lower-case hex (40 digits, or 64 in a SHA-256 repository).
    Oid, "object id", check_oid
);

fn check_session(text: &str) -> Result<(), &'static str> {
    let Some((stage, n)) = text.rsplit_once('.') else {
        return Err("it is not of the form <stage>.<number>");
    };
    check_name(stage)?;
    if n.is_empty() || n.starts_with('0') || !n.bytes().all(|b| b.is_ascii_digit()) || n.len() > 6 {
        return Err("it does not end in .<number>");
    }
    Ok(())
}

fn check_oid(text: &str) -> Result<(), &'static str> {
    if !matches!(text.len(), 40 | 64) {
        return Err("it has neither 40 nor 64 digits");
    }
    if !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("it is not lower-case hex");
    }
    Ok(())
}

impl SessionId {
    /// The `fence`-th session of `stage`.
    pub fn of(stage: &StageId, fence: u32) -> Self {
        Self(format!("{stage}.{fence}").into())
    }
    /// The stage part.
    pub fn stage(&self) -> StageId {
        StageId(self.0.rsplit_once('.').map_or("", |(stage, _)| stage).into())
    }
}

impl Oid {
    /// The first ten digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

impl PlanId {
    /// Slugs a file stem to a plan id: lower case, every other character a `-`.
    pub fn from_stem(stem: &str) -> Result<Self, IdError> {
        let mut slug: String = stem
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' })
            .collect();
        slug.truncate(crate::model::limits::ID_BYTES_MAX);
        Self::new(slug.trim_matches(['-', '_']))
    }
}

/// A gate's number, shown as `g<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GateId(pub u32);

impl fmt::Display for GateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_their_folder_are_refused() {
        for bad in ["", "../x", "a/b", "-x", "_plan", ".", "a.b", "con", "a b", "é", &"x".repeat(64)] {
            assert!(StageId::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "0", "api-2", "a_b", &"x".repeat(63)] {
            assert!(StageId::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_session_id_names_its_stage() {
        let stage = StageId::new("api-2").unwrap();
        let session = SessionId::of(&stage, 3);
        assert_eq!(session.as_str(), "api-2.3");
        assert_eq!(SessionId::new("api-2.3").unwrap().stage(), stage);
        for bad in ["api", "api.", "api.0", "api.x", ".1", "../a.1"] {
            assert!(SessionId::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_plan_id_is_the_slug_of_its_stem() {
        assert_eq!(PlanId::from_stem("PLAN-0001 Feature!").unwrap().as_str(), "plan-0001-feature");
        assert!(PlanId::from_stem("…").is_err());
    }
}

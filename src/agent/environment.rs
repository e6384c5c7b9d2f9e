//! The environment a session will inherit, as a value, so that launches and
//! pre-flight checks can be tested without touching the process's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names and values, as a child would inherit them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    values: BTreeMap<String, String>,
}

impl Environment {
    /// The environment of this process. Names and values that are not UTF-8 are left out.
    pub fn of_this_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }
    /// The value of `name`, also when it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
    /// Whether `name` has a value that is not empty.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }
    /// Whether `name` is switched on, as the agent CLIs read switches.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name).map(str::to_ascii_lowercase).as_deref(), Some("1" | "true" | "yes" | "on"))
    }
    /// The home folder.
    pub fn home(&self) -> Option<PathBuf> {
        self.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
    }
    /// Finds `program` in `PATH`.
    pub fn find_program(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(self.get("PATH")?)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(program))
            .find(|path| is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(values: I) -> Self {
        Environment { values: values.into_iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }
}

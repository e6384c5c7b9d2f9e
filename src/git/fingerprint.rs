//! A digest of everything in the shared git folder that can make git run a program, or read
//! objects from elsewhere: a change since `loom init` stops Loom's own work-tree commands.

use std::io;
use std::path::Path;

use crate::base::fs::read_file;

/// Digest of `config`, `config.worktree`, `hooks/` (samples apart), `info/attributes`, and where
/// objects are borrowed from.
pub fn fingerprint(common: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut add = |name: &str, bytes: &[u8], mode: u32| {
        text.push_str(&format!("{name} {mode:o} {}\n", crate::base::text::sha256(bytes)));
    };
    for name in ["config", "config.worktree", "info/attributes", "objects/info/alternates"] {
        match read_file(&common.join(name)) {
            // A sandbox puts an empty file where none may be made; for git that is as good as none.
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => add(name, &bytes, 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut hooks = match fs_err::read_dir(common.join("hooks")) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(_) => Vec::new(),
    };
    hooks.sort_by_key(fs_err::DirEntry::file_name);
    for hook in hooks {
        let name = hook.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sample") {
            continue;
        }
        use std::os::unix::fs::PermissionsExt;
        let bytes = read_file(&hook.path()).unwrap_or_default();
        let mode = hook.metadata().map_or(0, |meta| meta.permissions().mode());
        add(&format!("hooks/{name}"), &bytes, mode);
    }
    Ok(crate::base::text::sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_hook_changes_the_fingerprint_and_a_sample_does_not() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("hooks")).unwrap();
        let before = fingerprint(dir.path()).unwrap();
        fs_err::write(dir.path().join("hooks/pre-commit.sample"), "x").unwrap();
        assert_eq!(fingerprint(dir.path()).unwrap(), before);
        fs_err::write(dir.path().join("config.worktree"), "").unwrap();
        assert_eq!(fingerprint(dir.path()).unwrap(), before);
        fs_err::create_dir_all(dir.path().join("objects/info")).unwrap();
        for name in ["hooks/post-checkout", "objects/info/alternates"] {
            fs_err::write(dir.path().join(name), "x").unwrap();
            assert_ne!(fingerprint(dir.path()).unwrap(), before);
            fs_err::remove_file(dir.path().join(name)).unwrap();
        }
    }
}

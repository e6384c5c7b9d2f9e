//! What a check may see of the operator: where their tools are and how these are
//! set up, as it was when the daemon started, before any session ran. Nothing of a
//! session; no program on `PATH` that appeared or changed since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::fs::remove_tree;
use crate::base::process::{NO_MAINTENANCE, git_settings};
use crate::base::text::sha256;

/// Variables of the operator that reach a check: where tools are and how they speak.
const KEPT: [&str; 61] = [
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LANGUAGE",
    "TZ",
    "TERM",
    "TMPDIR",
    "CI",
    "CC",
    "CXX",
    "AR",
    "LD",
    "CFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
    "LIBCLANG_PATH",
    "OPENSSL_DIR",
    "CMAKE_PREFIX_PATH",
    "RUSTFLAGS",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUSTUP_DIST_SERVER",
    "GOPATH",
    "GOROOT",
    "GOPROXY",
    "GOFLAGS",
    "GOMODCACHE",
    "JAVA_HOME",
    "MAVEN_HOME",
    "ANDROID_HOME",
    "NVM_DIR",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cache",
    "npm_config_registry",
    "VOLTA_HOME",
    "PYENV_ROOT",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONUSERBASE",
    "PIP_INDEX_URL",
    "PIP_CERT",
    "UV_INDEX_URL",
    "GEM_HOME",
    "RBENV_ROOT",
    "ASDF_DATA_DIR",
    "NUGET_PACKAGES",
    "DOTNET_ROOT",
    "PLAYWRIGHT_BROWSERS_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Variables that some tools only know in lower case, and one that is long gone elsewhere.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY"];

/// Where tools keep what they downloaded, below the operator's home: a check, whose home is
/// another one, is told so, unless the operator said something else.
const DOWNLOADS: [(&str, &str); 11] = [
    ("RUSTUP_HOME", ".rustup"),
    ("PYENV_ROOT", ".pyenv"),
    ("RBENV_ROOT", ".rbenv"),
    ("NVM_DIR", ".nvm"),
    ("VOLTA_HOME", ".volta"),
    ("ASDF_DATA_DIR", ".asdf"),
    ("GOMODCACHE", "go/pkg/mod"),
    ("PYTHONUSERBASE", ".local"),
    ("NUGET_PACKAGES", ".nuget/packages"),
    ("PLAYWRIGHT_BROWSERS_PATH", ".cache/ms-playwright"),
    ("npm_config_cache", ".npm"),
];

/// Folders of downloads that no variable names: linked into the home of the checks.
const LINKED: [&str; 3] = [".cargo/registry", ".cargo/git", ".m2/repository"];

/// Settings of tools: copied as they were when the daemon started.
const SETTINGS: [&str; 14] = [
    ".gitconfig",
    ".config/git/config",
    ".cargo/config.toml",
    ".cargo/config",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".config/pip/pip.conf",
    ".pip/pip.conf",
    ".config/uv/uv.toml",
    ".config/go/env",
    ".m2/settings.xml",
    ".gradle/gradle.properties",
    ".bundle/config",
];

/// Largest file of settings that is copied, in bytes.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;

/// The operator's environment, as recorded when the daemon started.
#[derive(Debug, Clone)]
pub struct Operator {
    home: PathBuf,
    cargo_home: PathBuf,
    variables: BTreeMap<String, String>,
    settings: Vec<(PathBuf, Vec<u8>)>,
    path: Vec<PathBuf>,
    programs: Programs,
}

impl Operator {
    /// Records what this process was started with. Folders on `PATH` that are relative or below
    /// one of `never` (worktrees, Loom's cache) are left out.
    pub fn record(never: &[&Path]) -> Operator {
        let known = KEPT.iter().chain(&PROXIES);
        let mut variables: BTreeMap<String, String> =
            known.filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
        for (name, place) in DOWNLOADS {
            let dir = home.join(place);
            if !variables.contains_key(name) && dir.is_dir() {
                variables.insert(name.to_owned(), dir.display().to_string());
            }
        }
        let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
        let real = |name: &str| match name.strip_prefix(".cargo/") {
            Some(rest) => cargo_home.join(rest),
            None => home.join(name),
        };
        let settings = SETTINGS.iter().filter_map(|name| {
            let path = real(name);
            let fits = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= SETTINGS_BYTES_MAX);
            Some((PathBuf::from(name), fits.then(|| fs_err::read(&path).ok())??))
        });
        let settings = settings.collect();
        let path: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .filter(|dir| dir.is_absolute() && !never.iter().any(|never| dir.starts_with(never)))
            .collect();
        let programs = Programs::of(&path);
        Operator { home, cargo_home, variables, settings, path, programs }
    }

    /// The environment of checks whose home is `home`, which is made as it has to be.
    pub fn prepare(&self, home: &Path) -> std::io::Result<Vec<(String, String)>> {
        fs_err::create_dir_all(home)?;
        for (name, content) in &self.settings {
            let path = home.join(name);
            if fs_err::read(&path).ok().as_ref() != Some(content) {
                fs_err::create_dir_all(path.parent().unwrap_or(home))?;
                crate::base::fs::write_atomic(&path, content)?;
            }
        }
        // What the checks of another stage have left there sets nobody's tools up.
        for name in SETTINGS.iter().filter(|name| !self.settings.iter().any(|(known, _)| known == Path::new(name))) {
            match fs_err::remove_file(home.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        for name in LINKED {
            let target = match name.strip_prefix(".cargo/") {
                Some(rest) => self.cargo_home.join(rest),
                None => self.home.join(name),
            };
            let link = home.join(name);
            if target.is_dir() && fs_err::read_link(&link).ok().as_ref() != Some(&target) {
                fs_err::create_dir_all(link.parent().unwrap_or(home))?;
                if link.is_dir() && !link.is_symlink() {
                    remove_tree(&link)?;
                } else if link.symlink_metadata().is_ok() {
                    fs_err::remove_file(&link)?;
                }
                fs_err::os::unix::fs::symlink(&target, &link)?;
            }
        }
        let mut environment = self.variables.clone();
        environment.insert("HOME".to_owned(), home.display().to_string());
        environment.insert("CARGO_HOME".to_owned(), home.join(".cargo").display().to_string());
        environment.insert("PATH".to_owned(), self.path_text());
        environment.insert("LOOM_HOST".to_owned(), "1".to_owned());
        // Its caches know a source by size and second: another stage's would be taken for this one's.
        environment.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned());
        environment.extend(git_settings(0, &[NO_MAINTENANCE]));
        Ok(environment.into_iter().collect())
    }

    fn path_text(&self) -> String {
        std::env::join_paths(&self.path).unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What evidence says about it: the names, and a digest of names and values.
    pub fn summary(&self) -> BTreeMap<String, String> {
        let mut out: BTreeMap<String, String> = self
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), sha256(value.as_bytes())[..16].to_owned()))
            .collect();
        out.insert("PATH".to_owned(), self.path_text());
        out
    }

    /// Digest of everything that a check sees of the operator.
    pub fn digest(&self) -> String {
        let mut all = serde_json::to_vec(&self.summary()).unwrap_or_default();
        for (path, content) in &self.settings {
            all.extend_from_slice(path.as_os_str().as_encoded_bytes());
            all.extend_from_slice(content);
        }
        sha256(&all)[..16].to_owned()
    }

    /// Programs on `PATH` that appeared, changed or went since the daemon started, with a digest of
    /// them all. None: nothing did.
    pub fn changed_programs(&self) -> Option<(String, Vec<String>)> {
        let now = Programs::of(&self.path);
        if now == self.programs {
            return None;
        }
        let changed = self.programs.differences(&now);
        (!changed.is_empty()).then(|| (now.digest(), changed))
    }
}

/// The programs in those folders of `PATH` that this user may write to, each name of a folder once:
/// two names may lead to one folder now and to two later.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Programs(Vec<Folder>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Folder {
    dir: PathBuf,
    programs: Arc<Found>,
}

type Found = BTreeMap<OsString, Identity>;

/// What cannot stay the same when a file is replaced or written to: nobody but the clock sets
/// the time of the last change of an inode.
type Identity = (u64, i64, u32, i64, u64);

impl Programs {
    fn of(path: &[PathBuf]) -> Programs {
        let (mut seen, mut known) = (BTreeSet::new(), HashMap::new());
        let is_new = |dir: &&PathBuf| seen.insert(dir.to_path_buf());
        let dirs = path.iter().filter(|dir| is_writable(dir)).filter(is_new);
        Programs(dirs.map(|dir| Folder { dir: dir.clone(), programs: programs_in(dir, &mut known) }).collect())
    }

    /// Names, at most a handful, each with what became of it.
    fn differences(&self, now: &Programs) -> Vec<String> {
        const SHOWN: usize = 8;
        let none = Found::new();
        let of = |programs: &'_ Programs, dir: &Path| programs.0.iter().position(|folder| folder.dir == dir);
        let mut found = Vec::new();
        for folder in &now.0 {
            let before = of(self, &folder.dir);
            let known = before.map_or(&none, |at| &self.0[at].programs);
            for (name, identity) in folder.programs.iter() {
                let what = match known.get(name) {
                    None if is_of_the_system(&folder.dir) && before.is_some() => continue,
                    None => "new",
                    Some(known) if known != identity => "changed",
                    Some(_) => continue,
                };
                found.push(format!("{} ({what})", folder.dir.join(name).display()));
            }
        }
        for folder in &self.0 {
            let now = of(now, &folder.dir).map_or(&none, |at| &now.0[at].programs);
            let gone = folder.programs.keys().filter(|name| !now.contains_key(*name));
            found.extend(gone.map(|name| format!("{} (gone)", folder.dir.join(name).display())));
        }
        found.truncate(SHOWN);
        found
    }

    fn digest(&self) -> String {
        sha256(format!("{:?}", self.0).as_bytes())
    }
}

/// Through links: what a link leads to is what runs. `known`: the folders that were read just now, by
/// device and inode; one that has two names is read once.
fn programs_in(dir: &Path, known: &mut HashMap<(u64, u64), Arc<Found>>) -> Arc<Found> {
    use rustix::fs::{Mode, OFlags};
    let folder = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let meta = folder.as_ref().ok().and_then(|folder| rustix::fs::fstat(folder).ok());
    let (Ok(folder), Some(meta)) = (folder, meta) else { return Arc::default() };
    let read = || Arc::new(programs_of(&folder));
    Arc::clone(known.entry((meta.st_dev, meta.st_ino)).or_insert_with(read))
}

fn programs_of(folder: &OwnedFd) -> Found {
    use rustix::fs::{AtFlags, FileType, statat};
    let mut programs = Found::new();
    let Ok(entries) = rustix::fs::Dir::read_from(folder) else { return programs };
    for entry in entries.flatten() {
        let Ok(meta) = statat(folder, entry.file_name(), AtFlags::empty()) else { continue };
        if FileType::from_raw_mode(meta.st_mode) == FileType::RegularFile && meta.st_mode & 0o111 != 0 {
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            programs.insert(name, (meta.st_ino, meta.st_size, meta.st_mode, meta.st_ctime, meta.st_ctime_nsec));
        }
    }
    programs
}

/// Whether a package manager puts programs here: a new one is what somebody installed, while one
/// that is not the same any more is told. Only root can write here at all.
fn is_of_the_system(dir: &Path) -> bool {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().any(|known| dir == Path::new(known))
}

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs_err::write(&path, text).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_program_that_appears_changes_or_goes_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = vec![dir.path().to_path_buf()];
        program(dir.path(), "a", "1");
        fs_err::write(dir.path().join("notes"), "not a program").unwrap();
        let before = Programs::of(&path);
        assert_eq!(before.0[0].programs.len(), 1);
        assert!(before.differences(&Programs::of(&path)).is_empty());
        program(dir.path(), "b", "1");
        let both = Programs::of(&path);
        assert_eq!(before.differences(&both), [format!("{} (new)", dir.path().join("b").display())]);
        assert_ne!(before.digest(), both.digest());
        fs_err::remove_file(dir.path().join("a")).unwrap();
        assert_eq!(both.differences(&Programs::of(&path)), [format!("{} (gone)", dir.path().join("a").display())]);
    }

    #[test]
    fn a_folder_that_stands_for_another_one_is_looked_at_by_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let [real, link] = ["usr-bin", "bin"].map(|name| dir.path().join(name));
        fs_err::create_dir(&real).unwrap();
        fs_err::os::unix::fs::symlink(&real, &link).unwrap();
        program(&real, "sh", "1");
        let path = vec![real, link.clone()];
        let before = Programs::of(&path);
        fs_err::remove_file(&link).unwrap();
        fs_err::create_dir(&link).unwrap();
        program(&link, "sh", "2");
        // Read once as long as it is one folder, and for itself from now on.
        assert!(Arc::ptr_eq(&before.0[0].programs, &before.0[1].programs));
        assert_eq!(before.differences(&Programs::of(&path)), [format!("{} (changed)", link.join("sh").display())]);
    }

    #[test]
    fn the_home_of_checks_has_the_recorded_settings_and_no_others() {
        let (real, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs_err::create_dir_all(real.path().join(".cargo/registry")).unwrap();
        let operator = Operator {
            home: real.path().to_path_buf(),
            cargo_home: real.path().join(".cargo"),
            variables: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
            settings: vec![(".npmrc".into(), b"registry=x".to_vec())],
            path: vec!["/usr/bin".into()],
            programs: Programs(Vec::new()),
        };
        for _ in 0..2 {
            let environment = operator.prepare(own.path()).unwrap();
            let of = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            assert_eq!(of("HOME"), own.path().to_str());
            assert_eq!((of("PATH"), of("LANG"), of("LOOM_SESSION")), (Some("/usr/bin"), Some("C"), None));
            assert_eq!(fs_err::read(own.path().join(".npmrc")).unwrap(), b"registry=x");
            assert_eq!(
                fs_err::read_link(own.path().join(".cargo/registry")).unwrap(),
                real.path().join(".cargo/registry")
            );
            fs_err::write(own.path().join(".npmrc"), "registry=evil").unwrap();
        }
    }
}

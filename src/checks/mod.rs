//! Checks: runs what the plan says must hold, in the proof checkout, each under
//! a host of its own, and judges what it did. Never believes anybody else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::text::{printable, sha256, tail};
use crate::host::control;
use crate::host::spec::{EnvChange, ExitRecord, HostFolder, HostSpec};
use crate::model::check::Check;
use crate::model::limits::{CHECK_TAIL_BYTES_MAX, CHECK_TIMEOUT, LOG_BYTES_MAX};
use crate::model::session::Exit;
use crate::model::stage::CheckResult;

/// What a check may see of the operator's environment: where tools are and how they
/// speak. Nothing of a session, nothing an agent could have set.
const ENVIRONMENT: [&str; 44] = [
    "PATH",
    "HOME",
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
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOPATH",
    "GOROOT",
    "GOCACHE",
    "JAVA_HOME",
    "MAVEN_HOME",
    "GRADLE_USER_HOME",
    "NVM_DIR",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cache",
    "PYENV_ROOT",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PIP_CACHE_DIR",
    "PIP_CERT",
    "GEM_HOME",
    "RBENV_ROOT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "DOTNET_ROOT",
    "CI",
];

/// Why a check could not be run at all; says nothing about the work.
#[derive(Debug, thiserror::Error)]
#[error("check `{command}` could not be run: {source}")]
pub struct CheckError {
    pub command: String,
    pub source: std::io::Error,
}

/// Where checks run and where they leave their evidence.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The folder the commands start in.
    pub cwd: &'a Path,
    /// `.work/`: evidence paths are relative to it.
    pub work: &'a Path,
    /// The folder of this proof's evidence.
    pub evidence: PathBuf,
}

/// Runs `checks` one after the other, all of them, and judges each.
pub fn run_all(checks: &[Check], place: &Place) -> Result<Vec<CheckResult>, CheckError> {
    checks
        .iter()
        .enumerate()
        .map(|(n, check)| {
            run_one(check, &place.evidence.join(format!("{:03}", n + 1)), place)
                .map_err(|source| CheckError { command: check.command.clone(), source })
        })
        .collect()
}

fn run_one(check: &Check, dir: &Path, place: &Place) -> std::io::Result<CheckResult> {
    fs_err::create_dir_all(dir)?;
    let spec = HostSpec {
        argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), check.command.clone()],
        cwd: place.cwd.to_path_buf(),
        env: vec![EnvChange::KeepOnly { names: ENVIRONMENT.iter().map(|name| (*name).to_owned()).collect() }],
        terminal: None,
        timeout_ms: duration_ms(check.timeout_secs.map_or(CHECK_TIMEOUT, Duration::from_secs)),
        log_bytes_max: LOG_BYTES_MAX,
        ends_with_daemon: true,
        attach_socket: None,
        spool: None,
    };
    let lifeline = control::spawn(dir, &spec)?.release()?;
    let record = control::wait_end(dir)?;
    drop(lifeline);
    if record.exit == Exit::Lost {
        // Somebody killed its host: that says nothing about the work.
        return Err(std::io::Error::other("its host was killed"));
    }
    let folder = HostFolder::new(dir);
    let stdout = read_output(&folder.log())?;
    let stderr = read_output(&folder.error_log())?;
    Ok(judge(check, &record, &stdout, &stderr, &relative(dir, place.work)))
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn relative(dir: &Path, work: &Path) -> String {
    dir.strip_prefix(work).unwrap_or(dir).display().to_string()
}

fn read_output(path: &Path) -> std::io::Result<String> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Whether the check did what it must do. Pure.
fn judge(check: &Check, record: &ExitRecord, stdout: &str, stderr: &str, evidence: &str) -> CheckResult {
    let why = unmet(check, record, stdout, stderr);
    let both = if stderr.is_empty() { stdout.to_owned() } else { format!("{stdout}{stderr}") };
    let took = record.started_at.map_or(0, |start| record.ended_at.as_millisecond() - start.as_millisecond());
    CheckResult {
        command: check.command.clone(),
        passed: why.is_none(),
        why,
        exit: match record.exit {
            Exit::Code { code } => Some(code),
            _ => None,
        },
        duration_ms: u64::try_from(took).unwrap_or(0),
        tail: printable(tail(&both, CHECK_TAIL_BYTES_MAX)),
        output_sha256: sha256(both.as_bytes()),
        evidence: evidence.to_owned(),
    }
}

fn unmet(check: &Check, record: &ExitRecord, stdout: &str, stderr: &str) -> Option<String> {
    match record.exit {
        Exit::Code { code } if code == check.exit_code => {}
        Exit::Code { code: 127 } => {
            return Some("exit status 127: a program it calls is not installed or not on PATH".to_owned());
        }
        Exit::Code { code } => return Some(format!("exit status {code}, expected {}", check.exit_code)),
        Exit::TimedOut => {
            let limit = check.timeout_secs.unwrap_or(CHECK_TIMEOUT.as_secs());
            return Some(format!("it did not end within {limit} s"));
        }
        other => return Some(format!("it was ended by {other}")),
    }
    if let Some(text) = check.stdout_contains.iter().find(|text| !stdout.contains(text.as_str())) {
        return Some(format!("standard output does not contain `{text}`"));
    }
    if let Some(text) = check.stdout_not_contains.iter().find(|text| stdout.contains(text.as_str())) {
        return Some(format!("standard output contains `{text}`"));
    }
    if let Some(text) = check.stderr_contains.iter().find(|text| !stderr.contains(text.as_str())) {
        return Some(format!("standard error does not contain `{text}`"));
    }
    (check.stderr_empty && !stderr.is_empty()).then(|| "standard error is not empty".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(check: Check, exit: Exit, stdout: &str, stderr: &str) -> Option<String> {
        let record = ExitRecord {
            exit,
            error: None,
            started_at: None,
            ended_at: jiff::Timestamp::UNIX_EPOCH,
            leftovers: Vec::new(),
        };
        judge(&check, &record, stdout, stderr, "x").why
    }

    #[test]
    fn a_check_passes_only_when_everything_holds() {
        let check = || Check::command("x");
        assert_eq!(judged(check(), Exit::Code { code: 0 }, "", ""), None);
        assert_eq!(judged(Check { exit_code: 3, ..check() }, Exit::Code { code: 3 }, "", ""), None);
        for (check, exit, out, err) in [
            (check(), Exit::Code { code: 1 }, "", ""),
            (check(), Exit::Lost, "", ""),
            (check(), Exit::TimedOut, "", ""),
            (check(), Exit::UnixSignal { signal: 9 }, "", ""),
            (check(), Exit::NeverStarted, "", ""),
            (Check { stdout_contains: vec!["ok".into()], ..check() }, Exit::Code { code: 0 }, "no", ""),
            (Check { stdout_not_contains: vec!["bad".into()], ..check() }, Exit::Code { code: 0 }, "bad", ""),
            (Check { stderr_contains: vec!["ok".into()], ..check() }, Exit::Code { code: 0 }, "ok", ""),
            (Check { stderr_empty: true, ..check() }, Exit::Code { code: 0 }, "", "x"),
        ] {
            assert!(judged(check.clone(), exit, out, err).is_some(), "{check:?} passed with {exit:?}");
        }
    }
}

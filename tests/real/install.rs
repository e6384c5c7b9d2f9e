//! Gets the real client with npm into the project's own cache folder, once.
//! A client that cannot be had fails the tests: a skipped proof proves nothing.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use loom::base::process::command;

/// The version whose behaviour these tests know.
pub const VERSION: &str = "2.1.197";

/// The folder that holds a program called `claude`, of exactly [`VERSION`].
#[track_caller]
pub fn bin_dir() -> &'static Path {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(ensure) {
        Ok(dir) => dir,
        Err(why) => panic!("the real client is not there, and these tests are nothing without it: {why}"),
    }
}

fn ensure() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(".cache/claude-code-{VERSION}"));
    fs_err::create_dir_all(&dir).map_err(|error| error.to_string())?;
    // Test processes run side by side: one installs, the others wait for it.
    let lock = fs_err::File::create(dir.join("install.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if let Some(bin) = installed(&dir) {
        return Ok(bin);
    }
    npm_install(&dir)?;
    installed(&dir).ok_or_else(|| format!("npm succeeded, but no `claude` {VERSION} runs below {}", dir.display()))
}

/// Where the registry is, and how it is reached, is the user's npm configuration.
fn npm_install(dir: &Path) -> Result<(), String> {
    let manifest = format!(
        "{{\"name\":\"loom-test-client\",\"private\":true,\"dependencies\":{{\"@anthropic-ai/claude-code\":\"{VERSION}\"}}}}\n"
    );
    fs_err::write(dir.join("package.json"), manifest).map_err(|error| error.to_string())?;
    let output = command("npm")
        .args(["install", "--no-audit", "--no-fund", "--include=optional"])
        .current_dir(dir)
        .output()
        .map_err(|error| format!("cannot run npm: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`npm install` ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// npm's link, or the native package itself where install scripts are switched off.
fn installed(dir: &Path) -> Option<PathBuf> {
    let modules = dir.join("node_modules");
    let native = fs_err::read_dir(modules.join("@anthropic-ai")).ok()?.flatten().map(|entry| entry.path());
    std::iter::once(modules.join(".bin")).chain(native).find(|bin| is_wanted(&bin.join("claude")))
}

fn is_wanted(program: &Path) -> bool {
    let home = std::env::temp_dir();
    program.is_file()
        && command(program)
            .arg("--version")
            .env("HOME", home)
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with(&format!("{VERSION} ")))
}

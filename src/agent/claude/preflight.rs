//! Would a session of Claude Code come up without asking? Read from the
//! client's own files, without starting it: a client that shows a first-run
//! dialog to nobody looks exactly like one that thinks for a long time.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{PROGRAM, config_dir};
use crate::agent::Unfit;
use crate::agent::environment::Environment;
use crate::model::plan::AgentMode;
use crate::model::stage::BlockCode;

/// Says what a person has to do first, if anything. `project` is the user's checkout.
pub fn check(environment: &Environment, mode: AgentMode, project: &Path) -> Result<(), Unfit> {
    if environment.find_program(PROGRAM).is_none() {
        let text = "`claude` is not in PATH: install Claude Code \
                    (`npm install -g @anthropic-ai/claude-code`), then `loom run`";
        return Err(Unfit { code: BlockCode::AgentMissing, text: text.to_owned() });
    }
    let config = global_config(environment);
    if mode == AgentMode::Interactive && config["hasCompletedOnboarding"] != true {
        let text = "Claude Code has not been set up for this user: run `claude` once and answer its \
                    questions, then `loom run`";
        return Err(Unfit { code: BlockCode::NotOnboarded, text: text.to_owned() });
    }
    let asks = mode == AgentMode::Interactive && !has_answered_imports(&config, project);
    if asks && let Some(import) = external_import(environment, project) {
        let text = format!(
            "Claude Code will ask whether CLAUDE.md may take in `{}`: run `claude` once in `{}` and answer it, \
             then `loom run`",
            import.display(),
            project.display()
        );
        return Err(Unfit { code: BlockCode::NotOnboarded, text });
    }
    if !has_credentials(environment, &config) {
        let text = "Claude Code is not logged in: run `claude`, then `/login` in it (or set \
                    ANTHROPIC_API_KEY before `loom run`), then `loom run`";
        return Err(Unfit { code: BlockCode::NotLoggedIn, text: text.to_owned() });
    }
    Ok(())
}

/// The answer is kept for the user's checkout and counts for its worktrees.
fn has_answered_imports(config: &Value, project: &Path) -> bool {
    let project = &config["projects"][project.to_string_lossy().as_ref()];
    project["hasClaudeMdExternalIncludesApproved"] == true || project["hasClaudeMdExternalIncludesWarningShown"] == true
}

/// A file outside the project that its instructions take in with `@path`.
fn external_import(environment: &Environment, project: &Path) -> Option<PathBuf> {
    let sources = ["CLAUDE.md", ".claude/CLAUDE.md"].map(|name| project.join(name));
    sources.iter().find_map(|source| {
        let text = fs_err::read_to_string(source).ok()?;
        let mut is_code = false;
        let lines = text.lines().filter(|line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        });
        let imports = lines.flat_map(str::split_whitespace).filter_map(|word| word.strip_prefix('@'));
        imports.filter_map(|import| imported(environment, source, import)).find(|path| !path.starts_with(project))
    })
}

/// The file behind an import, when there is one.
fn imported(environment: &Environment, source: &Path, import: &str) -> Option<PathBuf> {
    let path = match import.strip_prefix("~/") {
        Some(rest) => environment.home()?.join(rest),
        None => source.parent()?.join(import),
    };
    path.is_file().then(|| path.canonicalize().ok())?
}

/// Variables that hold a credential.
const CREDENTIALS: [&str; 3] = ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"];
/// Switches to a cloud that has credentials of its own.
const CLOUDS: [&str; 3] = ["CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"];
/// Where an administrator puts settings for everybody.
const MANAGED_SETTINGS: [&str; 2] =
    ["/etc/claude-code/managed-settings.json", "/Library/Application Support/ClaudeCode/managed-settings.json"];

fn has_credentials(environment: &Environment, config: &Value) -> bool {
    if CREDENTIALS.iter().any(|name| environment.has(name)) || CLOUDS.iter().any(|name| environment.is_on(name)) {
        return true;
    }
    // Where the secret itself is in a keychain, the account is all there is to see.
    if config["oauthAccount"].is_object() || config["primaryApiKey"].is_string() {
        return true;
    }
    if MANAGED_SETTINGS.iter().any(|path| settings_give_credentials(Path::new(path))) {
        return true;
    }
    let Some(dir) = config_dir(environment) else { return false };
    settings_give_credentials(&dir.join("settings.json"))
        || std::fs::metadata(dir.join(".credentials.json")).is_ok_and(|meta| meta.len() > 2)
}

fn settings_give_credentials(path: &Path) -> bool {
    let settings = read_json(path);
    let helper = settings["apiKeyHelper"].as_str().is_some_and(|helper| !helper.is_empty());
    let env = &settings["env"];
    helper || CREDENTIALS.iter().chain(&CLOUDS).any(|name| env[*name].as_str().is_some_and(|value| !value.is_empty()))
}

/// The client's global state file; null when there is none or it cannot be read.
pub(super) fn global_config(environment: &Environment) -> Value {
    let dir = match environment.get("CLAUDE_CONFIG_DIR") {
        Some(dir) if !dir.is_empty() => Some(dir.into()),
        _ => environment.home(),
    };
    dir.map_or(Value::Null, |dir| read_json(&dir.join(".claude.json")))
}

fn read_json(path: &Path) -> Value {
    fs_err::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(files: &[(&str, &str)]) -> Home {
            use std::os::unix::fs::PermissionsExt;
            let dir = tempfile::tempdir().unwrap();
            for (path, content) in files {
                let path = dir.path().join(path);
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                fs_err::write(&path, content).unwrap();
                fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            Home(dir)
        }
        fn environment(&self, more: &[(&str, &str)]) -> Environment {
            let home = self.0.path().display().to_string();
            let bin = format!("{home}/bin");
            [("HOME", home.as_str()), ("PATH", bin.as_str())].into_iter().chain(more.iter().copied()).collect()
        }
    }

    #[track_caller]
    fn check_case(files: &[(&str, &str)], env: &[(&str, &str)], mode: AgentMode, expected: Option<BlockCode>) {
        let home = Home::new(files);
        let project = home.0.path().join("project");
        assert_eq!(check(&home.environment(env), mode, &project).err().map(|unfit| unfit.code), expected);
    }

    const CLAUDE: (&str, &str) = ("bin/claude", "#!/bin/sh\n");
    const ONBOARDED: (&str, &str) = (".claude.json", r#"{"hasCompletedOnboarding":true}"#);
    const KEY: (&str, &str) = ("ANTHROPIC_API_KEY", "k");
    use AgentMode::{Headless, Interactive};

    #[test]
    fn a_missing_program_is_told_first() {
        check_case(&[ONBOARDED], &[KEY], Interactive, Some(BlockCode::AgentMissing));
    }

    #[test]
    fn only_an_interactive_session_needs_the_first_run() {
        check_case(&[CLAUDE], &[KEY], Interactive, Some(BlockCode::NotOnboarded));
        check_case(&[CLAUDE], &[KEY], Headless, None);
        check_case(&[CLAUDE, ONBOARDED], &[KEY], Interactive, None);
        check_case(&[CLAUDE, (".claude.json", "{")], &[KEY], Interactive, Some(BlockCode::NotOnboarded));
        let elsewhere = Home::new(&[ONBOARDED]);
        let dir = elsewhere.0.path().display().to_string();
        check_case(&[CLAUDE], &[KEY, ("CLAUDE_CONFIG_DIR", &dir)], Interactive, None);
    }

    #[test]
    fn any_source_of_credentials_counts() {
        check_case(&[CLAUDE, ONBOARDED], &[], Interactive, Some(BlockCode::NotLoggedIn));
        check_case(&[CLAUDE, ONBOARDED], &[("ANTHROPIC_API_KEY", "")], Interactive, Some(BlockCode::NotLoggedIn));
        check_case(&[CLAUDE], &[], Headless, Some(BlockCode::NotLoggedIn));
        check_case(&[CLAUDE], &[("CLAUDE_CODE_OAUTH_TOKEN", "t")], Headless, None);
        check_case(&[CLAUDE], &[("CLAUDE_CODE_USE_BEDROCK", "1")], Headless, None);
        check_case(&[CLAUDE, (".claude/.credentials.json", r#"{"claudeAiOauth":{}}"#)], &[], Headless, None);
        check_case(&[CLAUDE, (".claude/settings.json", r#"{"apiKeyHelper":"x"}"#)], &[], Headless, None);
        check_case(&[CLAUDE, (".claude.json", r#"{"oauthAccount":{"emailAddress":"a"}}"#)], &[], Headless, None);
    }

    #[test]
    fn instructions_from_elsewhere_need_an_answer() {
        let project = |text| ("project/CLAUDE.md", text);
        let outside = ("notes.md", "x");
        let asked = Some(BlockCode::NotOnboarded);
        check_case(&[CLAUDE, ONBOARDED, outside, project("see @~/notes.md\n")], &[KEY], Interactive, asked);
        check_case(&[CLAUDE, ONBOARDED, outside, project("see @../notes.md\n")], &[KEY], Interactive, asked);
        check_case(&[CLAUDE, ONBOARDED, outside, project("see @~/notes.md\n")], &[KEY], Headless, None);
        check_case(&[CLAUDE, ONBOARDED, project("see @~/none.md and a@b.c\n")], &[KEY], Interactive, None);
        check_case(&[CLAUDE, ONBOARDED, outside, project("```\n@~/notes.md\n```\n")], &[KEY], Interactive, None);
        let own = ("project/own.md", "x");
        check_case(&[CLAUDE, ONBOARDED, own, project("@own.md @./own.md\n")], &[KEY], Interactive, None);
    }

    #[test]
    fn a_key_that_the_user_refused_stays_refused() {
        use super::super::KeyUse;
        let key = ("ANTHROPIC_API_KEY", "sk-ant-0123456789abcdefghij");
        let of = |config: &str| KeyUse::of(&Home::new(&[(".claude.json", config)]).environment(&[key]));
        assert_eq!(of("{}"), KeyUse::Renamed);
        assert_eq!(of(r#"{"customApiKeyResponses":{"approved":["0123456789abcdefghij"]}}"#), KeyUse::Kept);
        assert_eq!(of(r#"{"customApiKeyResponses":{"rejected":["0123456789abcdefghij"]}}"#), KeyUse::Withheld);
    }
}

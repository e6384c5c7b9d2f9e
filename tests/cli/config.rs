//! The operator's settings: where they are, which one counts, and what a wrong one does.

use crate::env::{Env, commit, kill, plan, plan_with, stage};

/// Writes the user's own file.
pub(crate) fn user_file(env: &Env, text: &str) {
    let folder = env.path().join("home/.config/loom");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

/// Fails in its first session, and works in its second.
fn second_time() -> String {
    format!("test -e @OUT@/again || {{ touch @OUT@/again; exit 1; }}\n{}", commit("a", "a"))
}

#[test]
fn a_setting_of_the_plan_counts_before_the_projects_and_that_before_the_users() {
    let mut env = Env::new();
    let of = |env: &Env, key: &str| {
        let all = env.loom(&["config", "--json"]).ok().json();
        let row = all["settings"].as_array().unwrap().iter().find(|row| row["key"] == key).unwrap().clone();
        format!("{} {}", row["value"].as_str().unwrap(), row["from"].as_str().unwrap())
    };
    assert_eq!((of(&env, "max_parallel"), of(&env, "on_limit")), ("4 default".to_owned(), "resume default".to_owned()));
    user_file(
        &env,
        "max_parallel = 2\non_limit = \"ask\"\n[notify]\nwebhook = \"https://me:secret@example.org/key/123?x=1\"\n",
    );
    assert_eq!((of(&env, "max_parallel"), of(&env, "on_limit")), ("2 user".to_owned(), "ask user".to_owned()));
    env.write(".work/config.toml", "max_parallel = 3\n");
    assert_eq!((of(&env, "max_parallel"), of(&env, "on_limit")), ("3 project".to_owned(), "ask user".to_owned()));
    env.load(&plan_with("max_parallel: 5", &[stage("a")]));
    assert_eq!(of(&env, "max_parallel"), "5 plan");
    env.set("LOOM_TERMINAL", "tmux");
    assert_eq!(of(&env, "terminal"), "tmux environment");
    assert_eq!(of(&env, "notify.webhook"), "https://example.org/… user", "what may be a password is shown");

    let shown = env
        .loom(&["config"])
        .ok()
        .has("notify.webhook")
        .has(".config/loom/config.toml:4")
        .has("They are read by `loom run`");
    assert!(!shown.stdout.contains("secret") && !shown.stdout.contains("123"), "{shown}");
    let unset = env.path().join("elsewhere");
    env.set("XDG_CONFIG_HOME", unset.to_str().unwrap());
    assert_eq!(of(&env, "on_limit"), "resume default");
}

#[test]
fn a_cap_of_the_operator_holds_where_the_plan_has_none() {
    let env = Env::new();
    user_file(&env, "[stage_budget]\nsessions = 1\n");
    env.load(&plan(&[stage("a").run(second_time())]));
    env.run().ends(5).has("stage `a` has used up its budget: 1 of 1 session");
    // The project's file says otherwise from the next run on, and the question is settled.
    env.write(".work/config.toml", "[stage_budget]\nsessions = 2\n");
    env.finish();
    assert_eq!(env.state(), "a merged");
}

#[test]
fn a_wrong_file_refuses_the_run_and_says_every_line() {
    let env = Env::of(&[stage("a")]);
    user_file(&env, "max_paralel = 3\n[notify]\nbell = \"loud\"\n");
    for args in [&["run"][..], &["run", "--foreground"], &["config"]] {
        let out = env.loom(args).ends(1).has("home/.config/loom/config.toml cannot be used");
        let out = out.has("line 1: there is no setting `max_paralel` (did you mean `max_parallel`?)");
        out.has("line 3: `notify.bell` must be `true` or `false`, not the text `loud`")
            .has("Hint: mend the file, then: loom config");
    }
    assert!(!env.is_locked());
    user_file(&env, "max_parallel = \n");
    env.loom(&["run"]).ends(1).has("line 1: ");
    user_file(&env, "");
    env.write(".work/config.toml", "[notify]\ncommand = \"touch /tmp/owned\"\n");
    env.loom(&["run"])
        .ends(1)
        .has("`notify.command` counts only in your own file")
        .has("a project never says what runs");
    env.write(".work/config.toml", "");
    env.finish();
}

#[test]
fn a_file_that_goes_wrong_meanwhile_stops_no_daemon() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan_with("max_parallel: 1", &[stage("a").first("echo x > @OUT@/here; read go < @OUT@/go"), stage("b")]));
    user_file(&env, "on_limit = \"ask\"\n");
    env.loom(&["run"]).ok();
    env.until_said("here", "x");
    user_file(&env, "this is no toml");
    let _ = env.loom(&["status"]).ok();
    // Nor one that the keeper starts again: it goes on with what counted before.
    let before = env.daemon_pid();
    kill(before);
    env.until("another daemon runs", || {
        env.status()["daemon"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(before))
    });
    env.go("go");
    env.settle();
    assert_eq!(env.state(), "a merged, b merged");
    assert!(env.daemon_log().contains("goes on with the settings it had"), "{}", env.daemon_log());
    let started: Vec<String> = env
        .read(".work/journal.jsonl")
        .lines()
        .filter(|line| line.contains("daemon-started"))
        .map(str::to_owned)
        .collect();
    assert_eq!(started.len(), 2);
    assert!(started.iter().all(|line| line.contains(r#""on_limit":"ask""#)), "{started:?}");
}

//! Sessions that hang, at each point where one can; and sessions that are only silent.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::api::{Api, Script, Turn};
use crate::deadline::wait_for;
use crate::plans::{HEADLESS, ONE, TERMINAL, commit, diligent, lane, write};
use crate::project::Project;
use crate::trouble::{Tmux, at_the_gate, attach_line, wait_until_at_gate};

/// Ten minutes of silence, here: a session without an answer is ended after three times this.
const IDLE_MS: &str = "5000";

fn detail(row: &Value) -> &str {
    row["detail"].as_str().unwrap_or_default()
}

/// Every time that the session was looked at, and whether it was suspicious then.
fn looks(project: &Project) -> Vec<bool> {
    let facts = project.facts();
    let looks = facts.iter().filter(|fact| fact["change"]["change"] == "looked");
    looks.map(|fact| !fact["change"]["suspect"].is_null()).collect()
}

fn wait_for_looks(project: &Project, more: usize) {
    let before = looks(project).len();
    wait_for("somebody looks", || (looks(project).len() >= before + more).then_some(()));
}

/// The model says nothing after `before`: the session is suspected, shown so, and ended; and the
/// same conversation goes on.
fn hangs(settings: &str, before: Vec<Turn>) {
    let silent_at = before.len();
    let turns = [before, vec![Turn::Hang], diligent("a.txt", "alpha\n")].concat();
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let mut project = Project::new(&api);
    project.set_env("LOOM_WATCH_MS", IDLE_MS);
    project.init(settings, ONE);
    project.start();
    api.wait_for("that is not answered", |seen| seen.lane == "api" && seen.turn == silent_at);
    let row = project.wait_for_stage("api", "suspected", |row| detail(row).contains("may hang: quiet for"));
    assert!(detail(&row).contains("ends at") && detail(&row).contains("`loom sessions kill api.1`"), "{row}");
    let look = if settings == HEADLESS { "loom logs api" } else { "loom attach api" };
    assert_eq!(row["next"], look, "{row}");
    project.run_to_the_end();

    assert_eq!(project.ends(), ["hung", "submitted"], "{}", project.story());
    let failed = project.facts().into_iter().find(|fact| fact["change"]["change"] == "failed").unwrap();
    assert!(failed["change"]["failure"]["text"].as_str().unwrap().contains("the session hung"), "{failed}");
    if silent_at > 0 {
        let requests = api.main_requests();
        assert!(requests.iter().all(|seen| seen.session == requests[0].session), "another conversation");
        assert_eq!(project.git(&["show", "main:half.txt"]), "half\n", "a commit was lost");
    }
}

/// Before its first word, and in the middle. All at once: they mostly wait.
#[test]
fn a_model_that_says_nothing_is_noticed() {
    let begun = || vec![write("half.txt", "half\n"), commit("half.txt")];
    std::thread::scope(|scope| {
        for settings in [TERMINAL, HEADLESS] {
            scope.spawn(move || hangs(settings, Vec::new()));
            scope.spawn(move || hangs(settings, begun()));
        }
    });
}

#[test]
fn other_silences_are_told_apart() {
    std::thread::scope(|scope| {
        scope.spawn(silence_after_the_end_of_a_turn);
        scope.spawn(more_wall_time_than_the_stage_has);
        scope.spawn(a_tool_that_is_silent_for_long_is_left_alone);
        scope.spawn(a_stopped_client_is_left_alone);
    });
}

/// Interrupted with Escape the turn is over, and no hook says so. Whoever did it has time to think.
fn silence_after_the_end_of_a_turn() {
    let turns = [
        vec![write("half.txt", "half\n"), commit("half.txt"), Turn::text("So far.").held("never")],
        diligent("a.txt", "alpha\n"),
    ];
    let api = Api::start(Script::new().lane(lane("api", turns.concat())));
    let mut project = Project::new(&api);
    project.set_env("LOOM_WATCH_MS", "3000");
    project.init(TERMINAL, ONE);
    project.start();
    api.wait_for("in the last turn", |seen| seen.lane == "api" && seen.turn == 2);
    let tmux = Tmux::new(&project, &attach_line());
    tmux.wait_for("You carry out stage `api`");
    wait_for("the interruption", || {
        tmux.keys(&["Escape"]);
        std::thread::park_timeout(Duration::from_millis(500));
        tmux.screen().contains("Interrupted").then_some(())
    });
    api.release("never");
    wait_for_looks(&project, 4);
    let while_attached = looks(&project).len();
    assert_eq!(project.ends(), Vec::<String>::new(), "{}", project.story());
    tmux.keys(&["C-\\"]);
    tmux.wait_for("left 0");
    drop(tmux);
    project.run_to_the_end();
    assert_eq!(project.ends(), ["hung", "submitted"], "{}", project.story());
    let suspected = looks(&project).iter().rposition(|suspicious| *suspicious).unwrap();
    assert!(suspected > while_attached, "suspected under a person's hands\n{}", project.story());
    let failed = project.facts().into_iter().find(|fact| fact["change"]["change"] == "failed").unwrap();
    assert!(failed["change"]["failure"]["text"].as_str().unwrap().contains("its turn is over"), "{failed}");
    assert_eq!(project.git(&["show", "main:half.txt"]), "half\n", "a commit was lost");
}

/// The wall time of a session is its stage's `timeout`, whatever it does.
fn more_wall_time_than_the_stage_has() {
    let turns = [vec![write("half.txt", "half\n"), commit("half.txt"), Turn::Hang], diligent("a.txt", "alpha\n")];
    let api = Api::start(Script::new().lane(lane("api", turns.concat())));
    let project = Project::new(&api);
    project.init(HEADLESS, &ONE.replace("max_retries: 1", "max_retries: 1, timeout: 12s"));
    project.run_to_the_end();
    assert_eq!(project.ends(), ["timed-out", "submitted"], "{}", project.story());
    assert_eq!(project.git(&["show", "main:half.txt"]), "half\n", "a commit was lost");
}

/// A build that says nothing for longer than every limit is at work.
fn a_tool_that_is_silent_for_long_is_left_alone() {
    let (_api, mut project) = at_the_gate("");
    project.set_env("LOOM_WATCH_MS", "3000");
    project.start();
    wait_until_at_gate(&project);
    wait_for_looks(&project, 2);
    let before = looks(&project).len();
    wait_for_looks(&project, 8);
    assert!(looks(&project)[before..].iter().all(|suspicious| !suspicious), "{}", project.story());
    project.open_gate();
    project.run_to_the_end();
    assert_eq!(project.ends(), ["submitted"], "{}", project.story());
}

/// Whoever stops a client wants to go on with it.
fn a_stopped_client_is_left_alone() {
    let turns = [vec![write("half.txt", "half\n"), commit("half.txt"), Turn::Hang], diligent("a.txt", "alpha\n")];
    let api = Api::start(Script::new().lane(lane("api", turns.concat())));
    let mut project = Project::new(&api);
    project.set_env("LOOM_WATCH_MS", "3000");
    project.init(HEADLESS, ONE);
    project.start();
    api.wait_for("that is not answered", |seen| seen.lane == "api" && seen.turn == 2);
    let client = wait_for("the client", || project.client_of("api"));
    project.kill(client, Signal::STOP);
    wait_for_looks(&project, 2);
    let stopped = looks(&project).len();
    wait_for_looks(&project, 8);
    assert!(looks(&project)[stopped..].iter().all(|suspicious| !suspicious), "{}", project.story());
    assert_eq!(project.ends(), Vec::<String>::new());
    project.kill(client, Signal::CONT);
    project.run_to_the_end();
    assert_eq!(project.ends(), ["hung", "submitted"], "{}", project.story());
}

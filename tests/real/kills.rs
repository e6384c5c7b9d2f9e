//! `kill -9` of a client at ten points of its work: nothing that was committed is lost, nothing is
//! left running, and the stage lands.

use rustix::process::Signal;

use crate::api::{Api, Lane, Script, Turn, When};
use crate::deadline::wait_for;
use crate::plans::{HEADLESS, commit, complete, lane, new_gate, write};
use crate::project::Project;

/// Where the client is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    BeforeTheFirstByte,
    TheStreamOfAText,
    AWrite,
    ABash,
    TheHookBeforeATool,
    ACommitThatIsNotSubmitted,
    TheSubmission,
    TheHookAtTheEndOfATurn,
    TheProof,
    TheHandoff,
}

const ALL: [At; 10] = [
    At::BeforeTheFirstByte,
    At::TheStreamOfAText,
    At::AWrite,
    At::ABash,
    At::TheHookBeforeATool,
    At::ACommitThatIsNotSubmitted,
    At::TheSubmission,
    At::TheHookAtTheEndOfATurn,
    At::TheProof,
    At::TheHandoff,
];

/// Its acceptance waits at a gate in the first proof of the points that need it.
fn stage(gate: Option<(&str, &str)>) -> String {
    let waits = gate.map_or(String::new(), |(gate, once)| {
        format!("if grep -q alpha a.txt && mkdir {once}; then read go < {gate}; fi; ")
    });
    format!(
        "- {{id: api, name: \"Make a\", description: \"Write a.txt.\", \
         acceptance: [\"{waits}grep -q alpha a.txt\"], max_retries: 2}}"
    )
}

/// What the client does until it is killed; the last turn is the one at the point.
fn until_killed(at: At, gate: &str) -> Vec<Turn> {
    let begun = vec![write("half.txt", "half\n"), commit("half.txt")];
    let done = || vec![write("a.txt", "alpha\n"), commit("a.txt")];
    let rest = match at {
        // Killed before it wrote its transcript, it begins again, with the next turn.
        At::BeforeTheFirstByte => return [vec![Turn::text("Never heard.").held("killed")], finishes()].concat(),
        At::TheStreamOfAText => vec![Turn::Stall],
        At::AWrite => vec![write("a.txt", "alp\n").held("write")],
        At::ABash => vec![Turn::bash(&format!("read go < {gate}"))],
        // A hook asks the daemon when the conversation has become much longer.
        At::TheHookBeforeATool => {
            let long = Turn::bash("git log --oneline").tokens(110_000);
            vec![long.clone(), long, Turn::bash("echo hooked").held("the daemon is stopped")]
        }
        At::ACommitThatIsNotSubmitted => [done(), vec![Turn::Hang]].concat(),
        At::TheSubmission => [done(), vec![complete()]].concat(),
        At::TheHookAtTheEndOfATurn => [done(), vec![Turn::text("Done.").held("the daemon is stopped")]].concat(),
        At::TheProof => {
            let unattended = Turn::bash("(setsid loom stage complete {{stage}} >/dev/null 2>&1 &); echo submitted");
            [done(), vec![unattended, Turn::Hang]].concat()
        }
        At::TheHandoff => {
            // Of its own accord: where its context is full, Loom ends the session itself.
            vec![Turn::bash(&format!("loom handoff --status 'half' --next 'the rest'; read go < {gate}"))]
        }
    };
    [begun, rest].concat()
}

fn finishes() -> Vec<Turn> {
    let finish = "echo half > half.txt; echo alpha > a.txt; git add half.txt a.txt; \
                  git diff --cached --quiet || git commit -qm Finish; git status --short";
    vec![Turn::bash(finish), complete(), Turn::text("Done.")]
}

/// Waits until the client is at the point, and kills it there.
fn kill_at(at: At, project: &Project, api: &Api, turns: usize, gate: &str) {
    let asked = |turn: usize| {
        api.wait_for("at the point", |seen| seen.lane == "api" && seen.turn == turn);
    };
    let runs = |what: &str| {
        wait_for(what, || project.processes().iter().any(|(_, line)| line.contains(what)).then_some(()));
    };
    let client = || wait_for("the client", || project.client_of("api"));
    let last = if at == At::BeforeTheFirstByte { 0 } else { turns - 1 };
    match at {
        At::TheSubmission | At::TheProof => {
            asked(last);
            let client = client();
            project.wait_for_stage("api", "being proven", |row| row["detail"] == "merging and proving");
            project.kill(client, Signal::KILL);
        }
        At::TheHandoff => {
            asked(last);
            let client = client();
            let handoff = project.root().join(".work/handoffs/api-001.md");
            wait_for("the handoff", || handoff.exists().then_some(()));
            project.kill(client, Signal::KILL);
        }
        At::ABash => {
            asked(last);
            runs(&format!("read go < {gate}"));
            project.kill(client(), Signal::KILL);
        }
        At::AWrite => {
            asked(last);
            let (client, file) = (client(), project.worktree("api").join("a.txt"));
            api.release("write");
            wait_for("the file", || file.exists().then_some(()));
            project.kill(client, Signal::KILL);
        }
        // A hook that asks a daemon that does not answer is at work for as long as one likes.
        At::TheHookBeforeATool | At::TheHookAtTheEndOfATurn => {
            asked(last);
            let (client, daemon) = (client(), project.daemon().unwrap());
            project.kill(daemon, Signal::STOP);
            api.release("the daemon is stopped");
            runs(if at == At::TheHookBeforeATool { "hook pre-tool-use" } else { "hook stop" });
            project.kill(client, Signal::KILL);
            project.kill(daemon, Signal::CONT);
        }
        _ => {
            asked(last);
            project.kill(client(), Signal::KILL);
        }
    }
}

fn killed(at: At) {
    let gate = new_gate();
    let gate_path = gate.display().to_string();
    let turns = until_killed(at, &gate_path);
    let count = turns.len();
    let goes_on = |name: &str, when: &str| Lane::new(name).when(When::Anywhere(when.to_owned())).turns(finishes());
    // A client that was killed before it wrote anything begins again.
    let api = Api::start(Script::new().lane(goes_on("resumed", "You go on with stage `api`")).lane(lane("api", turns)));
    let mut project = Project::new(&api);
    project.keep_gate(gate);
    let in_proof = matches!(at, At::TheSubmission | At::TheProof);
    let once = project.path("tmp/once").display().to_string();
    let settings = HEADLESS.replace('}', ", model: sonnet}");
    project.init(&settings, &stage(in_proof.then_some((gate_path.as_str(), once.as_str()))));
    project.start();
    kill_at(at, &project, &api, count, &gate_path);
    let before = project.git(&["rev-list", "loom/api"]);
    api.release("killed");
    if in_proof {
        project.open_gate();
    }
    project.run_to_the_end();

    let ends = project.ends();
    let wanted: &[&str] = if in_proof { &["submitted"] } else { &["crashed", "submitted"] };
    assert_eq!(ends, wanted, "{at:?}\n{}", project.story());
    let landed = project.git(&["rev-list", "main"]);
    assert!(before.lines().all(|commit| landed.contains(commit)), "{at:?}: a commit was lost\n{}", project.story());
    assert_eq!(project.git(&["show", "main:a.txt"]), "alpha\n", "{at:?}");
    assert_eq!(project.git(&["show", "main:half.txt"]), "half\n", "{at:?}");
}

#[test]
fn a_client_killed_at_ten_points_loses_nothing() {
    std::thread::scope(|scope| {
        for points in ALL.chunks(4) {
            let run = move || points.iter().copied().for_each(killed);
            std::thread::Builder::new().name(format!("{points:?}")).spawn_scoped(scope, run).unwrap();
        }
    });
}

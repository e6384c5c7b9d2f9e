//! Who is told when something waits for a person: once, on every channel, and nothing waits for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::config::user_file;
use crate::env::{DEADLINE, Env, commit, stage};

/// Blocks in its first attempt.
fn blocks(id: &str) -> crate::env::Stage {
    let once = format!("test -e @OUT@/{id}.again || {{ touch @OUT@/{id}.again; exit 1; }}\n{}", commit(id, id));
    stage(id).run(once).with("max_retries: 0")
}

/// What the command of the settings was given, one line each.
const TELL: &str = "line=$(cat); echo \"$LOOM_EVENT|$LOOM_PLAN|$LOOM_STAGES|$LOOM_NEXT|$LOOM_TEXT\" >> @OUT@/told; \
     echo \"$line\" >> @OUT@/json; pwd >> @OUT@/where";

fn told_by_command(env: &Env, command: &str) {
    let command = command.replace("@OUT@", &env.out.display().to_string());
    user_file(env, &format!("[notify]\ncommand = {}\n", Value::from(command)));
}

#[test]
fn a_command_is_told_once_of_each_thing() {
    let env = Env::of(&[blocks("a")]);
    told_by_command(&env, TELL);
    env.run().ends(4);
    env.until_said("where", "repo");
    let told = env.said("told");
    assert_eq!(told.lines().count(), 1, "{told}\n{}", env.daemon_log());
    assert!(told.starts_with("blocked|plan|a|loom stage retry a|stage `a` is blocked: "), "{told}");
    let json: Value = serde_json::from_str(&env.said("json")).unwrap();
    assert_eq!(
        (json["version"].as_u64(), json["event"].as_str(), json["stages"][0].as_str()),
        (Some(1), Some("blocked"), Some("a"))
    );
    assert_eq!(json["project"].as_str(), env.repo.to_str());
    let attention = &env.status()["attention"];
    assert_eq!(
        (attention[0]["event"].as_str(), attention[0]["stages"][0].as_str()),
        (Some("blocked"), Some("a")),
        "{attention}"
    );
    // Another daemon has nothing new to tell.
    env.run().ends(4);
    assert_eq!(env.said("told"), told);

    env.loom(&["stage", "retry", "a"]).ok();
    env.finish();
    env.until_said("told", "complete|plan||loom status|plan `plan` is complete: 1 of 1 stage landed");
    assert_eq!(env.said("told").lines().count(), 2, "{}", env.said("told"));
}

#[test]
fn what_comes_together_is_told_together_and_only_what_is_wanted() {
    let env = Env::of(&[blocks("a"), blocks("b"), stage("c").with("auto_merge: false")]);
    let command = TELL.replace("@OUT@", &env.out.display().to_string());
    user_file(&env, &format!("[notify]\non = [\"gated\"]\ncommand = {}\n", Value::from(command)));
    env.run().ends(4);
    env.until_said("where", "repo");
    let told = env.said("told");
    assert!(told.starts_with("gated|plan|c|loom stage approve c|") && told.lines().count() == 1, "{told}");
}

/// Takes one request after the other, with these answers.
fn listener(answers: &'static [&'static str]) -> (u16, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, seen) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            let reply = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            reader.get_mut().write_all(reply.as_bytes()).unwrap();
            sender.send((head, String::from_utf8(body).unwrap())).unwrap();
        }
    });
    (port, seen)
}

#[test]
fn a_webhook_gets_json_and_is_tried_again() {
    let env = Env::of(&[blocks("a")]);
    let (port, seen) = listener(&["503 Busy", "204 Fine"]);
    user_file(&env, &format!("[notify]\non = [\"blocked\"]\nwebhook = \"http://127.0.0.1:{port}/hook/geheim\"\n"));
    env.run().ends(4);
    let first = seen.recv_timeout(DEADLINE).unwrap();
    let (head, body) = seen.recv_timeout(DEADLINE).unwrap();
    assert!(head.starts_with("POST /hook/geheim HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    assert_eq!(first.1, body);
    let json: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!(
        (json["event"].as_str(), json["plan"].as_str(), json["next"].as_str()),
        (Some("blocked"), Some("plan"), Some("loom stage retry a"))
    );
    assert!(json["text"].as_str().unwrap().starts_with("stage `a` is blocked: `test -e "), "{json}");
}

#[test]
fn nobody_waits_for_a_channel_that_is_dead_or_hangs() {
    let env = Env::of(&[stage("a")]);
    // Bound and gone again: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hang = "echo x > @OUT@/hangs; echo some words >&2; sleep 4545 & sleep 4545"
        .replace("@OUT@", &env.out.display().to_string());
    let settings = format!("[notify]\ncommand = {}\nwebhook = \"http://127.0.0.1:{port}/geheim\"\n", Value::from(hang));
    user_file(&env, &settings);
    env.finish();
    env.settle();
    env.until_said("hangs", "x");
    env.until("its end is logged", || env.daemon_log().contains("notify.command: was not done within"));
    env.until("the webhook's is, too", || env.daemon_log().contains("notify.webhook: "));
    env.until("nothing is left of it", || env.pids("sleep 4545").is_empty());
    let log = env.daemon_log();
    assert!(log.contains("some words"), "{log}");
    assert!(!log.contains("geheim"), "the address is logged: {log}");
}

#[test]
fn a_desktop_is_told_where_there_is_one() {
    let mut env = Env::of(&[blocks("a")]);
    let out = env.out.display().to_string();
    env.program("notify-send", &format!("printf '%s\\n' \"$@\" >> {out}/desktop"));
    env.run().ends(4);
    env.loom(&["stage", "retry", "a"]).ok();
    assert_eq!(env.said("desktop"), "", "there is no desktop");
    env.set("DISPLAY", ":4545");
    env.finish();
    env.until_said("desktop", "plan `plan` is complete: 1 of 1 stage landed");
    assert!(
        env.said("desktop").starts_with("--app-name=Loom\n--\nLoom · plan · complete\n"),
        "{}",
        env.said("desktop")
    );
}

#[test]
fn the_terminal_of_who_watches_rings() {
    let rings = |settings: &str| {
        let env = Env::of(&[blocks("a")]);
        user_file(&env, settings);
        let out = env.out_of(env.command("script").args(["-qec", "loom run --watch", "/dev/null"]));
        assert!(out.stdout.contains("a blocked"), "{out}");
        out.stdout.matches('\x07').count()
    };
    assert_eq!((rings(""), rings("notify.bell = false")), (1, 0));
    let env = Env::of(&[blocks("a")]);
    assert!(!env.run().stdout.contains('\x07'), "what is no terminal rings");
}

/// For agents whose client has no hooks.
#[test]
fn an_agent_says_itself_that_it_waits_for_a_person() {
    let env = Env::new();
    env.fifo("go");
    let work = format!(
        "loom stage waiting a --reason 'the key of the door'\nread go < @OUT@/go\nloom stage resume a\n{}",
        commit("a", "a")
    );
    env.load(&crate::env::plan(&[stage("a").run(work)]));
    told_by_command(&env, TELL);
    env.loom(&["run"]).ok();
    env.until_said("told", "waiting|plan|a|loom attach a|stage `a` asks: the key of the door");
    let status = env.status();
    let session = &status["sessions"][0];
    assert_eq!((session["state"].as_str(), session["asks"].as_str()), (Some("waiting"), Some("the key of the door")));
    env.go("go");
    env.settle();
    assert_eq!((env.state().as_str(), env.stage("a")["attempt"].as_u64()), ("a merged", Some(1)));
    env.until_said("told", "complete|plan||loom status|");
    assert_eq!(env.said("told").lines().count(), 2, "{}", env.said("told"));
}

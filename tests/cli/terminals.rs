//! Windows that show sessions, in a real tmux and a real xterm. The agent is a
//! shell script on a real terminal.

use crate::env::{Env, kill, plan, stage};

/// Greets, repeats what is typed, and commits when it is told to.
const AGENT: &str = r#"
printf 'agent here\n'
while read -r line; do
  case $line in
    commit) echo done > a.txt; git add a.txt; git commit -q -m 'Add a'; loom stage complete a; exit 0 ;;
    *) echo "got $line" ;;
  esac
done
"#;

/// A project whose stage `a` is carried out by [`AGENT`].
fn project() -> Env {
    let mut env = Env::new();
    env.program("claude", AGENT);
    env.set("ANTHROPIC_API_KEY", "sk-ant-nobodys-0123456789abcdef");
    std::fs::write(env.path().join("home/.claude.json"), r#"{"hasCompletedOnboarding": true}"#).unwrap();
    let text = plan(&[stage("a")]);
    // The shell command of the test's plans gives way to an agent.
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("run:")).collect();
    env.load(&format!("{}\n", lines.join("\n")));
    env
}

/// A tmux server of the test's own, in which Loom is started.
struct Tmux<'a> {
    env: &'a Env,
    name: String,
}

impl Tmux<'_> {
    fn run(&self, args: &[&str]) -> String {
        let out = self.try_run(args);
        assert_eq!(out.code, 0, "tmux {args:?}: {out}");
        out.stdout
    }
    fn try_run(&self, args: &[&str]) -> crate::env::Out {
        let mut tmux = self.env.command("tmux");
        tmux.env("TERM", "xterm-256color").args(["-L", &self.name, "-f", "/dev/null"]).args(args);
        self.env.out_of(&mut tmux)
    }
    #[track_caller]
    fn shows(&self, window: &str, text: &str) {
        self.env.until(&format!("{window} shows {text:?}"), || {
            self.try_run(&["capture-pane", "-p", "-t", window]).stdout.contains(text)
        });
    }
    fn types(&self, window: &str, text: &str) {
        self.run(&["send-keys", "-t", window, "-l", text]);
        self.run(&["send-keys", "-t", window, "Enter"]);
    }
    fn has_window(&self, name: &str) -> bool {
        self.try_run(&["list-windows", "-a", "-F", "#{window_name}"]).stdout.lines().any(|line| line == name)
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let _ = self.try_run(&["kill-server"]);
    }
}

/// The command of each step of the walk in the document.
fn walk() -> Vec<String> {
    let document = include_str!("../../doc/sessions.md");
    let (_, walk) = document.split_once("## A walk through tmux").unwrap();
    let (walk, _) = walk.split_once("\n## ").unwrap();
    let steps = walk.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    steps.map(|step| step.split('`').nth(1).unwrap().replace("<stage>", "a")).collect()
}

#[test]
fn a_window_in_tmux_shows_a_session_and_is_only_a_viewer() {
    let walk = walk();
    let [run, detach, attach, kill_window, again] = &walk[..] else { panic!("{walk:?}") };
    let env = project();
    let tmux = Tmux { env: &env, name: format!("loom-t-{}", std::process::id()) };
    tmux.run(&["new-session", "-d", "-s", "w", "-x", "100", "-y", "30", "sh"]);
    tmux.types("w", &format!("{run} --no-sandbox"));
    env.until("a window for the session", || tmux.has_window("loom-a-1"));
    tmux.shows("loom-a-1", "agent here");
    // An answer is typed where the question is.
    tmux.types("loom-a-1", "hello");
    tmux.shows("loom-a-1", "got hello");
    // Detaching closes the window, and nothing else.
    tmux.run(&["send-keys", "-t", "loom-a-1", &detach.replace("Ctrl", "C")]);
    env.until("the window is closed", || !tmux.has_window("loom-a-1"));
    assert_eq!(env.stage("a")["state"], "running");
    // Attached again by hand, in a window that is killed.
    tmux.run(&["new-window", "-d", "-n", "third", attach]);
    tmux.shows("third", "got hello");
    tmux.run(&[kill_window.strip_prefix("tmux ").unwrap(), "-t", "third"]);
    env.until("the window is gone", || !tmux.has_window("third"));
    assert_eq!(env.stage("a")["state"], "running");
    tmux.run(&["new-window", "-d", "-n", "fifth", again]);
    tmux.shows("fifth", "got hello");
    tmux.types("fifth", "commit");
    env.until_state("a", "merged");
    assert_eq!(env.stage("a")["attempt"], 1);
}

#[test]
fn a_window_of_xterm_shows_a_session_and_is_only_a_viewer() {
    let env = project();
    let mut server = env.command("Xvfb");
    // The server chooses a number that is free and says it.
    server.args(["-displayfd", "1", "-screen", "0", "640x480x8", "-nolisten", "tcp"]);
    let out = std::fs::File::create(env.out.join("display")).unwrap();
    let server = server.stdout(out).stderr(std::process::Stdio::null()).spawn().unwrap();
    env.until("a display", || env.said("display").ends_with('\n'));
    let mut run = env.command("loom");
    run.env("DISPLAY", format!(":{}", env.said("display").trim()));
    run.args(["run", "--no-sandbox", "--terminal", "xterm"]);
    env.out_of(&mut run).ok();
    let viewers = || env.pids("attach a.1").into_iter().filter(|pid| is_called(*pid, "loom")).collect::<Vec<u32>>();
    env.until("a viewer in a window", || viewers().len() == 1 && !env.pids("xterm -T loom a.1 -e").is_empty());
    env.pids("xterm -T loom a.1").into_iter().for_each(kill);
    env.until("the viewer is gone", || viewers().is_empty());
    assert_eq!(env.stage("a")["state"], "running");
    env.loom(&["stop", "--kill"]).ok();
    kill(server.id());
    env.wait_child(server);
}

fn is_called(pid: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
}

#[test]
fn no_display_is_no_window_and_no_error() {
    let env = project();
    for kind in ["auto", "xterm", "kitty", "none"] {
        env.loom(&["run", "--no-sandbox", "--terminal", kind]).ok();
        env.until("a session with a host", || env.status()["sessions"][0]["pid"].is_u64());
        env.loom(&["stop", "--kill"]).ok();
        env.settle();
    }
    assert!(!env.daemon_log().contains("no window was opened"), "{}", env.daemon_log());
    env.loom(&["run", "--terminal", "teletype"]).ends(2).has("possible values: auto, none, tmux");
}

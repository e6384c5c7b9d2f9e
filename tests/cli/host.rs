//! Hosts: the real `loom host` with real children, terminals and viewers.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use loom::base::process;
use loom::host::attach::{Frames, FromHost, FromViewer, Hello};
use loom::host::control::{self, Lifeline, Liveness, Waiting};
use loom::host::logs;
use loom::host::spec::{EnvChange, ExitRecord, HostFolder, HostSpec, Spool, TerminalSize};
use loom::model::session::Exit;

const LOOM: &str = env!("CARGO_BIN_EXE_loom");
/// Far beyond what anything here takes; met only by a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const SIZE: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// A folder for one host, and what it is asked to run.
struct Env {
    root: tempfile::TempDir,
    spec: HostSpec,
}

impl Env {
    /// `sh -c script` on pipes.
    fn pipes(script: &str) -> Env {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir(root.path().join("host")).unwrap();
        let spec = HostSpec {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            cwd: root.path().to_path_buf(),
            env: Vec::new(),
            terminal: None,
            timeout_ms: PATIENCE.as_millis() as u64,
            log_bytes_max: 1 << 20,
            ends_with_daemon: false,
            own_cgroup: false,
            attach_socket: None,
            spool: None,
        };
        Env { root, spec }
    }
    /// `sh -c script` on a terminal that viewers can attach to.
    fn terminal(script: &str) -> Env {
        let mut env = Env::pipes(script);
        env.spec.terminal = Some(SIZE);
        env.spec.attach_socket = Some(env.socket());
        env
    }
    fn dir(&self) -> PathBuf {
        self.root.path().join("host")
    }
    fn folder(&self) -> HostFolder {
        HostFolder::new(&self.dir())
    }
    fn socket(&self) -> PathBuf {
        self.root.path().join("attach")
    }
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
    fn wait_at_barrier(&self) -> Waiting {
        control::spawn_by(Path::new(LOOM), &self.dir(), &self.spec).unwrap()
    }
    fn start(&self) -> Lifeline {
        self.wait_at_barrier().release().unwrap()
    }
    fn end(&self) -> ExitRecord {
        control::wait_end(&self.dir()).unwrap()
    }
    fn run(&self) -> ExitRecord {
        drop(self.start());
        self.end()
    }
    fn output(&self) -> String {
        fs_err::read_to_string(self.folder().log()).unwrap()
    }
    /// Waits until the file `name` has a whole line, and returns it.
    fn line_in(&self, name: &str) -> String {
        let path = self.path(name);
        until(&format!("a line in {name}"), || {
            let text = fs_err::read_to_string(&path).ok()?;
            text.strip_suffix('\n').map(str::to_owned)
        })
    }
}

/// Asks again until there is an answer. Nothing tells a test of what it waits for, so it yields in between.
#[track_caller]
fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let (_nobody, pause) = std::sync::mpsc::channel::<()>();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        let _ = pause.recv_timeout(Duration::from_millis(5));
    }
}

fn is_gone(pid: &str) -> bool {
    process::stat(pid.parse().unwrap()).is_none_or(|stat| stat.is_zombie)
}

#[test]
fn output_and_exit_code_are_recorded() {
    let env = Env::pipes("echo out; echo err >&2; printf 'last'; exit 3");
    let record = env.run();
    assert_eq!(record.exit, Exit::Code { code: 3 });
    assert_eq!(record.leftovers, Vec::<String>::new());
    assert!(record.started_at.unwrap() <= record.ended_at);
    assert_eq!(env.output(), "out\nlast");
    assert_eq!(fs_err::read_to_string(env.folder().error_log()).unwrap(), "err\n");
}

#[test]
fn a_unix_signal_is_recorded() {
    assert_eq!(Env::pipes("kill -SEGV $$").run().exit, Exit::UnixSignal { signal: 11 });
}

#[test]
fn the_deadline_ends_a_child_that_does_not_listen() {
    let mut env = Env::pipes("trap '' TERM; echo $$ > pid; while :; do sleep 60; done");
    env.spec.timeout_ms = 300;
    let grace = env.folder().grace();
    let lifeline = env.start();
    fs_err::write(grace, "100").unwrap();
    let record = env.end();
    drop(lifeline);
    assert_eq!(record.exit, Exit::TimedOut);
    assert!(is_gone(&env.line_in("pid")));
}

#[test]
fn a_host_that_is_never_released_starts_nothing() {
    let env = Env::pipes("touch started");
    let waiting = env.wait_at_barrier();
    assert_eq!(control::is_alive(&env.dir()), Liveness::Alive);
    assert_eq!(waiting.host(), &control::read_record(&env.folder()).unwrap().host);
    drop(waiting);
    let record = env.end();
    assert_eq!(record.exit, Exit::NeverStarted);
    assert_eq!(control::is_alive(&env.dir()), Liveness::Dead);
    assert!(!env.path("started").exists());
}

#[test]
fn a_child_whose_host_died_behind_its_word_does_not_start() {
    let env = Env::pipes("touch started");
    let _waiting = env.wait_at_barrier();
    let (mut host, theirs) = UnixStream::pair().unwrap();
    host.write_all(b"g").unwrap();
    drop(host);
    let mut child = process::command(LOOM);
    child.args(["host", "--exec"]).arg(env.dir()).stdin(Stdio::from(OwnedFd::from(theirs)));
    assert_eq!(child.output().unwrap().status.code(), Some(127));
    assert!(!env.path("started").exists());
}

#[test]
fn a_program_that_cannot_run_was_never_started() {
    let check = |terminal: bool, argv: &str, cwd: Option<&str>, error: &str| {
        let mut env = if terminal { Env::terminal("") } else { Env::pipes("") };
        env.spec.argv = vec![argv.to_owned()];
        if let Some(cwd) = cwd {
            env.spec.cwd = cwd.into();
        }
        let record = env.run();
        assert_eq!((record.exit, record.error.as_deref()), (Exit::NeverStarted, Some(error)));
    };
    let missing = "cannot run `no-such-program`: No such file or directory (os error 2)";
    check(false, "no-such-program", None, missing);
    check(true, "no-such-program", None, missing);
    check(false, "true", Some("/no/such"), "cannot run `true`: its folder /no/such does not exist");
}

#[test]
fn descendants_that_left_the_group_end_with_their_session() {
    let script = "setsid sh -c 'sleep 1000 & echo $! > daemon; wait' & \
                  until grep -qs sleep /proc/$(cat daemon)/comm; do :; done 2>/dev/null";
    let env = Env::pipes(script);
    let record = env.run();
    assert_eq!(record.exit, Exit::Code { code: 0 });
    let daemon = env.line_in("daemon");
    assert!(is_gone(&daemon));
    assert!(record.leftovers[0].starts_with("sh ("), "{record:?}");
    assert_eq!(record.leftovers[1..], [format!("sleep ({daemon})")], "{record:?}");
}

#[test]
fn descendants_that_ignore_the_polite_signal_are_killed() {
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ > daemon; while :; do sleep 1000; done' & \
                  while ! test -s daemon; do :; done";
    let env = Env::pipes(script);
    assert_eq!(env.run().exit, Exit::Code { code: 0 });
    assert!(is_gone(&env.line_in("daemon")));
}

#[test]
fn the_operator_ends_a_tree_with_a_grace() {
    let env = Env::pipes("trap 'echo bye; exit 7' TERM; sleep 1000 & echo $! > child; wait");
    let lifeline = env.start();
    let child = env.line_in("child");
    control::end(&env.dir(), Duration::from_secs(20)).unwrap();
    assert_eq!(env.end().exit, Exit::Code { code: 7 });
    assert_eq!(env.output(), "bye\n");
    assert!(is_gone(&child));
    control::end(&env.dir(), Duration::ZERO).unwrap();
    drop(lifeline);
}

#[test]
fn a_stubborn_tree_is_killed_after_the_grace() {
    let env = Env::pipes("trap '' TERM; echo $$ > pid; while :; do sleep 1000; done");
    drop(env.start());
    env.line_in("pid");
    control::end(&env.dir(), Duration::from_millis(50)).unwrap();
    assert_eq!(env.end().exit, Exit::UnixSignal { signal: 9 });
}

#[test]
fn only_a_check_ends_with_its_daemon() {
    let mut check = Env::pipes("echo $$ > pid; exec sleep 1000");
    check.spec.ends_with_daemon = true;
    let lifeline = check.start();
    let pid = check.line_in("pid");
    drop(lifeline);
    assert_eq!(check.end().exit, Exit::UnixSignal { signal: 15 });
    assert!(is_gone(&pid));

    let session = Env::pipes("echo $$ > pid; read line < go; exit 4");
    assert!(process::command("mkfifo").arg(session.path("go")).status().unwrap().success());
    drop(session.start());
    session.line_in("pid");
    assert_eq!(control::is_alive(&session.dir()), Liveness::Alive);
    fs_err::write(session.path("go"), "go\n").unwrap();
    assert_eq!(session.end().exit, Exit::Code { code: 4 });
}

#[test]
fn a_host_outlives_the_process_that_started_it() {
    let env = Env::pipes("echo $$ > pid; read line < go; exit 5");
    assert!(process::command("mkfifo").arg(env.path("go")).status().unwrap().success());
    fs_err::write(env.folder().spec(), serde_json::to_vec(&env.spec).unwrap()).unwrap();
    // A daemon in shell: opens the barrier and dies with its whole process group.
    let script = format!("(printf g; read hold < hold) | '{LOOM}' host '{}' > ready & wait", env.dir().display());
    assert!(process::command("mkfifo").arg(env.path("hold")).status().unwrap().success());
    use std::os::unix::process::CommandExt;
    let mut daemon =
        process::command("sh").args(["-c", &script]).current_dir(env.root.path()).process_group(0).spawn().unwrap();
    let agent = env.line_in("pid");
    let group = format!("-{}", daemon.id());
    assert!(process::command("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    daemon.wait().unwrap();
    assert_eq!(control::is_alive(&env.dir()), Liveness::Alive);
    assert!(!is_gone(&agent));
    fs_err::write(env.path("go"), "go\n").unwrap();
    assert_eq!(env.end().exit, Exit::Code { code: 5 });
}

#[test]
fn the_agent_dies_with_a_killed_host_and_survivors_are_found() {
    let mut env = Env::pipes("setsid sleep 1000 & echo $! > survivor; echo $$ > pid; wait");
    let session = format!("s-{}", std::process::id());
    let project = env.dir();
    env.spec.env = vec![
        EnvChange::Set { name: "LOOM_SESSION".to_owned(), value: session.clone() },
        EnvChange::Set { name: "LOOM_PROJECT".to_owned(), value: project.display().to_string() },
    ];
    drop(env.start());
    let (agent, survivor) = (env.line_in("pid"), env.line_in("survivor"));
    let host = control::read_record(&env.folder()).unwrap().host.pid.to_string();
    assert!(process::command("kill").args(["-KILL", &host]).status().unwrap().success());
    assert_eq!(env.end().exit, Exit::Lost);
    until("the agent's death", || is_gone(&agent).then_some(()));
    let killed = control::kill_survivors(&env.dir(), &project, &session);
    // It may still be the `setsid` that is about to become the sleep.
    assert_eq!(killed.len(), 1, "{killed:?}");
    until("the survivor's death", || is_gone(&survivor).then_some(()));
    assert_eq!(control::kill_survivors(&env.dir(), &project, &session), Vec::<String>::new());
}

#[test]
fn what_left_everything_but_its_control_group_goes_with_it() {
    // Twice forked, a session and an environment of its own: only the group knows whose it is.
    let script = "env -i setsid sh -c 'sleep 1000 & echo $! > escaped' & echo $$ > pid; exec sleep 1000";
    let mut env = Env::pipes(script);
    env.spec.own_cgroup = true;
    drop(env.start());
    let (agent, escaped) = (env.line_in("pid"), env.line_in("escaped"));
    until("the sleep", || (control_name(&escaped) == "sleep").then_some(()));
    let record = control::read_record(&env.folder()).unwrap();
    assert!(process::command("kill").args(["-KILL", &record.host.pid.to_string()]).status().unwrap().success());
    assert_eq!(env.end().exit, Exit::Lost);
    until("the agent's death", || is_gone(&agent).then_some(()));
    let killed = control::kill_survivors(&env.dir(), &env.dir(), "nobody.1");
    let Some(group) = record.cgroup else {
        assert!(!can_have_cgroup(), "the host made no group");
        assert_eq!(killed, Vec::<String>::new());
        assert!(process::command("kill").arg(&escaped).status().unwrap().success());
        return;
    };
    assert!(can_have_cgroup());
    assert_eq!(killed, [format!("sleep ({escaped})")]);
    assert!(is_gone(&escaped));
    assert!(!group.exists(), "{}", group.display());
}

#[test]
fn a_control_group_goes_with_its_host() {
    let mut env = Env::pipes("cat /proc/self/cgroup; setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' &");
    env.spec.own_cgroup = true;
    drop(env.wait_at_barrier().release().unwrap());
    assert_eq!(env.end().exit, Exit::Code { code: 0 });
    let record = control::read_record(&env.folder()).unwrap();
    assert_eq!(record.cgroup.is_some(), can_have_cgroup());
    if let Some(group) = record.cgroup {
        let name = group.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(env.output().lines().any(|line| line.starts_with("0::") && line.ends_with(&name)), "{}", env.output());
        assert!(!group.exists());
    }
}

/// Asked without Loom: whether a group can be made below the one of this process.
fn can_have_cgroup() -> bool {
    let script = "own=$(sed -n 's/^0:://p' /proc/self/cgroup); \
                  for at in $(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo); do \
                  new=$at$own/loom-test-$$; \
                  mkdir \"$new\" 2>/dev/null && { test -e \"$new/cgroup.kill\"; had=$?; rmdir \"$new\"; exit $had; }; \
                  done; exit 1";
    process::command("sh").args(["-c", script]).status().unwrap().success()
}

fn control_name(pid: &str) -> String {
    fs_err::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[test]
fn an_ended_host_is_no_zombie() {
    let env = Env::pipes("true");
    let waiting = env.wait_at_barrier();
    let pid = waiting.host().pid;
    drop(waiting.release().unwrap());
    env.end();
    until("the host to be reaped", || process::stat(pid).is_none().then_some(()));
}

#[test]
fn a_second_host_is_refused() {
    let env = Env::pipes("exec sleep 1000");
    drop(env.start());
    let refused = control::spawn_by(Path::new(LOOM), &env.dir(), &env.spec).unwrap_err().to_string();
    assert!(refused.contains("host.lock: held by another host"), "{refused}");
    control::end(&env.dir(), Duration::from_secs(5)).unwrap();
    env.end();
}

#[test]
fn an_agent_cannot_signal_its_host_where_the_kernel_knows_signal_scopes() {
    let env = Env::pipes("kill -KILL $PPID 2>&1; echo $?; sleep 1000 & kill $! && echo mine");
    let record = env.run();
    if !has_signal_scope() {
        assert_eq!(record.exit, Exit::Lost);
        return;
    }
    assert_eq!(record.exit, Exit::Code { code: 0 });
    let output = env.output();
    assert!(output.ends_with("1\nmine\n"), "{output}");
}

fn has_signal_scope() -> bool {
    use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    strict.scope(Scope::Signal).and_then(Ruleset::create).is_ok()
}

#[test]
fn the_environment_is_changed_and_marked() {
    let mut env = Env::pipes("echo \"$LOOM_HOST,$A,${LOOM_NOPE-unset}\"; cat; pwd");
    env.spec.env = vec![EnvChange::Set { name: "A".to_owned(), value: "b c".to_owned() }];
    assert_eq!(env.run().exit, Exit::Code { code: 0 });
    assert_eq!(env.output(), format!("1,b c,unset\n{}\n", env.root.path().display()));
}

#[test]
fn kept_output_is_bounded_and_the_newest() {
    let mut env = Env::pipes(
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; head -c 300000 /dev/zero; printf '\\377end'",
    );
    env.spec.log_bytes_max = 400_000;
    assert_eq!(env.run().exit, Exit::Code { code: 0 });
    let (new, old) = (fs_err::read(env.folder().log()).unwrap(), fs_err::read(env.folder().old_log()).unwrap());
    assert!(new.len() <= 200_000 && old.len() <= 200_000, "{} and {}", old.len(), new.len());
    assert!(new.ends_with(b"\xffend"));
    let mut raw = Vec::new();
    logs::follow_raw(&env.dir(), false, &mut raw).unwrap();
    assert_eq!(raw, [old, new].concat());
}

#[test]
fn logs_follow_to_the_end() {
    let env = Env::pipes("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; printf '\\033[31mred'");
    let lifeline = env.start();
    let mut out = Vec::new();
    logs::follow(&env.dir(), true, &mut out).unwrap();
    drop(lifeline);
    assert_eq!(control::is_alive(&env.dir()), Liveness::Dead);
    let expected: String = (0..3000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(String::from_utf8(out).unwrap(), expected + "\\u{1b}[31mred\n");
}

#[test]
fn a_host_writes_down_whether_a_person_is_there() {
    let env = Env::terminal("read one; read two; read three");
    let lifeline = env.start();
    let file = env.folder().person();
    let is = |wanted: Option<&str>| {
        until("what it wrote", || (fs_err::read_to_string(&file).ok().as_deref() == wanted).then_some(()));
    };
    // A window that nobody asked for is nobody, until somebody types in it.
    let mut window = Seat::with(&env.socket(), Hello { size: SIZE, interactive: true, unasked: true });
    assert!(window.read(), "it is painted for");
    is(None);
    window.types("a\r");
    window.sees("a");
    is(Some("left"));
    let person = Seat::take(&env.socket(), SIZE, false);
    is(Some("attached"));
    drop(person);
    is(Some("left"));
    window.types("b\rc\r");
    drop(lifeline);
    assert_eq!(env.end().exit, Exit::Code { code: 0 });
}

#[test]
fn logs_of_a_terminal_are_plain_rows() {
    let mut env = Env::terminal(
        "i=0; while [ $i -lt 40 ]; do printf \"\\033[1mrow $i\\033[m\\n\"; i=$((i+1)); done; printf 'ab\\bc'",
    );
    env.spec.attach_socket = None;
    assert_eq!(env.run().exit, Exit::Code { code: 0 });
    let mut out = Vec::new();
    logs::follow(&env.dir(), false, &mut out).unwrap();
    let expected: String = (0..40).map(|i| format!("row {i}\n")).collect();
    assert_eq!(String::from_utf8(out).unwrap(), expected + "ac\n");
}

#[test]
fn a_terminal_is_one() {
    let script = "stty size; tty -s && echo tty; echo $TERM ${TERM_PROGRAM-none}; tput cols; echo > /dev/tty owned";
    let mut env = Env::terminal(script);
    env.spec.terminal = Some(TerminalSize { rows: 33, cols: 99 });
    assert_eq!(env.run().exit, Exit::Code { code: 0 });
    assert_eq!(env.output(), "33 99\r\ntty\r\nxterm-256color none\r\n99\r\nowned\r\n");
    assert!(!env.socket().exists());
}

/// A viewer made of a socket and an emulated terminal.
struct Seat {
    stream: UnixStream,
    frames: Frames,
    screen: vt100::Parser,
    raw: Vec<u8>,
    ended: Option<Exit>,
}

impl Seat {
    fn take(socket: &Path, size: TerminalSize, interactive: bool) -> Seat {
        Seat::with(socket, Hello { size, interactive, unasked: false })
    }
    fn with(socket: &Path, hello: Hello) -> Seat {
        let size = hello.size;
        let stream = until("the attach socket", || UnixStream::connect(socket).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let cells = |n| std::num::NonZeroU16::new(n).unwrap();
        let screen = vt100::Parser::new(cells(size.rows), cells(size.cols), 0);
        let mut seat = Seat { stream, frames: Frames::default(), screen, raw: Vec::new(), ended: None };
        seat.say(&FromViewer::Hello(hello));
        seat
    }
    fn say(&mut self, frame: &FromViewer) {
        self.stream.write_all(&frame.encode().unwrap()).unwrap();
    }
    fn types(&mut self, text: &str) {
        self.say(&FromViewer::Input(text.as_bytes().to_vec()));
    }
    /// Reads until the screen shows `text`.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        while !self.screen.screen().contents().contains(text) {
            assert!(self.read(), "never saw {text:?} but:\n{}", self.screen.screen().contents());
        }
    }
    fn ends(&mut self) -> Option<Exit> {
        while self.read() {}
        self.ended
    }
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let n = self.stream.read(&mut buffer).unwrap();
        self.frames.push(&buffer[..n]);
        while let Some(frame) = self.frames.next_from_host().unwrap() {
            match frame {
                FromHost::Paint(bytes) => {
                    self.screen.process(&bytes);
                    self.raw.extend(bytes);
                }
                FromHost::Ended(exit) => self.ended = Some(exit),
            }
        }
        n > 0
    }
}

#[test]
fn two_viewers_see_one_screen_and_the_last_to_type_sizes_it() {
    let env =
        Env::terminal("stty -echo; echo ready; while read line; do echo \"got $line $(stty size)\"; done; exit 6");
    drop(env.start());
    let mut one = Seat::take(&env.socket(), TerminalSize { rows: 20, cols: 60 }, true);
    one.sees("ready");
    let mut two = Seat::take(&env.socket(), TerminalSize { rows: 30, cols: 100 }, true);
    two.sees("ready");
    let mut looker = Seat::take(&env.socket(), TerminalSize { rows: 5, cols: 10 }, false);
    looker.types("never\n");
    looker.sees("ready");
    one.types("first\n");
    one.sees("got first 20 60");
    two.sees("got first 20 60");
    two.types("second\n");
    two.sees("got second 30 100");
    one.sees("got second 30 100");
    two.say(&FromViewer::Resize(TerminalSize { rows: 31, cols: 101 }));
    one.say(&FromViewer::Resize(TerminalSize { rows: 21, cols: 61 }));
    two.types("third\n");
    two.sees("got third 31 101");
    drop(two);
    one.types("fourth\n");
    one.sees("got fourth 21 61");
    one.types("\x04");
    assert_eq!(one.ends(), Some(Exit::Code { code: 6 }));
    assert_eq!(looker.ends(), Some(Exit::Code { code: 6 }));
    assert!(!one.screen.screen().contents().contains("never"));
    assert!(!env.socket().exists());
}

#[test]
fn device_queries_are_answered_once_and_hidden_from_viewers() {
    let script = "stty raw -echo min 0 time 20; read go < go; printf '\\033[6n\\033[c'; \
                  dd bs=1 count=16 2>/dev/null > answer; stty min 0 time 3; dd bs=1 count=1 of=more 2>/dev/null; \
                  echo asked; read go < end";
    let env = Env::terminal(script);
    let (go, end) = (env.path("go"), env.path("end"));
    assert!(process::command("mkfifo").args([go, end]).status().unwrap().success());
    drop(env.start());
    let mut seats = [1, 2].map(|_| Seat::take(&env.socket(), SIZE, true));
    fs_err::write(env.path("go"), "go\n").unwrap();
    for seat in &mut seats {
        seat.sees("asked");
        let raw = String::from_utf8_lossy(&seat.raw).into_owned();
        assert!(!raw.contains("\x1b[6n") && !raw.contains("\x1b[c"), "{raw:?}");
    }
    assert_eq!(fs_err::read(env.path("answer")).unwrap(), b"\x1b[1;1R\x1b[?62;22c");
    assert_eq!(fs_err::read(env.path("more")).unwrap(), b"");
    fs_err::write(env.path("end"), "go\n").unwrap();
    env.end();
}

#[test]
fn a_viewer_that_stops_reading_holds_up_nobody() {
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i of a long output; i=$((i+1)); done; echo done > done; read x < go; exit 0";
    let env = Env::terminal(script);
    assert!(process::command("mkfifo").arg(env.path("go")).status().unwrap().success());
    drop(env.start());
    let mut stuck = Seat::take(&env.socket(), SIZE, true);
    assert_eq!(env.line_in("done"), "done");
    stuck.sees("line 19999 of a long output");
    // What it missed was not kept for it.
    let (sent, written) = (stuck.raw.len(), env.output().len());
    assert!(sent < written * 3 / 4, "{sent} of {written} bytes");
    fs_err::write(env.path("go"), "go\n").unwrap();
    assert_eq!(stuck.ends(), Some(Exit::Code { code: 0 }));
}

#[test]
fn strangers_cannot_open_the_attach_socket() {
    use std::os::unix::fs::PermissionsExt;
    let env = Env::terminal("exec sleep 1000");
    drop(env.start());
    assert_eq!(fs_err::metadata(env.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    control::end(&env.dir(), Duration::from_secs(5)).unwrap();
    env.end();
}

#[test]
fn requests_in_the_spool_reach_the_next_daemon_with_the_token() {
    let mut env = Env::pipes("read x < go");
    assert!(process::command("mkfifo").arg(env.path("go")).status().unwrap().success());
    let (outbox, record, token) = (env.path("outbox"), env.path("daemon.json"), env.path("token"));
    fs_err::create_dir(&outbox).unwrap();
    fs_err::write(&token, "secret\n").unwrap();
    env.spec.spool = Some(Spool { outbox: outbox.clone(), daemon_record: record.clone(), token_file: token });
    drop(env.start());
    loom::base::fs::write_atomic(&outbox.join("a.req"), br#"{"id":7,"call":{"call":"status"}}"#).unwrap();
    loom::base::fs::write_atomic(&outbox.join("bad.req"), b"[]").unwrap();
    let bad = until("an answer to nonsense", || fs_err::read_to_string(outbox.join("bad.reply")).ok());
    assert!(bad.contains("refused") && bad.contains("not a JSON object"), "{bad}");

    let socket = env.path("daemon");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let text = serde_json::json!({ "pid": 1, "version": "0", "socket": socket }).to_string();
    loom::base::fs::write_atomic(&record, text.as_bytes()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream.try_clone().unwrap()));
    let hello: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((hello["min"].as_u64(), hello["max"].as_u64()), (Some(1), Some(1)));
    (&stream).write_all(b"{\"min\":1,\"max\":1,\"version\":\"0\"}\n").unwrap();
    let request: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(request, serde_json::json!({ "id": 7, "token": "secret", "call": { "call": "status" } }));
    (&stream).write_all(b"\"resync\"\n{\"answer\":{\"id\":7}}\n").unwrap();
    let reply = until("the answer", || fs_err::read_to_string(outbox.join("a.reply")).ok());
    assert_eq!(reply, "{\"answer\":{\"id\":7}}\n");
    until("the request to go", || (!outbox.join("a.req").exists()).then_some(()));
    fs_err::write(env.path("go"), "go\n").unwrap();
    env.end();
}

#[test]
fn a_host_is_small() {
    let env =
        Env::terminal("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo x > done; exec sleep 1000");
    drop(env.start());
    let mut seat = Seat::take(&env.socket(), TerminalSize { rows: 50, cols: 200 }, true);
    env.line_in("done");
    seat.sees("line 4999");
    let pid = control::read_record(&env.folder()).unwrap().host.pid;
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    // Its own memory: the pages of the binary are shared by all hosts, and in a debug build they are many.
    let rss = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    let kib: u64 = rss.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib <= 4 << 10, "{rss}");
    control::end(&env.dir(), Duration::from_secs(5)).unwrap();
    env.end();
}

/// A real tmux server of its own.
struct Tmux {
    name: String,
    dir: PathBuf,
}

impl Tmux {
    fn start(env: &Env) -> Tmux {
        // A name of its own: the server of the one before may still be on its way out.
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("loom-{}-{count}", std::process::id());
        let tmux = Tmux { name, dir: env.root.path().to_path_buf() };
        tmux.run(&["new-session", "-d", "-x", "90", "-y", "28", "env PS1='prompt> ' sh"]);
        until("the shell", || tmux.shows().contains("prompt>").then_some(()));
        tmux
    }
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = process::command("tmux");
        command.args(["-L", &self.name, "-f", "/dev/null"]).args(arguments).current_dir(&self.dir);
        command.env("TMUX_TMPDIR", &self.dir).env_remove("TMUX").stdin(Stdio::null());
        command
    }
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    fn shows(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }
    fn modes(&self) -> String {
        self.run(&["display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{keypad_cursor_flag} #{cursor_flag}"])
    }
    fn types(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.run(&["send-keys", "Enter"]);
    }
    #[track_caller]
    fn sees(&self, text: &str) {
        until(&format!("{text:?} in tmux"), || self.shows().contains(text).then_some(()));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // A failed test may have lost it already.
        let _ = self.command(&["kill-server"]).output();
    }
}

/// An agent that switches on everything a viewer has to switch off again.
const GREEDY: &str = "stty -echo; printf '\\033[?1049h\\033[?1002h\\033[?1006h\\033[?2004h\\033[?1h\\033=\\033[?25lagent here\\n'; \
                      while read line; do echo \"got $line $(stty size)\"; done; exit 3";

#[test]
fn a_viewer_in_tmux_detaches_and_leaves_the_terminal_usable() {
    let env = Env::terminal(GREEDY);
    drop(env.start());
    let tmux = Tmux::start(&env);
    let before = tmux.modes();
    let view = format!("{LOOM} host --view {}; stty -a | grep -c -- '-icanon'", env.socket().display());
    tmux.types(&view);
    tmux.sees("agent here");
    until("the agent's modes", || (tmux.modes() == "1 1 1 0\n").then_some(()));
    tmux.types("hello");
    tmux.sees("got hello 28 90");
    tmux.run(&["resize-window", "-x", "70", "-y", "20"]);
    until("the new size", || {
        tmux.types("sized");
        tmux.shows().contains("got sized 20 70").then_some(())
    });
    tmux.run(&["send-keys", "C-\\"]);
    tmux.sees("detached");
    assert_eq!(tmux.modes(), before);
    tmux.types("echo us''able");
    tmux.sees("usable");
    // The same key, as terminals with extended keyboards send it.
    tmux.types(&view.replace("; stty", "; clear; stty"));
    tmux.sees("got sized 20 70");
    tmux.run(&["send-keys", "-H", "1b", "5b", "39", "32", "3b", "35", "75"]);
    until("the shell", || (!tmux.shows().contains("got sized")).then_some(()));
    assert_eq!(tmux.modes(), before);
    until("the mode of the terminal", || tmux.shows().contains("0\n").then_some(()));
    assert_eq!(control::is_alive(&env.dir()), Liveness::Alive);
    control::end(&env.dir(), Duration::from_secs(5)).unwrap();
    env.end();
}

#[test]
fn a_viewer_in_tmux_sees_the_end_and_its_death_harms_nobody() {
    let env = Env::terminal(GREEDY);
    drop(env.start());
    let view = format!("{LOOM} host --view {}", env.socket().display());
    let killed = Tmux::start(&env);
    killed.types(&view);
    killed.sees("agent here");
    drop(killed);
    assert_eq!(control::is_alive(&env.dir()), Liveness::Alive);
    let tmux = Tmux::start(&env);
    let before = tmux.modes();
    tmux.types(&view);
    tmux.sees("agent here");
    tmux.types("again");
    tmux.sees("got again 28 90");
    tmux.run(&["send-keys", "C-d"]);
    tmux.sees("ended with exit status 3");
    assert_eq!(tmux.modes(), before);
    assert_eq!(env.end().exit, Exit::Code { code: 3 });
}

#[test]
fn one_viewer_too_many_is_let_go() {
    let env = Env::terminal("echo ready; exec sleep 1000");
    drop(env.start());
    let mut seats: Vec<Seat> = (0..16).map(|_| Seat::take(&env.socket(), SIZE, false)).collect();
    seats.iter_mut().for_each(|seat| seat.sees("ready"));
    let mut stranger = UnixStream::connect(env.socket()).unwrap();
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    seats.pop();
    // Its seat is free once the host has noticed.
    until("a free seat", || {
        let mut stream = UnixStream::connect(env.socket()).unwrap();
        let hello = FromViewer::Hello(Hello { size: SIZE, interactive: false, unasked: false });
        let said = stream.write_all(&hello.encode().unwrap());
        (said.is_ok() && matches!(stream.read(&mut [0]), Ok(1))).then_some(())
    });
    control::end(&env.dir(), Duration::from_secs(5)).unwrap();
    env.end();
}

#[test]
fn a_request_whose_daemon_died_is_asked_again() {
    let mut env = Env::pipes("read x < go");
    assert!(process::command("mkfifo").arg(env.path("go")).status().unwrap().success());
    let (outbox, record, token) = (env.path("outbox"), env.path("daemon.json"), env.path("token"));
    fs_err::create_dir(&outbox).unwrap();
    fs_err::write(&token, "secret").unwrap();
    env.spec.spool = Some(Spool { outbox: outbox.clone(), daemon_record: record.clone(), token_file: token });
    drop(env.start());
    loom::base::fs::write_atomic(&outbox.join("a.req"), br#"{"id":1,"call":{}}"#).unwrap();
    let daemon = |name: &str| {
        let socket = env.path(name);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let text = serde_json::json!({ "socket": socket }).to_string();
        loom::base::fs::write_atomic(&record, text.as_bytes()).unwrap();
        listener.accept().unwrap().0
    };
    drop(daemon("first"));
    let second = daemon("second");
    (&second).write_all(b"{\"min\":1}\n{\"answer\":{\"id\":1}}\n").unwrap();
    let reply = until("the answer", || fs_err::read_to_string(outbox.join("a.reply")).ok());
    assert_eq!(reply, "{\"answer\":{\"id\":1}}\n");
    fs_err::write(env.path("go"), "go\n").unwrap();
    env.end();
}

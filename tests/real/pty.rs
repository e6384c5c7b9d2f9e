//! A terminal for an interactive client: a pseudo-terminal and the screen
//! that a person would see.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Mutex};

use loom::base::process::command;
use loom::host::spec::HostSpec;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A client in a terminal; killed when it is dropped.
pub struct Terminal {
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts what `spec` says, in a terminal of the size it says.
    pub fn start(spec: &HostSpec, env: &BTreeMap<String, String>) -> Terminal {
        let size = spec.terminal.unwrap();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size_of = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size_of).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = || File::options().read(true).write(true).open(Path::new(&name)).unwrap();
        // `setsid` makes it the controlling terminal, which takes unsafe code to do here.
        let child = command("setsid")
            .arg("--ctty")
            .args(&spec.argv)
            .current_dir(&spec.cwd)
            .env_clear()
            .envs(env)
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let (rows, cols) = (size.rows.try_into().unwrap(), size.cols.try_into().unwrap());
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, cols, 0)));
        let painted = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut master = File::from(master);
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                painted.lock().unwrap().process(&bytes[..count]);
            }
        });
        Terminal { child, screen }
    }
    /// What is on the screen now.
    pub fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }
}

impl Drop for Terminal {
    #[expect(clippy::print_stderr, reason = "a failed test shows the screen")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the screen:\n{}", self.contents());
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

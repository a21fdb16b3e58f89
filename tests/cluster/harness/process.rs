//! A server of a test: started, stopped, killed and started again as the test wants; it never outlives the test.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, Option<String>)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// `env` sets variables, or with `None` takes them away.
    pub fn new(
        name: &str,
        program: impl Into<PathBuf>,
        args: &[&str],
        env: &[(&str, Option<String>)],
        log: &Path,
    ) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: args.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect(),
            log: log.into(),
            child: None,
        }
    }

    /// Sets one more variable for the next start.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.into(), value));
    }

    /// Starts the program by a command that begins with these words and executes it in the same process, as `setpriv` does.
    #[allow(dead_code)] // the cluster tests do
    pub fn below(&mut self, words: Vec<String>) {
        let program = std::mem::replace(&mut self.program, words[0].clone().into());
        let own = std::mem::take(&mut self.args);
        self.args = words.into_iter().skip(1).chain([program.display().to_string()]).chain(own).collect();
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("the log");
        // setpriv, because a process that dies with its parent needs unsafe code otherwise; it becomes the program,
        // same pid.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program).args(&self.args);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.name)));
    }

    /// Whether it was started, and was neither killed nor stopped.
    #[allow(dead_code)] // the API tests ask
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id() as i32
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    /// SIGKILL, and gone.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// SIGTERM, and gone within `limit`.
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut child = self.child.take().expect("it runs");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if began.elapsed() > limit {
                child.kill().expect("kill");
                child.wait().expect("wait");
                panic!("{} did not end within {limit:?} of SIGTERM", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it was started and has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("wait").is_some())
    }

    /// Panics if it has ended by itself.
    pub fn check(&mut self) {
        if let Some(child) = self.child.as_mut()
            && let Some(status) = child.try_wait().expect("wait")
        {
            panic!("{} has ended by itself: {status}. See {}", self.name, self.log.display());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // Both fail only for one that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

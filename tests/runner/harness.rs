//! Starts the built runner with an agent below it, and waits for what it should do.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{PipeReader, PipeWriter, Write, pipe},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use koco::{
    api::{DesiredState, ErrorStatus, PausePolicy, RunnerState},
    protocol::{
        runner::{AgentEnd, Confirm, ControlMessage, Job, env},
        termination,
    },
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::gateway::{Gateway, Heard};

/// Long enough for any machine.
const DEADLINE: Duration = Duration::from_secs(40);

/// The test agent, built by the first caller: `cargo test --test runner` builds no examples.
fn agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_koco-runner")).parent().unwrap();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--example", "test-agent"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells this test about itself is no concern of the other's build scripts: ring's would run again,
        // and all that is built on it with them.
        let about_us =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "LD_LIBRARY_PATH"];
        for (name, _) in std::env::vars_os() {
            if about_us.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                build.env_remove(name);
            }
        }
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the test agent does not build");
        profile.join("examples/test-agent")
    })
}

/// The Python package's launcher, as the agent: Debian's Python runs it, with its tests' entry points.
pub fn python() -> Vec<OsString> {
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/python");
    let path = format!("PYTHONPATH={package}/src:{package}/tests/agents");
    ["env", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", &path, "python3", "-m", "kodosumi_koco", "run"]
        .map(Into::into)
        .to_vec()
}

pub fn job(entry_point: &str) -> Job {
    Job {
        fid: "0123456789abcdef01234567".into(),
        entry_point: entry_point.into(),
        inputs: json!({"topic": "octopuses"}).into(),
        inputs_from: Vec::new(),
        inputs_schema: None,
        extra: json!({"labels": ["a"]}).into(),
        attempt: 1,
        resumed: false,
        pause_policy: PausePolicy::Freeze,
        pause_notice: None,
        grace_seconds: 20,
        heartbeat_interval_millis: 100,
        execution_limit_millis: None,
        budget: None,
        spent: Default::default(),
        events: None,
        environment: Default::default(),
    }
}

/// A pipe without a place left, and its other end.
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (read, mut write) = pipe().unwrap();
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while write.write(&[b'\n'; 4096]).is_ok() {}
    while write.write(b"\n").is_ok() {}
    fcntl(&write, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (read, write)
}

/// Whether tests may create a PID namespace. Logs if not.
pub fn namespaces() -> bool {
    let allowed = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).status();
    let allowed = allowed.is_ok_and(|status| status.success());
    if !allowed {
        eprintln!("SKIPPED: unshare --pid is not permitted here, and nothing can be frozen without it");
    }
    allowed
}

pub struct Run {
    pub dir: PathBuf,
    pub gateway: Gateway,
    command: Vec<OsString>,
    /// As the first process of a namespace, below these words of a command.
    isolated: Option<&'static [&'static str]>,
    child: Child,
}

impl Run {
    /// A runner that is not the first process, with the test agent.
    pub async fn start(job: Job) -> Self {
        Self::with(job, vec![agent().into()], false, "koco-gateway").await
    }

    /// The same as the first process of a namespace.
    pub async fn isolated(job: Job) -> Self {
        Self::with(job, vec![agent().into()], true, "koco-gateway").await
    }

    /// One that logs to this file.
    pub async fn logging_to(job: Job, log: impl Into<Stdio>) -> Self {
        Self::of(job, vec![agent().into()], None, "koco-gateway", Some(log.into()))
    }

    /// The first process of a namespace, with a log that goes nowhere.
    pub async fn silent(job: Job, command: Vec<OsString>) -> Self {
        Self::of(job, command, Some(&[]), "koco-gateway", Some(Stdio::null()))
    }

    /// The first process of a namespace, below these words of a command.
    pub async fn below(wrapper: &'static [&'static str], job: Job, command: Vec<OsString>) -> Self {
        Self::of(job, command, Some(wrapper), "koco-gateway", None)
    }

    pub async fn with(job: Job, command: Vec<OsString>, isolated: bool, tls_name: &str) -> Self {
        Self::of(job, command, isolated.then_some(&[]), tls_name, None)
    }

    fn of(
        job: Job,
        command: Vec<OsString>,
        isolated: Option<&'static [&'static str]>,
        tls_name: &str,
        log: Option<Stdio>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("koco-runner-test-{}-{n}", std::process::id()));
        fs::create_dir_all(dir.join("state")).unwrap();
        fs::write(dir.join("token"), "the-token\n").unwrap();
        let gateway = Gateway::start(job, tls_name);
        let child = spawn(&dir, &gateway, &command, isolated, log);
        Self { dir, gateway, command, isolated, child }
    }

    /// Restarts the container in the same pod.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.gateway, &self.command, self.isolated, None);
    }

    pub fn grant(&self) {
        self.gateway.say(ControlMessage::Grant { attempt: 1 });
    }

    pub fn command(&self, desired: DesiredState, generation: i64) {
        self.gateway.say(ControlMessage::Command { desired, generation });
    }

    /// Waits until it is so.
    pub async fn until<T>(&self, what: &str, is: impl Fn(&Heard) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = is(&self.gateway.heard()) {
                return found;
            }
            assert!(Instant::now() < end, "not in time: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn confirmed(&self, state: RunnerState, generation: i64) -> Confirm {
        self.until(&format!("{state:?} {generation}"), |heard| {
            heard.confirms.iter().find(|c| c.state == state && c.generation == generation).cloned()
        })
        .await
    }

    pub async fn printed(&self, text: &str) {
        self.until(&format!("{text:?} in the agent's output"), |_| self.stdout().contains(text).then_some(())).await;
    }

    /// Waits for so many heartbeats from now on.
    pub async fn heartbeats(&self, count: usize) {
        let before = self.gateway.heard().heartbeats.len();
        self.until("heartbeats", |heard| (heard.heartbeats.len() >= before + count).then_some(())).await;
    }

    /// Waits for the reported end.
    pub async fn outcome(&self) -> AgentEnd {
        self.until("a report of the end", |heard| heard.outcomes.last().map(|report| report.end.clone())).await
    }

    /// Waits for the reported end, and checks the type of its error.
    pub async fn failed(&self, kind: &str) -> AgentEnd {
        let ending = self.outcome().await;
        let error: ErrorStatus = ending.error.clone().unwrap_or_default();
        assert_eq!(error.kind, kind, "{ending:?}\n{}", self.log());
        ending
    }

    /// Waits for the runner's end.
    pub async fn exited(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the runner does not end\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.dir.join("stdout")).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// The end that the termination message tells of, signed with the key of the runner's requests.
    pub fn termination(&self) -> AgentEnd {
        let message = fs::read_to_string(self.dir.join("termination-log")).unwrap();
        let key = *self.gateway.heard().keys.last().expect("a request");
        termination::verify(&message, &key).unwrap_or_else(|| panic!("not signed: {message}"))
    }

    /// The runner itself: below `unshare` its only child.
    pub fn pid(&self) -> i32 {
        let pid = self.child.id() as i32;
        if self.isolated.is_some() { children(pid)[0] } else { pid }
    }

    pub fn sigterm(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// All processes below the runner, as seen from outside, with the states of all their threads.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        let mut next = children(self.pid());
        while let Some(pid) = next.pop() {
            next.extend(children(pid));
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let states = threads.filter_map(|t| fs::read_to_string(t.path().join("stat")).ok());
            let states = states.filter_map(|stat| stat[stat.rfind(')')? + 2..].chars().next());
            found.push((pid, states.collect()));
        }
        found
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Outside of a namespace an agent would outlive its killed runner.
        if self.isolated.is_none() && matches!(self.child.try_wait(), Ok(None)) {
            for (pid, _) in self.processes() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn spawn(dir: &Path, gateway: &Gateway, agent: &[OsString], isolated: Option<&[&str]>, log: Option<Stdio>) -> Child {
    let runner = env!("CARGO_BIN_EXE_koco-runner");
    let mut command = Command::new(if isolated.is_some() { "unshare" } else { "setpriv" });
    if let Some(wrapper) = isolated {
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).args(wrapper).arg(runner);
    } else {
        // As in a container: not even root may look into other processes.
        let without = "-sys_ptrace,-sys_admin,-perfmon";
        command.args(["--bounding-set", without, "--inh-caps", without, "--", runner]);
    }
    let host = if isolated.is_some() { "localhost" } else { "127.0.0.1" };
    let output = |name: &str| File::options().create(true).append(true).open(dir.join(name)).unwrap();
    command
        .args(["run", "--"])
        .args(agent)
        // A name or an address: the certificate has another name anyway.
        .env(env::GATEWAY_URL, format!("https://{host}:{}/", gateway.address.port()))
        .env(env::GATEWAY_CA, &gateway.ca)
        .env(env::TOKEN_FILE, dir.join("token"))
        .env(env::STATE_DIR, dir.join("state"))
        .env(env::NAMESPACE, "default")
        .env(env::RUN, "hello-01234567-7")
        .env(env::TERMINATION_BYTES, "3072")
        .env(env::TERMINATION_LOG, dir.join("termination-log"))
        .stdin(Stdio::null())
        .stdout(output("stdout"))
        .stderr(log.unwrap_or_else(|| output("stderr").into()))
        .spawn()
        .unwrap()
}

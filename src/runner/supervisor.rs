//! The runner's main loop: events from kernel and gateway into the [`Machine`], its actions out to processes and tasks.
//! Called by [`super::main`].

use std::{collections::VecDeque, ffi::OsString, io, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{Signal as Arrivals, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    config::{Config, ConfigError},
    ending::{self, Evidence, Exit},
    files::{self, Files},
    gateway::{ClientError, Gateway},
    link::{self, Answer, Incoming, Standing},
    log::{causes, say},
    machine::{Action, Event, Machine, Policy, Stopped},
    process::{Processes, Reaped, notice_signal},
    procfs, report,
};
use crate::{
    api::RunnerState,
    protocol::runner::{Ending, Job, Order},
};

/// Why the runner could not do its work at all.
#[derive(thiserror::Error, Debug)]
enum RunnerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Gateway(#[from] ClientError),
}

/// `koco-runner run -- PROGRAM ARGUMENTS`. Returns the exit code.
pub fn main(program: OsString, arguments: Vec<OsString>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("no runtime: {error}"));
            return 1;
        }
    };
    let code = runtime.block_on(run(program, arguments)).unwrap_or_else(|error| {
        say(format_args!("{}", causes(&error)));
        1
    });
    // A task may be in a name look-up or a read that nobody waits for any more.
    runtime.shutdown_background();
    code
}

async fn run(program: OsString, arguments: Vec<OsString>) -> Result<u8, RunnerError> {
    let config = Config::from_env()?;
    let children = signal(SignalKind::child()).map_err(RunnerError::Signals)?;
    let ends = Ends::listen().map_err(RunnerError::Signals)?;
    let gateway = match Gateway::new(&config) {
        Ok(gateway) => gateway,
        Err(error) => {
            leave(&config, &ending::not_started(&causes(&error)));
            return Err(error.into());
        }
    };
    let (tell, incoming) = mpsc::unbounded_channel();
    let (standing, standing_seen) = watch::channel((RunnerState::Waiting, 0));
    let (answers, answers_seen) = watch::channel(None);
    let files = Files::new(&config.state_dir);
    let runner = Runner {
        started_before: files.was_started(config.sender.epoch).unwrap_or(true),
        files,
        command: (program, arguments),
        processes: Processes::new(),
        begun: Instant::now(),
        children,
        ends,
        incoming,
        standing,
        answers,
        oom_kills: procfs::oom_kills(),
        gateway: gateway.clone(),
        config,
    };
    if !runner.started_before {
        tokio::spawn(link::listen(gateway.clone(), standing_seen.clone(), tell.clone()));
    }
    tokio::spawn(link::confirm(gateway.clone(), answers_seen));
    Ok(runner.live(|every| drop(tokio::spawn(link::beat(gateway, every, standing_seen, tell)))).await)
}

/// SIGTERM, and what an image may have set as its stop signal instead.
struct Ends([Arrivals; 3]);

impl Ends {
    fn listen() -> io::Result<Self> {
        let [a, b, c] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()].map(signal);
        Ok(Self([a?, b?, c?]))
    }

    async fn recv(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
    }
}

struct Runner {
    config: Config,
    files: Files,
    command: (OsString, Vec<OsString>),
    started_before: bool,
    processes: Processes,
    begun: Instant,
    children: Arrivals,
    ends: Ends,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    standing: watch::Sender<Standing>,
    answers: watch::Sender<Answer>,
    oom_kills: Option<u64>,
    gateway: Gateway,
}

/// How it went: what to report, the exit of the agent, and whether anybody wants to know.
struct End {
    ending: Ending,
    exit: Exit,
    report: bool,
}

impl End {
    fn unstarted(ending: Ending, report: bool) -> Self {
        Self { ending, exit: Exit::None, report }
    }
}

impl Runner {
    async fn live(mut self, beat: impl FnOnce(Duration)) -> u8 {
        let end = if self.started_before {
            say(format_args!("this container was restarted; the agent is not started twice"));
            End::unstarted(ending::restarted(), true)
        } else {
            match self.meet().await {
                Ok(job) => {
                    beat(Duration::from_millis(job.heartbeat_interval_millis));
                    self.carry(*job).await
                }
                Err(end) => end,
            }
        };
        let omitted = leave(&self.config, &end.ending);
        if end.report {
            report::deliver(&self.gateway, &end.ending, omitted, &mut self.incoming).await;
        }
        ending::exit_code(&end.ending, &end.exit)
    }

    /// Waits for the job.
    async fn meet(&mut self) -> Result<Box<Job>, End> {
        loop {
            tokio::select! {
                message = self.incoming.recv() => match message {
                    Some(Incoming::Job(job)) => return Ok(job),
                    Some(Incoming::Gone(why)) => {
                        say(format_args!("not wanted: {why}"));
                        let ending = ending::not_started(&format!("the gateway does not want this pod's runner: {why}"));
                        return Err(End::unstarted(ending, false));
                    }
                    Some(Incoming::Order(_)) => {}
                    None => return Err(End::unstarted(ending::not_started("the connection's task ended"), true)),
                },
                () = self.ends.recv() => {
                    return Err(End::unstarted(ending::not_started("the pod was told to end before its job was known"), true));
                }
                // A container's first process has children that it never started.
                _ = self.children.recv() => drop(self.processes.reap()),
            }
        }
    }

    /// Carries the job from its permit to its agent's end.
    async fn carry(&mut self, job: Job) -> End {
        let notice = job.pause_notice.as_ref();
        let mut machine = Machine::new(Policy {
            pause: job.pause_policy,
            notice: notice.map(|n| Duration::from_secs(u64::try_from(n.seconds).unwrap_or(0))),
            grace: Duration::from_secs(u64::try_from(job.grace_seconds).unwrap_or(0)),
            limit: job.execution_limit_millis.map(Duration::from_millis),
            freeze_refusal: self.processes.freeze_refusal(),
        });
        say(format_args!("waiting for the permit"));
        let mut exit = Exit::None;
        loop {
            let mut events: VecDeque<Event> = self.next(&machine, &mut exit).await.into();
            while let Some(event) = events.pop_front() {
                for action in machine.on(self.begun.elapsed(), event) {
                    if let Action::Finish { started, stopped } = action {
                        self.standing.send_replace(machine.standing());
                        return self.conclude(&job, exit, started, stopped, machine.active(self.begun.elapsed())).await;
                    }
                    events.extend(self.act(&job, action, &mut exit));
                }
                self.standing.send_replace(machine.standing());
            }
        }
    }

    /// Waits for what happens next.
    async fn next(&mut self, machine: &Machine, exit: &mut Exit) -> Vec<Event> {
        let deadline = machine.deadline().map(|at| self.begun + at);
        let tick = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.children.recv() => self.processes.reap().into_iter().map(|reaped| match reaped {
                Reaped::Agent(how) => {
                    *exit = how;
                    Event::AgentEnded
                }
                Reaped::AgentStopped => Event::AgentStopped,
                Reaped::Other => Event::ChildEnded,
            }).collect(),
            () = self.ends.recv() => {
                say(format_args!("told to end"));
                vec![Event::Terminate]
            }
            Some(message) = self.incoming.recv() => match message {
                Incoming::Order(Order::Permit { attempt }) => vec![Event::Permit { attempt }],
                Incoming::Order(Order::Command { desired, seq }) => vec![Event::Command { desired, seq }],
                Incoming::Order(Order::Stop { why }) | Incoming::Gone(why) => {
                    say(format_args!("told to stop and report to nobody: {why}"));
                    vec![Event::Gone]
                }
                Incoming::Order(Order::Ping {}) | Incoming::Job(_) => vec![],
            },
            () = tick => vec![Event::Tick],
        }
    }

    /// Does it, and returns what came of it.
    fn act(&mut self, job: &Job, action: Action, exit: &mut Exit) -> Option<Event> {
        match action {
            Action::Start { attempt } => match self.start(job, attempt) {
                Ok(pid) => {
                    say(format_args!("agent started (attempt {attempt}, pid {pid})"));
                    return Some(Event::Started);
                }
                Err(error) => {
                    say(format_args!("the agent could not be started: {error}"));
                    *exit = Exit::NotSpawned(error);
                    return Some(Event::NotStarted);
                }
            },
            Action::Notify => {
                if let Some(signal) = job.pause_notice.as_ref().and_then(|n| notice_signal(&n.signal)) {
                    self.processes.signal_agent(signal);
                }
            }
            Action::Freeze { nudge } => return Some(Event::Scanned(self.processes.freeze(nudge))),
            Action::Thaw => self.processes.signal_all(Signal::SIGCONT),
            Action::Term => {
                self.processes.signal_agent(Signal::SIGTERM);
                say(format_args!("SIGTERM sent to the agent"));
            }
            Action::Kill => {
                self.processes.signal_all(Signal::SIGKILL);
                say(format_args!("the grace period is over, SIGKILL sent to every process"));
            }
            Action::Confirm { state, seq, problem } => {
                match &problem {
                    Some(problem) => say(format_args!("command {seq} can't be carried out: {problem}")),
                    None => say(format_args!("{state:?} (command {seq})")),
                }
                self.answers.send_replace(Some(((state, seq), problem)));
            }
            // Taken by the loop.
            Action::Finish { .. } => {}
        }
        None
    }

    fn start(&mut self, job: &Job, attempt: i32) -> Result<i32, String> {
        let files = &self.files;
        files.prepare(&job.inputs, &job.extra).map_err(|e| format!("its files: {e}"))?;
        files.mark_started(self.config.sender.epoch).map_err(|e| format!("its marker: {e}"))?;
        let mut kodo: Vec<(&str, OsString)> = vec![
            ("KODO_FID", job.fid.clone().into()),
            ("KODO_ENTRY_POINT", job.entry_point.clone().into()),
            ("KODO_ATTEMPT", attempt.to_string().into()),
            ("KODO_INPUTS_FILE", files.inputs().into()),
            ("KODO_EXTRA_FILE", files.extra().into()),
            ("KODO_RESULT_FILE", files.result().into()),
            ("KODO_ERROR_FILE", files.error().into()),
        ];
        if job.resumed {
            kodo.push(("KODO_RESUMED", "1".into()));
        }
        let (program, arguments) = &self.command;
        self.processes.start(program, arguments, &kodo).map_err(|e| format!("{}: {e}", program.display()))
    }

    /// Ends what is left of the agent, and works out how it ended.
    async fn conclude(
        &mut self,
        job: &Job,
        exit: Exit,
        started: bool,
        stopped: Option<Stopped>,
        active: Duration,
    ) -> End {
        let report = stopped != Some(Stopped::Gone);
        if !started && exit == Exit::None {
            let ending = match stopped {
                Some(Stopped::Cancel) => ending::cancelled_before_start(),
                Some(Stopped::Gone) => {
                    ending::not_started("the gateway told the runner to stop before its agent started")
                }
                _ => ending::not_started("the pod was told to end before its agent started"),
            };
            return End::unstarted(ending, report);
        }
        self.processes.bury().await;
        let files = self.files.clone();
        // Up to 64 MiB to read: not while heartbeats wait.
        let left = tokio::task::spawn_blocking(move || (files.read_error(), files.read_result())).await;
        let (error, result) = left.unwrap_or_else(|e| {
            let why = e.to_string();
            (ending::Left::Unreadable(why.clone()), ending::Left::Unreadable(why))
        });
        let limit = job.execution_limit_millis.map(Duration::from_millis);
        let oom = procfs::oom_kills() > self.oom_kills;
        let ending = ending::classify(Evidence { exit: exit.clone(), stopped, oom, error, result, active, limit });
        let why = ending.error.as_ref().map(|e| format!(": {}", e.kind)).unwrap_or_default();
        say(format_args!("agent ended ({exit:?}): {:?}{why}", ending.kind));
        End { ending, exit, report }
    }
}

/// Writes the termination message before anything else can fail. Returns whether the result did not fit.
fn leave(config: &Config, ending: &Ending) -> bool {
    let message = report::termination_message(ending);
    if let Err(error) = files::write_termination(&config.termination_log, &message) {
        say(format_args!("no termination message: {error}"));
        return true;
    }
    serde_json::from_slice::<Ending>(&message).is_ok_and(|written| written.result_omitted)
}

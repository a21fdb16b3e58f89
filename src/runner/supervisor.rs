//! The runner from its start to its exit: sets up, waits for the job, runs its agent (`run_agent.rs`), reports its end.
//! Called by [`super::main`].

mod run_agent;

use std::{ffi::OsString, io, time::Duration};

use nix::sys::signal::SigSet;
use tokio::{
    signal::unix::{Signal as Arrivals, SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    config::{Config, ConfigError},
    ending::{self, Exit},
    events::Events,
    files::{self, Files},
    gateway::{ClientError, Gateway},
    identity::{self, Identity, IdentityError},
    link::{self, Answer, Incoming, RunnerSnapshot},
    log::{self, causes, say},
    process::Processes,
    procfs,
    progress::Reports,
    report,
    signals::{self, StopSignals},
};
use crate::{
    api::RunnerState,
    protocol::runner::{AgentEnd, EndReport, Job},
};

/// How long the last events may take to be stored, after the agent's end: the grace period, but not longer or shorter than
/// these.
const LAST_EVENTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How long before the kubelet kills the runner its report of the end has to be on its way.
const REPORT_MARGIN: Duration = Duration::from_secs(5);

/// Why the runner could not start.
#[derive(thiserror::Error, Debug)]
enum RunnerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Gateway(#[from] ClientError),
}

/// `koco-runner run -- PROGRAM ARGUMENTS`. Returns the exit code.
pub fn main(program: OsString, arguments: Vec<OsString>) -> u8 {
    let prepared = identity::protect().map_err(RunnerError::from);
    let mask = match prepared.and_then(|()| signals::block().map_err(|e| RunnerError::Signals(e.into()))) {
        Ok(mask) => mask,
        Err(error) => {
            say(format_args!("the agent is not started: {}", causes(&error)));
            return 1;
        }
    };
    if let Err(error) = log::begin() {
        say(format_args!("no thread for the log: {error}"));
        return 1;
    }
    let code = runs(program, arguments, mask);
    log::end();
    code
}

fn runs(program: OsString, arguments: Vec<OsString>, mask: SigSet) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("no runtime: {error}"));
            return 1;
        }
    };
    let code = runtime.block_on(run(program, arguments, mask)).unwrap_or_else(|error| {
        say(format_args!("{}", causes(&error)));
        1
    });
    // A task may still be blocked in a name look-up or a read.
    runtime.shutdown_background();
    code
}

async fn run(program: OsString, arguments: Vec<OsString>, mask: SigSet) -> Result<u8, RunnerError> {
    let config = Config::from_env()?;
    let Some(token) = identity::take_token(&config.token_file)? else {
        // Its key is gone with the process that had it. That the container ended is for the kubelet to say.
        say(format_args!("this container was restarted; its agent is not started twice"));
        return Ok(1);
    };
    let identity = Identity::generate()?;
    let processes = Processes::new(mask);
    let children = signal(SignalKind::child()).map_err(RunnerError::Signals)?;
    let stops = StopSignals::listen(processes.is_first()).map_err(RunnerError::Signals)?;
    let files = Files::new(&config.state_dir);
    let gateway = Gateway::new(&config, &identity, token)?;
    let (tell, incoming) = mpsc::unbounded_channel();
    let (snapshot, snapshot_seen) = watch::channel((RunnerState::Waiting, 0));
    let (answers, answers_seen) = watch::channel(None);
    let (progress, progress_seen) = watch::channel(None);
    let runner = Runner {
        files,
        command: (program, arguments),
        processes,
        identity,
        begun: Instant::now(),
        children,
        stops,
        incoming,
        tell: tell.clone(),
        snapshot,
        answers,
        reports: Reports::new(progress),
        oom_kills: procfs::oom_kills(),
        events: Events::default(),
        grace: Duration::ZERO,
        killed_at: None,
        gateway: gateway.clone(),
        config,
    };
    tokio::spawn(link::listen(gateway.clone(), snapshot_seen.clone(), tell.clone()));
    tokio::spawn(link::confirm(gateway.clone(), answers_seen));
    Ok(runner.run(|every| drop(tokio::spawn(link::beat(gateway, every, snapshot_seen, progress_seen, tell)))).await)
}

struct Runner {
    config: Config,
    files: Files,
    command: (OsString, Vec<OsString>),
    identity: Identity,
    processes: Processes,
    begun: Instant,
    children: Arrivals,
    stops: StopSignals,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    /// The other end, for tasks that begin with the agent.
    tell: mpsc::UnboundedSender<Incoming>,
    snapshot: watch::Sender<RunnerSnapshot>,
    answers: watch::Sender<Answer>,
    reports: Reports,
    oom_kills: Option<u64>,
    gateway: Gateway,
    events: Events,
    /// The agent's grace period.
    grace: Duration,
    /// When the kubelet kills the runner, once it has said so.
    killed_at: Option<Instant>,
}

/// The agent's end, the exit of its process, and whether to report to the gateway.
struct End {
    ending: AgentEnd,
    exit: Exit,
    report: bool,
}

impl End {
    fn unstarted(ending: AgentEnd, report: bool) -> Self {
        Self { ending, exit: Exit::None, report }
    }
}

impl Runner {
    async fn run(mut self, beat: impl FnOnce(Duration)) -> u8 {
        let end = match self.await_job().await {
            Ok(job) => {
                beat(Duration::from_millis(job.heartbeat_interval_millis));
                self.grace = Duration::from_secs(u64::try_from(job.grace_seconds).unwrap_or(0));
                self.run_agent(*job).await
            }
            Err(end) => end,
        };
        let omitted = self.leave(&end.ending);
        self.events.end(&end.ending).await;
        let until = Instant::now() + self.grace.clamp(LAST_EVENTS.0, LAST_EVENTS.1);
        let wanted = self.flush(until).await;
        if end.report && wanted {
            let report = EndReport {
                generation: self.snapshot.borrow().1,
                end: end.ending.clone(),
                progress: self.reports.latest(),
                events: self.events.count(),
                events_missing: self.events.missing().filter(|missing| *missing > 0),
            };
            report::deliver(&self.gateway, &report, omitted, &mut self.incoming).await;
        }
        self.events.flush_late(until).await;
        ending::exit_code(&end.ending, &end.exit)
    }

    /// Waits for the last events, but not for long: nothing else waits for the store. Returns whether the end is still
    /// to be reported.
    async fn flush(&mut self, until: Instant) -> bool {
        let killed_at = self.killed_at.and_then(|at| at.checked_sub(REPORT_MARGIN));
        tokio::select! {
            () = self.events.flush(killed_at.map_or(until, |at| at.min(until))) => true,
            () = self.stops.recv() => true,
            () = report::gone(&mut self.incoming) => {
                say(format_args!("the job has ended, the report is dropped"));
                false
            }
        }
    }

    /// Waits for the job.
    async fn await_job(&mut self) -> Result<Box<Job>, End> {
        loop {
            tokio::select! {
                message = self.incoming.recv() => match message {
                    Some(Incoming::Job(job)) => return Ok(job),
                    Some(Incoming::Gone(why)) => {
                        say(format_args!("rejected by the gateway: {why}"));
                        let ending = ending::not_started(&format!("the gateway rejects this pod's runner: {why}"));
                        return Err(End::unstarted(ending, false));
                    }
                    Some(Incoming::Message(_) | Incoming::Progress(_)) => {}
                    None => return Err(End::unstarted(ending::not_started("the connection's task ended"), true)),
                },
                () = self.stops.recv() => {
                    return Err(End::unstarted(ending::not_started("the pod was terminated before its runner had received the job"), true));
                }
                // A container's first process also inherits orphans.
                _ = self.children.recv() => drop(self.processes.reap()),
            }
        }
    }

    /// Writes the termination message before anything else can fail. Returns whether the result did not fit.
    fn leave(&self, ending: &AgentEnd) -> bool {
        let config = &self.config;
        let message = report::termination_message(ending, &self.identity, config.termination_bytes);
        let written = message.map_err(io::Error::other).and_then(|(message, told)| {
            files::write_termination(&config.termination_log, message.as_bytes())?;
            Ok(told.result_omitted)
        });
        written.unwrap_or_else(|error| {
            say(format_args!("no termination message: {error}"));
            true
        })
    }
}

//! The runner from its start to its exit: sets up, waits for the job, carries it (`carry.rs`), reports. Called by
//! [`super::main`].

mod carry;

use std::{ffi::OsString, io, time::Duration};

use tokio::{
    signal::unix::{Signal as Arrivals, SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    config::{Config, ConfigError},
    ending::{self, Exit},
    files::{self, Files},
    gateway::{ClientError, Gateway},
    link::{self, Answer, Incoming, Standing},
    log::{causes, say},
    process::Processes,
    procfs, report,
};
use crate::{
    api::RunnerState,
    protocol::runner::{Ending, Job},
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
            let seq = self.standing.borrow().1;
            report::deliver(&self.gateway, &end.ending, seq, omitted, &mut self.incoming).await;
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

//! Runs the agent, from the grant to its end: feeds events into the [`Machine`] and carries out its actions on the
//! processes and the tasks of [`super::super::link`]. Called by `supervisor.rs` alone.

use std::{collections::VecDeque, ffi::OsString, io, path::Path, sync::mpsc, thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{End, Runner};
use crate::{
    api::RawJson,
    inputs_schema::judge,
    protocol::{
        error_types,
        runner::{ControlMessage, Job, env},
    },
    runner::{
        ending::{self, AgentError, Exit, ExitFacts, FileContents},
        events::Events,
        files::Files,
        gateway::Gateway,
        inputs,
        link::Incoming,
        log::say,
        machine::{Action, Event, Machine, Policy, Stopped},
        process::{Reaped, notice_signal},
        procfs, progress,
    },
};

/// How long the agent's inputs may be judged. Nothing is heard or told meanwhile.
const JUDGING: Duration = Duration::from_secs(5);
/// The stack for it, in bytes: of address space, until it is used.
const JUDGING_STACK: usize = 256 << 20;

impl Runner {
    /// Waits for the grant, runs the agent and returns its end.
    pub(super) async fn run_agent(&mut self, job: Job) -> End {
        let notice = job.pause_notice.as_ref();
        self.reports.begin(&job);
        let mut machine = Machine::new(Policy {
            pause: job.pause_policy,
            notice: notice.map(|n| Duration::from_secs(u64::try_from(n.seconds).unwrap_or(0))),
            grace: self.grace,
            limit: job.execution_limit_millis.map(Duration::from_millis),
            budget: self.reports.active_left(),
            used_up: self.reports.used_up().is_some(),
            freeze_refusal: self.processes.freeze_refusal(),
        });
        say(format_args!("waiting for the grant"));
        let mut exit = Exit::None;
        loop {
            let mut events: VecDeque<Event> = self.next(&machine, &mut exit).await.into();
            while let Some(event) = events.pop_front() {
                for action in machine.on(self.begun.elapsed(), event) {
                    if let Action::Finish { started, stopped } = action {
                        self.snapshot.send_replace(machine.snapshot());
                        return self.conclude(&job, exit, started, stopped, machine.active(self.begun.elapsed())).await;
                    }
                    events.extend(self.act(&job, action, &mut exit));
                }
                self.snapshot.send_replace(machine.snapshot());
            }
        }
    }

    /// Waits for the next event.
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
            () = self.stops.recv() => {
                say(format_args!("the pod is being terminated"));
                self.killed_at = Instant::now().checked_add(self.grace);
                vec![Event::Terminate]
            }
            Some(message) = self.incoming.recv() => match message {
                Incoming::Message(ControlMessage::Grant { attempt }) => vec![Event::Grant { attempt }],
                Incoming::Message(ControlMessage::Command { desired, generation }) => vec![Event::Command { desired, generation }],
                Incoming::Message(ControlMessage::Stop { why }) | Incoming::Gone(why) => {
                    say(format_args!("stopped by the gateway, without a report: {why}"));
                    vec![Event::Gone]
                }
                Incoming::Progress(found) => {
                    self.reports.take(found);
                    let over = self.reports.over(machine.active(self.begun.elapsed()));
                    over.map(|_| Event::OverBudget).into_iter().collect()
                }
                Incoming::Message(ControlMessage::Ping {}) | Incoming::Job(_) => vec![],
            },
            () = tick => vec![Event::Tick],
        }
    }

    /// Carries out an action and returns the event that follows.
    fn act(&mut self, job: &Job, action: Action, exit: &mut Exit) -> Option<Event> {
        match action {
            Action::Start { attempt } => match self.start(job, attempt) {
                Ok(pid) => {
                    say(format_args!("agent started (attempt {attempt}, pid {pid})"));
                    return Some(Event::Started);
                }
                Err(error) => {
                    say(format_args!("the agent could not be started: {error:?}"));
                    *exit = error;
                    return Some(Event::NotStarted);
                }
            },
            Action::Notify => {
                if let Some(signal) = job.pause_notice.as_ref().and_then(|n| notice_signal(&n.signal)) {
                    told(signal, self.processes.signal_agent(signal));
                }
            }
            Action::Freeze { resume_vfork_children } => {
                return Some(Event::Scanned(self.processes.freeze(resume_vfork_children)));
            }
            Action::Thaw => self.processes.signal_all(Signal::SIGCONT),
            Action::Term => told(Signal::SIGTERM, self.processes.signal_agent(Signal::SIGTERM)),
            Action::Kill => {
                self.processes.signal_all(Signal::SIGKILL);
                say(format_args!("the grace period is over, SIGKILL sent to every process"));
            }
            Action::Confirm { state, generation, problem } => {
                match &problem {
                    Some(problem) => say(format_args!("command {generation} can't be carried out: {problem}")),
                    None => say(format_args!("{state:?} (command {generation})")),
                }
                self.answers.send_replace(Some(((state, generation), problem)));
            }
            // Handled by the loop.
            Action::Finish { .. } => {}
        }
        None
    }

    /// Starts the agent; else returns why not.
    fn start(&mut self, job: &Job, attempt: i32) -> Result<i32, Exit> {
        let (files, run) = (&self.files, self.config.run.name.as_str());
        let inputs = inputs_of(job, &self.config.inputs_dir);
        if let Err(exit @ Exit::NotStarted(_)) = inputs {
            return Err(exit);
        }
        let prepared = files.prepare(inputs.as_ref().unwrap_or(&job.inputs), &job.extra);
        prepared.map_err(|e| Exit::NotStarted(format!("its files: {e}")))?;
        let gateway = || Gateway::new(&self.config, &self.identity, String::new()).map_err(io::Error::other);
        let events = Events::begin(job.events.as_ref(), &self.config.state_dir, &files.socket(), gateway);
        let (events, output) = events.map_err(|e| Exit::NotStarted(format!("its events: {e}")))?;
        if let Err(exit) = inputs {
            self.events = events;
            self.events.starting(&job.inputs);
            return Err(exit);
        }
        files.mark_started(run).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Exit::NotSpawned("it was started before".into()),
            _ => Exit::NotStarted(format!("its marker: {e}")),
        })?;
        let mut kodo: Vec<(&str, OsString)> = vec![
            ("KODO_FID", job.fid.clone().into()),
            ("KODO_ENTRY_POINT", job.entry_point.clone().into()),
            ("KODO_ATTEMPT", attempt.to_string().into()),
            ("KODO_INPUTS_FILE", files.inputs().into()),
            ("KODO_EXTRA_FILE", files.extra().into()),
            ("KODO_RESULT_FILE", files.result().into()),
            ("KODO_ERROR_FILE", files.error().into()),
            ("KODO_PROGRESS_FILE", files.progress().into()),
            ("KODO_RUNNER_SOCK", files.socket().into()),
        ];
        let unset = |name: &&String| std::env::var_os(name).is_none();
        for (name, value) in job.environment.iter().filter(|(name, _)| unset(name)) {
            kodo.push((name.as_str(), value.into()));
        }
        if job.resumed {
            kodo.push((env::RESUMED, "1".into()));
        }
        if let Some(notice) = &job.pause_notice {
            kodo.push((env::PAUSE_SIGNAL, notice.signal.clone().into()));
        }
        let (program, arguments) = &self.command;
        self.events = events;
        self.events.starting(&job.inputs);
        let started = self.processes.start(program, arguments, &kodo, output).map_err(|error| {
            let why = format!("{}: {error}", program.display());
            if ending::is_of_the_command(&error) {
                return Exit::NotSpawned(why);
            }
            files.unmark_started(run);
            Exit::NotStarted(why)
        })?;
        self.events.running();
        tokio::spawn(progress::follow(self.files.clone(), self.tell.clone()));
        Ok(started)
    }

    /// Kills the remaining processes and determines how the agent ended.
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
                Some(Stopped::Budget) => ending::budget_used_up(self.reports.used_up()),
                Some(Stopped::Gone) => ending::not_started("the gateway stopped the runner before its agent started"),
                _ => ending::not_started("the pod was terminated before its agent started"),
            };
            return End::unstarted(ending, report);
        }
        let exit = if exit == Exit::None { Exit::Outlived } else { exit };
        self.processes.kill_remaining().await;
        let files = self.files.clone();
        // Up to 64 MiB to read: must not delay heartbeats.
        let left = tokio::task::spawn_blocking(move || read_all(&files)).await;
        let (error, result, reported) = left.unwrap_or_else(|e| {
            let why = e.to_string();
            (FileContents::Unreadable(why.clone()), FileContents::Unreadable(why), FileContents::Nothing)
        });
        self.reports.take(reported);
        let (usage, over) = (self.reports.usage(), self.reports.over(active));
        let limit = job.execution_limit_millis.map(Duration::from_millis);
        let oom = procfs::oom_kills() > self.oom_kills;
        let exited = exit.clone();
        let facts = ExitFacts { exit: exited, stopped, oom, error, result, active, limit, usage, over };
        let ending = ending::classify(facts);
        let why = ending.error.as_ref().map(|e| format!(": {}", e.kind)).unwrap_or_default();
        say(format_args!("agent ended ({exit:?}): {:?}{why}", ending.kind));
        End { ending, exit, report }
    }
}

/// What the agent has left: its error, its result, its last report.
fn read_all(files: &Files) -> (FileContents<AgentError>, FileContents<Value>, FileContents<Vec<u8>>) {
    (files.read_error(), files.read_result(), files.read_progress())
}

/// Says whether a signal was sent.
fn told(signal: Signal, sent: nix::Result<()>) {
    match sent {
        Ok(()) => say(format_args!("{signal} sent to the agent")),
        Err(error) => say(format_args!("{signal} could not be sent to the agent: {error}")),
    }
}

/// The agent's inputs, from all their sources; else why it can't be started.
fn inputs_of(job: &Job, folder: &Path) -> Result<RawJson, Exit> {
    let merged = inputs::merge(&job.inputs, &job.inputs_from, folder).map_err(|error| match error.is_of_the_job() {
        true => Exit::InvalidInputs(error_types::INVALID_INPUTS_FROM, error.to_string()),
        false => Exit::NotStarted(error.to_string()),
    })?;
    match job.inputs_schema.clone() {
        Some(schema) => judged(schema, merged),
        None => Ok(merged),
    }
}

/// The inputs, if they fit the schema. A hostile one may take any time, or any depth of the stack, of this pod; but the
/// runner has to answer again soon.
fn judged(schema: RawJson, inputs: RawJson) -> Result<RawJson, Exit> {
    let (answer, answered) = mpsc::channel();
    let work = move || {
        let fit = judge(&schema, &inputs).map(|()| inputs);
        _ = answer.send(fit);
    };
    let spawned = thread::Builder::new().stack_size(JUDGING_STACK).spawn(work);
    spawned.map_err(|e| Exit::NotStarted(format!("what judges its inputs: {e}")))?;
    let late = |_| Exit::NotStarted(format!("to judge its inputs by spec.inputsSchema takes more than {JUDGING:?}"));
    let fit = answered.recv_timeout(JUDGING).map_err(late)?;
    fit.map_err(|error| Exit::InvalidInputs(error_types::INVALID_INPUTS, error.to_string()))
}

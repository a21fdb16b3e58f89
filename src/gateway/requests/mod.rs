//! Handles requests: admit, decide, write, notify. Called by [`super::server`].

mod admit;
mod events;
mod job;
mod progress;
mod updates;
mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use tokio::sync::{oneshot, watch};

pub use self::admit::{Admitted, Client, Limits};
use self::{
    admit::identify,
    job::{answer, archived_fid, is_wanted},
    writer::News,
};
pub use self::{job::heartbeat_interval, updates::Heard};
use super::{
    Gateway,
    runs::RunUpdate,
    server::Refusal,
    sessions::{
        Session,
        messages::{self, Source},
    },
};
use crate::{
    api::{AgentJob, AgentRun, AgentRunStatus, JobRef, RunnerState},
    platform::{clock, store},
    protocol::{
        runner::{Confirm, EndReport, Heartbeat, Job, Progress, Register},
        workflow::RunnerConfirmed,
    },
};

/// How long to wait for the watch to catch up with what a runner knows before refusing it.
const LAG: Duration = Duration::from_secs(2);

fn now() -> Time {
    Time(clock::now())
}

impl Gateway {
    /// Registers a runner and returns its job, if it needs it. The job is read live, as only the controller caches jobs,
    /// and at a run's first registration alone: all runners come back at once when a gateway has ended. Later the run tells
    /// whether it is wanted, as no job ends before its run.
    pub(super) async fn register(
        self: &Arc<Self>,
        runner: &Admitted,
        register: &Register,
    ) -> Result<Option<Job>, Refusal> {
        let run = runner.open()?;
        let session = self.session(run)?;
        if !session.may_register() {
            return Err(Refusal::TooOften);
        }
        let knows = register.has_job && run.is_ready();
        let job = if knows { None } else { Some(self.read_job(&run.job()).await?) };
        let wanted = |run: &AgentRun| job.as_ref().map_or(Ok(()), |job| is_wanted(job, run));
        let run = match wanted(run) {
            Ok(()) => run.clone(),
            Err(refusal) if refusal.may_be_stale() => {
                let live = self.runs.read(&run.job(), run.number()).await?;
                wanted(&live)?;
                Arc::new(live)
            }
            Err(refusal) => return Err(refusal),
        };
        let (keeps_events, otlp_endpoint) = (self.archive.is_configured(), self.agent_otlp_endpoint.as_deref());
        let answer = job.as_ref().map(|job| answer(job, &run, keeps_events, otlp_endpoint)).transpose()?;
        if let Some(job) = job.as_ref().filter(|_| keeps_events) {
            self.limits.events.note_fid(&run, &archived_fid(job));
        }
        let heard = Heard { generation: register.generation, state: register.state, problem: None, time: now() };
        let change = |run: &AgentRun, status: &mut AgentRunStatus| {
            runner.authorise(run)?;
            wanted(run)?;
            let gateway = (!run.is_temporal()).then_some(self.identity.as_str());
            updates::register(run, status, runner, &heard, gateway);
            Ok(())
        };
        let run = self.runs.modify_status(&run, change).await?;
        if run.is_closed() {
            return Err(Refusal::RunClosed);
        }
        if let Some(job) = &job {
            self.note_workflow(job, &session);
        }
        let waits = run.spec.grant.is_none();
        // The gateway that received a confirmation may have ended before it signalled the workflow.
        let confirmed = confirmed(&run, register.state, register.generation);
        self.signal(&run, &session, waits.then_some(run.number()), confirmed);
        tracing::info!(state = ?register.state, "a runner registers");
        Ok(answer)
    }

    /// Opens a runner's stream.
    pub(super) async fn messages(self: &Arc<Self>, runner: &Admitted) -> Result<Body, Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let place = self.streams.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let run = runner.open()?;
        let session = self.session(run)?;
        let updates = self.subscribe(run.uid()).await?;
        let mut number = 0;
        session.stream.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        if self.is_named_elsewhere(run) {
            self.write_later(run, &session, News { gateway: true, ..News::default() });
        }
        Ok(messages::body(Source {
            run: Box::new((**run).clone()),
            updates,
            workflow_closed: session.workflow_closed.subscribe(),
            newest: (session.stream.subscribe(), number),
            _session: session,
            drain: self.stop.clone(),
            _place: place,
        }))
    }

    /// Handles a heartbeat. Answered from the caches: neither Temporal nor the API server delays it.
    pub(super) async fn heartbeat(self: &Arc<Self>, runner: &Admitted, heartbeat: &Heartbeat) -> Result<(), Refusal> {
        let run = runner.open()?;
        let session = self.session(run)?;
        self.metrics.heartbeats.inc();
        let old = run.status.clone().unwrap_or_default();
        let mut new = old.clone();
        updates::contact(run, &mut new);
        // Its stream may be at another gateway, which would deem it unresponsive if all heartbeats came here.
        let all_here = !heartbeat.between && session.hears_all(heartbeat_interval(run), Instant::now());
        let progress = heartbeat.progress.as_ref().and_then(|said| self.progress_to_write(&old, said));
        let gateway = all_here && run.spec.grant.is_some() && self.is_named_elsewhere(run);
        if gateway || progress.is_some() || new != old {
            self.write_later(run, &session, News { gateway, progress, ..News::default() });
        }
        // Temporal gets the regular ones.
        if !heartbeat.between {
            self.forward_heartbeat(run, &session);
        }
        Ok(())
    }

    /// An agent's progress and the time, if it is to be written now.
    fn progress_to_write(&self, status: &AgentRunStatus, said: &Progress) -> Option<(Progress, Time)> {
        let now = now();
        let may = progress::is_due(status, said, &now) && self.limits.progress.take(self.peers.count(), Instant::now());
        may.then(|| (said.clone(), now))
    }

    /// Handles a confirmation: a command was carried out, or can't be. Signals the workflow concurrently.
    pub(super) async fn confirm(self: &Arc<Self>, runner: &Admitted, confirm: &Confirm) -> Result<(), Refusal> {
        let mut run = runner.open()?.clone();
        if updates::was_commanded(&run, confirm.generation).is_err() {
            run = Arc::new(self.runs.read(&run.job(), run.number()).await?);
            runner.authorise(&run)?;
            updates::was_commanded(&run, confirm.generation)?;
        }
        let session = self.session(&run)?;
        if confirm.problem.is_none() {
            self.signal(&run, &session, None, confirmed(&run, confirm.state, confirm.generation));
        }
        let problem = confirm.problem.as_deref().map(updates::cut);
        let heard = Heard { generation: confirm.generation, state: confirm.state, problem, time: now() };
        self.acknowledge(&run, &session, runner, heard).await
    }

    /// Writes a confirmation before it is answered; above the rate limit, soon after.
    async fn acknowledge(
        self: &Arc<Self>,
        run: &Arc<AgentRun>,
        session: &Arc<Session>,
        runner: &Admitted,
        heard: Heard,
    ) -> Result<(), Refusal> {
        let mut new = run.status.clone().unwrap_or_default();
        updates::confirm(run, &mut new, &heard);
        if run.status.as_ref() == Some(&new) {
            return Ok(());
        }
        let waiting = session.update.lock().writing;
        if waiting || session.may_write().is_err() {
            self.write_later(run, session, News { heard: Some(heard), ..News::default() });
            return Ok(());
        }
        let change = |run: &AgentRun, status: &mut AgentRunStatus| {
            runner.authorise(run)?;
            updates::confirm(run, status, &heard);
            Ok(())
        };
        let run = self.runs.modify_status(run, change).await?;
        if run.is_closed() { Err(Refusal::RunClosed) } else { Ok(()) }
    }

    /// Handles the report of an end: recorded before it is answered, delivered to Temporal after. Continues if the
    /// runner disconnects, which may be stopped before it gets the response.
    pub(super) async fn end(self: &Arc<Self>, runner: &Admitted, report: &EndReport) -> Result<(), Refusal> {
        let (tell, told) = oneshot::channel();
        let (gateway, runner, report) = (self.clone(), runner.clone(), report.clone());
        self.background.spawn(async move {
            let answer = gateway.record_end(&runner, &report).await;
            // The runner may have disconnected.
            drop(tell.send(answer));
        });
        told.await.unwrap_or(Err(Refusal::Draining))
    }

    async fn record_end(self: &Arc<Self>, runner: &Admitted, report: &EndReport) -> Result<(), Refusal> {
        let (run, now) = (&runner.run, now());
        let change = |run: &AgentRun, status: &mut AgentRunStatus| {
            runner.authorise(run)?;
            updates::end(run, status, report, &now);
            Ok(())
        };
        if !run.is_closed() {
            self.session(run)?;
        }
        let run = self.runs.modify_status(run, change).await?;
        identify(&run, &runner.key, runner.pod.as_ref())?;
        updates::is_recorded(&run, report, &now)?;
        tracing::info!(kind = ?report.end.kind, "a run has ended");
        self.complete(run);
        Ok(())
    }

    /// The job as the API server has it now, whole.
    pub(super) async fn read_job(&self, job: &JobRef) -> Result<AgentJob, Refusal> {
        let api = Api::<AgentJob>::namespaced(self.client.clone(), &job.namespace);
        Ok(store::read(&api, &job.name, &job.uid).await?)
    }

    /// The session of an authorised runner; records the contact.
    fn session(&self, run: &AgentRun) -> Result<Arc<Session>, Refusal> {
        let session = self.sessions.of(run.uid());
        session.heard();
        if *session.workflow_closed.borrow() {
            return Err(Refusal::WorkflowClosed);
        }
        Ok(session)
    }

    /// Whether it is a Direct run's runner that is recorded as connected to another gateway.
    fn is_named_elsewhere(&self, run: &AgentRun) -> bool {
        let named = run.status.as_ref().and_then(|s| s.gateway.as_ref());
        !run.is_temporal() && named != Some(&self.identity)
    }

    /// The changes of a run, once the watch knows it.
    async fn subscribe(&self, uid: &str) -> Result<watch::Receiver<RunUpdate>, Refusal> {
        let found = async {
            loop {
                match self.runs.subscribe(uid) {
                    Some(updates) => return updates,
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(LAG, found).await.map_err(|_| Refusal::Busy)
    }
}

/// The signal for a confirmation; `None` before the first command.
fn confirmed(run: &AgentRun, state: RunnerState, generation: i64) -> Option<RunnerConfirmed> {
    let generation = generation.min(run.command_generation());
    (generation > 0).then_some(RunnerConfirmed { run: run.number(), generation, state })
}

//! Handles requests: authorise, decide, write, notify. Called by [`super::server`], which has authenticated the
//! caller.

mod authorise;
mod job;
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

use self::{
    authorise::{authorise, identify, may_ask},
    job::{answer, is_wanted},
    writer::News,
};
pub use self::{job::heartbeat_interval, updates::Heard};
use super::{
    Gateway,
    runs::RunUpdate,
    server::{Caller, Refusal},
    sessions::{
        Session,
        orders::{self, Source},
    },
};
use crate::{
    api::{AgentJob, AgentRun, AgentRunStatus, JobRef, RunnerState, names},
    platform::{clock, store},
    protocol::{
        runner::{Confirm, EndReport, Heartbeat, Job, Register, Sender},
        workflow::RunnerConfirmed,
    },
};

/// How long to wait for the watch to catch up with what a runner knows before refusing it.
const LAG: Duration = Duration::from_secs(2);

fn now() -> Time {
    Time(clock::now())
}

impl Gateway {
    /// Registers a runner and returns its job. The job is read live: only the controller caches jobs.
    pub(super) async fn hello(self: &Arc<Self>, caller: &Caller, hello: &Register) -> Result<Job, Refusal> {
        let sender = &hello.sender;
        let run = self.authorised(caller, sender).await?;
        let session = self.session(&run)?;
        if !session.may_say_hello() {
            return Err(Refusal::TooOften);
        }
        let job = self.read_job(&sender.job).await?;
        let run = match is_wanted(&job, &run) {
            Ok(()) => run,
            Err(refusal) if refusal.may_be_stale() => {
                let live = self.runs.read(&sender.job, sender.run).await?;
                is_wanted(&job, &live)?;
                Arc::new(live)
            }
            Err(refusal) => return Err(refusal),
        };
        let answer = answer(&job, &run)?;
        let heard = Heard { generation: hello.generation, state: hello.state, problem: None, time: now() };
        let change = |run: &AgentRun, status: &mut AgentRunStatus| {
            authorise(run, sender, caller)?;
            is_wanted(&job, run)?;
            let gateway = (!run.is_temporal()).then_some(self.identity.as_str());
            updates::hello(run, status, &caller.pod_uid, &heard, gateway);
            Ok(())
        };
        let run = self.runs.modify_status(&run, change).await?;
        if run.is_closed() {
            return Err(Refusal::RunClosed);
        }
        self.note_workflow(&job, &session);
        let waits = run.spec.grant.is_none();
        // The gateway that received a confirmation may have ended before it signalled the workflow.
        let confirmed = confirmed(&run, hello.state, hello.generation);
        self.signal(&run, &session, waits.then_some(sender.run), confirmed);
        let namespace = &sender.job.namespace;
        tracing::info!(namespace, run = run.name(), state = ?hello.state, "a runner reports in");
        Ok(answer)
    }

    /// Opens a runner's stream.
    pub(super) async fn orders(self: &Arc<Self>, caller: &Caller, sender: &Sender) -> Result<Body, Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let place = self.streams.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let run = self.authorised(caller, sender).await?;
        let session = self.session(&run)?;
        let updates = self.subscribe(run.uid()).await?;
        let mut number = 0;
        session.stream.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        if self.is_named_elsewhere(&run) {
            self.write_later(&run, &session, News { gateway: true, ..News::default() });
        }
        Ok(orders::body(Source {
            run: Box::new((*run).clone()),
            updates,
            workflow_closed: session.workflow_closed.subscribe(),
            newest: (session.stream.subscribe(), number),
            _session: session,
            drain: self.stop.clone(),
            _place: place,
        }))
    }

    /// Handles a heartbeat. Answered from the caches: neither Temporal nor the API server delays it.
    pub(super) async fn heartbeat(self: &Arc<Self>, caller: &Caller, heartbeat: &Heartbeat) -> Result<(), Refusal> {
        let run = self.authorised(caller, &heartbeat.sender).await?;
        let session = self.session(&run)?;
        self.metrics.heartbeats.inc();
        let old = run.status.clone().unwrap_or_default();
        let mut new = old.clone();
        updates::contact(&run, &mut new);
        // Its stream may be at another gateway, which would deem it unresponsive if all heartbeats came here.
        let all_here = session.hears_all(heartbeat_interval(&run), Instant::now());
        let gateway = all_here && run.spec.grant.is_some() && self.is_named_elsewhere(&run);
        if gateway || new != old {
            self.write_later(&run, &session, News { gateway, ..News::default() });
        }
        self.forward_heartbeat(&run, &session);
        Ok(())
    }

    /// Handles a confirmation: a command was carried out, or can't be. Signals the workflow concurrently.
    pub(super) async fn confirm(self: &Arc<Self>, caller: &Caller, confirm: &Confirm) -> Result<(), Refusal> {
        let sender = &confirm.sender;
        let mut run = self.authorised(caller, sender).await?;
        if updates::was_commanded(&run, confirm.generation).is_err() {
            run = self.read_live(caller, sender).await?;
            authorise(&run, sender, caller)?;
            updates::was_commanded(&run, confirm.generation)?;
        }
        let session = self.session(&run)?;
        if confirm.problem.is_none() {
            self.signal(&run, &session, None, confirmed(&run, confirm.state, confirm.generation));
        }
        let problem = confirm.problem.as_deref().map(updates::cut);
        let heard = Heard { generation: confirm.generation, state: confirm.state, problem, time: now() };
        self.acknowledge(&run, &session, caller, sender, heard).await
    }

    /// Writes a confirmation before it is answered; above the rate limit, soon after.
    async fn acknowledge(
        self: &Arc<Self>,
        run: &Arc<AgentRun>,
        session: &Arc<Session>,
        caller: &Caller,
        sender: &Sender,
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
            authorise(run, sender, caller)?;
            updates::confirm(run, status, &heard);
            Ok(())
        };
        let run = self.runs.modify_status(run, change).await?;
        if run.is_closed() { Err(Refusal::RunClosed) } else { Ok(()) }
    }

    /// Handles the report of an end: recorded before it is answered, delivered to Temporal after. Continues if the
    /// runner disconnects, which may be stopped before it gets the response.
    pub(super) async fn outcome(self: &Arc<Self>, caller: &Caller, report: &EndReport) -> Result<(), Refusal> {
        let run = self.identified(caller, &report.sender).await?;
        let (tell, told) = oneshot::channel();
        let (gateway, caller, report) = (self.clone(), caller.clone(), report.clone());
        self.background.spawn(async move {
            let answer = gateway.record_outcome(run, &caller, &report).await;
            // The runner may have disconnected.
            drop(tell.send(answer));
        });
        told.await.unwrap_or(Err(Refusal::Draining))
    }

    async fn record_outcome(
        self: &Arc<Self>,
        run: Arc<AgentRun>,
        caller: &Caller,
        report: &EndReport,
    ) -> Result<(), Refusal> {
        let (sender, now) = (&report.sender, now());
        let change = |run: &AgentRun, status: &mut AgentRunStatus| {
            authorise(run, sender, caller)?;
            updates::outcome(run, status, report, &now);
            Ok(())
        };
        if !run.is_closed() {
            self.session(&run)?;
        }
        let run = self.runs.modify_status(&run, change).await?;
        identify(&run, sender, caller)?;
        updates::is_recorded(&run, report, &now)?;
        let namespace = &sender.job.namespace;
        tracing::info!(namespace, run = run.name(), kind = ?report.end.kind, "a run has ended");
        self.complete(run);
        Ok(())
    }

    fn may_ask(&self, caller: &Caller, sender: &Sender) -> Result<(), Refusal> {
        may_ask(sender, caller)?;
        let watched = |n: &Option<String>| n.as_ref().is_none_or(|n| *n == caller.namespace);
        if self.namespaces.iter().any(watched) { Ok(()) } else { Err(Refusal::NotWatched) }
    }

    /// The run, if the caller is its runner and it is open.
    async fn authorised(&self, caller: &Caller, sender: &Sender) -> Result<Arc<AgentRun>, Refusal> {
        let run = self.identified(caller, sender).await?;
        if run.is_closed() { Err(Refusal::RunClosed) } else { Ok(run) }
    }

    /// The run, if the caller is its runner by the cache or, if that is stale and refuses it, by the API server.
    async fn identified(&self, caller: &Caller, sender: &Sender) -> Result<Arc<AgentRun>, Refusal> {
        self.may_ask(caller, sender)?;
        let name = names::run(&sender.job.name, &sender.job.uid, sender.run);
        if let Some(run) = self.runs.named(&sender.job.namespace, &name) {
            match identify(&run, sender, caller) {
                Err(refusal) if refusal.may_be_stale() => {}
                answer => return answer.map(|()| run),
            }
        }
        self.read_live(caller, sender).await
    }

    /// The run as the API server has it, if the caller is its runner. The cache has only open runs, so a missing one
    /// is read here, too: a run is created before its pod, so one that does not exist is gone.
    async fn read_live(&self, caller: &Caller, sender: &Sender) -> Result<Arc<AgentRun>, Refusal> {
        if !self.sessions.may_read(&caller.pod_uid) {
            return Err(Refusal::TooOften);
        }
        let run = self.runs.read(&sender.job, sender.run).await?;
        if let Err(refusal) = identify(&run, sender, caller) {
            let (namespace, pod) = (&caller.namespace, &caller.pod_name);
            tracing::warn!(namespace, run = run.name(), pod, reason = refusal.reason(), "a pod is not the run's");
            return Err(refusal);
        }
        Ok(Arc::new(run))
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

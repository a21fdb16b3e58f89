//! What each request does: authorise, decide, write, tell. Called by [`super::http`], which has authenticated the caller.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use k8s_openapi::jiff::Timestamp;

use super::{
    Gateway,
    auth::Caller,
    authorise::{authorise, may_ask},
    decide::{self, Contact},
    error::Refusal,
    jobs::Seen,
    orders::{self, Source},
    sessions::Session,
};
use crate::{
    api::{AgentJob, AgentJobStatus, RunnerState},
    protocol::{
        runner::{Confirm, Heartbeat, Hello, Job, Report, Sender},
        workflow::RunnerConfirmed,
    },
};

/// How long the watch may lag behind what a runner knows before it is sent away.
const LAG: Duration = Duration::from_secs(2);

impl Gateway {
    /// A runner reports in, and gets its job. Read live: our copies have no inputs.
    pub(super) async fn hello(self: &Arc<Self>, caller: &Caller, hello: &Hello) -> Result<Job, Refusal> {
        let sender = &hello.sender;
        self.may_ask(caller, sender)?;
        let job = self.jobs.read(&sender.job).await?;
        authorise(&job, sender, caller)?;
        self.session(sender)?;
        let answer = decide::job(&job)?;
        let now = Timestamp::now();
        let change = |job: &AgentJob, status: &mut AgentJobStatus| {
            authorise(job, sender, caller)?;
            let gateway = decide::is_direct(status).then_some(self.identity.as_str());
            decide::hello(status, hello, &Contact { epoch: sender.epoch, state: hello.state, now, gateway });
            Ok(())
        };
        let job = self.jobs.modify(&sender.job, Some(job), change).await?;
        let waits = job.status.as_ref().is_some_and(|s| decide::permit(s).is_none());
        // The gateway that took a confirmation may have ended before it told the workflow.
        let confirmed = confirmed(sender, hello.state, hello.seq).filter(|c| c.seq > 0);
        self.tell(&job, waits.then_some(sender.epoch), confirmed);
        let (namespace, name, epoch) = (&sender.job.namespace, &sender.job.name, sender.epoch);
        tracing::info!(namespace, job = name, epoch, state = ?hello.state, "a runner reports in");
        Ok(answer)
    }

    /// The stream of orders for a runner.
    pub(super) async fn orders(&self, caller: &Caller, sender: &Sender) -> Result<Body, Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let place = self.streams.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let job = self.authorised(caller, sender).await?;
        let session = self.session(sender)?;
        let bell = self.bell(&sender.job.uid).await?;
        let mut number = 0;
        session.stream.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        Ok(orders::body(Source {
            epoch: sender.epoch,
            job: Box::new(job),
            bell,
            closed: session.closed.subscribe(),
            newest: (session.stream.subscribe(), number),
            drain: self.stop.clone(),
            _place: place,
        }))
    }

    /// The runner and its agent live. Answered from our copies: neither Temporal nor the API server holds up a heartbeat.
    pub(super) async fn take_heartbeat(self: &Arc<Self>, caller: &Caller, beat: &Heartbeat) -> Result<(), Refusal> {
        let sender = &beat.sender;
        let job = self.authorised(caller, sender).await?;
        let session = self.session(sender)?;
        self.metrics.heartbeats.inc();
        let Some(old) = &job.status else { return Ok(()) };
        let takes_over = self.takes_over(old, &session);
        let (epoch, state, now) = (sender.epoch, beat.state, Timestamp::now());
        let mut new = old.clone();
        let gateway = takes_over.then_some(self.identity.as_str());
        decide::contact(&mut new, &Contact { epoch, state, now, gateway });
        let news = new != *old;
        let waited_for = decide::permit(old).is_some() && old.outcome.as_ref().is_none_or(|o| o.epoch != epoch);
        if !(news || waited_for && decide::is_temporal(old)) {
            return Ok(());
        }
        let (us, sender, caller) = (self.clone(), sender.clone(), caller.clone());
        let write = async move {
            let change = |job: &AgentJob, status: &mut AgentJobStatus| {
                authorise(job, &sender, &caller)?;
                let gateway = takes_over.then_some(us.identity.as_str());
                decide::contact(status, &Contact { epoch, state, now, gateway });
                Ok(())
            };
            if news && let Err(refusal) = us.jobs.modify(&sender.job, None, change).await {
                tracing::debug!(reason = refusal.reason(), "a heartbeat's news wait for the next one");
            }
        };
        self.beat(job, write);
        Ok(())
    }

    /// A Direct job's runner that talks to us now, but is known to talk to another.
    fn takes_over(&self, status: &AgentJobStatus, session: &Session) -> bool {
        let named = status.runner.as_ref().and_then(|r| r.gateway.as_ref());
        let Some(resolved) = status.resolved.as_ref().filter(|_| named != Some(&self.identity)) else { return false };
        decide::is_direct(status) && session.may_take_over(resolved.timeouts.heartbeat.get() / 2)
    }

    /// A command was carried out, or can't be. The workflow is told at the same time.
    pub(super) async fn confirm(self: &Arc<Self>, caller: &Caller, confirm: &Confirm) -> Result<(), Refusal> {
        let sender = &confirm.sender;
        let job = self.authorised(caller, sender).await?;
        self.session(sender)?;
        if confirm.problem.is_none() {
            self.tell(&job, None, confirmed(sender, confirm.state, confirm.seq));
        }
        let now = Timestamp::now();
        let change = |job: &AgentJob, status: &mut AgentJobStatus| {
            authorise(job, sender, caller)?;
            let of = Contact { epoch: sender.epoch, state: confirm.state, now, gateway: None };
            decide::confirm(status, confirm, &of);
            Ok(())
        };
        self.jobs.modify(&sender.job, None, change).await?;
        Ok(())
    }

    /// How the agent ended: recorded before it is answered, handed to Temporal after.
    pub(super) async fn outcome(self: &Arc<Self>, caller: &Caller, report: &Report) -> Result<(), Refusal> {
        let sender = &report.sender;
        self.authorised(caller, sender).await?;
        self.session(sender)?;
        let now = Timestamp::now();
        let change = |job: &AgentJob, status: &mut AgentJobStatus| {
            authorise(job, sender, caller)?;
            decide::outcome(status, report, now)
        };
        let job = self.jobs.modify(&sender.job, None, change).await?;
        let (namespace, name, epoch) = (&sender.job.namespace, &sender.job.name, sender.epoch);
        tracing::info!(namespace, job = name, epoch, kind = ?report.ending.kind, "an outcome");
        // With the binding of this very moment: a newer one will find the outcome in status.
        self.deliver(job);
        Ok(())
    }

    fn may_ask(&self, caller: &Caller, sender: &Sender) -> Result<(), Refusal> {
        may_ask(sender, caller)?;
        let watched = |n: &Option<String>| n.as_ref().is_none_or(|n| *n == caller.namespace);
        if self.namespaces.iter().any(watched) { Ok(()) } else { Err(Refusal::ForeignNamespace) }
    }

    /// The job, if the caller is its claim's runner by our copy or, where that says no and may be old, by the API server.
    async fn authorised(&self, caller: &Caller, sender: &Sender) -> Result<AgentJob, Refusal> {
        self.may_ask(caller, sender)?;
        if let Some(job) = self.jobs.get(&sender.job.uid) {
            match authorise(&job, sender, caller) {
                Err(refusal) if refusal.may_be_stale() => {}
                answer => return answer.map(|()| (*job).clone()),
            }
        }
        let job = self.jobs.read(&sender.job).await?;
        authorise(&job, sender, caller)?;
        Ok(job)
    }

    /// The session of a runner that is authorised: it was heard.
    fn session(&self, sender: &Sender) -> Result<Arc<Session>, Refusal> {
        let session = self.sessions.of(&sender.job.uid);
        session.heard(sender.epoch);
        if *session.closed.borrow() == Some(sender.epoch) {
            return Err(Refusal::WorkflowClosed);
        }
        Ok(session)
    }

    /// The job's bell, once the watch knows the job.
    async fn bell(&self, uid: &str) -> Result<tokio::sync::watch::Receiver<Seen>, Refusal> {
        let found = async {
            loop {
                match self.jobs.subscribe(uid) {
                    Some(bell) => return bell,
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(LAG, found).await.map_err(|_| Refusal::Busy)
    }
}

fn confirmed(sender: &Sender, state: RunnerState, seq: i64) -> Option<RunnerConfirmed> {
    Some(RunnerConfirmed { epoch: sender.epoch, seq, state })
}

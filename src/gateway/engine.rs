//! What the gateway does with Temporal: it forwards heartbeats, tells the workflow of its runner, and hands over outcomes.
//! All of it in the background: no runner waits for Temporal, and a Temporal that is away costs nothing but news.
//! Called by the requests.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};

use super::{Gateway, decide, sessions::Session};
use crate::{
    api::{AgentJob, JobRef},
    protocol::workflow::{RunnerConfirmed, RunnerReady, SIGNAL_RUNNER_CONFIRMED, SIGNAL_RUNNER_READY},
    temporal::{Heartbeat, TaskToken, Temporal, TemporalError},
};

/// A job's workflow and the task that waits for its outcome.
struct Binding {
    workflow: String,
    offer: i32,
    token: TaskToken,
}

/// The workflow of a job, if it is one of the Temporal namespace that we talk to: a NotFound from another would prove nothing.
fn workflow(job: &AgentJob, temporal: &Temporal) -> Option<String> {
    let status = job.status.as_ref().filter(|s| decide::is_temporal(s))?;
    let workflow = status.workflow.as_ref().filter(|w| !w.id.is_empty())?;
    if workflow.namespace != temporal.namespace() {
        tracing::warn!(job = ?job.metadata.name, namespace = workflow.namespace, "a workflow of another Temporal namespace");
        return None;
    }
    Some(workflow.id.clone())
}

/// Whether the job's workflow has started, or is about to, and its id is not in status yet: it will want to be told.
fn is_unsubmitted(job: &AgentJob) -> bool {
    job.status.as_ref().is_some_and(|s| decide::is_temporal(s) && s.workflow.as_ref().is_none_or(|w| w.id.is_empty()))
}

/// What the claim's permit is bound to. Task tokens are unsigned, so one that does not speak of this job's own workflow is
/// not used.
fn binding(job: &AgentJob, temporal: &Temporal) -> Option<Binding> {
    let workflow = workflow(job, temporal)?;
    let permit = decide::permit(job.status.as_ref()?)?;
    match TaskToken::from_claim(permit.task_token.as_deref()?, &workflow) {
        Ok(token) => Some(Binding { workflow, offer: permit.offer, token }),
        Err(error) => {
            tracing::error!(job = ?job.metadata.name, %error, "the claim's task token is not used");
            None
        }
    }
}

fn epoch(job: &AgentJob) -> Option<i32> {
    Some(job.status.as_ref()?.claim.as_ref()?.epoch)
}

impl Gateway {
    /// Forwards a heartbeat of the claim's runner, unless one is on its way; with it goes what `write` says is news for status.
    pub(super) fn beat(self: &Arc<Self>, job: AgentJob, write: impl Future<Output = ()> + Send + 'static) {
        let session = self.sessions.of(job.uid());
        if session.beating.swap(true, Ordering::AcqRel) {
            return;
        }
        let gateway = self.clone();
        self.background.spawn(async move {
            tokio::join!(write, gateway.heartbeat(&job, &session));
            session.beating.store(false, Ordering::Release);
        });
    }

    async fn heartbeat(&self, job: &AgentJob, session: &Session) {
        let Some(bound) = binding(job, &self.temporal) else { return };
        match self.temporal.heartbeat(bound.token).await {
            Ok(Heartbeat::Alive) => return,
            Ok(Heartbeat::Unknown) => {}
            Err(error) => return tracing::debug!(%error, "a heartbeat did not reach Temporal"),
        }
        // Superseded, in back-off, closed, reset or continued as new. The claim may have a newer binding than our copy.
        let Ok(live) = self.jobs.read(&job.reference()).await else { return };
        if epoch(&live) != epoch(job) {
            return;
        }
        if let Some(newer) = binding(&live, &self.temporal).filter(|b| b.offer > bound.offer)
            && !matches!(self.temporal.heartbeat(newer.token).await, Ok(Heartbeat::Unknown))
        {
            return;
        }
        self.find_closed(&bound.workflow, &live, session).await;
    }

    /// Asks whether the workflow still runs. If not, the runner is told to stop; else it holds and waits for its next binding.
    async fn find_closed(&self, workflow: &str, job: &AgentJob, session: &Session) {
        if !session.may_describe() {
            return;
        }
        let closed = match self.temporal.describe(workflow).await {
            Ok((closed, _)) => closed.is_some(),
            Err(TemporalError::NotFound(_)) => true,
            Err(_) => false,
        };
        if closed {
            tracing::info!(workflow, "the workflow is closed: its runner is told to stop");
            session.closed.send_replace(epoch(job));
        }
    }

    /// Tells the workflow that the runner is ready, and what it has confirmed, until it knows or need not know any more.
    pub(super) fn tell(self: &Arc<Self>, job: &AgentJob, ready: Option<i32>, confirmed: Option<RunnerConfirmed>) {
        let nobody = workflow(job, &self.temporal).is_none() && !is_unsubmitted(job);
        if (ready.is_none() && confirmed.is_none()) || nobody {
            return;
        }
        let session = self.sessions.of(job.uid());
        let Ok(mut mail) = session.mail.lock() else { return };
        mail.ready = ready.or(mail.ready);
        let order = |c: &RunnerConfirmed| (c.epoch, c.seq);
        if confirmed.as_ref().map(order) >= mail.confirmed.as_ref().map(order) {
            mail.confirmed = confirmed;
        }
        if std::mem::replace(&mut mail.busy, true) {
            return;
        }
        drop(mail);
        let (gateway, job) = (self.clone(), job.clone());
        self.background.spawn(async move { gateway.deliver_mail(job, session).await });
    }

    async fn deliver_mail(&self, mut job: AgentJob, session: Arc<Session>) {
        let reference = job.reference();
        let mut waits = patience().build();
        loop {
            if let Some(newer) = self.jobs.get(&reference.uid) {
                job = (*newer).clone();
            }
            let Some((ready, confirmed)) = pending(&session, &job) else { return };
            let workflow = workflow(&job, &self.temporal);
            let sent = match &workflow {
                Some(workflow) => self.send(workflow, ready, confirmed.as_ref()).await,
                None if is_unsubmitted(&job) => {
                    Err(TemporalError::Unavailable("the job's workflow is not on record yet".into()))
                }
                None => return idle(&session),
            };
            match sent {
                Ok(()) => {
                    waits = patience().build();
                    delivered(&session, ready, confirmed.as_ref());
                    continue;
                }
                Err(TemporalError::NotFound(_)) => {
                    let Some(workflow) = &workflow else { return idle(&session) };
                    self.find_closed(workflow, &job, &session).await;
                    if *session.closed.borrow() == epoch(&job) {
                        return idle(&session);
                    }
                }
                Err(TemporalError::NotConfigured) => return idle(&session),
                Err(error) => tracing::debug!(%error, workflow, "a signal did not reach Temporal"),
            }
            // Whoever serves the runner next is told anew, by its hello.
            tokio::select! {
                () = self.stop.cancelled() => return idle(&session),
                () = tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(5))) => {}
            }
            if self.jobs.subscribe(&reference.uid).is_none() && self.is_gone(&reference).await {
                return idle(&session);
            }
        }
    }

    /// Our copy may only be late.
    async fn is_gone(&self, job: &JobRef) -> bool {
        use super::error::Refusal;
        match self.jobs.read(job).await {
            Ok(job) => job.status.and_then(|s| s.phase).is_some_and(|p| p.is_terminal()),
            Err(refusal) => refusal == Refusal::Gone,
        }
    }

    async fn send(
        &self,
        workflow: &str,
        ready: Option<i32>,
        confirmed: Option<&RunnerConfirmed>,
    ) -> Result<(), TemporalError> {
        if let Some(epoch) = ready {
            self.temporal.signal(workflow, SIGNAL_RUNNER_READY, &RunnerReady { epoch }).await?;
        }
        if let Some(confirmed) = confirmed {
            self.temporal.signal(workflow, SIGNAL_RUNNER_CONFIRMED, confirmed).await?;
        }
        Ok(())
    }

    /// Hands the recorded outcome to whoever waits for it. If that fails, it is in status: the next binding finds it there,
    /// and the controller delivers it again.
    pub(super) fn deliver(self: &Arc<Self>, job: AgentJob) {
        let Some(bound) = binding(&job, &self.temporal) else { return };
        let Some(outcome) = job.status.and_then(|s| s.outcome) else { return };
        let temporal = self.temporal.clone();
        self.background.spawn(async move {
            let attempt = || temporal.deliver(bound.token.clone(), &outcome);
            let few = patience().with_max_times(5);
            match attempt.retry(few).when(TemporalError::is_transient).await {
                Ok(()) => {}
                Err(TemporalError::NotFound(_)) => tracing::debug!(workflow = bound.workflow, "nobody waits yet"),
                Err(error) => tracing::warn!(%error, workflow = bound.workflow, "an outcome is left in status only"),
            }
        });
    }
}

fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
}

/// What is still worth telling; `None` ends the task, so that the next mail starts another.
fn pending(session: &Session, job: &AgentJob) -> Option<(Option<i32>, Option<RunnerConfirmed>)> {
    let mut mail = session.mail.lock().ok()?;
    let claim = job.status.as_ref().and_then(|s| s.claim.as_ref());
    let now = claim.map(|c| c.epoch);
    // A permit proves that the workflow knows of its runner; a later epoch, that it does not care. A copy that is older than
    // the mail says nothing.
    mail.ready = mail.ready.filter(|e| now.is_none_or(|n| n <= *e) && !(now == Some(*e) && has_permit(job)));
    mail.confirmed = mail.confirmed.take().filter(|c| now.is_none_or(|n| n <= c.epoch));
    if mail.ready.is_none() && mail.confirmed.is_none() {
        mail.busy = false;
        return None;
    }
    Some((mail.ready, mail.confirmed.clone()))
}

fn has_permit(job: &AgentJob) -> bool {
    job.status.as_ref().is_some_and(|s| decide::permit(s).is_some())
}

/// Takes out what was sent, unless something newer has come meanwhile.
fn delivered(session: &Session, ready: Option<i32>, confirmed: Option<&RunnerConfirmed>) {
    let Ok(mut mail) = session.mail.lock() else { return };
    if mail.ready == ready {
        mail.ready = None;
    }
    if mail.confirmed.as_ref() == confirmed {
        mail.confirmed = None;
    }
}

/// Gives up what is left.
fn idle(session: &Session) {
    if let Ok(mut mail) = session.mail.lock() {
        *mail = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{ExecutionMode, RunnerState, WorkflowStatus},
        gateway::fixtures,
    };

    fn confirmed(epoch: i32, seq: i64) -> RunnerConfirmed {
        RunnerConfirmed { epoch, seq, state: RunnerState::Frozen }
    }

    fn told(ready: Option<i32>, confirmed: Option<RunnerConfirmed>) -> Session {
        let session = Session::default();
        *session.mail.lock().unwrap() = super::super::sessions::Mail { ready, confirmed, busy: true };
        session
    }

    #[test]
    fn a_permit_or_a_later_epoch_makes_news_old() {
        let mut job = fixtures::job();
        let session = told(Some(2), Some(confirmed(2, 1)));
        assert_eq!(pending(&session, &job), Some((Some(2), Some(confirmed(2, 1)))));
        fixtures::claim(&mut job).permit = Some(fixtures::permit(0));
        assert_eq!(pending(&session, &job), Some((None, Some(confirmed(2, 1)))));
        fixtures::claim(&mut job).epoch = 3;
        assert_eq!(pending(&session, &job), None);
        assert!(!session.mail.lock().unwrap().busy);
        let ahead = told(Some(4), None);
        assert_eq!(pending(&ahead, &job), Some((Some(4), None)), "a copy of the job that is older says nothing");
    }

    #[test]
    fn what_comes_while_sending_is_sent_next() {
        let session = told(Some(2), Some(confirmed(2, 1)));
        session.mail.lock().unwrap().confirmed = Some(confirmed(2, 2));
        delivered(&session, Some(2), Some(&confirmed(2, 1)));
        assert_eq!(pending(&session, &fixtures::job()), Some((None, Some(confirmed(2, 2)))));
    }

    #[tokio::test]
    async fn only_a_workflow_of_our_namespace_is_spoken_to() {
        let temporal = Temporal::new(None);
        let mut job = fixtures::job();
        let status = job.status.as_mut().unwrap();
        status.workflow = Some(WorkflowStatus { id: "w".into(), ..Default::default() });
        assert_eq!(workflow(&job, &temporal), None, "Direct");
        let status = job.status.as_mut().unwrap();
        status.resolved.as_mut().unwrap().execution_mode = ExecutionMode::Temporal;
        assert!(!is_unsubmitted(&job));
        assert_eq!(workflow(&job, &temporal), Some("w".into()));
        job.status.as_mut().unwrap().workflow.as_mut().unwrap().namespace = "elsewhere".into();
        assert_eq!(workflow(&job, &temporal), None);
        assert!(!is_unsubmitted(&job));
        job.status.as_mut().unwrap().workflow = None;
        assert!(is_unsubmitted(&job), "its mail waits");
    }

    #[tokio::test]
    async fn a_forged_token_binds_to_nothing() {
        let temporal = Temporal::new(None);
        let mut job = fixtures::job();
        let status = job.status.as_mut().unwrap();
        status.workflow = Some(WorkflowStatus { id: "w".into(), ..Default::default() });
        status.resolved.as_mut().unwrap().execution_mode = ExecutionMode::Temporal;
        let mut permit = fixtures::permit(0);
        // Workflow "x", run "r", event 5, attempt 1.
        permit.task_token = Some(TaskToken::encode(&[0x12, 1, b'x', 0x1a, 1, b'r', 0x20, 5, 0x28, 1]));
        fixtures::claim(&mut job).permit = Some(permit);
        assert!(binding(&job, &temporal).is_none());
        job.status.as_mut().unwrap().workflow.as_mut().unwrap().id = "x".into();
        assert!(binding(&job, &temporal).is_some());
    }
}

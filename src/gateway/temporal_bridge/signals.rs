//! Signals to the workflow: that its runner is ready, and what it has confirmed. Repeated until they are delivered or
//! no longer needed.

use std::{sync::Arc, time::Duration};

use backon::BackoffBuilder;

use super::{Recorded, backoff};
use crate::{
    api::AgentRun,
    gateway::{Gateway, server::Refusal, sessions::Session},
    protocol::workflow::{RunnerConfirmed, RunnerReady, SIGNAL_RUNNER_CONFIRMED, SIGNAL_RUNNER_READY},
    temporal::TemporalError,
};

/// Pending signals about a run's runner; of each kind only the newest counts.
#[derive(Default)]
pub struct PendingSignals {
    /// The runner of the run of this number is ready.
    ready: Option<i32>,
    /// Its confirmation.
    confirmed: Option<RunnerConfirmed>,
    /// Whether a task is delivering.
    busy: bool,
}

/// The result of one try.
enum Round {
    /// It was sent.
    Sent,
    /// It can't be sent now.
    Failed,
    /// It is no longer needed.
    Pointless,
}

impl Gateway {
    /// Signals the workflow that the runner is ready, and what it has confirmed.
    pub(in crate::gateway) fn signal(
        self: &Arc<Self>,
        run: &AgentRun,
        session: &Arc<Session>,
        ready: Option<i32>,
        confirmed: Option<RunnerConfirmed>,
    ) {
        if (ready.is_none() && confirmed.is_none()) || !run.is_temporal() {
            return;
        }
        let mut pending = session.signals.lock();
        pending.ready = ready.or(pending.ready);
        let order = |c: &RunnerConfirmed| c.generation;
        if confirmed.as_ref().map(order) >= pending.confirmed.as_ref().map(order) {
            pending.confirmed = confirmed;
        }
        if std::mem::replace(&mut pending.busy, true) {
            return;
        }
        drop(pending);
        let (gateway, run, session) = (self.clone(), Arc::new(run.clone()), session.clone());
        self.background.spawn(async move { gateway.deliver_signals(run, &session).await });
    }

    async fn deliver_signals(&self, mut run: Arc<AgentRun>, session: &Session) {
        let mut waits = backoff().build();
        loop {
            run = self.runs.get(run.uid()).unwrap_or(run);
            let Some((ready, confirmed)) = due(session, &run) else { return };
            if confirmed.is_some()
                && let Err(wait) = session.may_signal()
            {
                // Meanwhile a newer one may come; only the newest is sent.
                tokio::select! { () = self.stop.cancelled() => {} () = tokio::time::sleep(wait) => continue }
            }
            match self.deliver_once(&run, session, ready, confirmed.as_ref()).await {
                Round::Sent => {
                    waits = backoff().build();
                    delivered(session, ready, confirmed.as_ref());
                    continue;
                }
                Round::Failed => {}
                Round::Pointless => return give_up(session),
            }
            // The next gateway sends them again when the runner registers.
            tokio::select! {
                () = self.stop.cancelled() => return give_up(session),
                () = tokio::time::sleep(waits.next().unwrap_or(Duration::from_secs(5))) => {}
            }
            if self.runs.get(run.uid()).is_none() && self.is_closed(&run).await {
                return give_up(session);
            }
        }
    }

    async fn deliver_once(
        &self,
        run: &AgentRun,
        session: &Session,
        ready: Option<i32>,
        confirmed: Option<&RunnerConfirmed>,
    ) -> Round {
        if !self.temporal.is_configured() {
            return Round::Pointless;
        }
        let workflow = match self.workflow(run, session).await {
            Ok(Recorded::Workflow(workflow)) => workflow,
            Ok(Recorded::Foreign) | Err(Refusal::Gone) => return Round::Pointless,
            Ok(Recorded::NotYet) | Err(_) => return Round::Failed,
        };
        match self.send(&workflow, ready, confirmed).await {
            Ok(()) => Round::Sent,
            Err(TemporalError::NotFound(_)) => {
                self.find_closed(&workflow, run, session).await;
                if *session.workflow_closed.borrow() { Round::Pointless } else { Round::Failed }
            }
            Err(error) => {
                tracing::debug!(%error, workflow, "sending a signal failed");
                Round::Failed
            }
        }
    }

    async fn send(
        &self,
        workflow: &str,
        ready: Option<i32>,
        confirmed: Option<&RunnerConfirmed>,
    ) -> Result<(), TemporalError> {
        if let Some(run) = ready {
            self.temporal.signal(workflow, SIGNAL_RUNNER_READY, &RunnerReady { run }).await?;
        }
        if let Some(confirmed) = confirmed {
            self.temporal.signal(workflow, SIGNAL_RUNNER_CONFIRMED, confirmed).await?;
        }
        Ok(())
    }

    /// The cache may be stale.
    async fn is_closed(&self, run: &AgentRun) -> bool {
        match self.runs.read(&run.job(), run.number()).await {
            Ok(live) => live.is_closed() || live.uid() != run.uid(),
            Err(refusal) => refusal == Refusal::Gone,
        }
    }
}

/// The signals that are still needed; `None` ends the task, and the next signal starts another.
fn due(session: &Session, run: &AgentRun) -> Option<(Option<i32>, Option<RunnerConfirmed>)> {
    let mut pending = session.signals.lock();
    // A grant proves that the workflow knows that its runner is ready.
    pending.ready = pending.ready.filter(|_| run.spec.grant.is_none());
    if pending.ready.is_none() && pending.confirmed.is_none() {
        pending.busy = false;
        return None;
    }
    Some((pending.ready, pending.confirmed.clone()))
}

/// Removes what was sent, unless something newer has come meanwhile.
fn delivered(session: &Session, ready: Option<i32>, confirmed: Option<&RunnerConfirmed>) {
    let mut pending = session.signals.lock();
    if pending.ready == ready {
        pending.ready = None;
    }
    if pending.confirmed.as_ref() == confirmed {
        pending.confirmed = None;
    }
}

/// Drops what is pending.
fn give_up(session: &Session) {
    *session.signals.lock() = PendingSignals::default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::RunnerState,
        gateway::fixtures::{grant, temporal_run},
    };

    fn confirmed(generation: i64) -> RunnerConfirmed {
        RunnerConfirmed { run: 2, generation, state: RunnerState::Frozen }
    }

    fn told(ready: Option<i32>, confirmed: Option<RunnerConfirmed>) -> Session {
        let session = Session::default();
        *session.signals.lock() = PendingSignals { ready, confirmed, busy: true };
        session
    }

    #[test]
    fn a_grant_makes_the_readiness_old() {
        let mut run = temporal_run();
        let session = told(Some(2), Some(confirmed(1)));
        assert_eq!(due(&session, &run), Some((Some(2), Some(confirmed(1)))));
        run.spec.grant = Some(grant(0));
        assert_eq!(due(&session, &run), Some((None, Some(confirmed(1)))));
        delivered(&session, None, Some(&confirmed(1)));
        assert_eq!(due(&session, &run), None);
        assert!(!session.signals.lock().busy);
    }

    #[test]
    fn what_comes_while_sending_is_sent_next() {
        let session = told(Some(2), Some(confirmed(1)));
        session.signals.lock().confirmed = Some(confirmed(2));
        delivered(&session, Some(2), Some(&confirmed(1)));
        assert_eq!(due(&session, &temporal_run()), Some((None, Some(confirmed(2)))));
    }
}

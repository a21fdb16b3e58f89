//! Detects unresponsive runners: a gateway that was listening all the time records `status.unresponsiveSince`, and the
//! next contact removes it. A runner whose container runs counts as lost only by this: a time-out while no gateway was
//! reachable proves nothing. Run by [`crate::gateway::run`].
//!
//! In Temporal mode a runner is checked once the worker, after a heartbeat time-out, has bound it anew; any gateway may
//! do it, because an acknowledgement through any of them is in the status. In Direct mode there is no new binding, so
//! only the gateway in `status.gateway` does it, because the runner is connected to no other. One case remains there:
//! if gateway and runner fail at the same time, and the gateway doesn't return under its name, only the container's
//! status shows the loss.
//!
//! After the process itself was suspended, all runners would look unresponsive. So a ticker detects such gaps, and no
//! runner is checked before it has ticked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    api::{AgentRun, AgentRunStatus, ExecutionMode},
    gateway::Gateway,
    platform::clock,
};

/// How often runners are checked.
const LOOK: Duration = Duration::from_secs(1);
/// The ticker's interval.
const TICK: Duration = Duration::from_millis(500);

/// A runner that this gateway has to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    /// The longest time without contact.
    limit: Duration,
    /// The newest binding that it has acknowledged, if a newer one is waiting.
    acknowledged: Option<i32>,
}

/// The runner of a run, if this gateway has to check it: `None` if that is another's task, it has no grant yet, has
/// ended, or is deemed unresponsive already.
fn listened_for(run: &AgentRun, gateway: &str) -> Option<Listening> {
    let status = run.status.as_ref().filter(|s| s.unresponsive_since.is_none())?;
    let grant = run.spec.grant.as_ref().filter(|_| run.may_run())?;
    let heartbeat = run.spec.identity.heartbeat.get();
    match run.spec.identity.execution_mode {
        ExecutionMode::Direct => {
            let ours = status.gateway.as_deref() == Some(gateway);
            ours.then_some(Listening { limit: heartbeat, acknowledged: None })
        }
        ExecutionMode::Temporal => {
            let acknowledged = run.acknowledged_binding();
            let asked = grant.binding >= 1 && grant.binding > acknowledged;
            // Three missed heartbeats, and early enough for the worker, which looks one time-out after its binding.
            asked.then_some(Listening { limit: heartbeat / 4 * 3, acknowledged: Some(acknowledged) })
        }
    }
}

impl Gateway {
    /// Checks runners until the gateway ends, and drops the sessions of closed runs.
    pub(in crate::gateway) async fn watch_liveness(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.tick() => {}
            () = self.look() => {}
        }
    }

    async fn tick(&self) {
        loop {
            self.sessions.tick(Instant::now());
            tokio::time::sleep(TICK).await;
        }
    }

    async fn look(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            for run in self.runs.all() {
                // A runner that this process had no contact with yet gets the full time from now on.
                let Some(listening) = listened_for(&run, &self.identity) else { continue };
                if let Some(silence) = self.silence_of(run.uid(), listening) {
                    self.record_unresponsive(&run, listening, silence).await;
                }
            }
            self.sessions.prune(|uid| self.runs.get(uid).is_some());
        }
    }

    /// The time without contact, if that is too long.
    fn silence_of(&self, uid: &str, listening: Listening) -> Option<Duration> {
        let unheard = self.sessions.time_since_contact(uid);
        let unacknowledged = |binding| self.sessions.of(uid).time_unacknowledged(binding);
        let silence = listening.acknowledged.map_or(unheard, |binding| unheard.min(unacknowledged(binding)));
        (silence > listening.limit && self.sessions.is_awake(Instant::now())).then_some(silence)
    }

    async fn record_unresponsive(&self, run: &AgentRun, listening: Listening, silence: Duration) {
        let last_contact = clock::now().checked_sub(silence).unwrap_or(Timestamp::UNIX_EPOCH);
        let note = |run: &AgentRun, status: &mut AgentRunStatus| {
            let still = listened_for(run, &self.identity) == Some(listening);
            if still && self.silence_of(run.uid(), listening).is_some() {
                status.unresponsive_since = Some(Time(last_contact));
            }
            Ok(())
        };
        let job = run.job();
        tracing::warn!(namespace = job.namespace, run = run.name(), ?silence, "a runner is unresponsive");
        // Retried in a second.
        if let Err(refusal) = self.runs.modify_status(run, note).await {
            tracing::debug!(reason = refusal.reason(), "unresponsiveSince is not written yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures::{self, grant, termination};

    fn running(mut run: AgentRun, binding: i32) -> AgentRun {
        run.spec.grant = Some(grant(binding));
        run
    }

    #[test]
    fn only_the_named_gateway_listens_for_a_running_direct_runner() {
        let run = running(fixtures::run(), 0);
        let listening = Listening { limit: Duration::from_secs(120), acknowledged: None };
        assert_eq!(listened_for(&run, "g"), Some(listening));
        assert_eq!(listened_for(&run, "h"), None);
        assert_eq!(listened_for(&fixtures::run(), "g"), None, "not granted");
        let mut unready = run.clone();
        unready.status.as_mut().unwrap().ready_time = None;
        assert_eq!(listened_for(&unready, "g"), None);
        let mut closed = run.clone();
        closed.status.as_mut().unwrap().termination = Some(termination());
        assert_eq!(listened_for(&closed, "g"), None);
        let mut noted = run;
        noted.status.as_mut().unwrap().unresponsive_since = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(listened_for(&noted, "g"), None);
    }

    #[test]
    fn every_gateway_listens_for_an_answer_to_a_new_binding_and_for_nothing_else() {
        let first = running(fixtures::temporal_run(), 0);
        assert_eq!(listened_for(&first, "h"), None, "heartbeats go to Temporal, which says when they are missing");
        let mut bound = running(fixtures::temporal_run(), 3);
        let listening = Listening { limit: Duration::from_secs(90), acknowledged: Some(-1) };
        assert_eq!(listened_for(&bound, "h"), Some(listening));
        bound.status.as_mut().unwrap().acknowledged.as_mut().unwrap().binding = 3;
        assert_eq!(listened_for(&bound, "h"), None);
    }
}

//! Runners that have fallen silent: a gateway that listened for one all the while says so, once, in
//! `status.runner.silentSince`, and the next sign of life takes it back. Only this makes a runner lost while its container
//! runs: that somebody's timer ran out while there was no gateway to talk to proves nothing. Run by [`super::run`].
//!
//! In Temporal mode a runner is listened for once the worker, after a heartbeat time-out, has offered it a new permit; any
//! gateway may judge, because an answer to any of them is in status. In Direct mode no offer asks for an answer, so only the
//! gateway that `status.runner.gateway` names judges, because no other hears of the runner. So one case remains there: a
//! gateway and a runner that die at the same moment. It ends when the gateway comes back under its old name; if it does not,
//! what Kubernetes says of the runner's container is all there is.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{Gateway, decide, error::Refusal};
use crate::api::{AgentJob, AgentJobStatus};

/// How often silence is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// A runner whose silence this gateway would have to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    epoch: i32,
    /// How long it may be silent.
    limit: Duration,
    /// The newest offer that it has answered, if a newer one is waiting.
    answered: Option<i32>,
}

/// The runner of a job that this gateway listens for. `None` if it is not this gateway's to judge, may not run its agent yet,
/// has ended, or is known to be silent.
fn listened_for(status: &AgentJobStatus, gateway: &str) -> Option<Listening> {
    let claim = status.claim.as_ref()?;
    let permit = claim.permit.as_ref()?;
    let runner = status.runner.as_ref().filter(|r| r.epoch == claim.epoch && r.silent_since.is_none())?;
    if status.outcome.as_ref().is_some_and(|o| o.epoch == claim.epoch) {
        return None;
    }
    let heartbeat = status.resolved.as_ref()?.timeouts.heartbeat.get();
    let answered = runner.answered.unwrap_or(-1);
    let (ours, limit, answered) = if decide::is_direct(status) {
        (runner.gateway.as_deref() == Some(gateway), heartbeat, None)
    } else {
        // Three heartbeats missed, and time left to say so before the worker asks, one time-out after its offer.
        (permit.offer > answered, heartbeat / 4 * 3, Some(answered))
    };
    ours.then_some(Listening { epoch: claim.epoch, limit, answered })
}

impl Gateway {
    /// Looks for silent runners until the gateway ends, and forgets those of jobs that are over.
    pub(super) async fn listen_for_silence(self: Arc<Self>) {
        loop {
            tokio::select! { () = self.stop.cancelled() => return, () = tokio::time::sleep(LOOK) => {} }
            for job in self.jobs.all() {
                // A runner that this process has not heard yet has all the time that there is from now on.
                let Some(status) = &job.status else { continue };
                let Some(runner) = listened_for(status, &self.identity) else { continue };
                if let Some(silence) = self.too_long(job.uid(), runner) {
                    self.note_silence(&job, runner, silence).await;
                }
            }
            self.sessions.prune(|uid| self.jobs.subscribe(uid).is_some());
        }
    }

    /// For how long the runner has been silent, if that is longer than it may be.
    fn too_long(&self, uid: &str, runner: Listening) -> Option<Duration> {
        let unheard = self.sessions.silence(uid, runner.epoch);
        let unanswered = |answered| self.sessions.of(uid).unanswered(runner.epoch, answered);
        let silence = runner.answered.map_or(unheard, |answered| unheard.min(unanswered(answered)));
        (silence > runner.limit).then_some(silence)
    }

    async fn note_silence(&self, job: &AgentJob, listening: Listening, silence: Duration) {
        let heard = Timestamp::now().checked_sub(silence).unwrap_or(Timestamp::UNIX_EPOCH);
        let epoch = listening.epoch;
        let note = |_: &AgentJob, status: &mut AgentJobStatus| {
            let still = listened_for(status, &self.identity) == Some(listening)
                && self.too_long(job.uid(), listening).is_some();
            if let Some(runner) = status.runner.as_mut().filter(|_| still) {
                runner.silent_since = Some(Time(heard));
            }
            Ok::<_, Refusal>(())
        };
        let reference = job.reference();
        tracing::warn!(namespace = reference.namespace, job = reference.name, epoch, ?silence, "a runner is silent");
        // It is looked for again in a second.
        if let Err(refusal) = self.jobs.modify(&reference, None, note).await {
            tracing::debug!(reason = refusal.reason(), "its silence is not recorded yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{ExecutionMode, RunnerState},
        gateway::{decide::Contact, fixtures},
    };

    fn running() -> AgentJobStatus {
        let mut job = fixtures::job();
        fixtures::claim(&mut job).permit = Some(fixtures::permit(0));
        let mut status = job.status.unwrap();
        let now = Timestamp::UNIX_EPOCH;
        decide::contact(&mut status, &Contact { epoch: 2, state: RunnerState::Running, now, gateway: Some("g") });
        status
    }

    #[test]
    fn only_the_named_gateway_listens_for_a_running_direct_runner() {
        let status = running();
        let listening = Listening { epoch: 2, limit: Duration::from_secs(120), answered: None };
        assert_eq!(listened_for(&status, "g"), Some(listening));
        assert_eq!(listened_for(&status, "h"), None);
        let mut waiting = status.clone();
        waiting.claim.as_mut().unwrap().permit = None;
        assert_eq!(listened_for(&waiting, "g"), None);
        let mut next = status.clone();
        next.claim.as_mut().unwrap().epoch = 3;
        assert_eq!(listened_for(&next, "g"), None);
        let mut noted = status;
        noted.runner.as_mut().unwrap().silent_since = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(listened_for(&noted, "g"), None);
    }

    #[test]
    fn every_gateway_listens_for_an_answer_to_an_offer_and_for_nothing_else() {
        let mut status = running();
        status.resolved.as_mut().unwrap().execution_mode = ExecutionMode::Temporal;
        assert_eq!(listened_for(&status, "h"), None, "heartbeats go to Temporal, which says when they are missing");
        status.claim.as_mut().unwrap().permit = Some(fixtures::permit(3));
        let listening = Listening { epoch: 2, limit: Duration::from_secs(90), answered: Some(0) };
        assert_eq!(listened_for(&status, "h"), Some(listening));
        status.runner.as_mut().unwrap().answered = Some(3);
        assert_eq!(listened_for(&status, "h"), None);
    }
}

//! Runners of Direct jobs that have fallen silent: in Temporal mode the activity's heartbeat time-out says so, here the gateway
//! that such a runner talks to does, once, in `status.runner.silentSince`. Run by [`super::run`].
//!
//! Only the gateway that `status.runner.gateway` names judges, because no other hears of the runner. So one case remains: a
//! gateway and a runner that die at the same moment. It ends when the gateway comes back under its old name; if it does not,
//! what Kubernetes says of the runner's container is all there is.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{Gateway, decide, error::Refusal};
use crate::api::{AgentJob, AgentJobStatus};

/// How often silence is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The epoch of a runner whose silence this gateway would have to notice, and how long it may be silent. `None` if the runner
/// is another gateway's, may not run its agent yet, has ended, or is known to be silent.
fn listened_for(status: &AgentJobStatus, gateway: &str) -> Option<(i32, Duration)> {
    let claim = status.claim.as_ref().filter(|c| c.permit.is_some())?;
    let runner = status.runner.as_ref().filter(|r| r.epoch == claim.epoch && r.silent_since.is_none())?;
    let ended = status.outcome.as_ref().is_some_and(|o| o.epoch == claim.epoch);
    if ended || !decide::is_direct(status) || runner.gateway.as_deref() != Some(gateway) {
        return None;
    }
    Some((claim.epoch, status.resolved.as_ref()?.timeouts.heartbeat.get()))
}

impl Gateway {
    /// Looks for silent runners until the gateway ends, and forgets those of jobs that are over.
    pub(super) async fn listen_for_silence(self: Arc<Self>) {
        loop {
            tokio::select! { () = self.stop.cancelled() => return, () = tokio::time::sleep(LOOK) => {} }
            for job in self.jobs.all() {
                // A runner that this process has not heard yet has all the time that there is from now on.
                let Some(status) = &job.status else { continue };
                let Some((epoch, limit)) = listened_for(status, &self.identity) else { continue };
                let silence = self.sessions.silence(job.uid(), epoch);
                if silence > limit {
                    self.note_silence(&job, epoch, silence).await;
                }
            }
            self.sessions.prune(|uid| self.jobs.subscribe(uid).is_some());
        }
    }

    async fn note_silence(&self, job: &AgentJob, epoch: i32, silence: Duration) {
        let heard = Timestamp::now().checked_sub(silence).unwrap_or(Timestamp::UNIX_EPOCH);
        let note = |_: &AgentJob, status: &mut AgentJobStatus| {
            let still = listened_for(status, &self.identity)
                .is_some_and(|(e, limit)| e == epoch && self.sessions.silence(job.uid(), epoch) > limit);
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
        assert_eq!(listened_for(&status, "g"), Some((2, Duration::from_secs(120))));
        assert_eq!(listened_for(&status, "h"), None);
        let mut temporal = status.clone();
        temporal.resolved.as_mut().unwrap().execution_mode = ExecutionMode::Temporal;
        assert_eq!(listened_for(&temporal, "g"), None);
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
}

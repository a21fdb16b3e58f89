//! A pod on its way to a ready runner: what keeps it, in the words of the kubelet or the scheduler, and for how long.

use std::time::Duration;

use super::Draft;
use crate::{api::ErrorStatus, pods::collect, protocol::error_types};

/// How long after the end of its grace period a pod may still be there before somebody is told.
const PATIENCE: Duration = Duration::from_secs(15);

/// A pod of an earlier epoch that should have ended long ago: no other is made before Kubernetes says that it has, and
/// somebody may have to see to its node.
pub(super) fn leftovers(d: &mut Draft<'_>) {
    let Some(claim) = &d.status.claim else { return };
    let epoch = match (&claim.pod_uid, d.outcome()) {
        (None, _) => claim.epoch,
        // It is over, whether the next one has begun or not.
        (Some(_), Some(_)) => claim.epoch + 1,
        (Some(_), None) => return,
    };
    let earlier = collect::before_epoch(&d.seen.pods, epoch);
    let Some((pod, by)) = earlier.iter().find_map(|p| Some((p.name.clone(), p.gone_by.clone()?))) else { return };
    let late = d.since(&by);
    if late < PATIENCE {
        // Until then zero is also what a time in the future gives.
        let left = Duration::try_from(by.0.duration_since(d.ground.now.0)).unwrap_or_default();
        return d.look_again(left + PATIENCE - late);
    }
    let message = format!(
        "pod {pod} was to end by {}, and Kubernetes can't say that it has: no second runner is started before. Bring its \
         node back; or, once it is certainly off, delete the Node or taint it node.kubernetes.io/out-of-service",
        by.0
    );
    d.stalled = Some(("PodNotEnding".into(), message));
}

/// An agent that has its permit is not pending, whether anybody saw its runner come up or not.
pub(super) fn over(d: &mut Draft<'_>) {
    if d.agent_may_run() {
        d.status.pending_since = None;
    }
}

/// Follows a pod that is not ready. Answers the error with which the job fails, when its time is over.
pub(super) fn plan(d: &mut Draft<'_>) -> Option<ErrorStatus> {
    if d.runner_is_ready() && d.outcome().is_none() {
        d.status.pending_since = None;
        return None;
    }
    let pod = d.pod();
    if let Some((reason, message)) = pod.and_then(|p| p.trouble.clone()) {
        d.stalled = Some((reason, message));
    }
    // A gate or a pause holds it back on purpose: the clock does not run.
    if pod.is_some_and(|p| p.gated) || d.is_held() {
        d.status.pending_since = None;
        return None;
    }
    let (now, created) = (d.now(), pod.and_then(|p| p.created.clone()));
    let seen_before = d.job.status.as_ref().is_some_and(|s| s.runner_pod.is_some());
    // A pod that was never gated counts from its creation, one whose gate was lifted from now.
    let since = d.status.pending_since.get_or_insert_with(|| created.filter(|_| !seen_before).unwrap_or(now)).clone();
    let limit = d.status.resolved.as_ref()?.timeouts.pending.get();
    let waited = d.since(&since);
    if waited < limit {
        d.look_again(limit - waited);
        return None;
    }
    let why = match (&d.stalled, d.outcome().and_then(|o| o.error.as_ref())) {
        (Some((reason, message)), _) => format!("{reason}: {message}"),
        (None, Some(error)) => error.message.clone(),
        (None, None) => {
            "its runner did not report in; see the pod's events and the logs of container koco-install".into()
        }
    };
    let message = format!("the pod was not ready within {} s: {why}", limit.as_secs());
    Some(ErrorStatus { kind: error_types::PENDING_TIMEOUT.into(), message })
}

//! A pod on its way to a ready runner: what keeps it, in the words of the kubelet or the scheduler, and for how long.

use super::Draft;
use crate::{api::ErrorStatus, protocol::error_types};

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
    // A gate holds it back on purpose: the clock does not run.
    if pod.is_some_and(|p| p.gated) {
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

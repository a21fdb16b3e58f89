//! A job that has ended: nothing of it runs on, ended pods stay for their logs, and it goes when its time is over.

use std::time::Duration;

use super::{Action, Draft};
use crate::{api::names, pods::collect};

/// How long a runner may take to end after it has delivered its outcome.
const LINGER: Duration = Duration::from_secs(15);

pub(super) fn plan(d: &mut Draft<'_>) {
    d.mirror_claim();
    d.stalled = None;
    d.status.pending_since = None;
    if let Some(claim) = d.status.claim.as_mut() {
        claim.refusal = None;
    }
    // A runner that has delivered its outcome is about to end by itself; deleting its pod would take the logs.
    let leaving = d.outcome().filter(|o| d.since(&o.time) < LINGER).map(|o| o.epoch);
    d.delete_pods(|p| !p.agent_ended() && Some(p.epoch) != leaving);
    if leaving.is_some_and(|epoch| d.seen.pods.iter().any(|p| p.epoch == epoch && !p.agent_ended())) {
        d.look_again(LINGER);
    }
    let keep = usize::try_from(d.job.spec.failed_pods_history_limit).unwrap_or(0);
    let doomed: Vec<_> = collect::lingering(&d.seen.pods)
        .into_iter()
        .chain(collect::history(&d.seen.pods, keep))
        .map(|p| Action::DeletePod { name: p.name.clone(), uid: p.uid.clone() })
        .collect();
    d.actions.extend(doomed);
    let written = d.job.status.as_ref().is_some_and(|s| s.phase.is_some_and(crate::api::Phase::is_terminal));
    let ours = d.job.metadata.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == names::FINALIZER));
    if ours && written {
        d.actions.push(Action::RemoveFinalizer);
    }
    let Some(ttl) = d.job.spec.ttl_seconds_after_finished else { return };
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let Some(ended) = d.status.completion_time.clone() else { return };
    let age = d.since(&ended);
    if age < ttl {
        d.look_again(ttl - age);
    } else if written {
        d.actions.push(Action::DeleteJob);
    }
}

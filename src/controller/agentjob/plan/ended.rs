//! A job that has ended: it is deleted when its TTL has expired.

use std::time::Duration;

use super::{Action, Decision, view::JobView};

pub(super) fn decide(view: &JobView<'_>) -> Decision {
    let decision = Decision { pending_since: None, ..Decision::unchanged(view) };
    let decision = if view.job.has_finalizer() { decision.with(Action::RemoveFinalizer) } else { decision };
    let Some(ttl) = view.job.spec.ttl_seconds_after_finished else { return decision };
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let Some(ended) = &view.old.completion_time else { return decision };
    let age = view.since(ended);
    if age < ttl { decision.again(ttl - age) } else { decision.with(Action::DeleteJob) }
}

//! A job that has ended: it is deleted when its TTL has expired. Where there is a server, that waits a while for the
//! archive: the server says with an annotation that it has the job as it ended.

use std::time::Duration;

use super::{Action, Decision, view::JobView};

pub(super) fn decide(view: &JobView<'_>) -> Decision {
    let decision = Decision { pending_since: None, ..Decision::unchanged(view) };
    let decision = if view.job.has_finalizer() { decision.with(Action::RemoveFinalizer) } else { decision };
    let Some(ttl) = view.job.spec.ttl_seconds_after_finished else { return decision };
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let Some(ended) = &view.old.completion_time else { return decision };
    let age = view.since(ended);
    let patience = view.operator.archive_patience;
    let waits = !patience.is_zero() && !view.job.is_archived();
    match () {
        () if age < ttl => decision.again(ttl - age),
        // Its annotation comes through the watch.
        () if waits && age - ttl < patience => decision.again(patience - (age - ttl)),
        () => decision.with(Action::DeleteJob { unarchived: waits.then_some(patience) }),
    }
}

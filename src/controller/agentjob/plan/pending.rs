//! A run that is not ready yet: why, as reported by the kubelet, the scheduler or the API server, and for how long.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, view::JobView};
use crate::{
    api::{AgentRun, DesiredState, ErrorStatus, Reason},
    lifecycle,
    pods::{PodView, ending},
    protocol::error_types,
};

/// How long after the end of its grace period a pod may exist before the job counts as stalled.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long after the creation of a run the worker may take for its pod, and the watch to show it.
const UNSEEN: Duration = Duration::from_secs(30);

/// The state of a run that is not ready.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// Since when it is pending; `None` while a gate or a pause holds it.
    pub since: Option<Time>,
    /// Why it is stalled, if it is.
    pub blocked: Option<(Reason, String)>,
    /// What it waits for, if that may come by itself: its node.
    pub waits: Option<(Reason, String)>,
    /// The error with which the job fails, if the pending time-out is over.
    pub timed_out: Option<ErrorStatus>,
    /// When to check again.
    pub requeue: Option<Duration>,
}

/// The state of the newest run, or of the next one.
pub(super) fn of(view: &JobView<'_>) -> Pending {
    // A pause or a gate holds it: the time-out doesn't run. Under a pause nothing is missing, either.
    if view.is_held() {
        return Pending::default();
    }
    let blocked = blocked(view);
    if view.pod.is_some_and(|p| p.gated) {
        return Pending { blocked, ..Pending::default() };
    }
    // The time-out runs from the pod's creation.
    let Some(pod) = view.pod else {
        return Pending { since: view.old.pending_since.clone(), blocked, ..Pending::default() };
    };
    let since = since(view, pod);
    let (limit, waited) = (view.resolved.timeouts.pending.get(), view.since(&since));
    // A new node may take minutes: an autoscaler is given half of the time.
    let patience = (limit / 2).checked_sub(waited).filter(|left| !left.is_zero() && is_about_its_node(view));
    if let Some(left) = patience {
        return Pending { since: Some(since), waits: blocked, requeue: Some(left), ..Pending::default() };
    }
    if waited < limit {
        return Pending { since: Some(since), blocked, requeue: Some(limit - waited), ..Pending::default() };
    }
    let why = match (&blocked, view.run_error()) {
        (Some((reason, message)), _) => format!("{}: {message}", reason.as_str()),
        (None, Some(error)) => error.message,
        (None, None) => {
            "its runner did not register; see the pod's events and the logs of container koco-install".into()
        }
    };
    let message = format!("the pod was not ready within {} s: {why}", limit.as_secs());
    let timed_out = Some(ErrorStatus { kind: error_types::PENDING_TIMEOUT.into(), message });
    Pending { since: Some(since), blocked, timed_out, ..Pending::default() }
}

/// Since when the pod of a run that is not ready counts. One clock for all pods in a row whose agent never starts; it
/// stands still from the end of a run to the next pod: back-off is not the cluster's delay.
fn since(view: &JobView<'_>, pod: &PodView) -> Time {
    let created = pod.created.as_ref().unwrap_or(view.now());
    let (counted, known) = (view.old.pending_since.as_ref(), view.old.runner_pod.as_ref());
    match (counted, known) {
        (None, None) => created.clone(),
        // Its gate was lifted, or it was resumed.
        (None, Some(_)) => view.now().clone(),
        (Some(since), _) if view.old.runner_pod_uid.as_ref() == Some(&pod.uid) => since.clone(),
        (Some(since), _) => {
            let before = view.observed.runs.iter().find(|r| Some(&r.spec.identity.pod_name) == known);
            let ended = before.and_then(AgentRun::termination).map(|t| lifecycle::elapsed(&t.time, created));
            Time(since.0.saturating_add(ended.unwrap_or_default()).unwrap_or(since.0))
        }
    }
}

/// What is left of the clock when a run is closed: it goes on with the next pod if the agent of this one never started.
pub(super) fn carried(view: &JobView<'_>, started: bool) -> Option<Time> {
    if view.start_failed() {
        return view.series_since();
    }
    view.old.pending_since.clone().filter(|_| !started && !view.is_held())
}

/// Whether the only thing that keeps the newest run's pod from running is that the scheduler has no node for it.
fn is_about_its_node(view: &JobView<'_>) -> bool {
    view.observed.blocked.is_none() && view.pod.is_some_and(|pod| pod.unscheduled)
}

/// Why the newest run's pod is not running.
fn blocked(view: &JobView<'_>) -> Option<(Reason, String)> {
    if let Some((reason, message)) = &view.observed.blocked {
        return Some((reason.clone(), message.clone()));
    }
    let run = view.run.filter(|r| !r.is_closed())?;
    if let Some(words) = run.status.as_ref().and_then(|s| s.create_error.as_ref()) {
        return Some((Reason::PodRefused, format!("the API server refused the pod: {words}")));
    }
    let (reason, message) = view.pod?.waiting_reason.clone()?;
    Some((Reason::other(&reason), message))
}

/// A run's pod that has to end.
pub(super) struct NotEnding {
    /// Why the job is stalled, if the pod is overdue.
    pub blocked: Option<(Reason, String)>,
    /// When to check again, if it is not overdue yet.
    pub requeue: Option<Duration>,
}

/// A run's pod that was deleted and is overdue: no other is created before it has ended, and its node may need
/// attention.
pub(super) fn not_ending(view: &JobView<'_>) -> Option<NotEnding> {
    let runs = view.observed.runs.iter();
    let left = runs.filter_map(|run| view.observed.pods.iter().find(|p| ending::is_pod_of(run, p)));
    let left = left.chain(&view.observed.previous_pod).filter(|p| !p.agent_ended());
    let due = left.filter_map(|p| Some((p, p.deletion_deadline.as_ref()?)));
    let (pod, by): (&PodView, &Time) = due.min_by_key(|(_, by)| by.0)?;
    let late = view.since(by);
    if late < PATIENCE {
        return Some(NotEnding { blocked: None, requeue: Some(view.until(by) + PATIENCE - late) });
    }
    let message = format!(
        "pod {} was to end by {}, and Kubernetes can't say that it has: no second runner is started before. Bring its \
         node back; or, once it is certainly off, delete the Node or taint it node.kubernetes.io/out-of-service. Don't \
         delete the pod by force: its agent may still run",
        pod.name, by.0
    );
    Some(NotEnding { blocked: Some((Reason::PodNotEnding, message)), requeue: None })
}

/// The worker has created the run and no pod of it was ever seen: it may have come and gone while every controller was
/// away, and then no activity creates it again. So the controller does, after a while; one that is there is found. Else how
/// long until then.
pub(super) fn unseen_pod(view: &JobView<'_>, run: &AgentRun) -> (Option<Action>, Option<Duration>) {
    let was_seen = view.pod.is_some() || view.old.runner_pod_uid.is_some() && view.old.active_run == Some(run.number());
    let held_up = run.status.as_ref().is_some_and(|s| s.create_error.is_some());
    let ends = view.desired() == DesiredState::Cancelled || run.spec.identity.tombstone;
    let Some(created) = run.metadata.creation_timestamp.as_ref().filter(|_| !(was_seen || held_up || ends)) else {
        return (None, None);
    };
    match UNSEEN.checked_sub(view.since(created)).filter(|left| !left.is_zero()) {
        Some(left) => (None, Some(left)),
        None => (Some(Action::CreatePod(Box::new(run.clone()))), None),
    }
}

//! What to remove: pods of closed runs that do not end by themselves, ended pods and closed runs beyond their limits,
//! and runs that a suspended process has created again under an old number. While the job runs and afterwards.

use std::time::Duration;

use super::{Action, Guard, sooner, view::JobView};
use crate::{
    api::{AgentRun, Phase},
    lifecycle,
    pods::{
        collect::{self, Fate},
        ending,
    },
    protocol::error_types,
};

#[derive(Default)]
pub(super) struct Collected {
    pub actions: Vec<Action>,
    pub requeue: Option<Duration>,
}

pub(super) fn plan(view: &JobView<'_>, phase: Phase) -> Collected {
    if view.job.metadata.deletion_timestamp.is_some() {
        // Garbage collection removes everything.
        return Collected::default();
    }
    let mut collected = Collected::default();
    for run in &view.observed.runs {
        if !run.is_closed() {
            collected.actions.extend(superseded(view, run, phase));
            continue;
        }
        let Some(pod) = view.observed.pods.iter().find(|p| ending::is_pod_of(run, p)) else { continue };
        match collect::of_closed(run, pod, view.now()) {
            Fate::Leave => {}
            Fate::Wait(left) => collected.requeue = sooner(collected.requeue, Some(left)),
            Fate::Delete => {
                collected.actions.push(Action::DeletePod { name: pod.name.clone(), uid: pod.uid.clone() });
            }
        }
    }
    let runs: Vec<&AgentRun> = view.observed.runs.iter().collect();
    let spec = &view.job.spec;
    let keep = spec.run_history_limit().max(spec.failed_pods_history_limit());
    // The pending clock needs the end of the run before.
    let keep = keep.max(usize::from(view.old.pending_since.is_some()));
    for run in collect::run_history(&runs, &view.observed.pods, keep) {
        collected.actions.push(Action::DeleteRun { name: run.name().into(), uid: run.uid().into() });
    }
    for pod in collect::pod_history(&runs, &view.observed.pods, spec.failed_pods_history_limit()) {
        collected.actions.push(Action::DeletePod { name: pod.name.clone(), uid: pod.uid.clone() });
    }
    collected
}

/// An open run that is not the newest, or of a job that has ended: it was created by a process that had been suspended.
/// Its runner is refused anyway.
fn superseded(view: &JobView<'_>, run: &AgentRun, phase: Phase) -> Option<Action> {
    let newest = view.active_run().unwrap_or(0);
    if run.number() >= newest && !(phase.is_terminal() && view.is_terminal()) {
        return None;
    }
    let message = "another run has replaced it, or the job has ended".to_string();
    let termination = lifecycle::koco(run, error_types::SUPERSEDED, message, view.now());
    Some(Action::close(run, termination, Guard::None))
}

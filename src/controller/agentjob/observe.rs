//! Observes a job's runs, pods and workflow: from the caches, and from the API server where a stale cache could cause
//! an irreversible action.

use super::{
    Context,
    plan::{ObservedState, Told},
};
use crate::{
    api::{AgentJob, AgentRun, DesiredState, ExecutionMode, Reason, names},
    controller::ControllerError,
    pods::{PodView, ending},
    runs::RunError,
};

pub(super) async fn observe(job: &AgentJob, context: &Context) -> Result<ObservedState, ControllerError> {
    let reference = job.reference();
    let memory = context.memory(&reference.uid);
    let snapshot = context.workflows.last(&reference.uid);
    let mut observed = ObservedState {
        runs: context.runs.of(&reference),
        answer: snapshot.answer,
        started: snapshot.started,
        temporal_trouble: snapshot.trouble,
        sent: memory.sent.clone(),
        told: memory.told.map(|(run, times, at)| Told { run, times, ago: at.elapsed() }),
        blocked: memory.blocked.clone(),
        ..ObservedState::default()
    };
    observed.blocked = observed.blocked.or_else(|| name_taken(job, context, &observed.runs));
    let phase = job.status.as_ref().and_then(|s| s.phase);
    let over = phase.is_some_and(|p| p.is_terminal()) || job.metadata.deletion_timestamp.is_some();
    if !over {
        find_active_run(job, context, &mut observed).await?;
    }
    for run in &observed.runs {
        observed.pods.extend(context.pods.of(&reference.namespace, run.uid()));
    }
    if !over {
        find_pod(job, context, &mut observed).await?;
        find_previous_pod(job, context, &mut observed).await?;
    }
    Ok(observed)
}

/// Whether another object has the name of the job's next run, or of the one in the status that is not there.
fn name_taken(job: &AgentJob, context: &Context, runs: &[AgentRun]) -> Option<(Reason, String)> {
    let of = job.reference();
    let newest = runs.last().map_or(0, AgentRun::number);
    if runs.last().is_some_and(|run| !run.is_closed()) {
        return None;
    }
    let active = job.status.as_ref().and_then(|s| s.active_run).unwrap_or(0);
    let next = if newest < active { active } else { newest.saturating_add(1) };
    let name = names::run(&of.name, &of.uid, next);
    let taken = context.runs.is_taken(&of.namespace, &name);
    taken.then(|| (Reason::RunNameTaken, RunError::Foreign(name).to_string()))
}

/// A run that is in the status but not in the cache: read from the API server.
async fn find_active_run(
    job: &AgentJob,
    context: &Context,
    observed: &mut ObservedState,
) -> Result<(), ControllerError> {
    let Some(status) = &job.status else { return Ok(()) };
    let Some(active) = status.active_run else { return Ok(()) };
    if observed.runs.iter().any(|r| r.number() >= active) {
        return Ok(());
    }
    let temporal = status.execution_mode() == Some(ExecutionMode::Temporal);
    if observed.blocked.is_some() {
        // Another object has its name.
        return Ok(());
    }
    // A Direct job's run that was never observed is yet to be created. Only that it stands still is not said from a copy.
    let is_to_come = !temporal && status.runner_pod_uid.is_none();
    if is_to_come && job.spec.desired_state != DesiredState::Paused {
        return Ok(());
    }
    match context.runs_in(&job.reference().namespace).get(&job.reference(), active).await? {
        Some(run) => {
            context.runs.put(run.clone());
            observed.runs.push(run);
        }
        None => observed.active_is_missing = !is_to_come,
    }
    Ok(())
}

/// The newest run's pod, if it existed and is not in the cache.
async fn find_pod(job: &AgentJob, context: &Context, observed: &mut ObservedState) -> Result<(), ControllerError> {
    let Some(run) = observed.runs.last().filter(|r| !r.is_closed()) else { return Ok(()) };
    if observed.pods.iter().any(|p| ending::is_pod_of(run, p)) {
        return Ok(());
    }
    if let Some(uid) = context.memory(job.uid()).just_created(run.uid()) {
        // Its state before the watch has it.
        let (name, run_uid) = (run.spec.identity.pod_name.clone(), Some(run.uid().to_string()));
        observed.pods.push(PodView { name, uid: uid.into(), run_uid, ..PodView::default() });
        return Ok(());
    }
    let registered = run.status.as_ref().and_then(|s| s.pod_uid.clone());
    let status = job.status.as_ref().filter(|s| s.active_run == Some(run.number()));
    let Some(uid) = registered.or_else(|| status?.runner_pod_uid.clone()) else { return Ok(()) };
    let found = context.pods_in(&job.reference().namespace).get(&run.spec.identity.pod_name).await?;
    match found.filter(|p| p.uid == uid) {
        Some(pod) => observed.pods.push(pod),
        None => observed.pod_is_gone = true,
    }
    Ok(())
}

/// In Direct mode, the previous run's pod, if a run or its pod is to be created: it must have ended first.
async fn find_previous_pod(
    job: &AgentJob,
    context: &Context,
    observed: &mut ObservedState,
) -> Result<(), ControllerError> {
    let Some(status) = job.status.as_ref() else { return Ok(()) };
    let direct = status.execution_mode() == Some(ExecutionMode::Direct);
    let Some(active) = status.active_run.filter(|n| direct && *n > 1) else { return Ok(()) };
    let to_come = match observed.runs.last() {
        Some(run) if run.number() >= active => {
            !run.is_closed() && !run.is_ready() && observed.pods.iter().all(|p| !ending::is_pod_of(run, p))
        }
        _ => true,
    };
    if !to_come {
        return Ok(());
    }
    // The next run follows from the end of the one before, which an old copy doesn't show.
    let of = job.reference();
    if !observed.runs.iter().any(|r| r.number() == active - 1 && r.is_closed())
        && let Some(run) = context.runs_in(&of.namespace).get(&of, active - 1).await?
    {
        context.runs.put(run.clone());
        observed.runs.retain(|r| r.number() != run.number());
        observed.runs.push(run);
        observed.runs.sort_by_key(AgentRun::number);
    }
    // Normally the previous run; any other if runs were created by hand.
    let earlier = |p: &&PodView| observed.runs.iter().any(|r| r.number() < active && ending::is_pod_of(r, p));
    if let Some(pod) = observed.pods.iter().filter(earlier).find(|p| !p.agent_ended()) {
        observed.previous_pod = Some(pod.clone());
        return Ok(());
    }
    // A tombstone never had a pod: like a deleted run's, the pod's name is in the job's status.
    let previous = observed.runs.iter().find(|r| r.number() == active - 1 && !r.spec.identity.tombstone);
    if previous.is_some_and(|run| observed.pods.iter().any(|p| ending::is_pod_of(run, p))) {
        // It has ended, which holds even if the cache is stale.
        return Ok(());
    }
    let name = previous.map(|r| r.spec.identity.pod_name.clone()).or(status.runner_pod.clone());
    let Some(name) = name else { return Ok(()) };
    let found = context.pods_in(&of.namespace).get(&name).await?;
    observed.previous_pod = found.filter(|p| is_ours(previous, p) && !p.agent_ended());
    Ok(())
}

/// Whether a pod of the previous run's name is that run's. Names have a random part, so if the run is gone the name
/// identifies it.
fn is_ours(run: Option<&AgentRun>, pod: &PodView) -> bool {
    run.is_none_or(|run| pod.run_uid.is_none() || ending::is_pod_of(run, pod))
}

/// The id of a job's workflow: from the status, or the one that it would get.
pub(super) fn workflow_id(job: &AgentJob, installation: &str) -> String {
    let recorded = job.status.as_ref().and_then(|s| s.workflow.as_ref()).map(|w| w.id.clone());
    recorded.filter(|id| !id.is_empty()).unwrap_or_else(|| names::workflow(installation, job.uid()))
}

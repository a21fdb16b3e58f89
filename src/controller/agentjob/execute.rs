//! Carries out a plan. Decides nothing.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    Context,
    context::CreatedPod,
    observe::workflow_id,
    plan::{Action, Guard, still_wants},
    publish,
    reconcile::now,
};
use crate::{
    api::{
        AgentJob, AgentJobStatus, AgentRun, DesiredState, JobRef, RawJson, Reason, RunCommand, SentRequest,
        Termination, TerminationSource, names,
    },
    controller::ControllerError,
    lifecycle,
    platform::{
        clock,
        metrics::Metrics,
        store::{self, StoreError},
    },
    pods,
    protocol::workflow::{
        Request, RunnerFailed, RunnerReady, SIGNAL_CANCEL, SIGNAL_PAUSE, SIGNAL_RESUME, SIGNAL_RUNNER_FAILED,
        SIGNAL_RUNNER_READY,
    },
    runs::{self, NewRun, RunError},
    temporal::TemporalError,
};

/// How long a reconcile waits for a slot: it takes a turn meanwhile.
const SLOT: Duration = Duration::from_millis(250);

/// The job to act upon.
pub(super) struct Target {
    /// The version last written or read.
    pub job: AgentJob,
    /// Whether it is the whole object from the API server, and not a trimmed copy of a cache.
    pub whole: bool,
}

/// What became of the calls to Temporal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// All succeeded.
    Done,
    /// One failed.
    Failed,
    /// One found no slot.
    Crowded,
}

impl Calls {
    pub fn and(self, later: Self) -> Self {
        if self == Self::Done { later } else { self }
    }
}

/// Carries out actions in their order.
pub(super) async fn all(target: &Target, context: &Context, actions: &[Action]) -> Result<Calls, ControllerError> {
    let job = &target.job;
    let (first, last): (Vec<_>, Vec<_>) = actions.iter().partition(|a| !a.is_last());
    let mut calls = Calls::Done;
    for action in first.into_iter().chain(last) {
        if action.leads_to_pods() {
            context.network.ensure(&job.reference().namespace).await?;
        }
        match action {
            Action::AddFinalizer => {}
            Action::RemoveFinalizer => remove_finalizer(job, context).await?,
            Action::DeleteJob { unarchived } => delete_job(job, context, *unarchived).await?,
            Action::CreateRun(new) => {
                let _slot = start_slot(context).await?;
                create_run(target, context, new).await?;
            }
            Action::CreatePod(run) => {
                let _slot = start_slot(context).await?;
                let job = current(target, context, run.number()).await?;
                create_pod(&job, context, run).await?;
            }
            Action::CommandRun { run, state } => command_run(job, context, run, *state).await?,
            Action::CloseRun { run, termination, guard } => close_run(job, context, run, termination, *guard).await?,
            Action::CreateTombstone { number, attempt } => create_tombstone(job, context, *number, *attempt).await?,
            Action::DeleteRun { name, uid } => context.runs_in(&job.reference().namespace).delete(name, uid).await?,
            Action::DeletePod { name, uid } => context.pods_in(&job.reference().namespace).delete(name, uid).await?,
            // After a failure of Temporal, its other actions wait for the next reconcile.
            _ if calls != Calls::Done => {}
            Action::CompleteActivity(run) if run.lacks_result() => {
                let whole = read_run(job, context, run.number()).await?;
                calls = temporal(job, context, &Action::CompleteActivity(Box::new(whole))).await;
            }
            action => calls = temporal(job, context, action).await,
        }
    }
    Ok(calls)
}

pub(super) async fn read(job: &AgentJob, context: &Context) -> Result<AgentJob, ControllerError> {
    let of = job.reference();
    Ok(store::read(&jobs(job, context), &of.name, &of.uid).await?)
}

/// A run with all that caches drop.
async fn read_run(job: &AgentJob, context: &Context, number: i32) -> Result<AgentRun, ControllerError> {
    let of = job.reference();
    context.runs_in(&of.namespace).get(&of, number).await?.ok_or(ControllerError::Behind)
}

/// The result for a new status that was composed from copies without it: the job's own, or that of its run.
pub(super) async fn whole_result(
    job: &AgentJob,
    status: &AgentJobStatus,
    context: &Context,
) -> Result<Option<RawJson>, ControllerError> {
    match lacking(job, status) {
        None => Ok(status.result.clone()),
        Some(Lacking::OfJob) => Ok(read(job, context).await?.status.and_then(|s| s.result)),
        Some(Lacking::OfRun(number)) => {
            Ok(read_run(job, context, number).await?.termination().and_then(|t| t.result.clone()))
        }
    }
}

/// Where the result is that the copies lack.
#[derive(Debug, PartialEq)]
enum Lacking {
    OfJob,
    OfRun(i32),
}

fn lacking(job: &AgentJob, status: &AgentJobStatus) -> Option<Lacking> {
    status.result.as_ref().filter(|r| r.is_trimmed())?;
    let recorded = job.status.as_ref().is_some_and(|s| s.result.is_some());
    Some(if recorded { Lacking::OfJob } else { Lacking::OfRun(status.active_run.unwrap_or(0)) })
}

/// Waits only so long as a start takes that nothing holds up.
async fn start_slot(context: &Context) -> Result<SemaphorePermit<'_>, ControllerError> {
    slot(&context.start_slots).await.ok_or(ControllerError::NoStartSlot)
}

async fn slot(slots: &Semaphore) -> Option<SemaphorePermit<'_>> {
    tokio::time::timeout(SLOT, slots.acquire()).await.ok()?.ok()
}

async fn create_run(target: &Target, context: &Context, new: &NewRun) -> Result<(), ControllerError> {
    let job = &current(target, context, new.number).await?;
    let run = runs::build(job, &context.defaults.of(job), new.clone())?;
    let of = job.reference();
    let created = context.runs_in(&of.namespace).create(&run).await;
    let blocked = match &created {
        // That its name is taken is observed, in both modes.
        Err(RunError::Foreign(_)) => None,
        Err(e) if e.is_permanent() => Some((Reason::other(e.reason()), e.to_string())),
        _ => None,
    };
    if context.memory(&of.uid).blocked != blocked {
        context.remember(&of, |m| m.blocked = blocked);
    }
    let (run, _) = created?;
    context.runs.put(run.clone());
    // An existing run is handled by the next reconcile.
    if run.is_closed() || run.is_ready() {
        return Ok(());
    }
    create_pod(job, context, &run).await
}

/// The whole job, which caches don't hold, if it is still to have this run and a pod for it.
async fn current<'t>(target: &'t Target, context: &Context, number: i32) -> Result<Cow<'t, AgentJob>, ControllerError> {
    let job = if target.whole { Cow::Borrowed(&target.job) } else { Cow::Owned(read(&target.job, context).await?) };
    if still_wants(&job, &target.job, number) { Ok(job) } else { Err(ControllerError::Behind) }
}

/// Creates a run's pod, or finds the existing one. A refusal is recorded in the run.
async fn create_pod(job: &AgentJob, context: &Context, run: &AgentRun) -> Result<(), ControllerError> {
    let settings = context.pod_config.settings()?;
    let of = job.reference();
    let (pods, runs) = (context.pods_in(&of.namespace), context.runs_in(&of.namespace));
    let started = pods::start((&pods, &runs), job, run.clone(), &settings, &context.metrics).await?;
    if let Ok(pod) = &started.pod {
        let (run_uid, pod_uid) = (run.uid().to_string(), pod.uid().to_string());
        let created = CreatedPod { run_uid, pod_uid, at: Instant::now() };
        context.remember(&of, |m| m.created = Some(created));
    }
    keep(context, run, started.run)?;
    // A refusal is retried like any failure, with back-off.
    started.pod?;
    Ok(())
}

async fn command_run(
    job: &AgentJob,
    context: &Context,
    run: &AgentRun,
    state: DesiredState,
) -> Result<(), ControllerError> {
    let runs = context.runs_in(&job.reference().namespace);
    let known = run.command_generation();
    let asked_by = job.metadata.generation;
    let written = runs.modify_spec::<RunError, _>(run.clone(), |run, spec| {
        // A newer command may have been written: the next reconcile handles that. Or this process was suspended.
        if run.command_generation() == known
            && let Some(command) = RunCommand::asked_by(spec.command.as_ref(), state, asked_by, Time(clock::now()))
        {
            spec.command = Some(command);
        }
        Ok(())
    });
    keep(context, run, written.await)
}

/// Stores a written run. If it was deleted, drops it from the cache, also if the watch has done so: the next reconcile
/// handles that.
fn keep(context: &Context, run: &AgentRun, written: Result<AgentRun, RunError>) -> Result<(), ControllerError> {
    match written {
        Ok(run) => context.runs.put(run),
        Err(RunError::Store(StoreError::Gone { .. })) => {
            context.runs.remove(run.uid());
        }
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

async fn close_run(
    job: &AgentJob,
    context: &Context,
    known: &AgentRun,
    termination: &Termination,
    guard: Guard,
) -> Result<(), ControllerError> {
    let runs = context.runs_in(&job.reference().namespace);
    let silent_since = known.status.as_ref().and_then(|s| s.unresponsive_since.clone());
    let written = runs.modify_status::<RunError, _>(known.clone(), |run, status| {
        let holds = match guard {
            Guard::None => true,
            Guard::Unchanged => run.spec == known.spec && run.acknowledged() == known.acknowledged(),
            Guard::NotReady => !run.is_ready(),
            // Not if there was contact in between.
            Guard::Unresponsive => status.unresponsive_since.is_some() && status.unresponsive_since == silent_since,
        };
        // A run that has started meanwhile ends otherwise: derived again from the pod.
        let derived = termination.source == TerminationSource::Kubelet;
        if holds && !(derived && termination.started != run.may_have_started()) {
            status.termination = Some(termination.clone());
        }
        Ok(())
    });
    keep(context, known, written.await)
}

/// If the run exists after all, it is closed instead.
async fn create_tombstone(job: &AgentJob, context: &Context, number: i32, attempt: i32) -> Result<(), ControllerError> {
    let runs = context.runs_in(&job.reference().namespace);
    let (run, new) = runs.create(&runs::tombstone(job, &context.defaults.of(job), number, attempt)?).await?;
    let run = if new { run } else { runs.close(run, |run| lifecycle::given_up(run, &now())).await? };
    context.runs.put(run);
    Ok(())
}

/// One call to Temporal.
async fn temporal(job: &AgentJob, context: &Context, action: &Action) -> Calls {
    let workflow = || workflow_id(job, &context.installation);
    match action {
        // In the background, so they take no slot.
        Action::QueryWorkflow => context.workflows.poll(job.reference(), workflow()),
        Action::AwaitClose => context.workflows.await_close(job.reference(), workflow()),
        _ => return in_slot(job, context, action).await,
    }
    Calls::Done
}

/// Waits for a slot only if Temporal answers: a server that doesn't is not waited for.
async fn in_slot(job: &AgentJob, context: &Context, action: &Action) -> Calls {
    let (slots, answers) = (&context.temporal_slots, context.temporal_answers());
    let slot = if answers { slot(slots).await } else { slots.try_acquire().ok() };
    let Some(_slot) = slot else {
        if !answers {
            context.workflows.not_tried(job.reference());
        }
        return Calls::Crowded;
    };
    if !call(job, context, action).await {
        return Calls::Failed;
    }
    context.temporal_has_answered();
    context.workflows.succeeded(job.uid());
    Calls::Done
}

/// Returns whether it succeeded.
async fn call(job: &AgentJob, context: &Context, action: &Action) -> bool {
    let (workflow, of) = (workflow_id(job, &context.installation), job.reference());
    let poll = || context.workflows.poll(of.clone(), workflow.clone());
    if let Action::RunnerReady(run) | Action::RunnerFailed(RunnerFailed { run, .. }) = action {
        tell(context, &of, *run);
    }
    match action {
        Action::StartWorkflow(input) => match context.temporal.start(&workflow, &context.task_queue, input).await {
            Ok(run_id) => {
                context.workflows.started(&of.uid, run_id, input).await;
                true
            }
            Err(e) => taken(context, &of, Err(e)),
        },
        Action::Signal(request) => {
            let told = signal(context, &workflow, request).await;
            // A workflow that is not there has not received it: it may be on another server.
            if told.is_ok() {
                let sent = SentRequest {
                    state: request.desired,
                    id: request.id.clone(),
                    request: job.control_request().map(str::to_string),
                    time: Time(clock::now()),
                };
                context.remember(&of, |m| m.sent = Some(sent));
            }
            let done = taken(context, &of, told);
            if done {
                context.workflows.reset_backoff(&of.uid);
                poll();
            }
            done
        }
        Action::RunnerReady(run) => {
            let told = context.temporal.signal(&workflow, SIGNAL_RUNNER_READY, &RunnerReady { run: *run }).await;
            taken(context, &of, told)
        }
        Action::RunnerFailed(failed) => {
            let told = context.temporal.signal(&workflow, SIGNAL_RUNNER_FAILED, failed).await;
            Metrics::count(&context.metrics.signals, SIGNAL_RUNNER_FAILED);
            taken(context, &of, told)
        }
        Action::CompleteMissing { number } => match runs::tombstone(job, &context.defaults.of(job), *number, 1) {
            Ok(run) => taken(context, &of, context.temporal.complete(&workflow, &run).await),
            Err(_) => false,
        },
        Action::CompleteActivity(run) => {
            tell(context, &of, run.number());
            let told = taken(context, &of, context.temporal.complete(&workflow, run).await);
            poll();
            told
        }
        _ => true,
    }
}

/// Records that the workflow is signalled about a run.
fn tell(context: &Context, job: &JobRef, run: i32) {
    context.remember(job, |m| {
        let times = m.told.filter(|(of, ..)| *of == run).map_or(0, |(_, times, _)| times);
        m.told = Some((run, times.saturating_add(1), Instant::now()));
    });
}

async fn signal(context: &Context, workflow: &str, request: &Request) -> Result<(), TemporalError> {
    let signal = match request.desired {
        DesiredState::Running => SIGNAL_RESUME,
        DesiredState::Paused => SIGNAL_PAUSE,
        DesiredState::Cancelled => SIGNAL_CANCEL,
    };
    Metrics::count(&context.metrics.signals, signal);
    context.temporal.signal(workflow, signal, request).await
}

/// True on success or NotFound: a closed workflow needs no signal, and an activity that is not pending has ended, or
/// its next try reads the end from the run. Other errors are shown in the condition Ready.
fn taken(context: &Context, job: &JobRef, answer: Result<(), TemporalError>) -> bool {
    match answer {
        Ok(()) | Err(TemporalError::NotFound(_)) => true,
        Err(e) => {
            context.workflows.failed(job.clone(), &e);
            false
        }
    }
}

/// Adds the finalizer to the version that was read. Returns the job after the write.
pub(super) async fn add_finalizer(job: &AgentJob, context: &Context) -> Result<AgentJob, ControllerError> {
    let mut list = job.metadata.finalizers.clone().unwrap_or_default();
    list.push(names::FINALIZER.into());
    let (api, name) = (jobs(job, context), &job.reference().name);
    let written = api.patch(name, &PatchParams::default(), &finalizers(job, &list)).await;
    let written = written.map_err(|e| StoreError::of(store::what("patch finalizers of", job), e))?;
    context.has_version(&job.reference(), store::version(&written));
    Ok(written)
}

/// Removes it; succeeds if the job is gone. Reads only metadata of the response: the rest may be unreadable.
async fn remove_finalizer(job: &AgentJob, context: &Context) -> Result<(), ControllerError> {
    let mut list = job.metadata.finalizers.clone().unwrap_or_default();
    list.retain(|f| f != names::FINALIZER);
    let (api, of) = (jobs(job, context), job.reference());
    match api.patch_metadata(&of.name, &PatchParams::default(), &finalizers(job, &list)).await {
        Ok(written) => {
            context.wrote(&of, store::version(&written));
            Ok(())
        }
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
        Err(e) => Err(StoreError::of(store::what("patch finalizers of", job), e).into()),
    }
}

fn jobs(job: &AgentJob, context: &Context) -> Api<AgentJob> {
    Api::namespaced(context.client.clone(), &job.reference().namespace)
}

/// The patch of the finalizers, bound to the version that was read.
fn finalizers(job: &AgentJob, list: &[String]) -> Patch<Value> {
    Patch::Merge(json!({ "metadata": {
        "finalizers": list,
        "resourceVersion": job.metadata.resource_version,
        "uid": job.metadata.uid,
    } }))
}

/// Deletes a job whose TTL has expired. The UID as a precondition spares a successor of the same name.
/// `unarchived`: how long the server was waited for in vain.
async fn delete_job(job: &AgentJob, context: &Context, unarchived: Option<Duration>) -> Result<(), ControllerError> {
    let of = job.reference();
    let deleted = store::delete(&jobs(job, context), &of.name, job.uid(), DeleteParams::background()).await;
    deleted.map_err(|e| StoreError::of(store::what("delete", job), e))?;
    if let Some(waited) = unarchived {
        let note = format!(
            "deleted because its time to live is over; the server has not said for {} s that it is in the archive",
            waited.as_secs()
        );
        publish::warning(context, publish::about("AgentJob", &of.namespace, &of.name, &of.uid), "NotArchived", &note);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_the_copies_lack_is_the_jobs_own_or_that_of_its_run() {
        let mut large = RawJson::from(json!("x".repeat(5000)));
        let status = |result: &RawJson| AgentJobStatus {
            active_run: Some(3),
            result: Some(result.clone()),
            ..AgentJobStatus::default()
        };
        let (running, whole) = (AgentJob::default(), status(&large));
        let mut ended = AgentJob { status: Some(whole.clone()), ..AgentJob::default() };
        ended.trim();
        large.trim();
        assert_eq!((lacking(&running, &whole), lacking(&ended, &whole)), (None, None));
        assert_eq!(lacking(&running, &status(&large)), Some(Lacking::OfRun(3)));
        assert_eq!(lacking(&ended, ended.status.as_ref().unwrap()), Some(Lacking::OfJob));
    }
}

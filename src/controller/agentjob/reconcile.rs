//! One reconcile: observe, plan, one status write, then the actions. Only actions that follow from the spec alone are
//! done before the write.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::runtime::controller;
use tracing::Instrument;

use super::{
    Context, JobItem,
    execute::{self, Calls, Target},
    index::readable,
    inputs::{self, Judged},
    measure,
    observe::observe,
    plan::{self, Action, ObservedState, OperatorContext, Plan},
    publish, repair, spans,
    template::{self, Filled},
};
use crate::{
    api::{AgentJob, AgentJobStatus, DesiredState, ExecutionMode, JobRef, Phase, WorkflowStatus, names},
    controller::ControllerError,
    lifecycle,
    platform::{clock, metrics::Metrics, store, trace},
    pods::node,
};

/// How long a reconcile may take: the client's own retries must not hold a slot for minutes.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a purely informative change may be delayed, to be merged with an important one.
const COALESCE: Duration = Duration::from_secs(10);
/// How long an agent's progress isn't written again, unless something else is.
const PROGRESS: Duration = Duration::from_secs(60);
/// How long the watch may take to show a newer version of a job before it is read instead: longer than it takes unless the
/// API server or this process is overloaded.
const WATCH_LAG: Duration = Duration::from_secs(10);
/// After so many failures in a row one speaks of it.
const SEVERAL: u32 = 3;
/// So many failures take about an hour: see [`ControllerError::retry_after`].
const ONE_HOUR: u32 = 50;
/// The wait before what found no slot is tried again, of jobs that were applied together: a call to Temporal, while others
/// are answered, and the judging of inputs.
const NEXT_SLOT: Duration = Duration::from_millis(200);

pub(super) async fn reconcile(
    item: Arc<JobItem>,
    context: Arc<Context>,
) -> Result<controller::Action, ControllerError> {
    let of = reference(&item);
    let Some(_turn) = context.turns.wait(&of.namespace, is_urgent(&item)).await else {
        // The process ends.
        return Ok(controller::Action::await_change());
    };
    // It may have changed meanwhile.
    match context.jobs.named(&of.namespace, &of.name) {
        // Thousands may wait: only here, so that each of those is small.
        Some(item) => Box::pin(in_turn(&item, &context)).await,
        None => Ok(controller::Action::await_change()),
    }
}

/// Whether a job has a pod or is to be ended: it comes before those that are still to be started, and those that are over.
fn is_urgent(item: &JobItem) -> bool {
    let Ok(job) = readable(item) else { return false };
    let status = job.status.as_ref();
    let to_be_ended = job.metadata.deletion_timestamp.is_some() || job.spec.desired_state != DesiredState::Running;
    let has_pod = status.is_some_and(|s| s.runner_pod_uid.is_some());
    (has_pod || to_be_ended) && !status.and_then(|s| s.phase).is_some_and(Phase::is_terminal)
}

async fn in_turn(item: &JobItem, context: &Context) -> Result<controller::Action, ControllerError> {
    let (began, of) = (Instant::now(), reference(item));
    let work = async {
        match readable(item) {
            Ok(job) => once(job, context).await,
            Err(error) => unreadable(item, error, context).await,
        }
    };
    let work = tokio::time::timeout(LIMIT, work).instrument(spans::logged(&of, item));
    let done = work.await.unwrap_or(Err(ControllerError::TimedOut));
    context.metrics.reconciles.inc();
    context.metrics.reconcile_seconds.observe(began.elapsed().as_secs_f64());
    if matches!(&done, Err(ControllerError::Store(e)) if e.is_conflict()) {
        context.conflicted(&of, store::version(item));
    }
    if done.is_ok() && context.memory(&of.uid).failures > 0 {
        context.remember(&of, |m| m.failures = 0);
    }
    done
}

/// A job that can't be read is skipped, but for its deletion: its metadata names its workflow, and garbage collection
/// removes its runs.
async fn unreadable(item: &JobItem, error: &str, context: &Context) -> Result<controller::Action, ControllerError> {
    let metadata = kube::Resource::meta(item).clone();
    super::unreadable(context, "AgentJob", &metadata, error);
    if metadata.deletion_timestamp.is_none() {
        return Ok(controller::Action::await_change());
    }
    let mut job = AgentJob { metadata, ..AgentJob::default() };
    let id = names::workflow(&context.installation, job.uid());
    let workflow = WorkflowStatus { id, ..WorkflowStatus::default() };
    job.status = Some(AgentJobStatus { workflow: Some(workflow), ..AgentJobStatus::default() });
    let mut observed = observe(&job, context).await?;
    let plan = decide(&job, &mut observed, context).await?;
    let target = Target { job, whole: false };
    let calls = execute::all(&target, context, &plan.actions).await?;
    Ok(again(plan.requeue, calls, &target.job, context))
}

fn reference(item: &JobItem) -> JobRef {
    let meta = kube::Resource::meta(item);
    JobRef {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

pub(super) fn on_error(item: Arc<JobItem>, error: &ControllerError, context: Arc<Context>) -> controller::Action {
    let job = reference(&item);
    context.remember(&job, |m| m.failures = m.failures.saturating_add(1));
    Metrics::count(&context.metrics.reconcile_errors, error.reason());
    let failures = context.memory(&job.uid).failures;
    if is_told(error, failures) {
        let about = publish::about("AgentJob", &job.namespace, &job.name, &job.uid);
        publish::warning(&context, about, "RequestRefused", &format!("koco can't go on with this job: {error}"));
    }
    if !error.is_conflict() || failures > 10 {
        let _logged = spans::logged(&job, &item).entered();
        tracing::warn!(%error, reason = error.reason(), failures, "reconcile");
    }
    error.retry_after(failures).map_or_else(controller::Action::await_change, controller::Action::requeue)
}

/// Whether an event tells of a failure: once it lasts, and again before the first event has expired after an hour. What is
/// refused of pods and runs is in the condition Stalled.
fn is_told(error: &ControllerError, failures: u32) -> bool {
    error.is_refused() && (failures == SEVERAL || failures.is_multiple_of(ONE_HOUR))
}

/// The newest known version of a job, seen from its cached copy.
#[derive(Debug, PartialEq)]
enum Newest {
    /// It is the cached one.
    Cached,
    /// The watch is to show it soon.
    Expected,
    /// The watch should have shown it.
    Overdue,
}

fn newest(known: Option<(u64, Instant)>, cached: Option<u64>) -> Newest {
    match known {
        Some((version, since)) if Some(version) > cached => match since.elapsed() < WATCH_LAG {
            true => Newest::Expected,
            false => Newest::Overdue,
        },
        _ => Newest::Cached,
    }
}

async fn once(job: &AgentJob, context: &Context) -> Result<controller::Action, ControllerError> {
    let read = match newest(context.memory(job.uid()).newest, store::version(job)) {
        Newest::Cached => None,
        // A write now would conflict.
        Newest::Expected => return Ok(controller::Action::requeue(WATCH_LAG / 4)),
        Newest::Overdue => Some(execute::read(job, context).await?),
    };
    if let Some(job) = &read {
        // Also if it is lower: in a cluster that was restored from a backup versions begin anew.
        context.has_version(&job.reference(), store::version(job));
    }
    let (cached, job) = (store::version(job), read.as_ref().unwrap_or(job));
    let mut target = Target { job: job.clone(), whole: read.is_some() };
    if repair::is_requested(job) {
        repair::job(job, context).await?;
        // What was written comes back through the watch.
        return Ok(controller::Action::requeue(WATCH_LAG));
    }
    let start = trace::now();
    let waits = match template::fill(job, context).await? {
        Some(Filled::Job(job)) => {
            target = Target { job: *job, whole: true };
            None
        }
        Some(Filled::Waits(reason, message)) => Some((reason, message)),
        None => None,
    };
    let invalid_inputs = match inputs::judge(&target.job, context).await? {
        Judged::Fit => None,
        Judged::Unfit(why) => Some(why),
        Judged::Later => return Ok(controller::Action::requeue(NEXT_SLOT)),
    };
    let mut observed = ObservedState { template: waits, invalid_inputs, ..observe(&target.job, context).await? };
    let mut plan = decide(&target.job, &mut observed, context).await?;
    if plan.actions.contains(&Action::AddFinalizer) {
        target = Target { job: execute::add_finalizer(&target.job, context).await?, whole: true };
        plan = decide(&target.job, &mut observed, context).await?;
    }
    let before = |action: &&Action| action.follows_from_spec();
    let (mut calls, mut done) = (Calls::Done, 0);
    if plan.actions.iter().any(|a| before(&a)) {
        let first: Vec<_> = plan.actions.iter().filter(before).cloned().collect();
        calls = execute::all(&target, context, &first).await?;
        done = first.len();
        // With the actions' results: the status must only state what has happened.
        observed = observe(&target.job, context).await?;
        let mut again = decide(&target.job, &mut observed, context).await?;
        again.actions.retain(|a| !a.follows_from_spec());
        plan = again;
    }
    let old = target.job.status.clone().unwrap_or_default();
    if let Some(wait) = may_wait(&old, &plan, context.memory(job.uid()).written, &now()) {
        calls = calls.and(execute::all(&target, context, &plan.actions).await?);
        spans::reconciled(job, start, false, done + plan.actions.len());
        return Ok(again(plan::sooner(plan.requeue, Some(wait)), calls, job, context));
    }
    let wrote = plan.status != old;
    if wrote {
        plan.status.result = execute::whole_result(&target.job, &plan.status, context).await?;
        let written = store::put_status(&context.client, &target.job, &plan.status).await?;
        target = Target { job: written, whole: true };
        context.metrics.status_writes.inc();
        spans::status(&target.job, &old, &plan.status);
        measure::status(&context.metrics.jobs, &target.job, &old, &plan.status, &observed.runs);
        publish::transitions(context, &target.job, &plan.status, plan.events);
    }
    remember(&target.job, cached, context, &plan.status, wrote);
    calls = calls.and(execute::all(&target, context, &plan.actions).await?);
    spans::reconciled(job, start, wrote, done + plan.actions.len());
    // The write comes back through the watch.
    let wait = plan.requeue.filter(|wait| !(wait.is_zero() && wrote));
    Ok(again(wait, calls, job, context))
}

/// When to reconcile again: also after a call to Temporal that failed or found no slot.
fn again(wait: Option<Duration>, calls: Calls, job: &AgentJob, context: &Context) -> controller::Action {
    requeue(wait, calls, context.temporal_answers(), || context.workflows.retry_after(job.uid()))
}

/// `answers`: whether Temporal has answered others lately. `later`: when to try again otherwise.
fn requeue(
    wait: Option<Duration>,
    calls: Calls,
    answers: bool,
    later: impl FnOnce() -> Duration,
) -> controller::Action {
    let again = match calls {
        Calls::Done => None,
        Calls::Crowded if answers => Some(NEXT_SLOT),
        Calls::Failed | Calls::Crowded => Some(later()),
    };
    match plan::sooner(wait, again) {
        Some(wait) => controller::Action::requeue(wait.max(Duration::from_millis(10))),
        None => controller::Action::await_change(),
    }
}

/// Now, in whole seconds, as Kubernetes writes times.
pub(super) fn now() -> Time {
    Time(Timestamp::from_second(clock::now().as_second()).unwrap_or_default())
}

/// Plans, with the node of the newest run's pod if the plan depends on that.
async fn decide(job: &AgentJob, observed: &mut ObservedState, context: &Context) -> Result<Plan, ControllerError> {
    let operator = OperatorContext {
        defaults: &context.defaults,
        installation: &context.installation,
        temporal_address: context.temporal.address(),
        temporal_namespace: context.temporal.namespace(),
        temporal_configured: context.temporal.is_configured(),
        archive_patience: context.archive_patience,
        now: now(),
    };
    let plan = plan::plan(job, observed, &operator);
    let Some(node) = plan.node_to_read(observed) else { return Ok(plan) };
    observed.node = Some(node::read(&context.client, node).await?);
    Ok(plan::plan(job, observed, &operator))
}

/// How long the write may be delayed, if all changes are informative and the last write was recent: of the agent's progress,
/// if nothing else has changed, the last write of progress.
fn may_wait(old: &AgentJobStatus, plan: &Plan, written: Option<Instant>, now: &Time) -> Option<Duration> {
    let is_new = plan.status != *old && plan.events.is_empty();
    if !is_new || without_progress(&plan.status) != without_progress(old) {
        return None;
    }
    let any = written.and_then(|at| COALESCE.checked_sub(at.elapsed()));
    let progress = old.progress.as_ref().and_then(|known| {
        let alone = AgentJobStatus { progress: plan.status.progress.clone(), ..old.clone() } == plan.status;
        PROGRESS.checked_sub(lifecycle::elapsed(&known.time, now)).filter(|left| alone && !left.is_zero())
    });
    any.max(progress)
}

/// A status without the purely informative fields.
fn without_progress(status: &AgentJobStatus) -> AgentJobStatus {
    let mut status = status.clone();
    (status.runner_pod, status.runner_pod_uid, status.pending_since) = (None, None, None);
    status.progress = None;
    if let Some(workflow) = &mut status.workflow {
        (workflow.status, workflow.run_id, workflow.namespace_id) = (None, None, None);
        // In Direct mode it is the intent.
        status.active_run = None;
    }
    if let Some(control) = &mut status.control {
        control.confirmed = None;
    }
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}

/// Tracks the jobs whose workflows may be closed from outside, and drops the others. `cached`: the version of the cached copy.
fn remember(job: &AgentJob, cached: Option<u64>, context: &Context, status: &AgentJobStatus, wrote: bool) {
    let ended = status.phase.is_some_and(|p| p.is_terminal());
    if ended {
        context.has_ended(job.uid(), cached);
    }
    if wrote {
        context.wrote(&job.reference(), store::version(job));
    }
    if ended {
        return;
    }
    context.network.serves(job.metadata.namespace.as_deref().unwrap_or_default());
    let temporal = status.execution_mode() == Some(ExecutionMode::Temporal);
    context.remember(&job.reference(), |memory| {
        memory.open = temporal && status.workflow.is_some();
        if wrote {
            let recorded = status.control.as_ref().and_then(|c| c.sent.as_ref());
            if memory.sent.as_ref() == recorded {
                memory.sent = None;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AgentProgress, Phase};

    fn plan(status: AgentJobStatus) -> Plan {
        Plan { status, actions: vec![], events: vec![], requeue: None }
    }

    #[test]
    fn a_job_is_read_once_the_watch_is_overdue_with_its_newest_version() {
        let now = Instant::now();
        assert_eq!(newest(None, Some(3)), Newest::Cached);
        assert_eq!(newest(Some((3, now)), Some(3)), Newest::Cached);
        assert_eq!(newest(Some((4, now)), Some(3)), Newest::Expected);
        let long_ago = now.checked_sub(WATCH_LAG).unwrap();
        assert_eq!(newest(Some((4, long_ago)), Some(3)), Newest::Overdue);
        assert_eq!(newest(Some((4, long_ago)), Some(5)), Newest::Cached);
    }

    #[test]
    fn a_call_that_finds_no_slot_is_tried_soon_only_while_others_are_answered() {
        let (soon, later) = (controller::Action::requeue(NEXT_SLOT), controller::Action::requeue(COALESCE));
        let requeue = |calls, answers| requeue(None, calls, answers, || COALESCE);
        assert_eq!(requeue(Calls::Crowded, true), soon);
        assert_eq!(requeue(Calls::Crowded, false), later);
        assert_eq!(requeue(Calls::Failed, true), later);
        assert_eq!(requeue(Calls::Done, true), controller::Action::await_change());
        assert_eq!(Calls::Done.and(Calls::Crowded), Calls::Crowded);
        assert_eq!(Calls::Failed.and(Calls::Done), Calls::Failed);
    }

    #[test]
    fn only_what_tells_how_things_go_may_wait() {
        let old = AgentJobStatus { phase: Some(Phase::Pending), ..Default::default() };
        let pod = AgentJobStatus { runner_pod: Some("p".into()), ..old.clone() };
        let running = AgentJobStatus { phase: Some(Phase::Running), ..pod.clone() };
        let now = Some(Instant::now());
        let may_wait = |new: &AgentJobStatus, written| super::may_wait(&old, &plan(new.clone()), written, &at(0));
        assert!(may_wait(&pod, now).is_some());
        assert!(may_wait(&running, now).is_none());
        assert!(may_wait(&old, now).is_none());
        assert!(may_wait(&pod, None).is_none());
        assert!(may_wait(&pod, Instant::now().checked_sub(COALESCE)).is_none());
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn progress_alone_is_written_once_a_minute_and_the_first_at_once() {
        let with = |percent: i32, second: i64| {
            let progress =
                AgentProgress { percent: Some(percent), message: None, usage: Default::default(), time: at(second) };
            AgentJobStatus { phase: Some(Phase::Running), progress: Some(progress), ..Default::default() }
        };
        let none = AgentJobStatus { progress: None, ..with(0, 0) };
        let wait = |old: &AgentJobStatus, new: &AgentJobStatus, now: i64| {
            may_wait(old, &plan(new.clone()), None, &at(now)).map(|left| left.as_secs())
        };
        assert_eq!(wait(&none, &with(1, 100), 100), None);
        assert_eq!(wait(&with(1, 100), &with(2, 110), 110), Some(50));
        assert_eq!(wait(&with(1, 100), &with(2, 160), 160), None);
        let ended = AgentJobStatus { phase: Some(Phase::Succeeded), ..with(2, 110) };
        assert_eq!(wait(&with(1, 100), &ended, 110), None, "with what is written anyway");
        let pod = AgentJobStatus { runner_pod: Some("p".into()), ..with(2, 110) };
        assert_eq!(wait(&with(1, 100), &pod, 110), None);
    }
}

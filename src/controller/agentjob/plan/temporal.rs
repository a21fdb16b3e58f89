//! Temporal mode: the workflow decides; the controller starts it, signals it changes of the spec and of the cluster,
//! and copies its state to the status.

use std::time::Duration;

use super::{
    Action, Decision, Guard,
    asked::{START, caught_up, has_heard, recover_signal, request, request_id, stays_paused, until_first_run},
    control::{finish, over_its_limit, phase_of_agent},
    missing, pending,
    view::JobView,
};
use crate::{
    api::{
        AgentRun, DesiredState, ErrorStatus, Phase, Reason, SentRequest, TerminationSource, TerminationType,
        WorkflowStatus, names,
    },
    lifecycle,
    protocol::{
        error_types,
        workflow::{Input, Progress, Request, RunnerFailed, Shape, Stage},
    },
    temporal::Closed,
};

/// How long a gateway may take to signal the workflow before the controller does it, too; and the first wait before the
/// controller repeats it.
const DELIVERY: Duration = Duration::from_secs(5);
/// The longest wait before a signal is repeated.
const LONGEST: Duration = Duration::from_secs(600);

pub(super) fn decide(view: &JobView<'_>) -> Decision {
    let unchanged = Decision { active_run: view.active_run(), ..Decision::unchanged(view) };
    if !view.operator.temporal_configured {
        let message =
            "no Temporal server is configured: set temporal.address in the Helm values, or use executionMode Direct";
        let blocked = Some((Reason::TemporalNotConfigured, message.to_string()));
        return Decision { blocked, ..unchanged };
    }
    if !view.job.has_finalizer() {
        // Without the finalizer nothing is started, because nothing would cancel it.
        return unchanged.with(Action::AddFinalizer);
    }
    let ours = view.operator.temporal_namespace;
    if let Some(workflow) = view.old.workflow.as_ref().filter(|w| w.namespace != ours) {
        // This Temporal namespace says nothing about the workflow.
        let message = format!(
            "its workflow is in the Temporal namespace {}, and koco is set to {ours}: set it back until this job has \
             ended, or delete the job",
            workflow.namespace
        );
        let not_ready = Some((Reason::TemporalNamespaceChanged, message));
        return Decision { phase: phase(view), not_ready, ..unchanged };
    }
    if view.observed.active_is_missing
        && let Some(number) = view.old.active_run
    {
        // Its AgentRun was deleted: the same as a deleted pod.
        let attempt = view.old.attempt.unwrap_or(1);
        return unchanged.with(Action::CreateTombstone { number, attempt }).again(Duration::ZERO);
    }
    if !is_submitted(view) {
        return submit(view, unchanged);
    }
    mirror(view, unchanged)
}

/// Whether the workflow was certainly started.
fn is_submitted(view: &JobView<'_>) -> bool {
    let recorded = view.old.workflow.as_ref().is_some_and(|w| w.run_id.is_some());
    recorded || view.observed.started.is_some() || view.active_run().is_some()
}

/// Why the last call to Temporal failed, for the condition Ready.
fn not_ready(view: &JobView<'_>) -> Option<(Reason, String)> {
    let (reason, message) = view.observed.temporal_trouble.as_ref()?;
    Some((reason.clone(), format!("{message}. It is retried; agents keep running.")))
}

fn submit(view: &JobView<'_>, unchanged: Decision) -> Decision {
    // Cancelled before anything was recorded: nothing is started.
    if view.desired() == DesiredState::Cancelled && view.old.workflow.is_none() {
        return finish(view, Phase::Cancelled, None);
    }
    let resolved = &view.resolved;
    let request = Request { id: request_id(view), desired: view.desired() };
    // It is started with what the spec asks for, which needs no signal any more.
    let sent = SentRequest {
        state: request.desired,
        id: request.id.clone(),
        request: view.job.control_request().map(str::to_string),
        time: view.now().clone(),
    };
    let input = Input {
        job: view.job.reference(),
        retry_policy: resolved.retry_policy.clone(),
        timeouts: resolved.timeouts,
        disruption_policy: view.job.spec.disruption_policy(),
        pause_policy: view.job.spec.pause_policy(),
        grace_seconds: view.job.grace_seconds(),
        shape: Shape::default(),
        progress: Progress { desired: view.desired(), last_request: Some(request), ..Progress::default() },
    };
    let not_ready = not_ready(view);
    let decision = Decision {
        phase: phase(view),
        workflow: Some(recorded(view)),
        sent: Some(unchanged.sent.clone().unwrap_or(sent)),
        not_ready,
        ..unchanged
    };
    let decision = decision.with(Action::StartWorkflow(Box::new(input))).again(START);
    // Only the workflow knows whether it is held.
    if view.desired() == DesiredState::Running { decision } else { decision.with(Action::QueryWorkflow) }
}

/// The workflow on record; of a job without a record, which is new or whose status was emptied, the one that is its.
fn recorded(view: &JobView<'_>) -> WorkflowStatus {
    view.old.workflow.clone().unwrap_or_else(|| WorkflowStatus {
        id: names::workflow(view.operator.installation, view.job.uid()),
        namespace: view.operator.temporal_namespace.into(),
        status: Some(Stage::Pending.as_str().into()),
        is_paused: Some(false),
        ..WorkflowStatus::default()
    })
}

/// The workflow exists: copies its state to the status, and signals it changes of the spec and the cluster.
fn mirror(view: &JobView<'_>, unchanged: Decision) -> Decision {
    let (workflow, error) = (workflow(view), error(view));
    let mirrored = Decision { workflow: Some(workflow), error, ..unchanged };
    if let Some(waiting) = missing::wait(view) {
        return Decision { phase: phase(view), ..waiting.decide(view, mirrored) };
    }
    if let Some((phase, error)) = closed(view) {
        let ended = finish(view, phase, error);
        let error = if ended.phase == Phase::Succeeded { None } else { ended.error.or(mirrored.error) };
        return Decision { workflow: mirrored.workflow, active_run: mirrored.active_run, error, ..ended };
    }
    let (sent, signal) = request(view);
    let tell = tell(view);
    let not_ready = not_ready(view);
    let failing = view.observed.answer.as_ref().and_then(|a| a.failing.as_ref());
    let ask = not_ready.is_some() || failing.is_some() || !caught_up(view, sent.as_ref());
    let query = ask.then(|| if closes(view) { Action::AwaitClose } else { Action::QueryWorkflow });
    let actions = signal.into_iter().chain(tell.actions).chain(query).collect();
    Decision {
        phase: phase(view),
        sent,
        not_ready,
        blocked: tell.blocked.or_else(|| failing.map(refused)),
        waits: tell.waits,
        pending_since: tell.pending_since,
        actions,
        requeue: super::sooner(tell.requeue, until_first_run(view)),
        ..mirrored
    }
}

/// Whether the workflow's close is what comes next, so that nothing else need be asked of it: its agent has succeeded, and it
/// has not said that it goes on from there.
fn closes(view: &JobView<'_>) -> bool {
    let Some(run) = view.run.filter(|run| run.spec.grant.is_some()) else { return false };
    let succeeded = run.termination().is_some_and(|t| t.kind == TerminationType::Succeeded);
    succeeded && view.answer().is_none_or(|answer| answer.ended_run != Some(run.number()))
}

/// The worker, which tries again at least every minute, has no other way to say it to users.
fn refused(failing: &String) -> (Reason, String) {
    (Reason::RequestRefused, format!("the API server refuses the worker's requests, in activity {failing}"))
}

/// The new `status.workflow`.
fn workflow(view: &JobView<'_>) -> WorkflowStatus {
    let mut workflow = recorded(view);
    if let Some(started) = &view.observed.started {
        workflow.run_id.get_or_insert_with(|| started.run_id.clone());
        workflow.namespace_id = workflow.namespace_id.or(started.namespace_id.clone());
    }
    // The workflow's own activity writes the grant, so no query is needed to know its stage.
    if view.run.is_some_and(|r| r.spec.grant.is_some() && !r.is_closed()) && view.desired() == DesiredState::Running {
        workflow.status = Some(Stage::Running.as_str().into());
    }
    let Some(answer) = &view.observed.answer else { return workflow };
    if !answer.missing {
        workflow.namespace_id = answer.namespace_id.clone().or(workflow.namespace_id);
        workflow.missing_since = None;
    }
    // A close that was waited for doesn't say which of its executions that was.
    let granted = answer.closed.and(view.run).and_then(|run| run.spec.grant.as_ref()?.run_id.clone());
    workflow.run_id = answer.run_id.clone().or(granted).or(workflow.run_id);
    if let Some(status) = answer.status.as_ref().filter(|s| Some(s.run) >= view.run.map(AgentRun::number)) {
        // A final stage is not shown before the workflow is closed, which follows in a moment.
        let ends = matches!(status.status, Stage::Completed | Stage::Failed | Stage::Cancelled);
        let granted = view.run.is_some_and(|r| r.spec.grant.is_some() && !r.is_closed());
        let behind = granted && matches!(status.status, Stage::Pending | Stage::Retrying);
        if !ends && !behind {
            workflow.status = Some(status.status.as_str().into());
        }
        workflow.is_paused = Some(status.is_paused);
        workflow.error.clone_from(&status.error);
    }
    if let Some(closed) = answer.closed {
        workflow.status = Some(closed_word(closed).into());
        workflow.is_paused = Some(false);
        if closed == Closed::Completed {
            workflow.error = None;
        }
    }
    workflow
}

/// The newest attempt's error: of the newest run that has failed, or from the workflow's query.
fn error(view: &JobView<'_>) -> Option<ErrorStatus> {
    let failed = view.termination().filter(|t| t.kind == TerminationType::Failed);
    if let Some(error) = failed.and_then(|t| t.error.clone()) {
        return Some(error);
    }
    match view.answer() {
        Some(answer) if Some(answer.run) >= view.run.map(AgentRun::number) => answer.error.clone(),
        _ => view.old.error.clone(),
    }
}

/// How the job ends, if its workflow is closed.
fn closed(view: &JobView<'_>) -> Option<(Phase, Option<ErrorStatus>)> {
    let answer = view.observed.answer.as_ref()?;
    let from_outside = |how: &str| {
        let message = format!("the workflow was {how} from outside");
        Some(ErrorStatus { kind: error_types::WORKFLOW_CLOSED.into(), message })
    };
    let succeeded = view.termination().is_some_and(|t| t.kind == TerminationType::Succeeded);
    if answer.missing || matches!(answer.closed, Some(Closed::Terminated | Closed::TimedOut)) {
        // The agent's success is recorded: the workflow's later end doesn't change that.
        if succeeded {
            return Some((Phase::Succeeded, None));
        }
    }
    if answer.missing {
        let message = "Temporal has no workflow of this job: it was deleted, or its retention is over".to_string();
        let error = ErrorStatus { kind: error_types::WORKFLOW_CLOSED.into(), message };
        return Some((Phase::Failed, Some(error)));
    }
    Some(match answer.closed? {
        Closed::Completed => (Phase::Succeeded, None),
        Closed::Cancelled => (Phase::Cancelled, None),
        Closed::Failed => {
            // A query from before the end may be about an earlier attempt.
            let said = answer.status.as_ref().filter(|s| s.status == Stage::Failed).and_then(|s| s.error.clone());
            (Phase::Failed, said.or_else(|| view.run_error()))
        }
        Closed::Terminated => (Phase::Failed, from_outside("terminated")),
        Closed::TimedOut => (Phase::Failed, from_outside("timed out")),
    })
}

fn closed_word(closed: Closed) -> &'static str {
    match closed {
        Closed::Completed => "completed",
        Closed::Failed => "failed",
        Closed::Cancelled => "cancelled",
        Closed::Terminated => "terminated",
        Closed::TimedOut => "timedout",
    }
}

/// The signals about the newest run, and its pending state.
#[derive(Default)]
struct Tell {
    actions: Vec<Action>,
    requeue: Option<Duration>,
    blocked: Option<(Reason, String)>,
    waits: Option<(Reason, String)>,
    pending_since: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
}

fn tell(view: &JobView<'_>) -> Tell {
    let tell = Tell { blocked: name_taken(view), ..Tell::default() };
    let Some(run) = view.run else { return tell };
    let carried = pending::carried(view, run.may_have_started()).filter(|_| run.is_closed());
    let pending_since = carried.or_else(|| view.series_since());
    let tell = Tell { pending_since, ..tell };
    if let Some(termination) = view.derived_termination() {
        // Closed first; the next reconcile does the rest.
        let close = Action::close(run, termination, Guard::None);
        return Tell { actions: vec![close], requeue: Some(Duration::ZERO), ..tell };
    }
    let moved_on = view.answer().is_some_and(|s| s.run > run.number());
    match (run.is_closed(), run.spec.grant.is_some()) {
        _ if moved_on => tell,
        (true, true) => deliver(view, run, tell),
        (true, false) => ended_before_its_grant(view, run, tell),
        (false, true) => {
            let (close, left) = over_its_limit(view, run);
            let actions = close.into_iter().collect();
            Tell { actions, requeue: super::sooner(tell.requeue, left), ..tell }
        }
        (false, false) => on_its_way(view, run, tell),
    }
}

/// That another object has the name of the run that the workflow is about to create.
fn name_taken(view: &JobView<'_>) -> Option<(Reason, String)> {
    let begun = view.answer().is_some_and(|a| a.run > view.run.map_or(0, AgentRun::number));
    view.observed.blocked.clone().filter(|_| begun)
}

/// Whether a signal about a run may be sent now, or how long to wait: with back-off, because signals pile up while no
/// worker runs.
fn due(view: &JobView<'_>, run: i32) -> Result<(), Duration> {
    let Some(told) = view.observed.told.filter(|t| t.run == run) else { return Ok(()) };
    let wait = DELIVERY.saturating_mul(1 << told.times.saturating_sub(1).min(16)).min(LONGEST);
    wait.checked_sub(told.ago).filter(|left| !left.is_zero()).map_or(Ok(()), Err)
}

/// Sends signals about a run if they are due, and queries the workflow.
fn signal_again(view: &JobView<'_>, run: i32, actions: Vec<Action>, tell: Tell) -> Tell {
    let (actions, wait) = match due(view, run) {
        Ok(()) => (actions.into_iter().chain([Action::QueryWorkflow]).collect(), DELIVERY),
        Err(left) => (vec![], left),
    };
    Tell { actions, requeue: super::sooner(tell.requeue, Some(wait)), ..tell }
}

/// A granted run has ended: completes the activity if no other role has done so.
fn deliver(view: &JobView<'_>, run: &AgentRun, tell: Tell) -> Tell {
    let waits = view.answer().is_none_or(|s| {
        s.run <= run.number() && matches!(s.status, Stage::Running | Stage::Cancelling | Stage::Pending)
    });
    if !waits {
        return tell;
    }
    let complete = Action::CompleteActivity(Box::new(run.clone()));
    // A server that was restored to a point before the grant: the workflow waits for the runner.
    let told = view.observed.told.is_some_and(|t| t.run == run.number());
    let waits = view.answer().is_some_and(|s| s.status == Stage::Pending);
    let ready = (told && waits).then_some(Action::RunnerReady(run.number()));
    let by_runner = run.termination().filter(|t| t.source == TerminationSource::Runner);
    match by_runner.map(|t| view.since(&t.time)) {
        Some(since) if since < DELIVERY => {
            let requeue = super::sooner(tell.requeue, Some(DELIVERY - since));
            Tell { requeue, ..tell }
        }
        // Repeated for as long as the activity seems pending.
        _ => signal_again(view, run.number(), ready.into_iter().chain([complete]).collect(), tell),
    }
}

fn ended_before_its_grant(view: &JobView<'_>, run: &AgentRun, tell: Tell) -> Tell {
    let unknown = || ErrorStatus { kind: error_types::NOT_STARTED.into(), message: "the run was deleted".into() };
    let error = view.run_error().unwrap_or_else(unknown);
    // The signal was received. The error alone would not show it: that of an earlier run may be the same.
    if view.answer().is_some_and(|s| s.ended_run == Some(run.number())) {
        return tell;
    }
    let fatal = error.kind == error_types::PENDING_TIMEOUT;
    let failed = RunnerFailed { run: run.number(), error, fatal };
    // Whether a deleted run was granted only the workflow knows.
    let granted = run.spec.identity.tombstone.then(|| Action::CompleteActivity(Box::new(run.clone())));
    let actions = [Action::RunnerFailed(failed)].into_iter().chain(granted).collect();
    signal_again(view, run.number(), actions, tell)
}

fn on_its_way(view: &JobView<'_>, run: &AgentRun, tell: Tell) -> Tell {
    if let Some(ready) = run.status.as_ref().and_then(|s| s.ready_time.as_ref()) {
        // A workflow that waits for its runner has missed the signal: it was reset, or the gateway ended.
        let held = view.is_held() || view.desired() == DesiredState::Cancelled;
        let since = view.since(ready);
        return match since < DELIVERY {
            _ if held => tell,
            true => Tell { requeue: super::sooner(tell.requeue, Some(DELIVERY - since)), ..tell },
            false => signal_again(view, run.number(), vec![Action::RunnerReady(run.number())], tell),
        };
    }
    let pending = pending::of(view);
    // Signalled once that is recorded, so that a stale cache fails no ready run.
    let close = pending.timed_out.map(|error| {
        let termination = lifecycle::koco(run, &error.kind, error.message, view.now());
        Action::close(run, termination, Guard::NotReady)
    });
    let (create, left) = pending::unseen_pod(view, run);
    let requeue = super::sooner(pending.requeue, close.as_ref().map(|_| Duration::ZERO)).or(tell.requeue);
    Tell {
        requeue: super::sooner(requeue, left),
        actions: close.or(create).into_iter().collect(),
        blocked: pending.blocked,
        waits: pending.waits,
        pending_since: pending.since,
    }
}

/// The phase: from the cluster's state, so that it is right also while no worker answers.
fn phase(view: &JobView<'_>) -> Phase {
    let answer = view.answer();
    let wanted = answer.map_or(view.desired(), |a| a.desired);
    if [Some(wanted), view.command(), Some(view.desired())].contains(&Some(DesiredState::Cancelled)) {
        return Phase::Cancelling;
    }
    if view.agent_may_run() {
        return phase_of_agent(view, view.command().unwrap_or_default());
    }
    let paused = match answer {
        Some(answer) => answer.is_paused && has_heard(view, recover_signal(view).as_ref()),
        None => stays_paused(view),
    };
    if paused && !view.is_lost() {
        return Phase::Paused;
    }
    if view.termination().is_some_and(|t| t.kind == TerminationType::Succeeded) {
        return Phase::Running;
    }
    let resumed = view.run.is_some_and(|r| r.spec.identity.resumed);
    let started = view.old.attempt.is_some() || view.run.is_some_and(AgentRun::may_have_started);
    if started && !resumed { Phase::Retrying } else { Phase::Pending }
}

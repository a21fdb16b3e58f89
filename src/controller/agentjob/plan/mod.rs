//! What to do about a job, from what was observed of it: pure, so that every rule is tested without a cluster.
//! Called by [`super::reconcile`] alone.
//!
//! [`view`] reads the observations once. One function for each concern then returns a value: [`direct`] or [`temporal`]
//! (with [`pending`], and [`asked`] for what a workflow has heard) decides on the attempts, [`template`] and [`limits`]
//! whether a job is taken at all, [`deletion`] and [`ended`] on jobs that go or have ended, [`collect`] on what to
//! remove, [`status`] composes the new status, [`conditions`] and [`events`] derive the rest.

mod asked;
mod collect;
mod conditions;
mod control;
mod deletion;
mod direct;
mod ended;
mod events;
mod limits;
mod missing;
mod pending;
mod status;
mod template;
mod temporal;
mod view;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        AgentJob, AgentJobStatus, AgentRun, DesiredState, ErrorStatus, ExecutionMode, Phase, Reason, RetryStatus,
        SentRequest, Termination, TerminationSource, WorkflowStatus,
    },
    controller::agentjob::Defaults,
    pods::{NodeState, PodView, ending},
    protocol::workflow::{Input, Request, RunnerFailed, StatusAnswer},
    runs::NewRun,
    temporal::Closed,
};

pub use events::{Event, Level};
use view::JobView;

/// What was observed of a job, beside the object itself.
#[derive(Clone, Debug, Default)]
pub struct ObservedState {
    /// Its runs, by number.
    pub runs: Vec<AgentRun>,
    /// Whether the run `status.activeRun` existed and is gone now, according to the API server, not a cache.
    pub active_is_missing: bool,
    /// The pods of its runs.
    pub pods: Vec<PodView>,
    /// Whether the pod of the newest run existed and is gone now, according to the API server, not a cache.
    pub pod_is_gone: bool,
    /// The node of the newest run's pod, if a decision depends on it: see [`Plan::node_to_read`].
    pub node: Option<NodeState>,
    /// The pod of the run before `status.activeRun`, if it may still run. No other is created before it has ended.
    pub previous_pod: Option<PodView>,
    /// The last snapshot of its workflow, since this process started.
    pub answer: Option<WorkflowSnapshot>,
    /// The run of its workflow that this process started, and the id of the Temporal namespace.
    pub started: Option<StartedWorkflow>,
    /// The last request to the workflow, if that is not in the status yet.
    pub sent: Option<SentRequest>,
    /// The last signals to the workflow about a run.
    pub told: Option<Told>,
    /// Why the job can't be filled from its template, if it still is to be.
    pub template: Option<(Reason, String)>,
    /// Why its inputs can't be used, if so.
    pub invalid_inputs: Option<String>,
    /// Why the next run can't be created, if a user or administrator must fix that.
    pub blocked: Option<(Reason, String)>,
    /// Why the last call to Temporal failed, if so.
    pub temporal_trouble: Option<(Reason, String)>,
}

/// A workflow's status from its queries, or how it was closed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkflowSnapshot {
    /// The result of its query; none if no worker answered.
    pub status: Option<StatusAnswer>,
    /// How the execution was closed, if it is.
    pub closed: Option<Closed>,
    /// The newest run.
    pub run_id: Option<String>,
    /// There is no such workflow.
    pub missing: bool,
    /// The id of the Temporal namespace that answered, if it could be read.
    pub namespace_id: Option<String>,
    /// What the API server refuses its worker again and again.
    pub failing: Option<String>,
}

/// A workflow that this process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StartedWorkflow {
    /// Its run.
    pub run_id: String,
    /// The id of the Temporal namespace, if it could be read.
    pub namespace_id: Option<String>,
    /// The id of the request that it was started with.
    pub request: String,
    /// How long ago that was.
    pub ago: Duration,
}

/// The controller's signals to a workflow about a run: that its runner is ready, that it failed, how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The run.
    pub run: i32,
    /// How often, in a row.
    pub times: u32,
    /// How long ago the last time was.
    pub ago: Duration,
}

/// The context that all jobs share.
pub struct OperatorContext<'a> {
    /// The operator's defaults.
    pub defaults: &'a Defaults,
    /// Our id in Temporal.
    pub installation: &'a str,
    /// Temporal's address.
    pub temporal_address: &'a str,
    /// Temporal's namespace.
    pub temporal_namespace: &'a str,
    /// Whether a Temporal server is configured.
    pub temporal_configured: bool,
    /// How long a job whose TTL has expired waits for the server to archive it; zero if there is no server.
    pub archive_patience: Duration,
    /// Now, in whole seconds, as Kubernetes writes times.
    pub now: Time,
}

/// The precondition under which a run may be closed, checked on its newest version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Always.
    None,
    /// While its commands and its runner's acknowledgement are the same, by which it was judged.
    Unchanged,
    /// While its runner has not registered.
    NotReady,
    /// While it is still recorded as unresponsive since the same time.
    Unresponsive,
}

/// An action. Each is idempotent.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Add the finalizer. Nothing is started before.
    AddFinalizer,
    /// Remove it.
    RemoveFinalizer,
    /// Delete the job, whose TTL has expired.
    DeleteJob {
        /// How long the server was waited for in vain.
        unarchived: Option<Duration>,
    },
    /// Create the run and its pod (Direct mode).
    CreateRun(Box<NewRun>),
    /// Create the pod of a run that exists (Direct mode).
    CreatePod(Box<AgentRun>),
    /// Command the runner of a run (Direct mode).
    CommandRun {
        /// The run.
        run: Box<AgentRun>,
        /// The state.
        state: DesiredState,
    },
    /// Close a run, unless it is closed.
    CloseRun {
        /// The run.
        run: Box<AgentRun>,
        /// How it ended.
        termination: Box<Termination>,
        /// The precondition.
        guard: Guard,
    },
    /// Create the run of this number closed, in place of one that never existed or was deleted.
    CreateTombstone {
        /// The number.
        number: i32,
        /// The attempt that it would have been for.
        attempt: i32,
    },
    /// Delete a run, and with it its pod.
    DeleteRun {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Delete a pod.
    DeletePod {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Start the workflow. Starting it again is no error.
    StartWorkflow(Box<Input>),
    /// Signal the workflow the desired state.
    Signal(Request),
    /// Signal the workflow that a runner has registered, if it seems to have missed that.
    RunnerReady(i32),
    /// Signal the workflow that a run has ended before its grant.
    RunnerFailed(RunnerFailed),
    /// Complete the activity that waits for the end of a closed run.
    CompleteActivity(Box<AgentRun>),
    /// Complete the activity that waits for the end of a run that is gone and can't get a tombstone: its job is being
    /// deleted.
    CompleteMissing {
        /// The run's number.
        number: i32,
    },
    /// Query the workflow in the background.
    QueryWorkflow,
    /// Wait for the workflow's close in the background. If that takes long, it is queried.
    AwaitClose,
}

impl Action {
    /// Whether it follows from the spec alone, so that it need not wait for the status write. All others must follow
    /// from the recorded status.
    pub fn follows_from_spec(&self) -> bool {
        matches!(self, Self::Signal(_) | Self::CommandRun { .. })
    }

    /// The closing of a run.
    fn close(run: &AgentRun, termination: Termination, guard: Guard) -> Self {
        let claimed = termination.source == TerminationSource::Runner;
        let guard = if claimed { Guard::Unchanged } else { guard };
        Self::CloseRun { run: Box::new(run.clone()), termination: Box::new(termination), guard }
    }

    /// Whether pods follow from it: from a workflow those that the worker creates.
    pub fn leads_to_pods(&self) -> bool {
        matches!(self, Self::CreateRun(_) | Self::CreatePod(_) | Self::StartWorkflow(_))
    }

    /// Whether it must come last.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::RemoveFinalizer | Self::DeleteJob { .. })
    }
}

/// The new status and the actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The whole new status; equal to the old one if nothing is to be written.
    pub status: AgentJobStatus,
    /// In this order.
    pub actions: Vec<Action>,
    /// Events to publish.
    pub events: Vec<Event>,
    /// When to reconcile again even without a change.
    pub requeue: Option<Duration>,
}

impl Plan {
    /// The node to read before this plan is carried out: it closes the run of this pod because its runner is lost, which
    /// is a disruption if its node is.
    pub fn node_to_read<'a>(&self, observed: &'a ObservedState) -> Option<&'a str> {
        let closed = self.actions.iter().find_map(|action| match action {
            Action::CloseRun { run, termination, .. } if ending::depends_on_node(termination) => Some(run),
            _ => None,
        });
        let run = closed.filter(|_| observed.node.is_none())?;
        observed.pods.iter().find(|pod| ending::is_pod_of(run, pod))?.node.as_deref()
    }
}

/// What is decided about the attempts of a job: the parts of the status that follow from it, and what to do. A part
/// that is not decided stays as it was.
#[derive(Clone, Debug)]
struct Decision {
    phase: Phase,
    active_run: Option<i32>,
    retry: Option<RetryStatus>,
    workflow: Option<WorkflowStatus>,
    sent: Option<SentRequest>,
    error: Option<ErrorStatus>,
    pending_since: Option<Time>,
    /// Why the job is stalled.
    blocked: Option<(Reason, String)>,
    /// What it waits for, if that may come without anybody's help.
    waits: Option<(Reason, String)>,
    /// Why this generation could not be passed on.
    not_ready: Option<(Reason, String)>,
    actions: Vec<Action>,
    requeue: Option<Duration>,
}

impl Decision {
    /// Everything as it was, and nothing to do.
    fn unchanged(view: &JobView<'_>) -> Self {
        let old = &view.old;
        Self {
            phase: old.phase.unwrap_or_default(),
            active_run: old.active_run,
            retry: old.retry.clone(),
            workflow: old.workflow.clone(),
            sent: old.control.as_ref().and_then(|c| c.sent.clone()),
            error: old.error.clone(),
            pending_since: old.pending_since.clone(),
            blocked: None,
            waits: None,
            not_ready: None,
            actions: Vec::new(),
            requeue: None,
        }
    }

    fn with(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    /// Requeue after `wait`, or earlier if that was set before.
    fn again(mut self, wait: Duration) -> Self {
        self.requeue = sooner(self.requeue, Some(wait));
        self
    }
}

/// The earlier of two times to reconcile again.
pub fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether a job, as it is now, is still to have this run and a pod for it. `planned`: the copy that the plan was made from,
/// which may be old.
pub fn still_wants(job: &AgentJob, planned: &AgentJob, number: i32) -> bool {
    let has_moved_on = |status: &AgentJobStatus| {
        let newest = status.active_run.unwrap_or(0);
        // A run that had its pod and was deleted may be created again from an old copy of the job.
        let had_one = newest == number && status.runner_pod_uid.is_some();
        newest > number || had_one
    };
    job.may_start()
        && job.metadata.generation == planned.metadata.generation
        && !job.status.as_ref().is_some_and(has_moved_on)
}

/// Decides.
pub fn plan(job: &AgentJob, observed: &ObservedState, operator: &OperatorContext<'_>) -> Plan {
    let view = JobView::new(job, observed, operator);
    let decision = if job.metadata.deletion_timestamp.is_some() {
        deletion::decide(&view)
    } else if view.is_terminal() {
        ended::decide(&view)
    } else if job.spec.unfilled().is_some() {
        template::decide(&view)
    } else if let Some(error) = limits::exceeded(&view) {
        control::finish(&view, Phase::Failed, Some(error))
    } else {
        match view.resolved.execution_mode {
            ExecutionMode::Direct => direct::decide(&view),
            ExecutionMode::Temporal => temporal::decide(&view),
        }
    };
    let decision = match pending::not_ending(&view) {
        // Whatever else is to be said: it is what the job waits for, or what is left of it.
        Some(pod) => {
            let requeue = sooner(decision.requeue, pod.requeue);
            Decision { blocked: pod.blocked.or(decision.blocked), requeue, ..decision }
        }
        None => decision,
    };
    let collected = collect::plan(&view, decision.phase);
    let mut status = status::compose(&view, &decision);
    status.conditions = conditions::of(&view, &decision, &status);
    let events = events::between(&view.old, &status);
    Plan {
        status,
        actions: decision.actions.into_iter().chain(collected.actions).collect(),
        events,
        requeue: sooner(decision.requeue, collected.requeue),
    }
}

#[cfg(test)]
mod tests;

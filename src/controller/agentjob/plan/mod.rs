//! What to do about a job, from what was observed of it: pure, so that every rule is tested without a cluster.
//! Called by [`super::reconcile`] alone.
//!
//! [`view`] reads the observations once. One function for each concern then returns a value: [`direct`] or [`temporal`] (with
//! [`pending`]) decides on the attempts, [`deletion`] and [`ended`] on jobs that go or have ended, [`collect`] on what to
//! remove, [`status`] composes the new status, [`conditions`] and [`events`] put it into words.

mod collect;
mod conditions;
mod control;
mod deletion;
mod direct;
mod ended;
mod events;
mod pending;
mod status;
mod temporal;
mod view;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        AgentJob, AgentJobStatus, AgentRun, DesiredState, ErrorStatus, ExecutionMode, Phase, Reason, RetryStatus,
        SentRequest, Termination, WorkflowStatus,
    },
    platform::settings::Defaults,
    pods::PodView,
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
    /// Whether the API server, and no cache, says that the run `status.activeRun`, which existed, exists no more.
    pub active_is_missing: bool,
    /// The pods of its runs.
    pub pods: Vec<PodView>,
    /// Whether the API server, and no cache, says that the pod of the newest run, which existed, exists no more.
    pub pod_is_gone: bool,
    /// The pod of the run before `status.activeRun`, if it may still run. No other is created before it has ended.
    pub previous_pod: Option<PodView>,
    /// What its workflow answered last, since this process began.
    pub answer: Option<WorkflowSnapshot>,
    /// The run of its workflow that this process started.
    pub started: Option<String>,
    /// What this process has asked of the workflow, if that is not in the status yet.
    pub sent: Option<SentRequest>,
    /// When the workflow was told last of a run of its.
    pub told: Option<Told>,
    /// What keeps the next run from being created, if a person is needed.
    pub blocked: Option<(Reason, String)>,
    /// Why Temporal could not be asked or told, if so.
    pub temporal_trouble: Option<(Reason, String)>,
}

/// What a workflow answered, or how it was closed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkflowSnapshot {
    /// The three queries' answers; none if no worker answered.
    pub status: Option<StatusAnswer>,
    /// How the execution was closed, if it is.
    pub closed: Option<Closed>,
    /// The newest run.
    pub run_id: Option<String>,
    /// Temporal knows no such workflow.
    pub missing: bool,
}

/// What the controller has told a workflow of a run: that its runner is ready, that it failed, how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The run.
    pub run: i32,
    /// How often, in a row.
    pub times: u32,
    /// How long ago the last time was.
    pub ago: Duration,
}

/// What doesn't change between jobs.
pub struct OperatorContext<'a> {
    /// The operator's defaults.
    pub defaults: &'a Defaults,
    /// The cluster's id.
    pub cluster: &'a str,
    /// Temporal's namespace.
    pub temporal_namespace: &'a str,
    /// Whether a Temporal server is configured.
    pub temporal_configured: bool,
    /// Now, in whole seconds, as Kubernetes writes times.
    pub now: Time,
}

/// Under which circumstances a run may still be closed when its newest version is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Always.
    None,
    /// While its runner has not registered.
    NotReady,
    /// While a gateway still says that it is unresponsive, since the same time.
    Unresponsive,
}

/// One thing to do. Each may be done again without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put our finalizer on the job. Nothing is started before.
    AddFinalizer,
    /// Take it off.
    RemoveFinalizer,
    /// Delete the job, whose TTL has expired.
    DeleteJob,
    /// Create the run and its pod (Direct mode).
    CreateRun(Box<NewRun>),
    /// Create the pod of a run that exists (Direct mode).
    CreatePod(Box<AgentRun>),
    /// Tell the runner of a run what is wanted (Direct mode).
    CommandRun {
        /// The run.
        run: Box<AgentRun>,
        /// The state.
        state: DesiredState,
    },
    /// Record how a run ended, unless somebody was first.
    CloseRun {
        /// The run.
        run: Box<AgentRun>,
        /// How it ended.
        termination: Box<Termination>,
        /// Under which circumstances.
        guard: Guard,
    },
    /// Create the run of this number closed, in place of one that never was or that somebody deleted.
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
    /// Ask the workflow for a state.
    Signal(Request),
    /// Tell the workflow that a runner has registered, which it seems to have missed.
    RunnerReady(i32),
    /// Tell the workflow that a run has ended before its grant.
    RunnerFailed(RunnerFailed),
    /// Complete the activity that waits for the end of a closed run.
    CompleteActivity(Box<AgentRun>),
    /// Complete the activity that waits for the end of a run that is gone and can't get a tombstone: its job is being deleted.
    CompleteMissing {
        /// The run's number.
        number: i32,
    },
    /// Ask the workflow how it stands, in the background.
    QueryWorkflow,
}

impl Action {
    /// Whether the spec alone makes it right, so that it need not wait for the status write. What is not may follow only from
    /// what is on record.
    pub fn follows_from_spec(&self) -> bool {
        matches!(self, Self::Signal(_) | Self::CommandRun { .. })
    }

    /// Whether it comes last of all.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::RemoveFinalizer | Self::DeleteJob)
    }
}

/// What to do, and what the status is to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The whole new status; equal to the old one where nothing is to be written.
    pub status: AgentJobStatus,
    /// In this order.
    pub actions: Vec<Action>,
    /// For people.
    pub events: Vec<Event>,
    /// When to look again although nothing happens.
    pub requeue: Option<Duration>,
}

/// What is decided about the attempts of a job: the parts of the status that follow from it, and what to do. A part that is
/// not decided stays as it was.
#[derive(Clone, Debug)]
struct Decision {
    phase: Phase,
    active_run: Option<i32>,
    retry: Option<RetryStatus>,
    workflow: Option<WorkflowStatus>,
    sent: Option<SentRequest>,
    error: Option<ErrorStatus>,
    pending_since: Option<Time>,
    /// A person is needed.
    blocked: Option<(Reason, String)>,
    /// This generation could not be handed on.
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
            not_ready: None,
            actions: Vec::new(),
            requeue: None,
        }
    }

    fn with(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    /// Look again after `wait`, or earlier if something else asked for that.
    fn again(mut self, wait: Duration) -> Self {
        self.requeue = sooner(self.requeue, Some(wait));
        self
    }
}

fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Decides.
pub fn plan(job: &AgentJob, observed: &ObservedState, operator: &OperatorContext<'_>) -> Plan {
    let view = JobView::new(job, observed, operator);
    let decision = if job.metadata.deletion_timestamp.is_some() {
        deletion::decide(&view)
    } else if view.is_terminal() {
        ended::decide(&view)
    } else {
        match view.resolved.execution_mode {
            ExecutionMode::Direct => direct::decide(&view),
            ExecutionMode::Temporal => temporal::decide(&view),
        }
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

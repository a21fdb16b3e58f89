//! What to do about a job, from what was seen of it: pure, so that every rule is tested without a cluster.
//! Called by [`super::reconcile`] alone.

mod conditions;
mod deletion;
mod direct;
mod end;
mod notes;
mod pending;
mod temporal;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        AgentJob, AgentJobStatus, Claim, DesiredState, ErrorStatus, ExecutionMode, Outcome, Phase, RunnerState, names,
    },
    platform::settings::Defaults,
    pods::{PodView, ending},
    protocol::workflow::{Input, JobRef, Request, RunnerFailed, StatusAnswer},
    temporal::Closed,
};

pub use notes::{Level, Note};

/// What was seen of a job, beside the object itself.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its pods.
    pub pods: Vec<PodView>,
    /// Whether `pods` came from the API server and no cache, so that a pod that is missing is really gone.
    pub pods_are_live: bool,
    /// What its workflow answered last, since this process began.
    pub answer: Option<Answer>,
    /// Why Temporal could not be asked or told, if so: (reason, message).
    pub temporal_trouble: Option<(String, String)>,
}

/// What a workflow answered, or how it was closed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The three queries' answers; none if no worker answered.
    pub status: Option<StatusAnswer>,
    /// How the execution was closed, if it is.
    pub closed: Option<Closed>,
    /// The newest run.
    pub run_id: Option<String>,
    /// Temporal knows no such workflow.
    pub missing: bool,
}

/// What doesn't change between jobs.
pub struct Ground<'a> {
    /// The operator's defaults.
    pub defaults: &'a Defaults,
    /// The cluster's id.
    pub cluster: &'a str,
    /// Temporal's namespace.
    pub temporal_namespace: &'a str,
    /// Whether a Temporal server is configured.
    pub temporal_configured: bool,
    /// Now.
    pub now: Time,
}

/// One thing to do. Each may be done again without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put our finalizer on the job. Nothing is started before.
    AddFinalizer,
    /// Take it off.
    RemoveFinalizer,
    /// Create the pod of the claim (Direct mode). Its UID, or the refusal, goes into the claim.
    CreatePod,
    /// Delete a pod.
    DeletePod {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Start the workflow.
    StartWorkflow(Box<Input>),
    /// Ask the workflow for a state. Once it is sent, the status says so.
    Signal(Request),
    /// Tell the workflow that a pod failed before its permit.
    RunnerFailed(RunnerFailed),
    /// Hand the outcome to the activity that waits for it.
    Deliver(Box<Outcome>),
    /// Ask the workflow how it stands, in the background.
    Ask,
    /// Delete the job: its time is over.
    DeleteJob,
}

/// What to do, and what the status is to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The whole new status; equal to the old one where nothing is to be written.
    pub status: AgentJobStatus,
    /// In this order, before the status is written.
    pub actions: Vec<Action>,
    /// For people: events.
    pub notes: Vec<Note>,
    /// When to look again although nothing happens.
    pub requeue: Option<Duration>,
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    job: &'a AgentJob,
    seen: &'a Seen,
    ground: &'a Ground<'a>,
    status: AgentJobStatus,
    actions: Vec<Action>,
    requeue: Option<Duration>,
    /// Set when a person is needed: (reason, message).
    stalled: Option<(String, String)>,
    /// Set when this generation could not be handed on: (reason, message).
    not_ready: Option<(String, String)>,
}

/// Decides.
pub fn plan(job: &AgentJob, seen: &Seen, ground: &Ground<'_>) -> Plan {
    let mut draft = Draft {
        job,
        seen,
        ground,
        status: job.status.clone().unwrap_or_default(),
        actions: Vec::new(),
        requeue: None,
        stalled: None,
        not_ready: None,
    };
    draft.accept();
    if job.metadata.deletion_timestamp.is_some() {
        deletion::plan(&mut draft);
    } else if draft.is_terminal() {
        end::plan(&mut draft);
    } else {
        draft.recognise_pod();
        draft.observe_outcome();
        pending::over(&mut draft);
        pending::leftovers(&mut draft);
        match draft.mode() {
            ExecutionMode::Direct => direct::plan(&mut draft),
            ExecutionMode::Temporal => temporal::plan(&mut draft),
        }
        if draft.is_terminal() {
            end::plan(&mut draft);
        }
    }
    conditions::plan(&mut draft);
    let old = job.status.clone().unwrap_or_default();
    let notes = notes::between(&old, &draft.status);
    Plan { status: draft.status, actions: draft.actions, notes, requeue: draft.requeue }
}

impl<'a> Draft<'a> {
    /// What is worked out once, when the job is first seen, and never changes.
    fn accept(&mut self) {
        let created = self.job.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let (job, defaults) = (self.job, self.ground.defaults);
        self.status.fid.get_or_insert_with(|| crate::api::fid(created, job.uid()));
        self.status.resolved.get_or_insert_with(|| defaults.resolve(&job.spec));
        self.status.observed_generation = job.metadata.generation;
        let (state, now) = (job.spec.desired_state, self.ground.now.clone());
        let control = self.status.control.get_or_insert_default();
        if control.desired.as_ref().is_none_or(|d| d.state != state) {
            control.desired = Some(crate::api::SpecWish { state, time: now });
        }
    }

    fn mode(&self) -> ExecutionMode {
        self.status.resolved.as_ref().map_or(ExecutionMode::Direct, |r| r.execution_mode)
    }

    fn is_terminal(&self) -> bool {
        self.status.phase.is_some_and(Phase::is_terminal)
    }

    fn now(&self) -> Time {
        self.ground.now.clone()
    }

    /// How long ago something was; zero if it lies in the future, as clocks differ.
    fn since(&self, time: &Time) -> Duration {
        Duration::try_from(self.ground.now.0.duration_since(time.0)).unwrap_or_default()
    }

    /// Looks again after `wait`, or earlier if somebody else asked for that.
    fn look_again(&mut self, wait: Duration) {
        self.requeue = Some(self.requeue.map_or(wait, |r| r.min(wait)));
    }

    fn wish(&self) -> DesiredState {
        self.job.spec.desired_state
    }

    /// Whether a pause is wanted, whoever asked for it.
    fn is_held(&self) -> bool {
        let answer = self.seen.answer.as_ref().and_then(|a| a.status.as_ref());
        let wanted = answer.filter(|_| self.mode() == ExecutionMode::Temporal).map_or(self.wish(), |a| a.desired);
        wanted == DesiredState::Paused
    }

    /// Whether the claim's runner was lost, and its agent may run on where nobody hears of it.
    fn is_lost(&self) -> bool {
        self.outcome().is_some_and(ending::is_silence) && self.pod().is_some_and(|p| !p.agent_ended())
    }

    fn reference(&self) -> JobRef {
        self.job.reference()
    }

    /// The pod of the claim, if it is there.
    fn pod(&self) -> Option<&'a PodView> {
        let claim = self.status.claim.as_ref()?;
        self.seen.pods.iter().find(|p| p.epoch == claim.epoch)
    }

    /// The outcome of the claim's epoch, if there is one.
    fn outcome(&self) -> Option<&Outcome> {
        let claim = self.status.claim.as_ref()?;
        self.status.outcome.as_ref().filter(|o| o.epoch == claim.epoch)
    }

    /// Whether the claim's runner has reported in.
    fn runner_is_ready(&self) -> bool {
        let (Some(claim), Some(runner)) = (&self.status.claim, &self.status.runner) else { return false };
        runner.epoch == claim.epoch
    }

    /// Whether the claim's runner may have its agent running: it has its permit and has not ended.
    fn agent_may_run(&self) -> bool {
        self.status.claim.as_ref().is_some_and(|c| c.permit.is_some()) && self.outcome().is_none()
    }

    /// What the claim's runner has confirmed, if it answers the newest command.
    fn confirmed(&self) -> Option<RunnerState> {
        let claim = self.status.claim.as_ref()?;
        let control = self.status.control.as_ref()?;
        let confirmed = control.confirmed.as_ref().filter(|c| c.epoch == claim.epoch)?;
        let seq = control.command.as_ref().map_or(0, |c| c.seq);
        (confirmed.seq >= seq && confirmed.problem.is_none()).then_some(confirmed.state)
    }

    /// A claim that does not know its pod, which is there: whoever made it did not come to write that down, or what was
    /// written was lost.
    fn recognise_pod(&mut self) {
        let uid = self.pod().map(|p| (p.name.clone(), p.uid.clone()));
        let Some(claim) = self.status.claim.as_mut().filter(|c| c.pod_uid.is_none()) else { return };
        if let Some((_, uid)) = uid.filter(|(name, _)| *name == claim.pod_name) {
            claim.pod_uid = Some(uid);
        }
    }

    /// An epoch whose container has ended, or whose pod is gone, without anybody having said how: say it now. The first to
    /// say is believed, so this is written before anything follows from it.
    fn observe_outcome(&mut self) {
        let Some(claim) = self.status.claim.clone() else { return };
        if claim.pod_uid.is_none() || self.outcome().is_some() {
            return;
        }
        let pod = self.pod();
        if pod.is_none() && !self.seen.pods_are_live {
            return;
        }
        // A silent runner in Direct mode is lost after another time-out; its pod is deleted with the job's end. In Temporal
        // mode `execute_agent` judges.
        let direct = self.mode() == ExecutionMode::Direct;
        let runner = self.status.runner.as_ref().filter(|r| direct && r.epoch == claim.epoch);
        let silent = runner.and_then(|r| r.silent_since.clone());
        let limit = self.status.resolved.as_ref().map(|r| r.timeouts.heartbeat.get());
        let worked_out = ending::work_out(claim.epoch, pod, claim.permit.is_some(), self.now());
        let lost = || {
            let (since, limit) = (silent.clone()?, limit?);
            let waited = self.since(&since);
            (waited > limit * 2).then(|| {
                let message = format!("the runner was silent for {} s", waited.as_secs());
                ending::silent(claim.epoch, message, self.now())
            })
        };
        if let Some(outcome) = worked_out.or_else(lost) {
            self.status.outcome = Some(outcome);
            // Written first; what follows from it is the next round's.
            self.look_again(Duration::ZERO);
        } else if let (Some(_), Some(limit)) = (silent, limit) {
            self.look_again(limit);
        }
    }

    /// Whether the outcome that this draft speaks of is written already, so that something may follow from it.
    fn outcome_is_written(&self) -> bool {
        self.job.status.as_ref().is_some_and(|s| s.outcome == self.status.outcome)
    }

    /// The next epoch's claim.
    fn next_claim(&self, attempt: i32, resumed: bool, active_millis: i64) -> Claim {
        let epoch = self.status.claim.as_ref().map_or(0, |c| c.epoch) + 1;
        let name = self.job.metadata.name.as_deref().unwrap_or_default();
        Claim {
            epoch,
            attempt,
            resumed,
            pod_name: names::pod(name, self.job.uid(), epoch),
            pod_uid: None,
            active_millis,
            refusal: None,
            permit: None,
        }
    }

    /// Ends the job.
    fn finish(&mut self, phase: Phase, error: Option<ErrorStatus>) {
        self.status.phase = Some(phase);
        self.status.completion_time = Some(self.now());
        match phase {
            Phase::Succeeded => {
                self.status.error = None;
                self.status.result = self.outcome().and_then(|o| o.result.clone());
            }
            Phase::Failed => self.status.error = error.or(self.status.error.take()),
            _ => {}
        }
    }

    /// What follows from the claim, whoever wrote it.
    fn mirror_claim(&mut self) {
        let Some(claim) = self.status.claim.clone() else { return };
        if claim.pod_uid.is_some() {
            self.status.runner_pod = Some(claim.pod_name.clone());
        }
        if claim.permit.is_some() {
            self.status.attempt = Some(claim.attempt);
        }
        let started = self.status.runner.as_ref().and_then(|r| r.started_time.clone());
        if self.status.start_time.is_none() {
            self.status.start_time = started;
        }
        if let Some(refusal) = &claim.refusal {
            self.stalled = Some(("PodRefused".into(), format!("the API server refused the pod: {refusal}")));
        }
    }

    fn delete_pods(&mut self, which: impl Fn(&PodView) -> bool) {
        let doomed = self.seen.pods.iter().filter(|p| which(p) && !p.deleting());
        self.actions.extend(doomed.map(|p| Action::DeletePod { name: p.name.clone(), uid: p.uid.clone() }));
    }
}

#[cfg(test)]
mod tests;

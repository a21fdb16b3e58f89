//! The facts about a job that the rules need, read once from the observed state.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{ObservedState, OperatorContext};
use crate::{
    api::{
        AgentJob, AgentJobStatus, AgentRun, DesiredState, ErrorStatus, ExecutionMode, Phase, Resolved, RunnerState,
        Termination, TerminationSource,
    },
    lifecycle::{self, Policy},
    pods::{PodView, ending},
    protocol::{error_types, workflow::StatusAnswer},
};

/// A job with its observed state.
pub(super) struct JobView<'a> {
    pub job: &'a AgentJob,
    pub observed: &'a ObservedState,
    pub operator: &'a OperatorContext<'a>,
    /// The old status.
    pub old: AgentJobStatus,
    /// The resolved defaults.
    pub resolved: Resolved,
    /// The newest run, if it is the one in the status or a later one.
    pub run: Option<&'a AgentRun>,
    /// Its pod, if it is there.
    pub pod: Option<&'a PodView>,
}

impl<'a> JobView<'a> {
    pub fn new(job: &'a AgentJob, observed: &'a ObservedState, operator: &'a OperatorContext<'a>) -> Self {
        let old = job.status.clone().unwrap_or_default();
        let resolved = operator.defaults.of(job);
        let active = old.active_run.unwrap_or(0);
        let run = observed.runs.iter().max_by_key(|r| r.number()).filter(|r| r.number() >= active);
        let pod = run.and_then(|run| observed.pods.iter().find(|p| ending::is_pod_of(run, p)));
        Self { job, observed, operator, old, resolved, run, pod }
    }

    pub fn now(&self) -> &Time {
        &self.operator.now
    }

    /// How long ago something was; zero if it lies in the future, as clocks differ.
    pub fn since(&self, time: &Time) -> Duration {
        lifecycle::elapsed(time, self.now())
    }

    /// How long until something; zero if it is over.
    pub fn until(&self, time: &Time) -> Duration {
        lifecycle::elapsed(self.now(), time)
    }

    pub fn is_temporal(&self) -> bool {
        self.resolved.execution_mode == ExecutionMode::Temporal
    }

    pub fn is_terminal(&self) -> bool {
        self.old.phase.is_some_and(Phase::is_terminal)
    }

    pub fn desired(&self) -> DesiredState {
        self.job.spec.desired_state
    }

    pub fn policy(&self) -> Policy<'_> {
        Policy {
            retry: &self.resolved.retry_policy,
            disruption: self.job.spec.disruption_policy(),
            pause: self.job.spec.pause_policy(),
        }
    }

    pub fn answer(&self) -> Option<&'a StatusAnswer> {
        self.observed.answer.as_ref()?.status.as_ref()
    }

    /// Whether a pause is wanted, by the spec or by a signal.
    pub fn is_held(&self) -> bool {
        let wanted = self.answer().filter(|_| self.is_temporal()).map_or(self.desired(), |a| a.desired);
        wanted == DesiredState::Paused
    }

    /// The newest number: of a run, or of one in the status that is not created yet.
    pub fn active_run(&self) -> Option<i32> {
        self.old.active_run.max(self.run.map(AgentRun::number))
    }

    /// How the newest run ended, if it has.
    pub fn termination(&self) -> Option<&'a Termination> {
        self.run?.termination()
    }

    /// Why the newest run failed, if it has.
    pub fn run_error(&self) -> Option<ErrorStatus> {
        self.termination()?.error.clone()
    }

    /// Whether the agent of the newest run may be running.
    pub fn agent_may_run(&self) -> bool {
        self.run.is_some_and(AgentRun::may_run)
    }

    /// The state of the newest run's agent, if its runner has acknowledged the newest command.
    pub fn acknowledged(&self) -> Option<RunnerState> {
        self.run?.acknowledged_state()
    }

    /// The newest run's command.
    pub fn command(&self) -> Option<DesiredState> {
        self.run?.spec.command.as_ref().map(|c| c.state)
    }

    /// Whether the newest run's agent is acknowledged as frozen under a command to pause.
    pub fn stands_still(&self) -> bool {
        self.command() == Some(DesiredState::Paused)
            && matches!(self.acknowledged(), Some(RunnerState::Frozen | RunnerState::Waiting))
    }

    /// Whether the newest run's runner was lost, and its agent may run on, on an unreachable node.
    pub fn is_lost(&self) -> bool {
        let judged = self.termination().filter(|t| t.source == TerminationSource::Koco).and_then(|t| t.error.as_ref());
        let lost = [error_types::HEARTBEAT_TIMEOUT, error_types::DISRUPTED];
        judged.is_some_and(|e| lost.contains(&e.kind.as_str())) && self.pod_may_run()
    }

    /// Whether the newest run has ended before its agent had started, though its start was granted.
    pub fn start_failed(&self) -> bool {
        self.run_error().is_some_and(|e| e.kind == error_types::NOT_STARTED)
    }

    /// Whether the newest run follows one that ended before its agent had started.
    pub fn follows_failed_start(&self) -> bool {
        let newest = self.active_run().unwrap_or(0);
        let before = self.observed.runs.iter().find(|r| r.number() == newest - 1).and_then(AgentRun::termination);
        let unstarted = before.and_then(|t| t.error.as_ref()).is_some_and(|e| e.kind == error_types::NOT_STARTED);
        unstarted || self.old.retry.as_ref().is_some_and(|r| r.start_failures > 0)
    }

    /// Since when `timeouts.pending` counts in a series of runs that end before their agent starts, if there is one: it
    /// goes on until an agent runs to another end, so that no such series is endless.
    pub fn series_since(&self) -> Option<Time> {
        let known = self.old.pending_since.clone();
        match (self.start_failed(), self.follows_failed_start()) {
            _ if self.is_held() => None,
            (true, _) => known.or_else(|| Some(self.now().clone())),
            (false, true) => known.filter(|_| self.termination().is_none()),
            (false, false) => None,
        }
    }

    /// Whether the newest run's pod is there and its agent has not ended.
    pub fn pod_may_run(&self) -> bool {
        self.pod.is_some_and(|p| !p.agent_ended())
    }

    /// How long the agent of the run before the newest number, or of the newest run if that has ended, may still be
    /// running without its pod.
    pub fn lingers(&self) -> Option<Duration> {
        let newest = self.active_run()?;
        let seen_to_end = |run: &AgentRun| {
            run.number() == newest && self.pod.is_some_and(|p| ending::is_pod_of(run, p) && p.agent_ended())
        };
        let last = self.observed.runs.iter().filter(|r| r.number() >= newest - 1 && r.is_closed() && !seen_to_end(r));
        last.filter_map(|run| lifecycle::lingers(run, self.job.grace(), self.now())).max()
    }

    /// How the newest run ended, as its pod shows it; `None` while it may go on, or is closed already.
    pub fn derived_termination(&self) -> Option<Termination> {
        let run = self.run.filter(|r| !r.is_closed())?;
        match self.pod {
            Some(pod) => ending::derive(run, Some(pod), self.observed.node.as_ref(), self.now()),
            None if self.observed.pod_is_gone => ending::derive(run, None, None, self.now()),
            None => None,
        }
    }
}

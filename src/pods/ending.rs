//! What became of an epoch, worked out from its pod when its runner did not say. Pure.
//! Used by the controller, which sees containers end, and by the worker, which looks before it binds a runner anew.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{AgentContainer, PodView};
use crate::{
    api::{ErrorStatus, Outcome, OutcomeKind},
    protocol::{error_types, runner::Ending},
};

/// The outcome of an epoch whose agent's container has ended, or whose pod is gone; `None` while it may still run.
///
/// `pod` is `None` only if the API server, and no cache, says that there is none. `started` is whether the agent may have
/// started, which is whether it had its permit.
pub fn work_out(epoch: i32, pod: Option<&PodView>, started: bool, now: Time) -> Option<Outcome> {
    let failed = |kind: &str, message: String| Outcome {
        epoch,
        kind: OutcomeKind::Failed,
        time: now.clone(),
        started,
        error: Some(ErrorStatus { kind: if started { kind } else { error_types::NOT_STARTED }.into(), message }),
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: 0,
    };
    let Some(pod) = pod else {
        return Some(failed(error_types::DISRUPTED, "the pod was deleted".into()));
    };
    let AgentContainer::Ended { exit_code, reason, ending } = &pod.agent else {
        // The kubelet refused the pod, or an init container failed: the agent's container never was.
        let why = pod.reason.clone().unwrap_or_else(|| "its containers ended before the agent's".into());
        return pod.ended.then(|| failed(error_types::DISRUPTED, format!("pod {} ended: {why}", pod.name)));
    };
    if let Some(ending) = ending {
        return Some(said(epoch, ending, now));
    }
    if reason == "OOMKilled" {
        return Some(failed(error_types::OOM_KILLED, format!("container ended with code {exit_code}: out of memory")));
    }
    let taken = pod.disruption.as_ref().map(|(reason, message)| format!("{reason}: {message}"));
    let taken = taken.or_else(|| pod.reason.clone()).or_else(|| pod.deleting().then(|| "the pod was deleted".into()));
    Some(match taken {
        Some(why) => failed(error_types::DISRUPTED, why),
        None => failed(
            error_types::RUNNER_LOST,
            format!("the container ended with code {exit_code} ({reason}) and left no outcome"),
        ),
    })
}

/// The outcome of an epoch whose runner is lost: it was listened for, and silent.
pub fn silent(epoch: i32, message: String, now: Time) -> Outcome {
    Outcome {
        epoch,
        kind: OutcomeKind::Failed,
        time: now,
        started: true,
        error: Some(ErrorStatus { kind: error_types::HEARTBEAT_TIMEOUT.into(), message }),
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: 0,
    }
}

/// The epoch whose runner is about to end by itself, because it has delivered its outcome: to delete its pod would take its
/// logs.
pub fn leaving(outcome: Option<&Outcome>) -> Option<i32> {
    outcome.filter(|o| !is_silence(o)).map(|o| o.epoch)
}

/// Whether an outcome is that of [`silent`]: its runner did not say it, and may run on where nobody hears of it.
pub fn is_silence(outcome: &Outcome) -> bool {
    outcome.error.as_ref().is_some_and(|e| e.kind == error_types::HEARTBEAT_TIMEOUT)
}

/// The outcome that a runner left as its container's termination message.
fn said(epoch: i32, ending: &Ending, now: Time) -> Outcome {
    Outcome {
        epoch,
        kind: ending.kind,
        time: now,
        started: ending.started,
        error: ending.error.clone(),
        non_retryable: ending.non_retryable,
        exit_code: ending.exit_code,
        // Where it did not fit, and nobody was there to take it whole, its size and digest.
        result: ending.result.clone(),
        active_millis: ending.active_millis,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn pod(agent: AgentContainer) -> PodView {
        PodView { name: "p".into(), uid: "u".into(), epoch: 1, agent, ..PodView::default() }
    }
    fn ended(exit_code: i32, reason: &str) -> AgentContainer {
        AgentContainer::Ended { exit_code, reason: reason.into(), ending: None }
    }
    fn kind(pod: Option<&PodView>, started: bool) -> Option<String> {
        work_out(1, pod, started, Time(Timestamp::UNIX_EPOCH)).map(|o| o.error.unwrap().kind)
    }

    #[test]
    fn a_container_that_runs_has_no_outcome() {
        assert_eq!(kind(Some(&pod(AgentContainer::Running)), true), None);
        assert_eq!(kind(Some(&pod(AgentContainer::Waiting)), false), None);
    }

    #[test]
    fn each_way_to_end_has_its_word() {
        assert_eq!(kind(None, true).as_deref(), Some("Disrupted"));
        assert_eq!(kind(None, false).as_deref(), Some("NotStarted"));
        assert_eq!(kind(Some(&pod(ended(137, "OOMKilled"))), true).as_deref(), Some("OOMKilled"));
        assert_eq!(kind(Some(&pod(ended(137, "Error"))), true).as_deref(), Some("RunnerLost"));
        let deleting = PodView { gone_by: Some(Time(Timestamp::UNIX_EPOCH)), ..pod(ended(137, "Error")) };
        assert_eq!(kind(Some(&deleting), true).as_deref(), Some("Disrupted"));
        let drained =
            PodView { disruption: Some(("EvictionByEvictionAPI".into(), "".into())), ..pod(ended(143, "Error")) };
        assert_eq!(kind(Some(&drained), true).as_deref(), Some("Disrupted"));
    }

    #[test]
    fn exit_zero_without_an_outcome_is_no_success() {
        assert_eq!(kind(Some(&pod(ended(0, "Completed"))), true).as_deref(), Some("RunnerLost"));
    }
}

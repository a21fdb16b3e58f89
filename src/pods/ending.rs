//! How an epoch ended, worked out from its pod when no outcome was delivered. Pure. Used by the controller, which sees the
//! container end, and by the worker, which looks before it binds a silent runner anew: both must come to the same.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{AgentContainer, PodView};
use crate::{
    api::{ErrorStatus, Outcome, OutcomeKind},
    protocol::{error_types, runner::Ending},
};

/// How `epoch` ended, or `None` while its agent's container has not. `pod` is the claim's own pod (compare the UID), `None`
/// if it is gone. `permitted` is whether its runner had the permit: without it no agent can have started.
///
/// Ask only after reading the job's status anew: an outcome that is there was delivered, and counts.
pub fn work_out(epoch: i32, pod: Option<&PodView>, permitted: bool, now: Time) -> Option<Outcome> {
    if pod.is_some_and(|p| !p.agent_ended()) {
        return None;
    }
    if let Some(PodView { agent: AgentContainer::Ended { ending: Some(ending), .. }, .. }) = pod {
        return Some(of_ending(epoch, ending, now));
    }
    let (kind, message) = match pod {
        _ if !permitted => (error_types::NOT_STARTED, not_started(pod)),
        None => (error_types::DISRUPTED, "the pod was deleted".into()),
        Some(pod) => why(pod),
    };
    let exit_code = match pod.map(|p| &p.agent) {
        Some(AgentContainer::Ended { exit_code, .. }) => Some(*exit_code),
        _ => None,
    };
    Some(Outcome {
        epoch,
        kind: OutcomeKind::Failed,
        time: now,
        started: permitted,
        error: Some(ErrorStatus { kind: kind.into(), message }),
        non_retryable: false,
        exit_code,
        result: None,
        active_millis: 0,
    })
}

fn of_ending(epoch: i32, ending: &Ending, now: Time) -> Outcome {
    Outcome {
        epoch,
        kind: ending.kind,
        time: now,
        started: ending.started,
        error: ending.error.clone(),
        non_retryable: ending.non_retryable,
        exit_code: ending.exit_code,
        // It was too big for the termination message, and nobody was there to take it.
        result: if ending.result_omitted { Some(json!({ "truncated": true })) } else { ending.result.clone() },
        active_millis: ending.active_millis,
    }
}

/// Why an agent that had its permit ended without a word.
fn why(pod: &PodView) -> (&'static str, String) {
    let (code, reason) = match &pod.agent {
        AgentContainer::Ended { exit_code, reason, .. } => (Some(*exit_code), reason.as_str()),
        AgentContainer::Waiting | AgentContainer::Running => (None, ""),
    };
    // On cgroup v2 the kernel kills the whole container, the runner too. Also if the node is short of memory and evicts it
    // at the same time: what the container itself says is nearer to the cause.
    if reason == "OOMKilled" {
        return (error_types::OOM_KILLED, "the container ran out of memory".into());
    }
    if let Some((reason, message)) = &pod.disruption {
        return (error_types::DISRUPTED, words(reason, message));
    }
    match pod.reason.as_deref() {
        Some(reason @ ("Evicted" | "NodeLost" | "NodeShutdown" | "Terminated" | "Preempting" | "Shutdown")) => {
            (error_types::DISRUPTED, words(reason, "the pod was ended by its node"))
        }
        _ if pod.deleting => (error_types::DISRUPTED, "the pod was deleted".into()),
        _ => match code {
            Some(code) => {
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                (error_types::RUNNER_LOST, format!("container ended with code {code}{reason} and left no outcome"))
            }
            None => (error_types::RUNNER_LOST, "the pod ended and left no outcome".into()),
        },
    }
}

fn not_started(pod: Option<&PodView>) -> String {
    match pod {
        None => "the pod was deleted before its agent started".into(),
        Some(pod) => format!("the pod ended before its agent started: {}", why(pod).1),
    }
}

fn words(reason: &str, message: &str) -> String {
    if message.is_empty() { reason.into() } else { format!("{reason}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Time {
        Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)
    }

    fn pod(agent: AgentContainer) -> PodView {
        PodView {
            name: "p".into(),
            uid: "u".into(),
            epoch: 2,
            created: None,
            deleting: false,
            gated: false,
            ended: false,
            reason: None,
            agent,
            trouble: None,
            disruption: None,
        }
    }

    fn ended(reason: &str) -> PodView {
        pod(AgentContainer::Ended { exit_code: 137, reason: reason.into(), ending: None })
    }

    fn told(pod: Option<&PodView>, permitted: bool) -> (String, String) {
        let outcome = work_out(2, pod, permitted, now()).expect("it has ended");
        assert_eq!((outcome.epoch, outcome.kind, outcome.started), (2, OutcomeKind::Failed, permitted));
        let error = outcome.error.expect("a failure has an error");
        (error.kind, error.message)
    }

    #[test]
    fn nothing_is_said_while_the_container_has_not_ended() {
        let mut running = pod(AgentContainer::Running);
        assert_eq!(work_out(2, Some(&running), true, now()), None);
        running.deleting = true;
        running.disruption = Some(("DeletionByTaintManager".into(), "node lost".into()));
        assert_eq!(work_out(2, Some(&running), true, now()), None, "a lost node's container may still run");
    }

    #[test]
    fn what_the_runner_left_counts_most() {
        let ending = Ending {
            kind: OutcomeKind::Succeeded,
            started: true,
            error: None,
            non_retryable: false,
            exit_code: Some(0),
            result: None,
            active_millis: 7,
            result_omitted: true,
        };
        let agent =
            AgentContainer::Ended { exit_code: 0, reason: "Completed".into(), ending: Some(Box::new(ending)) };
        let mut view = pod(agent);
        view.disruption = Some(("EvictionByEvictionAPI".into(), String::new()));
        let outcome = work_out(2, Some(&view), true, now()).unwrap();
        assert_eq!((outcome.kind, outcome.active_millis), (OutcomeKind::Succeeded, 7));
        assert_eq!(outcome.result, Some(json!({ "truncated": true })));
    }

    #[test]
    fn out_of_memory_goes_before_disruption() {
        let mut view = ended("OOMKilled");
        view.deleting = true;
        assert_eq!(told(Some(&view), true).0, error_types::OOM_KILLED);
    }

    #[test]
    fn disruptions_are_told_from_lost_runners() {
        assert_eq!(told(None, true).0, error_types::DISRUPTED);
        let mut view = ended("Error");
        assert_eq!(
            told(Some(&view), true),
            (error_types::RUNNER_LOST.into(), "container ended with code 137 (Error) and left no outcome".into())
        );
        view.deleting = true;
        assert_eq!(told(Some(&view), true).0, error_types::DISRUPTED);
        let mut view = ended("Error");
        view.disruption = Some(("EvictionByEvictionAPI".into(), "drained".into()));
        assert_eq!(told(Some(&view), true).1, "EvictionByEvictionAPI: drained");
        // An evicted pod may have lost its containers' states.
        let mut view = pod(AgentContainer::Waiting);
        (view.ended, view.reason) = (true, Some("Evicted".into()));
        assert_eq!(told(Some(&view), true).0, error_types::DISRUPTED);
        view.reason = None;
        assert_eq!(told(Some(&view), true).0, error_types::RUNNER_LOST);
    }

    #[test]
    fn without_a_permit_no_agent_has_started() {
        assert_eq!(told(None, false).0, error_types::NOT_STARTED);
        assert_eq!(told(Some(&ended("OOMKilled")), false).0, error_types::NOT_STARTED);
    }
}

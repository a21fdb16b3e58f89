//! Derives the end of a run from its pod when its runner has not reported it. Pure. Used by the controller, which
//! watches pods, and by the worker before it binds a runner to another task.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{AgentContainer, PodView};
use crate::{
    api::{AgentRun, Termination},
    lifecycle,
    protocol::error_types,
};

/// How a run ended whose agent's container has ended, or whose pod is gone; `None` while it may still run.
///
/// `pod` must be the run's own (see [`is_pod_of`]); `None` means that the API server, not a cache, has no such pod.
pub fn derive(run: &AgentRun, pod: Option<&PodView>, now: &Time) -> Option<Termination> {
    let observed = |kind: &str, message: String, exit_code| lifecycle::observed(run, kind, message, exit_code, now);
    let Some(pod) = pod else {
        return Some(observed(error_types::DISRUPTED, "the pod was deleted".into(), None));
    };
    let AgentContainer::Ended { exit_code, reason, ending } = &pod.agent else {
        // The kubelet refused the pod, or an init container failed: the agent's container never started.
        let why = pod.reason.clone().unwrap_or_else(|| "its containers ended before the agent's".into());
        let message = format!("pod {} ended: {why}", pod.name);
        return pod.ended.then(|| observed(error_types::DISRUPTED, message, None));
    };
    if let Some(ending) = ending {
        return Some(lifecycle::claimed(run, ending, now));
    }
    let code = Some(*exit_code);
    if reason == "OOMKilled" {
        let message = format!("container ended with code {exit_code}: out of memory");
        return Some(observed(error_types::OOM_KILLED, message, code));
    }
    let taken = pod.disruption.as_ref().map(|(reason, message)| format!("{reason}: {message}"));
    let taken = taken.or_else(|| pod.reason.clone()).or_else(|| pod.deleting().then(|| "the pod was deleted".into()));
    Some(match taken {
        Some(why) => observed(error_types::DISRUPTED, why, code),
        None => {
            let message = format!(
                "the container ended with code {exit_code} ({reason}) and left no termination message of koco's"
            );
            observed(error_types::RUNNER_LOST, message, code)
        }
    })
}

/// Whether a pod of the run's namespace is the run's: it has the run as its controller, the name that the run gave it,
/// and the UID that its runner registered with, if it has.
pub fn is_pod_of(run: &AgentRun, pod: &PodView) -> bool {
    let known = run.status.as_ref().and_then(|s| s.pod_uid.as_deref());
    pod.run_uid.as_deref() == Some(run.uid())
        && pod.name == run.spec.identity.pod_name
        && known.is_none_or(|uid| uid == pod.uid)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn run(started: bool) -> AgentRun {
        let time = "2026-01-01T00:00:00Z";
        let mut run = json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r", "uid": "ru" },
            "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": 1, "attempt": 1, "podName": "p",
                "executionMode": "Direct", "heartbeat": "1s" } },
        });
        if started {
            run["spec"]["grant"] = json!({ "time": time, "binding": 0 });
            run["status"] = json!({ "readyTime": time, "podUID": "u" });
        }
        serde_json::from_value(run).unwrap()
    }

    fn pod(agent: AgentContainer) -> PodView {
        PodView { name: "p".into(), uid: "u".into(), run_uid: Some("ru".into()), agent, ..PodView::default() }
    }
    fn ended(exit_code: i32, reason: &str) -> AgentContainer {
        AgentContainer::Ended { exit_code, reason: reason.into(), ending: None }
    }
    fn kind(pod: Option<&PodView>, started: bool) -> Option<String> {
        derive(&run(started), pod, &Time(Timestamp::UNIX_EPOCH)).map(|t| t.error.unwrap().kind)
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
        let deleting = PodView { deletion_deadline: Some(Time(Timestamp::UNIX_EPOCH)), ..pod(ended(137, "Error")) };
        assert_eq!(kind(Some(&deleting), true).as_deref(), Some("Disrupted"));
        let drained =
            PodView { disruption: Some(("EvictionByEvictionAPI".into(), "".into())), ..pod(ended(143, "Error")) };
        assert_eq!(kind(Some(&drained), true).as_deref(), Some("Disrupted"));
    }

    #[test]
    fn exit_zero_without_an_outcome_is_no_success() {
        assert_eq!(kind(Some(&pod(ended(0, "Completed"))), true).as_deref(), Some("RunnerLost"));
    }

    #[test]
    fn a_pod_is_a_runs_only_if_everything_fits() {
        let fits = |change: fn(&mut PodView)| {
            let mut pod = pod(AgentContainer::Running);
            change(&mut pod);
            is_pod_of(&run(true), &pod)
        };
        assert!(fits(|_| {}));
        assert!(!fits(|p| p.name = "q".into()));
        assert!(!fits(|p| p.uid = "other".into()));
        assert!(!fits(|p| p.run_uid = None));
    }
}

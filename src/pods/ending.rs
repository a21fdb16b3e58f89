//! Derives the end of a run from its pod when its runner has not reported it. Pure. Used by the controller, which
//! watches pods, and by the worker before it binds a runner to another task.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{AgentContainer, NodeState, PodView};
use crate::{
    api::{AgentRun, Termination, TerminationSource},
    lifecycle,
    protocol::{error_types, key::PublicKey, runner::AgentEnd, termination},
};

/// How a run ended whose agent's container has ended, or whose pod is gone; `None` while it may still run.
///
/// `pod` must be the run's own (see [`is_pod_of`]); `None` means that the API server, not a cache, has no such pod.
/// `node` is the pod's, once it was read: see [`depends_on_node`].
pub fn derive(run: &AgentRun, pod: Option<&PodView>, node: Option<&NodeState>, now: &Time) -> Option<Termination> {
    let observed = |kind: &str, message: String, exit_code| lifecycle::observed(run, kind, message, exit_code, now);
    let Some(pod) = pod else {
        return Some(lifecycle::vanished(run, now));
    };
    let AgentContainer::Ended { exit_code, reason, message } = &pod.agent else {
        // The kubelet refused the pod, or an init container failed: the agent's container never started.
        let why = pod.reason.clone().unwrap_or_else(|| "its containers ended before the agent's".into());
        let message = format!("pod {} ended: {why}", pod.name);
        return pod.ended.then(|| observed(error_types::DISRUPTED, message, None));
    };
    if let Some(end) = reported(run, message.as_deref()) {
        return Some(lifecycle::claimed(run, &end, now));
    }
    let code = Some(*exit_code);
    if reason == "OOMKilled" {
        let message = format!("container ended with code {exit_code}: out of memory");
        return Some(observed(error_types::OOM_KILLED, message, code));
    }
    let taken = pod.disruption.as_ref().map(|(reason, message)| format!("{reason}: {message}"));
    let taken = taken.or_else(|| pod.reason.clone()).or_else(|| pod.deleting().then(|| "the pod was deleted".into()));
    let taken = taken.or_else(|| {
        let unknown = is_unknown(reason, *exit_code);
        unknown.then(|| format!("the node does not know how the container ended: {reason}"))
    });
    let lost = node.and_then(NodeState::lost).map(|why| format!("the container ended without a word, and {why}"));
    let taken = taken.or(lost);
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

/// Whether the kubelet or the container runtime lost sight of a container, as after a reboot of its node.
fn is_unknown(reason: &str, exit_code: i32) -> bool {
    reason == "ContainerStatusUnknown" || (reason == "Unknown" && exit_code == 255)
}

/// The end of a run whose runner is silent: a disruption if its node is lost, else its own fault.
pub fn unresponsive(run: &AgentRun, node: Option<&NodeState>, message: &str, now: &Time) -> Termination {
    match node.and_then(NodeState::lost) {
        _ if !run.may_have_started() => lifecycle::koco(run, error_types::NOT_STARTED, message.into(), now),
        Some(why) => lifecycle::koco(run, error_types::DISRUPTED, format!("{message}, and {why}"), now),
        None => lifecycle::koco(run, error_types::HEARTBEAT_TIMEOUT, message.into(), now),
    }
}

/// Whether the silence of a run's runner is no evidence, because that of many is noted, and its node is not lost.
pub fn needs_a_lost_node(run: &AgentRun, pod: Option<&PodView>, node: Option<&NodeState>) -> bool {
    let among_many = run.status.as_ref().is_some_and(|s| s.unresponsive_among_many);
    let unread = node.is_none() && pod.is_some_and(|p| p.node.is_some());
    among_many && !unread && node.and_then(NodeState::lost).is_none()
}

/// Whether an end would be another if the pod's node is lost, so that the node is to be read before it is recorded.
pub fn depends_on_node(end: &Termination) -> bool {
    let lost = [error_types::RUNNER_LOST, error_types::HEARTBEAT_TIMEOUT];
    end.source != TerminationSource::Runner && end.error.as_ref().is_some_and(|e| lost.contains(&e.kind.as_str()))
}

/// The end that the run's runner left in the termination message. Any other says nothing: the agent can write it, too.
fn reported(run: &AgentRun, message: Option<&str>) -> Option<AgentEnd> {
    let key = PublicKey::parse(run.status.as_ref()?.public_key.as_deref()?)?;
    termination::verify(message?, &key)
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
    use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
    use serde_json::json;

    use super::*;
    use crate::api::TerminationSource;

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
        AgentContainer::Ended { exit_code, reason: reason.into(), message: None }
    }
    fn kind(pod: Option<&PodView>, started: bool) -> Option<String> {
        kind_on(None, pod, started)
    }
    fn kind_on(node: Option<&NodeState>, pod: Option<&PodView>, started: bool) -> Option<String> {
        derive(&run(started), pod, node, &Time(Timestamp::UNIX_EPOCH)).map(|t| t.error.unwrap().kind)
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
    fn an_end_without_a_word_on_a_lost_node_is_a_disruption() {
        let (lost, silent) = (NodeState::Lost("node n is gone".into()), pod(ended(137, "Error")));
        assert_eq!(kind_on(Some(&NodeState::Ready), Some(&silent), true).as_deref(), Some("RunnerLost"));
        assert_eq!(kind_on(Some(&lost), Some(&silent), true).as_deref(), Some("Disrupted"));
        assert_eq!(kind_on(Some(&lost), Some(&pod(ended(137, "OOMKilled"))), true).as_deref(), Some("OOMKilled"));
        assert_eq!(kind_on(Some(&lost), Some(&silent), false).as_deref(), Some("NotStarted"));
        for (code, reason) in [(137, "ContainerStatusUnknown"), (255, "Unknown")] {
            assert_eq!(kind(Some(&pod(ended(code, reason))), true).as_deref(), Some("Disrupted"), "{reason}");
        }
    }

    #[test]
    fn silence_is_the_runners_own_unless_its_node_is_lost() {
        let end = |node| unresponsive(&run(true), node, "nothing was heard", &Time(Timestamp::UNIX_EPOCH));
        let (lost, alone) = (end(Some(&NodeState::Lost("node n is gone".into()))), end(Some(&NodeState::Ready)));
        assert!(depends_on_node(&alone) && !depends_on_node(&lost));
        assert_eq!(alone.error.unwrap().kind, "HeartbeatTimeout");
        let error = lost.error.unwrap();
        assert_eq!(
            (error.kind.as_str(), error.message.as_str()),
            ("Disrupted", "nothing was heard, and node n is gone")
        );
    }

    #[test]
    fn exit_zero_without_an_outcome_is_no_success() {
        assert_eq!(kind(Some(&pod(ended(0, "Completed"))), true).as_deref(), Some("RunnerLost"));
    }

    #[test]
    fn a_termination_message_is_believed_only_with_the_runners_signature() {
        let (runner, agent) =
            (KeyPair::generate_for(&PKCS_ED25519).unwrap(), KeyPair::generate_for(&PKCS_ED25519).unwrap());
        let end = r#"{"kind":"Succeeded","started":true}"#;
        let message = |pair: &KeyPair| termination::sign(&serde_json::from_str(end).unwrap(), pair).unwrap();
        let mut run = run(true);
        let key = PublicKey::from_spki(&runner.subject_public_key_info()).unwrap();
        run.status.as_mut().unwrap().public_key = Some(key.to_string());
        let source = |run: &AgentRun, message: String| {
            let agent = AgentContainer::Ended { exit_code: 1, reason: "Error".into(), message: Some(message) };
            derive(run, Some(&pod(agent)), None, &Time(Timestamp::UNIX_EPOCH)).unwrap().source
        };
        assert_eq!(source(&run, message(&runner)), TerminationSource::Runner);
        assert_eq!(source(&run, message(&agent)), TerminationSource::Kubelet);
        assert_eq!(source(&run, end.into()), TerminationSource::Kubelet);
        run.status.as_mut().unwrap().public_key = None;
        assert_eq!(source(&run, message(&runner)), TerminationSource::Kubelet, "it never registered");
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

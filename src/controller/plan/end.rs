//! A job that has ended: nothing of it runs on, ended pods stay for their logs, and it goes when its time is over.

use std::time::Duration;

use super::{Action, Draft};
use crate::pods::{collect, ending};

/// How long a pod may take to end after its agent has, before what holds it up counts as a sidecar.
const LINGER: Duration = Duration::from_secs(15);
/// How long the kubelet may take to say that a runner has ended that has delivered its outcome.
const SLOW_KUBELET: Duration = Duration::from_secs(60);

pub(super) fn plan(d: &mut Draft<'_>) {
    d.mirror_claim();
    d.stalled = None;
    d.status.pending_since = None;
    if let Some(claim) = d.status.claim.as_mut() {
        claim.refusal = None;
    }
    // A runner that has delivered its outcome is about to end by itself; deleting its pod would take the logs.
    let within = |limit| ending::leaving(d.outcome().filter(|o| d.since(&o.time) < limit));
    let (leaving, just_ended) = (within(SLOW_KUBELET), within(LINGER));
    d.delete_pods(|p| !p.agent_ended() && Some(p.epoch) != leaving);
    if leaving.is_some_and(|epoch| d.seen.pods.iter().any(|p| p.epoch == epoch && !p.ended)) {
        d.look_again(LINGER);
    }
    let keep = usize::try_from(d.job.spec.failed_pods_history_limit).unwrap_or(0);
    let doomed: Vec<_> = collect::lingering(&d.seen.pods)
        .into_iter()
        // The kubelet says that the container has ended a moment before it says so of the pod: that is no sidecar yet.
        .filter(|p| Some(p.epoch) != just_ended)
        .chain(collect::history(&d.seen.pods, keep))
        .map(|p| Action::DeletePod { name: p.name.clone(), uid: p.uid.clone() })
        .collect();
    d.actions.extend(doomed);
    let written = d.job.status.as_ref().is_some_and(|s| s.phase.is_some_and(crate::api::Phase::is_terminal));
    if d.job.has_finalizer() && written {
        d.actions.push(Action::RemoveFinalizer);
    }
    let Some(ttl) = d.job.spec.ttl_seconds_after_finished else { return };
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let Some(ended) = d.status.completion_time.clone() else { return };
    let age = d.since(&ended);
    if age < ttl {
        d.look_again(ttl - age);
    } else if written {
        d.actions.push(Action::DeleteJob);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use serde_json::json;

    use super::super::{Action, Seen, tests::planned};
    use crate::{api::AgentJob, pods::PodView};

    fn deleted(seconds_after_the_outcome: i64) -> usize {
        let job: AgentJob = serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "name": "a", "namespace": "n", "uid": "u" },
            "spec": { "entryPoint": "e", "template": { "spec": { "containers": [] } } },
            "status": {
                "phase": "Succeeded",
                "claim": { "epoch": 1, "attempt": 1, "podName": "p", "podUID": "x" },
                "outcome": { "epoch": 1, "kind": "Succeeded", "started": true, "time": "2026-01-01T00:00:00Z" },
            },
        }))
        .unwrap();
        let pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "uid": "x", "labels": { "kodosumi.io/epoch": "1" } },
            "spec": { "containers": [{ "name": "agent", "image": "i" }] },
            "status": { "phase": "Running", "containerStatuses": [{ "name": "agent", "image": "i", "imageID": "", "ready": false,
                "restartCount": 0, "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } }] },
        }))
        .unwrap();
        let seen = Seen { pods: vec![PodView::of(&pod)], ..Seen::default() };
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second() + seconds_after_the_outcome;
        let actions = planned(&job, &seen, Time(Timestamp::from_second(now).unwrap()), false).actions;
        actions.iter().filter(|a| matches!(a, Action::DeletePod { .. })).count()
    }

    #[test]
    fn a_pod_whose_agent_has_just_ended_is_kept_for_its_logs_and_one_with_a_sidecar_goes_later() {
        assert_eq!(deleted(1), 0);
        assert_eq!(deleted(60), 1);
    }
}

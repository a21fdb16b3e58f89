//! Which pods and runs of a job to collect. Pure.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{PodView, ending};
use crate::{
    api::{AgentRun, TerminationSource},
    lifecycle,
};

/// How long a pod may live on after its agent has ended before it is deleted because of its sidecars.
pub const LINGER: Duration = Duration::from_secs(15);
/// How long the kubelet may take to report the end of a container whose runner has reported its end.
pub const SLOW_KUBELET: Duration = Duration::from_secs(60);

/// What to do with the pod of a closed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: it has ended, or is being deleted.
    Leave,
    /// Wait this long: its runner has reported its end, so the pod is about to end by itself, and its logs are kept.
    Wait(Duration),
    /// Delete it.
    Delete,
}

/// What to do with the pod of a run that is closed.
pub fn of_closed(run: &AgentRun, pod: &PodView, now: &Time) -> Fate {
    if pod.ended || pod.deleting() {
        return Fate::Leave;
    }
    // The runner of a run that was closed otherwise may still be running on an unreachable node.
    let leaving = run.termination().filter(|t| t.source == TerminationSource::Runner || pod.agent_ended());
    let Some(termination) = leaving else { return Fate::Delete };
    let since = lifecycle::elapsed(&termination.time, now);
    let patience = if pod.agent_ended() { LINGER } else { SLOW_KUBELET };
    if since < patience { Fate::Wait(patience - since) } else { Fate::Delete }
}

/// The pods of closed runs that have ended, beyond the newest `keep`, which are kept for their logs.
pub fn pod_history<'a>(runs: &[&AgentRun], pods: &'a [PodView], keep: usize) -> Vec<&'a PodView> {
    let of = |run: &&AgentRun| pods.iter().find(|p| ending::is_pod_of(run, p) && p.ended && !p.deleting());
    let mut closed: Vec<&AgentRun> = runs.iter().copied().filter(|r| r.is_closed()).collect();
    closed.sort_by_key(|r| std::cmp::Reverse(r.number()));
    closed.iter().filter_map(of).skip(keep).collect()
}

/// The closed runs beyond the newest `keep`. Never the newest run, whose number determines the next, and none whose pod
/// may still run: deleting a run deletes its pod.
pub fn run_history<'a>(runs: &[&'a AgentRun], pods: &[PodView], keep: usize) -> Vec<&'a AgentRun> {
    let newest = runs.iter().map(|r| r.number()).max().unwrap_or(0);
    let still = |run: &AgentRun| pods.iter().any(|p| p.run_uid.as_deref() == Some(run.uid()) && !p.agent_ended());
    let mut closed: Vec<&AgentRun> = runs.iter().copied().filter(|r| r.is_closed()).collect();
    closed.sort_by_key(|r| std::cmp::Reverse(r.number()));
    let beyond = closed.into_iter().skip(keep);
    beyond.filter(|r| r.number() < newest && !still(r) && r.metadata.deletion_timestamp.is_none()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::pods::AgentContainer;

    fn run(number: i32, source: Option<&str>) -> AgentRun {
        let mut run = json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
            "metadata": { "name": format!("r-{number}"), "uid": format!("r-{number}") },
            "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": number, "attempt": 1,
                "podName": format!("p-{number}"), "executionMode": "Direct", "heartbeat": "1s" } },
        });
        if let Some(source) = source {
            run["status"] = json!({ "termination": { "type": "Failed", "source": source, "started": true,
                "time": "1970-01-01T00:00:00Z" } });
        }
        serde_json::from_value(run).unwrap()
    }

    fn pod(number: i32, ended: bool) -> PodView {
        let (name, uid) = (format!("p-{number}"), format!("u-{number}"));
        let run_uid = Some(format!("r-{number}"));
        PodView { name, uid, run_uid, ended, agent: AgentContainer::Running, ..PodView::default() }
    }

    fn fate(source: &str, pod: &PodView, seconds: i64) -> Fate {
        of_closed(&run(1, Some(source)), pod, &Time(Timestamp::from_second(seconds).unwrap()))
    }

    #[test]
    fn a_runner_that_said_how_it_ended_may_end_by_itself() {
        assert_eq!(fate("Runner", &pod(1, false), 1), Fate::Wait(Duration::from_secs(59)));
        assert_eq!(fate("Runner", &pod(1, false), 60), Fate::Delete);
        assert_eq!(fate("Koco", &pod(1, false), 1), Fate::Delete);
        assert_eq!(fate("Koco", &pod(1, true), 1), Fate::Leave);
    }

    #[test]
    fn a_sidecar_is_not_waited_for_as_long() {
        let agent = AgentContainer::Ended { exit_code: 0, reason: "Completed".into(), message: None };
        let sidecar = PodView { agent, ..pod(1, false) };
        assert_eq!(fate("Kubelet", &sidecar, 1), Fate::Wait(Duration::from_secs(14)));
        assert_eq!(fate("Runner", &sidecar, 15), Fate::Delete);
    }

    #[test]
    fn the_newest_ended_pods_are_kept_for_their_logs() {
        let runs = [run(1, Some("Runner")), run(2, Some("Runner")), run(3, Some("Runner")), run(4, None)];
        let runs: Vec<&AgentRun> = runs.iter().collect();
        let pods = [pod(1, true), pod(2, true), pod(3, true), pod(4, false)];
        let names: Vec<_> = pod_history(&runs, &pods, 1).iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, ["p-2", "p-1"]);
        assert!(pod_history(&runs, &pods, 3).is_empty());
    }

    #[test]
    fn the_newest_run_and_one_whose_pod_runs_stay() {
        let runs = [run(1, Some("Runner")), run(2, Some("Koco")), run(3, Some("Runner"))];
        let runs: Vec<&AgentRun> = runs.iter().collect();
        let numbers = |pods: &[PodView]| run_history(&runs, pods, 0).iter().map(|r| r.number()).collect::<Vec<_>>();
        assert_eq!(numbers(&[]), [2, 1]);
        assert_eq!(numbers(&[pod(2, false)]), [1]);
    }
}

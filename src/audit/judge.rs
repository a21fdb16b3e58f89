//! Decides on a suspect, by whole objects that were read one after the other: the object first, and then what it refers
//! to. The controller needs time for what it does, and so does a kubelet: a state that may be in between fits for as
//! long as that may take by the objects' own times.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Finding, Kind};
use crate::{
    api::{AgentJob, AgentRun},
    lifecycle,
    pods::{
        PodView,
        collect::{self, Fate, SLOW_KUBELET},
        ending,
    },
};

/// Whether a job has ended.
pub fn has_ended(job: &AgentJob) -> bool {
    job.status.as_ref().and_then(|s| s.phase).is_some_and(|p| p.is_terminal())
}

/// A pod that is an agent's by its label or its owner. `run` is the AgentRun that its owner reference names, of whatever
/// UID, and `job` that run's job.
pub fn pod(pod: &PodView, run: Option<&AgentRun>, job: Option<&AgentJob>, now: &Time) -> Option<Finding> {
    if is_going(pod, now) {
        return None;
    }
    let without_run = |message: String| Some(Finding::new(Kind::PodWithoutRun, message));
    let Some(owner) = &pod.run_uid else {
        return without_run("it has the label of an agent's pod, and no AgentRun is its owner".into());
    };
    let Some(run) = run.filter(|run| run.uid() == owner) else {
        let gone = without_run(format!("the AgentRun that owns it, of UID {owner}, is gone"));
        return gone.map(|finding| Finding { is_garbage: true, ..finding });
    };
    if !ending::is_pod_of(run, pod) {
        return without_run(format!("AgentRun {} is its owner, and says that another pod is its own", run.name()));
    }
    let ended = job.filter(|job| has_ended(job) && job.uid() == run.spec.identity.job_uid);
    if pod.ended || !outlives(run, pod, ended.is_some(), now) {
        return None;
    }
    let unconfirmed = if pod.deleting() { ", and its deletion is not confirmed by its node" } else { "" };
    Some(match ended {
        Some(job) => {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            Finding::new(
                Kind::LivePodOfEndedJob,
                format!("AgentJob {name} has ended, and the pod lives on{unconfirmed}"),
            )
        }
        None => Finding::new(
            Kind::LivePodOfClosedRun,
            format!("AgentRun {} is closed, and the pod lives on{unconfirmed}", run.name()),
        ),
    })
}

/// Whether a pod is being deleted, and its kubelet still has time for it.
fn is_going(pod: &PodView, now: &Time) -> bool {
    pod.deletion_deadline.as_ref().is_some_and(|deadline| lifecycle::elapsed(deadline, now) < SLOW_KUBELET)
}

/// Whether a pod that has not ended should have.
fn outlives(run: &AgentRun, pod: &PodView, job_ended: bool, now: &Time) -> bool {
    if !run.is_closed() {
        return job_ended;
    }
    pod.deleting() || collect::of_closed(run, pod, now) == Fate::Delete
}

/// An AgentRun. `job` is the AgentJob of its job's name, of whatever UID.
pub fn run(run: &AgentRun, job: Option<&AgentJob>) -> Option<Finding> {
    if run.metadata.deletion_timestamp.is_some() {
        // It waits for its pod, which is judged by itself.
        return None;
    }
    let id = &run.spec.identity;
    let Some(job) = job.filter(|job| job.uid() == id.job_uid) else {
        let message = format!("AgentJob {} of UID {} is gone", id.job_name, id.job_uid);
        let owned = run.metadata.owner_references.as_ref().is_some_and(|o| o.iter().any(|o| o.kind == "AgentJob"));
        return Some(Finding { is_garbage: owned, ..Finding::new(Kind::RunWithoutJob, message) });
    };
    if !run.has_its_name() {
        let message = format!("it is not named as run {} of AgentJob {}: koco ignores it", id.number, id.job_name);
        return Some(Finding::new(Kind::RunWithoutJob, message));
    }
    let open = !run.is_closed() && has_ended(job) && job.metadata.deletion_timestamp.is_none();
    open.then(|| {
        Finding::new(Kind::OpenRunOfEndedJob, format!("AgentJob {} has ended, and the run is open", id.job_name))
    })
}

/// An AgentJob, by its runs and their pods.
pub fn job(job: &AgentJob, runs: &[AgentRun], pods: &[PodView]) -> Option<Finding> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ours = |run: &&AgentRun| {
        run.spec.identity.job_uid == job.uid() && run.has_its_name() && run.metadata.deletion_timestamp.is_none()
    };
    let two = |what: &str, names: Vec<&str>| {
        let message = format!("{} {what}: {}", names.len(), names.join(", "));
        (names.len() > 1).then(|| Finding::new(Kind::TwoLiveRuns, message))
    };
    let open = runs.iter().filter(ours).filter(|run| !run.is_closed()).map(AgentRun::name).collect();
    // Those of runs that are being deleted, too.
    let live = pods.iter().filter(|pod| !pod.agent_ended() && runs.iter().any(|run| ending::is_pod_of(run, pod)));
    two("open runs", open).or_else(|| two("live pods", live.map(|pod| pod.name.as_str()).collect()))
}

/// An open workflow, by its job, if that exists.
pub fn workflow(job: Option<&AgentJob>) -> Option<Finding> {
    let Some(job) = job else {
        return Some(Finding::new(Kind::WorkflowWithoutJob, "it is open, and its AgentJob is gone".into()));
    };
    let ended = has_ended(job) && job.metadata.deletion_timestamp.is_none();
    ended.then(|| Finding::new(Kind::OpenWorkflowOfEndedJob, "it is open, and its AgentJob has ended".into()))
}

/// An activity that waits for the end of a job's run of this number, by that run and the pod of that run's name.
pub fn activity(number: i32, run: Option<&AgentRun>, pod: Option<&PodView>) -> Option<Finding> {
    let why = match (run, pod) {
        (Some(run), Some(pod)) if ending::is_pod_of(run, pod) && !pod.agent_ended() => return None,
        (None, _) => "which doesn't exist",
        (Some(run), _) if run.is_closed() => "which is closed",
        _ => "which has no live pod",
    };
    let message = format!("an activity waits for the end of run {number}, {why}");
    Some(Finding::new(Kind::ActivityWithoutRunner, message))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::{api::names, pods::AgentContainer};

    fn at(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).unwrap())
    }

    fn a_job(phase: &str) -> AgentJob {
        serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": "AgentJob", "metadata": { "name": "j", "uid": "ju" },
            "spec": { "entryPoint": "e", "template": {} }, "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn a_run(number: i32, termination: Value) -> AgentRun {
        let name = names::run("j", "ju", number);
        let owner = json!({ "apiVersion": names::API_VERSION, "kind": "AgentJob", "name": "j", "uid": "ju" });
        serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": "AgentRun",
            "metadata": { "name": name, "uid": format!("r{number}"), "ownerReferences": [owner] },
            "spec": { "identity": { "jobName": "j", "jobUID": "ju", "number": number, "attempt": 1,
                "podName": format!("p{number}"), "executionMode": "Direct", "heartbeat": "1s" } },
            "status": { "termination": termination },
        }))
        .unwrap()
    }

    fn closed(number: i32) -> AgentRun {
        let time = "1970-01-01T00:00:00Z";
        a_run(number, json!({ "type": "Succeeded", "source": "Runner", "started": true, "time": time }))
    }

    fn open(number: i32) -> AgentRun {
        a_run(number, Value::Null)
    }

    fn live(number: i32) -> PodView {
        let (name, uid, run_uid) = (format!("p{number}"), format!("u{number}"), Some(format!("r{number}")));
        PodView { name, uid, run_uid, agent: AgentContainer::Running, ..PodView::default() }
    }

    fn kind(finding: Option<Finding>) -> Option<Kind> {
        finding.map(|m| m.kind)
    }

    #[test]
    fn a_pod_has_its_run() {
        let running = a_job("Running");
        let judge = |p: &PodView, r: Option<&AgentRun>| pod(p, r, Some(&running), &at(1000));
        assert_eq!(judge(&live(1), Some(&open(1))), None);
        let gone = judge(&live(1), None).unwrap();
        assert_eq!((gone.kind, gone.is_garbage), (Kind::PodWithoutRun, true));
        let another = judge(&PodView { run_uid: Some("r0".into()), ..live(1) }, Some(&open(1))).unwrap();
        assert_eq!((another.kind, another.is_garbage), (Kind::PodWithoutRun, true), "one of the same name");
        let ownerless = judge(&PodView { run_uid: None, ..live(1) }, None).unwrap();
        assert_eq!((ownerless.kind, ownerless.is_garbage), (Kind::PodWithoutRun, false), "it stays for ever");
        let forged = PodView { name: "other".into(), ..live(1) };
        assert_eq!(kind(judge(&forged, Some(&open(1)))), Some(Kind::PodWithoutRun));
        let ended = PodView { ended: true, ..live(1) };
        assert_eq!(judge(&ended, Some(&closed(1))), None, "it is kept for its logs");
        assert_eq!(kind(judge(&ended, None)), Some(Kind::PodWithoutRun));
    }

    #[test]
    fn a_pod_ends_after_its_run_and_its_job() {
        let judge = |p: &PodView, r: &AgentRun, phase, now| kind(pod(p, Some(r), Some(&a_job(phase)), &at(now)));
        assert_eq!(judge(&live(1), &closed(1), "Succeeded", 59), None, "its kubelet may be slow");
        assert_eq!(judge(&live(1), &closed(1), "Succeeded", 60), Some(Kind::LivePodOfEndedJob));
        assert_eq!(judge(&live(1), &closed(1), "Running", 60), Some(Kind::LivePodOfClosedRun));
        assert_eq!(judge(&live(1), &open(1), "Failed", 0), Some(Kind::LivePodOfEndedJob));
        assert_eq!(judge(&live(1), &open(1), "Running", 1000), None);
        let going = PodView { deletion_deadline: Some(at(100)), ..live(1) };
        assert_eq!(judge(&going, &closed(1), "Failed", 159), None, "it has its grace period");
        assert_eq!(judge(&going, &closed(1), "Failed", 160), Some(Kind::LivePodOfEndedJob));
        let unknown = AgentJob::default();
        assert_eq!(kind(pod(&live(1), Some(&closed(1)), Some(&unknown), &at(60))), Some(Kind::LivePodOfClosedRun));
    }

    #[test]
    fn a_run_has_its_job() {
        assert_eq!(run(&open(1), Some(&a_job("Running"))), None);
        assert_eq!(run(&closed(1), Some(&a_job("Failed"))), None);
        let gone = run(&closed(1), None).unwrap();
        assert_eq!((gone.kind, gone.is_garbage), (Kind::RunWithoutJob, true));
        let mut left = closed(1);
        left.metadata.owner_references = None;
        let left = run(&left, Some(&AgentJob::default())).unwrap();
        assert_eq!((left.kind, left.is_garbage), (Kind::RunWithoutJob, false), "another job of the name");
        assert_eq!(kind(run(&open(1), Some(&a_job("Failed")))), Some(Kind::OpenRunOfEndedJob));
        let mut foreign = open(1);
        foreign.metadata.name = Some("mine".into());
        assert_eq!(kind(run(&foreign, Some(&a_job("Running")))), Some(Kind::RunWithoutJob));
        let mut going = open(1);
        going.metadata.deletion_timestamp = Some(at(0));
        assert_eq!(run(&going, None), None);
        let mut stone = open(1);
        stone.spec.identity.tombstone = true;
        assert_eq!(run(&stone, Some(&a_job("Cancelled"))), None, "it was created closed");
    }

    #[test]
    fn a_job_has_one_live_run() {
        let judge = |runs: &[AgentRun], pods: &[PodView]| kind(job(&a_job("Running"), runs, pods));
        let two = Some(Kind::TwoLiveRuns);
        assert_eq!(judge(&[closed(1), open(2)], &[live(2)]), None);
        assert_eq!(judge(&[open(1), open(2)], &[]), two);
        assert_eq!(judge(&[closed(1), open(2)], &[live(1), live(2)]), two);
        let ended = AgentContainer::Ended { exit_code: 0, reason: "Completed".into(), message: None };
        let sidecar = PodView { agent: ended, ..live(1) };
        assert_eq!(judge(&[closed(1), open(2)], &[sidecar, live(2)]), None, "its agent has ended");
        let forged = PodView { name: "other".into(), ..live(1) };
        assert_eq!(judge(&[closed(1), open(2)], &[forged, live(2)]), None, "it is not the run's");
        let mut other = open(1);
        other.spec.identity.job_uid = "older".into();
        assert_eq!(judge(&[other, open(2)], &[]), None, "an older job of the name");
    }

    #[test]
    fn a_workflow_has_its_job_and_an_activity_its_runner() {
        assert_eq!(kind(workflow(None)), Some(Kind::WorkflowWithoutJob));
        assert_eq!(kind(workflow(Some(&a_job("Failed")))), Some(Kind::OpenWorkflowOfEndedJob));
        assert_eq!(workflow(Some(&a_job("Running"))), None);
        assert_eq!(activity(1, Some(&open(1)), Some(&live(1))), None);
        for (run, pod) in [
            (None, None),
            (Some(open(1)), None),
            (Some(closed(1)), None),
            (Some(open(1)), Some(PodView { ended: true, ..live(1) })),
            (Some(open(1)), Some(PodView { uid: "x".into(), run_uid: Some("x".into()), ..live(1) })),
        ] {
            assert_eq!(kind(activity(1, run.as_ref(), pod.as_ref())), Some(Kind::ActivityWithoutRunner));
        }
    }
}

//! What is safe to do about a job, run or pod that doesn't fit, and what is only said. Pure.
//!
//! Safe is what koco would have done by itself had nothing come in its way: to close a run that another has replaced or
//! whose job has ended, to delete the pod of a closed run or of none, to cancel the workflow of a job that has ended, to
//! deliver the end of a closed run. Nothing that may still be a job's is ended, and nothing is forced: a pod whose node
//! doesn't confirm its end may still run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{AgentJob, AgentRun, Termination, names},
    audit::judge,
    lifecycle,
    pods::{
        PodView,
        collect::{self, Fate},
        ending,
    },
    protocol::error_types,
    temporal::OpenWorkflow,
};

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Close an open run.
    CloseRun(Box<AgentRun>, Box<Termination>),
    /// Delete a pod, by name and UID.
    DeletePod(String, String),
    /// Delete a run, by name and UID.
    DeleteRun(String, String),
    /// Request the cancellation of the job's workflow.
    CancelWorkflow(String),
    /// Complete the workflow's activity that waits for the end of this closed run.
    CompleteActivity(String, Box<AgentRun>),
    /// Nothing is done about this.
    Say(String),
}

/// A job: its runs, and what pods of their names there are. The pods are those that the API server has, whatever their
/// labels.
pub(super) fn of_job(job: &AgentJob, runs: &[(AgentRun, Option<PodView>)], now: &Time) -> Vec<Step> {
    let (ended, newest) = (judge::has_ended(job), runs.iter().map(|(run, _)| run.number()).max().unwrap_or(0));
    let active = job.status.as_ref().and_then(|s| s.active_run).unwrap_or(0).max(newest);
    let mut steps = Vec::new();
    for (run, pod) in runs {
        let superseded = ended || run.number() < active;
        if !run.is_closed() {
            if !superseded {
                continue;
            }
            let message = "another run has replaced it, or the job has ended".to_string();
            let end = lifecycle::koco(run, error_types::SUPERSEDED, message, now);
            steps.push(Step::CloseRun(Box::new(run.clone()), Box::new(end)));
        }
        steps.extend(pod.as_ref().and_then(|pod| of_pod_of_closed(run, pod, now)));
    }
    steps
}

/// The pod of a run that is closed, or is about to be.
fn of_pod_of_closed(run: &AgentRun, pod: &PodView, now: &Time) -> Option<Step> {
    if pod.ended {
        return None;
    }
    if !ending::is_pod_of(run, pod) {
        return Some(Step::Say(format!(
            "pod {} has the name of AgentRun {}'s, and is not its own",
            pod.name,
            run.name()
        )));
    }
    if pod.deleting() {
        let late = pod.deletion_deadline.as_ref().is_some_and(|d| !lifecycle::elapsed(d, now).is_zero());
        let why = format!("pod {} is being deleted, and its node doesn't confirm its end: it may still run", pod.name);
        return late.then_some(Step::Say(why));
    }
    if run.is_closed() && matches!(collect::of_closed(run, pod, now), Fate::Wait(_)) {
        return None;
    }
    Some(Step::DeletePod(pod.name.clone(), pod.uid.clone()))
}

/// The open workflow of a job, of this id.
pub(super) fn of_workflow(
    job: &AgentJob,
    runs: &[(AgentRun, Option<PodView>)],
    open: &OpenWorkflow,
    id: &str,
    installation: &str,
) -> Vec<Step> {
    if judge::has_ended(job) {
        // Another installation's may have the same job, in a cluster that was restored from a copy.
        let ours = names::job_uid(installation, id) == Some(job.uid());
        let not_ours = || Step::Say(format!("the workflow {id} is open, and not of this installation"));
        return vec![if ours { Step::CancelWorkflow(id.into()) } else { not_ours() }];
    }
    let by_number: BTreeMap<i32, &AgentRun> = runs.iter().map(|(run, _)| (run.number(), run)).collect();
    let step = |number: &i32| match by_number.get(number) {
        Some(run) if run.is_closed() => Some(Step::CompleteActivity(id.into(), Box::new((*run).clone()))),
        Some(_) => None,
        None => Some(Step::Say(format!("an activity waits for the end of run {number}, which doesn't exist"))),
    };
    open.waits_for.iter().filter_map(step).collect()
}

/// A run that asks for itself. `job_is_gone`: the API server has no such job.
pub(super) fn of_run(run: &AgentRun, job_is_gone: bool, pod: Option<&PodView>, now: &Time) -> Vec<Step> {
    if !run.has_its_name() {
        return vec![Step::Say("it is not named as a run of its job: koco ignores it. Delete it".into())];
    }
    if !job_is_gone {
        return vec![Step::Say("its AgentJob exists: request the repair there".into())];
    }
    let mut steps = Vec::new();
    if !run.is_closed() {
        steps.push(Step::CloseRun(Box::new(run.clone()), Box::new(lifecycle::given_up(run, now))));
    }
    let of_pod = pod.and_then(|pod| of_pod_of_closed(run, pod, now));
    let waits = pod.is_some_and(|pod| !pod.ended && pod.deleting());
    steps.extend(of_pod);
    // The record of an agent that may run stays.
    if !waits {
        steps.push(Step::DeleteRun(run.name().into(), run.uid().into()));
    }
    steps
}

/// A pod that asks for itself. `run` is the AgentRun that its owner reference or its labels name.
pub(super) fn of_pod(pod: &PodView, created_by_koco: bool, run: Option<&AgentRun>) -> Vec<Step> {
    if let Some(run) = run.filter(|run| ending::is_pod_of(run, pod)) {
        return vec![Step::Say(format!("it is the pod of AgentRun {}: request the repair at its job", run.name()))];
    }
    if !created_by_koco {
        return vec![Step::Say("it has not all the labels of a pod that koco creates: delete it yourself".into())];
    }
    if pod.deleting() {
        return vec![Step::Say("it is being deleted".into())];
    }
    vec![Step::DeletePod(pod.name.clone(), pod.uid.clone())]
}

impl Step {
    /// What it does, in words.
    pub fn words(&self) -> String {
        match self {
            Self::CloseRun(run, _) => format!("closed AgentRun {}", run.name()),
            Self::DeletePod(name, _) => format!("deleted pod {name}"),
            Self::DeleteRun(name, _) => format!("deleted AgentRun {name}"),
            Self::CancelWorkflow(id) => format!("requested the cancellation of workflow {id}"),
            Self::CompleteActivity(_, run) => format!("told the workflow how run {} has ended", run.number()),
            Self::Say(what) => what.clone(),
        }
    }

    /// Whether anything is done.
    pub fn does(&self) -> bool {
        !matches!(self, Self::Say(_))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::AgentContainer;

    const UID: &str = "2a6b5c60-9d1e-4a9b-8a8e-0123456789ab";

    fn at(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).unwrap())
    }

    fn job(phase: &str) -> AgentJob {
        serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": "AgentJob", "metadata": { "name": "j", "uid": UID },
            "spec": { "entryPoint": "e", "template": {} }, "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn run(number: i32, closed: bool) -> AgentRun {
        let end = json!({ "type": "Failed", "source": "Koco", "started": true, "time": "1970-01-01T00:00:00Z" });
        serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": "AgentRun",
            "metadata": { "name": names::run("j", UID, number), "uid": format!("r{number}") },
            "spec": { "identity": { "jobName": "j", "jobUID": UID, "number": number, "attempt": 1,
                "podName": format!("p{number}"), "executionMode": "Temporal", "heartbeat": "1s" } },
            "status": { "termination": if closed { end } else { Value::Null } },
        }))
        .unwrap()
    }

    fn pod(number: i32) -> PodView {
        let (name, uid, run_uid) = (format!("p{number}"), format!("u{number}"), Some(format!("r{number}")));
        PodView { name, uid, run_uid, agent: AgentContainer::Running, ..PodView::default() }
    }

    fn words(steps: Vec<Step>) -> Vec<String> {
        let short = |text: String| text.replace(&names::run("j", UID, 1), "r1").replace(&names::run("j", UID, 2), "r2");
        steps.iter().map(|s| format!("{}{}", if s.does() { "" } else { "! " }, short(s.words()))).collect()
    }

    #[test]
    fn a_job_keeps_its_newest_run_until_it_has_ended() {
        let of = |phase, runs: &[(AgentRun, Option<PodView>)]| words(of_job(&job(phase), runs, &at(0)));
        let two = [(run(1, false), Some(pod(1))), (run(2, false), Some(pod(2)))];
        assert_eq!(of("Running", &two), ["closed AgentRun r1", "deleted pod p1"]);
        assert_eq!(of("Running", &two[1..]), [""; 0]);
        assert_eq!(of("Failed", &two[1..]), ["closed AgentRun r2", "deleted pod p2"]);
        assert_eq!(of("Running", &[(run(1, true), Some(pod(1)))]), ["deleted pod p1"]);
        let ended = PodView { ended: true, ..pod(1) };
        assert_eq!(of("Failed", &[(run(1, true), Some(ended))]), [""; 0], "it is kept for its logs");
        // What the status says is not created again.
        let mut later = job("Running");
        later.status.as_mut().unwrap().active_run = Some(3);
        assert_eq!(words(of_job(&later, &two[1..], &at(0))), ["closed AgentRun r2", "deleted pod p2"]);
    }

    #[test]
    fn nothing_is_forced() {
        let going = |deadline| PodView { deletion_deadline: Some(at(deadline)), ..pod(1) };
        let of = |pod: PodView| words(of_job(&job("Failed"), &[(run(1, true), Some(pod))], &at(100)));
        assert_eq!(of(going(200)), [""; 0], "it has its grace period");
        assert_eq!(
            of(going(50)),
            ["! pod p1 is being deleted, and its node doesn't confirm its end: it may still run"]
        );
        let foreign = PodView { run_uid: Some("x".into()), ..pod(1) };
        assert_eq!(of(foreign), ["! pod p1 has the name of AgentRun r1's, and is not its own"]);
        let left = words(of_run(&run(1, true), true, Some(&going(50)), &at(100)));
        assert_eq!(left.len(), 1, "the record of what may run stays: {left:?}");
    }

    #[test]
    fn only_a_workflow_of_this_installation_is_cancelled() {
        let open = OpenWorkflow { job: None, waits_for: vec![1, 2, 3] };
        let runs = [(run(1, true), None), (run(2, false), None)];
        let of = |phase, id: &str| words(of_workflow(&job(phase), &runs, &open, id, "c-koco"));
        let ours = names::workflow("c-koco", UID);
        assert_eq!(of("Failed", &ours), [format!("requested the cancellation of workflow {ours}")]);
        assert!(of("Failed", &names::workflow("d-koco", UID))[0].starts_with("! "));
        let waits =
            ["told the workflow how run 1 has ended", "! an activity waits for the end of run 3, which doesn't exist"];
        assert_eq!(of("Running", &ours), waits);
    }

    #[test]
    fn a_run_goes_with_its_job() {
        let of = |r: AgentRun, gone, p: Option<&PodView>| words(of_run(&r, gone, p, &at(0)));
        assert_eq!(of(run(1, true), true, None), ["deleted AgentRun r1"]);
        let all = ["closed AgentRun r1", "deleted pod p1", "deleted AgentRun r1"];
        assert_eq!(of(run(1, false), true, Some(&pod(1))), all);
        assert!(of(run(1, false), false, None)[0].starts_with("! "));
        let mut foreign = run(1, false);
        foreign.metadata.name = Some("mine".into());
        assert!(of(foreign, true, None)[0].starts_with("! "));
    }

    #[test]
    fn a_pod_goes_if_it_is_of_no_run() {
        assert_eq!(words(of_pod(&pod(1), true, None)), ["deleted pod p1"]);
        assert!(words(of_pod(&pod(1), true, Some(&run(1, false))))[0].starts_with("! "), "its run lives");
        let another = PodView { name: "other".into(), ..pod(1) };
        assert_eq!(words(of_pod(&another, true, Some(&run(1, false)))), ["deleted pod other"]);
        assert!(words(of_pod(&pod(1), false, None))[0].starts_with("! "), "somebody else made it");
    }
}

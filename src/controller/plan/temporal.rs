//! Temporal mode: the workflow decides; the controller starts it, passes on wishes and what Kubernetes says, and mirrors.

use std::time::Duration;

use super::{Action, Draft, pending};
use crate::{
    api::{DesiredState, ErrorStatus, Phase, RunnerState, SentRequest, WorkflowStatus, names},
    protocol::{
        error_types,
        workflow::{Input, Progress, Request, RunnerFailed, Stage},
    },
    temporal::Closed,
};

/// How long to wait before Temporal is tried again, when it did not answer.
const RETRY: Duration = Duration::from_secs(5);

pub(super) fn plan(d: &mut Draft<'_>) {
    d.mirror_claim();
    if !d.ground.temporal_configured {
        let message =
            "no Temporal server is configured: set temporal.address in the Helm values, or use executionMode Direct";
        d.stalled = Some(("TemporalNotConfigured".into(), message.into()));
        d.status.phase.get_or_insert(Phase::Pending);
        return;
    }
    if !d.job.has_finalizer() {
        // The next round goes on: nothing is started that nothing would end.
        return d.actions.push(Action::AddFinalizer);
    }
    if let Some(workflow) = d.status.workflow.as_ref().filter(|w| w.namespace != d.ground.temporal_namespace) {
        // What this one knows of it proves nothing.
        let (theirs, ours) = (&workflow.namespace, d.ground.temporal_namespace);
        let message = format!(
            "its workflow is in the Temporal namespace {theirs}, and koco is set to {ours}: set it back until this job has \
             ended, or delete the job"
        );
        d.not_ready = Some(("TemporalNamespaceChanged".into(), message));
        d.status.phase = Some(phase(d));
        return;
    }
    let submitted = d.job.status.as_ref().is_some_and(|s| s.workflow.is_some());
    if !submitted {
        // Cancelled before anything was started: nothing ever is.
        if d.wish() == DesiredState::Cancelled && d.status.claim.is_none() {
            return d.finish(Phase::Cancelled, None);
        }
        submit(d);
    } else {
        mirror(d);
        if d.is_terminal() {
            return;
        }
        wish(d);
    }
    if let Some((reason, message)) = &d.seen.temporal_trouble {
        let message = format!("{message}. It is tried again; running agents go on.");
        d.not_ready = Some((reason.clone(), message));
        if submitted {
            d.actions.push(Action::Ask);
        }
        d.look_again(RETRY);
    }
    tell(d);
    if d.is_lost() {
        // The next epoch's start would delete it, and may have to wait for a resume.
        let epoch = d.status.claim.as_ref().map(|c| c.epoch);
        d.delete_pods(|p| Some(p.epoch) == epoch && !p.agent_ended());
    }
    d.status.phase = Some(phase(d));
}

fn submit(d: &mut Draft<'_>) {
    let Some(resolved) = d.status.resolved.clone() else { return };
    let request = Request { id: request_id(d), desired: d.wish() };
    let input = Input {
        job: d.reference(),
        retry_policy: resolved.retry_policy,
        timeouts: resolved.timeouts,
        disruption_policy: d.job.spec.disruption_policy,
        pause_policy: d.job.spec.pause_policy,
        grace_seconds: d.job.grace_seconds(),
        progress: Progress { desired: d.wish(), last_request: Some(request), ..Progress::default() },
    };
    d.actions.push(Action::StartWorkflow(Box::new(input)));
    d.actions.push(Action::Ask);
    if d.seen.temporal_trouble.is_some() {
        return;
    }
    d.status.workflow = Some(WorkflowStatus {
        id: names::workflow(d.ground.cluster, d.job.uid()),
        namespace: d.ground.temporal_namespace.into(),
        ..WorkflowStatus::default()
    });
}

/// The id of the spec's present wish.
fn request_id(d: &Draft<'_>) -> String {
    let generation = d.job.metadata.generation.unwrap_or_default();
    match d.job.control_request() {
        Some(request) => format!("{generation}/{request}"),
        None => generation.to_string(),
    }
}

/// Signals if and only if what the spec asks for differs from what was last asked for.
fn wish(d: &mut Draft<'_>) {
    let (state, request) = (d.wish(), d.job.control_request().map(str::to_string));
    recall(d);
    let sent = d.status.control.as_ref().and_then(|c| c.sent.clone());
    let asked = match (&sent, d.seen.answer.as_ref().and_then(|a| a.status.as_ref())) {
        (Some(sent), _) => sent.state == state && sent.request == request,
        // Nothing is on record: the workflow knows what it was started with, or what was sent before a crash.
        (None, Some(answer)) => {
            let same = answer.last_request.as_ref().is_some_and(|l| l.desired == state);
            if same {
                let id = answer.last_request.as_ref().map(|l| l.id.clone()).unwrap_or_default();
                let time = d.now();
                if let Some(control) = d.status.control.as_mut() {
                    control.sent = Some(SentRequest { state, id, request: request.clone(), time });
                }
            }
            same
        }
        // No worker has answered yet. Asking to run can wait for that; the others can't.
        (None, None) => state == DesiredState::Running,
    };
    if !asked {
        d.actions.push(Action::Signal(Request { id: request_id(d), desired: state }));
    }
}

/// A signal whose record was lost, to a conflict or a crash after it was sent: the workflow has heard it, so it is what was
/// last asked. Without this a wish that went there and back again would seem to have been sent already.
fn recall(d: &mut Draft<'_>) {
    let heard = d.seen.answer.as_ref().and_then(|a| a.status.as_ref()).and_then(|s| s.last_request.clone());
    let (Some(heard), time) = (heard, d.now()) else { return };
    let Some(sent) = d.status.control.as_mut().and_then(|c| c.sent.as_mut()) else { return };
    if generation(&heard.id) > generation(&sent.id) {
        let request = heard.id.split_once('/').map(|(_, request)| request.to_string());
        *sent = SentRequest { state: heard.desired, id: heard.id, request, time };
    }
}

/// The generation that a request's id begins with.
fn generation(id: &str) -> i64 {
    id.split('/').next().and_then(|g| g.parse().ok()).unwrap_or(0)
}

/// What the workflow answered, into status.
fn mirror(d: &mut Draft<'_>) {
    let Some(answer) = d.seen.answer.clone() else {
        return d.actions.push(Action::Ask);
    };
    if let Some(workflow) = d.status.workflow.as_mut() {
        if answer.run_id.is_some() {
            workflow.run_id = answer.run_id.clone();
        }
        if let Some(status) = &answer.status {
            workflow.status = Some(status.status.as_str().into());
            workflow.is_paused = Some(status.is_paused);
            workflow.error = status.error.clone();
        }
        if let Some(closed) = answer.closed {
            workflow.status = Some(closed_word(closed).into());
            workflow.is_paused = Some(false);
        }
    }
    if let Some(status) = &answer.status {
        d.status.error = status.error.clone();
        // An answer may be older than the claim, which says it too.
        if status.attempt > d.status.attempt.unwrap_or(0) {
            d.status.attempt = Some(status.attempt);
        }
    }
    if answer.missing {
        let message = "Temporal knows no workflow of this job: it was deleted, or its retention is over".to_string();
        return d.finish(Phase::Failed, Some(ErrorStatus { kind: error_types::WORKFLOW_CLOSED.into(), message }));
    }
    let Some(closed) = answer.closed else {
        if !caught_up(d) {
            d.actions.push(Action::Ask);
        }
        return;
    };
    let from_outside = |how: &str| {
        let message = format!("the workflow was {how} from outside");
        Some(ErrorStatus { kind: error_types::WORKFLOW_CLOSED.into(), message })
    };
    match closed {
        Closed::Completed => d.finish(Phase::Succeeded, None),
        Closed::Cancelled => d.finish(Phase::Cancelled, None),
        Closed::Failed => {
            // An answer from before the end speaks of an earlier attempt.
            let said = answer.status.filter(|s| s.status == Stage::Failed).and_then(|s| s.error);
            let said = said.or_else(|| d.outcome().and_then(|o| o.error.clone()));
            d.finish(Phase::Failed, said);
        }
        Closed::Terminated => d.finish(Phase::Failed, from_outside("terminated")),
        Closed::TimedOut => d.finish(Phase::Failed, from_outside("timed out")),
    }
}

fn closed_word(closed: Closed) -> &'static str {
    match closed {
        Closed::Completed => "completed",
        Closed::Failed => "failed",
        Closed::Cancelled => "cancelled",
        Closed::Terminated => "terminated",
        Closed::TimedOut => "timedout",
    }
}

/// Whether the workflow's answer knows all that the status knows; if not, it is asked again.
fn caught_up(d: &Draft<'_>) -> bool {
    let Some(answer) = d.seen.answer.as_ref().and_then(|a| a.status.as_ref()) else { return false };
    let Some(claim) = &d.status.claim else { return answer.epoch == 0 || answer.status == Stage::Held };
    let control = d.status.control.clone().unwrap_or_default();
    let permit = claim.permit.is_some() && d.outcome().is_none();
    answer.epoch == claim.epoch
        && !matches!(answer.status, Stage::Completed | Stage::Failed | Stage::Cancelled)
        && control.command.is_none_or(|c| answer.seq >= c.seq)
        && control.sent.is_none_or(|s| answer.last_request.as_ref().is_some_and(|l| l.id == s.id))
        && (!permit || matches!(answer.status, Stage::Running | Stage::Cancelling))
        && !(permit
            && answer.desired == DesiredState::Paused
            && d.confirmed() == Some(RunnerState::Frozen)
            && !answer.is_paused)
        && !(d.outcome().is_some() && answer.status == Stage::Running)
}

/// What Kubernetes says, to the workflow.
fn tell(d: &mut Draft<'_>) {
    let Some(claim) = d.status.claim.clone() else { return };
    let moved_on = d.seen.answer.as_ref().and_then(|a| a.status.as_ref()).is_some_and(|s| s.epoch > claim.epoch);
    if moved_on {
        return;
    }
    match d.outcome().cloned() {
        Some(outcome) if !d.outcome_is_written() => drop(outcome),
        Some(outcome) if claim.permit.is_some() => {
            let behind = d
                .seen
                .answer
                .as_ref()
                .and_then(|a| a.status.as_ref())
                .is_none_or(|s| s.epoch == claim.epoch && matches!(s.status, Stage::Running | Stage::Cancelling));
            if behind {
                d.actions.push(Action::Deliver(Box::new(outcome)));
            }
        }
        Some(outcome) => {
            let timed_out = pending::plan(d);
            let fatal = timed_out.is_some();
            let error = timed_out.or(outcome.error).unwrap_or_default();
            d.actions.push(Action::RunnerFailed(RunnerFailed { epoch: claim.epoch, error, fatal }));
        }
        None if claim.permit.is_none() && claim.pod_uid.is_some() => {
            if let Some(error) = pending::plan(d) {
                d.actions.push(Action::RunnerFailed(RunnerFailed { epoch: claim.epoch, error, fatal: true }));
            }
        }
        None => {}
    }
}

/// The summary: from what the cluster shows, so that it is true also while no worker answers.
fn phase(d: &Draft<'_>) -> Phase {
    let answer = d.seen.answer.as_ref().and_then(|a| a.status.as_ref());
    let wanted = answer.map_or(d.wish(), |a| a.desired);
    let command = d.status.control.as_ref().and_then(|c| c.command.as_ref()).map(|c| c.state);
    if [Some(wanted), command, Some(d.wish())].contains(&Some(DesiredState::Cancelled)) {
        return Phase::Cancelling;
    }
    if d.agent_may_run() {
        let still = matches!(d.confirmed(), Some(RunnerState::Frozen | RunnerState::Waiting));
        return if command == Some(DesiredState::Paused) && still { Phase::Paused } else { Phase::Running };
    }
    if answer.is_some_and(|a| a.is_paused) && !d.is_lost() {
        return Phase::Paused;
    }
    if d.outcome().is_some_and(|o| o.kind == crate::api::OutcomeKind::Succeeded) {
        return Phase::Running;
    }
    let resumed = d.status.claim.as_ref().is_some_and(|c| c.resumed);
    if d.status.attempt.is_some() && !resumed { Phase::Retrying } else { Phase::Pending }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
    use serde_json::json;

    use super::super::{Answer, Plan, Seen};
    use crate::{
        api::{AgentJob, Phase},
        protocol::workflow::{Request, Stage, StatusAnswer},
    };

    fn job(state: &str, generation: i64, sent: &str, id: &str) -> AgentJob {
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "name": "a", "namespace": "n", "uid": "u", "generation": generation,
                "finalizers": [crate::api::names::FINALIZER] },
            "spec": { "entryPoint": "e", "executionMode": "Temporal", "desiredState": state,
                "template": { "spec": { "containers": [] } } },
            "status": {
                "workflow": { "id": "w", "namespace": "t" },
                "control": { "sent": { "state": sent, "id": id, "time": "2026-01-01T00:00:00Z" } },
            },
        }))
        .unwrap()
    }

    /// Its agent has its permit.
    fn with_agent(mut job: AgentJob) -> AgentJob {
        let time = "2026-01-01T00:00:00Z";
        let claim = json!({ "epoch": 1, "attempt": 1, "podName": "p", "permit": { "time": time, "offer": 0 } });
        job.status.as_mut().unwrap().claim = serde_json::from_value(claim).unwrap();
        job
    }

    fn answering(desired: &str, id: &str) -> Seen {
        let status: StatusAnswer = serde_json::from_value(json!({
            "status": "running", "attempt": 1, "epoch": 1, "desired": desired, "seq": 1, "isPaused": false,
            "lastRequest": { "id": id, "desired": desired },
        }))
        .unwrap();
        Seen { answer: Some(Answer { status: Some(status), ..Answer::default() }), ..Seen::default() }
    }

    fn planned(job: &AgentJob, seen: &Seen) -> Plan {
        super::super::tests::planned(job, seen, Time(Timestamp::UNIX_EPOCH), true)
    }

    fn signals(plan: &Plan) -> Vec<Request> {
        let signals = plan.actions.iter().filter_map(|a| match a {
            super::Action::Signal(request) => Some(request.clone()),
            _ => None,
        });
        signals.collect()
    }

    #[test]
    fn a_signal_whose_record_was_lost_is_not_forgotten() {
        // Paused was sent and recorded, Running was sent and its record lost to a conflict, and Paused is wanted again.
        let plan = planned(&job("Paused", 7, "Paused", "5"), &answering("Running", "6"));
        let sent: Vec<_> = signals(&plan).into_iter().map(|r| (r.id, r.desired.as_str())).collect();
        assert_eq!(sent, [("7".to_string(), "Paused")]);
    }

    #[test]
    fn the_pending_clock_stands_still_for_a_pause_and_ends_with_the_permit() {
        let since = |job: &AgentJob, seen: &Seen| planned(job, seen).status.pending_since;
        let mut waiting = with_agent(job("Paused", 5, "Paused", "5"));
        let status = waiting.status.as_mut().unwrap();
        (status.pending_since, status.runner_pod) = (Some(Time(Timestamp::UNIX_EPOCH)), Some("p".into()));
        assert_eq!(since(&waiting, &answering("Paused", "5")), None, "it has its permit");
        let claim = waiting.status.as_mut().unwrap().claim.as_mut().unwrap();
        (claim.permit, claim.pod_uid) = (None, Some("u".into()));
        let pod = crate::pods::PodView { name: "p".into(), uid: "u".into(), epoch: 1, ..Default::default() };
        let seen = |desired: &str| Seen { pods: vec![pod.clone()], ..answering(desired, "5") };
        assert_eq!(since(&waiting, &seen("Paused")), None, "it is held");
        assert!(since(&waiting, &seen("Running")).is_some());
    }

    #[test]
    fn a_lost_runner_is_not_called_paused() {
        let mut job = with_agent(job("Paused", 5, "Paused", "5"));
        let status = job.status.as_mut().unwrap();
        status.claim.as_mut().unwrap().pod_uid = Some("u".into());
        let time = Time(Timestamp::UNIX_EPOCH);
        status.outcome = Some(crate::pods::ending::silent(1, "silent".into(), time));
        let mut seen = answering("Paused", "5");
        let answer = seen.answer.as_mut().unwrap().status.as_mut().unwrap();
        (answer.status, answer.is_paused) = (Stage::Held, true);
        let agent = crate::pods::AgentContainer::Running;
        seen.pods =
            vec![crate::pods::PodView { name: "p".into(), uid: "u".into(), epoch: 1, agent, ..Default::default() }];
        let plan = planned(&job, &seen);
        assert_eq!(plan.status.phase, Some(Phase::Retrying));
        assert!(plan.actions.contains(&super::Action::DeletePod { name: "p".into(), uid: "u".into() }));
        seen.pods.clear();
        seen.pods_are_live = true;
        assert_eq!(planned(&job, &seen).status.phase, Some(Phase::Paused));
    }

    #[test]
    fn another_temporal_namespace_proves_nothing() {
        let mut job = with_agent(job("Paused", 5, "Running", "4"));
        job.status.as_mut().unwrap().workflow.as_mut().unwrap().namespace = "elsewhere".into();
        let missing = Seen { answer: Some(Answer { missing: true, ..Answer::default() }), ..Seen::default() };
        let plan = planned(&job, &missing);
        assert_eq!(plan.status.phase, Some(Phase::Running));
        assert!(plan.actions.is_empty(), "{:?}", plan.actions);
        let ready = plan.status.conditions.into_iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "TemporalNamespaceChanged"));
    }

    #[test]
    fn a_pause_on_its_way_says_where_it_is() {
        let paused = |job: &AgentJob, seen: &Seen| {
            let found = planned(job, seen).status.conditions.into_iter().find(|c| c.type_ == "Paused").unwrap();
            (found.reason, found.message)
        };
        let job = with_agent(job("Paused", 5, "Paused", "5"));
        let (reason, message) = paused(&job, &answering("Running", "4"));
        assert!(reason == "Pausing" && message.contains("the workflow has not taken"), "{reason}: {message}");
        let (reason, message) = paused(&job, &answering("Paused", "5"));
        assert!(reason == "Pausing" && message.contains("on its way to the runner"), "{reason}: {message}");
        let mut told = job.clone();
        let command = json!({ "state": "Paused", "seq": 1, "time": "2026-01-01T00:00:00Z" });
        told.status.as_mut().unwrap().control.as_mut().unwrap().command = serde_json::from_value(command).unwrap();
        let (reason, message) = paused(&told, &answering("Paused", "5"));
        assert!(reason == "Pausing" && message.contains("the runner has not confirmed"), "{reason}: {message}");
        // Somebody resumed it by a signal.
        let command = json!({ "state": "Running", "seq": 2, "time": "2026-01-01T00:00:00Z" });
        told.status.as_mut().unwrap().control.as_mut().unwrap().command = serde_json::from_value(command).unwrap();
        let (reason, message) = paused(&told, &answering("Running", "5"));
        assert!(reason == "NotPaused" && message.contains("from elsewhere"), "{reason}: {message}");
    }

    #[test]
    fn what_was_asked_already_is_not_asked_again() {
        // An older answer, one from outside, and an edit of something else: nothing to ask.
        assert!(signals(&planned(&job("Paused", 5, "Paused", "5"), &answering("Running", "4"))).is_empty());
        assert!(signals(&planned(&job("Running", 5, "Running", "5"), &answering("Paused", "5"))).is_empty());
        assert!(signals(&planned(&job("Running", 9, "Running", "5"), &answering("Running", "5"))).is_empty());
        // The lost one is what is wanted: it is recorded, and not sent again.
        let plan = planned(&job("Running", 6, "Paused", "5"), &answering("Running", "6"));
        assert!(signals(&plan).is_empty());
        assert_eq!(plan.status.control.unwrap().sent.unwrap().id, "6");
    }
}

//! Temporal mode.

use super::*;
use crate::protocol::workflow::Stage;

fn temporal(state: &str, generation: i64, sent: Option<(&str, &str)>, status: Value) -> AgentJob {
    let mut whole = json!({ "workflow": { "id": "w", "namespace": "t", "runID": "x" } });
    if let Some((state, id)) = sent {
        whole["control"] = json!({ "sent": { "state": state, "id": id, "time": "2026-01-01T00:00:00Z" } });
    }
    let spec = json!({ "executionMode": "Temporal", "desiredState": state });
    let mut job = job(spec, merged(whole, status));
    job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    job.metadata.generation = Some(generation);
    job
}

/// The same, granted.
fn with_agent(state: &str, generation: i64, sent: (&str, &str)) -> AgentJob {
    temporal(state, generation, Some(sent), json!({ "activeRun": 1, "attempt": 1, "phase": "Running" }))
}

fn answering(desired: &str, id: &str) -> ObservedState {
    let status: StatusAnswer = serde_json::from_value(json!({
        "status": "running", "attempt": 1, "epoch": 1, "desired": desired, "seq": 1, "isPaused": false,
        "lastRequest": { "id": id, "desired": desired },
    }))
    .unwrap();
    let answer = WorkflowSnapshot { status: Some(status), ..WorkflowSnapshot::default() };
    let running = observed(&[run(1, started())], &[pod(1, AgentContainer::Running)]);
    ObservedState { answer: Some(answer), ..running }
}

fn signals(plan: &Plan) -> Vec<(String, &'static str)> {
    let signals = plan.actions.iter().filter_map(|a| match a {
        Action::Signal(request) => Some((request.id.clone(), request.desired.as_str())),
        _ => None,
    });
    signals.collect()
}

#[test]
fn nothing_is_submitted_before_the_finalizer_is_on_and_the_intent_is_written() {
    let bare = job(json!({ "executionMode": "Temporal" }), Value::Null);
    assert_eq!(decide(&bare, &ObservedState::default()).actions, [Action::AddFinalizer]);
    let mut ready = bare;
    ready.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    let plan = decide(&ready, &ObservedState::default());
    assert!(matches!(&plan.actions[..], [Action::StartWorkflow(_)]));
    assert!(!plan.actions.iter().any(Action::follows_from_spec));
    assert_eq!(plan.status.workflow.as_ref().map(|w| w.run_id.is_none()), Some(true));
    // A failed call to Temporal is retried, and shown.
    let trouble = Some((Reason::other("TemporalUnavailable"), "no".to_string()));
    let mut recorded = ready.clone();
    recorded.status = Some(plan.status);
    let failed = decide(&recorded, &ObservedState { temporal_trouble: trouble, ..ObservedState::default() });
    assert!(failed.actions.iter().any(|a| matches!(a, Action::StartWorkflow(_))));
    assert_eq!(condition(&failed, "Ready").1, "TemporalUnavailable");
    // A successful one is recorded with the next write, and not repeated.
    let started = ObservedState {
        started: Some(StartedWorkflow { run_id: "x".into(), ..StartedWorkflow::default() }),
        ..ObservedState::default()
    };
    let done = decide(&recorded, &started);
    assert!(!done.actions.iter().any(|a| matches!(a, Action::StartWorkflow(_))));
    assert_eq!(done.status.workflow.unwrap().run_id.as_deref(), Some("x"));
}

#[test]
fn a_status_that_was_emptied_has_its_workflow_again() {
    let mut job = with_agent("Running", 1, ("Running", "1"));
    let named = Some(names::workflow("c", "u"));
    let workflow = |plan: Plan| plan.status.workflow.map(|w| (w.id, w.namespace, w.run_id));
    job.status = Some(Default::default());
    let found = decide(&job, &ObservedState { answer: None, ..answering("Running", "1") });
    assert!(!found.actions.iter().any(|a| matches!(a, Action::StartWorkflow(_))));
    assert_eq!(workflow(found), named.map(|id| (id, "t".into(), None)));
}

#[test]
fn a_job_cancelled_after_the_intent_is_submitted_and_cancelled_there() {
    // Whether its workflow was started is unknown.
    let mut cancelled = temporal("Cancelled", 2, None, json!({}));
    cancelled.status.as_mut().unwrap().workflow.as_mut().unwrap().run_id = None;
    let plan = decide(&cancelled, &ObservedState::default());
    assert!(plan.actions.iter().any(|a| matches!(a, Action::StartWorkflow(_))));
    assert_eq!(plan.status.phase, Some(Phase::Cancelling));
}

#[test]
fn a_signal_whose_record_was_lost_is_not_forgotten() {
    // Paused was sent and recorded, Running was sent and its record lost to a conflict, and Paused is wanted again.
    let plan = decide(&with_agent("Paused", 7, ("Paused", "5")), &answering("Running", "6"));
    assert_eq!(signals(&plan), [("7".to_string(), "Paused")]);
}

#[test]
fn what_was_asked_already_is_not_asked_again() {
    let none = |job: AgentJob, state: ObservedState| assert_eq!(signals(&decide(&job, &state)), []);
    // An older answer, one from outside, and an edit of something else: nothing to send.
    none(with_agent("Paused", 5, ("Paused", "5")), answering("Running", "4"));
    none(with_agent("Running", 5, ("Running", "5")), answering("Paused", "5"));
    none(with_agent("Running", 9, ("Running", "5")), answering("Running", "5"));
    // The lost one is desired: it is recorded, and not sent again.
    let plan = decide(&with_agent("Running", 6, ("Paused", "5")), &answering("Running", "6"));
    assert_eq!(signals(&plan), []);
    assert_eq!(plan.status.control.unwrap().sent.unwrap().id, "6");
}

#[test]
fn the_pending_clock_stands_still_for_a_pause_and_ends_with_the_grant() {
    let pending = json!({ "activeRun": 1, "pendingSince": "2026-01-01T00:58:00Z", "phase": "Pending" });
    let since = |state: &str, over: Value| {
        let job = temporal(state, 5, Some((state, "5")), pending.clone());
        let runs = observed(&[run(1, over)], &[pod(1, AgentContainer::Waiting)]);
        decide(&job, &ObservedState { runs: runs.runs, pods: runs.pods, ..answering(state, "5") }).status.pending_since
    };
    assert_eq!(since("Paused", started()), None, "it has its grant");
    assert_eq!(since("Paused", json!({})), None, "it is held");
    assert!(since("Running", json!({})).is_some());
}

#[test]
fn a_lost_runner_is_not_called_paused() {
    let job = with_agent("Paused", 5, ("Paused", "5"));
    let mut state = answering("Paused", "5");
    let answer = state.answer.as_mut().unwrap().status.as_mut().unwrap();
    (answer.status, answer.is_paused) = (Stage::Held, true);
    state.runs = vec![run(1, ended("Failed", Some("HeartbeatTimeout"), "Koco"))];
    let plan = decide(&job, &state);
    assert_eq!((plan.status.phase, plan.actions.contains(&delete(1))), (Some(Phase::Retrying), true));
    state.pods.clear();
    assert_eq!(decide(&job, &state).status.phase, Some(Phase::Paused));
}

/// Paused, told to run and to pause again: the agent may have been granted its start in between.
#[test]
fn an_answer_from_before_the_newest_request_is_no_pause() {
    let job = temporal("Paused", 4, Some(("Paused", "4")), json!({ "activeRun": 1, "phase": "Pending" }));
    let held = |heard: &str| {
        let mut state = answering("Paused", heard);
        let answer = state.answer.as_mut().unwrap().status.as_mut().unwrap();
        (answer.status, answer.is_paused) = (Stage::Held, true);
        state.runs = vec![run(1, json!({}))];
        let plan = decide(&job, &state);
        (plan.status.phase, condition(&plan, "Paused"))
    };
    let (phase, (status, reason, _)) = held("2");
    assert_eq!((phase, status.as_str(), reason.as_str()), (Some(Phase::Pending), "False", "Pausing"));
    let (phase, (status, ..)) = held("4");
    assert_eq!((phase, status.as_str()), (Some(Phase::Paused), "True"));
}

/// A new leader has not heard of the workflow yet.
#[test]
fn a_paused_job_stays_so_until_something_contradicts_it() {
    let job = temporal("Paused", 4, Some(("Paused", "4")), json!({ "activeRun": 1, "phase": "Pending" }));
    let waits = ObservedState { runs: vec![run(1, json!({}))], pods: vec![], ..answering("Paused", "4") };
    let mut known = waits.clone();
    let answer = known.answer.as_mut().unwrap().status.as_mut().unwrap();
    (answer.status, answer.is_paused) = (Stage::Held, true);
    let (job, plan) = next(&job, &known);
    assert_eq!(plan.status.phase, Some(Phase::Paused));
    let anew = |job: &AgentJob, runs: Vec<AgentRun>| {
        decide(job, &ObservedState { runs, answer: None, ..waits.clone() }).status
    };
    assert_eq!(anew(&job, waits.runs.clone()), plan.status, "nothing is written");
    for end in [("Evicted", None), ("Failed", Some("Disrupted"))] {
        assert_eq!(anew(&job, vec![run(1, ended(end.0, end.1, "Runner"))]).phase, Some(Phase::Paused), "{end:?}");
    }
    let mut none = job.clone();
    none.status.as_mut().unwrap().active_run = None;
    assert_eq!(anew(&none, vec![]).phase, Some(Phase::Paused));

    for begun in [run(1, granted()), run(2, json!({}))] {
        assert_ne!(anew(&job, vec![begun]).phase, Some(Phase::Paused), "a run that has begun");
    }
    let mut resumed = job.clone();
    resumed.spec.desired_state = DesiredState::Running;
    assert_ne!(anew(&resumed, waits.runs.clone()).phase, Some(Phase::Paused), "what is about to be asked");
    let sent = job.status.as_ref().unwrap().control.clone().unwrap().sent.unwrap();
    let sent = Some(SentRequest { state: DesiredState::Running, id: "5".into(), ..sent });
    let told = ObservedState { answer: None, sent, ..waits };
    assert_ne!(decide(&resumed, &told).status.phase, Some(Phase::Paused), "what was asked since");
}

#[test]
fn another_temporal_namespace_proves_nothing() {
    let mut job = with_agent("Paused", 5, ("Running", "4"));
    job.status.as_mut().unwrap().workflow.as_mut().unwrap().namespace = "elsewhere".into();
    let answer = Some(WorkflowSnapshot { missing: true, ..WorkflowSnapshot::default() });
    let plan = decide(&job, &ObservedState { answer, ..answering("Running", "4") });
    assert_eq!((plan.status.phase, plan.actions.len()), (Some(Phase::Running), 0));
    assert_eq!(condition(&plan, "Ready").1, "TemporalNamespaceChanged");
}

#[test]
fn a_pause_on_its_way_says_where_it_is() {
    let job = with_agent("Paused", 5, ("Paused", "5"));
    let paused = |state: &ObservedState| {
        let (_, reason, message) = condition(&decide(&job, state), "Paused");
        (reason, message)
    };
    let (reason, message) = paused(&answering("Running", "4"));
    assert!(reason == "Pausing" && message.contains("the workflow has not received"), "{reason}: {message}");
    let (reason, message) = paused(&answering("Paused", "5"));
    assert!(reason == "Pausing" && message.contains("being sent to the runner"), "{reason}: {message}");
    let told = |state: &str, desired: &str| {
        let runs = vec![run(1, commanded(state, 1, answered("Running", 0)))];
        ObservedState { runs, ..answering(desired, "5") }
    };
    let (reason, message) = paused(&told("Paused", "Paused"));
    assert!(reason == "Pausing" && message.contains("the runner has not confirmed"), "{reason}: {message}");
    // It was resumed by a signal.
    let (reason, message) = paused(&told("Running", "Running"));
    assert!(reason == "NotPaused" && message.contains("by a signal"), "{reason}: {message}");
}

#[test]
fn an_activity_is_completed_only_if_no_other_role_did() {
    let job = with_agent("Running", 1, ("Running", "1"));
    let delivers = |source: &str, time: &str| {
        let mut over = ended("Succeeded", None, source);
        over["status"]["termination"]["time"] = json!(time);
        let plan = decide(&job, &ObservedState { runs: vec![run(1, over)], ..answering("Running", "1") });
        (plan.actions.iter().any(|a| matches!(a, Action::CompleteActivity(_))), plan.requeue)
    };
    assert_eq!(delivers("Runner", NOW), (false, Some(Duration::from_secs(5))), "the gateway delivers it");
    assert!(delivers("Runner", "2026-01-01T00:59:50Z").0);
    assert!(delivers("Kubelet", NOW).0);
}

#[test]
fn an_answer_from_before_the_end_is_asked_for_again() {
    let job = with_agent("Running", 1, ("Running", "1"));
    let asks = |stage: Stage, ended_run: Option<i32>| {
        let end =
            run(1, merged(ended("Succeeded", None, "Runner"), json!({ "status": { "termination": { "time": NOW } } })));
        let mut state = ObservedState { runs: vec![end], ..answering("Running", "1") };
        let answer = state.answer.as_mut().unwrap().status.as_mut().unwrap();
        (answer.status, answer.ended_run) = (stage, ended_run);
        decide(&job, &state).actions.contains(&Action::AwaitClose)
    };
    assert!(asks(Stage::Running, None));
    assert!(asks(Stage::Pending, None), "it is from before the grant");
    assert!(!asks(Stage::Evicted, Some(1)), "it knows of the end, and waits");
}

#[test]
fn a_workflow_is_not_asked_as_long_as_it_goes_as_it_was_started() {
    let job = |state: &str, id: &str| temporal(state, 1, Some((state, id)), json!({ "phase": "Pending" }));
    let plan = |job: &AgentJob, ago: u64, runs: Vec<AgentRun>| {
        let started = StartedWorkflow { request: "1".into(), ago: Duration::from_secs(ago), ..Default::default() };
        let plan = decide(job, &ObservedState { started: Some(started), runs, ..ObservedState::default() });
        (plan.actions.contains(&Action::QueryWorkflow), plan.requeue)
    };
    let running = job("Running", "1");
    assert_eq!(plan(&running, 5, vec![]), (false, Some(Duration::from_secs(15))));
    assert!(plan(&running, 20, vec![]).0, "its first run is late");
    assert!(plan(&job("Running", "2"), 5, vec![]).0, "another request was sent");
    assert!(plan(&job("Paused", "1"), 5, vec![]).0, "only it knows whether it is held");
    assert!(!plan(&running, 60, vec![run(1, started())]).0);
    assert!(plan(&running, 60, vec![run(1, commanded("Paused", 1, json!({})))]).0, "somebody else has paused it");
    assert!(plan(&running, 5, vec![run(1, ended("Failed", None, "Runner"))]).0, "it decides what follows");
    let unknown = decide(&running, &ObservedState::default());
    assert!(unknown.actions.contains(&Action::QueryWorkflow), "another process has started it");
}

#[test]
fn the_close_of_a_workflow_whose_agent_has_succeeded_is_waited_for() {
    let job = with_agent("Running", 1, ("Running", "1"));
    let asked = |kind: &str| {
        let now = json!({ "status": { "termination": { "time": NOW } } });
        decide(&job, &observed(&[run(1, merged(ended(kind, None, "Runner"), now))], &[])).actions
    };
    assert_eq!(asked("Succeeded"), [Action::AwaitClose]);
    assert_eq!(asked("Failed"), [Action::QueryWorkflow]);
}

#[test]
fn a_workflow_that_missed_its_runner_is_told_again() {
    let job = temporal("Running", 1, Some(("Running", "1")), json!({ "activeRun": 1, "phase": "Pending" }));
    let ready = json!({ "status": { "podUID": "p1", "readyTime": "2026-01-01T00:59:50Z" } });
    let plan = decide(&job, &ObservedState { runs: vec![run(1, ready)], ..answering("Running", "1") });
    assert!(plan.actions.contains(&Action::RunnerReady(1)));
}

#[test]
fn the_same_is_told_ever_less_often_and_not_once_it_was_taken() {
    let failed = json!({ "status": { "termination": { "type": "Failed", "source": "Kubelet", "time": NOW, "started": false,
        "error": { "type": "NotStarted", "message": "m" } } } });
    let job = temporal("Running", 1, Some(("Running", "1")), json!({ "activeRun": 1, "phase": "Pending" }));
    let plan = |told: Option<Told>, change: fn(&mut StatusAnswer)| {
        let mut state = ObservedState { runs: vec![run(1, failed.clone())], told, ..answering("Running", "1") };
        let answer = state.answer.as_mut().unwrap().status.as_mut().unwrap();
        answer.status = Stage::Pending;
        change(answer);
        let plan = decide(&job, &state);
        (plan.actions.iter().any(|a| matches!(a, Action::RunnerFailed(_))), plan.requeue)
    };
    let told = |times, ago| Some(Told { run: 1, times, ago: Duration::from_secs(ago) });
    assert!(plan(None, |_| {}).0);
    let mut pending = job.clone();
    pending.status.as_mut().unwrap().pending_since = Some(Time(Timestamp::UNIX_EPOCH));
    let state = ObservedState { runs: vec![run(1, failed.clone())], ..answering("Running", "1") };
    assert!(decide(&pending, &state).status.pending_since.is_some(), "one clock for all that never start");
    assert_eq!(plan(told(1, 2), |_| {}), (false, Some(Duration::from_secs(3))));
    assert!(plan(told(1, 5), |_| {}).0);
    assert!(!plan(told(4, 30), |_| {}).0);
    assert!(plan(told(99, 600), |_| {}).0, "but never less often than every ten minutes");
    assert!(!plan(None, |a| (a.status, a.ended_run) = (Stage::Retrying, Some(1))).0, "it was taken");
    assert!(!plan(None, |a| (a.status, a.ended_run) = (Stage::Held, Some(1))).0, "and a pause holds the next");
    let as_before = |a: &mut StatusAnswer| {
        a.error = Some(ErrorStatus { kind: "NotStarted".into(), message: "m".into() });
    };
    assert!(plan(None, as_before).0, "the error is that of an earlier run, which happens to be the same");
}

#[test]
fn a_pending_timeout_is_on_record_before_the_workflow_hears_of_it() {
    let pending = json!({ "activeRun": 1, "pendingSince": "2026-01-01T00:00:00Z", "phase": "Pending" });
    let job = temporal("Running", 1, Some(("Running", "1")), pending);
    let waiting = observed(&[run(1, json!({}))], &[pod(1, AgentContainer::Waiting)]);
    let first = decide(&job, &ObservedState { runs: waiting.runs, pods: waiting.pods, ..answering("Running", "1") });
    assert!(first.actions.iter().any(|a| matches!(a, Action::CloseRun { guard: Guard::NotReady, .. })));
    assert!(!first.actions.iter().any(|a| matches!(a, Action::RunnerFailed(_))));
    let closed = json!({ "status": { "termination": { "type": "Failed", "source": "Koco", "time": NOW, "started": false,
        "error": { "type": "PendingTimeout", "message": "m" } } } });
    let second = decide(&job, &ObservedState { runs: vec![run(1, closed)], ..answering("Running", "1") });
    assert!(second.actions.iter().any(|a| matches!(a, Action::RunnerFailed(f) if f.fatal)));
}

#[test]
fn a_workflow_closed_from_outside_ends_the_job_only_after_its_run() {
    let job = with_agent("Running", 1, ("Running", "1"));
    let closed_as = |how, over: Value| {
        let mut state = ObservedState { runs: vec![run(1, over)], ..answering("Running", "1") };
        state.answer.as_mut().unwrap().closed = Some(how);
        decide(&job, &state)
    };
    let closed = |over| closed_as(Closed::Terminated, over);
    // Completed or failed: by hand, as if its agent had ended.
    for how in [Closed::Terminated, Closed::Completed, Closed::Failed] {
        let first = closed_as(how, started());
        assert_eq!((first.status.phase, closes(&first)), (Some(Phase::Running), vec![(1, "Cancelled".into())]));
    }
    let second = closed(ended("Cancelled", None, "Koco"));
    let error = second.status.error.clone().unwrap();
    assert_eq!((second.status.phase, error.kind.as_str()), (Some(Phase::Failed), "WorkflowClosed"));
    // A recorded success stays one.
    assert_eq!(closed(ended("Succeeded", None, "Runner")).status.phase, Some(Phase::Succeeded));
}

#[test]
fn a_run_deleted_by_hand_gets_a_tombstone_and_the_workflow_is_told() {
    let job = with_agent("Running", 1, ("Running", "1"));
    let missing = ObservedState { active_is_missing: true, runs: vec![], ..answering("Running", "1") };
    assert_eq!(decide(&job, &missing).actions, [Action::CreateTombstone { number: 1, attempt: 1 }]);
    let tombstone = run(1, json!({ "spec": { "identity": { "tombstone": true } } }));
    let plan = decide(&job, &ObservedState { runs: vec![tombstone], ..answering("Running", "1") });
    assert!(plan.actions.iter().any(|a| matches!(a, Action::RunnerFailed(_))));
    assert!(plan.actions.iter().any(|a| matches!(a, Action::CompleteActivity(_))), "it may have had its grant");
}

#[test]
fn a_series_of_failed_starts_keeps_its_pending_time() {
    let since = |known: Option<&str>, runs: &[AgentRun]| {
        let newest = runs.iter().map(AgentRun::number).max().unwrap();
        let mut job = temporal("Running", 1, Some(("Running", "1")), json!({ "activeRun": newest }));
        job.status.as_mut().unwrap().pending_since = known.map(|t| Time(t.parse().unwrap()));
        let pods = [PodView { uid: "p1".into(), ..pod(newest, AgentContainer::Running) }];
        decide(&job, &observed(runs, &pods)).status.pending_since.map(|t| t.0.to_string())
    };
    let (failed, old) = (run(1, ended("Failed", Some("NotStarted"), "Runner")), "2026-01-01T00:58:00Z");
    assert_eq!(since(None, std::slice::from_ref(&failed)).as_deref(), Some(NOW));
    assert_eq!(since(Some(old), &[failed.clone(), run(2, started())]).as_deref(), Some(old), "it goes on");
    let ran = run(2, ended("Failed", Some("AgentFailed"), "Runner"));
    assert_eq!(since(Some(old), &[ran, run(3, started())]), None);
}

/// The snapshot of a workflow that the server whose namespace has this id doesn't know.
fn missing(job: &AgentJob, namespace_id: &str, trouble: bool, over: Value) -> Plan {
    let mut state = answering("Running", "1");
    state.runs = vec![run(1, over)];
    let answer = state.answer.as_mut().unwrap();
    (answer.missing, answer.namespace_id) = (true, Some(namespace_id.into()));
    state.temporal_trouble = trouble.then(|| (Reason::other("TemporalUnavailable"), "no".into()));
    decide(job, &state)
}

fn missing_since(since: Option<&str>) -> AgentJob {
    let mut job = with_agent("Running", 1, ("Running", "1"));
    let workflow = job.status.as_mut().unwrap().workflow.as_mut().unwrap();
    workflow.namespace_id = Some("ours".into());
    workflow.missing_since = since.map(|s| Time(s.parse().unwrap()));
    job
}

#[test]
fn a_workflow_that_is_not_there_ends_a_job_only_if_that_lasts() {
    let first = missing(&missing_since(None), "ours", false, started());
    assert_eq!((first.status.phase, closes(&first)), (Some(Phase::Running), vec![]));
    let (status, reason, message) = condition(&first, "Stalled");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "WorkflowNotFound"));
    assert!(message.contains("temporal:7233"), "{message}");
    assert_eq!(first.actions, [Action::QueryWorkflow], "it is told nothing");
    let since = first.status.workflow.unwrap().missing_since;
    assert_eq!(since, Some(Time(NOW.parse().unwrap())));

    let soon = missing(&missing_since(Some("2026-01-01T00:55:01Z")), "ours", false, started());
    assert_eq!((soon.status.phase, closes(&soon)), (Some(Phase::Running), vec![]));
    let long = missing_since(Some("2026-01-01T00:55:00Z"));
    assert_eq!(closes(&missing(&long, "ours", true, started())), [], "it doesn't answer now");
    assert_eq!(closes(&missing(&long, "ours", false, started())), [(1, "Cancelled".to_string())]);
    let end = missing(&long, "ours", false, ended("Cancelled", None, "Koco"));
    assert_eq!((end.status.phase, end.status.error.unwrap().kind.as_str()), (Some(Phase::Failed), "WorkflowClosed"));

    let found = decide(&long, &answering("Running", "1"));
    assert_eq!(found.status.workflow.unwrap().missing_since, None);
}

#[test]
fn another_server_ends_no_job() {
    for since in [None, Some("2026-01-01T00:00:00Z")] {
        let plan = missing(&missing_since(since), "theirs", false, started());
        assert_eq!((plan.status.phase, closes(&plan)), (Some(Phase::Running), vec![]));
        let workflow = plan.status.workflow.clone().unwrap();
        assert_eq!((workflow.namespace_id.as_deref(), workflow.missing_since), (Some("ours"), None));
        let (_, reason, message) = condition(&plan, "Stalled");
        assert_eq!(reason, "WorkflowNotFound");
        assert!(message.contains("theirs") && message.contains("temporal.address"), "{message}");
    }
    // A pause waits: the workflow would not receive it.
    let mut paused = missing_since(None);
    paused.spec.desired_state = DesiredState::Paused;
    assert_eq!(signals(&missing(&paused, "theirs", false, started())), []);
}

#[test]
fn a_recorded_success_needs_no_workflow() {
    for namespace in ["ours", "theirs"] {
        let plan = missing(&missing_since(None), namespace, false, ended("Succeeded", None, "Runner"));
        assert_eq!(plan.status.phase, Some(Phase::Succeeded));
    }
}

#[test]
fn the_namespaces_id_is_recorded_with_the_workflow() {
    let job = with_agent("Running", 1, ("Running", "1"));
    let mut state = answering("Running", "1");
    state.answer.as_mut().unwrap().namespace_id = Some("ours".into());
    assert_eq!(decide(&job, &state).status.workflow.unwrap().namespace_id.as_deref(), Some("ours"));
    let started = StartedWorkflow { namespace_id: Some("ours".into()), ..StartedWorkflow::default() };
    let state = ObservedState { started: Some(started), ..ObservedState::default() };
    assert_eq!(decide(&job, &state).status.workflow.unwrap().namespace_id.as_deref(), Some("ours"));
}

#[test]
fn a_workflow_that_was_restored_to_before_the_grant_is_told_of_its_runner() {
    let job = with_agent("Running", 1, ("Running", "1"));
    let ready = |told: Option<Told>| {
        let runs = vec![run(1, ended("Succeeded", None, "Kubelet"))];
        let mut state = ObservedState { runs, told, ..answering("Running", "1") };
        state.answer.as_mut().unwrap().status.as_mut().unwrap().status = Stage::Pending;
        decide(&job, &state).actions.contains(&Action::RunnerReady(1))
    };
    assert!(!ready(None), "the end comes first");
    assert!(ready(Some(Told { run: 1, times: 1, ago: Duration::from_secs(5) })));
}

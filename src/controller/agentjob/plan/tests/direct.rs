//! Direct mode.

use super::*;

fn created(plan: &Plan) -> Vec<(i32, i32, bool)> {
    let created = plan.actions.iter().filter_map(|a| match a {
        Action::CreateRun(new) => Some((new.number, new.attempt, new.resumed)),
        _ => None,
    });
    created.collect()
}

#[test]
fn the_intent_is_written_with_what_follows_from_it() {
    let (written, first) = next(&job(json!({}), Value::Null), &ObservedState::default());
    assert_eq!((first.status.active_run, created(&first)), (Some(1), vec![(1, 1, false)]));
    assert!(!first.actions.iter().any(Action::follows_from_spec), "nothing is created before the write");
    // A controller that was killed before the create does it from the status.
    let (_, second) = next(&written, &ObservedState::default());
    assert_eq!(created(&second), [(1, 1, false)]);
    assert_eq!(Some(second.status), written.status);
    // The run exists, its pod doesn't.
    let (_, third) = next(&written, &observed(&[run(1, granted())], &[]));
    assert!(matches!(&third.actions[..], [Action::CreatePod(run)] if run.number() == 1));
}

#[test]
fn nothing_is_written_twice() {
    let state = observed(&[run(1, started())], &[pod(1, AgentContainer::Running)]);
    let (settled, first) = next(&job(json!({}), active(1)), &state);
    assert_eq!(first.status.phase, Some(Phase::Running));
    let (again, plan) = next(&settled, &state);
    assert_eq!(again.status, settled.status);
    assert_eq!((plan.actions, plan.events), (vec![], vec![]));
}

#[test]
fn an_undisturbed_job_has_two_events() {
    let (pending, first) = next(&job(json!({}), Value::Null), &ObservedState::default());
    let (running, second) = next(&pending, &observed(&[run(1, started())], &[pod(1, AgentContainer::Running)]));
    let end = observed(&[run(1, ended("Succeeded", None, "Runner"))], &[pod(1, AgentContainer::Running)]);
    let (_, third) = next(&running, &end);
    let reasons = [first, second, third].map(|p| p.events.into_iter().map(|e| e.reason).collect::<Vec<_>>());
    assert_eq!(reasons.concat(), ["Started", "Succeeded"]);
}

#[test]
fn paused_only_when_the_runner_has_acknowledged_it() {
    let phase = |answer: Value| {
        let state = observed(&[run(1, commanded("Paused", 3, answer))], &[pod(1, AgentContainer::Running)]);
        decide(&job(json!({ "desiredState": "Paused" }), active(1)), &state).status.phase.unwrap()
    };
    assert_eq!(phase(answered("Running", 3)), Phase::Running);
    assert_eq!(phase(answered("Frozen", 2)), Phase::Running);
    assert_eq!(phase(answered("Frozen", 3)), Phase::Paused);
    assert_eq!(phase(answered("Waiting", 3)), Phase::Paused, "its agent has not started, and will not");
    let mut problem = answered("Frozen", 3);
    problem["problem"] = json!("no");
    assert_eq!(phase(problem), Phase::Running);
}

#[test]
fn a_command_is_given_before_the_write_and_only_if_it_differs() {
    let paused = job(json!({ "desiredState": "Paused" }), active(1));
    let pods = [pod(1, AgentContainer::Running)];
    let plan = decide(&paused, &observed(&[run(1, started())], &pods));
    assert!(matches!(&plan.actions[..], [Action::CommandRun { state: DesiredState::Paused, .. }]));
    assert!(plan.actions[0].follows_from_spec());
    let told = |state: &str, asked_by: i64| {
        let by = json!({ "spec": { "command": { "jobGeneration": asked_by } } });
        let told = run(1, merged(commanded(state, 1, answered("Frozen", 1)), by));
        decide(&paused, &observed(&[told], &pods)).actions
    };
    assert_eq!(told("Paused", 1), []);
    // A controller that knows of an older generation of the job than the command was written for changes nothing.
    assert_eq!(told("Running", 2), []);
    assert_eq!(told("Paused", 0).len(), 1, "between the two may have been a resume, which is not to come later");
}

#[test]
fn a_pause_before_the_first_run_starts_nothing() {
    let plan = decide(&job(json!({ "desiredState": "Paused" }), Value::Null), &ObservedState::default());
    assert_eq!((plan.status.phase, plan.status.active_run, plan.actions), (Some(Phase::Paused), None, vec![]));
}

#[test]
fn a_missing_pod_counts_only_when_the_api_server_says_so() {
    let running = job(json!({}), active(1));
    assert_eq!(closes(&decide(&running, &observed(&[run(1, started())], &[]))), []);
    let gone = ObservedState { pod_is_gone: true, ..observed(&[run(1, started())], &[]) };
    assert_eq!(closes(&decide(&running, &gone)), [(1, "Disrupted".to_string())]);
}

#[test]
fn the_first_to_say_how_a_run_ended_is_believed_before_anything_follows() {
    let killed = AgentContainer::Ended { exit_code: 137, reason: "OOMKilled".into(), message: None };
    let one = json!({ "retryPolicy": { "maximumAttempts": 1 } });
    let running = job(one, active(1));
    let first = decide(&running, &observed(&[run(1, started())], &[pod(1, killed.clone())]));
    assert_eq!((closes(&first), first.status.phase), (vec![(1, "OOMKilled".into())], Some(Phase::Running)));
    let said = run(1, ended("Failed", Some("AgentFailed"), "Runner"));
    let second = decide(&running, &observed(&[said], &[pod(1, killed)]));
    assert_eq!(second.status.error.unwrap().kind, "AgentFailed");
}

#[test]
fn it_obeys_the_retry_policy() {
    let after = |spec: Value, attempts: i32, over: Value| {
        let status = merged(active(1), json!({ "retry": { "attempts": attempts } }));
        let plan = decide(&job(spec, status), &observed(&[run(1, over)], &[]));
        (plan.status.phase.unwrap(), plan.status.active_run.unwrap())
    };
    let failed = || ended("Failed", Some("AgentFailed"), "Runner");
    assert_eq!(after(json!({}), 0, ended("Succeeded", None, "Runner")), (Phase::Succeeded, 1));
    assert_eq!(after(json!({}), 0, failed()), (Phase::Retrying, 2));
    assert_eq!(after(json!({}), 2, failed()), (Phase::Failed, 1), "the third of three");
    let not = json!({ "retryPolicy": { "nonRetryableErrorTypes": ["AgentFailed"] } });
    assert_eq!(after(not, 0, failed()), (Phase::Failed, 1));
    let disrupted = || ended("Failed", Some("Disrupted"), "Kubelet");
    assert_eq!(after(json!({ "disruptionPolicy": "FailJob" }), 0, disrupted()), (Phase::Failed, 1));
    assert_eq!(after(json!({ "disruptionPolicy": "Ignore" }), 2, disrupted()), (Phase::Retrying, 2));
    let cancelled = json!({ "desiredState": "Cancelled" });
    assert_eq!(after(cancelled.clone(), 0, ended("Cancelled", None, "Runner")), (Phase::Cancelled, 1));
    assert_eq!(after(cancelled, 0, ended("Succeeded", None, "Runner")), (Phase::Succeeded, 1), "it was faster");
}

#[test]
fn the_next_run_waits_for_back_off_pause_and_the_pod_before_it() {
    let status = |after: &str| {
        merged(
            active(2),
            json!({ "phase": "Retrying", "runnerPod": "a-1", "retry": { "attempts": 1, "failures": 1,
            "retryAfter": after } }),
        )
    };
    let before = [run(1, ended("Failed", Some("AgentFailed"), "Runner"))];
    let due = status("2026-01-01T00:59:59Z");
    assert_eq!(created(&decide(&job(json!({}), due.clone()), &observed(&before, &[]))), [(2, 2, false)]);
    let early = decide(&job(json!({}), status("2026-01-01T01:00:07Z")), &observed(&before, &[]));
    assert_eq!((created(&early), early.requeue), (vec![], Some(Duration::from_secs(7))));
    let held = decide(&job(json!({ "desiredState": "Paused" }), due.clone()), &observed(&before, &[]));
    assert_eq!((created(&held), held.status.phase), (vec![], Some(Phase::Paused)));
    let previous_pod = Some(pod(1, AgentContainer::Running));
    let blocked = ObservedState { previous_pod, ..observed(&before, &[]) };
    let waits = decide(&job(json!({}), due.clone()), &blocked);
    assert_eq!((created(&waits), waits.actions.contains(&delete(1))), (vec![], false), "it is about to end by itself");
    let orphaned = ObservedState { runs: vec![], ..blocked };
    let waits = decide(&job(json!({}), due), &orphaned);
    assert_eq!((created(&waits), waits.actions.contains(&delete(1))), (vec![], true));
}

#[test]
fn the_pending_clock_ends_with_a_start() {
    let pending = json!({ "phase": "Pending", "pendingSince": "2026-01-01T00:59:30Z" });
    let failed = run(1, ended("Failed", Some("AgentFailed"), "Runner"));
    let plan = decide(&job(json!({}), merged(active(1), pending)), &observed(&[failed], &[]));
    assert_eq!((plan.status.active_run, plan.status.pending_since), (Some(2), None));
}

#[test]
fn a_series_of_failed_starts_ends_with_the_pending_time() {
    let spec = json!({ "timeouts": { "pending": "60s" } });
    let failed = || ended("Failed", Some("NotStarted"), "Runner");
    let first = decide(&job(spec.clone(), active(1)), &observed(&[run(1, failed())], &[]));
    let (retry, since) = (first.status.retry.unwrap(), first.status.pending_since.unwrap());
    assert_eq!((retry.attempts, retry.start_failures, retry.retry_after.is_some()), (0, 1, true));
    assert_eq!(since.0.to_string(), "2026-01-01T01:00:00Z");
    // It started, this time; but that is over soon.
    let second = |since: &str, over: Value| {
        let status = json!({ "pendingSince": since, "runnerPod": "a-1", "retry": { "startFailures": 1 } });
        let pods = [PodView { uid: "p1".into(), ..pod(2, AgentContainer::Running) }];
        let plan = decide(&job(spec.clone(), merged(active(2), status)), &observed(&[run(2, over)], &pods));
        (plan.status.phase.unwrap(), plan.status.pending_since.map(|t| t.0.to_string()), plan.status.error)
    };
    let (old, new) = ("2026-01-01T00:58:00Z", "2026-01-01T00:59:30Z");
    assert_eq!(second(old, started()), (Phase::Running, Some(old.into()), None));
    assert_eq!(second(new, failed()).0, Phase::Pending);
    let (phase, _, error) = second(old, failed());
    assert_eq!((phase, error.unwrap().kind.as_str()), (Phase::Failed, "PendingTimeout"));
    assert_eq!(second(old, ended("Failed", Some("AgentFailed"), "Runner")).1, None, "it ran");
}

#[test]
fn nothing_starts_in_the_grace_period_of_a_pod_that_vanished() {
    let status = merged(active(2), json!({ "phase": "Retrying", "runnerPod": "a-1", "retry": { "attempts": 1 } }));
    let plan = |state: &str, ended_at: &str| {
        let over = json!({ "status": { "termination": { "podVanished": true, "time": ended_at } } });
        let before = run(1, merged(ended("Failed", Some("Disrupted"), "Kubelet"), over));
        let spec = json!({ "desiredState": state, "template": { "spec": { "terminationGracePeriodSeconds": 20 } } });
        let plan = decide(&job(spec, status.clone()), &observed(&[before], &[]));
        (created(&plan).len(), plan.status.phase.unwrap(), plan.requeue)
    };
    let (soon, late) = ("2026-01-01T00:59:50Z", "2026-01-01T00:59:30Z");
    assert_eq!(plan("Running", soon), (0, Phase::Retrying, Some(Duration::from_secs(15))));
    assert_eq!(plan("Running", late).0, 1);
    assert_eq!(plan("Paused", soon).1, Phase::Retrying, "its agent may be running");
    assert_eq!(plan("Paused", late).1, Phase::Paused);
}

#[test]
fn an_evicted_agent_goes_on_in_the_same_attempt() {
    let spec = |state: &str| json!({ "pausePolicy": "Evict", "desiredState": state });
    let mut over = ended("Evicted", None, "Runner");
    over["status"]["termination"]["activeMillis"] = json!(1500);
    let paused = decide(&job(spec("Paused"), active(1)), &observed(&[run(1, over)], &[]));
    assert_eq!((paused.status.phase, paused.status.active_run), (Some(Phase::Paused), Some(2)));
    let retry = paused.status.retry.clone().unwrap();
    assert_eq!((retry.resumed, retry.active_millis, retry.attempts), (true, 1500, 1));
    let mut resumed = job(spec("Running"), Value::Null);
    resumed.status = Some(paused.status);
    assert_eq!(created(&decide(&resumed, &ObservedState::default())), [(2, 1, true)]);
}

#[test]
fn a_cancel_closes_the_run_before_the_job_ends() {
    let cancelled = job(json!({ "desiredState": "Cancelled" }), merged(active(1), json!({ "phase": "Pending" })));
    let waiting = observed(&[run(1, granted())], &[pod(1, AgentContainer::Waiting)]);
    let first = decide(&cancelled, &waiting);
    assert_eq!((first.status.phase, closes(&first)), (Some(Phase::Cancelling), vec![(1, "Cancelled".into())]));
    // The pod gets time to end, and is deleted.
    let closed = || run(1, ended("Cancelled", None, "Koco"));
    let second = decide(&cancelled, &observed(&[closed()], &[pod(1, AgentContainer::Running)]));
    assert_eq!((second.status.phase, second.actions.clone()), (Some(Phase::Cancelling), vec![delete(1)]));
    let third = decide(&cancelled, &observed(&[closed()], &[]));
    assert_eq!(third.status.phase, Some(Phase::Cancelled));
    // One in the status that was never created is created closed.
    let fourth = decide(&cancelled, &ObservedState::default());
    assert_eq!(fourth.actions, [Action::CreateTombstone { number: 1, attempt: 1 }]);
    assert_eq!(fourth.status.phase, Some(Phase::Cancelling));
}

#[test]
fn a_run_deleted_by_hand_gets_a_tombstone_and_counts_as_a_deleted_pod() {
    let recorded = json!({ "runnerPod": "a-1", "runnerPodUID": "p1", "attempt": 1 });
    let running = job(json!({}), merged(active(1), recorded));
    let missing = ObservedState { active_is_missing: true, ..ObservedState::default() };
    assert_eq!(decide(&running, &missing).actions, [Action::CreateTombstone { number: 1, attempt: 1 }]);
    let tombstone = run(1, json!({ "spec": { "identity": { "tombstone": true } } }));
    let plan = decide(&running, &observed(&[tombstone], &[]));
    assert_eq!((plan.status.active_run, plan.status.error.unwrap().kind), (Some(2), "Disrupted".to_string()));
    assert_eq!(plan.status.retry.unwrap().attempts, 1, "it had started");
    assert_eq!(plan.status.runner_pod.as_deref(), Some("a-1"), "which has to end before the next");
    let never = job(json!({}), active(1));
    let tombstone = run(1, json!({ "spec": { "identity": { "tombstone": true } } }));
    assert_eq!(decide(&never, &observed(&[tombstone], &[])).status.retry.unwrap().attempts, 0);
}

#[test]
fn silence_is_a_verdict_only_after_twice_the_heartbeat_and_only_if_it_lasts() {
    let silent = |since: &str| {
        let over = merged(started(), json!({ "status": { "unresponsiveSince": since } }));
        decide(&job(json!({}), active(1)), &observed(&[run(1, over)], &[pod(1, AgentContainer::Running)]))
    };
    let early = silent("2026-01-01T00:58:00Z");
    assert_eq!((closes(&early), condition(&early, "Succeeded").1), (vec![], "RunnerUnresponsive".into()));
    let late = silent("2026-01-01T00:50:00Z");
    assert_eq!(closes(&late), [(1, "HeartbeatTimeout".to_string())]);
    assert!(late.actions.iter().any(|a| matches!(a, Action::CloseRun { guard: Guard::Unresponsive, .. })));
}

#[test]
fn a_lost_runners_node_is_read_first_and_its_loss_is_a_disruption() {
    let silent = merged(started(), json!({ "status": { "unresponsiveSince": "2026-01-01T00:50:00Z" } }));
    let killed = AgentContainer::Ended { exit_code: 137, reason: "Error".into(), message: None };
    for (over, agent, kind) in
        [(silent, AgentContainer::Running, "HeartbeatTimeout"), (started(), killed, "RunnerLost")]
    {
        let on = PodView { node: Some("n".into()), ..pod(1, agent) };
        let (running, mut state) = (job(json!({}), active(1)), observed(&[run(1, over)], &[on]));
        let plan = decide(&running, &state);
        assert_eq!((plan.node_to_read(&state), closes(&plan)), (Some("n"), vec![(1, kind.to_string())]));
        state.node = Some(NodeState::Ready);
        let plan = decide(&running, &state);
        assert_eq!((plan.node_to_read(&state), closes(&plan)), (None, vec![(1, kind.to_string())]));
        state.node = Some(NodeState::Lost("node n is gone".into()));
        assert_eq!(closes(&decide(&running, &state)), [(1, "Disrupted".to_string())]);
    }
    let fine = observed(&[run(1, started())], &[PodView { node: Some("n".into()), ..pod(1, AgentContainer::Running) }]);
    assert_eq!(decide(&job(json!({}), active(1)), &fine).node_to_read(&fine), None, "no node is read for its own sake");
}

#[test]
fn silence_of_many_is_no_evidence_but_the_loss_of_a_node_is() {
    let silent = json!({ "status": { "unresponsiveSince": "2026-01-01T00:50:00Z", "unresponsiveAmongMany": true } });
    let on = |node: Option<&str>| PodView { node: node.map(Into::into), ..pod(1, AgentContainer::Running) };
    let plan = |name: Option<&str>, node: Option<NodeState>| {
        let state = observed(&[run(1, merged(started(), silent.clone()))], &[on(name)]);
        let state = ObservedState { node, ..state };
        let plan = decide(&job(json!({}), active(1)), &state);
        (plan.node_to_read(&state).map(str::to_string), closes(&plan), plan.requeue)
    };
    assert_eq!(plan(Some("n"), None).0.as_deref(), Some("n"));
    let again = Some(Duration::from_secs(240));
    assert_eq!(plan(Some("n"), Some(NodeState::Ready)), (None, vec![], again));
    assert_eq!(plan(None, None), (None, vec![], again));
    let lost = NodeState::Lost("node n is gone".into());
    assert_eq!(plan(Some("n"), Some(lost)).1, [(1, "Disrupted".to_string())]);
}

#[test]
fn an_agent_that_its_runner_does_not_end_is_ended() {
    let limited = |mode: &str, limit: &str| {
        let spec = json!({ "executionMode": mode, "timeouts": { "execution": limit },
            "template": { "spec": { "terminationGracePeriodSeconds": 20 } } });
        let workflow = json!({ "workflow": { "id": "w", "runID": "r", "namespace": "t" } });
        let mut job = job(spec, merged(active(1), workflow));
        job.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
        job
    };
    for mode in ["Direct", "Temporal"] {
        let mut over = merged(started(), json!({ "spec": { "identity": { "executionMode": mode } } }));
        let plan = |over: &Value, limit: &str| {
            let plan =
                decide(&limited(mode, limit), &observed(&[run(1, over.clone())], &[pod(1, AgentContainer::Running)]));
            (closes(&plan), plan.requeue)
        };
        // Ready for 40 s.
        assert_eq!(plan(&over, "60s"), (vec![], Some(Duration::from_secs(60 + 20 + 960 - 40))), "{mode}");
        over["spec"]["grant"]["time"] = json!("2026-01-01T00:30:00Z");
        over["status"]["readyTime"] = json!("2026-01-01T00:30:00Z");
        assert_eq!(plan(&over, "60s").0, [(1, "ExecutionTimeout".to_string())], "{mode}");
        assert_eq!(plan(&over, "40m").0, [], "{mode}");
        over["status"]["pausedSince"] = json!("2026-01-01T00:30:30Z");
        assert_eq!(plan(&over, "60s"), (vec![], None), "{mode}: paused");
    }
}

#[test]
fn a_pod_that_does_not_come_up_says_why_and_has_its_time() {
    let mut waiting = pod(1, AgentContainer::Waiting);
    waiting.waiting_reason = Some(("ErrImagePull".into(), "no such image".into()));
    let state = observed(&[run(1, granted())], &[waiting]);
    let pending = merged(active(1), json!({ "phase": "Pending" }));
    let short = decide(&job(json!({ "timeouts": { "pending": "30s" } }), pending.clone()), &state);
    assert_eq!(closes(&short), [(1, "PendingTimeout".to_string())]);
    assert!(short.actions.iter().any(|a| matches!(a, Action::CloseRun { guard: Guard::NotReady, .. })));
    let long = decide(&job(json!({}), pending.clone()), &state);
    let (status, reason, message) = condition(&long, "Stalled");
    assert_eq!((status.as_str(), reason.as_str(), message.as_str()), ("True", "ErrImagePull", "no such image"));
    assert_eq!(long.requeue, Some(Duration::from_secs(540)));
    let mut closed = granted();
    closed["status"] = json!({ "termination": { "type": "Failed", "source": "Koco", "time": NOW, "started": false,
        "error": { "type": "PendingTimeout", "message": "m" } } });
    let over = decide(&job(json!({}), pending), &observed(&[run(1, closed)], &[]));
    assert_eq!((over.status.phase, over.status.error.unwrap().kind), (Some(Phase::Failed), "PendingTimeout".into()));
}

#[test]
fn a_gate_stops_the_clock() {
    let gated = PodView { gated: true, ..pod(1, AgentContainer::Waiting) };
    let job = job(json!({ "timeouts": { "pending": "1s" } }), merged(active(1), json!({ "phase": "Pending" })));
    let plan = decide(&job, &observed(&[run(1, granted())], &[gated]));
    assert_eq!((plan.status.phase, plan.requeue, plan.status.pending_since), (Some(Phase::Pending), None, None));
}

#[test]
fn a_foreign_pod_is_not_believed() {
    let lies = AgentContainer::Ended { exit_code: 0, reason: "Completed".into(), message: None };
    let running = job(json!({}), active(1));
    for change in [
        |p: &mut PodView| p.run_uid = Some("another".into()),
        |p: &mut PodView| p.name = "b".into(),
        |p: &mut PodView| p.uid = "another".into(),
    ] {
        let mut foreign = pod(1, lies.clone());
        change(&mut foreign);
        let plan = decide(&running, &observed(&[run(1, started())], &[foreign]));
        assert_eq!((closes(&plan), plan.status.phase), (vec![], Some(Phase::Running)));
    }
}

#[test]
fn a_pod_that_never_ends_is_told() {
    let status = merged(active(2), json!({ "phase": "Retrying", "attempt": 1, "retry": { "attempts": 1 } }));
    let plan = |deadline: &str| {
        let deletion_deadline = Some(Time(deadline.parse().unwrap()));
        let previous_pod = Some(PodView { deletion_deadline, ..pod(1, AgentContainer::Running) });
        let before = [run(1, ended("Failed", Some("Disrupted"), "Kubelet"))];
        decide(&job(json!({}), status.clone()), &ObservedState { previous_pod, ..observed(&before, &[]) })
    };
    assert_eq!(condition(&plan("2026-01-01T01:00:20Z"), "Stalled").1, "Moving");
    let late = condition(&plan("2026-01-01T00:50:00Z"), "Stalled");
    assert_eq!(late.1, "PodNotEnding");
    assert!(late.2.contains("pod a-1 was to end by 2026-01-01T00:50:00Z"), "{}", late.2);
}

#[test]
fn a_pod_that_never_ends_is_told_for_as_long_as_it_is_there() {
    let overdue = Some(Time("2026-01-01T00:50:00Z".parse().unwrap()));
    let terminating = PodView { deletion_deadline: overdue, ..pod(1, AgentContainer::Running) };
    let failed = || ended("Failed", Some("Disrupted"), "Koco");
    let reason = |phase: &str, over: Value, pods: &[PodView]| {
        let status = json!({ "activeRun": 1, "phase": phase, "attempt": 1 });
        condition(&decide(&job(json!({}), status), &observed(&[run(1, over)], pods)), "Stalled").1
    };
    for (phase, over) in [("Running", started()), ("Failed", failed()), ("Cancelled", failed())] {
        assert_eq!(reason(phase, over.clone(), std::slice::from_ref(&terminating)), "PodNotEnding", "{phase}");
        let ended = AgentContainer::Ended { exit_code: 0, reason: "Completed".into(), message: None };
        let after = if phase == "Failed" { "Failed" } else { "Moving" };
        assert_eq!(reason(phase, over, &[PodView { agent: ended, ..terminating.clone() }]), after, "{phase}");
    }
}

#[test]
fn conditions_say_what_is_not_confirmed_yet() {
    let plan = |over: Value| {
        decide(&job(json!({}), active(1)), &observed(&[run(1, over)], &[pod(1, AgentContainer::Running)]))
    };
    let resuming = plan(commanded("Running", 2, answered("Frozen", 1)));
    assert_eq!(condition(&resuming, "Paused").1, "Resuming");
    assert_eq!(condition(&resuming, "Succeeded").1, "Running");
    assert_eq!(condition(&plan(commanded("Running", 2, answered("Running", 2))), "Paused").1, "NotPaused");
}

#[test]
fn no_run_is_created_while_the_one_before_is_open() {
    let job = job(json!({}), json!({ "activeRun": 2, "phase": "Retrying", "retry": { "attempts": 1, "failures": 1 } }));
    let plan = decide(&job, &observed(&[run(1, started())], &[]));
    assert_eq!((created(&plan), closes(&plan)), (vec![], vec![(1, "Superseded".to_string())]));
    let plan = decide(&job, &observed(&[run(1, ended("Failed", Some("AgentFailed"), "Runner"))], &[]));
    assert_eq!(created(&plan), [(2, 2, false)]);
}

#[test]
fn a_run_and_its_pod_are_made_only_for_a_job_that_still_wants_them() {
    let planned = job(json!({}), json!({ "activeRun": 2, "phase": "Pending" }));
    let wants = |change: Value| {
        let now = merged(serde_json::to_value(&planned).unwrap(), change);
        still_wants(&serde_json::from_value(now).unwrap(), &planned, 2)
    };
    for same in [json!({}), json!({ "status": null }), json!({ "status": { "activeRun": 1, "runnerPodUID": "p1" } })] {
        assert!(wants(same.clone()), "{same}");
    }
    for other in [
        json!({ "metadata": { "deletionTimestamp": NOW } }),
        json!({ "metadata": { "generation": 2 } }),
        json!({ "spec": { "desiredState": "Cancelled" } }),
        json!({ "status": { "phase": "Failed" } }),
        json!({ "status": { "activeRun": 3 } }),
        json!({ "status": { "runnerPodUID": "p2" } }),
    ] {
        assert!(!wants(other.clone()), "{other}");
    }
}

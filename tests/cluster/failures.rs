//! Failures are failures: each with its own error type, in status and in Temporal's history, and the retry policy
//! decides.

use std::time::{Duration, Instant};

use futures::future::join_all;
use koco::api::{AgentRun, TerminationType};
use kube::api::DeleteParams;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, DesiredState, ExecutionMode, Job, MODES, Phase, Test, agent,
    agent_log::{starts, ticks},
    audit,
    job::{With, error_type, pod_name, pod_uid, result, runs, started},
    node, temporal, within,
};

fn attempts(n: i32) -> Value {
    json!({ "retryPolicy": { "maximumAttempts": n, "initialInterval": "1s", "backoffCoefficient": 2 } })
}

/// Starts of agents in all pods that are still there.
async fn all_starts(job: &Job<'_>) -> usize {
    let logs = join_all(job.pods().await.iter().map(|p| async move { job.log_of(&pod_name(p)).await })).await;
    logs.iter().flatten().map(|log| starts(log)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_fail_has_its_error_type() {
    let (test, _roles) = Test::with_operator().await;
    let limit = json!({ "template": { "spec": { "containers": [{
        "name": "agent", "image": "localhost/koco-test-agent:dev", "command": ["/test-agent"],
        "resources": { "limits": { "memory": "64Mi" } },
    }] } } });
    let ways = [
        ("exit?code=7", "AgentFailed", Some(7)),
        ("signal?name=SEGV", "AgentKilled", None),
        ("oom", "OOMKilled", None),
        ("error-file?type=QuotaExceeded&message=no-more", "QuotaExceeded", Some(1)),
        ("bad-result", "InvalidResult", Some(0)),
    ];
    let mut jobs = Vec::new();
    for mode in MODES {
        for (entry_point, kind, code) in ways {
            let spec = agent(entry_point).mode(mode).with(attempts(1));
            let spec = if entry_point == "oom" { spec.with(limit.clone()) } else { spec };
            jobs.push((mode, entry_point, kind, code, test.apply(spec).await));
        }
    }
    for (mode, entry_point, kind, code, job) in &jobs {
        let status = job.phase(Phase::Failed).await;
        let error = status.error.clone().expect("an error");
        assert_eq!(error.kind, *kind, "{entry_point} in {mode:?}: {error:?}");
        assert!(!error.message.is_empty());
        assert_eq!(status.attempt, Some(1));
        let end = job.termination().await.expect("a termination");
        assert_eq!((end.kind, end.error.as_ref().map(|e| e.kind.as_str())), (TerminationType::Failed, Some(*kind)));
        if code.is_some() {
            assert_eq!(end.exit_code, *code, "{entry_point}: {end:?}");
        }
        assert_eq!(status.result, None, "a failure has no result");
        if *mode == ExecutionMode::Temporal {
            assert_eq!(temporal::failures(&job.history().await), [*kind], "{entry_point}");
            let workflow = status.workflow.expect("a workflow");
            assert_eq!(temporal::state(&job.temporal, &workflow.id), "FAILED");
            assert_eq!(workflow.error.map(|e| e.kind).as_deref(), Some(*kind), "get_error");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fails_twice_then_succeeds_with_the_intervals_asked_for() {
    let (test, _roles) = Test::with_operator().await;
    for (i, mode) in MODES.into_iter().enumerate() {
        let job = test.apply(agent("fail-until?attempt=3").mode(mode).with(attempts(5))).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!(status.attempt, Some(3), "{mode:?}");
        assert_eq!(result(&status), json!({ "attempt": 3 }), "KODO_ATTEMPT, as the agent saw it");
        assert_eq!(status.error, None, "{mode:?}");
        assert_eq!(audit::created(&test.namespace).len(), 3 * (i + 1));
        assert_eq!(job.pods().await.len(), 3, "ended pods stay for their logs");
        let runs = job.runs().await;
        let kinds: Vec<_> = runs.iter().filter_map(AgentRun::termination).map(|t| t.kind).collect();
        assert_eq!(kinds, [TerminationType::Failed, TerminationType::Failed, TerminationType::Succeeded], "{mode:?}");
        assert_eq!(runs.iter().map(|r| r.spec.identity.attempt).collect::<Vec<_>>(), [1, 2, 3]);
        for (i, seconds) in [1, 2].into_iter().enumerate() {
            let failed = runs[i].termination().expect("a termination").time.0;
            let next = runs[i + 1].metadata.creation_timestamp.as_ref().expect("a time").0;
            // Whole seconds, both of them.
            assert!(next.as_second() - failed.as_second() >= seconds, "{mode:?}: wait {i}, from {failed} to {next}");
        }
        if mode == ExecutionMode::Temporal {
            intervals_in_temporals_history(&job).await;
        }
    }
}

async fn intervals_in_temporals_history(job: &Job<'_>) {
    let events = job.history().await;
    assert_eq!(temporal::failures(&events), ["AgentFailed", "AgentFailed"]);
    let time =
        |e: &Value| e["eventTime"].as_str().expect("a time").parse::<k8s_openapi::jiff::Timestamp>().expect("a time");
    let failed: Vec<_> =
        events.iter().filter(|e| !e["activityTaskFailedEventAttributes"].is_null()).map(time).collect();
    let starting =
        events.iter().filter(|e| e["activityTaskScheduledEventAttributes"]["activityType"]["name"] == "start_runner");
    // The first start is a local activity, which has this one after it where the machine is slow.
    let starting: Vec<_> = starting.map(time).filter(|at| *at > failed[0]).collect();
    assert_eq!(starting.len(), 2, "{starting:?}");
    for (i, seconds) in [1, 2].into_iter().enumerate() {
        let waited = starting[i].duration_since(failed[i]);
        assert!(waited.as_secs_f64() >= f64::from(seconds), "wait {i}: {waited:?}, not {seconds} s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retry_policy_decides() {
    let (test, _roles) = Test::with_operator().await;
    let spec = |entry: &str, patch: Value| agent(entry).with(attempts(2)).with(patch);
    let cases = [
        // maximumAttempts are used up
        (spec("exit?code=1", json!({})), "AgentFailed", 2),
        // the agent's own error file
        (spec("error-file?type=Broken&nonRetryable=true", json!({})), "Broken", 1),
        // the retry policy
        (
            spec("error-file?type=Broken", json!({ "retryPolicy": { "nonRetryableErrorTypes": ["Broken"] } })),
            "Broken",
            1,
        ),
        (spec("error-file?type=Other", json!({ "retryPolicy": { "nonRetryableErrorTypes": ["Broken"] } })), "Other", 2),
        (
            spec("exit?code=1", json!({ "retryPolicy": { "nonRetryableErrorTypes": ["AgentFailed"] } })),
            "AgentFailed",
            1,
        ),
    ];
    let mut jobs = Vec::new();
    for mode in MODES {
        for (spec, kind, attempts) in &cases {
            let spec = spec.clone().mode(mode);
            jobs.push((test.apply(spec.clone()).await, spec, *kind, *attempts));
        }
    }
    for (job, spec, kind, attempts) in jobs {
        let status = job.phase(Phase::Failed).await;
        assert_eq!((error_type(&status), status.attempt), (kind, Some(attempts)), "{spec}");
        assert_eq!(job.pods().await.len() as i32, attempts, "pods of {spec}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_by_hand_is_what_the_disruption_policy_says() {
    let (test, _roles) = Test::with_operator().await;
    // The policy, how many attempts there are, and the job's end.
    let cases = [
        ("Count", 2, Phase::Succeeded, Some(2)),
        ("Count", 1, Phase::Failed, Some(1)),
        ("Ignore", 1, Phase::Succeeded, None),
        ("FailJob", 5, Phase::Failed, Some(1)),
    ];
    let mut jobs = Vec::new();
    for mode in MODES {
        for case in cases {
            let spec = agent("count?every_ms=50&until=go").mode(mode).with(attempts(case.1)).heartbeat("10m");
            jobs.push((mode, case, test.apply(spec.with(json!({ "disruptionPolicy": case.0 }))).await));
        }
    }
    let began = Instant::now();
    join_all(jobs.iter().map(async |(_, _, job)| {
        let pod = pod_name(&job.running_pod().await);
        job.until_log("a tick", |log| ticks(log).first().copied()).await;
        job.delete_pod(&pod, &DeleteParams::default()).await;
    }))
    .await;
    for (mode, (policy, most, phase, attempt), job) in &jobs {
        if *phase == Phase::Succeeded {
            job.until_run("the second pod's agent", |r| r.number() == 2 && started(r)).await;
            node::let_go(job).await;
        }
        let status = job.phase(*phase).await;
        if *phase == Phase::Failed {
            assert_eq!(error_type(&status), "Disrupted", "{policy} in {mode:?}: {:?}", status.error);
        } else {
            assert_eq!(job.run_number().await, 2, "{policy} in {mode:?}");
        }
        if attempt.is_some() {
            assert_eq!(status.attempt, *attempt, "{policy} of {most} in {mode:?}");
        }
        if *mode == ExecutionMode::Temporal {
            assert_eq!(temporal::failures(&job.history().await), ["Disrupted"], "{policy}");
        }
    }
    assert!(began.elapsed() < Duration::from_secs(550), "not by the heartbeat time-out: {:?}", began.elapsed());
}

/// Never a success; detected by the container's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_runner_is_seen_by_its_containers_end() {
    let (test, _roles) = Test::with_operator().await;
    let spec = agent("count").heartbeat("10m").with(attempts(1));
    for mode in MODES {
        let job = test.apply(spec.clone().mode(mode)).await;
        let pod = job.running_pod().await;
        job.counts().await;
        node::signal(node::runner(&pod_uid(&pod)).await, Signal::SIGKILL);
        let ended = within(DEADLINE, "the container to end", async || {
            let pod = test.pods().get(&pod_name(&pod)).await.expect("the pod");
            if runs(&pod) { Err(()) } else { Ok(Instant::now()) }
        })
        .await;
        let status = job.phase(Phase::Failed).await;
        assert!(ended.elapsed() < Duration::from_secs(60), "{mode:?}: {:?} after the API server knew", ended.elapsed());
        assert_eq!(error_type(&status), "RunnerLost", "{:?}", status.error);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_runner_times_out_and_is_retried_without_overlap() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let spec = agent("count?every_ms=20").mode(mode).heartbeat("5s").grace(2);
        let job = test.apply(spec.with(attempts(2))).await;
        let pod = job.running_pod().await;
        job.counts().await;
        let first = job.follow(&pod_name(&pod));
        node::signal(node::runner(&pod_uid(&pod)).await, Signal::SIGSTOP);
        job.until_run("the second attempt", |r| r.spec.identity.attempt == 2 && started(r)).await;
        let second = job.counts_on(5).await;
        let runs = job.runs().await;
        let said = runs[0].termination().and_then(|t| t.error.as_ref()).map(|e| e.kind.as_str());
        assert_eq!(said, Some("HeartbeatTimeout"), "{mode:?}");
        if mode == ExecutionMode::Temporal {
            assert_eq!(temporal::failures(&job.history().await), ["HeartbeatTimeout"]);
        }
        let first = ticks(&first.all().await);
        assert_eq!(all_starts(&job).await, 1, "the second agent; the first's pod is gone");
        let (last, next) = (first.last().expect("ticks"), second.first().expect("ticks"));
        assert!(last.at < next.at, "the agents overlapped in {mode:?}: {last:?} {next:?}");
        job.want(DesiredState::Cancelled).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_direct_runner_fails() {
    let (test, _roles) = Test::with_operator().await;
    let spec = agent("count").mode(ExecutionMode::Direct).heartbeat("5s").grace(2).with(attempts(1));
    let job = test.apply(spec).await;
    let pod = job.running_pod().await;
    node::signal(node::runner(&pod_uid(&pod)).await, Signal::SIGSTOP);
    let status = job.phase(Phase::Failed).await;
    assert_eq!(error_type(&status), "HeartbeatTimeout");
    job.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_has_its_limit() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let spec = agent("count").mode(mode).with(attempts(1)).with(json!({ "timeouts": { "execution": "10s" } }));
        let job = test.apply(spec).await;
        let status = job.phase(Phase::Failed).await;
        assert_eq!(error_type(&status), "ExecutionTimeout");
        let ticks = ticks(&job.log().await);
        let ran = ticks.last().expect("ticks").at - ticks[0].at;
        assert!((5_000..60_000).contains(&ran), "the agent ran {ran} ms");
    }
}

/// A drain, by the eviction API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_pod_counts_as_an_attempt_and_is_retried_by_one_authority() {
    let (test, _roles) = Test::with_operator().await;
    for (i, mode) in MODES.into_iter().enumerate() {
        let job = test.apply(agent("count").mode(mode).heartbeat("10m").with(attempts(3))).await;
        for attempt in 1..=3 {
            let running = format!("attempt {attempt}");
            let run = job.until_run(&running, |r| r.spec.identity.attempt == attempt && started(r)).await;
            job.counts_on(1).await;
            test.pods().evict(&run.spec.identity.pod_name, &Default::default()).await.expect("evict");
            let ended = format!("the end of attempt {attempt}");
            job.until_run(&ended, |r| r.number() > attempt || r.is_closed()).await;
        }
        let status = job.phase(Phase::Failed).await;
        assert_eq!((error_type(&status), status.attempt), ("Disrupted", Some(3)), "{mode:?}");
        if mode == ExecutionMode::Temporal {
            assert_eq!(temporal::failures(&job.history().await), ["Disrupted"; 3]);
        }
        assert_eq!(audit::created(&test.namespace).len(), 3 * (i + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_outlives_its_pod() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("count?every_ms=20&until=60").mode(mode)).await;
        let pod = pod_name(&job.running_pod().await);
        job.until_run("its termination on record", AgentRun::is_closed).await;
        // Gone already is as good.
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let _ = test.pods().delete(&pod, &now).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!(result(&status)["count"], json!(60), "in {mode:?}");
        assert_eq!(status.attempt, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_lives_on_does_not_hold_up_the_end() {
    let (test, _roles) = Test::with_operator().await;
    let sidecar = json!({ "template": { "spec": { "terminationGracePeriodSeconds": 2, "containers": [
        { "name": "agent", "image": "localhost/koco-test-agent:dev", "command": ["/test-agent"] },
        { "name": "mesh", "image": "localhost/busybox:dev", "command": ["sleep", "600"] },
    ] } } });
    let cases = [("succeed", Phase::Succeeded), ("exit?code=3", Phase::Failed)];
    for mode in MODES {
        for (entry_point, phase) in cases {
            let job = test.apply(agent(entry_point).mode(mode).with(attempts(1)).with(sidecar.clone())).await;
            job.phase(phase).await;
            job.nothing_runs().await;
        }
    }
}

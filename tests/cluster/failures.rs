//! Failures are failures: each with its own error type, in status and in Temporal's history, and the retry policy decides.

use std::time::{Duration, Instant};

use futures::future::join_all;
use koco::api::OutcomeKind;
use kube::api::DeleteParams;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    ExecutionMode, Job, MODES, Phase, Test, agent, audit,
    evidence::{starts, ticks},
    job::{With, error_type, pod_name, pod_uid, runs, started},
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
        let outcome = status.outcome.clone().expect("an outcome");
        assert_eq!(outcome.kind, OutcomeKind::Failed);
        if code.is_some() {
            assert_eq!(outcome.exit_code, *code, "{entry_point}: {outcome:?}");
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
    let job = test.apply(agent("fail-until?attempt=3").mode(ExecutionMode::Temporal).with(attempts(5))).await;
    let status = job.phase(Phase::Succeeded).await;
    assert_eq!(status.attempt, Some(3));
    assert_eq!(status.result, Some(json!({ "attempt": 3 })), "KODO_ATTEMPT, as the agent saw it");
    assert_eq!(status.error, None);
    assert_eq!(audit::created(&test.namespace).len(), 3);
    assert_eq!(job.pods().await.len(), 3, "ended pods stay for their logs");

    let events = job.history().await;
    assert_eq!(temporal::failures(&events), ["AgentFailed", "AgentFailed"]);
    let time =
        |e: &Value| e["eventTime"].as_str().expect("a time").parse::<k8s_openapi::jiff::Timestamp>().expect("a time");
    let failed: Vec<_> =
        events.iter().filter(|e| !e["activityTaskFailedEventAttributes"].is_null()).map(time).collect();
    let starting =
        events.iter().filter(|e| e["activityTaskScheduledEventAttributes"]["activityType"]["name"] == "start_runner");
    let starting: Vec<_> = starting.map(time).collect();
    for (i, seconds) in [1, 2].into_iter().enumerate() {
        let waited = starting[i + 1].duration_since(failed[i]);
        assert!(waited.as_secs_f64() >= f64::from(seconds), "wait {i}: {waited:?}, not {seconds} s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retry_policy_decides() {
    let (test, _roles) = Test::with_operator().await;
    let temporal = |entry: &str, patch: Value| agent(entry).mode(ExecutionMode::Temporal).with(attempts(2)).with(patch);
    let cases = [
        // maximumAttempts are used up
        (temporal("exit?code=1", json!({})), "AgentFailed", 2),
        // the agent says so itself
        (temporal("error-file?type=Broken&nonRetryable=true", json!({})), "Broken", 1),
        // the policy says so
        (
            temporal("error-file?type=Broken", json!({ "retryPolicy": { "nonRetryableErrorTypes": ["Broken"] } })),
            "Broken",
            1,
        ),
        (
            temporal("error-file?type=Other", json!({ "retryPolicy": { "nonRetryableErrorTypes": ["Broken"] } })),
            "Other",
            2,
        ),
        (
            temporal("exit?code=1", json!({ "retryPolicy": { "nonRetryableErrorTypes": ["AgentFailed"] } })),
            "AgentFailed",
            1,
        ),
        // Direct jobs have one attempt
        (agent("exit?code=1").mode(ExecutionMode::Direct).with(attempts(3)), "AgentFailed", 1),
    ];
    let mut jobs = Vec::new();
    for (spec, kind, attempts) in cases {
        jobs.push((test.apply(spec.clone()).await, spec, kind, attempts));
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
    let spec = |policy: &str, max: i32| {
        let spec =
            agent("count?every_ms=50&until=200").mode(ExecutionMode::Temporal).with(attempts(max)).heartbeat("10m");
        spec.with(json!({ "disruptionPolicy": policy }))
    };
    let count = test.apply(spec("Count", 2)).await;
    let exhausted = test.apply(spec("Count", 1)).await;
    let ignore = test.apply(spec("Ignore", 1)).await;
    let fail = test.apply(spec("FailJob", 5)).await;
    let direct = test.apply(spec("Count", 1).mode(ExecutionMode::Direct)).await;
    let direct_ignore = test.apply(spec("Ignore", 1).mode(ExecutionMode::Direct)).await;
    let began = Instant::now();
    // As soon as each runs: they end by themselves.
    let jobs = [&count, &exhausted, &ignore, &fail, &direct, &direct_ignore];
    join_all(jobs.map(async |job| {
        let pod = pod_name(&job.running_pod().await);
        job.until_log("a tick", |log| ticks(log).first().copied()).await;
        job.delete_pod(&pod, &DeleteParams::default()).await;
    }))
    .await;
    for job in [&exhausted, &fail, &direct] {
        let status = job.phase(Phase::Failed).await;
        assert_eq!((error_type(&status), status.attempt), ("Disrupted", Some(1)), "{:?}", status.error);
    }
    assert!(began.elapsed() < Duration::from_secs(120), "not by the heartbeat time-out: {:?}", began.elapsed());
    let status = count.phase(Phase::Succeeded).await;
    assert_eq!(status.attempt, Some(2));
    assert_eq!(temporal::failures(&count.history().await), ["Disrupted"]);
    for job in [&ignore, &direct_ignore] {
        job.phase(Phase::Succeeded).await;
    }
}

/// Never a success, and known by the container's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_runner_is_seen_by_its_containers_end() {
    let (test, _roles) = Test::with_operator().await;
    let spec = agent("count").heartbeat("10m").with(attempts(1));
    for mode in MODES {
        let job = test.apply(spec.clone().mode(mode)).await;
        let pod = job.running_pod().await;
        job.counts().await;
        node::signal(node::runner(&pod_uid(&pod)).await, Signal::SIGKILL);
        let ended = within(Duration::from_secs(60), "the container to end", async || {
            let pod = test.pods().get(&pod_name(&pod)).await.expect("the pod");
            if runs(&pod) { Err(()) } else { Ok(Instant::now()) }
        })
        .await;
        let status = job.phase(Phase::Failed).await;
        assert!(ended.elapsed() < Duration::from_secs(5), "{mode:?}: {:?} after the API server knew", ended.elapsed());
        assert_eq!(error_type(&status), "RunnerLost", "{:?}", status.error);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_runner_times_out_and_is_retried_without_overlap() {
    let (test, _roles) = Test::with_operator().await;
    let spec = agent("count?every_ms=20").mode(ExecutionMode::Temporal).heartbeat("2s").grace(2);
    let job = test.apply(spec.with(attempts(2))).await;
    let pod = job.running_pod().await;
    job.counts().await;
    let first = job.follow(&pod_name(&pod));
    node::signal(node::runner(&pod_uid(&pod)).await, Signal::SIGSTOP);
    job.until("the second attempt", |s| s.attempt == Some(2) && started(s)).await;
    let second = job.counts_on(5).await;
    assert_eq!(temporal::failures(&job.history().await), ["HeartbeatTimeout"]);
    let first = ticks(&first.all().await);
    assert_eq!(all_starts(&job).await, 1, "the second agent; the first's pod is gone");
    let (last, next) = (first.last().expect("ticks"), second.first().expect("ticks"));
    assert!(last.at < next.at, "the agents overlapped: {last:?} {next:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_direct_runner_fails() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("count").mode(ExecutionMode::Direct).heartbeat("2s").grace(2)).await;
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
        let spec = agent("count").mode(mode).with(attempts(1)).with(json!({ "timeouts": { "execution": "2s" } }));
        let job = test.apply(spec).await;
        let status = job.phase(Phase::Failed).await;
        assert_eq!(error_type(&status), "ExecutionTimeout");
        let ticks = ticks(&job.log().await);
        let ran = ticks.last().expect("ticks").at - ticks[0].at;
        assert!((1_500..8_000).contains(&ran), "the agent ran {ran} ms");
    }
}

/// A drain, by the eviction API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_pod_counts_as_an_attempt_and_is_retried_by_one_authority() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("count").mode(ExecutionMode::Temporal).heartbeat("10m").with(attempts(3))).await;
    for attempt in 1..=3 {
        let running = format!("attempt {attempt}");
        job.until(&running, |s| s.attempt == Some(attempt) && started(s)).await;
        let pod = pod_name(&job.running_pod().await);
        job.counts_on(1).await;
        test.pods().evict(&pod, &Default::default()).await.expect("evict");
        let ended = format!("the end of attempt {attempt}");
        job.until(&ended, |s| s.phase == Some(Phase::Failed) || s.claim.as_ref().is_some_and(|c| c.epoch > attempt))
            .await;
    }
    let status = job.phase(Phase::Failed).await;
    assert_eq!((error_type(&status), status.attempt), ("Disrupted", Some(3)));
    assert_eq!(temporal::failures(&job.history().await), ["Disrupted"; 3]);
    assert_eq!(audit::created(&test.namespace).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_outlives_its_pod() {
    let (test, _roles) = Test::with_operator().await;
    for mode in MODES {
        let job = test.apply(agent("count?every_ms=20&until=60").mode(mode)).await;
        let pod = pod_name(&job.running_pod().await);
        job.until("an outcome", |s| s.outcome.is_some()).await;
        // Gone already is as good.
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let _ = test.pods().delete(&pod, &now).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!(status.result.expect("a result")["count"], json!(60), "in {mode:?}");
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

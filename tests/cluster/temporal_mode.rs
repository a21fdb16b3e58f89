//! The main path: from apply to result.

use koco::api::{Seconds, conditions, fid, names};
use serde_json::{Value, json};

use crate::harness::{
    ExecutionMode, Phase, Roles, Server, Test, agent,
    agent_log::starts,
    cluster::kubectl,
    job::{With, condition, pod_name, result},
    temporal,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_apply_to_result() {
    let (test, _roles) = Test::with_operator().await;
    let (inputs, extra) =
        (json!({ "topic": "octopuses", "n": [1, { "deep": null }] }), json!({ "labels": ["a", "b"] }));
    let spec = agent("succeed").mode(ExecutionMode::Temporal).with(json!({ "extra": extra }));
    // A merge patch would drop the null.
    let mut spec = spec;
    spec["inputs"] = inputs.clone();
    let job = test.apply(spec).await;
    let status = job.phase(Phase::Succeeded).await;

    let object = job.get().await;
    let created = object.metadata.creation_timestamp.expect("a creation time").0.as_second();
    let expected = fid(created, &job.uid);
    let result = result(&status);
    assert_eq!(status.fid.as_deref(), Some(expected.as_str()));
    assert_eq!(result["fid"], json!(expected), "KODO_FID, as the agent saw it");
    assert_eq!(result["attempt"], json!(1));
    assert_eq!(result["inputs"], inputs);
    assert_eq!(result["extra"], extra);
    assert_eq!(result["resumed"], json!(null), "KODO_RESUMED is for resumed agents only");

    assert_eq!(status.attempt, Some(1));
    assert_eq!(status.observed_generation, object.metadata.generation);
    let pods = job.pods().await;
    assert_eq!(pods.len(), 1);
    assert_eq!(status.runner_pod, Some(pod_name(&pods[0])));
    let resolved = status.resolved.clone().expect("what was resolved");
    assert_eq!(resolved.execution_mode, ExecutionMode::Temporal);
    assert_eq!(resolved.timeouts.heartbeat.to_string().parse::<Seconds>().expect("a duration").get().as_secs(), 120);
    let (start, end) = (status.start_time.clone().expect("a start"), status.completion_time.clone().expect("an end"));
    assert!(start.0 <= end.0 && start.0.as_second() >= created, "{start:?} {end:?}");

    let workflow = status.workflow.clone().expect("a workflow");
    assert!(workflow.id.starts_with("agentjob-") && workflow.id.ends_with(&job.uid), "{}", workflow.id);
    assert_eq!(workflow.namespace, "default");
    assert!(workflow.run_id.is_some_and(|id| !id.is_empty()));
    assert_eq!(workflow.status.as_deref(), Some("completed"));
    assert_eq!(workflow.is_paused, Some(false));
    assert_eq!(workflow.error, None);
    for (kind, value) in [
        (conditions::SUCCEEDED, "True"),
        (conditions::READY, "True"),
        (conditions::STALLED, "False"),
        (conditions::PAUSED, "False"),
    ] {
        assert_eq!(condition(&status, kind).0, value, "condition {kind}: {:?}", condition(&status, kind));
    }

    let events = job.history().await;
    // The start of the runner is a local activity, which has an activity after it where the machine is slow.
    let (starts, others): (Vec<_>, Vec<_>) =
        temporal::activities(&events).into_iter().partition(|activity| activity == "start_runner");
    assert_eq!(others, ["execute_agent"]);
    assert!(starts.len() <= 1, "{starts:?}");
    // A task that was late on a busy node is given again; how many there are without that is an API test's.
    let kind = |event: &Value| event["eventType"].as_str().unwrap_or_default().to_string();
    let kinds: Vec<_> = events.iter().map(kind).filter(|kind| !kind.contains("WORKFLOW_TASK")).collect();
    assert_eq!(kinds.len(), 7 + 3 * starts.len(), "{kinds:?}");
    assert_eq!(temporal::state(&job.temporal, &workflow.id), "COMPLETED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_it() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply_as("hello", agent("count?every_ms=50&until=20").mode(ExecutionMode::Temporal)).await;
    let ns = test.namespace.clone();
    let wait = {
        let ns = ns.clone();
        tokio::task::spawn_blocking(move || {
            kubectl(&["wait", "aj/hello", "-n", &ns, "--for=condition=Succeeded", "--timeout=90s"])
        })
    };
    wait.await.expect("no panic").expect("kubectl wait --for=condition=Succeeded");
    let status = job.phase(Phase::Succeeded).await;
    let pod = status.runner_pod.expect("a pod");

    let short = kubectl(&["get", "aj", "hello", "-n", &ns]).expect("get");
    let lines: Vec<Vec<&str>> = short.lines().map(|l| l.split_whitespace().collect()).collect();
    // Without a report of progress its cell is blank.
    assert_eq!(lines[0], ["NAME", "PHASE", "REASON", "ATTEMPT", "PROGRESS", "AGE"]);
    assert_eq!(&lines[1][..4], ["hello", "Succeeded", "Succeeded", "1"]);
    let wide = kubectl(&["get", "kodosumi", "-n", &ns, "-o", "wide"]).expect("get by category");
    let wide: Vec<Vec<&str>> = wide.lines().map(|l| l.split_whitespace().collect()).collect();
    let more = ["MODE", "STARTED", "FINISHED", "POD", "WORKFLOW"];
    assert_eq!((&wide[0][..6], &wide[0][6..]), (&lines[0][..], &more[..]));
    assert_eq!(wide[1][5], "Temporal");
    assert_eq!(wide[1][8..], [pod.as_str(), status.workflow.expect("a workflow").id.as_str()]);

    let log = kubectl(&["logs", &pod, "-n", &ns]).expect("logs");
    assert!(starts(&log) == 1 && log.contains("tick 20 "), "{log}");
    assert!(pod.starts_with(&names::pod("hello", &job.uid, 1, "")), "{pod}");

    let runs = kubectl(&["get", "agentruns", "-n", &ns]).expect("get agentruns");
    let runs: Vec<Vec<&str>> = runs.lines().map(|l| l.split_whitespace().collect()).collect();
    let head = ["NAME", "JOB", "NUMBER", "ATTEMPT", "POD", "ENDED", "ERROR", "EXIT", "SOURCE", "STARTED", "DURATION"];
    assert_eq!(runs[0], head);
    // An agent that succeeded has no error: one column is empty.
    let name = names::run("hello", &job.uid, 1);
    assert_eq!(runs[1][..8], [name.as_str(), "hello", "1", "1", pod.as_str(), "Succeeded", "0", "Runner"]);

    let describe = kubectl(&["describe", "aj", "hello", "-n", &ns]).expect("describe");
    let events = describe.split("Events:").nth(1).expect("events");
    for reason in ["Started", "Succeeded"] {
        assert!(events.contains(reason), "no event {reason}: {events}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_sees_its_contract_and_nothing_of_the_runners() {
    let (test, _roles) = Test::with_operator().await;
    let job = test.apply(agent("print-env").mode(ExecutionMode::Temporal)).await;
    let result = result(&job.phase(Phase::Succeeded).await);
    let names: Vec<&str> = result["names"].as_array().expect("names").iter().filter_map(|n| n.as_str()).collect();
    for name in [
        "KODO_FID",
        "KODO_ENTRY_POINT",
        "KODO_ATTEMPT",
        "KODO_INPUTS_FILE",
        "KODO_EXTRA_FILE",
        "KODO_RESULT_FILE",
        "KODO_ERROR_FILE",
    ] {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
    assert!(!names.iter().any(|n| n.starts_with("KOCO_")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_result_is_cut_and_says_so() {
    let (test, _roles) = Test::with_operator().await;
    for mode in crate::harness::MODES {
        let job = test.apply(agent("big-result?bytes=2000000").mode(mode)).await;
        let result = result(&job.phase(Phase::Succeeded).await);
        assert_eq!(result["truncated"], json!(true), "{result}");
        assert_eq!(result["size"], json!(2_000_000), "{result}");
        assert!(result["digest"].is_string(), "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_of_inputs_runs() {
    let test = Test::new().await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    roles.set("KOCO_MAXIMUM_INPUTS_BYTES", "1048576");
    roles.start().await;
    // The result holds the inputs, so it is cut.
    let inputs = json!({ "text": "x".repeat(1_000_000) });
    let job = test.apply(agent("succeed").mode(ExecutionMode::Temporal).with(json!({ "inputs": inputs }))).await;
    let result = result(&job.phase(Phase::Succeeded).await);
    assert_eq!(result["truncated"], json!(true), "{result}");
    assert!(temporal::export(&job.temporal, &job.workflow().await).len() < 100_000, "inputs are in the history");
}

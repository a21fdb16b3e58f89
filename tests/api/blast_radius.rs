//! One object that is deep, large, or can't be read at all: everybody else goes on beside it, and starts beside it.

use std::time::{Duration, Instant};

use koco::{
    api::{RunnerState, TerminationType, conditions, depth, names},
    protocol::runner::Job as Told,
};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, DesiredState, ExecutionMode, Job, Kubelet, MODES, Node, Phase, Roles, Server, Test, agent,
    by_hand::{create, event, events, foreign_pod, patch_status, run_of, started, try_create},
    job::{With, condition, manifest, pod_name, stalled},
    kubelet::End,
    runner::{Refused, succeeded},
    within,
};

/// No type of ours can hold it: the API server takes it, and gives it back.
const BEYOND_TIME: &str = "9999-12-31T23:59:59Z";

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// A job as it is on the wire, with deep text where `"DEEP"` is.
async fn apply_deep<'t>(test: &'t Test, name: &str, spec: Value, levels: usize) -> Job<'t> {
    let text = manifest(name, spec).to_string().replace("\"DEEP\"", &nested(levels));
    create(test, &text).await;
    let made = test.jobs().get(name).await.expect("a job");
    Job::new(test, name, made.metadata.uid.as_deref().expect("a UID"))
}

/// An AgentJob, an AgentRun and a pod that nobody of us can read. Answers kinds and names.
async fn unreadable(test: &Test) -> [(&'static str, String); 3] {
    // It never is anybody's to reconcile, so that its status stays as it is made.
    let job = test.apply_as("cannot-be-read", agent("succeed")).await;
    patch_status(test, "agentjob", &job.name, json!({ "pendingSince": BEYOND_TIME })).await;
    let mut run = run_of(&job, 7, 1);
    run.metadata.name = Some("run-that-cannot-be-read".into());
    create(test, &serde_json::to_string(&run).expect("JSON")).await;
    patch_status(test, "agentrun", run.name(), json!({ "readyTime": BEYOND_TIME })).await;
    let owner = json!({ "apiVersion": "example.com/v1", "kind": "X", "name": "x", "uid": "x" });
    create(test, &foreign_pod(&job, "pod-that-cannot-be-read", owner).to_string()).await;
    patch_status(test, "pod", "pod-that-cannot-be-read", json!({ "startTime": BEYOND_TIME })).await;
    assert!(test.jobs().get(&job.name).await.is_err() && test.runs().get(run.name()).await.is_err());
    assert!(test.pods().get("pod-that-cannot-be-read").await.is_err());
    [
        ("agentjob", job.name.clone()),
        ("agentrun", run.name().to_string()),
        ("pod", "pod-that-cannot-be-read".to_string()),
    ]
}

/// Jobs of both modes, one after the other, for so long: the time that two of them take.
async fn one_after_the_other(test: &Test, time: Duration) -> Duration {
    let (began, mut ended) = (Instant::now(), 0);
    while ended == 0 || began.elapsed() < time {
        for mode in MODES {
            test.apply(agent("succeed").mode(mode)).await.phase(Phase::Succeeded).await;
        }
        ended += 1;
    }
    began.elapsed() / ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_start_and_work_beside_what_they_can_not_read() {
    let (bad, good) = (Test::new().await, Test::new().await);
    let things = unreadable(&bad).await;
    let mut roles = Roles::separate(&bad, Server::Shared);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", bad.namespace, good.namespace));
    roles.start().await;
    let _nodes = [Node::automatic(&bad), Node::automatic(&good)];
    for test in [&bad, &good] {
        for mode in MODES {
            test.apply(agent("succeed").mode(mode)).await.phase(Phase::Succeeded).await;
        }
    }
    for (_, name) in &things {
        let said = event(&bad, name, "Unreadable").await;
        assert!(said.message.unwrap_or_default().contains("can't read this"), "{name}");
    }
    // And again when each begins with a list in which they are.
    roles.restart().await;
    good.apply(agent("succeed")).await.phase(Phase::Succeeded).await;
}

/// Its finalizer is koco's, and what it says of its workflow can't be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_can_not_be_read_any_more_can_be_deleted() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode)).await;
        job.phase(Phase::Running).await;
        let workflow = if mode == ExecutionMode::Temporal { Some(job.workflow().await) } else { None };
        patch_status(&test, "agentjob", &job.name, json!({ "pendingSince": BEYOND_TIME })).await;
        assert!(test.jobs().get(&job.name).await.is_err(), "it can be read, in {mode:?}");
        test.raw_jobs().delete(&job.name, &DeleteParams::default()).await.expect("delete");
        within(DEADLINE, &format!("it to be gone, in {mode:?}"), async || {
            match test.jobs().get_metadata_opt(&job.name).await.expect("get") {
                None => Ok(()),
                Some(there) => Err(there.metadata.finalizers),
            }
        })
        .await;
        job.nothing_runs().await;
        if let Some(workflow) = workflow {
            assert_eq!(job.closed(&workflow).await, "CANCELED");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_and_large_inputs_reach_the_runner_as_they_are() {
    let test = Test::new().await;
    let spec = agent("anything");
    let mut jobs = Vec::new();
    for mode in MODES {
        let word = mode.as_str().to_lowercase();
        let deep = spec.clone().mode(mode).with(json!({ "inputs": { "a": "DEEP" }, "extra": { "b": "DEEP" } }));
        let deep = apply_deep(&test, &format!("deep-{word}"), deep, 200).await;
        let text = "ä\\\"\n".repeat(100_000);
        let large = spec.clone().mode(mode).with(json!({ "inputs": { "text": text } }));
        create(&test, &manifest(&format!("large-{word}"), large).to_string()).await;
        let name = format!("large-{word}");
        let uid = test.jobs().get(&name).await.expect("a job").metadata.uid.expect("a UID");
        jobs.push((deep, format!("{{\"a\":{}}}", nested(200))));
        jobs.push((Job::new(&test, &name, &uid), json!({ "text": text }).to_string()));
    }
    // They are there before anybody of us is.
    let mut roles = Roles::separate(&test, Server::Shared);
    roles.set("KOCO_MAXIMUM_INPUTS_BYTES", "1000000");
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    for (job, inputs) in &jobs {
        let (pod, runner) = started(&kubelet, job, 1).await;
        let told: Told = runner.register(RunnerState::Running, 0).await.expect("the job");
        assert!(told.inputs.get() == inputs, "{}: {} bytes", job.name, told.inputs.get().len());
        runner.outcome(0, succeeded(json!(1))).await.expect("204");
        kubelet.end(&pod_name(&pod), &End::exit(0, None)).await;
        job.phase(Phase::Succeeded).await;
    }
}

/// Readers of JSON differ in what they make of some numbers. The API server is the first, and the others agree with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_reach_the_runner_as_the_api_server_keeps_them() {
    const GIVEN: &str =
        r#"{"big":12345678901234567890,"most":9223372036854775807,"one":1.0,"small":1e-400,"tenth":0.1}"#;
    const KEPT: &str = r#"{"big":12345678901234567000,"most":9223372036854775807,"one":1,"small":0,"tenth":0.1}"#;
    let test = Test::new().await;
    let text = |name: &str, mode, field: &str, numbers: &str| {
        let spec = agent("anything").mode(mode).with(json!({ field: "NUMBERS" }));
        manifest(name, spec).to_string().replace("\"NUMBERS\"", numbers)
    };
    for (field, number) in [("inputs", "1e400"), ("extra", "-1e999")] {
        let job = text("beyond", ExecutionMode::Direct, field, &format!("{{\"a\":{number}}}"));
        match try_create(&test, &job).await {
            Err(kube::Error::Api(e)) => assert!(e.message.contains(number), "{}", e.message),
            other => panic!("{number} in {field}: {other:?}"),
        }
    }
    let _roles = test.separate_roles(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let name = format!("numbers-{}", mode.as_str().to_lowercase());
        create(&test, &text(&name, mode, "inputs", GIVEN)).await;
        let job = test.jobs().get(&name).await.expect("a job");
        let job = Job::new(&test, &name, job.metadata.uid.as_deref().expect("a UID"));
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let told: Told = runner.register(RunnerState::Running, 0).await.expect("the job");
        assert_eq!(told.inputs.get(), KEPT, "in {mode:?}");
        runner.outcome(0, succeeded(serde_json::from_str(GIVEN).expect("JSON"))).await.expect("204");
        kubelet.end(&pod_name(&pod), &End::exit(0, None)).await;
        assert_eq!(job.phase(Phase::Succeeded).await.result.expect("a result").get(), KEPT, "in {mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_too_deep_to_be_a_pod_says_so() {
    let test = Test::new().await;
    let mut jobs = Vec::new();
    for mode in MODES {
        let spec = agent("succeed").mode(mode).with(json!({ "template": { "spec": { "futureField": "DEEP" } } }));
        jobs.push(apply_deep(&test, &format!("deep-{}", mode.as_str().to_lowercase()), spec, 200).await);
    }
    let _roles = test.separate_roles(Server::Shared).await;
    let _node = Node::automatic(&test);
    for job in &jobs {
        let status = job.until("Stalled", stalled).await;
        let (_, reason, message) = condition(&status, conditions::STALLED);
        assert_eq!((reason.as_str(), status.phase), ("PodRefused", Some(Phase::Pending)));
        assert!(message.contains("spec.template.spec.futureField"), "the field is named: {message}");
        test.apply(agent("succeed")).await.phase(Phase::Succeeded).await;
        job.want(DesiredState::Cancelled).await;
        job.phase(Phase::Cancelled).await;
    }
}

/// Whatever the gateway is told, each role can read the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_too_deep_is_recorded_as_its_digest() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let deep = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        // The gateway can't even read this one.
        let refused = runner.outcome(0, succeeded(deep(200))).await.expect_err("a refusal");
        assert!(matches!(refused, Refused::Code(400..500, _)), "{refused:?}");
        assert_eq!(job.termination().await, None);
        runner.outcome(0, succeeded(deep(110))).await.expect("204");
        kubelet.end(&pod_name(&pod), &End::exit(0, None)).await;
        let status = job.phase(Phase::Succeeded).await;
        let result: Value = status.result.expect("a result").read().expect("JSON");
        assert_eq!((&result["truncated"], &result["size"]), (&json!(true), &json!(221)), "in {mode:?}");
        let digest = result["digest"].as_str().expect("a digest");
        assert!(digest.starts_with("sha256:"), "{digest}");
        let recorded = job.termination().await.and_then(|t| t.result).expect("a result");
        assert!(depth(recorded.get()) <= 1);
        // In its termination message, too, nobody believes more.
        let job = test.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let message = runner.termination_message(&succeeded(deep(110)));
        kubelet.end(&pod_name(&pod), &End::exit(0, Some(message))).await;
        job.phase(Phase::Succeeded).await;
        let termination = job.termination().await.expect("an end");
        assert_eq!(termination.kind, TerminationType::Succeeded);
        assert!(depth(termination.result.expect("a result").get()) <= 1);
    }
}

/// Updates what can't be read as fast as it goes while other jobs live, for so long, and without that for as long.
async fn updated_all_the_time(time: Duration) {
    let (bad, good) = (Test::new().await, Test::new().await);
    let mut roles = Roles::separate(&bad, Server::Shared);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", bad.namespace, good.namespace));
    let things = unreadable(&bad).await;
    let spec = agent("succeed").with(json!({ "template": { "spec": { "futureField": "DEEP" } } }));
    let deep = apply_deep(&bad, "deep", spec, 200).await;
    roles.start().await;
    let _node = Node::automatic(&good);
    one_after_the_other(&good, Duration::ZERO).await;
    let calm = one_after_the_other(&good, time).await;
    let mut updates = Vec::new();
    for (kind, name) in things.iter().cloned().chain([("agentjob", deep.name.clone())]) {
        let (client, namespace) = (bad.client.clone(), bad.namespace.clone());
        updates.push(tokio::spawn(async move {
            let resource = match kind {
                "pod" => kube::api::ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()),
                "agentrun" => kube::api::ApiResource::erase::<koco::api::AgentRun>(&()),
                _ => kube::api::ApiResource::erase::<koco::api::AgentJob>(&()),
            };
            let mut number = 0_u64;
            loop {
                number += 1;
                let patch = json!({ "metadata": { "annotations": { "example.com/n": number.to_string() } } });
                let path = match kind {
                    "pod" => format!("/api/v1/namespaces/{namespace}/pods/{name}"),
                    _ => format!("/apis/{}/namespaces/{namespace}/{}/{name}", names::API_VERSION, resource.plural),
                };
                let request = axum::http::Request::patch(path).header("content-type", "application/merge-patch+json");
                let request = request.body(patch.to_string().into_bytes()).expect("a request");
                client.request_text(request).await.expect("an update");
            }
        }));
    }
    let disturbed = one_after_the_other(&good, time).await;
    for update in &updates {
        assert!(!update.is_finished(), "an update failed");
        update.abort();
    }
    eprintln!("two jobs take {calm:?} without updates, {disturbed:?} with them");
    assert!(disturbed <= calm * 5, "two jobs take {calm:?} without updates, {disturbed:?} with them");
    for (_, name) in &things {
        let said: i32 = events(&bad, name, "Unreadable").await.iter().map(|e| e.count.unwrap_or(1)).sum();
        assert!((1..=3).contains(&said), "{name} was told {said} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_what_can_not_be_read_hold_up_nobody() {
    updated_all_the_time(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes"]
async fn a_minute_of_updates_of_what_can_not_be_read_holds_up_nobody() {
    updated_all_the_time(Duration::from_secs(60)).await;
}

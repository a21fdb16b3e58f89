//! One trace from what applied a job to its agent: each role in a process of its own, and a collector that speaks OTLP.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use axum_server::tls_rustls::RustlsConfig;
use koco::{api::RunnerState, protocol::runner::ControlMessage};
use kube::api::{DynamicObject, PostParams};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value::StringValue},
};
use prost::Message;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, ExecutionMode, Job, Kubelet, MODES, Phase, Roles, Runner, Server, Service, Test, agent,
    cluster::NODE_IP,
    job::{With, manifest, pod_name},
    runner::succeeded,
    within,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const APPLY: &str = "b7ad6b7169203331";
/// Part of the job's inputs, of its pod's environment and of its result.
const SECRET: &str = "octopuses-have-three-hearts";

#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    service: String,
    attributes: BTreeMap<String, String>,
    /// All that was received of it.
    whole: String,
}

type Spans = Arc<Mutex<Vec<Span>>>;

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |a: &KeyValue| match a.value.clone()?.value? {
        StringValue(text) => Some(text),
        _ => None,
    };
    list.iter().map(|a| (a.key.clone(), text(a).unwrap_or_default())).collect()
}

/// An empty answer says that all was taken.
async fn receive(State(spans): State<Spans>, body: Bytes) {
    for resource in ExportTraceServiceRequest::decode(body).expect("a request").resource_spans {
        let mut about = attributes(resource.resource.expect("a resource").attributes);
        let service = about.remove("service.name").unwrap_or_default();
        spans.lock().expect("spans").extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(
            |span| {
                let whole = format!("{span:?}");
                Span {
                    whole,
                    trace: hex::encode(span.trace_id),
                    id: hex::encode(span.span_id),
                    parent: hex::encode(span.parent_span_id),
                    name: span.name,
                    service: service.clone(),
                    attributes: attributes(span.attributes),
                }
            },
        ));
    }
}

/// A receiver of OTLP over HTTP, or over HTTPS with a certificate. Returns where it listens, and what it gets.
fn collector(tls: Option<RustlsConfig>) -> (String, Spans) {
    let spans = Spans::default();
    let router = Router::new().route("/v1/traces", post(receive)).with_state(spans.clone()).into_make_service();
    let listener = std::net::TcpListener::bind((NODE_IP, 0)).expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    match tls {
        Some(tls) => drop(tokio::spawn(axum_server::from_tcp_rustls(listener, tls).expect("a server").serve(router))),
        None => drop(tokio::spawn(axum_server::from_tcp(listener).expect("a server").serve(router))),
    }
    (address, spans)
}

/// A certificate of its own authority; it is in that file.
async fn certificate(test: &Test) -> (RustlsConfig, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![NODE_IP.to_string()]).expect("parameters");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let file = test.cluster.dev.join("data/tests").join(format!("{}-collector.pem", test.namespace));
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::write(&file, &pem).expect("a file");
    let tls = RustlsConfig::from_pem(pem.into_bytes(), key.serialize_pem().into_bytes()).await.expect("a certificate");
    (tls, file.display().to_string())
}

/// Applies a job as a part of a trace.
async fn apply(test: &Test, mode: ExecutionMode) -> Job<'_> {
    let name = test.next_name();
    let spec = agent("anything").mode(mode).with(json!({ "inputs": { "topic": SECRET } }));
    let mut object = manifest(&name, spec);
    object["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{ "name": "TOKEN", "value": SECRET }]);
    let parent = format!("00-{TRACE}-{APPLY}-01");
    object["metadata"]["annotations"] = json!({ "kodosumi.io/traceparent": parent });
    let object: DynamicObject = serde_json::from_value(object).expect("a manifest");
    let made = test.raw_jobs().create(&PostParams::default(), &object).await.expect("201");
    Job::new(test, &name, made.metadata.uid.as_deref().expect("a UID"))
}

/// The agent's part: returns what it gets as `TRACEPARENT`, and where it is to send its spans.
async fn act(test: &Test, kubelet: &Kubelet, job: &Job<'_>) -> (String, String) {
    let pod = job.pod(1).await;
    kubelet.schedule(&pod_name(&pod)).await;
    kubelet.run(&pod_name(&pod)).await;
    let runner = Runner::of(test, &pod).await;
    let told = runner.welcome().await.environment;
    let mut orders = runner.messages().await.expect("a stream");
    assert_eq!(orders.grant().await, ControlMessage::Grant { attempt: 1 });
    runner.heartbeat(RunnerState::Running, 0).await.expect("204");
    runner.outcome(0, succeeded(json!(SECRET))).await.expect("204");
    job.phase(Phase::Succeeded).await;
    let [parent, endpoint] =
        ["TRACEPARENT", "OTEL_EXPORTER_OTLP_ENDPOINT"].map(|name| told.get(name).cloned().unwrap_or_default());
    (parent, endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_from_what_applied_a_job_to_its_agent() {
    let test = Test::new().await;
    let (collector, spans) = collector(None);
    let mut roles = Roles::separate(&test, Server::Shared);
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}").as_str()),
        // As in the image, which has no certificates.
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSL_CERT_DIR", "/nowhere"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("KOCO_AGENT_OTLP_ENDPOINT", "http://agents-collector:4318"),
        ("KOCO_LOG_FORMAT", "json"),
    ] {
        roles.set(name, value);
    }
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = apply(&test, mode).await;
        let (parent, agents) = act(&test, &kubelet, &job).await;
        assert_eq!(agents, "http://agents-collector:4318");
        let [_, trace, agents_parent, _] = parent.split('-').collect::<Vec<_>>()[..] else { panic!("{parent}") };
        assert_eq!(trace, TRACE);
        let mut wanted = vec!["AgentJob", "AgentRun", "controller reconcile", "gateway register", "gateway end"];
        if mode == ExecutionMode::Temporal {
            wanted.extend(["AgentWorkflow", "activity start_runner", "activity execute_agent"]);
        }
        let mine = within(DEADLINE, "the spans of each role", async || {
            let all = spans.lock().expect("spans").clone();
            let of_job = |s: &Span| s.attributes.get("koco.job.name") == Some(&job.name);
            let mine: Vec<Span> = all.into_iter().filter(of_job).collect();
            let missing: Vec<_> = wanted.iter().filter(|name| mine.iter().all(|s| s.name != **name)).collect();
            if missing.is_empty() { Ok(mine.clone()) } else { Err(format!("no {missing:?} in {mine:?}")) }
        })
        .await;
        let known: Vec<&str> = mine.iter().map(|s| s.id.as_str()).chain([APPLY]).collect();
        for span in &mine {
            assert_eq!((span.trace.as_str(), span.service.as_str()), (TRACE, "koco"), "{span:?}");
            assert!(known.contains(&span.parent.as_str()), "{span:?} is no part of what is known: {mine:?}");
            assert!(!span.whole.contains(SECRET), "{span:?}");
        }
        let asked: BTreeSet<_> = mine.iter().map(|s| s.name.as_str()).filter(|n| n.starts_with("gateway")).collect();
        assert_eq!(asked, ["gateway end", "gateway register"].into(), "neither heartbeats nor streams");
        let named = |name: &str| mine.iter().find(|s| s.name == name).expect("a span");
        assert_eq!(named("AgentJob").parent, APPLY);
        assert_eq!(named("AgentRun").id, agents_parent, "the agent is a part of its run");
        if mode == ExecutionMode::Temporal {
            assert_eq!(named("AgentRun").parent, named("AgentWorkflow").id);
            assert_eq!(named("activity execute_agent").parent, named("AgentWorkflow").id);
        }
        logged(&test, &job.name);
    }
    // And without an annotation: the same for all roles, and another for each job.
    let job = test.apply(agent("anything")).await;
    let (parent, _) = act(&test, &kubelet, &job).await;
    assert!(!parent.contains(TRACE), "{parent}");
    within(DEADLINE, "its span", async || {
        let all = spans.lock().expect("spans").clone();
        let found = all.into_iter().find(|s| s.name == "AgentJob" && s.attributes["koco.job.name"] == job.name);
        found.map(|s| assert_eq!((s.trace.as_str(), s.parent.as_str()), (&parent[3..35], ""))).ok_or("none")
    })
    .await;
}

/// Nor does one that has more spans than it may keep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_holds_up_nothing() {
    let test = Test::new().await;
    let (tls, authority) = certificate(&test).await;
    let (collector, spans) = collector(Some(tls));
    // It takes connections, and nothing else.
    let deaf = std::net::TcpListener::bind((NODE_IP, 0)).expect("a port");
    let service = Service::to(&deaf.local_addr().expect("an address").to_string()).await;
    let mut roles = Roles::separate(&test, Server::Shared);
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("https://user:{SECRET}@{}", service.address).as_str()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &authority),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
    ] {
        roles.set(name, value);
    }
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode)).await;
        act(&test, &kubelet, &job).await;
    }
    let told = || {
        let log = std::fs::read_to_string(&test.log).expect("the log");
        assert!(!log.contains(SECRET), "{log}");
        ["spans are not exported", "spans are exported again"].map(|words| log.matches(words).count())
    };
    within(DEADLINE, "a warning of each role", async || if told() == [3, 0] { Ok(()) } else { Err(told()) }).await;
    assert!(spans.lock().expect("spans").is_empty());
    service.mend(&collector);
    within(DEADLINE, "spans of each role", async || {
        let job = test.apply(agent("anything").mode(ExecutionMode::Temporal)).await;
        act(&test, &kubelet, &job).await;
        if told()[1] >= 3 { Ok(()) } else { Err(told()) }
    })
    .await;
    assert!(!spans.lock().expect("spans").is_empty());
}

/// What the roles log of a job has the fields by which it is found.
fn logged(test: &Test, job: &str) {
    let log = std::fs::read_to_string(&test.log).expect("the log");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told: Vec<Value> = lines.filter(|l| l["message"] == "a run has ended" && l["span"]["job"] == job).collect();
    assert_eq!(told.len(), 1, "{log}");
    let span = &told[0]["span"];
    assert_eq!((&span["namespace"], &span["trace_id"]), (&json!(test.namespace), &json!(TRACE)), "{span}");
    assert!(span["run"].as_str().is_some_and(|run| run.starts_with(job)), "{span}");
}

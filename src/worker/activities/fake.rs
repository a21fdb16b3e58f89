//! A fake API server for the tests of the activities: any object by its path, with optimistic locking and UIDs. It
//! records its calls.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use kube::Client;
use serde_json::{Value, json};

use super::{Activities, Installation, LocalSlots, Task};
use crate::{
    api::{AgentRun, JobRef, names},
    platform::metrics::Metrics,
    pods::{PodConfig, PodSettings},
    temporal::Temporal,
    worker::WorkerSettings,
};

pub const JOBS: &str = "/apis/kodosumi.io/v1alpha1/namespaces/ns/agentjobs";
pub const RUNS: &str = "/apis/kodosumi.io/v1alpha1/namespaces/ns/agentruns";
pub const PODS: &str = "/api/v1/namespaces/ns/pods";
const MAPS: &str = "/api/v1/namespaces/koco-system/configmaps";

pub fn job_ref() -> JobRef {
    JobRef { namespace: "ns".into(), name: "j".into(), uid: "u".into() }
}

/// The task of the job's own workflow.
pub fn task(attempt: u32) -> Task {
    Task { workflow_id: names::workflow("c-koco", "u"), run_id: "run".into(), attempt, token: vec![], local: false }
}

pub fn job() -> Value {
    json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
        "metadata": { "name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "1" },
        "spec": { "entryPoint": "e", "template": { "spec": { "containers": [
            { "name": "agent", "image": "i", "command": ["/a"] }] } } },
        "status": { "phase": "Pending", "resolved": { "executionMode": "Temporal",
            "retryPolicy": { "maximumAttempts": 3, "initialInterval": "1s", "backoffCoefficient": 2.0,
                "maximumInterval": "100s" },
            "timeouts": { "heartbeat": "2s", "pending": "10m" } } },
    })
}

/// An open run that was neither granted nor ready.
pub fn run(number: i32) -> AgentRun {
    serde_json::from_value(run_json(number)).unwrap()
}

pub fn run_json(number: i32) -> Value {
    json!({
        "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
        "metadata": { "name": names::run("j", "u", number), "namespace": "ns", "uid": format!("r-{number}"),
            "resourceVersion": "1" },
        "spec": { "identity": { "jobName": "j", "jobUID": "u", "number": number, "attempt": 1,
            "podName": format!("p-{number}"), "executionMode": "Temporal", "heartbeat": "2s" } },
        "status": {},
    })
}

pub fn closed(source: &str) -> Value {
    json!({ "type": "Failed", "source": source, "started": true, "time": "2026-01-01T00:00:00Z", "activeMillis": 40,
        "error": { "type": "AgentFailed", "message": "m" } })
}

/// A pod of a run whose agent runs.
pub fn pod_json(number: i32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("p-{number}"), "namespace": "ns", "uid": format!("pod-{number}"), "ownerReferences": [{
            "apiVersion": names::API_VERSION, "kind": "AgentRun", "name": "r", "uid": format!("r-{number}"),
            "controller": true }] },
        "spec": { "containers": [{ "name": "agent", "image": "i" }] },
        "status": { "phase": "Running", "containerStatuses": [{ "name": "agent", "image": "i", "imageID": "",
            "ready": true, "restartCount": 0, "state": { "running": {} } }] },
    })
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    calls: Vec<String>,
    version: u64,
    /// The message with which pods are refused.
    refusal: Option<String>,
}

/// The server.
#[derive(Clone, Default)]
pub struct Fake {
    inner: Arc<Mutex<Inner>>,
}

impl Fake {
    /// The server, and activities that use it: the installation is `c-koco`, and there is no Temporal.
    pub async fn start() -> (Self, Activities) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fake = Self::default();
        fake.put(
            &format!("{MAPS}/{}", names::GATEWAY_CA),
            json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": names::GATEWAY_CA, "namespace": "koco-system", "resourceVersion": "1" },
            "data": { "ca.crt": "PEM" } }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::try_from(kube::Config::new(url)).unwrap();
        let settings = PodSettings {
            runner_image: "koco:1".into(),
            runner_image_pull_policy: "Never".into(),
            runner_image_pull_secrets: vec![],
            runner_resources: serde_json::json!({}),
            runner_security_context: serde_json::json!({}),
            gateway_url: "https://g".into(),
        };
        let pods = PodConfig::follow(client.clone(), "koco-system", settings);
        while pods.settings().is_err() {
            tokio::task::yield_now().await;
        }
        let installation = Installation::new(client.clone(), Some("c".into()), "koco".into());
        let (temporal, local_slots) = (Temporal::new(None), LocalSlots::new(&WorkerSettings::default()));
        (fake, Activities { client, temporal, pods, metrics: Metrics::default(), installation, local_slots })
    }

    pub fn put(&self, path: &str, object: Value) {
        self.inner.lock().unwrap().objects.insert(path.into(), object);
    }

    pub fn put_run(&self, number: i32, change: impl FnOnce(&mut Value)) {
        let mut run = run_json(number);
        change(&mut run);
        self.put(&run_path(number), run);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.inner.lock().unwrap().objects.get(path).cloned()
    }

    pub fn run(&self, number: i32) -> Option<AgentRun> {
        self.get(&run_path(number)).map(|r| serde_json::from_value(r).unwrap())
    }

    pub fn refuse_pods(&self, words: Option<&str>) {
        self.inner.lock().unwrap().refusal = words.map(str::to_string);
    }

    /// The calls since the last time, as `VERB plural[/status]`.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().unwrap().calls)
    }
}

pub fn run_path(number: i32) -> String {
    format!("{RUNS}/{}", names::run("j", "u", number))
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": message });
    (code, body.to_string()).into_response()
}

fn ok(object: &Value) -> Response {
    object.to_string().into_response()
}

async fn answer(State(fake): State<Fake>, method: Method, uri: Uri, body: Bytes) -> Response {
    let path = uri.path().to_string();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    // Namespaces are not namespaced.
    let namespaces = parts.iter().position(|p| *p == "namespaces").unwrap_or(0);
    let place = if parts.len() > namespaces + 2 { namespaces + 2 } else { namespaces };
    let (plural, name, sub) = (parts[place], parts.get(place + 1), parts.get(place + 2));
    let mut inner = fake.inner.lock().unwrap();
    // The watch of the gateway's authority runs concurrently.
    if plural != "configmaps" {
        inner.calls.push(format!("{method} {plural}{}", sub.map(|s| format!("/{s}")).unwrap_or_default()));
    }
    inner.version += 1;
    let version = (inner.version + 1).to_string();
    match (method, name) {
        (Method::GET, None) if uri.query().is_some_and(|q| q.contains("watch")) => {
            Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()).into_response()
        }
        (Method::GET, None) => {
            let within = format!("{path}/");
            let items: Vec<_> = inner.objects.iter().filter(|(k, _)| k.starts_with(&within)).map(|(_, v)| v).collect();
            ok(
                &json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": version }, "items": items }),
            )
        }
        (Method::GET, Some(_)) => match inner.objects.get(&path) {
            Some(object) => ok(object),
            None => status(StatusCode::NOT_FOUND, "NotFound", "no such object"),
        },
        (Method::POST, _) => {
            if let Some(words) = inner.refusal.as_ref().filter(|_| plural == "pods") {
                return status(StatusCode::FORBIDDEN, "Forbidden", words);
            }
            let mut made = body;
            let path = format!("{path}/{}", made["metadata"]["name"].as_str().unwrap());
            if inner.objects.contains_key(&path) {
                return status(StatusCode::CONFLICT, "AlreadyExists", "it is there");
            }
            made["metadata"]["uid"] = json!(format!("new-{version}"));
            made["metadata"]["resourceVersion"] = json!(version);
            made["status"] = json!({});
            inner.objects.insert(path, made.clone());
            ok(&made)
        }
        (Method::PUT, Some(_)) => {
            let path = path.strip_suffix("/status").unwrap_or(&path).to_string();
            let Some(old) = inner.objects.get(&path) else { return status(StatusCode::NOT_FOUND, "NotFound", "gone") };
            if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                return status(StatusCode::CONFLICT, "Conflict", "changed");
            }
            let mut new = old.clone();
            let part = if sub.is_some() { "status" } else { "spec" };
            new[part] = body[part].clone();
            new["metadata"]["resourceVersion"] = json!(version);
            inner.objects.insert(path, new.clone());
            ok(&new)
        }
        (Method::DELETE, Some(_)) => match inner.objects.get_mut(&path) {
            // A pod ends only when its kubelet reports it.
            Some(object) if object["metadata"]["uid"] == body["preconditions"]["uid"] => {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                ok(object)
            }
            _ => status(StatusCode::CONFLICT, "Conflict", "another UID"),
        },
        _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not here"),
    }
}

//! A fake API server for the tests of the gateway: reviews of tokens, the job of [`super::fixtures`], its
//! run with optimistic locking and a watch, Secrets and ConfigMaps.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fixtures;

struct Inner {
    job: Value,
    run: Value,
    objects: HashMap<String, Value>,
    version: u64,
    writes: usize,
    reviews: usize,
    held: bool,
    failing: bool,
}

/// The server.
#[derive(Clone)]
pub struct Fake {
    inner: Arc<Mutex<Inner>>,
    runs: watch::Sender<Value>,
    url: Arc<Mutex<String>>,
}

impl Fake {
    /// Serves on a port of its own.
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let job = serde_json::to_value(fixtures::job()).unwrap();
        let run = serde_json::to_value(fixtures::fresh_run()).unwrap();
        let runs = watch::Sender::new(run.clone());
        let inner =
            Inner { job, run, objects: HashMap::new(), version: 5, writes: 0, reviews: 0, held: false, failing: false };
        let fake = Self { inner: Arc::new(Mutex::new(inner)), runs, url: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        *fake.url.lock().unwrap() = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    /// A client of it without retries.
    pub fn client(&self) -> Client {
        let url = self.url.lock().unwrap().parse().unwrap();
        Client::try_from(kube::Config::new(url)).unwrap()
    }

    /// The run's status.
    pub fn status(&self) -> Value {
        self.inner.lock().unwrap().run["status"].clone()
    }

    /// Writes the run as another role.
    pub fn change(&self, change: impl Fn(&mut Value)) {
        let mut inner = self.inner.lock().unwrap();
        change(&mut inner.run);
        self.written(&mut inner);
    }

    /// Writes the job.
    pub fn change_job(&self, change: impl Fn(&mut Value)) {
        change(&mut self.inner.lock().unwrap().job);
    }

    /// How often the gateway has written the run's status.
    pub fn writes(&self) -> usize {
        self.inner.lock().unwrap().writes
    }

    /// How many tokens were reviewed.
    pub fn reviews(&self) -> usize {
        self.inner.lock().unwrap().reviews
    }

    /// Whether the watch is held back.
    pub fn hold_watch(&self, held: bool) {
        self.inner.lock().unwrap().held = held;
    }

    /// Whether every request fails.
    pub fn fail(&self, failing: bool) {
        self.inner.lock().unwrap().failing = failing;
    }

    /// A Secret or ConfigMap, by kind and name.
    pub fn get(&self, object: &str) -> Value {
        self.inner.lock().unwrap().objects[object].clone()
    }

    /// Adds one.
    pub fn put(&self, object: &str, mut value: Value) {
        value["metadata"]["resourceVersion"] = json!("1");
        self.inner.lock().unwrap().objects.insert(object.into(), value);
    }

    fn written(&self, inner: &mut Inner) {
        inner.version += 1;
        inner.run["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        if !inner.held {
            self.runs.send_replace(inner.run.clone());
        }
    }

    fn put_status(&self, body: &[u8]) -> Response {
        let new: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(new.get("spec"), None, "a status write carries no spec");
        let mut inner = self.inner.lock().unwrap();
        let same = |key: &str| new["metadata"][key] == inner.run["metadata"][key];
        if !same("resourceVersion") || !same("uid") {
            return problem(StatusCode::CONFLICT);
        }
        inner.run["status"] = new["status"].clone();
        inner.writes += 1;
        self.written(&mut inner);
        Json(&inner.run).into_response()
    }

    fn watch(&self) -> Response {
        let mut runs = self.runs.subscribe();
        runs.mark_unchanged();
        let lines = stream::unfold(runs, |mut runs| async move {
            runs.changed().await.ok()?;
            let run = runs.borrow_and_update().clone();
            // In the order of a real one: the type first.
            Some((format!("{{\"type\":\"MODIFIED\",\"object\":{run}}}\n"), runs))
        });
        Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>)).into_response()
    }

    fn write(&self, key: &str, create: bool, body: &[u8]) -> Response {
        let mut new: Value = serde_json::from_slice(body).unwrap();
        let mut inner = self.inner.lock().unwrap();
        let same = |old: &Value| old["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"];
        let free = match inner.objects.get(key) {
            Some(old) => !create && same(old),
            None => create,
        };
        if !free {
            return problem(StatusCode::CONFLICT);
        }
        inner.version += 1;
        new["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        inner.objects.insert(key.into(), new.clone());
        Json(new).into_response()
    }
}

fn problem(status: StatusCode) -> Response {
    let reason = match status {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::CONFLICT => "Conflict",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason,
        "code": status.as_u16(),
    });
    (status, Json(body)).into_response()
}

fn review(body: &[u8]) -> Response {
    let mut review: Value = serde_json::from_slice(body).unwrap();
    let (namespace, pod, name) = match review["spec"]["token"].as_str() {
        Some("good.to.ken") => ("a", "p", "x-2"),
        Some("other.to.ken") => ("a", "q", "y-1"),
        Some("foreign.to.ken") => ("b", "p", "x-2"),
        _ => {
            review["status"] = json!({ "authenticated": false });
            return Json(review).into_response();
        }
    };
    review["status"] = json!({
        "authenticated": true,
        "audiences": review["spec"]["audiences"],
        "user": {
            "username": format!("system:serviceaccount:{namespace}:default"),
            "extra": {
                "authentication.kubernetes.io/pod-uid": [pod],
                "authentication.kubernetes.io/pod-name": [name],
            },
        },
    });
    Json(review).into_response()
}

async fn answer(State(fake): State<Fake>, method: Method, uri: Uri, body: Bytes) -> Response {
    if fake.inner.lock().unwrap().failing {
        return problem(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let watching = uri.query().is_some_and(|q| q.contains("watch=true"));
    let path = uri.path();
    let run = format!("/apis/kodosumi.io/v1alpha1/namespaces/a/agentruns/{}", fixtures::run().name());
    let object = path.strip_prefix("/api/v1/namespaces/koco-system/");
    match (method.as_str(), path, object) {
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", _) => {
            fake.inner.lock().unwrap().reviews += 1;
            review(&body)
        }
        ("GET", "/apis/kodosumi.io/v1alpha1/agentruns", _) if watching => fake.watch(),
        ("GET", "/apis/kodosumi.io/v1alpha1/agentruns", _) => {
            let inner = fake.inner.lock().unwrap();
            let list = json!({
                "kind": "AgentRunList", "apiVersion": "kodosumi.io/v1alpha1",
                "metadata": { "resourceVersion": inner.version.to_string() }, "items": [inner.run],
            });
            Json(list).into_response()
        }
        ("GET", "/apis/kodosumi.io/v1alpha1/namespaces/a/agentjobs/x", _) => {
            Json(&fake.inner.lock().unwrap().job).into_response()
        }
        ("GET", path, _) if path == run => Json(&fake.inner.lock().unwrap().run).into_response(),
        ("PUT", path, _) if path.strip_suffix("/status") == Some(&run) => fake.put_status(&body),
        ("GET", _, Some(key)) => match fake.inner.lock().unwrap().objects.get(key) {
            Some(object) => Json(object).into_response(),
            None => problem(StatusCode::NOT_FOUND),
        },
        ("PUT", _, Some(key)) => fake.write(key, false, &body),
        ("POST", _, Some(kind)) => {
            let new: Value = serde_json::from_slice(&body).unwrap();
            fake.write(&format!("{kind}/{}", new["metadata"]["name"].as_str().unwrap()), true, &body)
        }
        _ => problem(StatusCode::NOT_FOUND),
    }
}

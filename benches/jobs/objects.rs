//! Jobs that are objects in Kubernetes: made all at once, and watched to their end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::harness::{ExecutionMode, agent, cluster::AGENT_IMAGE, job::With, job::manifest, player::Diary, within};

/// How many are created at a time.
pub const CREATORS: usize = 8;
/// The limit for what must come in time for the bench to go on at all.
pub const LIMIT: Duration = Duration::from_secs(900);
/// What koco's agents do; all others take the same second.
const ENTRY_POINT: &str = "exit0-after?ms=1000";

/// A kind of job.
#[derive(Clone, Copy)]
pub enum Kind {
    Job,
    AgentJob(ExecutionMode),
    /// Argo's.
    Workflow,
}

/// When it happened to each.
pub struct Times {
    pub first_create: Instant,
    pub last_end: Instant,
    /// Milliseconds.
    pub to_first_line: Vec<f64>,
    pub to_done: Vec<f64>,
}

impl Kind {
    fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::Job => ("batch", "v1", "Job"),
            Self::AgentJob(_) => ("kodosumi.io", "v1alpha1", "AgentJob"),
            Self::Workflow => ("argoproj.io", "v1alpha1", "Workflow"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }

    fn manifest(self, name: &str) -> Value {
        let container = json!({ "name": "agent", "image": AGENT_IMAGE, "command": ["/test-agent"] });
        match self {
            Self::AgentJob(mode) => manifest(name, agent(ENTRY_POINT).mode(mode)),
            Self::Job => json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
                "spec": { "backoffLimit": 0, "template": { "spec": {
                    "restartPolicy": "Never", "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 10, "containers": [container],
                } } },
            }),
            Self::Workflow => json!({
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": { "name": name },
                "spec": { "entrypoint": "agent", "templates": [
                    { "name": "agent", "container": { "image": AGENT_IMAGE, "command": ["/test-agent"] } },
                ] },
            }),
        }
    }

    /// Whether it has ended, and then whether well.
    fn ended(self, object: &Value) -> Option<bool> {
        let status = &object["status"];
        match self {
            Self::Job => {
                let conditions = status["conditions"].as_array()?;
                let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
                if is("Complete") { Some(true) } else { is("Failed").then_some(false) }
            }
            Self::AgentJob(_) | Self::Workflow => match status["phase"].as_str()? {
                "Succeeded" => Some(true),
                "Failed" | "Cancelled" | "Error" => Some(false),
                _ => None,
            },
        }
    }

    fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }

    /// Runs so many jobs, and returns when all have ended.
    pub async fn run(self, client: &Client, namespace: &str, prefix: &str, jobs: usize, diary: &Diary) -> Times {
        let api = self.api(client, namespace);
        let (watching, mut ends) = self.watch(api.clone()).await;
        let create = async |n: usize| {
            let object = serde_json::from_value(self.manifest(&format!("{prefix}-{n}"))).expect("an object");
            let applied = Instant::now();
            let made = api.create(&PostParams::default(), &object).await.expect("a job");
            (made.metadata.uid.expect("a UID"), applied)
        };
        let applied: HashMap<String, Instant> =
            stream::iter(0..jobs).map(create).buffer_unordered(CREATORS).collect().await;
        let mut ended = HashMap::new();
        let all = async {
            while ended.len() < jobs {
                let (uid, at, well) = ends.recv().await.expect("the watch goes on");
                assert!(well, "a job has failed: {uid}");
                ended.entry(uid).or_insert(at);
            }
        };
        let in_time = tokio::time::timeout(LIMIT, all).await;
        watching.abort();
        assert!(in_time.is_ok(), "{} of {jobs} jobs have ended within {LIMIT:?}", ended.len());
        let mut times = Times {
            first_create: applied.values().min().copied().expect("jobs"),
            last_end: ended.values().max().copied().expect("jobs"),
            to_first_line: Vec::new(),
            to_done: Vec::new(),
        };
        let millis = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        for life in diary.all() {
            let (Some(applied), Some(over)) = (applied.get(&life.job), life.ended) else { continue };
            times.to_first_line.push(millis(*applied, life.began));
            times.to_done.push(millis(over, ended[&life.job]));
        }
        assert_eq!(times.to_done.len(), jobs, "each has had one agent");
        times
    }

    /// Tells the end of each, once the watch is there.
    async fn watch(
        self,
        api: Api<DynamicObject>,
    ) -> (tokio::task::JoinHandle<()>, mpsc::UnboundedReceiver<(String, Instant, bool)>) {
        let (tell, ends) = mpsc::unbounded_channel();
        let (there, is_there) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut there = Some(there);
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                let now = Instant::now();
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        if let Some(well) = self.ended(&object.data) {
                            let _ = tell.send((object.metadata.uid.unwrap_or_default(), now, well));
                        }
                    }
                    Ok(watcher::Event::InitDone) => drop(there.take().map(|there| there.send(()))),
                    _ => {}
                }
            }
        });
        is_there.await.expect("the watch starts");
        (task, ends)
    }

    /// Deletes all of them, and waits until they and their pods are gone.
    pub async fn clear(self, client: &Client, namespace: &str) {
        let (api, pods) = (self.api(client, namespace), Api::<Pod>::namespaced(client.clone(), namespace));
        api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.expect("a deletion");
        let one = ListParams::default().limit(1);
        within(LIMIT, "jobs and pods to be gone", async || {
            let left = api.list_metadata(&one).await.map_err(|e| e.to_string())?.items.len()
                + pods.list_metadata(&one).await.map_err(|e| e.to_string())?.items.len();
            if left == 0 { Ok(()) } else { Err("some are left".to_string()) }
        })
        .await;
    }
}

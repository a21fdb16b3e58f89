//! Jobs that are objects in Kubernetes: made all at once, and watched to their end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use koco::api::ExecutionMode;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// How many are created at a time.
pub const CREATORS: usize = 8;
/// The limit for what must come in time for the bench to go on at all.
pub const LIMIT: Duration = Duration::from_secs(3600);
/// Tells which jobs, and their pods, belong together.
pub const BATCH: &str = "batch";

/// A kind of job.
#[derive(Clone, Copy)]
pub enum Kind {
    Job,
    AgentJob(ExecutionMode),
    /// Argo's.
    Workflow,
}

/// Where jobs run, and what.
#[derive(Clone)]
pub struct Place {
    pub client: Client,
    pub namespace: String,
    pub image: &'static str,
    /// What the agents do, which takes a second.
    pub entry_point: &'static str,
    /// A change of the pods of Kubernetes Jobs: a merge patch of their spec.
    pub job_pods: Value,
}

/// When each was created and when it ended, by UID.
pub struct Lives {
    pub applied: HashMap<String, Instant>,
    pub ended: HashMap<String, Instant>,
}

impl Lives {
    /// From the first create to the last end.
    pub fn seconds(&self) -> f64 {
        let (first, last) = (self.applied.values().min(), self.ended.values().max());
        first.zip(last).map_or(f64::NAN, |(first, last)| (*last - *first).as_secs_f64())
    }
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

    fn manifest(self, place: &Place, name: &str, batch: &str) -> Value {
        let labels = json!({ BATCH: batch });
        let metadata = json!({ "name": name, "labels": labels });
        let container = json!({ "name": "agent", "image": place.image, "command": ["/test-agent"] });
        let mut bare = container.clone();
        bare["env"] = json!([
            { "name": "KODO_ENTRY_POINT", "value": place.entry_point },
            { "name": "KODO_RESULT_FILE", "value": "/dev/null" },
        ]);
        match self {
            Self::AgentJob(mode) => json!({
                "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob", "metadata": metadata,
                "spec": { "executionMode": mode.as_str(), "entryPoint": place.entry_point, "template": { "spec": {
                    "terminationGracePeriodSeconds": 10, "containers": [container],
                } } },
            }),
            Self::Job => {
                let mut pod = json!({
                    "restartPolicy": "Never", "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 10, "containers": [bare],
                });
                json_patch::merge(&mut pod, &place.job_pods);
                json!({
                    "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
                    "spec": { "backoffLimit": 0, "template": { "metadata": { "labels": labels }, "spec": pod } },
                })
            }
            Self::Workflow => json!({
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata,
                "spec": { "entrypoint": "agent", "podMetadata": { "labels": labels }, "templates": [
                    { "name": "agent", "container": bare },
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
    pub async fn run(self, place: &Place, batch: &str, jobs: usize) -> Lives {
        let api = self.api(&place.client, &place.namespace);
        let (watching, mut ends) = self.watch(api.clone(), batch).await;
        let create = async |n: usize| {
            let object = self.manifest(place, &format!("{batch}-{n}"), batch);
            let object = serde_json::from_value(object).expect("an object");
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
        Lives { applied, ended }
    }

    /// Tells the end of each, once the watch is there.
    async fn watch(
        self,
        api: Api<DynamicObject>,
        batch: &str,
    ) -> (tokio::task::JoinHandle<()>, mpsc::UnboundedReceiver<(String, Instant, bool)>) {
        let (tell, ends) = mpsc::unbounded_channel();
        let (there, is_there) = oneshot::channel();
        let config = watcher::Config::default().labels(&format!("{BATCH}={batch}"));
        let task = tokio::spawn(async move {
            let mut there = Some(there);
            let mut events = watcher(api, config).default_backoff().boxed();
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

    /// Deletes those of a batch, or all, and waits until they and their pods are gone.
    pub async fn clear(self, client: &Client, namespace: &str, batch: Option<&str>) {
        let (api, pods) = (self.api(client, namespace), Api::<Pod>::namespaced(client.clone(), namespace));
        let chosen = batch.map_or_else(ListParams::default, |b| ListParams::default().labels(&format!("{BATCH}={b}")));
        api.delete_collection(&DeleteParams::background(), &chosen).await.expect("a deletion");
        let one = chosen.limit(1);
        let gone = async {
            while !api.list_metadata(&one).await.is_ok_and(|l| l.items.is_empty())
                || !pods.list_metadata(&one).await.is_ok_and(|l| l.items.is_empty())
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.expect("jobs and pods to be gone in time");
    }
}

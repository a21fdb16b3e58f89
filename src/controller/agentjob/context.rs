//! The context that all reconciles of AgentJobs share.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kube::{Client, runtime::events};
use parking_lot::Mutex;

use super::{
    JobItem,
    index::{JobStores, PodIndex, RunIndex},
    workflow_status::WorkflowStatusCache,
};
use crate::{
    api::{JobRef, SentRequest},
    controller::{Parts, runtime::Requeue},
    platform::{metrics::Metrics, settings::Defaults},
    pods::{PodConfig, Pods},
    runs::Runs,
    temporal::Temporal,
};

pub(super) struct Context {
    pub client: Client,
    pub temporal: Temporal,
    pub defaults: Defaults,
    pub cluster: String,
    pub metrics: Metrics,
    pub jobs: JobStores,
    pub runs: RunIndex,
    pub pods: PodIndex,
    pub workflows: WorkflowStatusCache,
    pub recorder: events::Recorder,
    pub pod_config: PodConfig,
    pub requeue: Requeue<JobItem>,
    memory: Mutex<HashMap<String, Memory>>,
}

/// The in-memory state of a job. A process that starts without it gets the same results.
#[derive(Clone, Default)]
pub(super) struct Memory {
    /// The job, while its workflow may be closed from outside.
    pub open: Option<JobRef>,
    /// The last request to its workflow, while it is not in the status yet.
    pub sent: Option<SentRequest>,
    /// The pod that was created last: the watch may not show it yet.
    pub created: Option<CreatedPod>,
    /// When the status was written last.
    pub written: Option<Instant>,
    /// How many reconciles in a row have failed.
    pub failures: u32,
}

/// A pod that this process has created.
#[derive(Clone)]
pub(super) struct CreatedPod {
    pub run_uid: String,
    pub pod_uid: String,
    pub at: Instant,
}

/// How long the watch may take to show a pod that was created.
const WATCH_LAG: Duration = Duration::from_secs(10);

impl Memory {
    /// The UID of the pod of a run that was created so recently that the watch may not show it yet.
    pub fn just_created(&self, run_uid: &str) -> Option<&str> {
        let created = self.created.as_ref().filter(|c| c.run_uid == run_uid && c.at.elapsed() < WATCH_LAG);
        created.map(|c| c.pod_uid.as_str())
    }
}

impl Context {
    pub fn new(parts: Parts, cluster: String, requeue: Requeue<JobItem>) -> Self {
        let Parts { client, temporal, common, pods, defaults, metrics, .. } = parts;
        let reporter = events::Reporter { controller: "koco".into(), instance: Some(common.identity.clone()) };
        Self {
            workflows: WorkflowStatusCache::new(temporal.clone(), requeue.clone()),
            recorder: events::Recorder::new(client.clone(), reporter),
            pod_config: PodConfig::follow(client.clone(), &common.namespace, pods),
            temporal,
            defaults,
            cluster,
            metrics,
            jobs: JobStores::default(),
            runs: RunIndex::default(),
            pods: PodIndex::default(),
            requeue,
            memory: Mutex::default(),
            client,
        }
    }

    pub fn runs_in(&self, namespace: &str) -> Runs {
        Runs::new(self.client.clone(), namespace)
    }

    pub fn pods_in(&self, namespace: &str) -> Pods {
        Pods::new(self.client.clone(), namespace)
    }

    /// The in-memory state of a job.
    pub fn memory(&self, uid: &str) -> Memory {
        self.memory.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes the in-memory state of a job.
    pub fn remember(&self, uid: &str, change: impl FnOnce(&mut Memory)) {
        change(self.memory.lock().entry(uid.into()).or_default());
    }

    /// Drops a job that has ended or is gone.
    pub fn forget(&self, uid: &str) {
        self.memory.lock().remove(uid);
        self.workflows.forget(uid);
    }

    /// The jobs whose workflows may be closed from outside, by UID. Drops those that are gone.
    pub fn open_jobs(&self) -> HashMap<String, JobRef> {
        let open: Vec<(String, JobRef)> =
            self.memory.lock().iter().filter_map(|(uid, m)| Some((uid.clone(), m.open.clone()?))).collect();
        let (there, gone): (Vec<_>, Vec<_>) = open.into_iter().partition(|(_, job)| self.jobs.has(job));
        for (uid, _) in gone {
            self.forget(&uid);
        }
        there.into_iter().collect()
    }
}

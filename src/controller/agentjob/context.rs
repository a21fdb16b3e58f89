//! The context that all reconciles of AgentJobs share.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use kube::{Client, runtime::events};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    Defaults, JobItem,
    index::{JobStores, PodIndex, RunIndex},
    inputs::{Judged, Judging},
    network::AgentNetwork,
    repair::Requests,
    template::Waiting,
    workflow_status::WorkflowStatusCache,
};
use crate::{
    api::{JobRef, Reason, SentRequest, names},
    controller::{
        Parts,
        runtime::{Requeue, Turns},
    },
    platform::{metrics::Metrics, notices::Notices},
    pods::{PodConfig, Pods},
    runs::Runs,
    temporal::Temporal,
};

pub(super) struct Context {
    pub client: Client,
    pub temporal: Temporal,
    pub defaults: Defaults,
    /// Our id in Temporal.
    pub installation: String,
    pub task_queue: String,
    /// How long a job whose TTL has expired waits for the server to archive it.
    pub archive_patience: Duration,
    pub metrics: Metrics,
    pub jobs: JobStores,
    pub runs: RunIndex,
    pub pods: PodIndex,
    pub workflows: WorkflowStatusCache,
    pub recorder: events::Recorder,
    pub pod_config: PodConfig,
    pub requeue: Requeue<JobItem>,
    /// How many jobs are reconciled at once, of all namespaces.
    pub turns: Turns,
    pub notices: Notices,
    pub repairs: Requests,
    pub network: AgentNetwork,
    /// How many reconciles may wait for Temporal at once: a server that hangs must leave room for Direct jobs.
    pub temporal_slots: Semaphore,
    temporal_answered: Mutex<Option<Instant>>,
    /// Of which namespaces inputs are being judged.
    pub judging: Judging,
    /// The jobs that wait for a template.
    pub waiting: Waiting,
    /// How many reconciles may create a run or a pod at once: an admission webhook that hangs must leave room for pauses
    /// and cancels.
    pub start_slots: Semaphore,
    memory: Mutex<HashMap<String, Memory>>,
}

/// The in-memory state of a job. A process that starts without it gets the same results.
#[derive(Clone, Default)]
pub(super) struct Memory {
    /// The job.
    pub job: Option<JobRef>,
    /// Whether its workflow is open, so that it may be closed from outside.
    pub open: bool,
    /// The last signals to its workflow about a run: the run, how often in a row, and when.
    pub told: Option<(i32, u32, Instant)>,
    /// What was found about its inputs, once they were judged.
    pub inputs: Option<Judged>,
    /// Why the next run can't be created.
    pub blocked: Option<(Reason, String)>,
    /// The last request to its workflow, while it is not in the status yet.
    pub sent: Option<SentRequest>,
    /// The pod that was created last: the watch may not show it yet.
    pub created: Option<CreatedPod>,
    /// When the status was written last.
    pub written: Option<Instant>,
    /// The newest version that is known of, and since when: the watch may not show it yet.
    pub newest: Option<(u64, Instant)>,
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

/// For how long a success of Temporal's says that it answers.
const LATELY: Duration = Duration::from_secs(1);
/// How long the watch may take to show a pod that was created.
const WATCH_LAG: Duration = Duration::from_secs(10);

impl Memory {
    /// What is kept of a job that has ended: what is left to do for it may fail again and again, and the cached copy, of this
    /// version, may be one from before its end.
    fn after_the_end(&self, cached: Option<u64>) -> Option<Self> {
        let newest = self.newest.filter(|(version, _)| Some(*version) > cached);
        let is_kept = self.failures > 0 || newest.is_some();
        is_kept.then(|| Self { job: self.job.clone(), failures: self.failures, newest, ..Self::default() })
    }

    /// The UID of the pod of a run that was created so recently that the watch may not show it yet.
    pub fn just_created(&self, run_uid: &str) -> Option<&str> {
        let created = self.created.as_ref().filter(|c| c.run_uid == run_uid && c.at.elapsed() < WATCH_LAG);
        created.map(|c| c.pod_uid.as_str())
    }
}

impl Context {
    pub fn new(parts: Parts, installation: String, requeue: Requeue<JobItem>) -> Self {
        let Parts { client, temporal, common, pods, defaults, metrics, settings, .. } = parts;
        let reporter = events::Reporter { controller: "koco".into(), instance: Some(common.identity.clone()) };
        Self {
            workflows: WorkflowStatusCache::new(temporal.clone(), requeue.clone()),
            recorder: events::Recorder::new(client.clone(), reporter),
            pod_config: PodConfig::follow(client.clone(), &common.namespace, pods),
            temporal,
            defaults,
            task_queue: common.task_queue.unwrap_or_else(|| names::task_queue(&installation)),
            installation,
            archive_patience: settings.archive_patience,
            runs: RunIndex::new(metrics.jobs.clone()),
            metrics,
            jobs: JobStores::default(),
            pods: PodIndex::default(),
            requeue,
            turns: Turns::new(settings.concurrency.into()),
            temporal_answered: Mutex::default(),
            judging: Judging::default(),
            waiting: Waiting::default(),
            temporal_slots: Semaphore::new(usize::from(settings.concurrency / 2).max(1)),
            start_slots: Semaphore::new(usize::from(settings.concurrency / 4).max(1)),
            memory: Mutex::default(),
            notices: Notices::default(),
            repairs: Requests::default(),
            network: AgentNetwork::new(client.clone(), settings.agent_network_policy),
            client,
        }
    }

    pub fn runs_in(&self, namespace: &str) -> Runs {
        Runs::new(self.client.clone(), namespace)
    }

    pub fn pods_in(&self, namespace: &str) -> Pods {
        Pods::new(self.client.clone(), namespace)
    }

    /// A call to Temporal has succeeded.
    pub fn temporal_has_answered(&self) {
        *self.temporal_answered.lock() = Some(Instant::now());
    }

    /// Whether one has succeeded within the last second.
    pub fn temporal_answers(&self) -> bool {
        self.temporal_answered.lock().is_some_and(|at| at.elapsed() < LATELY)
    }

    /// The in-memory state of a job.
    pub fn memory(&self, uid: &str) -> Memory {
        self.memory.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Changes the in-memory state of a job.
    pub fn remember(&self, job: &JobRef, change: impl FnOnce(&mut Memory)) {
        let mut memory = self.memory.lock();
        let entry = memory.entry(job.uid.clone()).or_default();
        entry.job.get_or_insert_with(|| job.clone());
        change(entry);
    }

    /// The job was written, and has this version now.
    pub fn wrote(&self, job: &JobRef, version: Option<u64>) {
        let now = Instant::now();
        self.remember(job, |m| {
            m.written = Some(now);
            m.newest = version.map(|version| (version, now));
        });
    }

    /// The API server has the job in this version, or in a newer one.
    pub fn has_version(&self, job: &JobRef, version: Option<u64>) {
        self.remember(job, |m| m.newest = version.map(|version| (version, Instant::now())));
    }

    /// The API server has the job in a newer version than this one.
    pub fn conflicted(&self, job: &JobRef, version: Option<u64>) {
        self.remember(job, |m| {
            let known = m.newest.map(|(version, _)| version);
            m.newest = known.max(version.map(|version| version + 1)).map(|version| (version, Instant::now()));
        });
    }

    /// The watch has a pod, or its deletion: drops the record of its creation.
    pub fn has_seen(&self, run_uid: &str, pod_uid: &str) {
        let Some(job) = self.runs.job_of(run_uid) else { return };
        if let Some(memory) = self.memory.lock().get_mut(&job.uid)
            && memory.created.as_ref().is_some_and(|c| c.pod_uid == pod_uid)
        {
            memory.created = None;
        }
    }

    /// Drops what is of no use for a job that has ended.
    pub fn has_ended(&self, uid: &str, cached: Option<u64>) {
        let left = self.memory(uid).after_the_end(cached);
        self.forget(uid);
        if let Some(left) = left {
            self.memory.lock().insert(uid.into(), left);
        }
    }

    /// Drops a job that is gone.
    pub fn forget(&self, uid: &str) {
        self.memory.lock().remove(uid);
        self.workflows.forget(uid);
    }

    /// The jobs whose workflows may be closed from outside, by UID. Drops those that are gone.
    pub fn open_jobs(&self) -> HashMap<String, JobRef> {
        let known: Vec<(JobRef, bool)> =
            self.memory.lock().values().filter_map(|m| Some((m.job.clone()?, m.open))).collect();
        let (there, gone): (Vec<_>, Vec<_>) = known.into_iter().partition(|(job, _)| self.jobs.has(job));
        for (job, _) in gone {
            self.forget(&job.uid);
        }
        there.into_iter().filter(|(_, open)| *open).map(|(job, _)| (job.uid.clone(), job)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_job_that_has_ended_is_kept_what_is_still_of_use() {
        let blocked = Some((Reason::other("x"), "y".into()));
        let left = Memory { failures: 3, open: true, blocked, ..Memory::default() }.after_the_end(Some(1)).unwrap();
        assert_eq!((left.failures, left.open, left.blocked), (3, false, None));
        assert!(Memory { open: true, ..Memory::default() }.after_the_end(Some(1)).is_none());
        let written = Memory { newest: Some((7, Instant::now())), ..Memory::default() };
        assert_eq!(written.after_the_end(Some(6)).unwrap().newest, written.newest, "the watch is to show it yet");
        assert!(written.after_the_end(Some(7)).is_none());
    }
}

//! The runs and pods from their watches, indexed by job, so that the cost of a reconcile doesn't grow with the number
//! of jobs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::FutureExt;
use kube::{
    api::ObjectMeta,
    runtime::reflector::{ObjectRef, Store},
};
use parking_lot::{Mutex, RwLock};

use super::{JobItem, measure, spans};
use crate::{
    api::{AgentJob, AgentRun, JobRef},
    platform::{metrics::JobMetrics, store::is_newer},
    pods::PodView,
};

/// AgentRuns by the UID of their job and namespace, then by number.
#[derive(Default)]
pub(super) struct RunIndex {
    inner: Mutex<RunMaps>,
    metrics: JobMetrics,
}

#[derive(Default)]
struct RunMaps {
    by_job: HashMap<(String, String), BTreeMap<i32, AgentRun>>,
    jobs: HashMap<String, (JobRef, i32)>,
    foreign: ForeignNames,
}

/// The names that AgentRuns have which are not koco's, by namespace and name, with their UID; and the reverse.
#[derive(Default)]
struct ForeignNames {
    taken: HashMap<(String, String), String>,
    by_uid: HashMap<String, (String, String)>,
}

impl RunIndex {
    /// Records in `metrics` what it sees of runs.
    pub fn new(metrics: JobMetrics) -> Self {
        Self { inner: Mutex::default(), metrics }
    }

    /// The runs of a job, by number, as of the watch.
    pub fn of(&self, job: &JobRef) -> Vec<AgentRun> {
        let key = (job.namespace.clone(), job.uid.clone());
        let inner = self.inner.lock();
        inner.by_job.get(&key).map(|runs| runs.values().cloned().collect()).unwrap_or_default()
    }

    /// Stores a trimmed copy of a run from the watch or from the response to a write. An older version never replaces a
    /// newer one.
    pub fn put(&self, mut run: AgentRun) {
        run.trim();
        let job = run.job();
        let mut inner = self.inner.lock();
        inner.jobs.insert(run.uid().into(), (job.clone(), run.number()));
        let runs = inner.by_job.entry((job.namespace, job.uid)).or_default();
        match runs.get(&run.number()) {
            Some(old) if old.uid() == run.uid() && !is_newer(&run, old) => {}
            old => {
                measure::run(&self.metrics, old, &run);
                spans::run(old, &run);
                runs.insert(run.number(), run);
            }
        }
    }

    /// Stores that an AgentRun which is not koco's has its name.
    pub fn put_foreign(&self, meta: &ObjectMeta) {
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let uid = meta.uid.clone().unwrap_or_default();
        let mut inner = self.inner.lock();
        inner.foreign.by_uid.insert(uid.clone(), key.clone());
        inner.foreign.taken.insert(key, uid);
    }

    /// Removes one that is gone; returns its namespace and name.
    pub fn remove_foreign(&self, uid: &str) -> Option<(String, String)> {
        let mut inner = self.inner.lock();
        let key = inner.foreign.by_uid.remove(uid)?;
        if inner.foreign.taken.get(&key).is_some_and(|by| by == uid) {
            inner.foreign.taken.remove(&key);
        }
        Some(key)
    }

    /// Whether an AgentRun that is not koco's has this name.
    pub fn is_taken(&self, namespace: &str, name: &str) -> bool {
        self.inner.lock().foreign.taken.contains_key(&(namespace.into(), name.into()))
    }

    /// Removes a run that is gone; returns its job.
    pub fn remove(&self, uid: &str) -> Option<JobRef> {
        let mut inner = self.inner.lock();
        let (job, number) = inner.jobs.remove(uid)?;
        let key = (job.namespace.clone(), job.uid.clone());
        if let Some(runs) = inner.by_job.get_mut(&key) {
            if runs.get(&number).is_some_and(|r| r.uid() == uid) {
                runs.remove(&number);
            }
            if runs.is_empty() {
                inner.by_job.remove(&key);
            }
        }
        Some(job)
    }

    /// A run by its UID.
    pub fn get(&self, uid: &str) -> Option<AgentRun> {
        let inner = self.inner.lock();
        let (job, number) = inner.jobs.get(uid)?;
        let run = inner.by_job.get(&(job.namespace.clone(), job.uid.clone()))?.get(number)?;
        (run.uid() == uid).then(|| run.clone())
    }

    /// Shows each run. Nothing else reads the index meanwhile.
    pub fn each(&self, mut show: impl FnMut(&AgentRun)) {
        self.inner.lock().by_job.values().flat_map(BTreeMap::values).for_each(&mut show);
    }

    /// The job of a run.
    pub fn job_of(&self, run_uid: &str) -> Option<JobRef> {
        self.inner.lock().jobs.get(run_uid).map(|(job, _)| job.clone())
    }
}

/// Pods by namespace and the UID of the run that owns them; and those that have koco's label and no such owner.
#[derive(Default)]
pub(super) struct PodIndex {
    inner: Mutex<PodMaps>,
}

#[derive(Default)]
struct PodMaps {
    by_run: HashMap<(String, String), HashMap<String, PodView>>,
    keys: HashMap<String, (String, String)>,
    /// By UID, with their namespace.
    ownerless: HashMap<String, (String, PodView)>,
}

impl PodIndex {
    /// The pods that a run of a namespace owns, as of the watch.
    pub fn of(&self, namespace: &str, run_uid: &str) -> Vec<PodView> {
        let inner = self.inner.lock();
        let found = inner.by_run.get(&(namespace.into(), run_uid.into()));
        found.map(|pods| pods.values().cloned().collect()).unwrap_or_default()
    }

    /// Stores a pod; returns whether anything relevant has changed.
    pub fn put(&self, namespace: &str, view: PodView) -> bool {
        let mut inner = self.inner.lock();
        let Some(run) = view.run_uid.clone() else {
            // Its owner was removed.
            let uid = view.uid.clone();
            drop(inner);
            let changed = self.remove(&uid).is_some();
            self.inner.lock().ownerless.insert(uid, (namespace.into(), view));
            return changed;
        };
        inner.ownerless.remove(&view.uid);
        let key = (namespace.to_string(), run);
        if let Some(old) = inner.keys.insert(view.uid.clone(), key.clone()).filter(|old| *old != key)
            && let Some(pods) = inner.by_run.get_mut(&old)
        {
            // Another owner.
            pods.remove(&view.uid);
        }
        let pods = inner.by_run.entry(key).or_default();
        let changed = pods.get(&view.uid) != Some(&view);
        pods.insert(view.uid.clone(), view);
        changed
    }

    /// Removes a pod that is gone; returns the UID of its run.
    pub fn remove(&self, uid: &str) -> Option<String> {
        let mut inner = self.inner.lock();
        inner.ownerless.remove(uid);
        let key = inner.keys.remove(uid)?;
        if let Some(pods) = inner.by_run.get_mut(&key) {
            pods.remove(uid);
            if pods.is_empty() {
                inner.by_run.remove(&key);
            }
        }
        Some(key.1)
    }

    /// Shows each pod, with its namespace. Nothing else reads the index meanwhile.
    pub fn each(&self, mut show: impl FnMut(&str, &PodView)) {
        let inner = self.inner.lock();
        for ((namespace, _), pods) in &inner.by_run {
            pods.values().for_each(|pod| show(namespace, pod));
        }
        inner.ownerless.values().for_each(|(namespace, pod)| show(namespace, pod));
    }
}

/// The jobs of all control loops.
#[derive(Default)]
pub(super) struct JobStores {
    stores: RwLock<Vec<Store<JobItem>>>,
}

impl JobStores {
    /// Adds a loop's store.
    pub fn add(&self, store: Store<JobItem>) {
        self.stores.write().push(store);
    }

    /// Whether a job is there, with this UID, as of the watches.
    pub fn has(&self, job: &JobRef) -> bool {
        let found = self.named(&job.namespace, &job.name);
        found.is_some_and(|item| kube::Resource::meta(&*item).uid.as_deref() == Some(&job.uid))
    }

    /// The job of this name, as of the watches.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Arc<JobItem>> {
        let key = ObjectRef::<JobItem>::new(name).within(namespace);
        self.stores.read().iter().find_map(|store| store.get(&key))
    }

    /// All jobs; `None` before so many loops have listed all of theirs.
    pub fn all(&self, loops: usize) -> Option<Vec<Arc<JobItem>>> {
        let stores = self.stores.read();
        let complete = |store: &Store<JobItem>| store.wait_until_ready().now_or_never().is_some();
        (stores.len() >= loops && stores.iter().all(complete)).then(|| stores.iter().flat_map(Store::state).collect())
    }
}

/// The job of an item, if it can be read.
pub(super) fn readable(item: &JobItem) -> Result<&AgentJob, &str> {
    item.object.as_ref().map_err(String::as_str)
}

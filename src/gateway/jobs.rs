//! The AgentJobs that are not over: a trimmed copy of each, kept by a watch, and a bell for each, so that a change reaches
//! the one stream that waits for it and costs nothing else. Used by everything in the gateway; all reads and writes of
//! AgentJobs pass here.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{Arc, RwLock},
};

use futures::StreamExt;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::Refusal;
use crate::{
    api::{AgentJob, AgentJobStatus, JobRef, Phase},
    platform::status,
};

/// The watch leaves out what is over: nobody may ask about such a job, and there may be very many. A job that gets there
/// leaves the watch, as one that is deleted does.
const OPEN: &str = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled";

/// What a stream sees of its job.
#[derive(Clone, Debug)]
pub enum Seen {
    /// As it is now.
    Job(Arc<AgentJob>),
    /// It is gone, or has reached its terminal phase.
    Over,
}

/// All open jobs.
pub struct Jobs {
    client: Client,
    open: RwLock<HashMap<String, watch::Sender<Seen>>>,
}

impl Jobs {
    /// None yet; see [`Jobs::follow`].
    pub fn new(client: Client) -> Self {
        Self { client, open: RwLock::default() }
    }

    /// The copy of a job, if it is open. A little old at times.
    pub fn get(&self, uid: &str) -> Option<Arc<AgentJob>> {
        match &*self.open.read().ok()?.get(uid)?.borrow() {
            Seen::Job(job) => Some(job.clone()),
            Seen::Over => None,
        }
    }

    /// Rings at each change of a job, and last when it is over.
    pub fn subscribe(&self, uid: &str) -> Option<watch::Receiver<Seen>> {
        Some(self.open.read().ok()?.get(uid)?.subscribe())
    }

    /// All copies.
    pub fn all(&self) -> Vec<Arc<AgentJob>> {
        let Ok(open) = self.open.read() else { return vec![] };
        let job = |s: &watch::Sender<Seen>| match &*s.borrow() {
            Seen::Job(job) => Some(job.clone()),
            Seen::Over => None,
        };
        open.values().filter_map(job).collect()
    }

    /// The job as the API server has it now, whole.
    pub async fn read(&self, job: &JobRef) -> Result<AgentJob, Refusal> {
        let found = status::read(&self.api(&job.namespace), job).await?;
        self.refresh(&found);
        Ok(found)
    }

    /// Writes what `change` makes of the status, beginning with `known` or our copy. If `change` refuses for a reason that a
    /// newer copy may lift, it is asked again with what the API server has. Answers the job after the write.
    pub async fn modify<F>(&self, job: &JobRef, known: Option<AgentJob>, change: F) -> Result<AgentJob, Refusal>
    where
        F: Fn(&AgentJob, &mut AgentJobStatus) -> Result<(), Refusal>,
    {
        let api = self.api(&job.namespace);
        let known = known.or_else(|| self.get(&job.uid).map(|j| (*j).clone()));
        let cached = known.is_some();
        let written = match status::modify(&api, job, known, &change).await {
            Err(refusal) if cached && refusal.may_be_stale() => status::modify(&api, job, None, &change).await,
            answer => answer,
        }?;
        self.refresh(&written);
        Ok(written)
    }

    fn api(&self, namespace: &str) -> Api<AgentJob> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Keeps the copies up to date until `stop`. Calls `synced` whenever it has seen all jobs.
    pub async fn follow(&self, namespace: Option<&str>, synced: impl Fn(), stop: &CancellationToken) {
        // A job that we can't read must not hide the others.
        let api: Api<DeserializeGuard<AgentJob>> = match namespace {
            Some(name) => Api::namespaced(self.client.clone(), name),
            None => Api::all(self.client.clone()),
        };
        let mut events = pin!(watcher(api, watcher::Config::default().fields(OPEN)).default_backoff());
        let mut listed = HashSet::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(job))) => listed.extend(self.take(job)),
                Some(Ok(watcher::Event::InitDone)) => {
                    self.retain(namespace, &std::mem::take(&mut listed));
                    synced();
                }
                Some(Ok(watcher::Event::Apply(job))) => {
                    self.take(job);
                }
                Some(Ok(watcher::Event::Delete(job))) => {
                    let metadata = match job.0 {
                        Ok(job) => job.metadata,
                        Err(invalid) => invalid.metadata,
                    };
                    self.over(metadata.uid.as_deref().unwrap_or_default());
                }
                Some(Err(error)) => tracing::warn!(%error, "watching AgentJobs"),
            }
        }
    }

    /// One job from the watch; its UID.
    fn take(&self, job: DeserializeGuard<AgentJob>) -> Option<String> {
        let job = match job.0 {
            Ok(job) => job,
            Err(invalid) => {
                let (namespace, name) = (&invalid.metadata.namespace, &invalid.metadata.name);
                tracing::warn!(?namespace, ?name, error = invalid.error, "an AgentJob that can't be read");
                return None;
            }
        };
        let uid = job.uid().to_string();
        if is_over(&job) {
            self.over(&uid);
            return None;
        }
        self.put(job, true);
        Some(uid)
    }

    /// What a read or a write of ours showed, ahead of the watch. Adds no job: one that was deleted meanwhile would stay.
    fn refresh(&self, job: &AgentJob) {
        if is_over(job) { self.over(job.uid()) } else { self.put(job.clone(), false) }
    }

    fn put(&self, mut job: AgentJob, add: bool) {
        job.trim();
        job.metadata.annotations = None;
        // Not ours to write, so the difference that is written never shows that they are missing.
        if let Some(status) = &mut job.status {
            status.result = None;
            status.conditions.clear();
        }
        let uid = job.uid().to_string();
        let fresh = Seen::Job(Arc::new(job));
        let replace = |old: &mut Seen| {
            let newer = is_newer(&fresh, old);
            if newer {
                *old = fresh.clone();
            }
            newer
        };
        if let Ok(open) = self.open.read()
            && let Some(bell) = open.get(&uid)
        {
            bell.send_if_modified(replace);
        } else if add && let Ok(mut open) = self.open.write() {
            open.entry(uid).or_insert_with(|| watch::channel(fresh).0);
        }
    }

    fn over(&self, uid: &str) {
        let bell = self.open.write().ok().and_then(|mut open| open.remove(uid));
        if let Some(bell) = bell {
            bell.send_replace(Seen::Over);
        }
    }

    /// After a fresh list: what it lacks is over.
    fn retain(&self, namespace: Option<&str>, listed: &HashSet<String>) {
        let ours = |job: &AgentJob| namespace.is_none_or(|n| job.metadata.namespace.as_deref() == Some(n));
        for job in self.all().iter().filter(|job| ours(job)) {
            if !listed.contains(job.uid()) {
                self.over(job.uid());
            }
        }
    }
}

fn is_over(job: &AgentJob) -> bool {
    job.status.as_ref().and_then(|s| s.phase).is_some_and(Phase::is_terminal)
}

/// Whether `new` was written after `old`. A write's answer and the watch come in any order.
fn is_newer(new: &Seen, old: &Seen) -> bool {
    let version = |seen: &Seen| match seen {
        Seen::Job(job) => job.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()),
        Seen::Over => None,
    };
    match (version(new), version(old)) {
        (Some(new), Some(old)) => new > old,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures;

    fn jobs() -> Jobs {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Jobs::new(Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap())
    }

    fn version(number: u64, seq: i64) -> AgentJob {
        let mut job = fixtures::job();
        job.metadata.resource_version = Some(number.to_string());
        job.status.as_mut().unwrap().control = Some(fixtures::command(seq));
        job
    }

    fn seq(jobs: &Jobs) -> Option<i64> {
        jobs.get("u").and_then(|j| j.status.as_ref()?.control.as_ref()?.command.as_ref().map(|c| c.seq))
    }

    #[tokio::test]
    async fn an_older_copy_never_replaces_a_newer_one() {
        let jobs = jobs();
        jobs.refresh(&version(3, 1));
        assert!(jobs.get("u").is_none(), "only the watch adds");
        jobs.take(DeserializeGuard(Ok(version(5, 2))));
        let mut bell = jobs.subscribe("u").unwrap();
        jobs.refresh(&version(9, 4));
        assert!(bell.has_changed().unwrap());
        bell.mark_unchanged();
        jobs.take(DeserializeGuard(Ok(version(7, 3))));
        assert_eq!(seq(&jobs), Some(4));
        assert!(!bell.has_changed().unwrap(), "and does not wake anybody");
    }

    #[tokio::test]
    async fn what_is_over_rings_and_leaves() {
        let jobs = jobs();
        jobs.take(DeserializeGuard(Ok(version(5, 2))));
        let mut bell = jobs.subscribe("u").unwrap();
        let mut over = version(6, 2);
        over.status.as_mut().unwrap().phase = Some(Phase::Failed);
        jobs.take(DeserializeGuard(Ok(over)));
        assert!(matches!(&*bell.borrow_and_update(), Seen::Over));
        assert!(jobs.get("u").is_none());
        jobs.take(DeserializeGuard(Ok(version(5, 2))));
        jobs.retain(Some("elsewhere"), &HashSet::new());
        assert!(jobs.get("u").is_some(), "another watch's list says nothing about it");
        jobs.retain(Some("a"), &HashSet::new());
        assert!(jobs.get("u").is_none());
    }

    #[tokio::test]
    async fn copies_hold_no_inputs() {
        let jobs = jobs();
        let mut big = version(5, 2);
        big.spec.inputs.insert("secret".into(), "x".into());
        jobs.take(DeserializeGuard(Ok(big)));
        assert!(jobs.get("u").unwrap().spec.inputs.is_empty());
    }
}

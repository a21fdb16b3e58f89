//! The open AgentRuns: a trimmed copy of each, kept by a watch, with a channel for each, so that a change reaches the
//! one stream that waits for it and costs nothing else. Used by everything in the gateway; all its reads and writes of
//! AgentRuns pass here.

use std::{collections::HashMap, sync::Arc};

use kube::Client;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::server::Refusal;
use crate::{
    api::{AgentRun, AgentRunStatus, JobRef, TerminationSource, names},
    platform::{
        follow::{Change, follow},
        notices::Notices,
        store,
    },
    protocol::runner::RunPath,
    runs::Runs,
};

/// What a stream sees of its run.
#[derive(Clone, Debug)]
pub enum RunUpdate {
    /// As it is now.
    Open(Arc<AgentRun>),
    /// It is closed, as its own runner reported.
    ClosedByRunner,
    /// It is closed otherwise, or gone.
    Closed,
}

/// The open runs, by UID and by name.
#[derive(Default)]
struct Index {
    runs: HashMap<String, watch::Sender<RunUpdate>>,
    uids: HashMap<(String, String), String>,
}

/// All open runs.
pub struct RunCache {
    client: Client,
    open: RwLock<Index>,
    notices: Notices,
}

fn key(run: &AgentRun) -> (String, String) {
    (run.metadata.namespace.clone().unwrap_or_default(), run.name().to_string())
}

fn opened(sender: &watch::Sender<RunUpdate>) -> Option<Arc<AgentRun>> {
    match &*sender.borrow() {
        RunUpdate::Open(run) => Some(run.clone()),
        RunUpdate::ClosedByRunner | RunUpdate::Closed => None,
    }
}

impl RunCache {
    /// None yet; see [`RunCache::follow`].
    pub fn new(client: Client) -> Self {
        Self { client, open: RwLock::default(), notices: Notices::default() }
    }

    /// The copy of a run of that name, if it is open. May be stale.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Arc<AgentRun>> {
        let open = self.open.read();
        let uid = open.uids.get(&(namespace.to_string(), name.to_string()))?;
        opened(open.runs.get(uid)?)
    }

    /// The same by UID.
    pub fn get(&self, uid: &str) -> Option<Arc<AgentRun>> {
        opened(self.open.read().runs.get(uid)?)
    }

    /// Every change of a run, up to its closing.
    pub fn subscribe(&self, uid: &str) -> Option<watch::Receiver<RunUpdate>> {
        Some(self.open.read().runs.get(uid)?.subscribe())
    }

    /// All copies.
    pub fn all(&self) -> Vec<Arc<AgentRun>> {
        self.open.read().runs.values().filter_map(opened).collect()
    }

    /// A run as the API server has it now, open or closed.
    pub async fn read(&self, job: &JobRef, number: i32) -> Result<AgentRun, Refusal> {
        let found = Runs::new(self.client.clone(), &job.namespace).get(job, number).await?.ok_or(Refusal::Gone)?;
        self.refresh(&found);
        Ok(found)
    }

    /// The same, by its name.
    pub async fn read_named(&self, run: &RunPath) -> Result<AgentRun, Refusal> {
        let found = Runs::new(self.client.clone(), &run.namespace).named(&run.name).await?.ok_or(Refusal::Gone)?;
        self.refresh(&found);
        Ok(found)
    }

    /// Changes a run's status: applies `change` to `known`, and after each conflict to the API server's version.
    /// Returns the run after the write; a closed run is returned unchanged.
    pub async fn modify_status<F>(&self, known: &AgentRun, change: F) -> Result<AgentRun, Refusal>
    where
        F: Fn(&AgentRun, &mut AgentRunStatus) -> Result<(), Refusal>,
    {
        let runs = Runs::new(self.client.clone(), known.metadata.namespace.as_deref().unwrap_or_default());
        let uid = known.uid();
        // After a conflict another run may have the name.
        let same = |run: &AgentRun, status: &mut AgentRunStatus| {
            if run.uid() == uid { change(run, status) } else { Err(Refusal::Gone) }
        };
        let written = runs.modify_status(known.clone(), same).await?;
        self.refresh(&written);
        if written.uid() == uid { Ok(written) } else { Err(Refusal::Gone) }
    }

    /// Keeps the copies up to date until `stop`. Calls `synced` whenever it has seen all runs.
    pub async fn follow(&self, namespace: Option<&str>, synced: impl Fn(), stop: &CancellationToken) {
        let watch = follow::<AgentRun>(self.client.clone(), namespace, None, synced, |change| self.take(change));
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch => {}
        }
    }

    /// Handles a change from the watch. Of a run that can't be read any more the older copy is kept.
    fn take(&self, change: Change<AgentRun>) {
        match change {
            Change::Applied(run) if run.is_closed() => self.close(run.uid(), closing(&run)),
            Change::Applied(run) => self.put(*run, true),
            Change::Gone(uid) => self.close(&uid, RunUpdate::Closed),
            Change::Unreadable(meta, error) => _ = self.notices.unreadable("AgentRun", &meta, &error),
        }
    }

    /// Stores the result of a read or write, ahead of the watch. Adds no run: one that was deleted meanwhile would
    /// never be removed.
    fn refresh(&self, run: &AgentRun) {
        if run.is_closed() { self.close(run.uid(), closing(run)) } else { self.put(run.clone(), false) }
    }

    fn put(&self, mut run: AgentRun, add: bool) {
        run.metadata.managed_fields = None;
        if let Some(annotations) = &mut run.metadata.annotations {
            annotations.retain(|name, _| name == names::ANNOTATION_TRACEPARENT);
        }
        run.metadata.labels = None;
        let (uid, key) = (run.uid().to_string(), key(&run));
        let fresh = RunUpdate::Open(Arc::new(run));
        let replace = |old: &mut RunUpdate| {
            let newer = is_newer(&fresh, old);
            if newer {
                *old = fresh.clone();
            }
            newer
        };
        if let Some(sender) = self.open.read().runs.get(&uid) {
            sender.send_if_modified(replace);
            return;
        }
        if !add {
            return;
        }
        let mut open = self.open.write();
        // Another run of that name was deleted, and its event is yet to come.
        if let Some(earlier) = open.uids.insert(key, uid.clone()).filter(|earlier| *earlier != uid)
            && let Some(sender) = open.runs.remove(&earlier)
        {
            sender.send_replace(RunUpdate::Closed);
        }
        open.runs.entry(uid).or_insert_with(|| watch::channel(fresh).0);
    }

    fn close(&self, uid: &str, last: RunUpdate) {
        if !self.open.read().runs.contains_key(uid) {
            return;
        }
        let mut open = self.open.write();
        let Some(sender) = open.runs.remove(uid) else { return };
        if let Some(run) = opened(&sender) {
            let key = key(&run);
            if open.uids.get(&key).is_some_and(|of| of == uid) {
                open.uids.remove(&key);
            }
        }
        drop(open);
        sender.send_replace(last);
    }
}

fn closing(run: &AgentRun) -> RunUpdate {
    match run.termination() {
        Some(termination) if termination.source == TerminationSource::Runner => RunUpdate::ClosedByRunner,
        _ => RunUpdate::Closed,
    }
}

fn is_newer(new: &RunUpdate, old: &RunUpdate) -> bool {
    match (new, old) {
        (RunUpdate::Open(new), RunUpdate::Open(old)) => store::is_newer(&**new, &**old),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixtures;

    fn cache() -> RunCache {
        let _ = rustls::crypto::ring::default_provider().install_default();
        RunCache::new(Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap())
    }

    fn version(number: u64, generation: i64) -> AgentRun {
        let mut run = fixtures::run();
        run.metadata.resource_version = Some(number.to_string());
        run.spec.command = Some(fixtures::command(generation));
        run
    }

    fn take(cache: &RunCache, run: AgentRun) {
        cache.take(Change::Applied(Box::new(run)));
    }

    fn generation(cache: &RunCache) -> Option<i64> {
        cache.get("r").map(|r| r.command_generation())
    }

    #[tokio::test]
    async fn an_older_copy_never_replaces_a_newer_one() {
        let cache = cache();
        cache.refresh(&version(3, 1));
        assert!(cache.get("r").is_none(), "only the watch adds");
        take(&cache, version(5, 2));
        let mut updates = cache.subscribe("r").unwrap();
        cache.refresh(&version(9, 4));
        assert!(updates.has_changed().unwrap());
        updates.mark_unchanged();
        take(&cache, version(7, 3));
        assert_eq!(generation(&cache), Some(4));
        assert!(!updates.has_changed().unwrap(), "and does not wake anybody");
    }

    #[tokio::test]
    async fn a_closed_run_says_so_and_leaves() {
        let cache = cache();
        take(&cache, version(5, 2));
        let name = fixtures::run().name().to_string();
        assert!(cache.named("a", &name).is_some());
        let mut updates = cache.subscribe("r").unwrap();
        let mut closed = version(6, 2);
        closed.status.as_mut().unwrap().termination = Some(fixtures::termination());
        take(&cache, closed);
        assert!(matches!(&*updates.borrow_and_update(), RunUpdate::ClosedByRunner));
        assert!(cache.get("r").is_none() && cache.named("a", &name).is_none());
        let mut tombstone = version(6, 2);
        tombstone.spec.identity.tombstone = true;
        take(&cache, tombstone);
        assert!(cache.get("r").is_none(), "nor does one come that was never open");
    }

    #[tokio::test]
    async fn one_that_is_deleted_leaves() {
        let cache = cache();
        take(&cache, version(5, 2));
        let mut updates = cache.subscribe("r").unwrap();
        cache.take(Change::Gone("r".into()));
        assert!(matches!(&*updates.borrow_and_update(), RunUpdate::Closed));
        assert!(cache.get("r").is_none());
    }

    #[tokio::test]
    async fn a_new_run_of_the_same_name_closes_the_old_one() {
        let cache = cache();
        take(&cache, version(5, 2));
        let mut updates = cache.subscribe("r").unwrap();
        let mut next = version(8, 0);
        next.metadata.uid = Some("s".into());
        take(&cache, next);
        assert!(matches!(&*updates.borrow_and_update(), RunUpdate::Closed));
        cache.close("r", RunUpdate::Closed);
        assert_eq!(cache.named("a", fixtures::run().name()).unwrap().uid(), "s");
    }

    #[tokio::test]
    async fn one_that_cannot_be_read_is_skipped_and_closes_nothing() {
        let cache = cache();
        take(&cache, version(5, 2));
        let meta = fixtures::run().metadata;
        cache.take(Change::Unreadable(Box::new(meta), "too deep".into()));
        assert_eq!(generation(&cache), Some(2));
    }
}

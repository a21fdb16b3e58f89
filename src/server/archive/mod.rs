//! Follows the AgentJobs and writes what becomes of them to the database. Started by [`crate::server::run`], once for
//! each watched namespace.
//!
//! One at a time: what comes from the watch is written before more is taken from it, so a database that is slow or down
//! costs no memory. A watch that falls behind begins anew with a list. [`runs`] does the same with the AgentRuns.

mod namespaces;
mod record;
pub mod runs;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use futures::{FutureExt, StreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use serde_json::json;

use self::namespaces::Namespaces;
use crate::{
    api::{AgentJob, JobRef, names},
    database::{Database, DatabaseError, Execution, Fid},
    platform::{
        clock,
        metrics::ServerMetrics,
        notices::Notices,
        watch::{Item, config, items},
    },
};

/// How many changes are written together.
const BATCH: usize = 64;
/// How many annotations are written at a time.
const ANNOTATIONS: usize = 8;

/// What is to be written.
#[derive(Default)]
struct Batch {
    executions: Vec<Execution>,
    gone: Vec<Fid>,
    /// Those that wait to be deleted until they are in the archive.
    waiting: Vec<JobRef>,
}

/// Writes the jobs of a namespace, or of all.
pub struct Archive {
    client: Client,
    database: Database,
    namespace: Option<String>,
    namespaces: Namespaces,
    notices: Notices,
    metrics: ServerMetrics,
    writing: Writing,
    /// Jobs that ended before that are no measure of how late the archive is.
    began: Timestamp,
    batch: Batch,
}

/// Since when the database is waited for, if it is.
#[derive(Clone, Default)]
pub struct Writing(Arc<Mutex<Option<Instant>>>);

/// Ends it.
struct Begun<'a>(&'a Writing);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        *self.0.0.lock() = None;
    }
}

impl Writing {
    fn begin(&self) -> Begun<'_> {
        *self.0.lock() = Some(Instant::now());
        Begun(self)
    }

    /// How long it has taken so far.
    pub fn took(&self) -> Duration {
        self.0.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Archive {
    pub fn new(client: Client, database: Database, namespace: Option<String>, metrics: ServerMetrics) -> Self {
        Self {
            namespaces: Namespaces::new(client.clone()),
            client,
            database,
            namespace,
            notices: Notices::default(),
            metrics,
            writing: Writing::default(),
            began: clock::now(),
            batch: Batch::default(),
        }
    }

    /// Since when the database is waited for.
    pub fn writing(&self) -> Writing {
        self.writing.clone()
    }

    /// For ever. Calls `synced` once all jobs that there are have been written.
    pub async fn follow(mut self, synced: impl FnOnce()) {
        let mut synced = Some(synced);
        let jobs = items::<AgentJob>(self.client.clone(), self.namespace.as_deref());
        let mut events = watcher(jobs, config()).default_backoff().boxed();
        // Before a list: the jobs that are not known to be gone. What the list lacks of them is.
        let mut before = HashMap::new();
        while let Some(event) = events.next().await {
            let mut next = Some(event);
            while let Some(event) = next.take() {
                match event {
                    // The list is asked for when the next event is. What others write from now on it may not have.
                    Ok(watcher::Event::Init) => before = self.live().await,
                    Ok(watcher::Event::InitApply(job)) => {
                        before.remove(job.uid().as_deref().unwrap_or_default());
                        self.take(job).await;
                    }
                    Ok(watcher::Event::Apply(job)) => self.take(job).await,
                    Ok(watcher::Event::Delete(job)) => {
                        self.batch.gone.extend(record::fid(job.meta()));
                        self.take(job).await;
                    }
                    Ok(watcher::Event::InitDone) => {
                        self.batch.gone.extend(before.drain().map(|(_, fid)| fid));
                        self.flush().await;
                        if let Some(synced) = synced.take() {
                            synced();
                        }
                    }
                    Err(error) => tracing::warn!(%error, "watching AgentJobs"),
                }
                if self.batch.executions.len() < BATCH {
                    next = events.next().now_or_never().flatten();
                }
            }
            self.flush().await;
        }
    }

    async fn take(&mut self, item: Item<AgentJob>) {
        match item.object {
            Ok(job) => {
                let namespace = job.metadata.namespace.clone().unwrap_or_default();
                let uid = match &job.metadata.creation_timestamp {
                    Some(created) => self.namespaces.uid(&namespace, created.0).await,
                    None => String::new(),
                };
                self.batch.executions.extend(record::execution(&job, &uid));
                if record::waits(&job) {
                    self.batch.waiting.push(job.reference());
                }
            }
            Err(ref error) => _ = self.notices.unreadable("AgentJob", item.meta(), error),
        }
    }

    /// Writes what was taken, however long that takes.
    async fn flush(&mut self) {
        let Batch { executions, gone, waiting } = std::mem::take(&mut self.batch);
        let waits = self.writing.begin();
        if !executions.is_empty() {
            let write = || self.database.upsert(executions.clone());
            let finished = tried("writing executions", DatabaseError::reason, write).await;
            self.observe(&executions, &finished);
        }
        if !gone.is_empty() {
            let at = clock::now().as_millisecond();
            tried("recording that jobs are gone", DatabaseError::reason, || self.database.mark_deleted(&gone, at))
                .await;
        }
        drop(waits);
        let annotations = waiting.into_iter().map(|job| annotate(self.client.clone(), job));
        futures::stream::iter(annotations).buffer_unordered(ANNOTATIONS).collect::<Vec<()>>().await;
    }

    /// Measures how late those are that the archive now has as they ended.
    fn observe(&self, executions: &[Execution], finished: &[Fid]) {
        // Kubernetes' times are whole seconds.
        let (now, began) = (clock::now().as_millisecond(), self.began.as_second() * 1000);
        for fid in finished {
            let found = executions.iter().filter(|e| e.summary.fid == *fid).find_map(|e| e.summary.finished);
            if let Some(ended) = found.filter(|ended| *ended >= began) {
                self.metrics.archive.observe((now - ended).max(0) as f64 / 1000.0);
            }
        }
    }

    /// The executions whose jobs are not known to be gone, by the jobs' UIDs.
    async fn live(&self) -> HashMap<String, Fid> {
        let (mut all, mut after) = (HashMap::new(), Fid([0; 12]));
        let _waits = self.writing.begin();
        loop {
            let page = || self.database.live(self.namespace.as_deref(), after);
            let page = tried("reading executions", DatabaseError::reason, page).await;
            let Some((last, _)) = page.last() else { return all };
            after = *last;
            all.extend(page.into_iter().map(|(fid, uid)| (uid, fid)));
        }
    }
}

/// Tries until it succeeds, ever less often.
async fn tried<T, E: std::fmt::Display, Fut: Future<Output = Result<T, E>>>(
    what: &'static str,
    reason: impl Fn(&E) -> &'static str,
    mut call: impl FnMut() -> Fut,
) -> T {
    let mut waits = backoff().without_max_times().build();
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(%error, reason = reason(&error), what, "the archive waits"),
        }
        tokio::time::sleep(waits.next().unwrap_or_default()).await;
    }
}

fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
}

/// Says on a job that it is in the archive. If that fails, the controller goes on without it after a while.
async fn annotate(client: Client, job: JobRef) {
    let api: Api<AgentJob> = Api::namespaced(client, &job.namespace);
    // The UID makes it a conflict if another job has the name by now.
    let patch = Patch::Merge(json!({
        "metadata": { "uid": job.uid, "annotations": { names::ANNOTATION_ARCHIVED: clock::now().to_string() } }
    }));
    let params = PatchParams::default();
    let write = || async {
        match api.patch_metadata(&job.name, &params, &patch).await {
            Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409 | 422) => Ok(()),
            done => done.map(drop),
        }
    };
    if let Err(error) = write.retry(backoff().with_max_times(4)).await {
        tracing::warn!(%error, namespace = job.namespace, name = job.name, "saying that a job is archived");
    }
}

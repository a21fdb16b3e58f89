//! A background cache of workflow queries, so that an unavailable server or worker delays no reconcile. Queries are
//! sent after changes, not by a timer for each job; and repeated with back-off until the result has caught up.
//! It also keeps when other calls are to be tried again: a job's own less and less often; but those that wait for a server
//! that doesn't answer go on soon after it does, because one of them asks for all.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::{
    JobItem,
    plan::{StartedWorkflow, WorkflowSnapshot},
};
use crate::{
    api::{JobRef, Reason},
    controller::runtime::Requeue,
    protocol::workflow::{Input, QUERY_STATUS, StatusAnswer},
    temporal::{Closed, Described, Temporal, TemporalError},
};

/// The limit of concurrent queries.
const AT_ONCE: usize = 32;
/// The wait before the first question after a change: a workflow takes a moment to act on it, too.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// The limit of workflows whose close is waited for at once, well below the server's limit of long polls.
const CLOSING: usize = 128;
/// How long a workflow's close is waited for before it is queried.
const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// How many waiting jobs are enqueued after a success.
const WOKEN: usize = 64;
/// How often one of them is, to see whether the server answers.
const PROBE: Duration = Duration::from_secs(2);
/// The first and the longest wait before a job's failed call is tried again; the jitter adds up to as much again. After a
/// success of another it comes sooner, but never sooner than the first.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// How long the id of the Temporal namespace is taken as known, for workflows that are there.
const NAMESPACE_KNOWN: Duration = Duration::from_secs(10);

/// When the id of the Temporal namespace was asked for, and the id if it could be read.
type ReadId = (Instant, Option<String>);

#[derive(Default)]
struct Entry {
    answer: Option<WorkflowSnapshot>,
    trouble: Option<(Reason, String)>,
    started: Option<(StartedWorkflow, Instant)>,
    asking: bool,
    backoff: Duration,
    /// The waits before other calls are tried again, since one failed.
    retries: Option<ExponentialBackoff>,
}

/// The cached state of a workflow.
#[derive(Default)]
pub(super) struct Known {
    /// The last snapshot.
    pub answer: Option<WorkflowSnapshot>,
    /// Why the last call to Temporal failed, if so.
    pub trouble: Option<(Reason, String)>,
    /// The run that this process started.
    pub started: Option<StartedWorkflow>,
}

/// A server that doesn't answer.
#[derive(Default)]
struct Outage {
    /// Why the last call of any job failed, if the server could not be reached.
    trouble: Option<(Reason, String)>,
    /// The jobs whose calls have failed for that, or were not tried, by UID.
    waiting: HashMap<String, Waiting>,
}

struct Waiting {
    job: JobRef,
    /// When its call failed, if it was tried.
    failed: Option<Instant>,
}

impl Outage {
    /// Takes some of the jobs that may be tried now.
    fn take(&mut self, most: usize, now: Instant) -> Vec<JobRef> {
        let may = |w: &Waiting| w.failed.is_none_or(|at| now.saturating_duration_since(at) >= RETRY.0);
        let some = self.waiting.iter().filter(|(_, w)| may(w)).map(|(uid, _)| uid.clone()).take(most);
        let some: Vec<String> = some.collect();
        some.iter().filter_map(|uid| self.waiting.remove(uid)).map(|w| w.job).collect()
    }
}

/// Snapshots by the UID of the job.
#[derive(Clone)]
pub(super) struct WorkflowStatusCache {
    temporal: Temporal,
    requeue: Requeue<JobItem>,
    slots: Arc<Semaphore>,
    closing: Arc<Semaphore>,
    outage: Arc<Mutex<Outage>>,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    namespace_id: Arc<Mutex<Option<ReadId>>>,
}

impl WorkflowStatusCache {
    pub fn new(temporal: Temporal, requeue: Requeue<JobItem>) -> Self {
        Self {
            temporal,
            requeue,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            closing: Arc::new(Semaphore::new(CLOSING)),
            outage: Arc::default(),
            entries: Arc::default(),
            namespace_id: Arc::default(),
        }
    }

    /// The cached state of a job's workflow.
    pub fn last(&self, uid: &str) -> Known {
        let entries = self.entries.lock();
        entries.get(uid).map_or_else(Known::default, |e| Known {
            answer: e.answer.clone(),
            trouble: e.trouble.clone(),
            started: e.started.clone().map(|(started, at)| StartedWorkflow { ago: at.elapsed(), ..started }),
        })
    }

    /// Drops a job that needs no more queries.
    pub fn forget(&self, uid: &str) {
        self.outage.lock().waiting.remove(uid);
        self.entries.lock().remove(uid);
    }

    /// The workflow was started: drops an older snapshot, which would say that there is none.
    pub async fn started(&self, uid: &str, run_id: Option<String>, input: &Input) {
        let namespace_id = self.namespace_id().await;
        let request = input.progress.last_request.as_ref().map_or_else(String::new, |request| request.id.clone());
        let mut entries = self.entries.lock();
        let entry = entries.entry(uid.into()).or_default();
        let started = |run_id| StartedWorkflow { run_id, namespace_id, request, ago: Duration::ZERO };
        let started = run_id.map(|run_id| (started(run_id), Instant::now()));
        (entry.answer, entry.trouble, entry.started) = (None, None, started.or(entry.started.take()));
    }

    /// The id of the Temporal namespace, read now and then: one call for all jobs.
    async fn namespace_id(&self) -> Option<String> {
        let known = self.namespace_id.lock().clone();
        if let Some((_, id)) = known.filter(|(at, _)| at.elapsed() < NAMESPACE_KNOWN) {
            return id;
        }
        self.read_namespace_id().await
    }

    async fn read_namespace_id(&self) -> Option<String> {
        let id = self.temporal.namespace_id().await;
        let id = id.inspect_err(|error| tracing::debug!(%error, "the Temporal namespace's id")).ok();
        *self.namespace_id.lock() = Some((Instant::now(), id.clone()));
        id
    }

    /// Records a failed call to Temporal.
    pub fn failed(&self, job: JobRef, error: &TemporalError) {
        let trouble = Some((Reason::other(error.reason()), error.to_string()));
        self.entries.lock().entry(job.uid.clone()).or_default().trouble.clone_from(&trouble);
        if error.is_transient() {
            let mut outage = self.outage.lock();
            outage.trouble = trouble;
            outage.waiting.insert(job.uid.clone(), Waiting { job, failed: Some(Instant::now()) });
        }
    }

    /// Records that a call was not tried because others wait for an answer: if theirs have failed, so would this one.
    /// The job is enqueued soon after one succeeds.
    pub fn not_tried(&self, job: JobRef) {
        let mut outage = self.outage.lock();
        if let Some(trouble) = outage.trouble.clone() {
            self.entries.lock().entry(job.uid.clone()).or_default().trouble = Some(trouble);
        }
        outage.waiting.insert(job.uid.clone(), Waiting { job, failed: None });
    }

    /// How long a job waits after a call that failed or was not tried, if no other succeeds meanwhile.
    pub fn retry_after(&self, uid: &str) -> Duration {
        let (first, longest) = RETRY;
        let waits = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
        let waits = waits.without_max_times().with_jitter();
        let mut entries = self.entries.lock();
        let retries = entries.entry(uid.into()).or_default().retries.get_or_insert_with(|| waits.build());
        retries.next().unwrap_or(longest)
    }

    /// Enqueues one of those that wait, for ever, so that a server which answers again is noticed soon, however long each
    /// of them waits by itself.
    pub async fn probe(&self) {
        loop {
            tokio::time::sleep(PROBE).await;
            self.wake(1, Instant::now());
        }
    }

    fn wake(&self, most: usize, now: Instant) {
        let woken = self.outage.lock().take(most, now);
        for job in woken {
            self.requeue.ask(&job.namespace, &job.name);
        }
    }

    /// Records a call that succeeded, and enqueues some of the jobs that wait.
    pub fn succeeded(&self, uid: &str) {
        {
            let mut outage = self.outage.lock();
            outage.trouble = None;
            outage.waiting.remove(uid);
        }
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            (entry.trouble, entry.retries) = (None, None);
        }
        self.wake(WOKEN, Instant::now());
    }

    /// Resets the back-off of queries, after a change.
    pub fn reset_backoff(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            entry.backoff = Duration::ZERO;
        }
    }

    /// Queries, unless a query for this job is in flight. Its result enqueues the job.
    pub fn poll(&self, job: JobRef, workflow: String) {
        self.ask(job, workflow, false);
    }

    /// The same of a workflow that is about to be closed: waits for that first, and queries it only if it takes long.
    pub fn await_close(&self, job: JobRef, workflow: String) {
        self.ask(job, workflow, true);
    }

    fn ask(&self, job: JobRef, workflow: String, closes: bool) {
        let Some(wait) = self.next_wait(&job.uid) else { return };
        let cache = self.clone();
        let asked = async move {
            let began = Instant::now();
            let closed = if closes { cache.close_of(&workflow, wait.max(CLOSE_WAIT)).await } else { None };
            let answer = match closed {
                Some(closed) => Ok(closed),
                None => {
                    tokio::time::sleep(wait.saturating_sub(began.elapsed())).await;
                    match cache.slots.acquire().await {
                        Ok(_slot) => cache.question(&workflow).await,
                        Err(_) => return,
                    }
                }
            };
            cache.store(&job, answer);
        };
        tokio::spawn(asked.in_current_span());
    }

    /// That a workflow has completed, once it has; none if that takes too long, or if it was closed otherwise: a failed one has
    /// to be queried, and one that was reset goes on in another execution.
    async fn close_of(&self, workflow: &str, limit: Duration) -> Option<WorkflowSnapshot> {
        let _slot = self.closing.try_acquire().ok()?;
        let completed = self.temporal.completes(workflow, limit).await;
        let closed = completed.then_some(Closed::Completed)?;
        let namespace_id = self.namespace_id().await;
        Some(WorkflowSnapshot { closed: Some(closed), namespace_id, ..WorkflowSnapshot::default() })
    }

    /// How long to wait with the next query; `None` while one is in flight.
    fn next_wait(&self, uid: &str) -> Option<Duration> {
        let mut entries = self.entries.lock();
        let entry = entries.entry(uid.into()).or_default();
        if std::mem::replace(&mut entry.asking, true) {
            return None;
        }
        let wait = wait_of(entry.backoff);
        entry.backoff = wait * 2;
        Some(wait)
    }

    fn store(&self, job: &JobRef, answer: Result<WorkflowSnapshot, TemporalError>) {
        if let Some(entry) = self.entries.lock().get_mut(&job.uid) {
            entry.asking = false;
            match answer {
                Ok(answer) => {
                    if entry.answer.as_ref() != Some(&answer) {
                        entry.backoff = Duration::ZERO;
                    }
                    // A snapshot without a query's result keeps the previous result.
                    let status = answer.status.clone().or_else(|| entry.answer.take().and_then(|a| a.status));
                    entry.answer = Some(WorkflowSnapshot { status, ..answer });
                    entry.trouble = None;
                }
                Err(e) => entry.trouble = Some((Reason::other(e.reason()), e.to_string())),
            }
        }
        self.requeue.ask(&job.namespace, &job.name);
    }

    /// A describe call, and a query: a terminated workflow still answers queries, with its last state.
    async fn question(&self, workflow: &str) -> Result<WorkflowSnapshot, TemporalError> {
        let Described { closed, run_id, failing } = match self.temporal.describe(workflow).await {
            Ok(described) => described,
            Err(TemporalError::NotFound(_)) => return Ok(self.missing().await),
            Err(e) => return Err(e),
        };
        let asked = match has_more_to_say(closed) {
            true => Some(self.temporal.query::<StatusAnswer>(workflow, QUERY_STATUS).await),
            false => None,
        };
        let status = match asked.transpose() {
            Ok(status) => status,
            Err(TemporalError::NotFound(_)) => return Ok(self.missing().await),
            Err(error) => {
                tracing::debug!(%error, workflow, "a query failed");
                None
            }
        };
        let namespace_id = self.namespace_id().await;
        Ok(WorkflowSnapshot { status, closed, run_id: Some(run_id), missing: false, namespace_id, failing })
    }

    /// Which server says so is read after the answer.
    async fn missing(&self) -> WorkflowSnapshot {
        let namespace_id = self.read_namespace_id().await;
        WorkflowSnapshot { missing: true, namespace_id, ..WorkflowSnapshot::default() }
    }
}

/// How long to wait with a question, by what the one before left.
fn wait_of(backoff: Duration) -> Duration {
    backoff.clamp(FIRST_WAIT, LONGEST_WAIT)
}

/// Whether a workflow has to be queried. Not after its success: a query would have a worker replay all of it, to say
/// what the run's record says.
fn has_more_to_say(closed: Option<Closed>) -> bool {
    closed != Some(Closed::Completed)
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::controller::runtime::requeue_router;

    /// The waits before the questions of so many milliseconds.
    fn questions(millis: u64) -> usize {
        let (mut backoff, mut at, mut count) = (Duration::ZERO, Duration::ZERO, 0);
        loop {
            let wait = wait_of(backoff);
            (at, backoff) = (at + wait, wait * 2);
            if at > Duration::from_millis(millis) {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn a_workflow_that_ends_soon_is_asked_a_few_times() {
        assert_eq!((questions(49), questions(50), questions(350), questions(3150)), (0, 1, 3, 6));
        assert_eq!(wait_of(LONGEST_WAIT * 2), LONGEST_WAIT);
    }

    /// As with a server that limits how much it is asked.
    #[tokio::test]
    async fn a_server_that_refuses_half_of_the_queries_is_asked_ever_less_often() {
        let cache = WorkflowStatusCache::new(Temporal::new(None), requeue_router(&[None]).0);
        let job = JobRef { namespace: "n".into(), name: "j".into(), uid: "u".into() };
        let exhausted = || Err(TemporalError::Unavailable("ResourceExhausted: namespace rate limit exceeded".into()));
        let mut waits = Vec::new();
        for n in 0..20 {
            waits.push(cache.next_wait(&job.uid).unwrap());
            assert_eq!(cache.next_wait(&job.uid), None, "one at a time");
            cache.store(&job, if n % 2 == 1 { exhausted() } else { Ok(WorkflowSnapshot::default()) });
            assert_eq!(cache.last(&job.uid).trouble.is_some(), n % 2 == 1);
        }
        // The first answer was news.
        assert!(waits[1..].is_sorted() && waits[1] == FIRST_WAIT && waits[19] == LONGEST_WAIT, "{waits:?}");
    }

    #[tokio::test]
    async fn a_call_that_waits_behind_others_shares_their_trouble_until_one_succeeds() {
        let (requeue, mut streams) = requeue_router(&[None]);
        let cache = WorkflowStatusCache::new(Temporal::new(None), requeue);
        let job = |uid: &str| JobRef { namespace: "n".into(), name: format!("job-{uid}"), uid: uid.into() };
        let trouble = |uid| cache.last(uid).trouble.map(|(reason, _)| reason);
        let other = || job("other");
        cache.not_tried(job("one"));
        assert_eq!(trouble("one"), None, "nothing has failed");
        cache.failed(other(), &TemporalError::Refused("InvalidArgument".into()));
        cache.not_tried(job("one"));
        assert_eq!(trouble("one"), None, "what is refused to one may be granted to others");
        cache.failed(other(), &TemporalError::Unavailable("Timeout expired".into()));
        cache.not_tried(job("one"));
        cache.not_tried(job("two"));
        assert_eq!(trouble("one"), Some(Reason::other("TemporalUnavailable")));
        cache.succeeded("two");
        let mut woken = || streams[0].next().now_or_never().flatten().map(|job| job.name);
        assert_eq!((woken().as_deref(), woken()), (Some("job-one"), None), "once");
        cache.not_tried(job("three"));
        assert_eq!((trouble("two"), trouble("three")), (None, None));
    }

    #[test]
    fn a_call_that_fails_is_tried_ever_less_often_until_it_succeeds() {
        let cache = WorkflowStatusCache::new(Temporal::new(None), requeue_router(&[None]).0);
        let next = || cache.retry_after("u").as_secs_f64();
        for least in [5.0, 10.0, 20.0, 30.0, 30.0] {
            let wait = next();
            assert!(least <= wait && wait <= 2.0 * least, "{wait} s, and not {least} to twice that");
        }
        cache.succeeded("u");
        assert!(next() <= 10.0);
    }

    #[test]
    fn one_of_the_jobs_that_wait_asks_for_all_of_them() {
        let (requeue, mut streams) = requeue_router(&[None]);
        let cache = WorkflowStatusCache::new(Temporal::new(None), requeue);
        let unavailable = TemporalError::Unavailable("Timeout expired".into());
        for uid in ["one", "two", "three"] {
            cache.failed(JobRef { namespace: "n".into(), name: "j".into(), uid: uid.into() }, &unavailable);
        }
        let mut woken = |most: usize, after: Duration| {
            cache.wake(most, Instant::now() + after);
            std::iter::from_fn(|| streams[0].next().now_or_never().flatten()).count()
        };
        assert_eq!(woken(WOKEN, Duration::ZERO), 0, "each is tried again when it would be anyway, at the soonest");
        assert_eq!((woken(1, RETRY.0), woken(WOKEN, RETRY.0), woken(WOKEN, RETRY.0)), (1, 2, 0));
    }

    #[test]
    fn a_success_is_asked_for_no_more() {
        assert!(!has_more_to_say(Some(Closed::Completed)));
        assert!(has_more_to_say(None) && has_more_to_say(Some(Closed::Failed)));
    }
}

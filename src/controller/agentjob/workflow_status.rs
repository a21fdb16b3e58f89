//! A background cache of what workflows answer, so that a server or worker that does not answer holds up no reconcile. Asked
//! when something happened, not by a timer for each job; and again, less and less often, until the answer has caught up.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{JobItem, plan::WorkflowSnapshot};
use crate::{
    api::{JobRef, Reason},
    controller::runtime::Requeue,
    protocol::workflow::{QUERY_STATUS, StatusAnswer},
    temporal::{Temporal, TemporalError},
};

/// How many questions are open at once.
const AT_ONCE: usize = 32;
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Entry {
    answer: Option<WorkflowSnapshot>,
    trouble: Option<(Reason, String)>,
    started: Option<String>,
    asking: bool,
    backoff: Duration,
}

/// What the cache knows of a workflow.
#[derive(Default)]
pub(super) struct Known {
    /// The last answer.
    pub answer: Option<WorkflowSnapshot>,
    /// Why Temporal could not be asked or told last, if so.
    pub trouble: Option<(Reason, String)>,
    /// The run that this process started.
    pub started: Option<String>,
}

/// Answers by the UID of the job.
#[derive(Clone)]
pub(super) struct WorkflowStatusCache {
    temporal: Temporal,
    requeue: Requeue<JobItem>,
    slots: Arc<Semaphore>,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

impl WorkflowStatusCache {
    pub fn new(temporal: Temporal, requeue: Requeue<JobItem>) -> Self {
        Self { temporal, requeue, slots: Arc::new(Semaphore::new(AT_ONCE)), entries: Arc::default() }
    }

    /// What is known of a job's workflow.
    pub fn last(&self, uid: &str) -> Known {
        let entries = self.entries.lock();
        entries.get(uid).map_or_else(Known::default, |e| Known {
            answer: e.answer.clone(),
            trouble: e.trouble.clone(),
            started: e.started.clone(),
        })
    }

    /// A job that needs no more answers.
    pub fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// The workflow was started: an answer from before would say that there is none.
    pub fn started(&self, uid: &str, run_id: Option<String>) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(uid.into()).or_default();
        (entry.answer, entry.trouble, entry.started) = (None, None, run_id.or(entry.started.take()));
    }

    /// Temporal did not take something.
    pub fn failed(&self, uid: &str, error: &TemporalError) {
        self.entries.lock().entry(uid.into()).or_default().trouble =
            Some((Reason::other(error.reason()), error.to_string()));
    }

    /// Something happened: the next question need not wait.
    pub fn reset_backoff(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            entry.backoff = Duration::ZERO;
        }
    }

    /// Asks, unless a question about this job is open. Its answer has the job reconciled.
    pub fn poll(&self, job: JobRef, workflow: String) {
        let wait = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(job.uid.clone()).or_default();
            if std::mem::replace(&mut entry.asking, true) {
                return;
            }
            let wait = entry.backoff;
            entry.backoff = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            wait
        };
        let cache = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let answer = match cache.slots.acquire().await {
                Ok(_slot) => question(&cache.temporal, &workflow).await,
                Err(_) => return,
            };
            cache.store(&job, answer);
        });
    }

    fn store(&self, job: &JobRef, answer: Result<WorkflowSnapshot, TemporalError>) {
        if let Some(entry) = self.entries.lock().get_mut(&job.uid) {
            entry.asking = false;
            match answer {
                Ok(answer) => {
                    if entry.answer.as_ref() != Some(&answer) {
                        entry.backoff = Duration::ZERO;
                    }
                    // An answer without a word of the workflow's own does not undo what it said before.
                    let status = answer.status.clone().or_else(|| entry.answer.take().and_then(|a| a.status));
                    entry.answer = Some(WorkflowSnapshot { status, ..answer });
                    entry.trouble = None;
                }
                Err(e) => entry.trouble = Some((Reason::other(e.reason()), e.to_string())),
            }
        }
        self.requeue.ask(&job.namespace, &job.name);
    }
}

/// One query, and a look at the execution itself: a workflow that was terminated still answers, with what it knew before.
async fn question(temporal: &Temporal, workflow: &str) -> Result<WorkflowSnapshot, TemporalError> {
    let status: Option<StatusAnswer> = match temporal.query(workflow, QUERY_STATUS).await {
        Ok(answer) => Some(answer),
        Err(TemporalError::NotFound(_)) => {
            return Ok(WorkflowSnapshot { missing: true, ..WorkflowSnapshot::default() });
        }
        Err(error) => {
            tracing::debug!(%error, workflow, "no answer to a query");
            None
        }
    };
    match temporal.describe(workflow).await {
        Ok((closed, run_id)) => Ok(WorkflowSnapshot { status, closed, run_id: Some(run_id), missing: false }),
        Err(TemporalError::NotFound(_)) => Ok(WorkflowSnapshot { missing: true, ..WorkflowSnapshot::default() }),
        Err(e) => Err(e),
    }
}

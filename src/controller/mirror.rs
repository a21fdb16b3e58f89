//! What workflows answer. Asked in the background, so that a server or worker that does not answer holds up no reconcile;
//! asked when something happened, not by a timer for each job; and asked again, less and less often, until the answer has
//! caught up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc::UnboundedSender};

use super::plan::Answer;
use crate::{
    api::JobRef,
    protocol::workflow::{QUERY_STATUS, StatusAnswer},
    temporal::{Temporal, TemporalError},
};

/// How many questions are open at once.
const AT_ONCE: usize = 32;
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Entry {
    answer: Option<Answer>,
    trouble: Option<(String, String)>,
    asking: bool,
    wait: Duration,
}

/// Answers by the UID of the job.
#[derive(Clone)]
pub(super) struct Mirror {
    temporal: Temporal,
    trigger: UnboundedSender<JobRef>,
    slots: Arc<Semaphore>,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

impl Mirror {
    pub(super) fn new(temporal: Temporal, trigger: UnboundedSender<JobRef>) -> Self {
        Self { temporal, trigger, slots: Arc::new(Semaphore::new(AT_ONCE)), entries: Arc::default() }
    }

    /// The last answer, and why the last question was not answered, if so.
    pub(super) fn last(&self, uid: &str) -> (Option<Answer>, Option<(String, String)>) {
        let entries = self.entries.lock().ok();
        let entry = entries.as_ref().and_then(|e| e.get(uid));
        entry.map_or((None, None), |e| (e.answer.clone(), e.trouble.clone()))
    }

    /// A job that needs no more answers.
    pub(super) fn forget(&self, uid: &str) {
        if let Ok(mut entries) = self.entries.lock() {
            entries.remove(uid);
        }
    }

    /// Something happened: the next question need not wait.
    pub(super) fn hurry(&self, uid: &str) {
        if let Ok(mut entries) = self.entries.lock()
            && let Some(entry) = entries.get_mut(uid)
        {
            entry.wait = Duration::ZERO;
        }
    }

    /// Asks, unless a question about this job is open. Its answer makes the job be looked at again.
    pub(super) fn ask(&self, job: JobRef, workflow: String) {
        let wait = {
            let Ok(mut entries) = self.entries.lock() else { return };
            let entry = entries.entry(job.uid.clone()).or_default();
            if std::mem::replace(&mut entry.asking, true) {
                return;
            }
            let wait = entry.wait;
            entry.wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            wait
        };
        let mirror = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let answer = match mirror.slots.acquire().await {
                Ok(_slot) => question(&mirror.temporal, &workflow).await,
                Err(_) => return,
            };
            mirror.keep(&job, answer);
        });
    }

    fn keep(&self, job: &JobRef, answer: Result<Answer, TemporalError>) {
        if let Ok(mut entries) = self.entries.lock()
            && let Some(entry) = entries.get_mut(&job.uid)
        {
            entry.asking = false;
            match answer {
                Ok(answer) => {
                    if entry.answer.as_ref() != Some(&answer) {
                        entry.wait = Duration::ZERO;
                    }
                    // An answer without a word of the workflow's own does not undo what it said before.
                    let status = answer.status.clone().or_else(|| entry.answer.take().and_then(|a| a.status));
                    entry.answer = Some(Answer { status, ..answer });
                    entry.trouble = None;
                }
                Err(e) => entry.trouble = Some((e.reason().into(), e.to_string())),
            }
        }
        // Nobody listens any more only when the controller ends.
        let _ = self.trigger.send(job.clone());
    }
}

/// One query, and a look at the execution itself: a workflow that was terminated still answers, with what it knew before.
async fn question(temporal: &Temporal, workflow: &str) -> Result<Answer, TemporalError> {
    let status: Option<StatusAnswer> = match temporal.query(workflow, QUERY_STATUS).await {
        Ok(answer) => Some(answer),
        Err(TemporalError::NotFound(_)) => return Ok(Answer { missing: true, ..Answer::default() }),
        Err(error) => {
            tracing::debug!(%error, workflow, "no answer to a query");
            None
        }
    };
    match temporal.describe(workflow).await {
        Ok((closed, run_id)) => Ok(Answer { status, closed, run_id: Some(run_id), missing: false }),
        Err(TemporalError::NotFound(_)) => Ok(Answer { missing: true, ..Answer::default() }),
        Err(e) => Err(e),
    }
}

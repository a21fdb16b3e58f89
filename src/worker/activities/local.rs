//! The places for local activities, which run within a workflow task.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{ActivityFailure, Task};
use crate::worker::WorkerSettings;

/// How many local activities may run at a time. Each holds a workflow task; the others' stay free for pauses and
/// cancels, whatever holds up the starts.
#[derive(Clone)]
pub struct LocalSlots(Arc<Semaphore>);

impl LocalSlots {
    /// As many as are set, and always fewer than workflow tasks.
    pub fn new(settings: &WorkerSettings) -> Self {
        let most = settings.worker_workflow_slots.saturating_sub(1);
        Self(Arc::new(Semaphore::new(settings.worker_local_activity_slots.min(most))))
    }

    /// One for a task that is local. None is waited for: the server takes the work.
    pub(super) fn take(&self, task: &Task) -> Result<Option<SemaphorePermit<'_>>, ActivityFailure> {
        if !task.local {
            return Ok(None);
        }
        self.0.try_acquire().map(Some).map_err(|_| ActivityFailure::NotLocal("too many at a time"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        fake::{self, JOBS},
        now, start_runner,
    };
    use super::*;
    use crate::{api::DesiredState, protocol::workflow::StartRunner, worker::calls};

    fn local() -> Task {
        Task { local: true, ..fake::task(1) }
    }

    fn slots(workflow: usize, local: usize) -> LocalSlots {
        LocalSlots::new(&WorkerSettings {
            worker_workflow_slots: workflow,
            worker_local_activity_slots: local,
            ..WorkerSettings::default()
        })
    }

    /// Late or again, it changes nothing: it finds the run that there is. To ask Temporal about its task is no use.
    #[tokio::test]
    async fn it_creates_the_first_run_and_nothing_else() {
        let (fake, a) = fake::Fake::start().await;
        fake.put(&format!("{JOBS}/j"), fake::job());
        let input = StartRunner {
            job: fake::job_ref(),
            run: 1,
            attempt: 1,
            resumed: false,
            desired: DesiredState::Running,
            generation: 0,
        };
        let start = || async { start_runner::run(&a, &local(), &input).await.map(|s| s.run) };
        assert_eq!(start().await.unwrap(), 1);
        assert_eq!(fake.calls(), ["GET agentjobs", "POST agentruns", "POST pods"]);
        assert_eq!(start().await.unwrap(), 1);
        assert_eq!(a.metrics.pods_created.get(), 1, "the same pod");
        let changes: [fn(&mut Value); 4] = [
            |r| r["spec"]["grant"] = json!({ "time": now(), "binding": 0, "runID": "run" }),
            |r| r["spec"]["grant"] = json!({ "time": now(), "binding": 0, "runID": "the next" }),
            |r| r["status"]["termination"] = fake::closed("Runner"),
            |r| r["spec"]["identity"]["tombstone"] = json!(true),
        ];
        for change in changes {
            fake.put_run(1, change);
            fake.calls();
            let left = start().await.unwrap_err();
            assert_eq!((left.reason(), left.is_retryable(), left.is_expected()), ("NotLocal", true, true));
            assert_eq!(fake.calls(), ["GET agentjobs", "POST agentruns", "GET agentruns"]);
        }
        let mut further = fake::job();
        further["status"]["activeRun"] = json!(5);
        fake.put(&format!("{JOBS}/j"), further);
        assert_eq!(start().await.unwrap_err().reason(), "NotLocal", "the first runs may be collected");
        let mut cancelled = fake::job();
        cancelled["spec"]["desiredState"] = json!("Cancelled");
        fake.put(&format!("{JOBS}/j"), cancelled);
        assert_eq!(start().await.unwrap_err().reason(), "JobGone");
        assert_eq!(fake.calls(), ["GET agentjobs"; 2]);
    }

    #[tokio::test]
    async fn it_leaves_workflow_tasks_free() {
        let (two, task) = (slots(3, 50), local());
        let held = [two.take(&task).unwrap(), two.take(&task).unwrap()];
        let left = two.take(&task).unwrap_err();
        assert_eq!((left.reason(), left.is_retryable()), ("NotLocal", true));
        assert!(two.take(&fake::task(1)).unwrap().is_none(), "the server's tasks have slots of their own");
        drop(held);
        assert!(two.take(&task).unwrap().is_some());
        assert!(slots(1, 50).take(&task).is_err() && slots(100, 0).take(&task).is_err());
    }

    #[test]
    fn it_gives_up_before_the_workflow_does() {
        assert!(local().limit() < calls::LOCAL && fake::task(1).limit() < calls::SHORT);
    }
}

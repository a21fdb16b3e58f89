//! `cleanup`: closes the newest run, or creates it closed, so that no agent starts after the workflow has ended. The
//! controller deletes its pod.

use super::{Activities, ActivityFailure, NO_WORKFLOW, now};
use crate::{api::ExecutionMode, lifecycle, protocol::workflow::Cleanup, runs};

pub async fn run(a: &Activities, input: &Cleanup) -> Result<(), ActivityFailure> {
    if input.run < 1 {
        return Ok(());
    }
    let runs = a.runs_in(&input.job);
    let run = match a.read_run(&input.job, input.run).await? {
        Some(run) => run,
        None => {
            let job = match a.read_job(&input.job).await {
                Ok(job) => job,
                // A tombstone would have no owner and be garbage collected.
                Err(ActivityFailure::JobGone(_)) => return Ok(()),
                Err(e) => return Err(e),
            };
            let Some(status) = &job.status else { return Ok(()) };
            // Nothing is started for a job that is being deleted or has ended; and in a namespace that is being
            // deleted, nothing can be created.
            if job.metadata.deletion_timestamp.is_some() || status.phase.is_some_and(|p| p.is_terminal()) {
                return Ok(());
            }
            let Some(resolved) = &status.resolved else { return Ok(()) };
            if resolved.execution_mode != ExecutionMode::Temporal {
                return Err(ActivityFailure::JobGone(NO_WORKFLOW));
            }
            // A late `start_runner` finds the name taken.
            let tombstone = runs::tombstone(&job, resolved, input.run, status.attempt.unwrap_or(1))?;
            runs.create(&tombstone).await?.0
        }
    };
    if !run.is_closed() {
        runs.close(run, |run| lifecycle::given_up(run, &now())).await?;
    }
    Ok(())
}

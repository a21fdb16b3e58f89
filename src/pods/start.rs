//! The pod of a run, the same in both modes: it is created, or the one that an earlier try has created is found, and a
//! refusal is recorded in the run. Used by the controller and the worker.

use super::{CreateOutcome, PodError, Pods, RunnerPodSettings, template};
use crate::{
    api::{AgentJob, AgentRun},
    platform::metrics::Metrics,
    runs::{RunError, Runs},
};

/// What came of a try.
pub struct Started {
    /// The pod, or why the API server refused it: for good, until a user or administrator changes something.
    pub pod: Result<CreateOutcome, PodError>,
    /// The run after the write of `status.createError`, or as it was if that needed none.
    pub run: Result<AgentRun, RunError>,
}

/// Creates the pod of an open run. An error that may pass by itself is recorded nowhere, and returned.
pub async fn start(
    (pods, runs): (&Pods, &Runs),
    job: &AgentJob,
    run: AgentRun,
    settings: &RunnerPodSettings,
    metrics: &Metrics,
) -> Result<Started, PodError> {
    let pod = match template::build(job, &run, settings) {
        Ok(pod) => pods.create(pod, run.uid()).await,
        Err(e) => Err(e),
    };
    let words = match &pod {
        Ok(made) => {
            if matches!(made, CreateOutcome::Created(_)) {
                metrics.pods_created.inc();
            }
            None
        }
        Err(e) if e.is_permanent() => Some(e.to_string()),
        Err(_) => return pod.map(|pod| Started { pod: Ok(pod), run: Ok(run) }),
    };
    // The controller copies it to the job's status.
    let written = runs.modify_status(run, |_, status| {
        status.create_error.clone_from(&words);
        Ok(())
    });
    Ok(Started { run: written.await, pod })
}

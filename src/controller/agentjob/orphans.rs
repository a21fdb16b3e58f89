//! Orphaned runs, whose job was deleted with `--cascade=orphan`. They are closed and their pods deleted, so that no
//! agent runs on without control. Runs with an owner reference are left to garbage collection.

use std::{sync::Arc, time::Duration};

use tracing::Instrument;

use super::Context;
use crate::{
    api::AgentRun,
    controller::ControllerError,
    lifecycle,
    platform::store::{self, StoreError},
    runs::{self, RunError},
};

/// When to recheck a run whose job is being deleted, or could not be read.
const AGAIN: Duration = Duration::from_secs(2);

/// Handles a run that has changed.
pub(super) fn look(context: &Arc<Context>, run: &AgentRun) {
    let owned = run.metadata.owner_references.as_ref().is_some_and(|o| o.iter().any(|o| o.kind == "AgentJob"));
    if owned || run.metadata.deletion_timestamp.is_some() || run.is_closed() {
        return;
    }
    let (context, run, logged) = (context.clone(), run.clone(), runs::logged(run));
    let ends = async move {
        loop {
            match end(&context, &run).await {
                Ok(Fate::Closed) => return tracing::info!("an AgentRun without its job is closed"),
                Ok(Fate::Owned) => return,
                Ok(Fate::JobIsGoing) => {}
                Err(error) => tracing::warn!(%error, reason = error.reason(), "an AgentRun without its job"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::spawn(ends.instrument(logged));
}

/// What to do with a run without an owner.
enum Fate {
    /// Nothing: its job exists.
    Owned,
    /// Wait: its job is being deleted and may still close it; runs lose their owner before the job is gone.
    JobIsGoing,
    /// It was closed.
    Closed,
}

async fn end(context: &Context, run: &AgentRun) -> Result<Fate, ControllerError> {
    let job = run.job();
    let jobs = kube::Api::<crate::api::AgentJob>::namespaced(context.client.clone(), &job.namespace);
    match store::read(&jobs, &job.name, &job.uid).await {
        Ok(job) if job.metadata.deletion_timestamp.is_some() => return Ok(Fate::JobIsGoing),
        Ok(_) => return Ok(Fate::Owned),
        Err(StoreError::Gone { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let now = super::reconcile::now();
    let closed = context.runs_in(&job.namespace).close(run.clone(), |run| lifecycle::given_up(run, &now)).await;
    let closed = match closed {
        Ok(closed) => closed,
        Err(RunError::Store(StoreError::Gone { .. })) => return Ok(Fate::Closed),
        Err(e) => return Err(e.into()),
    };
    let pods = context.pods_in(&job.namespace);
    if let Some(pod) = pods.get(&closed.spec.identity.pod_name).await?
        && pod.run_uid.as_deref() == Some(closed.uid())
    {
        pods.delete(&pod.name, &pod.uid).await?;
    }
    Ok(Fate::Closed)
}

//! Orphaned runs, whose job was deleted with `--cascade=orphan`. They are closed and their pods deleted, so that no
//! agent runs on without control. Runs with an owner reference are left to garbage collection.

use std::sync::Arc;

use super::Context;
use crate::{
    api::AgentRun,
    controller::ControllerError,
    lifecycle,
    platform::store::{self, StoreError},
};

/// Handles a run that has changed.
pub(super) fn look(context: &Arc<Context>, run: &AgentRun) {
    let owned = run.metadata.owner_references.as_ref().is_some_and(|o| o.iter().any(|o| o.kind == "AgentJob"));
    if owned || run.metadata.deletion_timestamp.is_some() || run.is_closed() {
        return;
    }
    let (context, run) = (context.clone(), run.clone());
    tokio::spawn(async move {
        let name = run.name().to_string();
        match end(&context, run).await {
            Ok(true) => tracing::info!(run = name, "an AgentRun without its job is closed"),
            Ok(false) => {}
            // It is handled again when it changes, and after a restart.
            Err(error) => tracing::warn!(run = name, %error, reason = error.reason(), "an AgentRun without its job"),
        }
    });
}

/// Closes the run, unless its job exists after all. Returns whether it did.
async fn end(context: &Context, run: AgentRun) -> Result<bool, ControllerError> {
    let job = run.job();
    let jobs = kube::Api::<crate::api::AgentJob>::namespaced(context.client.clone(), &job.namespace);
    match store::read(&jobs, &job.name, &job.uid).await {
        Ok(_) => return Ok(false),
        Err(StoreError::Gone { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let now = super::reconcile::now();
    let closed = context.runs_in(&job.namespace).close(run, |run| lifecycle::given_up(run, &now)).await?;
    let pods = context.pods_in(&job.namespace);
    if let Some(pod) = pods.get(&closed.spec.identity.pod_name).await?
        && pod.run_uid.as_deref() == Some(closed.uid())
    {
        pods.delete(&pod.name, &pod.uid).await?;
    }
    Ok(true)
}

//! `cleanup`: leaves no pod of the job running. Also of a job that is gone: its pods carry its UID.

use std::time::Duration;

use temporalio_sdk::activities::ActivityContext;
use tokio::time::Instant;

use super::{Activities, Trouble, pause, to_delete};
use crate::{
    platform::status::{self, StatusError},
    pods::{PodView, ending},
    protocol::workflow::Cleanup,
};

/// What pods get beyond their grace period. One that still hasn't ended then is on a node that doesn't answer: it is
/// marked for deletion, and goes with it.
const MARGIN: Duration = Duration::from_secs(120);

pub async fn run(a: &Activities, ctx: &ActivityContext, input: Cleanup) -> Result<(), Trouble> {
    let outcome = match status::read(&a.jobs(&input.job), &input.job).await {
        Ok(job) => ending::leaving(job.status.and_then(|s| s.outcome).as_ref()),
        Err(StatusError::Gone) => None,
        Err(e) => return Err(e.into()),
    };
    let pods = a.pods_in(&input.job);
    let limit = Duration::from_secs(u64::try_from(input.grace_seconds).unwrap_or(0)).saturating_add(MARGIN);
    let since = Instant::now();
    loop {
        ctx.record_heartbeat(()).await.map_err(|e| Trouble::Unavailable(e.to_string()))?;
        let found = pods.of_job(&input.job.uid).await?;
        let left: Vec<&PodView> = found.iter().filter(|p| !p.ended).collect();
        if left.is_empty() {
            return Ok(());
        }
        for pod in to_delete(&left, outcome, since.elapsed()) {
            tracing::info!(namespace = input.job.namespace, pod = pod.name, "deleting a pod of a job that has ended");
            pods.delete(&pod.name, &pod.uid).await?;
        }
        if since.elapsed() > limit {
            tracing::warn!(
                namespace = input.job.namespace,
                name = input.job.name,
                "pods that don't end are left behind"
            );
            return Ok(());
        }
        pause(ctx).await?;
    }
}

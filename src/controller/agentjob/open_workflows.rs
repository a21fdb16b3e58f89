//! Cancels open workflows whose job is gone, so that none waits for ever: its finalizer was removed by hand, Temporal
//! could not be reached while the job was deleted, or the API server deleted it while the finalizer was being added.
//! One list of ids for all jobs; two reads of each that has no job in the cache.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use kube::Api;

use super::{
    Context,
    publish::{self, about},
};
use crate::{
    api::{AgentJob, JobRef},
    audit::{Finding, Kind, Look, Suspect, Suspicion, judge},
    temporal::TemporalError,
};

/// How many grace periods lie between two lists while nothing is suspected.
const EVERY: u32 = 10;

/// An open workflow, and what was seen of it so far.
type Suspected = HashMap<String, Suspicion>;

/// Looks for ever. `loops` is the number of control loops, `grace` how long a job must be gone.
pub(super) async fn run(context: Arc<Context>, loops: usize, grace: Duration) {
    if !context.temporal.is_configured() {
        return std::future::pending().await;
    }
    let (began, mut suspected, mut wait) = (Instant::now(), Suspected::new(), grace);
    loop {
        tokio::time::sleep(wait).await;
        let Some(without) = without_job(&context, loops).await else { continue };
        let mut before = std::mem::take(&mut suspected);
        let mut last = 0;
        for (id, uid) in without {
            let Some((job, finding)) = look(&context, &id, &uid).await else { continue };
            let new = || Suspicion::of(Suspect::Workflow { id: id.clone(), job_uid: uid.clone() });
            let mut suspicion = before.remove(&id).unwrap_or_else(new);
            if let Look::Finding(finding) = suspicion.look(Some(finding), began.elapsed(), grace) {
                last += 1;
                cancel(&context, &id, &job, &finding).await;
            }
            suspected.insert(id, suspicion);
        }
        context.metrics.leaks.of([Kind::WorkflowWithoutJob.name()]).set(last);
        wait = if suspected.is_empty() { grace * EVERY } else { grace };
    }
}

/// The open workflows of this installation whose job is not in the cache: their ids and their jobs' UIDs. `None` if that
/// can't be said now.
async fn without_job(context: &Context, loops: usize) -> Option<Vec<(String, String)>> {
    // Before the list: a job that is created meanwhile is found when it is looked for.
    let jobs = context.jobs.all(loops)?;
    let known: HashSet<&str> = jobs.iter().filter_map(|job| kube::Resource::meta(&**job).uid.as_deref()).collect();
    let list = async {
        let mut found = Vec::new();
        let mut ids = std::pin::pin!(context.temporal.open_workflows(&context.installation)?);
        while let Some((id, uid)) = ids.try_next().await? {
            if !known.contains(uid.as_str()) {
                found.push((id, uid));
            }
        }
        Ok::<_, TemporalError>(found)
    };
    list.await.inspect_err(|error| tracing::debug!(%error, "listing open workflows")).ok()
}

/// Reads a workflow, and then its job from the API server, which is gone if one is returned. `None` if the workflow is
/// closed or its job exists, and also if one of them can't be read: then it may.
async fn look(context: &Context, id: &str, uid: &str) -> Option<(JobRef, Finding)> {
    let open = context.temporal.open_workflow(id, uid).await;
    let open = open.inspect_err(|error| tracing::debug!(workflow = id, %error, "reading a workflow")).ok()??;
    let job = open.job?;
    let found = Api::<AgentJob>::namespaced(context.client.clone(), &job.namespace).get_metadata_opt(&job.name).await;
    let found = found.inspect_err(|error| tracing::debug!(?job, %error, "reading a workflow's job")).ok()?;
    if found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&job.uid)) {
        return None;
    }
    judge::workflow(None).map(|finding| (job, finding))
}

async fn cancel(context: &Context, id: &str, job: &JobRef, finding: &Finding) {
    let (JobRef { namespace, name, uid }, Finding { kind, message, .. }) = (job, finding);
    tracing::warn!(namespace, job = name, workflow = id, %kind, "{message}; it is cancelled");
    let named = format!("Workflow {id}: {message}; it is cancelled");
    publish::warning(context, about("AgentJob", namespace, name, uid), kind.name(), &named);
    // A repeated request changes nothing.
    if let Err(error) = context.temporal.cancel(id, "its AgentJob is gone").await {
        tracing::warn!(workflow = id, %error, reason = error.reason(), "cancelling a workflow without its job");
    }
}

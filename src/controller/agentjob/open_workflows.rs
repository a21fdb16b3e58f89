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
    api::{AgentJob, names},
    audit::{Finding, Kind, Look, Suspect, Suspicion, judge},
    temporal::TemporalError,
};

/// How many grace periods lie between two lists while nothing is suspected.
const EVERY: u32 = 10;

/// An open workflow, and what was seen of it so far.
type Suspected = HashMap<String, Suspicion>;

/// An open workflow without its job.
struct Stray {
    namespace: String,
    job: String,
    job_uid: String,
    finding: Finding,
}

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
            let Some(stray) = look(&context, &id, &uid).await else { continue };
            let new = || Suspicion::of(Suspect::Workflow { id: id.clone(), job_uid: uid.clone() });
            let mut suspicion = before.remove(&id).unwrap_or_else(new);
            if let Look::Finding(finding) = suspicion.look(Some(stray.finding.clone()), began.elapsed(), grace) {
                last += 1;
                cancel(&context, &id, &stray, &finding).await;
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
    let prefix = names::workflow(&context.installation, "");
    let list = async {
        let mut found = Vec::new();
        let mut ids = std::pin::pin!(context.temporal.open_workflows(&context.installation)?);
        while let Some(id) = ids.try_next().await? {
            let uid = id.strip_prefix(&prefix).filter(|uid| !known.contains(uid)).map(str::to_string);
            found.extend(uid.map(|uid| (id, uid)));
        }
        Ok::<_, TemporalError>(found)
    };
    list.await.inspect_err(|error| tracing::debug!(%error, "listing open workflows")).ok()
}

/// Reads a workflow, and then its job from the API server. `None` if it is closed or its job exists, and also if one of
/// them can't be read: then it may.
async fn look(context: &Context, id: &str, uid: &str) -> Option<Stray> {
    let open = context.temporal.open_workflow(id).await;
    let open = open.inspect_err(|error| tracing::debug!(workflow = id, %error, "reading a workflow")).ok()??;
    // One that koco has started names its job.
    let (namespace, job) = open.job?;
    let found = Api::<AgentJob>::namespaced(context.client.clone(), &namespace).get_metadata_opt(&job).await;
    let found = found.inspect_err(|error| tracing::debug!(namespace, job, %error, "reading a workflow's job")).ok()?;
    if found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid)) {
        return None;
    }
    judge::workflow(None).map(|finding| Stray { namespace, job, job_uid: uid.into(), finding })
}

async fn cancel(context: &Context, id: &str, stray: &Stray, finding: &Finding) {
    let Stray { namespace, job, job_uid, .. } = stray;
    let Finding { kind, message, .. } = finding;
    tracing::warn!(namespace, job, workflow = id, %kind, "{message}; it is cancelled");
    let named = format!("Workflow {id}: {message}; it is cancelled");
    publish::warning(context, about("AgentJob", namespace, job, job_uid), kind.name(), &named);
    // A repeated request changes nothing.
    if let Err(error) = context.temporal.cancel(id, "its AgentJob is gone").await {
        tracing::warn!(workflow = id, %error, reason = error.reason(), "cancelling a workflow without its job");
    }
}

//! Repairs what somebody has asked for by the annotation `kodosumi.io/repair-requested-at`, as `kubectl koco audit
//! --repair` does: on the job; on a run whose job is gone; on a pod that is of no run. All is read from the API server
//! for that, and not from caches; what is safe is done, and what was done or left is told by an event, once a request.
//! A job also keeps the answer, in annotations. [`steps`] decides.

mod steps;

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::events::EventType,
};
use parking_lot::Mutex;
use serde_json::json;
use tracing::Instrument;

use super::{
    Context,
    publish::{self, about},
    reconcile::now,
};
use crate::{
    api::{AgentJob, AgentRun, names},
    controller::ControllerError,
    platform::store::{self, StoreError},
    pods::{PodView, view},
    runs::{self, RunError},
    temporal::TemporalError,
};
use steps::Step;

/// When to try again what has failed.
const AGAIN: Duration = Duration::from_secs(5);
const TRIES: u32 = 12;
/// How many requests of runs and pods are remembered.
const MOST: usize = 10_000;
/// How much of the answer is kept, in characters.
const WORDS: usize = 1000;

/// The requests of runs and pods that were taken up, by UID and value.
#[derive(Default)]
pub(super) struct Requests(Mutex<HashSet<(String, String)>>);

impl Requests {
    /// Whether an object asks for something new.
    fn take(&self, meta: &ObjectMeta) -> bool {
        let Some(value) = requested(meta) else { return false };
        let mut taken = self.0.lock();
        if taken.len() >= MOST {
            taken.clear();
        }
        taken.insert((meta.uid.clone().unwrap_or_default(), value.into()))
    }
}

fn requested(meta: &ObjectMeta) -> Option<&str> {
    meta.annotations.as_ref()?.get(names::ANNOTATION_REPAIR).map(String::as_str)
}

/// Whether a job asks for a repair that was not handled.
pub(super) fn is_requested(job: &AgentJob) -> bool {
    let handled = job.metadata.annotations.as_ref().and_then(|a| a.get(names::ANNOTATION_REPAIR_HANDLED));
    let asked = requested(&job.metadata).is_some_and(|value| handled.is_none_or(|handled| handled != value));
    asked && job.metadata.deletion_timestamp.is_none()
}

/// Handles a job's request, and records the answer.
pub(super) async fn job(cached: &AgentJob, context: &Context) -> Result<(), ControllerError> {
    let of = cached.reference();
    let api = Api::<AgentJob>::namespaced(context.client.clone(), &of.namespace);
    let job = store::read(&api, &of.name, &of.uid).await?;
    let Some(value) = requested(&job.metadata).filter(|_| is_requested(&job)) else { return Ok(()) };
    let mut runs = Vec::new();
    for run in context.runs_in(&of.namespace).list(&of).await? {
        let pod = context.pods_in(&of.namespace).get(&run.spec.identity.pod_name).await?;
        context.runs.put(run.clone());
        runs.push((run, pod));
    }
    let mut steps = steps::of_job(&job, &runs, &now());
    steps.extend(of_workflow(&job, &runs, context).await);
    let words = carry_out(context, &of.namespace, &steps).await?;
    let result: String = words.chars().take(WORDS).collect();
    let patch = Patch::Merge(json!({ "metadata": {
        "uid": of.uid,
        "annotations": { names::ANNOTATION_REPAIR_HANDLED: value, names::ANNOTATION_REPAIR_RESULT: result },
    } }));
    let written = api.patch_metadata(&of.name, &PatchParams::default(), &patch).await;
    let written = written.map_err(|e| StoreError::of(store::what("patch annotations of", &job), e))?;
    context.wrote(&of, store::version(&written));
    context.workflows.reset_backoff(&of.uid);
    tell(context, about("AgentJob", &of.namespace, &of.name, &of.uid), &steps, &words);
    Ok(())
}

/// What there is to do about the job's workflow, if it is open.
async fn of_workflow(job: &AgentJob, runs: &[(AgentRun, Option<PodView>)], context: &Context) -> Vec<Step> {
    let Some(workflow) = job.status.as_ref().and_then(|s| s.workflow.as_ref()) else { return Vec::new() };
    match context.temporal.open_workflow(&workflow.id, job.uid()).await {
        Ok(Some(open)) => steps::of_workflow(job, runs, &open, &workflow.id, &context.installation),
        Ok(None) => Vec::new(),
        Err(error) => vec![Step::Say(format!("its workflow could not be read: {error}"))],
    }
}

/// What asks for its own repair.
enum Asking {
    Run(Box<AgentRun>),
    Pod { namespace: String, name: String, uid: String },
}

/// Handles the request of a run, if it has one.
pub(super) fn look_at_run(context: &Arc<Context>, run: &AgentRun) {
    if run.metadata.deletion_timestamp.is_none() && context.repairs.take(&run.metadata) {
        let done = until_done(context.clone(), Asking::Run(Box::new(run.clone())));
        tokio::spawn(done.instrument(runs::logged(run)));
    }
}

/// Handles the request of a pod, if it has one.
pub(super) fn look_at_pod(context: &Arc<Context>, meta: &ObjectMeta) {
    if context.repairs.take(meta) {
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name, uid) = (word(&meta.namespace), word(&meta.name), word(&meta.uid));
        tokio::spawn(until_done(context.clone(), Asking::Pod { namespace, name, uid }));
    }
}

impl Asking {
    fn object(&self) -> ObjectReference {
        match self {
            Self::Run(run) => about("AgentRun", &run.job().namespace, run.name(), run.uid()),
            Self::Pod { namespace, name, uid } => about("Pod", namespace, name, uid),
        }
    }

    async fn steps(&self, context: &Context) -> Result<Vec<Step>, ControllerError> {
        match self {
            Self::Run(run) => of_run(context, run).await,
            Self::Pod { namespace, name, uid } => of_pod(context, namespace, name, uid).await,
        }
    }
}

async fn of_run(context: &Context, run: &AgentRun) -> Result<Vec<Step>, ControllerError> {
    let job = run.job();
    let jobs = Api::<AgentJob>::namespaced(context.client.clone(), &job.namespace);
    let gone = match store::read(&jobs, &job.name, &job.uid).await {
        Ok(_) => false,
        Err(StoreError::Gone { .. }) => true,
        Err(e) => return Err(e.into()),
    };
    let runs = Api::<AgentRun>::namespaced(context.client.clone(), &job.namespace);
    let run = match store::read(&runs, run.name(), run.uid()).await {
        Ok(run) => run,
        Err(StoreError::Gone { .. }) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let pod = context.pods_in(&job.namespace).get(&run.spec.identity.pod_name).await?;
    Ok(steps::of_run(&run, gone, pod.as_ref(), &now()))
}

async fn of_pod(context: &Context, namespace: &str, name: &str, uid: &str) -> Result<Vec<Step>, ControllerError> {
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let found = pods.get_opt(name).await.map_err(|e| StoreError::of(format!("get Pod {namespace}/{name}"), e))?;
    let Some(pod) = found.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)) else { return Ok(Vec::new()) };
    let label = |key: &str| pod.labels().get(key).map(String::as_str);
    let labels = [names::LABEL_JOB_NAME, names::LABEL_JOB_UID, names::LABEL_RUN_NUMBER].map(label);
    let named = match labels {
        [Some(job), Some(uid), Some(number)] => number.parse().ok().map(|number| names::run(job, uid, number)),
        _ => None,
    };
    let created_by_koco = named.is_some() && label(names::LABEL_COMPONENT) == Some(names::RUNNER_COMPONENT);
    let owner = view::owner(&pod.metadata).map(|owner| owner.name.clone());
    let run = match owner.or(named).filter(|name| names::is_object_name(name)) {
        Some(name) => match context.runs_in(namespace).named(&name).await {
            Err(RunError::Foreign(_)) => None,
            run => run?,
        },
        None => None,
    };
    Ok(steps::of_pod(&PodView::of(&pod), created_by_koco, run.as_ref()))
}

/// Tries until it succeeds, some times.
async fn until_done(context: Arc<Context>, asking: Asking) {
    let of = asking.object();
    let namespace = of.namespace.clone().unwrap_or_default();
    for _ in 0..TRIES {
        let done = async {
            let steps = asking.steps(&context).await?;
            let words = carry_out(&context, &namespace, &steps).await?;
            Ok::<_, ControllerError>((steps, words))
        };
        match done.await {
            Ok((steps, words)) => return tell(&context, of, &steps, &words),
            Err(error) => tracing::warn!(object = of.name, %error, reason = error.reason(), "a repair"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Takes the steps in their order. Returns what was done, and what was only said, in words.
async fn carry_out(context: &Context, namespace: &str, steps: &[Step]) -> Result<String, ControllerError> {
    let mut words = Vec::new();
    for step in steps {
        let mut said = step.words();
        match step {
            Step::CloseRun(run, end) => {
                let closed = context.runs_in(namespace).close((**run).clone(), |_| (**end).clone()).await;
                match closed {
                    Ok(run) => context.runs.put(run),
                    Err(RunError::Store(StoreError::Gone { .. })) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Step::DeletePod(name, uid) => context.pods_in(namespace).delete(name, uid).await?,
            Step::DeleteRun(name, uid) => context.runs_in(namespace).delete(name, uid).await?,
            Step::CancelWorkflow(id) => {
                let reason = "its AgentJob has ended, and a repair was requested";
                said = of_temporal(said, context.temporal.cancel(id, reason).await);
            }
            Step::CompleteActivity(id, run) => said = of_temporal(said, context.temporal.complete(id, run).await),
            Step::Say(_) => {}
        }
        words.push(said);
    }
    let nothing = || "nothing that is safe to repair was found".to_string();
    Ok(if words.is_empty() { nothing() } else { words.join("; ") })
}

/// What is said of a call to Temporal. A workflow or activity that is not there needs nothing.
fn of_temporal(said: String, done: Result<(), TemporalError>) -> String {
    match done {
        Ok(()) => said,
        Err(TemporalError::NotFound(_)) => format!("{said}: it has ended meanwhile"),
        Err(e) => format!("not {said}: {e}"),
    }
}

fn tell(context: &Context, of: ObjectReference, steps: &[Step], words: &str) {
    let (kind, reason) = match steps.iter().all(Step::does) {
        true if steps.is_empty() => (EventType::Normal, "NothingToRepair"),
        true => (EventType::Normal, "Repaired"),
        false => (EventType::Warning, "NotRepaired"),
    };
    tracing::info!(namespace = of.namespace, object = of.name, reason, "a repair was requested: {words}");
    publish::told(context, of, kind, reason, words);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn asking(value: &str, handled: Option<&str>) -> AgentJob {
        let mut job = AgentJob::default();
        let pairs = [(names::ANNOTATION_REPAIR, Some(value)), (names::ANNOTATION_REPAIR_HANDLED, handled)];
        let pairs = pairs.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?.to_string())));
        job.metadata.annotations = Some(pairs.collect());
        job
    }

    #[test]
    fn each_request_is_handled_once() {
        assert!(is_requested(&asking("a", None)));
        assert!(is_requested(&asking("b", Some("a"))));
        assert!(!is_requested(&asking("b", Some("b"))));
        assert!(!is_requested(&AgentJob::default()));
        let mut going = asking("a", None);
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(!is_requested(&going));
        let requests = Requests::default();
        let taken = ["a", "a", "b"].map(|value| requests.take(&asking(value, None).metadata));
        assert_eq!(taken, [true, false, true]);
        assert!(!requests.take(&ObjectMeta::default()));
    }
}

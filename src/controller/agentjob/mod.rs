//! Reconciles AgentJobs. Observe (I/O), then [`plan`] (pure), then one status write, then what follows from it.
//!
//! Caches may be stale: every harmful action names a resourceVersion, or a name that only one object can have.

mod closed_workflows;
mod context;
mod defaults;
mod execute;
mod index;
mod inputs;
mod leaks;
mod measure;
mod network;
mod observe;
mod open_workflows;
mod orphans;
pub mod plan;
mod publish;
mod reconcile;
mod repair;
mod spans;
mod template;
mod workflow_status;

use std::sync::Arc;

use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    api::ObjectMeta,
    runtime::{
        Controller, WatchStreamExt, controller,
        reflector::{self, ObjectRef},
        watcher,
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Parts, runtime::requeue_router};
use crate::{
    api::{AgentJob, AgentRun, names},
    platform::{
        follow::{Change, follow},
        watch::{Item, config, items},
    },
    pods::{PodView, ending},
};

use context::Context;
pub use defaults::{DefaultMode, Defaults};

/// A job in the control loop: the object, or that it can't be read.
type JobItem = Item<AgentJob>;

/// Runs until `stop`, in all watched namespaces.
pub async fn run(parts: Parts, installation: String, stop: CancellationToken) {
    let namespaces = parts.common.namespaces();
    let (requeue, streams) = requeue_router::<JobItem>(&namespaces);
    let (leak_grace, count) = (parts.settings.leak_grace, namespaces.len());
    let context = Arc::new(Context::new(parts, installation, requeue));
    let (seen, metrics) = (Arc::downgrade(&context), context.metrics.jobs.clone());
    context.metrics.before_scrapes(move || {
        if let Some(context) = seen.upgrade() {
            measure::census(&metrics, &context, count);
        }
    });
    let loops = namespaces.into_iter().zip(streams).map(|(namespace, triggered)| {
        let (runs_synced, runs) = watch::channel(false);
        let (pods_synced, pods) = watch::channel(false);
        let watch_runs = watch_runs(context.clone(), namespace.clone(), runs_synced);
        let watch_pods = watch_pods(context.clone(), namespace.clone(), pods_synced);
        let (of_templates, named) = (context.clone(), namespace.clone());
        let control = control(context.clone(), namespace, triggered, [runs, pods], stop.clone());
        async move {
            let watch_templates = template::watch(&of_templates, named.as_deref());
            // The control loop drains on its own; the watches end with it.
            tokio::select! { () = watch_runs => {}, () = watch_pods => {}, () = watch_templates => {}, () = control => {} }
        }
    });
    tokio::select! {
        _ = join_all(loops) => {}
        () = closed_workflows::run(context.clone()) => {}
        () = context.network.keep() => {}
        () = leaks::run(context.clone(), count, leak_grace) => {}
        () = open_workflows::run(context.clone(), count, leak_grace) => {}
        () = context.workflows.probe() => {}
    }
}

/// The control loop for a namespace, or for all. It begins when the caches of runs and pods are complete: not for
/// correctness, but because each job would cost reads otherwise.
async fn control(
    context: Arc<Context>,
    namespace: Option<String>,
    triggered: impl futures::Stream<Item = ObjectRef<JobItem>> + Send + 'static,
    synced: [watch::Receiver<bool>; 2],
    stop: CancellationToken,
) {
    for mut synced in synced {
        tokio::select! {
            () = stop.cancelled() => return,
            // A watch that has ended ends this loop, too.
            _ = synced.wait_for(|done| *done) => {}
        }
    }
    let api = items::<AgentJob>(context.client.clone(), namespace.as_deref());
    let (reader, writer) = reflector::store();
    context.jobs.add(reader.clone());
    let jobs = watcher(api, config()).default_backoff().modify(trim).reflect(writer).applied_objects();
    let turns = context.turns.clone();
    Controller::for_stream(jobs, reader)
        // Without a limit: each waits for its turn itself, so that the order is fair.
        .with_config(controller::Config::default().concurrency(0))
        .reconcile_on(triggered)
        .graceful_shutdown_on(async move {
            stop.cancelled().await;
            turns.close();
        })
        .run(reconcile::reconcile, reconcile::on_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

fn trim(item: &mut JobItem) {
    if let Ok(job) = &mut item.object {
        job.trim();
    }
    kube::Resource::meta_mut(item).managed_fields = None;
}

/// Updates the cache of runs, and enqueues the job of each run that changes.
async fn watch_runs(context: Arc<Context>, namespace: Option<String>, synced: watch::Sender<bool>) {
    let client = context.client.clone();
    let synced = || _ = synced.send_replace(true);
    follow::<AgentRun>(client, namespace.as_deref(), None, synced, |change| match change {
        Change::Applied(run) if !run.has_its_name() => {
            repair::look_at_run(&context, &run);
            let what = "an AgentRun that is not named as a run of its job is nobody's";
            context.notices.foreign("AgentRun", &run.metadata, what);
            context.runs.put_foreign(&run.metadata);
            ask_by_run_name(&context, run.metadata.namespace.as_deref().unwrap_or_default(), run.name());
        }
        Change::Applied(run) => {
            let job = run.job();
            orphans::look(&context, &run);
            repair::look_at_run(&context, &run);
            context.runs.put(*run);
            context.requeue.ask(&job.namespace, &job.name);
        }
        Change::Gone(uid) => {
            if let Some(job) = context.runs.remove(&uid) {
                context.requeue.ask(&job.namespace, &job.name);
            }
            if let Some((namespace, name)) = context.runs.remove_foreign(&uid) {
                ask_by_run_name(&context, &namespace, &name);
            }
        }
        Change::Unreadable(meta, error) => unreadable(&context, "AgentRun", &meta, &error),
    })
    .await;
}

/// Enqueues the job that a run of this name would be of.
fn ask_by_run_name(context: &Context, namespace: &str, name: &str) {
    if let Some(job) = names::job_of(name) {
        context.requeue.ask(namespace, job);
    }
}

/// Updates the cache of pods, and enqueues the job of each pod that changes.
async fn watch_pods(context: Arc<Context>, namespace: Option<String>, synced: watch::Sender<bool>) {
    let ours = format!("{}={}", names::LABEL_COMPONENT, names::RUNNER_COMPONENT);
    let client = context.client.clone();
    let ask = |run_uid: Option<&str>| {
        if let Some(job) = run_uid.and_then(|uid| context.runs.job_of(uid)) {
            context.requeue.ask(&job.namespace, &job.name);
        }
    };
    let synced = || _ = synced.send_replace(true);
    follow::<Pod>(client, namespace.as_deref(), Some(&ours), synced, |change| match change {
        Change::Applied(pod) => {
            let (view, meta) = (PodView::of(&pod), &pod.metadata);
            repair::look_at_pod(&context, meta);
            let run = view.run_uid.as_deref().and_then(|uid| context.runs.get(uid));
            let is_of = |run: &AgentRun| run.metadata.namespace == meta.namespace && ending::is_pod_of(run, &view);
            if run.is_some_and(|run| !is_of(&run)) {
                let what = "a pod that names an AgentRun as its owner is not that run's";
                return context.notices.foreign("Pod", meta, what);
            }
            let run = view.run_uid.clone();
            context.has_seen(run.as_deref().unwrap_or_default(), &view.uid);
            if context.pods.put(meta.namespace.as_deref().unwrap_or_default(), view) {
                ask(run.as_deref());
            }
        }
        Change::Gone(uid) => {
            let run = context.pods.remove(&uid);
            context.has_seen(run.as_deref().unwrap_or_default(), &uid);
            ask(run.as_deref());
        }
        Change::Unreadable(meta, error) => unreadable(&context, "Pod", &meta, &error),
    })
    .await;
}

/// Says in the log and by an event that an object can't be read and is skipped.
fn unreadable(context: &Context, kind: &str, meta: &ObjectMeta, error: &str) {
    if context.notices.unreadable(kind, meta, error) {
        publish::unreadable(context, kind, meta, error);
    }
}

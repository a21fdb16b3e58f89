//! One reconcile: observe, plan, execute, one status write, events.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Resource,
    runtime::{controller, events},
};

use super::{
    Context, ControllerError, execute,
    plan::{self, Action, Ground, Level, Note, Plan, Seen},
};
use crate::{
    api::{AgentJob, DesiredState, ExecutionMode},
    platform::{metrics::Metrics, status},
    pods::Pods,
};

/// How long a reconcile may take: the client's own retries must not hold a slot for minutes.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn reconcile(
    job: Arc<AgentJob>,
    context: Arc<Context>,
) -> Result<controller::Action, ControllerError> {
    let began = std::time::Instant::now();
    let done = tokio::time::timeout(LIMIT, once(&job, &context)).await.unwrap_or(Err(ControllerError::TimedOut));
    context.metrics.reconciles.inc();
    context.metrics.reconcile_seconds.observe(began.elapsed().as_secs_f64());
    done
}

pub(super) fn on_error(job: Arc<AgentJob>, error: &ControllerError, context: Arc<Context>) -> controller::Action {
    Metrics::count(&context.metrics.reconcile_errors, error.reason());
    if error.reason() != "Conflict" {
        let (namespace, name) = (job.metadata.namespace.as_deref(), job.metadata.name.as_deref());
        tracing::warn!(namespace, name, %error, reason = error.reason(), "reconcile");
    }
    error.retry_after().map_or_else(controller::Action::await_change, controller::Action::requeue)
}

async fn once(job: &AgentJob, context: &Context) -> Result<controller::Action, ControllerError> {
    let reference = job.reference();
    let api: Api<AgentJob> = Api::namespaced(context.client.clone(), &reference.namespace);
    let mut seen = observe(job, context).await?;
    let first = decide(job, &seen, context);
    if first.actions.first() == Some(&Action::AddFinalizer) {
        execute::add_finalizer(&api, job).await?;
        return Ok(controller::Action::await_change());
    }
    let facts = execute::all(job, &api, context, &first.actions).await?;
    // What Temporal did not take is decided again with that in mind: the status must not say what did not happen.
    let decided = if facts.trouble.is_some() {
        seen.temporal_trouble = facts.trouble.clone();
        let again = decide(job, &seen, context);
        Plan { requeue: again.requeue.or(first.requeue), ..again }
    } else {
        first
    };
    let mut new = decided.status.clone();
    facts.enter(&mut new);
    let written = status::write(&api, job, &new).await?;
    if written.is_some() {
        context.metrics.status_writes.inc();
        publish(job, context, &new, decided.notes);
    }
    remember(job, context, &new);
    let wrote = written.is_some();
    let current = written.as_ref().unwrap_or(job);
    for last in &decided.actions {
        match last {
            Action::RemoveFinalizer => execute::remove_finalizer(&api, current).await?,
            Action::DeleteJob => execute::delete_job(&api, current).await?,
            _ => {}
        }
    }
    Ok(match decided.requeue.or(facts.look_again) {
        // Our own write comes back through the watch.
        Some(wait) if wait.is_zero() && wrote => controller::Action::await_change(),
        Some(wait) => controller::Action::requeue(wait.max(Duration::from_millis(10))),
        None => controller::Action::await_change(),
    })
}

async fn observe(job: &AgentJob, context: &Context) -> Result<Seen, ControllerError> {
    let mut pods = context.pods.of(job.uid());
    let mut pods_are_live = false;
    let status = job.status.clone().unwrap_or_default();
    if let Some(claim) = &status.claim {
        let known = claim.pod_uid.as_ref();
        let missing = known.is_some_and(|uid| pods.iter().all(|p| p.uid != *uid));
        let told = status.outcome.as_ref().is_some_and(|o| o.epoch == claim.epoch);
        let over = status.phase.is_some_and(|p| p.is_terminal());
        let cancel = job.spec.desired_state == DesiredState::Cancelled && claim.permit.is_none();
        // The cache may be behind: before a pod counts as gone, the API server itself is asked.
        if !over && ((missing && !told) || cancel) {
            let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
            pods = Pods::new(context.client.clone(), namespace).of_job(job.uid()).await?;
            pods_are_live = true;
        }
    }
    let (answer, temporal_trouble) = context.mirror.last(job.uid());
    Ok(Seen { pods, pods_are_live, answer, temporal_trouble })
}

fn decide(job: &AgentJob, seen: &Seen, context: &Context) -> Plan {
    let ground = Ground {
        defaults: &context.defaults,
        cluster: &context.cluster,
        temporal_namespace: context.temporal.namespace(),
        temporal_configured: context.temporal.is_configured(),
        now: Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()),
    };
    plan::plan(job, seen, &ground)
}

/// Keeps the list of jobs whose workflows may close without telling us.
fn remember(job: &AgentJob, context: &Context, status: &crate::api::AgentJobStatus) {
    let temporal = status.resolved.as_ref().is_some_and(|r| r.execution_mode == ExecutionMode::Temporal);
    let over = status.phase.is_some_and(|p| p.is_terminal());
    let Ok(mut open) = context.open.lock() else { return };
    if temporal && !over && status.workflow.is_some() {
        open.insert(job.uid().into(), job.reference());
    } else {
        open.remove(job.uid());
        drop(open);
        if over {
            context.mirror.forget(job.uid());
        }
    }
}

/// Events are told in the background: nothing rests on them.
fn publish(job: &AgentJob, context: &Context, status: &crate::api::AgentJobStatus, notes: Vec<Note>) {
    if notes.is_empty() {
        return;
    }
    let (recorder, about) = (context.recorder.clone(), job.object_ref(&()));
    // Events of one kind are counted together unless they relate to different objects.
    let pod = status.runner_pod.clone().map(|name| k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: job.metadata.namespace.clone(),
        uid: status.claim.as_ref().and_then(|c| c.pod_uid.clone()),
        name: Some(name),
        ..Default::default()
    });
    tokio::spawn(async move {
        for note in notes {
            let type_ = match note.level {
                Level::Normal => events::EventType::Normal,
                Level::Warning => events::EventType::Warning,
            };
            let action = note.reason.clone();
            let event =
                events::Event { type_, reason: note.reason, note: Some(note.message), action, secondary: pod.clone() };
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::debug!(%error, "an event was not taken");
            }
        }
    });
}

//! Carries out what was planned. Decides nothing; tells what came of it.

use std::time::Duration;

use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::{Context, ControllerError, plan::Action};
use crate::{
    api::{AgentJob, AgentJobStatus, DesiredState, SentRequest, names},
    platform::{
        metrics::Metrics,
        status::{self, StatusError},
    },
    pods::{Pods, collect, template},
    protocol::workflow::{SIGNAL_CANCEL, SIGNAL_PAUSE, SIGNAL_RESUME, SIGNAL_RUNNER_FAILED},
    temporal::{TaskToken, TemporalError},
};

/// What came of the actions, for the status.
#[derive(Default)]
pub(super) struct Facts {
    created: Option<Result<String, String>>,
    sent: Option<SentRequest>,
    run_id: Option<String>,
    /// Why Temporal did not take something: (reason, message).
    pub(super) trouble: Option<(String, String)>,
    /// When to look again.
    pub(super) look_again: Option<Duration>,
}

impl Facts {
    /// Into the status that was planned.
    pub(super) fn enter(&self, status: &mut AgentJobStatus) {
        if let (Some(created), Some(claim)) = (&self.created, status.claim.as_mut()) {
            match created {
                Ok(uid) => {
                    claim.pod_uid = Some(uid.clone());
                    claim.refusal = None;
                }
                Err(words) => claim.refusal = Some(words.clone()),
            }
        }
        if let Some(sent) = &self.sent {
            status.control.get_or_insert_default().sent = Some(sent.clone());
        }
        if let (Some(run_id), Some(workflow)) = (&self.run_id, status.workflow.as_mut()) {
            workflow.run_id = Some(run_id.clone());
        }
    }
}

/// Carries out all but what must follow the status write.
pub(super) async fn all(
    job: &AgentJob,
    api: &Api<AgentJob>,
    context: &Context,
    actions: &[Action],
) -> Result<Facts, ControllerError> {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let pods = Pods::new(context.client.clone(), namespace);
    let submitted =
        job.status.as_ref().and_then(|s| s.workflow.as_ref()).map(|w| w.id.clone()).filter(|id| !id.is_empty());
    let workflow = submitted.unwrap_or_else(|| names::workflow(&context.cluster, job.uid()));
    let mut facts = Facts::default();
    for action in actions {
        match action {
            Action::DeletePod { name, uid } => pods.delete(name, uid).await?,
            Action::CreatePod => create(job, api, context, &pods, &mut facts).await?,
            // After the status write.
            Action::AddFinalizer | Action::RemoveFinalizer | Action::DeleteJob => {}
            // Once Temporal has failed, the rest of its work waits for the next round.
            _ if facts.trouble.is_some() => {}
            Action::Ask => context.mirror.ask(job.reference(), workflow.clone()),
            Action::StartWorkflow(input) => match context.temporal.start(&workflow, input).await {
                Ok(run_id) => {
                    // An answer from before the start would say that there is no workflow.
                    context.mirror.forget(job.uid());
                    facts.run_id = run_id;
                }
                Err(e) => facts.trouble(&e),
            },
            Action::Signal(request) => {
                let signal = match request.desired {
                    DesiredState::Running => SIGNAL_RESUME,
                    DesiredState::Paused => SIGNAL_PAUSE,
                    DesiredState::Cancelled => SIGNAL_CANCEL,
                };
                let answer = context.temporal.signal(&workflow, signal, request).await;
                Metrics::count(&context.metrics.signals, signal);
                if facts.told(answer) {
                    facts.sent = Some(SentRequest {
                        state: request.desired,
                        id: request.id.clone(),
                        request: job.control_request().map(str::to_string),
                        time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()),
                    });
                    context.mirror.hurry(job.uid());
                    context.mirror.ask(job.reference(), workflow.clone());
                }
            }
            Action::RunnerFailed(failed) => {
                let answer = context.temporal.signal(&workflow, SIGNAL_RUNNER_FAILED, failed).await;
                Metrics::count(&context.metrics.signals, SIGNAL_RUNNER_FAILED);
                facts.told(answer);
            }
            Action::Deliver(outcome) => {
                let permit = job.status.as_ref().and_then(|s| s.claim.as_ref()).and_then(|c| c.permit.as_ref());
                let token = permit.and_then(|p| p.task_token.as_deref());
                let Some(token) = token.and_then(|t| TaskToken::from_claim(t, &workflow).ok()) else { continue };
                let answer = context.temporal.deliver(token, outcome).await;
                // While Temporal is away every question and every delivery fails at once: no hurry then.
                if facts.told(answer) {
                    context.mirror.hurry(job.uid());
                }
                context.mirror.ask(job.reference(), workflow.clone());
            }
        }
    }
    Ok(facts)
}

impl Facts {
    /// Told, or nobody is there any more to be told: a closed workflow needs no signal, and a task that Temporal does not
    /// know is done, or will be bound anew and finds the outcome in the status. Anything else is trouble.
    fn told(&mut self, answer: Result<(), TemporalError>) -> bool {
        match answer {
            Ok(()) | Err(TemporalError::NotFound(_)) => true,
            Err(e) => {
                self.trouble(&e);
                false
            }
        }
    }

    fn trouble(&mut self, error: &TemporalError) {
        self.trouble = Some((error.reason().into(), error.to_string()));
        let wait = if error.is_transient() { 5 } else { 30 };
        self.look_again = Some(Duration::from_secs(wait));
    }
}

/// Creates the claim's pod, after a look at the job itself: the cache may be behind by a cancel, a deletion, or an end.
async fn create(
    job: &AgentJob,
    api: &Api<AgentJob>,
    context: &Context,
    pods: &Pods,
    facts: &mut Facts,
) -> Result<(), ControllerError> {
    let settings = context.runners.settings().await?;
    let live = status::read(api, &job.reference()).await?;
    let now = live.status.clone().unwrap_or_default();
    let expected = job.status.as_ref().and_then(|s| s.claim.as_ref());
    let (Some(claim), Some(expected)) = (&now.claim, expected) else { return Ok(()) };
    let wanted = live.metadata.deletion_timestamp.is_none()
        && live.spec.desired_state != DesiredState::Cancelled
        && !now.phase.is_some_and(|p| p.is_terminal());
    if !wanted || claim.epoch != expected.epoch || claim.pod_uid.is_some() {
        return Err(StatusError::Conflict.into());
    }
    let earlier = pods.of_job(job.uid()).await?;
    if !collect::before_epoch(&earlier, claim.epoch).is_empty() {
        facts.look_again = Some(Duration::from_secs(1));
        return Ok(());
    }
    match pods.create(template::build(&live, claim, &settings), job.uid()).await {
        Ok(made) => {
            context.metrics.pods_created.inc();
            facts.created = Some(Ok(made.uid().to_string()));
        }
        Err(error) if error.needs_a_person() => {
            facts.created = Some(Err(error.to_string()));
            facts.look_again = Some(Duration::from_secs(30));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Puts our finalizer on, on the version that was read.
pub(super) async fn add_finalizer(api: &Api<AgentJob>, job: &AgentJob) -> Result<(), ControllerError> {
    let mut list = job.metadata.finalizers.clone().unwrap_or_default();
    list.push(names::FINALIZER.into());
    finalizers(api, job, list).await
}

/// Takes it off; a job that is gone by then is success.
pub(super) async fn remove_finalizer(api: &Api<AgentJob>, job: &AgentJob) -> Result<(), ControllerError> {
    let mut list = job.metadata.finalizers.clone().unwrap_or_default();
    list.retain(|f| f != names::FINALIZER);
    match finalizers(api, job, list).await {
        Err(ControllerError::Status(StatusError::Gone)) => Ok(()),
        other => other,
    }
}

async fn finalizers(api: &Api<AgentJob>, job: &AgentJob, list: Vec<String>) -> Result<(), ControllerError> {
    let patch = json!({ "metadata": {
        "finalizers": list,
        "resourceVersion": job.metadata.resource_version,
        "uid": job.metadata.uid,
    } });
    let name = job.metadata.name.as_deref().unwrap_or_default();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(StatusError::from)?;
    Ok(())
}

/// Deletes a job whose time is over, and no other of the same name.
pub(super) async fn delete_job(api: &Api<AgentJob>, job: &AgentJob) -> Result<(), ControllerError> {
    let exact = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(exact), ..DeleteParams::background() };
    match api.delete(job.metadata.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => Ok(()),
        Err(e) => Err(e.into()),
    }
}

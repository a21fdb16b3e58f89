//! `execute_agent`: gives the permit to the waiting runner by binding this task to it. Short: whoever learns of the agent's
//! end completes the task. It is tried again after a heartbeat time-out, and then binds the same runner anew.

use temporalio_sdk::activities::ActivityContext;

use super::{Activities, Trouble, now};
use crate::{
    api::{AgentJob, AgentJobStatus, DesiredState, ErrorStatus, Permit},
    platform::status,
    pods::{PodView, ending},
    protocol::{
        error_types,
        workflow::{AgentResult, ExecuteAgent, verdict},
    },
    temporal::TaskToken,
};

/// What is asked of the job's record.
struct Binding<'a> {
    epoch: i32,
    /// The task, in the workflow run that waits for it.
    run_id: String,
    task_token: &'a [u8],
    /// Whether Temporal was asked, and said that this task counts: after a reset its tries begin again at 1.
    counts: bool,
    /// The job's pods, if this is not the task's first try: the runner was silent.
    silent: Option<&'a [PodView]>,
}

/// Decides on the new status: with a permit bound to the task, or with the outcome of the epoch.
fn bind(job: &AgentJob, status: &mut AgentJobStatus, ask: &Binding) -> Result<(), Trouble> {
    let claim = status.claim.as_mut().filter(|c| c.epoch == ask.epoch);
    let claim = claim.ok_or_else(|| {
        let message = "another epoch has taken its place".into();
        Trouble::AgentEnded { error: ErrorStatus { kind: error_types::RUNNER_LOST.into(), message }, last: false }
    })?;
    if status.outcome.as_ref().is_some_and(|o| o.epoch == ask.epoch) {
        return Ok(());
    }
    let Some(old) = &claim.permit else {
        if job.metadata.deletion_timestamp.is_some() || job.spec.desired_state == DesiredState::Cancelled {
            return Err(Trouble::JobGone("the AgentJob is going: its agent isn't started any more"));
        }
        claim.permit = Some(permit(0, ask));
        return Ok(());
    };
    if !ask.counts && old.task_token.as_deref().is_some_and(|t| TaskToken::is_later(t, ask.task_token)) {
        return Err(Trouble::Superseded("a later try has bound the runner"));
    }
    if let Some(pods) = ask.silent {
        let pod = pods.iter().find(|p| p.epoch == ask.epoch && claim.pod_uid.as_ref().is_none_or(|uid| *uid == p.uid));
        if let Some(outcome) = ending::work_out(ask.epoch, pod, true, now()) {
            status.outcome = Some(outcome);
            return Ok(());
        }
        // A time-out alone proves nothing: Temporal, or every gateway, may have been away. That a gateway listened for an
        // answer to an offer and heard none does. A runner that never reported in can't have started its agent.
        let runner = status.runner.as_ref().filter(|r| r.epoch == ask.epoch);
        let silent = runner.is_none_or(|r| r.silent_since.is_some() && r.answered.unwrap_or(-1) < old.offer);
        if old.run_id.as_deref() == Some(&ask.run_id) && old.offer >= 1 && silent {
            // On record, so that a runner that comes back can't say otherwise, and the status knows that nothing runs.
            let message = "the runner was silent for twice the heartbeat time-out";
            status.outcome = Some(ending::silent(ask.epoch, message.into(), now()));
            return Ok(());
        }
    }
    claim.permit = Some(permit(old.offer.saturating_add(1), ask));
    Ok(())
}

fn permit(offer: i32, ask: &Binding) -> Permit {
    let task_token = Some(TaskToken::encode(ask.task_token));
    Permit { time: now(), offer, run_id: Some(ask.run_id.clone()), task_token }
}

/// The agent's result if it has ended already, `None` if its outcome will be delivered.
pub async fn run(a: &Activities, ctx: &ActivityContext, input: ExecuteAgent) -> Result<Option<AgentResult>, Trouble> {
    let info = ctx.info();
    // The pods first, the status after them: a runner delivers before its pod ends.
    let pods = if info.attempt > 1 { Some(a.pods_in(&input.job).of_job(&input.job.uid).await?) } else { None };
    let mut ask = Binding {
        epoch: input.epoch,
        counts: false,
        run_id: info.workflow_run_id.clone().unwrap_or_default(),
        task_token: &info.task_token,
        silent: pods.as_deref(),
    };
    let jobs = a.jobs(&input.job);
    let mut bound = status::modify(&jobs, &input.job, None, |job, status| bind(job, status, &ask)).await;
    if matches!(bound, Err(Trouble::Superseded(_))) {
        a.still_ours(ctx).await?;
        ask.counts = true;
        bound = status::modify(&jobs, &input.job, None, |job, status| bind(job, status, &ask)).await;
    }
    let job = bound?;
    let outcome = job.status.as_ref().and_then(|s| s.outcome.as_ref()).filter(|o| o.epoch == input.epoch);
    match outcome.map(verdict) {
        None => Ok(None),
        Some(Ok(result)) => Ok(Some(result)),
        Some(Err((error, last))) => Err(Trouble::AgentEnded { error, last }),
    }
}

#[cfg(test)]
mod tests;

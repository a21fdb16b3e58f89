//! `execute_agent`: grants the start to the runner that waits, or binds a runner that has started to this try of the activity.
//! Short: whoever learns of the agent's end completes the activity. It is tried again after a heartbeat time-out, and then
//! binds the same runner anew.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Activities, ActivityFailure, Task, control_runner, now};
use crate::{
    api::{AgentRun, ErrorStatus, RawJson, StartGrant, Termination},
    lifecycle::{self, Ended},
    platform::store::StoreError,
    pods::{PodView, ending},
    protocol::{
        error_types,
        workflow::{AgentResult, ExecuteAgent},
    },
    runs::RunError,
};

/// How often the run is looked at, at the most: each look but the first answers one question, or follows somebody's write.
const LOOKS: usize = 6;

/// What is asked of a run.
struct Ask<'a> {
    task: &'a Task,
    /// Whether Temporal was asked, and said that this task counts.
    counts: bool,
    /// The run's pod, if it was looked for before the run was read: a runner delivers before its pod ends.
    pod: Option<Option<PodView>>,
    now: Time,
}

/// What to do with an open run.
#[derive(Debug, PartialEq)]
enum Binding {
    /// It is bound to this very try.
    Ours,
    /// Write this grant.
    Grant(StartGrant),
    /// Close it: its agent has ended, or its runner is lost.
    Close(Box<Termination>),
    /// First ask Temporal whether this task counts.
    AskTemporal,
    /// First look for the pod, and then at the run again.
    LookAtPod,
}

fn bind(run: &AgentRun, ask: &Ask<'_>) -> Binding {
    let attempt = i32::try_from(ask.task.attempt).unwrap_or(i32::MAX);
    let grant = |time: &Time, binding| StartGrant {
        time: time.clone(),
        binding,
        workflow_id: Some(ask.task.workflow_id.clone()),
        run_id: Some(ask.task.run_id.clone()),
        activity_attempt: Some(attempt),
    };
    let Some(old) = &run.spec.grant else { return Binding::Grant(grant(&ask.now, 0)) };
    let same = old.run_id.as_deref() == Some(&ask.task.run_id);
    if same && old.activity_attempt == Some(attempt) {
        return Binding::Ours;
    }
    // A later try, or another execution of the workflow, has the runner: either this one is new, or it was frozen for long.
    let follows = same && old.activity_attempt < Some(attempt);
    if !follows && !ask.counts {
        return Binding::AskTemporal;
    }
    let Some(pod) = &ask.pod else { return Binding::LookAtPod };
    let pod = pod.as_ref().filter(|p| ending::is_pod_of(run, p));
    if let Some(ended) = ending::derive(run, pod, &ask.now) {
        return Binding::Close(Box::new(ended));
    }
    // A time-out alone proves nothing: Temporal, or every gateway, may have been away. That a gateway listened for an answer to
    // a binding and heard none does. A runner that never registered can't have started its agent.
    let acknowledged = run.acknowledged().map_or(-1, |a| a.binding);
    let unresponsive = run.status.as_ref().is_some_and(|s| s.unresponsive_since.is_some());
    let silent = !run.is_ready() || (unresponsive && acknowledged < old.binding);
    if same && old.binding >= 1 && silent {
        // On record, so that a runner that comes back can't say otherwise, and the job's status knows that nothing runs.
        let message = "the runner was silent for twice the heartbeat time-out".into();
        return Binding::Close(Box::new(lifecycle::koco(run, error_types::HEARTBEAT_TIMEOUT, message, &ask.now)));
    }
    Binding::Grant(grant(&old.time, old.binding.saturating_add(1)))
}

/// Why a write was not made.
enum Stop {
    /// The decision is another one.
    Other(Binding),
    /// It failed.
    Failed(ActivityFailure),
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Self::Failed(e.into())
    }
}

impl From<RunError> for Stop {
    fn from(e: RunError) -> Self {
        Self::Failed(e.into())
    }
}

/// The agent's result if it has ended already, `None` if its end will be delivered.
pub async fn run(a: &Activities, task: &Task, input: &ExecuteAgent) -> Result<Option<AgentResult>, ActivityFailure> {
    let run = settle(a, task, input).await?;
    if !run.is_closed() {
        return Ok(None);
    }
    end(&run).map(Some)
}

/// How a closed run ended.
fn end(run: &AgentRun) -> Result<AgentResult, ActivityFailure> {
    let ended = lifecycle::end_of(run);
    if run.spec.grant.is_none() {
        return Err(never_granted(ended));
    }
    match ended {
        Ended::Succeeded => {
            let result = run.termination().and_then(|t| t.result.as_ref()).map(RawJson::read).transpose();
            let result = result.map_err(|e| ActivityFailure::Unavailable(format!("the result of {}: {e}", run.name())));
            Ok(AgentResult { result: result? })
        }
        Ended::Failed { error, non_retryable } => Err(ActivityFailure::AgentEnded { error, non_retryable }),
    }
}

/// A run that was closed before its start was granted, while the workflow already took it to be: it uses up no attempt.
fn never_granted(ended: Ended) -> ActivityFailure {
    match ended {
        // Nothing came up in time: that fails the job.
        Ended::Failed { error, .. } if error.kind == error_types::PENDING_TIMEOUT => {
            ActivityFailure::AgentEnded { error, non_retryable: true }
        }
        Ended::Failed { error, .. } if error.kind == error_types::NOT_STARTED => {
            ActivityFailure::AgentEnded { error, non_retryable: false }
        }
        other => {
            let message = match other {
                Ended::Failed { error, .. } => format!("{}: {}", error.kind, error.message),
                Ended::Succeeded => "it is said to have succeeded before it had started".into(),
            };
            let error = ErrorStatus { kind: error_types::NOT_STARTED.into(), message };
            ActivityFailure::AgentEnded { error, non_retryable: false }
        }
    }
}

async fn read(a: &Activities, input: &ExecuteAgent) -> Result<AgentRun, ActivityFailure> {
    let found = a.runs_in(&input.job).get(&input.job, input.run).await?;
    found.ok_or_else(|| {
        // The same as a tombstone in its place would say.
        let error = ErrorStatus { kind: error_types::DISRUPTED.into(), message: "its AgentRun was deleted".into() };
        ActivityFailure::AgentEnded { error, non_retryable: false }
    })
}

/// The run, bound to this task or closed.
async fn settle(a: &Activities, task: &Task, input: &ExecuteAgent) -> Result<AgentRun, ActivityFailure> {
    let runs = a.runs_in(&input.job);
    let mut ask = Ask { task, counts: false, pod: None, now: now() };
    let mut run = read(a, input).await?;
    for _ in 0..LOOKS {
        let written = runs.modify_spec(run.clone(), |run, spec| {
            match bind(run, &ask) {
                Binding::Ours => {}
                Binding::Grant(grant) => spec.grant = Some(grant),
                other => return Err(Stop::Other(other)),
            }
            control_runner::command(spec, input.desired, input.generation);
            Ok(())
        });
        match written.await {
            Ok(run) => return Ok(run),
            Err(Stop::Failed(e)) => return Err(e),
            Err(Stop::Other(Binding::AskTemporal)) => {
                a.still_ours(task).await?;
                ask.counts = true;
            }
            Err(Stop::Other(Binding::LookAtPod)) => {
                ask.pod = Some(a.pods_in(&input.job).get(&run.spec.identity.pod_name).await?);
                run = read(a, input).await?;
            }
            Err(Stop::Other(_)) => {
                let closed = runs.modify_status(run.clone(), |run, status| match bind(run, &ask) {
                    Binding::Close(termination) => {
                        status.termination = Some(*termination);
                        Ok(())
                    }
                    other => Err(Stop::Other(other)),
                });
                match closed.await {
                    Ok(run) => return Ok(run),
                    Err(Stop::Failed(e)) => return Err(e),
                    // Somebody's write has changed the decision.
                    Err(Stop::Other(_)) => run = read(a, input).await?,
                }
            }
        }
    }
    Err(ActivityFailure::Unavailable(format!("AgentRun {} changes all the time", run.name())))
}

#[cfg(test)]
mod tests;

//! `execute_agent`: grants the start to a waiting runner, or binds a runner that has started to this try of the
//! activity. Short: the activity is completed asynchronously, by the role that learns of the agent's end. It is retried
//! after a heartbeat time-out, and then binds the same runner anew.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Activities, ActivityFailure, Task, control_runner, now};
use crate::{
    api::{AgentRun, ErrorStatus, StartGrant, Termination},
    lifecycle::{self, Ended},
    platform::store::StoreError,
    pods::{NodeState, PodView, ending, node},
    protocol::{
        error_types,
        workflow::{AgentResult, ExecuteAgent},
    },
    runs::RunError,
};

/// How often the decision is repeated at the most: each time with one more fact, or after a conflict.
const LOOKS: usize = 7;

/// The facts for a decision on a run.
struct Ask<'a> {
    task: &'a Task,
    /// Whether Temporal has confirmed that this task is current.
    counts: bool,
    /// The run's pod, if it was read before the run: a runner reports its end before its pod ends.
    pod: Option<Option<PodView>>,
    /// The node of the pod, if it was read.
    node: Option<NodeState>,
    now: Time,
}

/// What to do with an open run.
#[derive(Debug, PartialEq)]
enum Binding {
    /// None: it is bound to this try.
    Ours,
    /// Write this grant.
    Grant(StartGrant),
    /// Close it: its agent has ended, or its runner is lost.
    Close(Box<Termination>),
    /// First ask Temporal whether this task is current.
    AskTemporal,
    /// First read the pod, and then the run again.
    LookAtPod,
    /// First read this node.
    LookAtNode(String),
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
    // A later try, or another execution of the workflow, has the runner: this task is either newer, or was delayed for
    // long.
    let follows = same && old.activity_attempt < Some(attempt);
    if !follows && !ask.counts {
        return Binding::AskTemporal;
    }
    let Some(pod) = &ask.pod else { return Binding::LookAtPod };
    let pod = pod.as_ref().filter(|p| ending::is_pod_of(run, p));
    let node = ask.node.as_ref();
    let close = |end| match pod.and_then(|p| p.node.clone()) {
        Some(name) if node.is_none() && ending::depends_on_node(&end) => Binding::LookAtNode(name),
        _ => Binding::Close(Box::new(end)),
    };
    if let Some(ended) = ending::derive(run, pod, node, &ask.now) {
        return close(ended);
    }
    // A heartbeat time-out alone proves nothing: Temporal or all gateways may have been down. A gateway that received
    // no acknowledgement of a binding does. A runner that never registered can't have started its agent.
    let unresponsive = run.status.as_ref().is_some_and(|s| s.unresponsive_since.is_some());
    let silent = !run.is_ready() || (unresponsive && run.acknowledged_binding() < old.binding);
    if same && old.binding >= 1 && silent {
        // Recorded, so that a runner that reconnects can't report another end, and the job's status is right.
        let message = "the runner sent nothing for twice the heartbeat time-out";
        let end = ending::unresponsive(run, node, message, &ask.now);
        if !ending::needs_a_lost_node(run, pod, node) {
            return close(end);
        }
    }
    Binding::Grant(grant(&old.time, old.binding.saturating_add(1)))
}

/// Why a write was not made.
enum Stop {
    /// The decision has changed.
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

/// The agent's result if it has ended already, `None` if the activity will be completed asynchronously.
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
    if run.spec.grant.is_none() && !run.spec.identity.tombstone {
        return Err(never_granted(ended));
    }
    match ended {
        Ended::Succeeded => {
            let result = lifecycle::result_of(run);
            result.map_err(|e| ActivityFailure::Unavailable(format!("the result of {}: {e}", run.name())))
        }
        Ended::Failed { error, non_retryable } => Err(ActivityFailure::AgentEnded { error, non_retryable }),
    }
}

/// A run that was closed before it was granted, although the workflow has counted its attempt: it uses up none.
fn never_granted(ended: Ended) -> ActivityFailure {
    match ended {
        // The pending time-out fails the job.
        Ended::Failed { error, .. } if error.kind == error_types::PENDING_TIMEOUT => {
            ActivityFailure::AgentEnded { error, non_retryable: true }
        }
        Ended::Failed { error, .. } if error.kind == error_types::NOT_STARTED => {
            ActivityFailure::AgentEnded { error, non_retryable: false }
        }
        other => {
            let message = match other {
                Ended::Failed { error, .. } => format!("{}: {}", error.kind, error.message),
                Ended::Succeeded => "it was reported as succeeded before it had started".into(),
            };
            let error = ErrorStatus { kind: error_types::NOT_STARTED.into(), message };
            ActivityFailure::AgentEnded { error, non_retryable: false }
        }
    }
}

async fn read(a: &Activities, input: &ExecuteAgent) -> Result<AgentRun, ActivityFailure> {
    let found = a.read_run(&input.job, input.run).await?;
    found.ok_or_else(|| {
        // The same end as a tombstone's.
        let error = ErrorStatus { kind: error_types::DISRUPTED.into(), message: "its AgentRun was deleted".into() };
        ActivityFailure::AgentEnded { error, non_retryable: false }
    })
}

/// The run, bound to this task or closed.
async fn settle(a: &Activities, task: &Task, input: &ExecuteAgent) -> Result<AgentRun, ActivityFailure> {
    let runs = a.runs_in(&input.job);
    let mut ask = Ask { task, counts: false, pod: None, node: None, now: now() };
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
            Err(Stop::Other(Binding::LookAtNode(name))) => ask.node = Some(node::read(&a.client, &name).await?),
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
                    // A concurrent write has changed the decision.
                    Err(Stop::Other(_)) => run = read(a, input).await?,
                }
            }
        }
    }
    Err(ActivityFailure::Unavailable(format!("AgentRun {}: too many conflicts", run.name())))
}

#[cfg(test)]
mod tests;

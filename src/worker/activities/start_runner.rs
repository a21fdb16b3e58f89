//! `start_runner`: creates a run and its pod, once the previous run is closed and its pod has ended.
//!
//! That normally costs reads of the job, of the previous run and of its pod. The job's runs are listed only if the
//! AgentRuns are ahead of the workflow (it was reset, or Temporal was restored from a backup), or a run was deleted.

use super::{Activities, ActivityFailure, NO_WORKFLOW, Task, now};
use crate::{
    api::{AgentJob, AgentRun, DesiredState, ExecutionMode, Resolved, RunCommand, Spent},
    lifecycle,
    pods::{self, PodView, RunnerPodSettings, collect, ending},
    protocol::{
        error_types,
        workflow::{StartRunner, StartedRunner},
    },
    runs::{self, NewRun},
};

/// What the job's runs mean for the requested number.
#[derive(Debug, PartialEq)]
enum RunState<'a> {
    /// There is none of this number, nor a higher one: create it.
    Free,
    /// An earlier try has created it: use it.
    Ours(&'a AgentRun),
    /// It is beyond this activity already: return its number, and `runner_ready` or `runner_failed` follows.
    Further(i32),
    /// The AgentRuns are ahead of the workflow: create the one after this, if this task is still current.
    After(&'a AgentRun),
}

/// Decides. `runs` are sorted by number.
fn place<'a>(runs: &'a [AgentRun], input: &StartRunner, run_id: &str) -> RunState<'a> {
    let Some(newest) = runs.last().filter(|r| r.number() >= input.run) else { return RunState::Free };
    let id = &newest.spec.identity;
    match &newest.spec.grant {
        // This execution has granted it before it was restored to an earlier point: the agent may be running.
        Some(grant) if grant.run_id.as_deref() == Some(run_id) => RunState::Further(newest.number()),
        None if newest.is_closed() && id.number == input.run => RunState::Further(id.number),
        // One of a higher number was created by an earlier try of this activity, or is equivalent.
        None if !newest.is_closed()
            && (id.number == input.run || (id.attempt, id.resumed) == (input.attempt, input.resumed)) =>
        {
            RunState::Ours(newest)
        }
        _ => RunState::After(newest),
    }
}

/// The resolved settings of a job that may have a runner: not one that has ended, is being ended, or has another
/// workflow.
fn wanted(job: &AgentJob) -> Result<&Resolved, ActivityFailure> {
    let status = job.status.as_ref();
    if job.metadata.deletion_timestamp.is_some() {
        return Err(ActivityFailure::JobGone("the AgentJob is being deleted"));
    }
    if job.spec.desired_state == DesiredState::Cancelled {
        return Err(ActivityFailure::JobGone("the AgentJob is to be cancelled"));
    }
    if status.and_then(|s| s.phase).is_some_and(|p| p.is_terminal()) {
        return Err(ActivityFailure::JobGone("the AgentJob has ended"));
    }
    let resolved = status.and_then(|s| s.resolved.as_ref());
    resolved.filter(|r| r.execution_mode == ExecutionMode::Temporal).ok_or(ActivityFailure::JobGone(NO_WORKFLOW))
}

/// Builds a run, given the previous one.
fn new_run(input: &StartRunner, number: i32, before: Option<&AgentRun>) -> NewRun {
    let active = before.filter(|_| input.resumed).map_or(0, |b| {
        let last = b.termination().map_or(0, |t| t.active_millis);
        b.spec.identity.active_millis.saturating_add(last)
    });
    let command = RunCommand::after(None, input.desired, input.generation, now());
    NewRun {
        number,
        attempt: input.attempt,
        resumed: input.resumed,
        active_millis: active,
        spent: before.map_or_else(Spent::default, lifecycle::spent),
        grant: None,
        command: (input.generation > 0).then_some(command),
    }
}

/// Whether this activity may create a run's pod.
fn is_to_start(run: &AgentRun) -> bool {
    !run.is_closed() && run.spec.grant.is_none()
}

/// One call of the activity.
struct Start<'a> {
    a: &'a Activities,
    task: &'a Task,
    input: &'a StartRunner,
    job: &'a AgentJob,
    resolved: &'a Resolved,
    settings: RunnerPodSettings,
}

pub async fn run(a: &Activities, task: &Task, input: &StartRunner) -> Result<StartedRunner, ActivityFailure> {
    let job = a.read_job(&input.job).await?;
    let start = Start { a, task, input, job: &job, resolved: wanted(&job)?, settings: a.pods.settings()? };
    let number = start.go().await?;
    Ok(StartedRunner { run: number })
}

impl Start<'_> {
    async fn go(&self) -> Result<i32, ActivityFailure> {
        let (input, runs) = (self.input, self.a.runs_in(&self.input.job));
        let before = if input.run > 1 { runs.get(&input.job, input.run - 1).await? } else { None };
        let newest = self.job.status.as_ref().and_then(|s| s.active_run).unwrap_or(0);
        // If the previous run exists, none of this number was ever deleted.
        if newest > input.run || (input.run > 1 && before.is_none()) {
            return self.look_around().await;
        }
        let before = match before {
            Some(before) => Some(self.end(before).await?),
            None => None,
        };
        let (run, new) = self.create(input.run, before.as_ref()).await?;
        if new || is_to_start(&run) {
            return self.pod(run).await;
        }
        self.look_around().await
    }

    /// Decides by all runs of the job.
    async fn look_around(&self) -> Result<i32, ActivityFailure> {
        if self.task.local {
            return Err(ActivityFailure::NotLocal("the job has a run that goes on"));
        }
        let found = self.a.runs_in(&self.input.job).list(&self.input.job).await?;
        match place(&found, self.input, &self.task.run_id) {
            RunState::Ours(run) => self.pod(run.clone()).await,
            RunState::Further(number) => Ok(number),
            RunState::Free => {
                let last = match found.last() {
                    Some(last) => Some(self.end(last.clone()).await?),
                    None => None,
                };
                self.end_recorded_pod().await?;
                let (run, _) = self.create(self.input.run, last.as_ref()).await?;
                self.pod_of_created(run).await
            }
            RunState::After(newest) => {
                // After the list: if the task is current now, no other may continue from these runs.
                self.a.still_ours(self.task).await?;
                self.after(newest).await
            }
        }
    }

    /// Creates the run after the newest.
    async fn after(&self, newest: &AgentRun) -> Result<i32, ActivityFailure> {
        let newest = self.end(newest.clone()).await?;
        let (run, _) = self.create(newest.number().saturating_add(1), Some(&newest)).await?;
        self.pod_of_created(run).await
    }

    async fn create(&self, number: i32, before: Option<&AgentRun>) -> Result<(AgentRun, bool), ActivityFailure> {
        let new = new_run(self.input, number, before);
        // The run before may be gone.
        let spent = new.spent.at_least(runs::spent_by_status(self.job));
        let run = runs::build(self.job, self.resolved, NewRun { spent, ..new })?;
        Ok(self.a.runs_in(&self.input.job).create(&run).await?)
    }

    /// Closes a run and deletes its pod. Returns the closed run once its pod has ended.
    async fn end(&self, run: AgentRun) -> Result<AgentRun, ActivityFailure> {
        let run = if run.is_closed() {
            run
        } else {
            let message = "another run took its place";
            let closed = |run: &AgentRun| lifecycle::koco(run, error_types::SUPERSEDED, message.into(), &now());
            self.a.runs_in(&self.input.job).close(run, closed).await?
        };
        if run.spec.identity.tombstone {
            self.end_recorded_pod().await?;
            return Ok(run);
        }
        let pod = self.a.pods_in(&self.input.job).get(&run.spec.identity.pod_name).await?;
        match pod.filter(|p| ending::is_pod_of(&run, p)) {
            Some(pod) if pod.agent_ended() => Ok(run),
            Some(pod) => {
                let delete = collect::of_closed(&run, &pod, &now()) == collect::Fate::Delete;
                Err(self.not_ended(&pod, delete).await)
            }
            None if lifecycle::lingers(&run, self.job.grace(), &now()).is_some() => {
                Err(ActivityFailure::PodNotEnded(run.spec.identity.pod_name.clone()))
            }
            None => Ok(run),
        }
    }

    /// Deletes the pod of a run that is gone: the job's status has its name.
    async fn end_recorded_pod(&self) -> Result<(), ActivityFailure> {
        let status = self.job.status.as_ref();
        let known = status.and_then(|s| s.runner_pod.as_ref().zip(s.runner_pod_uid.as_ref()));
        let Some((name, uid)) = known else { return Ok(()) };
        let pod = self.a.pods_in(&self.input.job).get(name).await?;
        match pod.filter(|p| p.uid == *uid && !p.agent_ended()) {
            Some(pod) => Err(self.not_ended(&pod, !pod.deleting()).await),
            None => Ok(()),
        }
    }

    async fn not_ended(&self, pod: &PodView, delete: bool) -> ActivityFailure {
        if delete {
            tracing::info!(namespace = self.input.job.namespace, pod = pod.name, "deleting the pod of an earlier run");
            if let Err(e) = self.a.pods_in(&self.input.job).delete(&pod.name, &pod.uid).await {
                return e.into();
            }
        }
        ActivityFailure::PodNotEnded(pod.name.clone())
    }

    /// Creates the pod of a new run, unless another try has gone on with the run.
    async fn pod_of_created(&self, run: AgentRun) -> Result<i32, ActivityFailure> {
        if is_to_start(&run) {
            return self.pod(run).await;
        }
        Err(ActivityFailure::Unavailable(format!("AgentRun {} was taken meanwhile", run.name())))
    }

    async fn pod(&self, run: AgentRun) -> Result<i32, ActivityFailure> {
        let number = run.number();
        let (pods, runs) = (self.a.pods_in(&self.input.job), self.a.runs_in(&self.input.job));
        let started = pods::start((&pods, &runs), self.job, run, &self.settings, &self.a.metrics).await?;
        started.run?;
        started.pod?;
        Ok(number)
    }
}

#[cfg(test)]
mod tests;

//! The job as it is sent to a runner, and whether a runner is still needed. Pure: from the current job and run.

use std::collections::BTreeMap;

use crate::{
    api::{AgentJob, AgentRun, DesiredState, Phase, TraceContext, fid, run_span},
    gateway::server::Refusal,
    protocol::{events::EventsConfig, runner::Job},
};

/// Whether a run of this job is still needed. A ready runner gets a cancel as a command, with its grace period; one
/// that is not ready yet need not start.
pub fn is_wanted(job: &AgentJob, run: &AgentRun) -> Result<(), Refusal> {
    let status = job.status.as_ref();
    if status.and_then(|s| s.phase).is_some_and(Phase::is_terminal) {
        return Err(Refusal::JobOver);
    }
    if job.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::JobDeleted);
    }
    if status.and_then(|s| s.active_run).is_some_and(|newest| newest > run.number()) {
        return Err(Refusal::Superseded);
    }
    if job.spec.desired_state == DesiredState::Cancelled && !run.is_ready() {
        return Err(Refusal::JobCancelled);
    }
    // In Direct mode the pause of a job without a run is stated at once, and a controller that had begun to create one may
    // do so later. The next observation gives it the command. In Temporal mode the workflow has the order.
    let told = run.spec.command.as_ref().map_or(DesiredState::Running, |c| c.state);
    let is_told = told != DesiredState::Running || run.is_temporal() || run.is_ready();
    if job.spec.desired_state == DesiredState::Paused && !is_told {
        return Err(Refusal::JobPaused);
    }
    Ok(())
}

/// The id of the job's execution in the archive: by its creation and UID, whatever its status says.
pub fn archived_fid(job: &AgentJob) -> String {
    fid(job.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()), job.uid())
}

/// The job for a runner, from the whole object; whether its agent's events are kept, and where its spans go.
pub fn answer(job: &AgentJob, run: &AgentRun, keeps_events: bool, otlp_endpoint: Option<&str>) -> Result<Job, Refusal> {
    let status = job.status.as_ref().ok_or(Refusal::NotAccepted)?;
    let resolved = status.resolved.as_ref().ok_or(Refusal::NotAccepted)?;
    let identity = &run.spec.identity;
    // What earlier runs of this attempt used up is gone. Zero would mean no time at all, and 1 ms says the same.
    let left = |limit: u64| limit.saturating_sub(identity.active_millis.max(0) as u64).max(1);
    Ok(Job {
        fid: status.fid.clone().unwrap_or_else(|| archived_fid(job)),
        entry_point: job.spec.entry_point.clone(),
        inputs: job.spec.inputs.clone(),
        inputs_from: job.spec.inputs_from.iter().map(|source| source.prefix.clone()).collect(),
        // Without other sources the controller has judged them.
        inputs_schema: job.spec.inputs_schema.clone().filter(|_| !job.spec.inputs_from.is_empty()),
        extra: job.spec.extra.clone(),
        attempt: identity.attempt,
        resumed: identity.resumed,
        pause_policy: identity.pause_policy,
        pause_notice: job.spec.pause_notice.clone(),
        grace_seconds: job.grace_seconds(),
        heartbeat_interval_millis: heartbeat_interval(run).as_millis() as u64,
        execution_limit_millis: resolved.timeouts.execution.map(|e| left(e.get().as_millis() as u64)),
        budget: job.spec.budget.clone(),
        spent: identity.spent.unwrap_or_default(),
        events: keeps_events.then_some(EventsConfig { stdio: job.spec.events().stdio }),
        environment: environment(run, otlp_endpoint),
    })
}

/// By which the agent continues the job's trace.
fn environment(run: &AgentRun, otlp_endpoint: Option<&str>) -> BTreeMap<String, String> {
    let trace = TraceContext::of_run(run).traceparent(run_span(run.uid()));
    let endpoint = otlp_endpoint.filter(|e| !e.is_empty()).map(|e| ("OTEL_EXPORTER_OTLP_ENDPOINT".into(), e.into()));
    [("TRACEPARENT".to_string(), trace)].into_iter().chain(endpoint).collect()
}

/// How often a run's runner is to send a heartbeat: two may be lost. Each costs a request to the gateway and, in Temporal
/// mode, one to Temporal.
pub fn heartbeat_interval(run: &AgentRun) -> std::time::Duration {
    let third = run.spec.identity.heartbeat.get().as_millis() as u64 / 3;
    std::time::Duration::from_millis(third.max(250))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;
    use crate::api::{Events, ExecutionMode, RunCommand};
    use crate::gateway::fixtures::{fresh_run, job, run};

    #[test]
    fn a_runner_gets_its_job_and_what_is_left_of_its_time() {
        let (mut job, mut run) = (job(), run());
        let told = answer(&job, &run, false, None).unwrap();
        assert_eq!((told.fid.as_str(), told.attempt, told.grace_seconds), ("f", 1, 7));
        assert_eq!(told.inputs.get(), r#"{"topic":"octopuses"}"#);
        assert_eq!(told.inputs_from, ["", "key_"]);
        assert_eq!((told.heartbeat_interval_millis, told.execution_limit_millis), (40_000, Some(6000)));
        run.spec.identity.active_millis = 60_000;
        run.spec.identity.heartbeat = "100ms".parse().unwrap();
        run.spec.identity.resumed = true;
        let told = answer(&job, &run, false, None).unwrap();
        assert_eq!((told.heartbeat_interval_millis, told.execution_limit_millis), (250, Some(1)));
        assert!(told.resumed && told.events.is_none());
        assert_eq!(answer(&job, &run, true, None).unwrap().events, Some(EventsConfig { stdio: true }));
        job.spec.events = Some(Events { stdio: false });
        assert_eq!(answer(&job, &run, true, None).unwrap().events, Some(EventsConfig { stdio: false }));
        run.spec.identity.spent = serde_json::from_value(serde_json::json!({ "activeMillis": 5 })).unwrap();
        job.spec.budget = serde_json::from_value(serde_json::json!({ "activeTime": "1h" })).unwrap();
        let told = answer(&job, &run, false, None).unwrap();
        assert_eq!((told.budget, told.spent.active_millis), (job.spec.budget.clone(), 5));
        job.status.as_mut().unwrap().resolved = None;
        assert_eq!(answer(&job, &run, false, None), Err(Refusal::NotAccepted));
    }

    #[test]
    fn the_agent_continues_the_trace_that_the_job_names() {
        let (job, mut run) = (job(), run());
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_string();
        run.metadata.annotations = Some([(crate::api::names::ANNOTATION_TRACEPARENT.to_string(), given)].into());
        let told = answer(&job, &run, false, Some("http://collector:4318")).unwrap().environment;
        let span = hex::encode(run_span(run.uid()));
        assert_eq!(told["TRACEPARENT"], format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01"));
        assert_eq!(told["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://collector:4318");
        let derived = answer(&job, &fresh_run(), false, Some("")).unwrap().environment;
        assert_eq!(derived.keys().collect::<Vec<_>>(), ["TRACEPARENT"]);
        assert!(!derived["TRACEPARENT"].contains("0af7651916cd43dd8448eb211c80319c"));
    }

    #[test]
    fn a_run_that_is_not_needed_is_refused() {
        assert_eq!(is_wanted(&job(), &run()), Ok(()));
        let mut over = job();
        over.status.as_mut().unwrap().phase = Some(Phase::Cancelled);
        assert_eq!(is_wanted(&over, &run()), Err(Refusal::JobOver));
        let mut deleted = job();
        deleted.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(is_wanted(&deleted, &run()), Err(Refusal::JobDeleted));
        let mut further = job();
        further.status.as_mut().unwrap().active_run = Some(3);
        assert_eq!(is_wanted(&further, &run()), Err(Refusal::Superseded));
        let mut behind = job();
        behind.status.as_mut().unwrap().active_run = Some(1);
        assert_eq!(is_wanted(&behind, &run()), Ok(()), "in Temporal mode the run comes first");
        let mut cancelled = job();
        cancelled.spec.desired_state = DesiredState::Cancelled;
        assert_eq!(is_wanted(&cancelled, &fresh_run()), Err(Refusal::JobCancelled));
        assert_eq!(is_wanted(&cancelled, &run()), Ok(()), "its command tells it");
    }

    #[test]
    fn no_agent_of_a_paused_job_starts_before_its_run_is_told() {
        let (mut paused, mut new) = (job(), fresh_run());
        paused.spec.desired_state = DesiredState::Paused;
        new.spec.identity.execution_mode = ExecutionMode::Direct;
        assert_eq!(is_wanted(&job(), &new), Ok(()));
        assert_eq!(is_wanted(&paused, &new), Err(Refusal::JobPaused));
        let command = |state| RunCommand::after(None, state, 1, Time(Timestamp::UNIX_EPOCH));
        new.spec.command = Some(command(DesiredState::Running));
        assert_eq!(is_wanted(&paused, &new), Err(Refusal::JobPaused));
        new.spec.command = Some(command(DesiredState::Paused));
        assert_eq!(is_wanted(&paused, &new), Ok(()), "its command tells it");
        new.spec.command = None;
        new.spec.identity.execution_mode = ExecutionMode::Temporal;
        assert_eq!(is_wanted(&paused, &new), Ok(()), "the workflow has the order");
    }
}

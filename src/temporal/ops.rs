//! The calls that the roles make to Temporal, each bounded in time.

use std::time::Duration;

use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use temporalio_client::{
    ActivityIdentifier, Client, RetryOptions, RpcOptions, UntypedQuery, UntypedSignal, UntypedWorkflow,
    WorkflowCancelOptions, WorkflowDescribeOptions, WorkflowExecutionStatus, WorkflowGetResultOptions, WorkflowHandle,
    WorkflowIdConflictPolicy, WorkflowIdReusePolicy, WorkflowListOptions, WorkflowQueryOptions, WorkflowSignalOptions,
    WorkflowStartOptions, errors::WorkflowStartError, grpc::WorkflowService, tonic::IntoRequest,
};
use temporalio_common::{
    Priority,
    data_converters::{PayloadConverter, RawValue},
    error::ApplicationFailure,
    protos::temporal::api::{
        failure::v1::failure::FailureInfo, workflow::v1::PendingActivityInfo,
        workflowservice::v1::DescribeNamespaceRequest,
    },
};

use super::{Codec, Temporal, TemporalError, open};
use crate::{
    api::{AgentRun, ErrorStatus, names},
    lifecycle::{self, Ended},
    protocol::{
        error_types,
        workflow::{Input, WORKFLOW_TYPE},
    },
};

/// The time-out of a call. Callers retry in their own way.
pub(super) const CALL: Duration = Duration::from_secs(5);
/// The time-out of a query: without a worker it is never answered.
const QUERY: Duration = Duration::from_secs(3);

/// After so many failed tries of an activity one speaks of it.
const SEVERAL: i32 = 3;

/// How an execution was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// With a result.
    Completed,
    /// With an error.
    Failed,
    /// By the workflow, after a cancel.
    Cancelled,
    /// By termination from outside.
    Terminated,
    /// By its own time-out.
    TimedOut,
}

/// What Temporal says of a workflow.
#[derive(Clone, Debug)]
pub struct Described {
    /// How it was closed; `None` while it is open.
    pub closed: Option<Closed>,
    /// The newest run's id.
    pub run_id: String,
    /// What the API server refuses its worker again and again, with the activity's name.
    pub failing: Option<String>,
}

/// A closed workflow, as the visibility store lists it.
#[derive(Clone, Debug)]
pub struct ClosedWorkflow {
    /// The workflow's id.
    pub id: String,
}

/// The server's response to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// The activity is pending.
    Alive,
    /// Temporal has no such task: superseded, in back-off, closed, reset or continued as new.
    Unknown,
}

pub(super) fn bounded(limit: Duration) -> RpcOptions {
    // A server closes its connections every few minutes, which fails calls in flight. Longer outages are the caller's
    // to handle.
    let soon = RetryOptions::builder().initial_interval(Duration::from_millis(20)).max_retries(2).build();
    RpcOptions::builder().timeout(limit).retry_options(soon).build()
}

fn raw<T: Serialize + Send + Sync + 'static>(value: &T) -> RawValue {
    RawValue::from_value(value, &PayloadConverter::default())
}

impl Temporal {
    pub(super) fn workflow(&self, id: &str) -> Result<WorkflowHandle<Client, UntypedWorkflow>, TemporalError> {
        Ok(self.client()?.get_workflow_handle::<UntypedWorkflow>(id))
    }

    /// Starts a job's workflow. Starting it again is no error, whether it runs or has ended. Returns the run id if
    /// known.
    pub async fn start(&self, id: &str, task_queue: &str, input: &Input) -> Result<Option<String>, TemporalError> {
        let summary = open::summary(&input.job);
        let options = WorkflowStartOptions::new(task_queue, id)
            .id_reuse_policy(WorkflowIdReusePolicy::RejectDuplicate)
            .id_conflict_policy(WorkflowIdConflictPolicy::UseExisting)
            .static_summary(summary)
            // Where the server has fairness, a namespace with many jobs holds up no other; elsewhere it means nothing.
            .priority(Priority::builder().fairness_key(input.job.namespace.clone()).build())
            .rpc_options(bounded(CALL))
            .build();
        let started = self.client()?.start_workflow(UntypedWorkflow::new(WORKFLOW_TYPE), raw(input), options).await;
        match started {
            Ok(handle) => Ok(handle.run_id().map(str::to_string)),
            Err(WorkflowStartError::AlreadyStarted { run_id, .. }) => Ok(run_id),
            Err(e) => Err(e.into()),
        }
    }

    /// Signals a workflow. [`TemporalError::NotFound`] if it is closed.
    pub async fn signal<T>(&self, id: &str, signal: &'static str, payload: &T) -> Result<(), TemporalError>
    where
        T: Serialize + Send + Sync + 'static,
    {
        let options = WorkflowSignalOptions::builder().rpc_options(bounded(CALL)).build();
        Ok(self.workflow(id)?.signal(UntypedSignal::new(signal), raw(payload), options).await?)
    }

    /// Queries a workflow, open or closed.
    pub async fn query<T: DeserializeOwned + 'static>(
        &self,
        id: &str,
        query: &'static str,
    ) -> Result<T, TemporalError> {
        let options = WorkflowQueryOptions::builder().rpc_options(bounded(QUERY)).build();
        let answer = self.workflow(id)?.query(UntypedQuery::new(query), RawValue::new(vec![]), options).await?;
        let payload =
            answer.payloads.first().ok_or_else(|| TemporalError::Answer(format!("{query} returned nothing")))?;
        // `None` comes as a payload of its own encoding, without data.
        let json: &[u8] = if payload.data.is_empty() { b"null" } else { &payload.data };
        serde_json::from_slice(json).map_err(|e| TemporalError::Answer(format!("{query}: {e}")))
    }

    /// Requests a workflow's cancellation, as Temporal's own tools do.
    pub async fn cancel(&self, id: &str, reason: &str) -> Result<(), TemporalError> {
        let options = WorkflowCancelOptions::builder().reason(reason).rpc_options(bounded(CALL)).build();
        Ok(self.workflow(id)?.cancel(options).await?)
    }

    /// How a workflow was closed, its newest run, and whether one of its activities makes no progress.
    pub async fn describe(&self, id: &str) -> Result<Described, TemporalError> {
        let options = WorkflowDescribeOptions::builder().rpc_options(bounded(CALL)).build();
        let described = self.workflow(id)?.describe(options).await?;
        Ok(Described {
            closed: closed(described.status()),
            run_id: described.run_id().to_string(),
            failing: failing(&described.raw().pending_activities, self.codec()),
        })
    }

    /// Waits for a workflow's close, at most for so long, by a long poll: the server answers when it is closed. Whether it has
    /// completed; `false` also if it takes longer, or the server doesn't say.
    pub async fn completes(&self, id: &str, limit: Duration) -> bool {
        let options = WorkflowGetResultOptions::builder().rpc_options(bounded(limit)).build();
        let Ok(workflow) = self.workflow(id) else { return false };
        let closed = tokio::time::timeout(limit, workflow.get_result(options)).await;
        match closed {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, workflow = id, "waiting for a workflow's close");
                false
            }
            Err(_) => false,
        }
    }

    /// The id of the Temporal namespace. Another server's has another one, also under the same name; it stays the same
    /// when the server is restored, or fails over to another cluster.
    pub async fn namespace_id(&self) -> Result<String, TemporalError> {
        let asked = DescribeNamespaceRequest { namespace: self.namespace().into(), ..Default::default() };
        let mut request = asked.into_request();
        request.set_timeout(CALL);
        let answer = WorkflowService::describe_namespace(&mut self.client()?, request).await;
        let info = answer.map_err(|s| TemporalError::status(&s))?.into_inner().namespace_info;
        let id = info.map(|info| info.id).filter(|id| !id.is_empty());
        id.ok_or_else(|| TemporalError::Answer("the namespace has no id".into()))
    }

    /// The AgentWorkflows of a task queue that were closed since `since` (RFC 3339), at most `limit`: one call for all
    /// jobs.
    pub async fn closed_since(
        &self,
        task_queue: &str,
        since: &str,
        limit: usize,
    ) -> Result<Vec<ClosedWorkflow>, TemporalError> {
        let task_queue = task_queue.replace('\'', "''");
        let query = format!(
            "WorkflowType = '{WORKFLOW_TYPE}' AND TaskQueue = '{task_queue}' AND ExecutionStatus != 'Running' AND \
             CloseTime >= '{since}'"
        );
        let options = WorkflowListOptions::builder().limit(limit).rpc_options(bounded(CALL)).build();
        let mut stream = self.client()?.list_workflows(query, options);
        let mut found = Vec::new();
        while let Some(w) = stream.next().await {
            found.push(ClosedWorkflow { id: w?.id().to_string() });
        }
        Ok(found)
    }

    /// Sends a heartbeat for a run's activity, without details.
    pub async fn heartbeat(&self, workflow: &str, run: i32) -> Result<Heartbeat, TemporalError> {
        self.record_heartbeat(by_id(workflow, run)).await
    }

    /// Whether a task of this worker is still pending, given its token.
    pub async fn is_current(&self, task_token: &[u8]) -> Result<bool, TemporalError> {
        let task = ActivityIdentifier::from_task_token(task_token.to_vec().into());
        Ok(self.record_heartbeat(task).await? == Heartbeat::Alive)
    }

    async fn record_heartbeat(&self, activity: ActivityIdentifier) -> Result<Heartbeat, TemporalError> {
        let handle = self.client()?.get_async_activity_handle(activity);
        match handle.heartbeat(None::<()>, bounded(CALL)).await.map_err(TemporalError::from) {
            Ok(_) => Ok(Heartbeat::Alive),
            Err(TemporalError::NotFound(_)) => Ok(Heartbeat::Unknown),
            Err(e) => Err(e),
        }
    }

    /// Completes the activity that waits for the end of a closed run. By workflow and activity ID, so that no token
    /// needs to be kept; the end of a run is unique, so any role may deliver it. [`TemporalError::NotFound`] if the
    /// activity is not pending: it has ended, or is between two tries, of which the next reads the run.
    pub async fn complete(&self, workflow: &str, run: &AgentRun) -> Result<(), TemporalError> {
        let handle = self.client()?.get_async_activity_handle(by_id(workflow, run.number()));
        match lifecycle::end_of(run) {
            Ended::Succeeded => {
                let result = lifecycle::result_of(run).map_err(|e| TemporalError::Answer(e.to_string()))?;
                Ok(handle.complete(Some(result), bounded(CALL)).await?)
            }
            Ended::Failed { error, non_retryable } => {
                Ok(handle.fail(failure(&error, non_retryable), None::<()>, bounded(CALL)).await?)
            }
        }
    }
}

/// An agent's failure for Temporal: with its own error type, and non-retryable for Temporal, because the workflow
/// decides on retries. The detail says whether no policy may retry it.
pub fn failure(error: &ErrorStatus, non_retryable: bool) -> ApplicationFailure {
    ApplicationFailure::builder(anyhow::anyhow!("{}", error.message))
        .type_name(error.kind.clone())
        .non_retryable(true)
        .details(non_retryable)
        .build()
}

/// The first activity whose requests to the API server have failed several times in a row. What else makes one wait is
/// observed in the cluster.
fn failing(pending: &[PendingActivityInfo], codec: Option<&Codec>) -> Option<String> {
    pending.iter().filter(|a| a.attempt > SEVERAL).find_map(|activity| {
        let failure = activity.last_failure.as_ref()?;
        let Some(FailureInfo::ApplicationFailureInfo(info)) = &failure.failure_info else { return None };
        let name = &activity.activity_type.as_ref()?.name;
        let message = codec.and_then(|codec| codec.message(failure));
        (info.r#type == error_types::API_SERVER)
            .then(|| format!("{name}: {}", message.as_deref().unwrap_or(&failure.message)))
    })
}

fn by_id(workflow: &str, run: i32) -> ActivityIdentifier {
    // Without a run id: continue-as-new leaves no gap.
    ActivityIdentifier::by_id_workflow(workflow, "", names::activity(run))
}

pub(super) fn closed(status: WorkflowExecutionStatus) -> Option<Closed> {
    match status {
        WorkflowExecutionStatus::Completed => Some(Closed::Completed),
        WorkflowExecutionStatus::Failed => Some(Closed::Failed),
        WorkflowExecutionStatus::Canceled => Some(Closed::Cancelled),
        WorkflowExecutionStatus::Terminated => Some(Closed::Terminated),
        WorkflowExecutionStatus::TimedOut => Some(Closed::TimedOut),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use temporalio_common::protos::temporal::api::{
        common::v1::ActivityType,
        failure::v1::{ApplicationFailureInfo, Failure},
    };

    use super::*;

    #[test]
    fn an_activity_that_the_api_server_refuses_again_and_again_is_named() {
        let activity = |attempt: i32, kind: &str| {
            let info = ApplicationFailureInfo { r#type: kind.into(), ..Default::default() };
            let failure_info = Some(FailureInfo::ApplicationFailureInfo(info));
            PendingActivityInfo {
                attempt,
                activity_type: Some(ActivityType { name: "cleanup".into() }),
                last_failure: Some(Failure { message: "forbidden".into(), failure_info, ..Default::default() }),
                ..Default::default()
            }
        };
        assert_eq!(failing(&[activity(3, "ApiServer"), activity(9, "PodNotEnded")], None), None);
        assert_eq!(failing(&[activity(4, "ApiServer")], None).as_deref(), Some("cleanup: forbidden"));
        assert_eq!(failing(&[PendingActivityInfo { attempt: 9, ..Default::default() }], None), None);
    }
}

//! Open workflows, for comparisons with jobs: whose they are, by pages, and what one of them waits for.

use std::future::ready;

use futures::{Stream, StreamExt};
use temporalio_client::{WorkflowDescribeOptions, WorkflowListOptions};

use super::{
    Temporal, TemporalError,
    ops::{CALL, bounded, closed},
};
use crate::{
    api::{JobRef, names},
    protocol::workflow::WORKFLOW_TYPE,
};

/// An open workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenWorkflow {
    /// Its job, by the summary with which it was started: one that koco has started has it.
    pub job: Option<JobRef>,
    /// The numbers of the runs whose ends its pending activities wait for.
    pub waits_for: Vec<i32>,
}

/// The summary of a job's workflow.
pub(super) fn summary(job: &JobRef) -> String {
    format!("AgentJob {}/{}", job.namespace, job.name)
}

/// Namespace and name of the job in a summary.
fn job_of(summary: &str) -> Option<(String, String)> {
    let (namespace, name) = summary.strip_prefix("AgentJob ")?.split_once('/')?;
    let plain = names::is_object_name(namespace) && names::is_object_name(name);
    plain.then(|| (namespace.into(), name.into()))
}

impl Temporal {
    /// The ids of an installation's open workflows, and the UIDs of their jobs, as the visibility store has them, page by
    /// page.
    pub fn open_workflows(
        &self,
        installation: &str,
    ) -> Result<impl Stream<Item = Result<(String, String), TemporalError>> + use<>, TemporalError> {
        let prefix = names::workflow(installation, "").replace('\'', "''");
        let query = format!(
            "WorkflowType = '{WORKFLOW_TYPE}' AND ExecutionStatus = 'Running' AND WorkflowId STARTS_WITH '{prefix}'"
        );
        let options = WorkflowListOptions::builder().rpc_options(bounded(CALL)).build();
        let found = self.client()?.list_workflows(query, options);
        let installation = installation.to_string();
        // Of those of an installation whose name begins alike it has none.
        let ours = move |id: &str| names::job_uid(&installation, id).map(|uid| (id.to_string(), uid.to_string()));
        Ok(found.filter_map(move |workflow| {
            ready(match workflow {
                Ok(workflow) => ours(workflow.id()).map(Ok),
                Err(error) => Some(Err(TemporalError::from(error))),
            })
        }))
    }

    /// Reads the workflow of a job with this UID; `None` if it is closed or unknown.
    pub async fn open_workflow(&self, id: &str, job_uid: &str) -> Result<Option<OpenWorkflow>, TemporalError> {
        let options = WorkflowDescribeOptions::builder().rpc_options(bounded(CALL)).build();
        let described = match self.workflow(id)?.describe(options).await.map_err(TemporalError::from) {
            Ok(described) => described,
            Err(TemporalError::NotFound(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        if closed(described.status()).is_some() {
            return Ok(None);
        }
        let pending = &described.raw().pending_activities;
        let waits_for = pending.iter().filter_map(|a| names::run_of_activity(&a.activity_id)).collect();
        let named = described.static_summary().and_then(job_of);
        let job = named.map(|(namespace, name)| JobRef { namespace, name, uid: job_uid.into() });
        Ok(Some(OpenWorkflow { job, waits_for }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_the_job() {
        let job = JobRef { namespace: "n".into(), name: "a-b".into(), uid: "u".into() };
        assert_eq!(job_of(&summary(&job)), Some(("n".into(), "a-b".into())));
        assert_eq!(job_of("AgentJob n/../x"), None);
        assert_eq!(job_of("n/a"), None);
    }
}

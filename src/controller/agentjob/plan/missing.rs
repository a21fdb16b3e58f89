//! A workflow that Temporal doesn't know. One answer proves nothing: the address may lead to another server, and a
//! server that fails over or is restored may lag. So it ends the job only if it is still so minutes later, and never
//! if the server is another one.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Decision, Guard, view::JobView};
use crate::api::{Reason, TerminationType};

/// How long a workflow must have been missing.
const LONG: Duration = Duration::from_secs(300);
/// How often it is looked for meanwhile, beside the queries' own back-off.
const LOOK: Duration = Duration::from_secs(20);

/// That the job waits for its workflow.
pub(super) struct Waiting {
    /// Since when, for the status; unset while it is another server that doesn't know it.
    since: Option<Time>,
    message: String,
}

/// Whether the workflow is missing and the job must wait for it: not if its agent's success is recorded.
pub(super) fn wait(view: &JobView<'_>) -> Option<Waiting> {
    let answer = view.observed.answer.as_ref().filter(|a| a.missing)?;
    if view.termination().is_some_and(|t| t.kind == TerminationType::Succeeded) {
        return None;
    }
    let workflow = view.old.workflow.clone().unwrap_or_default();
    let (address, namespace, id) = (view.operator.temporal_address, view.operator.temporal_namespace, workflow.id);
    if let (Some(theirs), Some(ours)) = (&answer.namespace_id, &workflow.namespace_id)
        && theirs != ours
    {
        let message = format!(
            "the Temporal server at {address} is not the one that has the workflow {id}: its namespace {namespace} has \
             the id {theirs}, not {ours}. Set temporal.address back until this job has ended, or delete the job"
        );
        return Some(Waiting { since: None, message });
    }
    let since = workflow.missing_since.unwrap_or_else(|| view.now().clone());
    // A server that doesn't answer now may know it.
    if view.since(&since) >= LONG && view.observed.temporal_trouble.is_none() {
        return None;
    }
    let message = format!(
        "the Temporal server at {address} has no workflow {id} in its namespace {namespace} since {}. Is the address \
         right, and are its data complete? If it isn't back within {} minutes, the job fails",
        since.0,
        LONG.as_secs() / 60
    );
    Some(Waiting { since: Some(since), message })
}

impl Waiting {
    /// Nothing is told to a workflow that isn't there; but how the agent ends is recorded.
    pub(super) fn decide(self, view: &JobView<'_>, mut decision: Decision) -> Decision {
        if let Some(workflow) = &mut decision.workflow {
            workflow.missing_since = self.since;
        }
        decision.blocked = Some((Reason::WorkflowNotFound, self.message));
        if let (Some(run), Some(termination)) = (view.run, view.derived_termination()) {
            return decision.with(Action::close(run, termination, Guard::None)).again(Duration::ZERO);
        }
        decision.with(Action::QueryWorkflow).again(LOOK)
    }
}

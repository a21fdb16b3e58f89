//! Completes the activity that waits for the end of a run.

use std::sync::Arc;

use backon::Retryable;

use super::{backoff, granted_workflow};
use crate::{api::AgentRun, gateway::Gateway, temporal::TemporalError};

/// How often it is tried; after that the controller does it.
const TRIES: usize = 5;

impl Gateway {
    /// Completes the activity of a closed run. If that fails, the end is in the AgentRun: the activity's next try reads
    /// it, and the controller completes the activity.
    pub(in crate::gateway) fn complete(self: &Arc<Self>, run: AgentRun) {
        let Some(workflow) = granted_workflow(&run).map(str::to_string) else { return };
        let temporal = self.temporal.clone();
        self.background.spawn(async move {
            let attempt = || temporal.complete(&workflow, &run);
            match attempt.retry(backoff().with_max_times(TRIES)).when(TemporalError::is_transient).await {
                Ok(()) => {}
                Err(TemporalError::NotFound(_)) => tracing::debug!(workflow, "no activity is pending"),
                Err(error) => tracing::warn!(%error, workflow, "an activity is not completed yet"),
            }
        });
    }
}

//! Outcomes handed to the activity that waits for them.

use std::sync::Arc;

use backon::Retryable;

use super::{backoff, granted_workflow};
use crate::{api::AgentRun, gateway::Gateway, temporal::TemporalError};

/// How often it is tried; then it is the controller's to deliver again.
const TRIES: usize = 5;

impl Gateway {
    /// Hands the end of a closed run to whoever waits for it. If that fails, it is on record: the activity's next try
    /// finds it there, and the controller delivers it again.
    pub(in crate::gateway) fn complete(self: &Arc<Self>, run: AgentRun) {
        let Some(workflow) = granted_workflow(&run).map(str::to_string) else { return };
        let temporal = self.temporal.clone();
        self.background.spawn(async move {
            let attempt = || temporal.complete(&workflow, &run);
            match attempt.retry(backoff().with_max_times(TRIES)).when(TemporalError::is_transient).await {
                Ok(()) => {}
                Err(TemporalError::NotFound(_)) => tracing::debug!(workflow, "nobody waits yet"),
                Err(error) => tracing::warn!(%error, workflow, "an outcome is only on record yet"),
            }
        });
    }
}

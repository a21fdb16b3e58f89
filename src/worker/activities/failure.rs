//! Why an activity failed, and how that is reported to Temporal.

use std::time::Duration;

use temporalio_sdk::{ApplicationFailure, activities::ActivityError, error::ApplicationErrorCategory};

use crate::{
    api::ErrorStatus,
    platform::store::StoreError,
    pods::{NoGateway, PodError},
    protocol::error_types,
    runs::RunError,
    temporal,
    temporal::TemporalError,
};

/// Why an activity failed.
#[derive(Debug, thiserror::Error)]
pub enum ActivityFailure {
    /// The job is gone, has ended, or is being ended.
    #[error("{0}")]
    JobGone(&'static str),
    /// The workflow's id is not that of the job in its input.
    #[error("{0} is not the workflow of the AgentJob that it names")]
    ForeignWorkflow(String),
    /// The job's namespace or name is none.
    #[error("the job's namespace or name is not valid")]
    InvalidName,
    /// The workflow is of another installation of koco. Retried: its own worker may get the task.
    #[error("{0} is a workflow of another koco: two share a task queue of Temporal, set one of their own for each")]
    ForeignInstallation(String),
    /// Another try or execution has replaced this one.
    #[error("{0}")]
    Superseded(&'static str),
    /// A local activity leaves its work to a regular one, which may take its time and ask Temporal. The workflow sees
    /// to that.
    #[error("not within a workflow task: {0}")]
    NotLocal(&'static str),
    /// The agent has ended with this error.
    #[error("{}: {}", .error.kind, .error.message)]
    AgentEnded {
        /// Its type and message.
        error: ErrorStatus,
        /// Whether no policy may retry it.
        non_retryable: bool,
    },
    /// The previous run's pod has not ended.
    #[error("pod {0} of the previous run has not ended yet")]
    PodNotEnded(String),
    /// The API server refuses the pod. Retried, but a user or administrator must fix the cause. The message is in the
    /// AgentRun and not here: a webhook may quote the pod's environment, which must not enter a workflow's history.
    #[error("the pod was refused: see the AgentJob's condition Stalled")]
    PodRefused,
    /// A request failed; it is retried.
    #[error("{0}")]
    Unavailable(String),
}

impl ActivityFailure {
    /// One stable word.
    pub fn reason(&self) -> &str {
        match self {
            Self::JobGone(_) => error_types::JOB_GONE,
            Self::ForeignWorkflow(_) => "ForeignWorkflow",
            Self::InvalidName => "InvalidName",
            Self::ForeignInstallation(_) => error_types::FOREIGN_INSTALLATION,
            Self::Superseded(_) => error_types::SUPERSEDED,
            Self::NotLocal(_) => error_types::NOT_LOCAL,
            Self::AgentEnded { error, .. } => &error.kind,
            Self::PodNotEnded(_) => error_types::POD_NOT_ENDED,
            Self::PodRefused => error_types::POD_REFUSED,
            Self::Unavailable(_) => error_types::API_SERVER,
        }
    }

    /// The error type in Temporal.
    fn error_type(&self) -> &str {
        match self {
            // For a foreign workflow there is no such job: it ends instead of retrying for ever.
            Self::ForeignWorkflow(_) | Self::InvalidName => error_types::JOB_GONE,
            other => other.reason(),
        }
    }

    /// Whether Temporal retries the activity.
    pub fn is_retryable(&self) -> bool {
        use ActivityFailure::{ForeignInstallation, NotLocal, PodNotEnded, PodRefused, Unavailable};
        matches!(self, ForeignInstallation(_) | NotLocal(_) | PodNotEnded(_) | PodRefused | Unavailable(_))
    }

    /// Whether it is expected in normal operation.
    pub fn is_expected(&self) -> bool {
        use ActivityFailure::{ForeignInstallation, ForeignWorkflow, InvalidName, PodRefused, Unavailable};
        !matches!(self, ForeignInstallation(_) | ForeignWorkflow(_) | InvalidName | PodRefused | Unavailable(_))
    }

    /// The wait before the next try, where it differs from the activity's retry policy. `attempt` is the activity's
    /// own.
    fn delay(&self, attempt: u32) -> Option<Duration> {
        let doubled = |first: u64, most: u64| {
            let times = 1_u64 << attempt.saturating_sub(1).min(16);
            Duration::from_millis(first.saturating_mul(times).min(most))
        };
        match self {
            Self::PodNotEnded(_) => Some(doubled(500, 10_000)),
            Self::PodRefused => Some(doubled(5_000, 60_000)),
            // It is chance whose worker gets the next try.
            Self::ForeignInstallation(_) => Some(doubled(1_000, 4_000)),
            _ => None,
        }
    }

    /// The error for Temporal. `attempt` is the activity's own.
    pub fn into_error(self, attempt: u32) -> ActivityError {
        if let Self::AgentEnded { error, non_retryable } = self {
            return ActivityError::application(temporal::failure(&error, non_retryable));
        }
        let category =
            if self.is_expected() { ApplicationErrorCategory::Benign } else { ApplicationErrorCategory::Unspecified };
        let failure = ApplicationFailure::builder(anyhow::anyhow!("{self}"))
            .type_name(self.error_type().to_string())
            .non_retryable(!self.is_retryable())
            .category(category)
            .maybe_next_retry_delay(self.delay(attempt))
            .build();
        ActivityError::application(failure)
    }
}

impl From<StoreError> for ActivityFailure {
    fn from(e: StoreError) -> Self {
        Self::Unavailable(e.to_string())
    }
}

impl From<RunError> for ActivityFailure {
    fn from(e: RunError) -> Self {
        Self::Unavailable(e.to_string())
    }
}

impl From<PodError> for ActivityFailure {
    fn from(e: PodError) -> Self {
        if e.is_permanent() { Self::PodRefused } else { Self::Unavailable(e.to_string()) }
    }
}

impl From<NoGateway> for ActivityFailure {
    fn from(e: NoGateway) -> Self {
        Self::Unavailable(e.to_string())
    }
}

impl From<TemporalError> for ActivityFailure {
    fn from(e: TemporalError) -> Self {
        Self::Unavailable(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(failure: &ActivityFailure) -> Vec<u128> {
        [1, 2, 3, 4, 5, 6, 999].map(|n| failure.delay(n).unwrap().as_millis()).to_vec()
    }

    #[test]
    fn what_takes_its_time_is_tried_ever_less_often() {
        assert_eq!(waits(&ActivityFailure::PodRefused), [5_000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]);
        let not_ended = ActivityFailure::PodNotEnded("p".into());
        assert_eq!(waits(&not_ended), [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        let foreign = ActivityFailure::ForeignInstallation("w".into());
        assert_eq!(waits(&foreign), [1_000, 2_000, 4_000, 4_000, 4_000, 4_000, 4_000]);
        assert_eq!(ActivityFailure::Unavailable(String::new()).delay(1), None);
    }

    #[test]
    fn only_what_may_pass_is_retried() {
        let told = |failure: ActivityFailure| {
            let ActivityError::Application(f) = failure.into_error(1) else { panic!() };
            (f.type_name().unwrap_or_default().to_string(), f.is_non_retryable(), f.next_retry_delay())
        };
        assert_eq!(told(ActivityFailure::PodRefused), ("PodRefused".into(), false, Some(Duration::from_secs(5))));
        assert_eq!(told(ActivityFailure::JobGone("gone")), ("JobGone".into(), true, None));
        let foreign = ActivityFailure::ForeignWorkflow("mine".into());
        assert_eq!((foreign.reason(), foreign.is_expected()), ("ForeignWorkflow", false));
        assert_eq!(told(foreign), ("JobGone".into(), true, None));
    }
}

//! Why an activity did not do what it was asked for, and how Temporal is told.

use std::time::Duration;

use temporalio_sdk::{ApplicationFailure, activities::ActivityError, error::ApplicationErrorCategory};

use crate::{
    api::ErrorStatus,
    platform::{kubernetes::GatewayCaError, status::StatusError},
    pods::PodError,
    protocol::error_types,
    temporal,
    temporal::TemporalError,
};

/// Why an activity did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There is no such job any more, it is being deleted, or it is to be cancelled before its agent started.
    #[error("{0}")]
    JobGone(&'static str),
    /// Another try or run has taken this one's place.
    #[error("{0}")]
    Superseded(&'static str),
    /// The agent has ended, as this says.
    #[error("{}: {}", .error.kind, .error.message)]
    AgentEnded {
        /// How.
        error: ErrorStatus,
        /// Whether no policy may retry it.
        last: bool,
    },
    /// The API server refuses the pod. A person has to do something; it is tried again. Its words are in the claim and not
    /// here: a webhook may quote the pod's environment, which has no place in a workflow's history.
    #[error("the pod was refused: see the AgentJob's condition Stalled")]
    PodRefused,
    /// A server did not answer, or not well; it is tried again.
    #[error("{0}")]
    Unavailable(String),
    /// The worker stops, or nobody waits any more.
    #[error("interrupted")]
    Interrupted,
}

impl Trouble {
    /// One stable word.
    pub fn reason(&self) -> &str {
        match self {
            Self::JobGone(_) => error_types::JOB_GONE,
            Self::Superseded(_) => error_types::SUPERSEDED,
            Self::AgentEnded { error, .. } => &error.kind,
            Self::PodRefused => error_types::POD_REFUSED,
            Self::Unavailable(_) => error_types::API_SERVER,
            Self::Interrupted => "Interrupted",
        }
    }

    /// Whether Temporal is to try the activity again.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::PodRefused | Self::Unavailable(_) | Self::Interrupted)
    }

    /// Whether it belongs to the ordinary course of things.
    pub fn is_expected(&self) -> bool {
        !matches!(self, Self::PodRefused | Self::Unavailable(_))
    }

    /// As Temporal is told. `attempt` is the activity's own.
    pub fn into_error(self, attempt: u32) -> ActivityError {
        if let Self::AgentEnded { error, last } = self {
            return ActivityError::application(temporal::failure(&error, last));
        }
        let delay = matches!(self, Self::PodRefused).then(|| refused_again(attempt));
        let category =
            if self.is_expected() { ApplicationErrorCategory::Benign } else { ApplicationErrorCategory::Unspecified };
        let failure = ApplicationFailure::builder(anyhow::anyhow!("{self}"))
            .type_name(self.reason().to_string())
            .non_retryable(!self.is_retryable())
            .category(category)
            .maybe_next_retry_delay(delay)
            .build();
        ActivityError::application(failure)
    }
}

/// The wait before a refused pod is tried again: 5 s, growing to 60 s.
fn refused_again(attempt: u32) -> Duration {
    Duration::from_secs(5u64.saturating_mul(1 << attempt.saturating_sub(1).min(4)).min(60))
}

impl From<StatusError> for Trouble {
    fn from(e: StatusError) -> Self {
        match e {
            StatusError::Gone => Self::JobGone("the AgentJob is gone"),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<PodError> for Trouble {
    fn from(e: PodError) -> Self {
        if e.needs_a_person() { Self::PodRefused } else { Self::Unavailable(e.to_string()) }
    }
}

impl From<GatewayCaError> for Trouble {
    fn from(e: GatewayCaError) -> Self {
        Self::Unavailable(e.to_string())
    }
}

impl From<TemporalError> for Trouble {
    fn from(e: TemporalError) -> Self {
        Self::Unavailable(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_pods_are_tried_ever_less_often() {
        let waits: Vec<_> = [1, 2, 3, 4, 5, 999].map(refused_again).iter().map(Duration::as_secs).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn only_what_may_pass_is_retried() {
        let ActivityError::Application(f) = Trouble::PodRefused.into_error(1) else { panic!() };
        assert!(!f.is_non_retryable());
        assert_eq!((f.type_name(), f.next_retry_delay()), (Some("PodRefused"), Some(Duration::from_secs(5))));
        let ActivityError::Application(f) = Trouble::JobGone("gone").into_error(1) else { panic!() };
        assert!(f.is_non_retryable());
    }
}

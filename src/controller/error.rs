//! Why a reconcile failed.

use std::time::Duration;

use crate::{
    platform::{kubernetes::GatewayCaError, status::StatusError},
    pods::PodError,
};

/// Why a reconcile failed, or the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The status could not be written.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A pod could not be listed, created or deleted.
    #[error("pods: {0}")]
    Pods(#[from] PodError),
    /// Anything else that the API server did not do.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// No pod could reach the gateway yet.
    #[error(transparent)]
    NoGateway(#[from] GatewayCaError),
    /// Another process leads now: this one ends, to begin anew as a standby.
    #[error("another controller leads now")]
    LostLead,
    /// A reconcile took too long.
    #[error("the reconcile took too long")]
    TimedOut,
}

impl ControllerError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Status(StatusError::Conflict) => "Conflict",
            Self::Status(StatusError::Gone) => "Gone",
            Self::Status(_) | Self::Api(_) => "ApiServer",
            Self::Pods(e) => e.reason(),
            Self::NoGateway(_) => "NoGateway",
            Self::LostLead => "LostLead",
            Self::TimedOut => "TimedOut",
        }
    }

    /// When to try again; `None` where there is nothing to try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(StatusError::Gone) | Self::LostLead => None,
            // The newer version is on its way through the watch.
            Self::Status(StatusError::Conflict) => Some(Duration::from_millis(20)),
            Self::NoGateway(_) => Some(Duration::from_secs(1)),
            _ => Some(Duration::from_secs(5)),
        }
    }
}

//! What a call to Temporal may fail with.

use temporalio_client::{errors::*, tonic};

/// What a call to Temporal may fail with. Messages carry the server's words, never credentials.
#[derive(Debug, thiserror::Error)]
pub enum TemporalError {
    /// The operator was started without an address for Temporal.
    #[error("no Temporal server is configured: set TEMPORAL_ADDRESS, or use executionMode Direct")]
    NotConfigured,
    /// There is no connection yet, or not any more.
    #[error("no connection to Temporal at {0} yet")]
    NotConnected(String),
    /// Temporal knows no such workflow, run, or task. For a task: superseded, in back-off, closed, reset, or continued.
    #[error("Temporal does not know it: {0}")]
    NotFound(String),
    /// The answer took too long, or the server asked to come back later.
    #[error("Temporal did not answer: {0}")]
    Unavailable(String),
    /// The server refused: permissions, a missing namespace, a bad request.
    #[error("Temporal refused: {0}")]
    Refused(String),
    /// What it answered can't be read.
    #[error("Temporal's answer can't be read: {0}")]
    Answer(String),
}

impl TemporalError {
    /// One stable word, for metrics, events and conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConfigured => "TemporalNotConfigured",
            Self::NotConnected(_) | Self::Unavailable(_) => "TemporalUnavailable",
            Self::NotFound(_) => "TemporalNotFound",
            Self::Refused(_) => "TemporalRefused",
            Self::Answer(_) => "TemporalAnswer",
        }
    }

    /// Whether asking again later may help without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NotConnected(_) | Self::Unavailable(_))
    }

    pub(super) fn status(s: &tonic::Status) -> Self {
        use tonic::Code;
        let said = format!("{:?}: {}", s.code(), s.message());
        match s.code() {
            // A missing Temporal namespace is NotFound too, but not of the thing that was asked for.
            Code::NotFound if s.message().starts_with("Namespace") => Self::Refused(said),
            Code::NotFound => Self::NotFound(said),
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::Internal
            | Code::Unknown => Self::Unavailable(said),
            _ => Self::Refused(said),
        }
    }
}

impl From<WorkflowInteractionError> for TemporalError {
    fn from(e: WorkflowInteractionError) -> Self {
        match e {
            WorkflowInteractionError::NotFound(s) | WorkflowInteractionError::Rpc(s) => Self::status(&s),
            other => Self::Answer(other.to_string()),
        }
    }
}
impl From<WorkflowQueryError> for TemporalError {
    fn from(e: WorkflowQueryError) -> Self {
        match e {
            WorkflowQueryError::NotFound(s) | WorkflowQueryError::Rpc(s) => Self::status(&s),
            other => Self::Answer(other.to_string()),
        }
    }
}
impl From<WorkflowStartError> for TemporalError {
    fn from(e: WorkflowStartError) -> Self {
        match e {
            WorkflowStartError::Rpc(s) => Self::status(&s),
            other => Self::Refused(other.to_string()),
        }
    }
}
impl From<AsyncActivityError> for TemporalError {
    fn from(e: AsyncActivityError) -> Self {
        match e {
            AsyncActivityError::NotFound(s) | AsyncActivityError::Rpc(s) => Self::status(&s),
            other => Self::Answer(other.to_string()),
        }
    }
}
impl From<ClientError> for TemporalError {
    fn from(e: ClientError) -> Self {
        match e {
            ClientError::Rpc(s) => Self::status(&s),
            other => Self::Answer(other.to_string()),
        }
    }
}

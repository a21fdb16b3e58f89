//! What a call to Temporal may fail with.

use temporalio_client::{errors::*, tonic};

/// What a call to Temporal may fail with. Messages contain the server's text, never credentials.
#[derive(Debug, thiserror::Error)]
pub enum TemporalError {
    /// The operator was started without an address for Temporal.
    #[error("no Temporal server is configured: set TEMPORAL_ADDRESS, or use executionMode Direct")]
    NotConfigured,
    /// There is no connection yet.
    #[error("no connection to Temporal at {0} yet")]
    NotConnected(String),
    /// There is no such workflow, execution or task. For a task: superseded, in back-off, closed, reset, or continued.
    #[error("Temporal: not found: {0}")]
    NotFound(String),
    /// The call timed out, or the server was unavailable.
    #[error("Temporal is unavailable: {0}")]
    Unavailable(String),
    /// The server refused: permissions, a missing namespace, a bad request.
    #[error("Temporal refused: {0}")]
    Refused(String),
    /// The response can't be read.
    #[error("Temporal's response can't be read: {0}")]
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

    /// Whether a retry may succeed without any change to the system.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NotConnected(_) | Self::Unavailable(_))
    }

    pub(super) fn status(s: &tonic::Status) -> Self {
        use tonic::Code;
        let text = format!("{:?}: {}", s.code(), s.message());
        match s.code() {
            // A missing Temporal namespace is NotFound too, but is a matter of configuration.
            Code::NotFound if s.message().starts_with("Namespace") => Self::Refused(text),
            Code::NotFound => Self::NotFound(text),
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::Internal
            | Code::Unknown => Self::Unavailable(text),
            _ => Self::Refused(text),
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

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_wrong_is_said() {
        let of = |code, message: &str| TemporalError::status(&Status::new(code, message));
        for code in [Code::ResourceExhausted, Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown]
        {
            let error = of(code, "namespace rate limit exceeded");
            assert!(error.is_transient() && error.reason() == "TemporalUnavailable", "{error}");
            assert!(error.to_string().contains("rate limit exceeded"), "{error}");
        }
        for code in [Code::PermissionDenied, Code::Unauthenticated, Code::InvalidArgument, Code::Unimplemented] {
            let error = of(code, "no");
            assert!(!error.is_transient() && error.reason() == "TemporalRefused", "{error}");
        }
        assert_eq!(of(Code::NotFound, "workflow not found for ID: w").reason(), "TemporalNotFound");
        assert_eq!(of(Code::NotFound, "Namespace n is not found.").reason(), "TemporalRefused");
    }
}

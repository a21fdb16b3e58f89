//! Why the gateway refuses a request. Used by everything in the gateway.
//!
//! A runner that gets 403, 404 or 410 stops its agent for good. So these are for permanent refusals; those that may
//! succeed later are 409, 429 or 503.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    platform::{http::TokenError, store::StoreError},
    protocol::runner::ErrorResponse,
    runs::RunError,
};

/// The reason of [`Refusal::ServerDown`].
pub const SERVER_DOWN: &str = "ServerDown";

/// Why a request is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// The connection has no certificate of an Ed25519 key.
    #[error("the connection has no client certificate of an Ed25519 key")]
    NoKey,
    /// The run has no key yet, and this request doesn't register one.
    #[error("the run's runner has not registered")]
    NotRegistered,
    /// No bearer token, or something that can't be one.
    #[error("the request carries no bearer token")]
    NoToken,
    /// The API server doesn't authenticate it.
    #[error("the token is not that of a pod for this gateway")]
    BadToken,
    /// An invalid body.
    #[error("the request can't be read: {0}")]
    Malformed(String),
    /// A body that is too big.
    #[error("the request is too large")]
    TooLarge,
    /// A body that does not arrive in time.
    #[error("the request's body came too slowly")]
    SlowBody,
    /// There is no such path.
    #[error("there is no such path")]
    NoSuchPath,
    /// The path takes another method.
    #[error("the method is not answered here")]
    NoSuchMethod,
    /// The token is another namespace's.
    #[error("the run is not in the namespace of the pod")]
    ForeignNamespace,
    /// This operator does not watch the namespace, now.
    #[error("this operator does not watch the namespace")]
    NotWatched,
    /// The run has another key, or is another pod's.
    #[error("the run is another runner's")]
    NotTheRunner,
    /// The AgentRun of that name is not koco's.
    #[error("the AgentRun of that name is not koco's")]
    ForeignRun,
    /// The job was not accepted by the controller yet.
    #[error("the job is not accepted yet: try again")]
    NotAccepted,
    /// A later run has been started.
    #[error("another runner has taken the place of this one")]
    Superseded,
    /// There is no such run, or no such job, any more.
    #[error("the run or its job is gone")]
    Gone,
    /// The job is being deleted.
    #[error("the job is being deleted")]
    JobDeleted,
    /// The job was cancelled before its runner was ready.
    #[error("the job was cancelled before its runner was ready")]
    JobCancelled,
    /// The job is to be paused, and its run has not been told.
    #[error("the job is to be paused, and its run has not been told yet: try again")]
    JobPaused,
    /// The job has reached its terminal phase.
    #[error("the job has ended")]
    JobOver,
    /// The run has ended.
    #[error("the run is closed")]
    RunClosed,
    /// The job's workflow is closed.
    #[error("the job's workflow is closed")]
    WorkflowClosed,
    /// The run has ended otherwise.
    #[error("another end of this run was recorded first")]
    OtherOutcome,
    /// A confirmation of a command that was never given.
    #[error("the runner was never given a command of that number")]
    UnknownCommand,
    /// This runner, or an unknown one from this address, asks too often or too much at a time.
    #[error("too many requests: try again")]
    TooOften,
    /// Too many concurrent requests.
    #[error("the gateway is overloaded: try again")]
    Busy,
    /// The archive has not seen the job yet.
    #[error("the archive does not know the job yet: try again")]
    NotArchived,
    /// The server, which keeps events, doesn't take them now.
    #[error("the server takes no events: try again")]
    ServerDown,
    /// The job's execution was deleted from the archive.
    #[error("the execution was deleted")]
    EventsDeleted,
    /// It took too long.
    #[error("the gateway took too long: try again")]
    Timeout,
    /// This gateway is about to end.
    #[error("the gateway is shutting down: try another")]
    Draining,
    /// A request to the API server failed; its message is in the gateway's log.
    #[error("the API server is unavailable: try again")]
    ApiServer,
}

impl Refusal {
    /// One stable word, for metrics and for the runner.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoKey => "NoKey",
            Self::NotRegistered => "NotRegistered",
            Self::NoToken => "NoToken",
            Self::BadToken => "BadToken",
            Self::Malformed(_) => "Malformed",
            Self::TooLarge => "TooLarge",
            Self::SlowBody => "SlowBody",
            Self::NoSuchPath => "NoSuchPath",
            Self::NoSuchMethod => "NoSuchMethod",
            Self::ForeignNamespace => "ForeignNamespace",
            Self::NotWatched => "NotWatched",
            Self::NotTheRunner => "NotTheRunner",
            Self::ForeignRun => "ForeignRun",
            Self::NotAccepted => "NotAccepted",
            Self::Superseded => "Superseded",
            Self::Gone => "Gone",
            Self::JobDeleted => "JobDeleted",
            Self::JobCancelled => "JobCancelled",
            Self::JobPaused => "JobPaused",
            Self::JobOver => "JobOver",
            Self::RunClosed => "RunClosed",
            Self::WorkflowClosed => "WorkflowClosed",
            Self::OtherOutcome => "OtherOutcome",
            Self::UnknownCommand => "UnknownCommand",
            Self::TooOften => "TooOften",
            Self::Busy => "Busy",
            Self::NotArchived => "NotArchived",
            Self::ServerDown => SERVER_DOWN,
            Self::EventsDeleted => "EventsDeleted",
            Self::Timeout => "Timeout",
            Self::Draining => "Draining",
            Self::ApiServer => "ApiServer",
        }
    }

    /// The HTTP status; see [`crate::protocol::runner`] for how a runner reacts to it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoKey | Self::NotRegistered | Self::NoToken | Self::BadToken => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::ForeignNamespace | Self::NotTheRunner | Self::ForeignRun => StatusCode::FORBIDDEN,
            Self::OtherOutcome | Self::UnknownCommand => StatusCode::CONFLICT,
            Self::Superseded
            | Self::Gone
            | Self::JobDeleted
            | Self::JobCancelled
            | Self::JobOver
            | Self::RunClosed
            | Self::WorkflowClosed
            | Self::EventsDeleted => StatusCode::GONE,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::NotWatched
            | Self::NotAccepted
            | Self::JobPaused
            | Self::Busy
            | Self::NotArchived
            | Self::ServerDown
            | Self::Timeout
            | Self::Draining
            | Self::ApiServer => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether a newer copy of the run might allow what this one refuses. A closed run stays closed, so the rest holds
    /// however old the copy was.
    pub fn may_be_stale(&self) -> bool {
        matches!(
            self,
            Self::NotRegistered
                | Self::NotTheRunner
                | Self::ForeignRun
                | Self::UnknownCommand
                | Self::JobCancelled
                | Self::JobPaused
        )
    }
}

impl From<TokenError> for Refusal {
    fn from(e: TokenError) -> Self {
        match e {
            TokenError::Missing => Self::NoToken,
            TokenError::Refused => Self::BadToken,
            TokenError::Unavailable => Self::ApiServer,
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        if e.is_gone() {
            return Self::Gone;
        }
        tracing::warn!(error = %e, "an object could not be read or written");
        Self::ApiServer
    }
}

impl From<RunError> for Refusal {
    fn from(e: RunError) -> Self {
        match e {
            RunError::Store(e) => e.into(),
            RunError::Foreign(_) => {
                tracing::warn!(error = %e, "an AgentRun doesn't match its name");
                Self::ForeignRun
            }
            RunError::Random(_) => Self::ApiServer,
        }
    }
}

/// The reason, attached to the response for metrics.
#[derive(Clone, Copy)]
pub struct Reason(pub &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorResponse { reason: self.reason().into(), message: self.to_string() };
        let mut response = (self.status(), Json(body)).into_response();
        response.extensions_mut().insert(Reason(self.reason()));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_wait_may_mend_never_stops_an_agent() {
        let passing = [
            Refusal::NotWatched,
            Refusal::NotAccepted,
            Refusal::JobPaused,
            Refusal::OtherOutcome,
            Refusal::UnknownCommand,
            Refusal::TooOften,
            Refusal::SlowBody,
            Refusal::Busy,
            Refusal::NotArchived,
            Refusal::ServerDown,
            Refusal::Timeout,
            Refusal::Draining,
            Refusal::ApiServer,
            Refusal::BadToken,
        ];
        for refusal in passing {
            assert!(![403, 404, 410].contains(&refusal.status().as_u16()), "{refusal}");
        }
    }
}

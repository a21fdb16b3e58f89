//! Why the gateway refuses a request, as the runner is told. Used by everything in the gateway.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{platform::status::StatusError, protocol::runner::Problem};

/// Why a request is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// No bearer token, or something that can't be one.
    #[error("the request carries no bearer token")]
    NoToken,
    /// The API server does not vouch for it.
    #[error("the token is not that of a pod for this gateway")]
    BadToken,
    /// A body that is not what the path takes.
    #[error("the request can't be read: {0}")]
    Malformed(String),
    /// A body that is too big.
    #[error("the request is too large")]
    TooLarge,
    /// There is no such path.
    #[error("there is no such path")]
    NoSuchPath,
    /// The path takes POST only.
    #[error("only POST is answered here")]
    NoSuchMethod,
    /// The token is another namespace's, or the job's namespace isn't watched.
    #[error("the job is not in the namespace of the pod, or this operator does not watch it")]
    ForeignNamespace,
    /// The claim names another pod.
    #[error("the job's claim is another pod's")]
    NotTheRunner,
    /// The claim does not know this pod, or this epoch, yet.
    #[error("the job's claim does not know the pod yet: try again")]
    NotClaimed,
    /// The claim has moved to a later epoch.
    #[error("another runner has taken the place of this one")]
    Superseded,
    /// There is no such job any more.
    #[error("the job is gone")]
    Gone,
    /// The job has reached its terminal phase.
    #[error("the job is over")]
    Over,
    /// The job's workflow is closed: nobody waits for this runner.
    #[error("the job's workflow is closed")]
    WorkflowClosed,
    /// The epoch has another outcome already.
    #[error("another outcome of this epoch was first")]
    OtherOutcome,
    /// Too much at once.
    #[error("the gateway has too much to do: try again")]
    Busy,
    /// It took too long.
    #[error("the gateway took too long: try again")]
    Timeout,
    /// This gateway is about to end.
    #[error("the gateway is shutting down: try another")]
    Draining,
    /// The API server does not answer, or not as it should; its words are in our log.
    #[error("the API server can't be asked: try again")]
    ApiServer,
}

impl Refusal {
    /// One stable word, for metrics and for the runner.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "NoToken",
            Self::BadToken => "BadToken",
            Self::Malformed(_) => "Malformed",
            Self::TooLarge => "TooLarge",
            Self::NoSuchPath => "NoSuchPath",
            Self::NoSuchMethod => "NoSuchMethod",
            Self::ForeignNamespace => "ForeignNamespace",
            Self::NotTheRunner => "NotTheRunner",
            Self::NotClaimed => "NotClaimed",
            Self::Superseded => "Superseded",
            Self::Gone => "JobGone",
            Self::Over => "JobOver",
            Self::WorkflowClosed => "WorkflowClosed",
            Self::OtherOutcome => "OtherOutcome",
            Self::Busy => "Busy",
            Self::Timeout => "Timeout",
            Self::Draining => "Draining",
            Self::ApiServer => "ApiServer",
        }
    }

    /// The HTTP status; see [`crate::protocol::runner`] for what a runner makes of it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::BadToken => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::ForeignNamespace | Self::NotTheRunner => StatusCode::FORBIDDEN,
            Self::NotClaimed | Self::OtherOutcome => StatusCode::CONFLICT,
            Self::Superseded | Self::Gone | Self::Over | Self::WorkflowClosed => StatusCode::GONE,
            Self::Busy | Self::Timeout | Self::Draining | Self::ApiServer => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether a newer copy of the job might allow what this one refuses. Epochs only grow and a terminal phase stays, so
    /// the rest holds however old the copy was.
    pub fn may_be_stale(&self) -> bool {
        matches!(self, Self::NotClaimed | Self::NotTheRunner)
    }
}

impl From<StatusError> for Refusal {
    fn from(e: StatusError) -> Self {
        match e {
            StatusError::Gone => Self::Gone,
            e => {
                tracing::warn!(error = %e, "an AgentJob could not be read or written");
                Self::ApiServer
            }
        }
    }
}

/// On the response of a refusal, for whoever counts them.
#[derive(Clone, Copy)]
pub struct Reason(pub &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem { reason: self.reason().into(), message: self.to_string() };
        let mut response = (self.status(), Json(problem)).into_response();
        response.extensions_mut().insert(Reason(self.reason()));
        response
    }
}

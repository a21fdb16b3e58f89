//! Why the server refuses a request. Used by everything in this folder.

use axum::{
    Extension, Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    database::{DISK_FULL, DatabaseError},
    platform::http::TokenError,
    server::access::Unavailable,
};

/// What is answered to a request that is refused.
#[derive(Serialize, JsonSchema)]
pub struct Problem {
    /// Why, in one word for programs.
    reason: &'static str,
    /// Why, for people.
    message: String,
}

/// Why a request is refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// No bearer token, or something that can't be one.
    #[error("the request carries no bearer token")]
    NoToken,
    /// The API server doesn't authenticate it.
    #[error("the token is not valid, or not for the audience koco")]
    BadToken,
    /// The user may not do that. Also said of what doesn't exist, to those who may not read everything.
    #[error("you may not {0}, or there is no such execution")]
    Forbidden(&'static str),
    /// A form that another site's page may have sent.
    #[error("the form was not sent by a page of this site")]
    CrossOrigin,
    /// There is no such execution.
    #[error("there is no such execution")]
    NotFound,
    /// It was deleted from the archive.
    #[error("the execution was deleted")]
    Deleted,
    /// The run that these events are of has ended, and had fewer.
    #[error("the run has ended, and has no such event")]
    Ended,
    /// Its job still exists.
    #[error("the AgentJob still exists, and would be archived again: delete it first")]
    JobExists,
    /// A parameter that can't be read.
    #[error("{0}")]
    Malformed(String),
    /// A body that is too big.
    #[error("the request is too large")]
    TooLarge,
    /// There is no such path.
    #[error("there is no such path")]
    NoSuchPath,
    /// The path takes another method.
    #[error("the method is not answered here")]
    NoSuchMethod,
    /// This user, or an unknown one from this address, asks too often or too much at a time.
    #[error("too many requests: try again")]
    TooOften,
    /// Too much is being written.
    #[error("the server is overloaded: try again")]
    Busy,
    /// It took too long.
    #[error("the server took too long: try again")]
    Timeout,
    /// A request to the API server failed; its message is in the server's log.
    #[error("the API server is unavailable: try again")]
    ApiServer,
    /// The database failed; its message is in the server's log.
    #[error("the database is unavailable: try again")]
    Database,
    /// The database has no room left.
    #[error("the database's disk is full: try again when there is room")]
    DiskFull,
}

impl Refusal {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "NoToken",
            Self::BadToken => "BadToken",
            Self::Forbidden(_) => "Forbidden",
            Self::CrossOrigin => "CrossOrigin",
            Self::NotFound => "NotFound",
            Self::Deleted => "Deleted",
            Self::Ended => "Ended",
            Self::JobExists => "JobExists",
            Self::Malformed(_) => "Malformed",
            Self::TooLarge => "TooLarge",
            Self::NoSuchPath => "NoSuchPath",
            Self::NoSuchMethod => "NoSuchMethod",
            Self::TooOften => "TooOften",
            Self::Busy => "Busy",
            Self::Timeout => "Timeout",
            Self::ApiServer => "ApiServer",
            Self::Database => "Database",
            Self::DiskFull => "DiskFull",
        }
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::BadToken => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::CrossOrigin => StatusCode::FORBIDDEN,
            Self::NotFound | Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::Deleted | Self::Ended => StatusCode::GONE,
            Self::JobExists => StatusCode::CONFLICT,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Timeout | Self::ApiServer | Self::Database | Self::DiskFull => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let reason = self.reason();
        tracing::debug!(reason, "a request is refused");
        let problem = Problem { reason, message: self.to_string() };
        // With itself, for those who count it or put it in another form.
        (self.status(), Extension(self), Json(problem)).into_response()
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Missing => Self::NoToken,
            TokenError::Refused => Self::BadToken,
            TokenError::Unavailable => Self::ApiServer,
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(_: Unavailable) -> Self {
        Self::ApiServer
    }
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Self {
        tracing::warn!(%error, reason = error.reason(), "a request to the database");
        if error.reason() == DISK_FULL { Self::DiskFull } else { Self::Database }
    }
}

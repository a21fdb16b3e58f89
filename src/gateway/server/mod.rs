//! The server's own part: TLS and its certificate, paths, limits, authentication and refusals. It doesn't know
//! AgentRuns. Used by [`crate::gateway::run`] and, for [`Caller`] and [`Refusal`], by everything in the
//! gateway.

mod auth;
mod certificate;
mod error;
mod http;
mod tls;

pub use self::{
    auth::{Authenticator, Caller},
    error::Refusal,
    http::router,
    tls::CertificateManager,
};

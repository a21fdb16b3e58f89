//! Paths, bodies and refusals. It doesn't decide who may do what: [`crate::gateway::requests`] does. Used by
//! [`crate::gateway::run`] and, for [`Refusal`], by everything in the gateway.

mod error;
mod http;
mod spans;

pub use self::{error::Refusal, http::router};

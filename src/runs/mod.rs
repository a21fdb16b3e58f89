//! AgentRuns in the API server: building them, creating them, and the few writes that the protocol knows. It decides nothing
//! but what makes a write safe: each is bound to the version that was read, and none changes a closed run.
//! Used by the controller, the worker and the gateway.

mod build;
mod client;

pub use build::{NewRun, build, tombstone};
pub use client::{RunError, Runs};

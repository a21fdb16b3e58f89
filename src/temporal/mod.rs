//! The only module that uses the Temporal SDK's client: the connection, and the few calls that the roles make.
//! Used by the controller, the worker and the gateway. It decides nothing.

mod connect;
mod error;
mod ops;

pub use connect::{Settings, Temporal};
pub use error::TemporalError;
pub use ops::{Closed, ClosedWorkflow, Heartbeat, failure};

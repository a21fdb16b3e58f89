//! The only module that uses the Temporal SDK's client: the connection, and the few calls that the roles make.
//! Used by the controller, the worker and the gateway, and by the kubectl plugin's `audit`; of the server its codec alone.
//! It decides nothing.

mod codec;
mod connect;
mod error;
#[cfg(feature = "operator")]
mod metrics;
mod open;
mod ops;

pub use codec::{Codec, CodecError};
pub use connect::{Settings, Temporal};
pub use error::TemporalError;
#[cfg(feature = "operator")]
pub use metrics::SdkMetrics;
pub use open::OpenWorkflow;
pub use ops::{Closed, ClosedWorkflow, Described, Heartbeat, failure};

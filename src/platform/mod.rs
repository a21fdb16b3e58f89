//! Infrastructure shared by all roles: settings, the Kubernetes client, watches, status writes, leader election, health and
//! metrics, logs, shutdown. Used by the roles and the command line.

pub mod answers;
pub mod clock;
pub mod crds;
#[cfg(feature = "operator")]
pub mod follow;
#[cfg(feature = "operator")]
pub mod health;
#[cfg(feature = "operator")]
pub mod http;
#[cfg(feature = "operator")]
pub mod kubernetes;
#[cfg(feature = "operator")]
pub mod leader;
#[cfg(feature = "operator")]
pub mod metrics;
#[cfg(feature = "operator")]
pub mod notices;
#[cfg(feature = "operator")]
pub mod recent;
#[cfg(feature = "operator")]
pub mod settings;
#[cfg(feature = "operator")]
pub mod shutdown;
pub mod store;
#[cfg(feature = "operator")]
pub mod telemetry;
pub mod text;
#[cfg(feature = "operator")]
pub mod trace;
#[cfg(feature = "operator")]
pub mod watch;

//! Infrastructure shared by all roles: settings, the Kubernetes client, watches, status writes, leader election, health and
//! metrics, logs, shutdown. Used by the roles and the command line.

pub mod answers;
pub mod clock;
pub mod crds;
pub mod follow;
pub mod health;
pub mod http;
pub mod kubernetes;
pub mod leader;
pub mod metrics;
pub mod notices;
pub mod recent;
pub mod settings;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod trace;
pub mod watch;

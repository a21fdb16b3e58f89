//! The contracts between koco's processes: messages from one role to another. Serde and signatures, no I/O.
//! Any role may use this module; it uses [`crate::api`] alone.
//!
//! Fields may be added with a default and are ignored by the older side; none is renamed on the wire or given another
//! meaning, because runners live for days and workflows longer than a release.

#[cfg(feature = "operator")]
pub mod check_inputs;
pub mod error_types;
pub mod events;
pub mod key;
pub mod runner;
pub mod termination;
pub mod tls;
pub mod workflow;

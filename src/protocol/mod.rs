//! The contracts between our processes: what crosses from one role to another, and nothing else. Serde only, no I/O.
//! Any role may use this module; it uses [`crate::api`] alone.
//!
//! Fields may be added with a default and are then ignored by the older side; none is renamed or given another meaning,
//! because runners live for days and workflows longer than a release.

pub mod error_types;
pub mod runner;
pub mod workflow;

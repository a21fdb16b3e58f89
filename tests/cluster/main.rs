//! Tests on a real cluster: API server, kubelet, Temporal. What they believe is what agents write of themselves, what the
//! API server's audit log says, and what Temporal's history holds; our own objects are only what they compare with it.
//!
//! Run with `make cluster-test`, or `make cluster-test ARGS=control::`; see [`harness`].

mod cancel;
mod deletion;
mod direct;
mod examples;
mod failures;
mod harness;
mod identity;
mod lost_node;
mod mirror;
mod outages;
mod overlap;
mod pause;
mod pending;
mod plugin;
mod quiet;
mod requests;
mod rights;
mod roles;
mod secrets;
mod temporal_mode;

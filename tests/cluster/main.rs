//! Tests on a real cluster: API server, kubelet, Temporal. They rely on agents' own logs, the API server's audit log
//! and Temporal's history, and compare koco's objects with them.
//!
//! Run with `make cluster-test`, or `make cluster-test ARGS=control::`; see [`harness`].

mod cancel;
mod deletion;
mod direct;
mod events;
mod examples;
mod failures;
mod harness;
mod hostile;
mod identity;
mod lost_node;
mod mirror;
mod network;
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
mod torture;

//! The `AgentWorkflow` on a real Temporal server, with a simulated cluster: retries, adoption, pause, resume, cancel,
//! evict, continue-as-new; the start within the first workflow task, and what a job costs. `tests/workflow/run` brings a server of its own, which suggests continue-as-new early; on
//! any other, TEMPORAL_ADDRESS=host:port cargo test --test workflow, and the long histories take a while.
//!
//! With KOCO_RECORD_HISTORIES=1 each test writes its history to tests/histories, for tests/replay.rs. Record again only
//! new cases, or those that running workflows needn't survive.

// Only Temporal calls what is in it, by name.
#[allow(dead_code)]
mod cluster;
mod control;
mod fixture;
mod local;
mod long;
mod retries;
mod worker;

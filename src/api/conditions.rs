//! The conditions of an AgentJob, after the Kubernetes API conventions: the phase only sums them up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// This generation of the spec is accepted and handed on.
pub const READY: &str = "Ready";
/// The agent stands still, confirmed by its runner.
pub const PAUSED: &str = "Paused";
/// Unknown while the job runs; then whether it succeeded.
pub const SUCCEEDED: &str = "Succeeded";
/// A person is needed.
pub const STALLED: &str = "Stalled";

/// What a condition is to say; the transition time is worked out by [`set`].
#[derive(Clone, Debug, PartialEq)]
pub struct Say {
    /// One of the constants above.
    pub kind: &'static str,
    /// `Some(true)` True, `Some(false)` False, `None` Unknown.
    pub status: Option<bool>,
    /// One stable word in CamelCase.
    pub reason: String,
    /// What is happening and what to do next, for people.
    pub message: String,
}

/// Sets a condition; `lastTransitionTime` moves only when the status does.
pub fn set(list: &mut Vec<Condition>, say: Say, generation: Option<i64>, now: Time) {
    let status = match say.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = list.iter().position(|c| c.type_ == say.kind);
    let since = match old.map(|i| &list[i]) {
        Some(c) if c.status == status => c.last_transition_time.clone(),
        _ => now,
    };
    let new = Condition {
        type_: say.kind.into(),
        status: status.into(),
        reason: say.reason,
        message: say.message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match old {
        Some(i) => list[i] = new,
        None => list.push(new),
    }
}

/// Whether a condition is True.
pub fn is_true(list: &[Condition], kind: &str) -> bool {
    list.iter().any(|c| c.type_ == kind && c.status == "True")
}

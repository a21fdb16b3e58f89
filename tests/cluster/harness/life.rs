//! A job's whole life, for tests of what its roles may do.

use serde_json::json;

use super::{DEADLINE, DesiredState, ExecutionMode, Job, Phase, Test, agent, job::With};

/// A retry, an expiry, and one job that is paused, resumed, cancelled and deleted. `runs` waits until its agent does, `ended`
/// is called between the last two.
pub async fn lives(test: &Test, mode: ExecutionMode, runs: impl AsyncFn(&Job<'_>), ended: impl AsyncFn(&Job<'_>)) {
    let retried = test.apply(agent("fail-until?attempt=2").mode(mode)).await;
    let expiring = test.apply(agent("succeed").mode(mode).with(json!({ "ttlSecondsAfterFinished": 1 }))).await;
    let paused = test.apply(agent("count?every_ms=50").mode(mode)).await;
    assert_eq!(retried.phase(Phase::Succeeded).await.attempt, Some(2), "{mode:?}");
    expiring.gone(DEADLINE).await;
    runs(&paused).await;
    for (state, phase) in [
        (DesiredState::Paused, Phase::Paused),
        (DesiredState::Running, Phase::Running),
        (DesiredState::Cancelled, Phase::Cancelled),
    ] {
        paused.want(state).await;
        paused.phase(phase).await;
    }
    ended(&paused).await;
    paused.delete(Default::default()).await;
    paused.gone(DEADLINE).await;
}

/// The API server has refused nothing to the test's roles.
pub fn nothing_was_forbidden(test: &Test) {
    let log = std::fs::read_to_string(&test.log).expect("the roles' log");
    let refused: Vec<_> = log.lines().filter(|line| line.to_lowercase().contains("forbidden")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

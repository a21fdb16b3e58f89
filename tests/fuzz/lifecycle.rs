//! The life cycle as a model: any sequence of ends, under any policy.

use koco::{
    api::{DisruptionPolicy, ErrorStatus, PausePolicy, ResolvedRetryPolicy},
    lifecycle::{Ended, Next, Policy, back_off_left, begin, grant, run_ended, start_failed},
    protocol::{error_types, workflow::Progress},
};
use proptest::prelude::*;

use super::common::check;

/// What may happen to one run.
#[derive(Clone, Debug)]
struct Run {
    /// Whether it is granted: else it ends before its agent starts.
    granted: bool,
    ended: Ended,
    cancelled: bool,
}

fn ended() -> impl Strategy<Value = Ended> {
    let kinds = [
        error_types::AGENT_FAILED,
        error_types::DISRUPTED,
        error_types::EVICTED,
        error_types::CANCELLED,
        error_types::NOT_STARTED,
        error_types::RUNNER_LOST,
        error_types::HEARTBEAT_TIMEOUT,
        error_types::JOB_GONE,
        "TheirOwn",
    ];
    let failed = (prop::sample::select(kinds.to_vec()), prop::bool::weighted(0.1)).prop_map(|(kind, non_retryable)| {
        let error = ErrorStatus { kind: kind.into(), message: "why".into() };
        Ended::Failed { error, non_retryable }
    });
    prop_oneof![1 => Just(Ended::Succeeded), 12 => failed]
}

fn run() -> impl Strategy<Value = Run> {
    (prop::bool::weighted(0.8), ended(), prop::bool::weighted(0.05)).prop_map(|(granted, ended, cancelled)| Run {
        granted,
        ended,
        cancelled,
    })
}

fn policy() -> impl Strategy<Value = (ResolvedRetryPolicy, DisruptionPolicy, PausePolicy)> {
    let disruption = [DisruptionPolicy::Count, DisruptionPolicy::FailJob, DisruptionPolicy::Ignore];
    let pause = [PausePolicy::Freeze, PausePolicy::Evict, PausePolicy::FreezeOrEvict];
    let retry = (0..5, prop::sample::subsequence(vec!["TheirOwn".to_string()], 0..=1)).prop_map(|(most, types)| {
        let policy = serde_json::json!({
            "maximumAttempts": most, "initialInterval": "1s", "backoffCoefficient": 2.0, "maximumInterval": "100s",
            "nonRetryableErrorTypes": types,
        });
        serde_json::from_value(policy).expect("a policy")
    });
    (retry, prop::sample::select(disruption.to_vec()), prop::sample::select(pause.to_vec()))
}

#[test]
fn attempts_stay_within_the_policy_and_nothing_restarts_at_once() {
    check("attempts", (policy(), prop::collection::vec(run(), 1..40)), |((retry, disruption, pause), runs)| {
        let policy = Policy { retry: &retry, disruption, pause };
        let mut progress = Progress::default();
        for (now, run) in (0_i64..).step_by(1_000_000).zip(runs) {
            let before = progress.clone();
            begin(&mut progress);
            prop_assert!(progress.run == before.run + 1, "numbers only grow, by one");
            let resumes = progress.evicted;
            let next = if run.granted {
                grant(&mut progress);
                let counted = progress.attempt - progress.ignored_disruptions;
                prop_assert!(retry.maximum_attempts == 0 || counted <= retry.maximum_attempts, "attempt {counted}");
                prop_assert_eq!(progress.attempt, before.attempt.max(i32::from(resumes)) + i32::from(!resumes));
                run_ended(&mut progress, &policy, run.ended.clone(), run.cancelled, now)
            } else {
                let error = ErrorStatus { kind: error_types::NOT_STARTED.into(), message: "why".into() };
                start_failed(&mut progress, &policy, error, now);
                Next::Continue
            };
            prop_assert!(progress.attempt >= 0 && progress.ignored_disruptions <= progress.attempt);
            match (next, &run.ended) {
                (Next::Continue, _) => {
                    let first_eviction = progress.evicted && progress.evictions == 1 && progress.start_failures == 0;
                    prop_assert!(first_eviction || back_off_left(&progress, now).is_some(), "{progress:?}");
                    if let Ended::Failed { error, .. } = &run.ended
                        && run.granted
                        && error.kind == error_types::NOT_STARTED
                    {
                        prop_assert_eq!(progress.attempt, before.attempt, "no attempt is used up");
                    }
                }
                (Next::Succeed, ended) => {
                    prop_assert_eq!(ended, &Ended::Succeeded);
                    return Ok(());
                }
                (Next::Fail(_), ended) => {
                    prop_assert!(*ended != Ended::Succeeded && !run.cancelled);
                    return Ok(());
                }
                (Next::Cancel, _) => return Ok(()),
            }
        }
        Ok(())
    });
}

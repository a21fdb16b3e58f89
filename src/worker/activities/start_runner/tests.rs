use super::*;
use crate::api::{AgentJobStatus, JobRef, Outcome, OutcomeKind, Permit};

fn at(epoch: i32, permit_of: Option<&str>) -> Claim {
    let input = StartRunner { job: JobRef::default(), epoch, attempt: 1, resumed: false };
    let permit =
        permit_of.map(|run| Permit { time: super::super::now(), offer: 0, run_id: Some(run.into()), task_token: None });
    Claim { permit, ..claim(&AgentJob::default(), &input, epoch) }
}

#[test]
fn a_claim_is_replaced_only_by_a_higher_epoch() {
    let mine = Some("run");
    assert_eq!(place(None, 1, mine, None), Place::Free);
    assert_eq!(place(Some(&at(1, Some("run"))), 2, mine, None), Place::Free);
    assert_eq!(place(Some(&at(2, None)), 2, mine, None), Place::Ours(2), "an earlier try");
    assert_eq!(place(Some(&at(2, Some("run"))), 2, mine, None), Place::Late, "this run has gone on");
    assert_eq!(place(Some(&at(2, Some("before the reset"))), 2, mine, None), Place::Ahead(3));
    assert_eq!(place(Some(&at(5, None)), 2, mine, None), Place::Ahead(6));
    assert_eq!(place(Some(&at(5, None)), 2, mine, Some(5)), Place::Ours(5), "what an earlier try came to");
    assert_eq!(place(Some(&at(5, Some("run"))), 2, mine, Some(5)), Place::Ahead(6));
}

#[test]
fn a_resumed_attempt_has_used_up_what_its_earlier_pods_have() {
    let mut job = AgentJob::default();
    let outcome = Outcome {
        epoch: 1,
        kind: OutcomeKind::Evicted,
        time: super::super::now(),
        started: true,
        error: None,
        non_retryable: false,
        exit_code: None,
        result: None,
        active_millis: 40,
    };
    let before = Claim { active_millis: 2, ..at(1, None) };
    job.status =
        Some(AgentJobStatus { claim: Some(before), outcome: Some(outcome.clone()), ..AgentJobStatus::default() });
    let mut input = StartRunner { job: JobRef::default(), epoch: 2, attempt: 1, resumed: true };
    assert_eq!(claim(&job, &input, 2).active_millis, 42);
    // The pod of epoch 2 never came up: what the first had used up still counts, once.
    let status = job.status.as_mut().unwrap();
    status.claim = Some(Claim { active_millis: 42, ..at(2, None) });
    assert_eq!(claim(&job, &input, 3).active_millis, 42);
    input.resumed = false;
    assert_eq!(claim(&job, &input, 3).active_millis, 0);
}

#[test]
fn jobs_that_go_get_no_pod() {
    let mut job = AgentJob::default();
    assert!(wanted(&job).is_ok());
    job.spec.desired_state = DesiredState::Cancelled;
    assert!(wanted(&job).is_err());
    job.spec.desired_state = DesiredState::Running;
    job.metadata.deletion_timestamp = Some(super::super::now());
    assert!(wanted(&job).is_err());
}

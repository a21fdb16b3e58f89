use super::*;
use crate::{
    api::{Claim, RunnerStatus},
    pods::AgentContainer,
};

fn status() -> AgentJobStatus {
    let claim = Claim {
        epoch: 2,
        attempt: 1,
        resumed: false,
        pod_name: "p".into(),
        pod_uid: Some("u".into()),
        active_millis: 0,
        refusal: None,
        permit: None,
    };
    AgentJobStatus { claim: Some(claim), ..Default::default() }
}

fn ask<'a>(run: &str, silent: Option<&'a [PodView]>) -> Binding<'a> {
    Binding { epoch: 2, run_id: run.into(), task_token: b"", counts: false, silent }
}

fn pod(agent: AgentContainer) -> PodView {
    PodView { name: "p".into(), uid: "u".into(), epoch: 2, agent, ..PodView::default() }
}

fn runner(answered: Option<i32>) -> RunnerStatus {
    let ready_time = now();
    RunnerStatus { epoch: 2, ready_time, started_time: None, answered, silent_since: None, gateway: None }
}

fn offer(status: &AgentJobStatus) -> Option<i32> {
    status.claim.as_ref().unwrap().permit.as_ref().map(|p| p.offer)
}

fn told(status: &AgentJobStatus) -> String {
    status.outcome.as_ref().unwrap().error.clone().unwrap().kind
}

fn kind(ended: Result<(), Trouble>) -> String {
    ended.expect_err("refused").reason().to_string()
}

#[test]
fn each_binding_is_a_new_offer_and_silence_under_one_is_loss() {
    let (job, mut s) = (AgentJob::default(), status());
    let pods = [pod(AgentContainer::Running)];
    s.runner = Some(runner(Some(0)));
    bind(&job, &mut s, &ask("r", None)).unwrap();
    assert_eq!(offer(&s), Some(0));
    // Time-outs alone prove nothing: every gateway may be away.
    for n in 1..4 {
        bind(&job, &mut s, &ask("r", Some(&pods))).unwrap();
        assert_eq!(offer(&s), Some(n));
    }
    // A gateway listened for an answer and heard none.
    s.runner.as_mut().unwrap().silent_since = Some(now());
    let mut lost = s.clone();
    bind(&job, &mut lost, &ask("r", Some(&pods))).unwrap();
    assert_eq!(told(&lost), error_types::HEARTBEAT_TIMEOUT);
    assert_eq!(offer(&lost), Some(3), "a lost runner gets no new offer");
    // It answered under the new offer: it lives, and is asked again.
    s.runner = Some(runner(Some(3)));
    bind(&job, &mut s, &ask("r", Some(&pods))).unwrap();
    assert_eq!(offer(&s), Some(4));
    // Another run is a new offer too, and its first try judges nobody.
    s.runner.as_mut().unwrap().silent_since = Some(now());
    bind(&job, &mut s, &ask("after continue-as-new", None)).unwrap();
    assert_eq!(offer(&s), Some(5));
}

#[test]
fn a_runner_that_never_reported_in_is_lost_when_it_is_silent() {
    let (job, mut s) = (AgentJob::default(), status());
    let pods = [pod(AgentContainer::Running)];
    bind(&job, &mut s, &ask("r", None)).unwrap();
    bind(&job, &mut s, &ask("r", Some(&pods))).unwrap();
    bind(&job, &mut s, &ask("r", Some(&pods))).unwrap();
    assert_eq!(told(&s), error_types::HEARTBEAT_TIMEOUT);
}

#[test]
fn a_silent_runners_pod_is_looked_at() {
    let (job, mut s) = (AgentJob::default(), status());
    bind(&job, &mut s, &ask("r", None)).unwrap();
    let ended = [pod(AgentContainer::Ended { exit_code: 137, reason: "OOMKilled".into(), ending: None })];
    let mut dead = s.clone();
    bind(&job, &mut dead, &ask("r", Some(&ended))).unwrap();
    assert_eq!(told(&dead), error_types::OOM_KILLED);
    let mut gone = s.clone();
    bind(&job, &mut gone, &ask("r", Some(&[]))).unwrap();
    assert_eq!(told(&gone), error_types::DISRUPTED);
    let mut other = s.clone();
    let strange = [PodView { uid: "somebody made another".into(), ..pod(AgentContainer::Running) }];
    bind(&job, &mut other, &ask("r", Some(&strange))).unwrap();
    assert_eq!(told(&other), error_types::DISRUPTED);
    assert_eq!(offer(&other), Some(0), "an ended runner gets no new offer");
}

#[test]
fn no_agent_starts_for_a_job_that_goes_nor_for_another_epoch() {
    let mut job = AgentJob::default();
    job.spec.desired_state = DesiredState::Cancelled;
    assert_eq!(kind(bind(&job, &mut status(), &ask("r", None))), error_types::JOB_GONE);
    let mut s = status();
    s.claim.as_mut().unwrap().epoch = 3;
    assert_eq!(kind(bind(&AgentJob::default(), &mut s, &ask("r", None))), error_types::RUNNER_LOST);
    // One that runs is bound anew, so that it hears of its cancel.
    let mut s = status();
    bind(&AgentJob::default(), &mut s, &ask("r", None)).unwrap();
    bind(&job, &mut s, &ask("r", Some(&[pod(AgentContainer::Running)]))).unwrap();
    assert_eq!(offer(&s), Some(1));
}

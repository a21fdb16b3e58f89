//! The controller's writes.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::*;
use crate::harness::{ExecutionMode::*, Kubelet, MODES, job, kubelet::End, runner::succeeded};

/// The job goes to its end while the write is held.
macro_rules! writes {
    ($($name:ident: $mode:ident $agent:literal,
        $words:literal $place:literal $value:tt => $late:expr, $runs:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            to_the_end("controller", $mode, agent($agent), ($words, $place, json!($value)), &$late, &$runs).await;
        }
    )*};
}

writes! {
    // AgentJob: finalizer and status.
    finalizer_on: Temporal "succeed", "patch agentjobs" "/metadata/finalizers" null => [409], [1];
    direct_intent: Direct "succeed", "update agentjobs/status" "/status/activeRun" 1 => [409], [1];
    direct_running: Direct "succeed?ms=1000", "update agentjobs/status" "/status/phase" "Running" => [409], [1];
    direct_next_intent: Direct "fail-until?attempt=2",
        "update agentjobs/status" "/status/activeRun" 2 => [409], [1, 2];
    direct_end: Direct "succeed", "update agentjobs/status" "/status/phase" "Succeeded" => [409], [1];
    temporal_accepted: Temporal "succeed", "update agentjobs/status" "/status/workflow/id" null => [409], [1];
    temporal_running: Temporal "succeed?ms=1000", "update agentjobs/status" "/status/phase" "Running" => [409], [1];
    temporal_end: Temporal "succeed", "update agentjobs/status" "/status/phase" "Succeeded" => [409], [1];
    // What Direct mode creates.
    first_run: Direct "succeed", "create agentruns" "/spec/identity/number" 1 => [409], [1];
    next_run: Direct "fail-until?attempt=2", "create agentruns" "/spec/identity/number" 2 => [409], [1, 2];
    first_pod: Direct "succeed", "create pods" "/metadata/name" null => [409], [1];
}

const END: (&str, &str, Value) = ("update agentruns/status", "/status/termination", Value::Null);

fn command(state: &str) -> Write<'static> {
    ("update agentruns", "/spec/command/state", json!(state))
}

/// Run 1 was granted, ended, and was removed; run 2 has the job. The write brings run 1 back, with its grant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_that_was_removed() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("create agentruns", "/spec/identity/number", json!(1)));
    let job = test.apply(second_attempt(Direct)).await;
    zombie.take_over(&held).await;
    job.until_run("the second run", |run| run.number() == 2 && run.may_run()).await;
    job.phase(Phase::Running).await;
    first_is_removed(&job).await;
    // Whoever leads would close it at once; this is about its runner, if it is faster.
    let leader = zombie.roles.list.len() - 1;
    zombie.roles.list[leader].freeze();
    assert_eq!(zombie.late(&held).await, 201);
    let first = job.pod(1).await;
    within(DEADLINE, "its runner to be sent away", async || {
        if job::runs(&test.pods().get(&pod_name(&first)).await.expect("the pod")) { Err("it runs") } else { Ok(()) }
    })
    .await;
    zombie.roles.list[leader].thaw();
    zombie.judge(&node, &job, Phase::Running, &[1, 2]).await;
    first_comes_to_nothing(&node, &job).await;
}

/// The job was cancelled before its run was there: a tombstone has the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_of_a_cancelled_job() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("create agentruns", "/spec/identity/number", json!(1)));
    let job = test.apply(agent("succeed").mode(Direct)).await;
    zombie.freeze(&held).await;
    job.want(DesiredState::Cancelled).await;
    zombie.another().await;
    job.phase(Phase::Cancelled).await;
    zombie.comes_late(&held, &[409], &node, &job, Phase::Cancelled, &[]).await;
    assert_eq!(zombie.pods(), 0);
}

/// The job is gone, and so nobody owns what is created.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_of_a_deleted_job() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("create agentruns", "/spec/identity/number", json!(1)));
    let job = test.apply(agent("succeed").mode(Direct)).await;
    zombie.freeze(&held).await;
    job.delete(DeleteParams::background()).await;
    job.gone(DEADLINE).await;
    zombie.another().await;
    let code = zombie.late(&held).await;
    // The namespace's collector may even be faster than the answer.
    assert!([201, 404].contains(&code), "{code}");
    within(DEADLINE, "run and pod to be collected", async || match (job.runs().await.len(), job.pods().await.len()) {
        (0, 0) => Ok(()),
        left => Err(left),
    })
    .await;
    assert!(node.diary.of(&job.uid).is_empty(), "no agent has started");
}

/// The run was closed before its pod was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_of_a_cancelled_job() {
    super::pod_of_a_cancelled_job("controller", Direct).await;
}

/// The words of a refusal that does not hold any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_error() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("update agentruns/status", "/status/createError", Value::Null));
    let job = test.apply(agent("succeed").mode(Direct).with(account("later"))).await;
    zombie.freeze(&held).await;
    create_account(&test, "later").await;
    zombie.another().await;
    job.phase(Phase::Succeeded).await;
    zombie.comes_late(&held, &[409], &node, &job, Phase::Succeeded, &[1]).await;
    assert!(!job::stalled(&job.status().await));
}

/// A pause that was taken back: the agent, which has gone on, is not paused again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_to_pause() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(command("Paused"));
    let job = test.apply(agent("count").mode(Direct)).await;
    job.phase(Phase::Running).await;
    job.want(DesiredState::Paused).await;
    zombie.take_over(&held).await;
    job.phase(Phase::Paused).await;
    job.want(DesiredState::Running).await;
    job.phase(Phase::Running).await;
    zombie.comes_late(&held, &[409], &node, &job, Phase::Running, &[1]).await;
    assert_eq!(zombie.written(&command("Paused")), [409], "it was not written after all");
    let run = job.run().await.expect("a run");
    assert_eq!(run.command_generation(), 2, "{:?}", run.spec.command);
    job.want(DesiredState::Cancelled).await;
    job.phase(Phase::Cancelled).await;
}

/// A resume that was overtaken by a cancel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_to_resume() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let job = test.apply(agent("count").mode(Direct)).await;
    job.phase(Phase::Running).await;
    job.want(DesiredState::Paused).await;
    job.phase(Phase::Paused).await;
    let held = zombie.hold(command("Running"));
    job.want(DesiredState::Running).await;
    zombie.freeze(&held).await;
    job.want(DesiredState::Cancelled).await;
    zombie.another().await;
    job.phase(Phase::Cancelled).await;
    zombie.comes_late(&held, &[409, 422], &node, &job, Phase::Cancelled, &[1]).await;
    let told = job.run().await.and_then(|run| run.spec.command).expect("a command");
    assert_eq!(told.state, DesiredState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_to_cancel() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(command("Cancelled"));
    let job = test.apply(agent("count").mode(Direct)).await;
    job.phase(Phase::Running).await;
    job.want(DesiredState::Cancelled).await;
    zombie.take_over(&held).await;
    job.phase(Phase::Cancelled).await;
    zombie.comes_late(&held, &[409, 422], &node, &job, Phase::Cancelled, &[1]).await;
}

/// The time for the pod to come up was over, and then its runner came: it is let be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination_for_a_pending_timeout() {
    let test = Test::new().await;
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(END);
    let job = test.apply(agent("any").mode(Direct).with(json!({ "timeouts": { "pending": "2s" } }))).await;
    zombie.freeze(&held).await;
    let (runner, name) = started(&test, &job, 1).await;
    zombie.another().await;
    job.phase(Phase::Running).await;
    assert_eq!(zombie.late(&held).await, 409);
    assert_eq!((error_of(&job).await, zombie.written(&END)), (None, vec![409]));
    runner.outcome(0, succeeded(json!(1))).await.expect("204");
    Kubelet::of(&test).end(&name, &End::exit(0, None)).await;
    job.phase(Phase::Succeeded).await;
    assert_eq!((job.run_number().await, zombie.pods()), (1, 1));
}

/// The container has ended without a report, and another controller has continued the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination_by_the_kubelet() {
    for mode in MODES {
        let test = Test::new().await;
        let mut zombie = Zombie::of(&test, "controller", mode).await;
        let held = zombie.hold(END);
        let job = test.apply(agent("any").mode(mode).with(quick_retries(2))).await;
        let (_, first) = started(&test, &job, 1).await;
        Kubelet::of(&test).end(&first, &End::killed()).await;
        zombie.take_over(&held).await;
        let (runner, second) = started(&test, &job, 2).await;
        let code = zombie.late(&held).await;
        assert!([409, 422].contains(&code), "{code} in {mode:?}");
        let ends: Vec<_> = job.runs().await.iter().map(|run| run.is_closed()).collect();
        assert_eq!(ends, [true, false], "in {mode:?}");
        runner.outcome(0, succeeded(json!(2))).await.expect("204");
        Kubelet::of(&test).end(&second, &End::exit(0, None)).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!((status.attempt, zombie.pods()), (Some(2), 2), "in {mode:?}");
    }
}

/// A runner was silent for too long, and then was heard again. That it is silent once more is another matter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination_for_silence() {
    let test = Test::new().await;
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(END);
    let job = test.apply(agent("any").mode(Direct).heartbeat("1s")).await;
    let (runner, name) = started(&test, &job, 1).await;
    zombie.freeze(&held).await;
    runner.heartbeat(koco::api::RunnerState::Running, 0).await.expect("204");
    let silent = |run: &koco::api::AgentRun| run.status.as_ref().is_some_and(|s| s.unresponsive_since.is_some());
    job.until_run("a sign of life", |run| !silent(run)).await;
    // A gateway's word, from a clock that nobody reaches in this test.
    let since = json!({ "status": { "unresponsiveSince": "2099-01-01T00:00:00Z" } });
    let run = job.run().await.expect("a run");
    let patched = test.runs().patch_status(run.name(), &PatchParams::default(), &Patch::Merge(since)).await;
    assert!(silent(&patched.expect("a status")));
    zombie.another().await;
    assert_eq!(zombie.late(&held).await, 409);
    assert_eq!((error_of(&job).await, zombie.written(&END)), (None, vec![409]));
    runner.outcome(0, succeeded(json!(1))).await.expect("204");
    Kubelet::of(&test).end(&name, &End::exit(0, None)).await;
    job.phase(Phase::Succeeded).await;
}

/// Cancelled during the back-off: the run that was to come is created closed, by two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstone() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("create agentruns", "/spec/identity/tombstone", json!(true)));
    let slow = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "600s" } });
    let job = test.apply(agent("exit?code=1").mode(Direct).with(slow)).await;
    job.until("the second run on record", |s| s.active_run == Some(2)).await;
    job.want(DesiredState::Cancelled).await;
    zombie.take_over(&held).await;
    job.phase(Phase::Cancelled).await;
    zombie.comes_late(&held, &[409], &node, &job, Phase::Cancelled, &[1]).await;
    assert_eq!(zombie.pods(), 1);
}

/// A pod is deleted by its UID: one that has its name by then stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_deletion() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("delete pods", "", Value::Null));
    let job = test.apply(agent("any").mode(Direct).with(json!({ "timeouts": { "pending": "2s" } }))).await;
    let pod = job.pod(1).await;
    let name = pod_name(&pod);
    kubelet.schedule(&name).await;
    zombie.take_over(&held).await;
    kubelet.deleted(&name).await;
    kubelet.remove(&name).await;
    job.phase(Phase::Failed).await;
    let mut namesake = pod.clone();
    namesake.metadata = kube::api::ObjectMeta { name: Some(name.clone()), ..Default::default() };
    test.pods().create(&Default::default(), &namesake).await.expect("a namesake");
    assert_eq!(zombie.late(&held).await, 409);
    let there = test.pods().get(&name).await.expect("the namesake");
    assert_eq!(there.metadata.deletion_timestamp, None);
    assert_eq!(job.phase(Phase::Failed).await.attempt, None);
}

/// The first run is removed, by two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_deletion() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("delete agentruns", "", Value::Null));
    let none_kept = json!({ "runHistoryLimit": 0, "failedPodsHistoryLimit": 0 });
    let spec = agent("fail-until?attempt=2&ms=1000").mode(Direct).with(quick_retries(2)).with(none_kept);
    let job = test.apply(spec).await;
    zombie.take_over(&held).await;
    job.phase(Phase::Succeeded).await;
    first_is_removed(&job).await;
    zombie.comes_late(&held, &[404], &node, &job, Phase::Succeeded, &[1, 2]).await;
}

/// A job is deleted by its UID: the one that has its name by then goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_deletion() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Direct).await;
    let held = zombie.hold(("delete agentjobs", "", Value::Null));
    let soon = json!({ "ttlSecondsAfterFinished": 0 });
    let first = test.apply_as("job", agent("succeed").mode(Direct).with(soon)).await;
    zombie.take_over(&held).await;
    first.gone(DEADLINE).await;
    let second = test.apply_as("job", agent("count").mode(Direct)).await;
    second.phase(Phase::Running).await;
    zombie.comes_late(&held, &[409], &node, &second, Phase::Running, &[1]).await;
    assert_eq!(second.get().await.metadata.deletion_timestamp, None);
}

/// The finalizer of the job that has the name by then stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizer_off() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, "controller", Temporal).await;
    let held = zombie.hold(("patch agentjobs", "/metadata/finalizers", json!([])));
    let first = test.apply_as("job", agent("succeed").mode(Temporal)).await;
    zombie.take_over(&held).await;
    within(DEADLINE, "its finalizer to be off", async || {
        let left = first.get().await.metadata.finalizers.unwrap_or_default();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    first.delete(DeleteParams::background()).await;
    first.gone(DEADLINE).await;
    let second = test.apply_as("job", agent("count").mode(Temporal)).await;
    second.phase(Phase::Running).await;
    zombie.comes_late(&held, &[409], &node, &second, Phase::Running, &[1]).await;
    let kept = second.get().await.metadata.finalizers.unwrap_or_default();
    assert_eq!(kept, [names::FINALIZER]);
}

//! The writes of the workflow's activities.

use koco::api::{AgentRun, RunnerState};
use serde_json::json;

use super::*;
use crate::harness::{
    job,
    kubelet::End,
    runner::{failed, succeeded},
};

const WORKER: &str = "temporal-worker";
const TEMPORAL: ExecutionMode = ExecutionMode::Temporal;
const END: (&str, &str, Value) = ("update agentruns/status", "/status/termination", Value::Null);

/// The job goes to its end while the write of `start_runner` is held.
macro_rules! writes {
    ($($name:ident: $agent:literal, $words:literal $place:literal $value:tt => $late:expr, $runs:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            to_the_end(WORKER, TEMPORAL, agent($agent), ($words, $place, json!($value)), &$late, &$runs).await;
        }
    )*};
}

writes! {
    first_run: "succeed", "create agentruns" "/spec/identity/number" 1 => [409], [1];
    next_run: "fail-until?attempt=2", "create agentruns" "/spec/identity/number" 2 => [409], [1, 2];
    first_pod: "succeed", "create pods" "/metadata/name" null => [409], [1];
    grant: "succeed", "update agentruns" "/spec/grant/binding" 0 => [409, 422], [1];
}

/// A worker with a job in hand, and a node that does nothing by itself.
async fn with_runner<'t>(test: &'t Test, heartbeat: &str) -> (Zombie<'t>, Job<'t>, Runner, String) {
    let zombie = Zombie::of(test, WORKER, TEMPORAL).await;
    let job = test.apply(agent("any").mode(TEMPORAL).heartbeat(heartbeat).with(quick_retries(2))).await;
    let (runner, name) = started(test, &job, 1).await;
    (zombie, job, runner, name)
}

/// The run was removed when it had ended; the write brings it back. It has no grant, and nobody gives it one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_that_was_removed() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, WORKER, TEMPORAL).await;
    let held = zombie.hold(("create agentruns", "/spec/identity/number", json!(1)));
    let job = test.apply(second_attempt(TEMPORAL)).await;
    zombie.take_over(&held).await;
    retried(&job).await;
    job.until_run("the second run", |run| run.number() == 2 && run.may_run()).await;
    first_is_removed(&job).await;
    job.phase(Phase::Running).await;
    zombie.comes_late(&held, &[201], &node, &job, Phase::Running, &[1, 2]).await;
    first_comes_to_nothing(&node, &job).await;
}

/// The workflow was cancelled before it knew of a run: to Temporal, its first task was never done. The run that comes
/// late is nobody's to grant, and is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_run_of_a_cancelled_job() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, WORKER, TEMPORAL).await;
    let held = zombie.hold(("create agentruns", "/spec/identity/number", json!(1)));
    let job = test.apply(agent("succeed").mode(TEMPORAL)).await;
    zombie.freeze(&held).await;
    job.want(DesiredState::Cancelled).await;
    zombie.another().await;
    job.phase(Phase::Cancelled).await;
    assert!(job.runs().await.is_empty());
    zombie.comes_late(&held, &[201], &node, &job, Phase::Cancelled, &[]).await;
    job.until_run("the late run to be closed", |run| run.is_closed()).await;
    job.nothing_runs().await;
    assert!(node.diary.of(&job.uid).is_empty(), "no agent has started");
}

/// The run was closed before its pod was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_of_a_cancelled_job() {
    super::pod_of_a_cancelled_job(WORKER, TEMPORAL).await;
}

/// The words of a refusal that does not hold any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_error() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, WORKER, TEMPORAL).await;
    let held = zombie.hold(("update agentruns/status", "/status/createError", Value::Null));
    let job = test.apply(agent("succeed").mode(TEMPORAL).with(account("later"))).await;
    zombie.freeze(&held).await;
    create_account(&test, "later").await;
    zombie.another().await;
    retried(&job).await;
    job.phase(Phase::Succeeded).await;
    zombie.comes_late(&held, &[409, 422], &node, &job, Phase::Succeeded, &[1]).await;
    assert!(!job::stalled(&job.status().await));
}

/// The runner is bound anew after a heartbeat time-out, by two; the later try has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_binding() {
    let test = Test::new().await;
    let (mut zombie, job, runner, name) = with_runner(&test, "2s").await;
    let held = zombie.hold(("update agentruns", "/spec/grant/binding", json!(1)));
    zombie.take_over(&held).await;
    let later = |run: &AgentRun| run.spec.grant.as_ref().is_some_and(|g| g.activity_attempt > Some(2));
    let bound = job.until_run("a later try", later).await;
    assert_eq!(zombie.late(&held).await, 409);
    let run = job.run().await.expect("a run");
    let tried = |run: &AgentRun| run.spec.grant.as_ref().map(|g| (g.binding, g.activity_attempt));
    assert!(!run.is_closed() && tried(&run) >= tried(&bound), "{:?}", run.spec.grant);
    runner.outcome(0, succeeded(json!(1))).await.expect("204");
    Kubelet::of(&test).end(&name, &End::exit(0, None)).await;
    assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    assert_eq!(zombie.pods(), 1);
}

/// A runner was silent through two time-outs, and then it was heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination_for_silence() {
    let test = Test::new().await;
    let (mut zombie, job, runner, name) = with_runner(&test, "2s").await;
    let held = zombie.hold(END);
    zombie.freeze(&held).await;
    runner.heartbeat(RunnerState::Running, 0).await.expect("204");
    let heard = |run: &AgentRun| run.status.as_ref().is_some_and(|s| s.unresponsive_since.is_none());
    job.until_run("a sign of life", heard).await;
    assert_eq!(held.late().await, 409);
    zombie.another().await;
    zombie.line.as_ref().expect("a line").mend(&test.cluster.temporal);
    zombie.process().thaw();
    zombie.last_words().await;
    assert_eq!((error_of(&job).await, zombie.written(&END)), (None, vec![409]));
    runner.outcome(0, succeeded(json!(1))).await.expect("204");
    Kubelet::of(&test).end(&name, &End::exit(0, None)).await;
    assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    assert_eq!(zombie.pods(), 1);
}

/// A pause that was taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command() {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, WORKER, TEMPORAL).await;
    let write: Write<'_> = ("update agentruns", "/spec/command/state", json!("Paused"));
    let held = zombie.hold(write.clone());
    let job = test.apply(agent("count").mode(TEMPORAL)).await;
    job.phase(Phase::Running).await;
    job.want(DesiredState::Paused).await;
    zombie.take_over(&held).await;
    retried(&job).await;
    job.phase(Phase::Paused).await;
    job.want(DesiredState::Running).await;
    job.phase(Phase::Running).await;
    zombie.comes_late(&held, &[409], &node, &job, Phase::Running, &[1]).await;
    assert_eq!(zombie.written(&write), [409], "it was not written after all");
    job.want(DesiredState::Cancelled).await;
    job.phase(Phase::Cancelled).await;
}

/// Cancelled before the runner came: the run is closed, by two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination_at_the_end() {
    let test = Test::new().await;
    let mut zombie = Zombie::of(&test, WORKER, TEMPORAL).await;
    let held = zombie.hold(END);
    let job = test.apply(agent("any").mode(TEMPORAL)).await;
    let name = pod_name(&job.pod(1).await);
    job.want(DesiredState::Cancelled).await;
    zombie.take_over(&held).await;
    retried(&job).await;
    let kubelet = Kubelet::of(&test);
    kubelet.deleted(&name).await;
    job.phase(Phase::Cancelled).await;
    let code = zombie.late(&held).await;
    assert!([409, 422].contains(&code), "{code}");
    assert_eq!(job.phase(Phase::Cancelled).await.attempt, None);
    assert_eq!(zombie.pods(), 1);
}

/// Cancelled while the next run waits for the end of the last pod: it is created closed, by two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstone() {
    let test = Test::new().await;
    let (mut zombie, job, runner, name) = with_runner(&test, "60s").await;
    let held = zombie.hold(("create agentruns", "/spec/identity/tombstone", json!(true)));
    // Its agent has failed, and its container goes on.
    runner.outcome(0, failed("AgentFailed", 1)).await.expect("204");
    let workflow = job.workflow().await;
    within(DEADLINE, "the next run to be tried", async || {
        let tried = temporal::activities(&temporal::events(&job.temporal, &workflow));
        let tries = tried.iter().filter(|a| *a == "start_runner").count();
        if tries >= 1 { Ok(()) } else { Err(tried) }
    })
    .await;
    job.want(DesiredState::Cancelled).await;
    zombie.take_over(&held).await;
    retried(&job).await;
    job.until_run("the tombstone", |run| run.spec.identity.tombstone).await;
    Kubelet::of(&test).end(&name, &End::exit(1, None)).await;
    job.phase(Phase::Cancelled).await;
    assert_eq!(zombie.late(&held).await, 409);
    job.phase(Phase::Cancelled).await;
    assert_eq!((job.run_number().await, zombie.pods()), (2, 1));
}

/// The pod of a runner that was lost is deleted by its UID, so that the next may be created: one that has its name by
/// then stays. No controller helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_deletion() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (mut zombie, job, _, first) = with_runner(&test, "1s").await;
    let pod = job.pod(1).await;
    job.phase(Phase::Running).await;
    zombie.roles.role("controller").freeze();
    let held = zombie.hold(("delete pods", "", Value::Null));
    zombie.take_over(&held).await;
    retried(&job).await;
    kubelet.deleted(&first).await;
    kubelet.remove(&first).await;
    let (runner, second) = started(&test, &job, 2).await;
    let mut namesake = pod.clone();
    namesake.metadata = kube::api::ObjectMeta { name: Some(first.clone()), ..Default::default() };
    test.pods().create(&Default::default(), &namesake).await.expect("a namesake");
    assert_eq!(zombie.late(&held).await, 409);
    assert_eq!(test.pods().get(&first).await.expect("the namesake").metadata.deletion_timestamp, None);
    zombie.roles.role("controller").thaw();
    runner.outcome(0, succeeded(json!(2))).await.expect("204");
    kubelet.end(&second, &End::exit(0, None)).await;
    assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(2));
    assert_eq!((job.run_number().await, zombie.pods()), (2, 3));
}

//! The gateway's writes: all of them are to the status of an AgentRun.

use koco::api::{AgentRun, RunnerState, TerminationSource};
use kube::api::DeleteParams;
use serde_json::json;

use super::*;
use crate::harness::{DesiredState, MODES, by_hand::Heart, kubelet::End, runner::succeeded};

const STATUS: &str = "update agentruns/status";

/// Lets the write through and thaws the gateway, which then gets the runner back; and only when it has taken it is it
/// told to end: it drops its looks at who is silent at once, and hands the runner over.
async fn works_on(zombie: &mut Zombie<'_>, held: &Hold, runner: &Runner) -> u16 {
    let code = held.late().await;
    zombie.process().thaw();
    let (service, _) = zombie.gateways.as_ref().expect("a Service");
    service.lead_to(&zombie.roles);
    within(DEADLINE, "the thawed gateway", async || runner.register(RunnerState::Running, 0).await).await;
    let (service, others) = zombie.gateways.as_ref().expect("a Service");
    service.lead_to(others);
    within(DEADLINE, "the other gateway", async || runner.register(RunnerState::Running, 0).await).await;
    zombie.last_words().await;
    code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_direct() {
    let write = (STATUS, "/status/readyTime", Value::Null);
    to_the_end("gateway", ExecutionMode::Direct, agent("succeed"), write, &[409, 422], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_temporal() {
    let write = (STATUS, "/status/readyTime", Value::Null);
    to_the_end("gateway", ExecutionMode::Temporal, agent("succeed"), write, &[409, 422], &[1]).await;
}

/// The run was closed before its runner was on record: it is not made ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_of_a_cancelled_job() {
    for mode in MODES {
        let test = Test::new().await;
        let node = Node::automatic(&test);
        let mut zombie = Zombie::of(&test, "gateway", mode).await;
        let held = zombie.hold((STATUS, "/status/readyTime", Value::Null));
        let job = test.apply(agent("succeed").mode(mode)).await;
        zombie.freeze(&held).await;
        job.want(DesiredState::Cancelled).await;
        zombie.another().await;
        job.phase(Phase::Cancelled).await;
        zombie.comes_late(&held, &[409, 422], &node, &job, Phase::Cancelled, &[]).await;
        assert!(!job.run().await.is_some_and(|run| run.is_ready()), "in {mode:?}");
    }
}

/// The agent that was frozen runs again by the time that its being frozen is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgement() {
    for mode in MODES {
        let test = Test::new().await;
        let node = Node::automatic(&test);
        let mut zombie = Zombie::of(&test, "gateway", mode).await;
        let held = zombie.hold((STATUS, "/status/acknowledged/state", json!("Frozen")));
        let job = test.apply(agent("count").mode(mode)).await;
        job.phase(Phase::Running).await;
        // The phase says that it may run: a pause that comes before its start is another story.
        let lives = || node.diary.of(&job.uid).len();
        within(DEADLINE, "the agent's start", async || if lives() == 1 { Ok(()) } else { Err(lives()) }).await;
        job.want(DesiredState::Paused).await;
        zombie.take_over(&held).await;
        job.phase(Phase::Paused).await;
        job.want(DesiredState::Running).await;
        let resumed = |run: &AgentRun| run.acknowledged_state() == Some(RunnerState::Running);
        job.until_run("a confirmed resume", |run| run.command_generation() == 2 && resumed(run)).await;
        job.phase(Phase::Running).await;
        zombie.comes_late(&held, &[409], &node, &job, Phase::Running, &[1]).await;
        assert!(job.run().await.is_some_and(|run| resumed(&run)), "in {mode:?}");
        job.want(DesiredState::Cancelled).await;
        job.phase(Phase::Cancelled).await;
    }
}

/// The runner has come to another gateway since, and the frozen one has heard nobody meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence() {
    let test = Test::new().await;
    let mut zombie = Zombie::of(&test, "gateway", ExecutionMode::Direct).await;
    let write: Write<'_> = (STATUS, "/status/unresponsiveSince", Value::Null);
    let held = zombie.hold(write.clone());
    let job = test.apply(agent("any").mode(ExecutionMode::Direct).heartbeat("1s")).await;
    let (runner, name) = started(&test, &job, 1).await;
    zombie.take_over(&held).await;
    let before = job.run().await.and_then(|run| run.status?.gateway);
    within(DEADLINE, "the other gateway", async || runner.register(RunnerState::Running, 0).await).await;
    job.until_run("the other gateway on record", |r| r.status.as_ref().is_some_and(|s| s.gateway != before)).await;
    let (runner, _heart) = Heart::of(runner);
    assert_eq!(works_on(&mut zombie, &held, &runner).await, 409);
    assert_eq!((error_of(&job).await, zombie.written(&write)), (None, vec![409]));
    within(DEADLINE, "the end to be taken", async || runner.outcome(0, succeeded(json!(1))).await).await;
    Kubelet::of(&test).end(&name, &End::exit(0, None)).await;
    job.phase(Phase::Succeeded).await;
    assert_eq!(zombie.pods(), 1);
}

/// The same in Temporal mode: the runner has answered its new binding.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_after_a_binding() {
    let test = Test::new().await;
    let mut zombie = Zombie::of(&test, "gateway", ExecutionMode::Temporal).await;
    let write: Write<'_> = (STATUS, "/status/unresponsiveSince", Value::Null);
    let held = zombie.hold(write.clone());
    let job = test.apply(agent("any").mode(ExecutionMode::Temporal).heartbeat("4s")).await;
    let (runner, name) = started(&test, &job, 1).await;
    // Any gateway may say it here, and one that stands still doesn't.
    zombie.gateways.as_ref().expect("the other").1.list[0].freeze();
    held.reached().await;
    zombie.gateways.as_ref().expect("the other").1.list[0].thaw();
    zombie.take_over(&held).await;
    let (runner, _heart) = Heart::of(runner);
    let answered = |run: &AgentRun| run.acknowledged().is_some_and(|a| a.binding >= 1);
    job.until_run("an answer to the binding", answered).await;
    assert_eq!(works_on(&mut zombie, &held, &runner).await, 409);
    assert_eq!((error_of(&job).await, zombie.written(&write)), (None, vec![409]));
    within(DEADLINE, "the end to be taken", async || runner.outcome(0, succeeded(json!(1))).await).await;
    Kubelet::of(&test).end(&name, &End::exit(0, None)).await;
    job.phase(Phase::Succeeded).await;
    assert_eq!(zombie.pods(), 1);
}

/// What the runner said of its end comes when somebody else has said how it ended, and the next run has the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination() {
    for mode in MODES {
        let test = Test::new().await;
        let mut zombie = Zombie::of(&test, "gateway", mode).await;
        let held = zombie.hold((STATUS, "/status/termination", Value::Null));
        let job = test.apply(agent("any").mode(mode).grace(1).with(quick_retries(2))).await;
        let (runner, first) = started(&test, &job, 1).await;
        let said = tokio::spawn(async move { runner.outcome(0, succeeded(json!("the first"))).await });
        zombie.take_over(&held).await;
        said.await.expect("no panic").expect_err("nobody has taken it");
        // The node is lost, and the pod is removed by force.
        job.delete_pod(&first, &DeleteParams::default().grace_period(0)).await;
        let (runner, second) = started(&test, &job, 2).await;
        let code = zombie.late(&held).await;
        assert!([409, 422].contains(&code), "{code} in {mode:?}");
        let runs = job.runs().await;
        let source = runs[0].termination().map(|t| t.source);
        assert_eq!((source, runs[1].is_closed()), (Some(TerminationSource::Kubelet), false), "in {mode:?}");
        runner.outcome(0, succeeded(json!("the second"))).await.expect("204");
        Kubelet::of(&test).end(&second, &End::exit(0, None)).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!(status.result, Some(json!("the second").into()));
        assert_eq!(zombie.pods(), 2, "in {mode:?}");
    }
}

/// A stream that was opened here once: the gateway that has the runner puts itself on record again, and nobody calls
/// the runner silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_of_a_stream() {
    let test = Test::new().await;
    let mut zombie = Zombie::of(&test, "gateway", ExecutionMode::Direct).await;
    let job = test.apply(agent("any").mode(ExecutionMode::Direct).heartbeat("2s")).await;
    let (runner, name) = in_hand(&test, &job, 1).await;
    // It says hello to the one, opens its stream at the other, and comes back to the first.
    zombie.another().await;
    runner.welcome().await;
    let run = job.until_run("the hello", AgentRun::may_have_started).await;
    let living = run.status.and_then(|s| s.gateway).expect("a gateway");
    let held = zombie.hold((STATUS, "/status/gateway", Value::Null));
    let (service, _) = zombie.gateways.as_ref().expect("a Service");
    service.lead_to(&zombie.roles);
    let stream = within(DEADLINE, "a stream", async || runner.messages().await).await;
    zombie.take_over(&held).await;
    drop(stream);
    let _stream = within(DEADLINE, "a stream", async || runner.messages().await).await;
    let (runner, _heart) = Heart::of(runner);
    let code = held.late().await;
    assert!([200, 409].contains(&code), "{code}");
    zombie.process().thaw();
    let named = |run: &AgentRun| run.status.as_ref().and_then(|s| s.gateway.as_deref()) == Some(&living);
    job.until_run("the gateway that has the runner", &named).await;
    zombie.last_words().await;
    let run = job.until_run("the same afterwards", named).await;
    assert!(!run.is_closed());
    within(DEADLINE, "the end to be taken", async || runner.outcome(0, succeeded(json!(1))).await).await;
    Kubelet::of(&test).end(&name, &End::exit(0, None)).await;
    job.phase(Phase::Succeeded).await;
    assert_eq!(zombie.pods(), 1);
}

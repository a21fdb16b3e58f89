//! What jobs and installations can't take from each other: the capacity for pauses and cancels, and each other's jobs.

use koco::api::{RunnerState, TerminationType};

use crate::harness::{
    ApiProxy, DesiredState, ExecutionMode, Kubelet, Node, Phase, Roles, Server, Test, agent,
    by_hand::started,
    job::{With, pod_name},
    kubelet::End,
    runner::ending,
};

/// So many starts that, two at a time, they outlast a test's deadline: each takes its slot until its own time limit.
const STARTS: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_that_get_no_answer_take_no_slot_from_pauses_and_cancels() {
    let (mine, theirs) = (Test::new().await, Test::new().await);
    let mut roles = Roles::separate(&mine, Server::Shared);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", mine.namespace, theirs.namespace));
    roles.set("KOCO_WORKER_ACTIVITY_SLOTS", "2");
    let proxy = ApiProxy::before(&mine, roles.role("temporal-worker")).await;
    roles.start().await;
    let kubelet = Kubelet::of(&mine);
    let spec = || agent("anything").mode(ExecutionMode::Temporal);
    let job = mine.apply(spec()).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;

    // As behind an admission webhook that does not answer.
    let held: Vec<_> = (0..STARTS).map(|_| proxy.hold("create pods")).collect();
    for _ in 0..STARTS {
        theirs.apply(spec()).await;
    }
    held[0].reached().await;
    held[1].reached().await;

    job.want(DesiredState::Paused).await;
    let run = job.until_run("the pause", |r| r.command_generation() > 0).await;
    runner.confirm(RunnerState::Frozen, run.command_generation(), None).await.expect("204");
    job.phase(Phase::Paused).await;
    job.want(DesiredState::Cancelled).await;
    let paused = run.command_generation();
    let run = job.until_run("the cancel", |r| r.command_generation() > paused).await;
    let cancelled = ending(TerminationType::Cancelled, true);
    runner.outcome(run.command_generation(), cancelled).await.expect("204");
    kubelet.end(&pod_name(&pod), &End::exit(143, None)).await;
    job.phase(Phase::Cancelled).await;
}

/// As if both were configured with the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_on_one_task_queue_end_none_of_each_others_jobs() {
    let tests = [Test::new().await, Test::new().await];
    let mut all = Vec::new();
    for test in &tests {
        let mut roles = Roles::separate(test, Server::Shared);
        roles.set("KOCO_TASK_QUEUE", &format!("{}-shared", tests[0].namespace));
        roles.start().await;
        all.push(roles);
    }
    let _nodes = tests.each_ref().map(Node::automatic);
    let mut jobs = Vec::new();
    for _ in 0..3 {
        for test in &tests {
            jobs.push(test.apply(agent("succeed?ms=100").mode(ExecutionMode::Temporal)).await);
        }
    }
    for job in &jobs {
        assert_eq!(job.phase(Phase::Succeeded).await.attempt, Some(1));
    }
}

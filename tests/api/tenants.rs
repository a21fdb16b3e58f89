//! What jobs and installations can't take from each other: the capacity for pauses and cancels, and each other's jobs.

use k8s_openapi::api::core::v1::Pod;
use koco::api::{RunnerState, TerminationType};

use crate::harness::{
    ApiProxy, DesiredState, ExecutionMode, Job, Kubelet, Node, Phase, Roles, Runner, Server, Test, agent,
    by_hand::started,
    job::{With, pod_name},
    kubelet::End,
    runner::ending,
};

/// So many starts that, two at a time, they outlast a test's deadline: each takes its slot until its own time limit, first
/// one of those within workflow tasks, and then the activity's.
const STARTS: usize = 24;
/// The same with four at a time, before the next of any job's turn.
const DIRECT_STARTS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_that_get_no_answer_take_no_slot_from_pauses_and_cancels() {
    let (mine, theirs) = (Test::new().await, Test::new().await);
    let mut roles = Roles::separate(&mine, Server::Shared);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", mine.namespace, theirs.namespace));
    roles.set("KOCO_WORKER_ACTIVITY_SLOTS", "2");
    roles.set("KOCO_WORKER_WORKFLOW_SLOTS", "4");
    roles.set("KOCO_WORKER_LOCAL_ACTIVITY_SLOTS", "2");
    let proxy = ApiProxy::before(&mine, roles.role("temporal-worker")).await;
    roles.start().await;
    let kubelet = Kubelet::of(&mine);
    let spec = || agent("anything").mode(ExecutionMode::Temporal);
    let job = mine.apply(spec()).await;
    let hands = started(&kubelet, &job, 1).await;

    // As behind an admission webhook that does not answer.
    let held: Vec<_> = (0..STARTS).map(|_| proxy.hold("create pods")).collect();
    for _ in 0..STARTS {
        theirs.apply(spec()).await;
    }
    held[0].reached().await;
    held[1].reached().await;

    is_paused_and_cancelled(&kubelet, &job, hands).await;
}

/// The controller creates the pods of Direct jobs itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_starts_that_get_no_answer_take_no_slot_from_pauses_and_cancels() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.set("KOCO_CONCURRENCY", "4");
    let proxy = ApiProxy::before(&test, roles.role("controller")).await;
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything")).await;
    let hands = started(&kubelet, &job, 1).await;

    let held: Vec<_> = (0..DIRECT_STARTS).map(|_| proxy.hold("create pods")).collect();
    for _ in 0..DIRECT_STARTS {
        test.apply(agent("anything")).await;
    }
    held[0].reached().await;
    is_paused_and_cancelled(&kubelet, &job, hands).await;
}

/// A job of another namespace is not behind all those that were there before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_with_many_jobs_delays_no_other() {
    const MANY: usize = 60;
    let (mine, theirs) = (Test::new().await, Test::new().await);
    let mut roles = Roles::of(&mine, Server::None, &["gateway", "controller"]);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", theirs.namespace, mine.namespace));
    roles.set("KOCO_CONCURRENCY", "1");
    for _ in 0..MANY {
        theirs.apply(agent("anything")).await;
    }
    let job = mine.apply(agent("anything")).await;
    roles.start().await;
    job.until_pod().await;
    let before = theirs.pods().list_metadata(&Default::default()).await.expect("pods").items.len();
    assert!(before <= MANY / 2, "{before} of {MANY} jobs of another namespace have a pod before the only one of this");
}

/// Several times, so that what is held up has taken all that it can by then.
async fn is_paused_and_cancelled(kubelet: &Kubelet, job: &Job<'_>, (pod, runner): (Pod, Runner)) {
    let mut last = 0;
    for _ in 0..5 {
        for (desired, state) in
            [(DesiredState::Paused, RunnerState::Frozen), (DesiredState::Running, RunnerState::Running)]
        {
            job.want(desired).await;
            let run = job.until_run("the command", |r| r.command_generation() > last).await;
            last = run.command_generation();
            runner.confirm(state, last, None).await.expect("204");
            job.phase(if state == RunnerState::Frozen { Phase::Paused } else { Phase::Running }).await;
        }
    }
    job.want(DesiredState::Cancelled).await;
    let run = job.until_run("the cancel", |r| r.command_generation() > last).await;
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

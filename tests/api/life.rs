//! The life of a job in both modes: also shows that the simulation is right.

use koco::{
    api::{AgentJobStatus, AgentRun, RunnerState, conditions},
    protocol::runner::ControlMessage,
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::harness::{
    ApiProxy, DEADLINE, DesiredState, ExecutionMode, Kubelet, MODES, Node, Phase, Roles, Runner, Server, Test, agent,
    audit,
    by_hand::{started, succeeds},
    job::{With, condition, error_type, pod_name, stalled},
    kubelet::End,
    runner::{failed, succeeded},
    temporal, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_to_their_end() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let once = json!({ "retryPolicy": { "maximumAttempts": 1 } });
    for mode in MODES {
        let well = test.apply(agent("succeed?ms=200").mode(mode).with(json!({ "inputs": { "a": 1 } }))).await;
        let badly = test.apply(agent("exit?code=3").mode(mode).with(once.clone())).await;
        let status = well.phase(Phase::Succeeded).await;
        assert_eq!(status.result.expect("a result"), koco::api::RawJson::from(json!({ "inputs": { "a": 1 } })));
        assert_eq!(error_type(&badly.phase(Phase::Failed).await), "AgentFailed");
        if mode == ExecutionMode::Temporal {
            assert_eq!(well.closed(&well.workflow().await).await, "COMPLETED");
            assert_eq!(badly.closed(&badly.workflow().await).await, "FAILED");
        }
    }
    assert_eq!(audit::created(&test.namespace).len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_gets_another_pod() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let twice = json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "100ms" } });
    let job = test.apply(agent("exit?code=3").mode(ExecutionMode::Temporal).with(twice)).await;
    let status = job.phase(Phase::Failed).await;
    assert_eq!((status.attempt, job.run_number().await), (Some(2), 2));
}

/// What the server keeps of a job that just runs; beside that, it is asked how the workflow does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_has_few_events() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let job = test.apply(agent("succeed?ms=500").mode(ExecutionMode::Temporal)).await;
    job.phase(Phase::Succeeded).await;
    let workflow = job.workflow().await;
    assert_eq!(job.closed(&workflow).await, "COMPLETED");
    let events = temporal::events(&job.temporal, &workflow);
    assert_eq!(temporal::activities(&events), ["execute_agent"], "the first start is local, and nothing is left to do");
    assert_eq!(temporal::signals(&events), ["runner_ready"]);
    let tasks = events.iter().filter(|e| !e["workflowTaskCompletedEventAttributes"].is_null()).count();
    assert_eq!((tasks, events.len()), (3, 16));
}

/// The sidecar of an agent that has ended has no end. The pod goes, whether the workflow has ended, or can't, as there is
/// no worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_outlives_its_run_is_deleted() {
    let test = Test::new().await;
    let mut roles = test.separate_roles(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    let container = |name: &str| json!({ "name": name, "image": "localhost/none:none", "command": ["/none"] });
    let template = json!({ "template": { "spec": { "containers": [container("agent"), container("mesh")] } } });
    let spec = |mode| agent("anything").mode(mode).with(template.clone());
    let mut all = Vec::new();
    for (mode, worker) in
        [(ExecutionMode::Direct, true), (ExecutionMode::Temporal, true), (ExecutionMode::Temporal, false)]
    {
        let job = test.apply(spec(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        if !worker {
            roles.role("temporal-worker").kill();
        }
        runner.outcome(0, succeeded(json!(1))).await.expect("204");
        kubelet.end_container(&pod_name(&pod), "agent", &End::exit(0, None)).await;
        if worker {
            job.phase(Phase::Succeeded).await;
        }
        all.push((job, pod_name(&pod)));
    }
    for (_, pod) in &all {
        kubelet.deleted(pod).await;
    }
    let (waits, _) = all.pop().expect("a job");
    assert_eq!(waits.status().await.phase, Some(Phase::Running), "its workflow says how it ended");
    roles.role("temporal-worker").start().await;
    waits.phase(Phase::Succeeded).await;
    assert_eq!(audit::created(&test.namespace).len(), 3);
}

/// The same, each step when the test says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_step_by_step() {
    let test = Test::new().await;
    let _roles = test.separate_roles(Server::Shared).await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode)).await;
        let pod = job.pod(1).await;
        let name = pod_name(&pod);
        kubelet.unschedulable(&name, "0/0 nodes are available").await;
        let waits = |s: &AgentJobStatus| condition(s, conditions::RECONCILING).1 == "Unschedulable";
        let status = job.until("what it waits for", waits).await;
        assert!(!stalled(&status), "a node may come by itself");
        kubelet.schedule(&name).await;
        kubelet.run(&name).await;
        let runner = Runner::of(&test, &pod).await;
        assert!(!job.run().await.expect("a run").may_have_started(), "no runner has registered");
        let told = runner.welcome().await;
        assert_eq!((told.entry_point.as_str(), told.attempt), ("anything", 1));
        let mut orders = runner.messages().await.expect("a stream");
        assert_eq!(orders.grant().await, ControlMessage::Grant { attempt: 1 });
        job.until_run("the grant", |run| run.may_have_started()).await;
        runner.confirm(RunnerState::Running, 0, None).await.expect("204");
        runner.heartbeat(RunnerState::Running, 0).await.expect("204");
        job.phase(Phase::Running).await;
        runner.outcome(0, succeeded(json!(42))).await.expect("204");
        let again = runner.outcome(0, failed("AgentFailed", 1)).await.expect_err("another outcome");
        assert!([409, 410].contains(&again.code()), "{again:?}");
        kubelet.end(&name, &End::exit(0, None)).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!(status.result, Some(json!(42).into()), "in {mode:?}");
        assert!(!stalled(&status));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_kubelet_says_of_an_end_is_believed() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let once = json!({ "retryPolicy": { "maximumAttempts": 1 } });
    for mode in MODES {
        for (end, disrupted, kind) in [
            (End::out_of_memory(), false, "OOMKilled"),
            (End::killed(), false, "RunnerLost"),
            (End::killed(), true, "Disrupted"),
        ] {
            let job = test.apply(agent("anything").mode(mode).with(once.clone())).await;
            let (pod, _runner) = started(&kubelet, &job, 1).await;
            let name = pod_name(&pod);
            if disrupted {
                kubelet.disrupt(&name, "EvictionByEvictionAPI", "a drain").await;
            }
            kubelet.end(&name, &end).await;
            assert_eq!(error_type(&job.phase(Phase::Failed).await), kind, "in {mode:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_deleted_is_a_disruption() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let once = json!({ "retryPolicy": { "maximumAttempts": 1 } });
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode).with(once.clone())).await;
        let (pod, _runner) = started(&kubelet, &job, 1).await;
        let name = pod_name(&pod);
        job.delete_pod(&name, &DeleteParams::default()).await;
        kubelet.deleted(&name).await;
        assert_eq!(job.status().await.phase, Some(Phase::Running), "the node has not said that it ended");
        kubelet.end(&name, &End::killed()).await;
        kubelet.remove(&name).await;
        assert_eq!(error_type(&job.phase(Phase::Failed).await), "Disrupted", "in {mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_confirmed_and_a_cancel_ends_it() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode)).await;
        job.phase(Phase::Running).await;
        job.want(DesiredState::Paused).await;
        let status = job.phase(Phase::Paused).await;
        assert_eq!(condition(&status, conditions::PAUSED).0, "True");
        let told = job.run().await.and_then(|run| run.spec.command).expect("a command");
        let said = status.control.and_then(|c| c.confirmed).expect("a confirmation");
        assert_eq!((told.state, said.state), (DesiredState::Paused, RunnerState::Frozen), "in {mode:?}");
        assert_eq!(told.generation, said.generation);
        job.want(DesiredState::Running).await;
        job.phase(Phase::Running).await;
        let resumed = |r: &AgentRun| r.acknowledged_state() == Some(RunnerState::Running);
        job.until_run("a confirmed resume", resumed).await;
        job.want(DesiredState::Cancelled).await;
        job.phase(Phase::Cancelled).await;
        job.nothing_runs().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_agent_goes_on_in_a_new_pod() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode).with(json!({ "pausePolicy": "Evict" }))).await;
        job.phase(Phase::Running).await;
        job.want(DesiredState::Paused).await;
        job.phase(Phase::Paused).await;
        job.nothing_runs().await;
        job.want(DesiredState::Running).await;
        let status = job.phase(Phase::Running).await;
        assert_eq!((status.attempt, job.run_number().await), (Some(1), 2), "in {mode:?}");
        job.want(DesiredState::Cancelled).await;
        job.phase(Phase::Cancelled).await;
    }
}

/// What is left of a job that was deleted goes by its owner reference, in the node's own time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_job_takes_its_pods_with_it() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    for mode in MODES {
        let job = test.apply(agent("count").mode(mode)).await;
        job.phase(Phase::Running).await;
        let workflow = if mode == ExecutionMode::Temporal { Some(job.workflow().await) } else { None };
        job.delete(DeleteParams::background()).await;
        job.gone(DEADLINE).await;
        within(DEADLINE, "its pods to be gone", async || {
            let pods = job.pods().await;
            if pods.is_empty() { Ok(()) } else { Err(pods.len()) }
        })
        .await;
        if let Some(id) = workflow {
            assert_eq!(job.closed(&id).await, "CANCELED");
            assert!(!temporal::events(&job.temporal, &id).is_empty());
        }
    }
}

/// When a gateway has ended, all its runners come back at once: none needs its inputs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_comes_back_costs_no_read_of_its_job() {
    let test = Test::new().await;
    let mut roles = Roles::separate(&test, Server::Shared);
    let proxy = ApiProxy::before(&test, roles.role("gateway")).await;
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let held = proxy.hold("get agentjobs");
        assert_eq!(runner.register_again(RunnerState::Running, 0).await, Ok(None), "in {mode:?}");
        drop(held);
        succeeds(&kubelet, &job, &pod, &runner, json!(1)).await;
    }
}

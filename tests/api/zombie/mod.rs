//! Every write of the protocol, come late. A process is frozen before the write; another of the same role takes over
//! and goes on; then the write arrives, and the process thaws. Whichever write it is, nothing is started twice, no
//! agent that lives is stopped, and no final phase changes.
//!
//! One module for each role, with a test for each write. A write is named by its verb and resource, and a place in its
//! body; the place "" is there in any.

mod controller;
mod gateway;
mod worker;

use std::time::Duration;

use koco::{
    api::names,
    temporal::{Settings, Temporal},
};
use serde_json::{Value, json};
use temporalio_client::{ActivityIdentifier, RpcOptions};
use temporalio_sdk::ApplicationFailure;

use crate::harness::{
    ApiProxy, DEADLINE, DesiredState, ExecutionMode, Job, Kubelet, Node, Phase, Role, Roles, Runner, Server, Service,
    Test, agent, audit, by_hand,
    hold::{Asked, Hold},
    job::{With, pod_name},
    player::LifeEnd,
    temporal, within,
};

/// A write: verb and resource, the JSON pointer to what makes it this one, and the value there; null is any.
type Write<'a> = (&'a str, &'a str, Value);

fn is(asked: &Asked, (words, place, value): &Write<'_>) -> bool {
    let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
    let there = body.pointer(place).filter(|there| !there.is_null());
    asked.words() == *words && there.is_some_and(|there| value.is_null() || there == value)
}

/// The process that will be frozen, those beside it, and who takes over.
struct Zombie<'t> {
    test: &'t Test,
    name: &'static str,
    server: Server<'t>,
    roles: Roles,
    proxy: ApiProxy,
    /// Between the process and Temporal.
    line: Option<Service>,
    /// Between runners and the gateways, and the other gateway.
    gateways: Option<(Service, Roles)>,
}

impl<'t> Zombie<'t> {
    /// All roles, of which this one has a proxy before it.
    async fn of(test: &'t Test, name: &'static str, mode: ExecutionMode) -> Self {
        let (server, names): (Server<'t>, &[_]) = match mode {
            ExecutionMode::Direct => (Server::None, &["gateway", "controller"]),
            ExecutionMode::Temporal => (Server::Shared, &["gateway", "controller", "temporal-worker"]),
        };
        let mut roles = Roles::of(test, server, names);
        let service = if name == "gateway" { Some(Service::before(&mut roles).await) } else { None };
        let proxy = ApiProxy::before(test, roles.role(name)).await;
        let worker = name == "temporal-worker";
        let line = if worker { Some(Service::to_temporal(test, roles.role(name)).await) } else { None };
        roles.start().await;
        let mut gateways = None;
        if let Some(service) = service {
            let mut others = Roles::of(test, server, &["gateway"]);
            others.start().await;
            gateways = Some((service, others));
        }
        Self { test, name, server, roles, proxy, line, gateways }
    }

    fn hold(&self, (words, place, value): Write<'static>) -> Hold {
        self.proxy.hold_where(move |asked| is(asked, &(words, place, value.clone())))
    }

    fn process(&mut self) -> &mut Role {
        self.roles.role(self.name)
    }

    /// Waits for the write, and freezes the process before it.
    async fn freeze(&mut self, held: &Hold) -> Asked {
        let asked = held.reached().await;
        self.process().freeze();
        if let Some(line) = &self.line {
            line.cut();
        }
        asked
    }

    /// The same, and another process takes over.
    async fn take_over(&mut self, held: &Hold) -> Asked {
        let asked = self.freeze(held).await;
        self.another().await;
        asked
    }

    /// Another process takes over.
    async fn another(&mut self) {
        if let Some((service, others)) = &self.gateways {
            return service.lead_to(others);
        }
        let another = self.roles.add(self.test, self.server, self.name);
        self.roles.list[another].start().await;
    }

    /// Lets the write through, thaws the process, and waits until it has done all that it still had to.
    async fn late(&mut self, held: &Hold) -> u16 {
        let code = held.late().await;
        if let Some(line) = &self.line {
            line.mend(&self.test.cluster.temporal);
        }
        self.process().thaw();
        self.last_words().await;
        code
    }

    /// It finishes what it has begun, and ends.
    async fn last_words(&mut self) {
        self.process().process.stop(Duration::from_secs(40));
    }

    /// How the write was answered that came late, and what must hold after it.
    async fn comes_late(&mut self, held: &Hold, codes: &[u16], node: &Node, job: &Job<'_>, phase: Phase, runs: &[i32]) {
        let code = self.late(held).await;
        assert!(codes.contains(&code), "the late write was answered {code}");
        self.judge(node, job, phase, runs).await;
    }

    /// The phase, and the runs whose agents have started: one after the other, and each ended by itself or because it
    /// was told to.
    async fn judge(&self, node: &Node, job: &Job<'_>, phase: Phase, runs: &[i32]) {
        assert_eq!(job.phase(phase).await.phase, Some(phase));
        let lives = node.diary.of(&job.uid);
        assert_eq!(lives.iter().map(|l| l.run).collect::<Vec<_>>(), runs, "{lives:?}");
        let stopped = |end: Option<LifeEnd>| end == Some(LifeEnd::Stopped);
        assert!(!lives.iter().any(|l| l.beside || stopped(l.end)), "{lives:?}");
    }

    /// How many pods were created in all.
    fn pods(&self) -> usize {
        audit::created(&self.test.namespace).len()
    }

    /// What the proxy passed on of such writes, and how each was answered.
    fn written(&self, write: &Write<'_>) -> Vec<u16> {
        self.proxy.written().iter().filter(|(asked, _)| is(asked, write)).map(|(_, code)| *code).collect()
    }
}

/// The shape of most tests: the job goes to its end, and then the write comes.
async fn to_the_end(
    role: &'static str,
    mode: ExecutionMode,
    spec: Value,
    write: Write<'static>,
    late: &[u16],
    runs: &[i32],
) {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, role, mode).await;
    let held = zombie.hold(write);
    let job = test.apply(spec.mode(mode).with(quick_retries(2))).await;
    zombie.take_over(&held).await;
    if role == "temporal-worker" {
        retried(&job).await;
    }
    job.phase(Phase::Succeeded).await;
    zombie.comes_late(&held, late, &node, &job, Phase::Succeeded, runs).await;
    assert_eq!(zombie.pods(), runs.len());
}

/// The job is cancelled while the creation of its pod is held: its run is closed before its pod is there.
async fn pod_of_a_cancelled_job(role: &'static str, mode: ExecutionMode) {
    let test = Test::new().await;
    let node = Node::automatic(&test);
    let mut zombie = Zombie::of(&test, role, mode).await;
    let held = zombie.hold(("create pods", "/metadata/name", Value::Null));
    let job = test.apply(agent("succeed").mode(mode)).await;
    zombie.freeze(&held).await;
    job.want(DesiredState::Cancelled).await;
    zombie.another().await;
    if role == "temporal-worker" {
        retried(&job).await;
    }
    job.phase(Phase::Cancelled).await;
    zombie.comes_late(&held, &[201], &node, &job, Phase::Cancelled, &[]).await;
    job.nothing_runs().await;
    assert!(node.diary.of(&job.uid).is_empty(), "its runner was refused");
}

/// A job that keeps no run but its newest: the first agent fails, the second runs until the test ends it.
fn second_attempt(mode: ExecutionMode) -> Value {
    let none_kept = json!({ "runHistoryLimit": 0, "failedPodsHistoryLimit": 0 });
    agent("fail-until?attempt=2&ms=60000").mode(mode).with(quick_retries(3)).with(none_kept)
}

/// Waits until a job has one run, and the one before it is removed.
async fn first_is_removed(job: &Job<'_>) {
    within(DEADLINE, "the first run to be removed", async || match job.runs().await.len() {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
}

/// The first run was brought back while the second has the job: nothing comes of it, also after a cancel.
async fn first_comes_to_nothing(node: &Node, job: &Job<'_>) {
    within(DEADLINE, "the first run to be closed or gone", async || {
        let runs = job.runs().await;
        if runs.iter().all(|run| run.number() == 2 || run.is_closed()) { Ok(()) } else { Err(runs) }
    })
    .await;
    job.want(DesiredState::Cancelled).await;
    job.phase(Phase::Cancelled).await;
    job.nothing_runs().await;
    assert_eq!(node.diary.of(&job.uid).len(), 2);
}

/// So many attempts, with next to no wait between them.
fn quick_retries(attempts: i32) -> Value {
    json!({ "retryPolicy": { "maximumAttempts": attempts, "initialInterval": "100ms" } })
}

/// Temporal gives up the worker that has the job's activity, and tries it again: what a time-out does, only at once. A
/// local activity is not known to the server: the workflow's task times out by itself.
async fn retried(job: &Job<'_>) {
    let workflow = job.workflow().await;
    let settings = Settings::from_env("test").expect("settings");
    let client = Temporal::new(settings).connected().await.expect("Temporal");
    let text =
        temporal::cli(&job.temporal, &["workflow", "describe", "-w", &workflow, "-o", "json"]).expect("describe");
    let described: Value = serde_json::from_str(&text).expect("JSON");
    let pending = described["pendingActivities"].as_array().cloned().unwrap_or_default();
    // `execute_agent` is under way all the while that an agent runs: what was frozen is what is beside it, if anything.
    let mut tried: Vec<_> =
        pending.iter().filter(|a| a["state"].as_str().is_some_and(|s| s.ends_with("STARTED"))).collect();
    tried.sort_by_key(|a| a["activityType"]["name"] == "execute_agent");
    let Some(id) = tried.first().and_then(|a| a["activityId"].as_str()) else {
        let task = described["pendingWorkflowTask"]["state"].as_str().unwrap_or_default();
        return assert!(task.ends_with("STARTED"), "nothing is tried: {described}");
    };
    let activity = ActivityIdentifier::by_id_workflow(&workflow, "", id);
    let lost = ApplicationFailure::builder(anyhow::anyhow!("its worker is lost")).build();
    let failed = client.get_async_activity_handle(activity).fail(lost, None::<()>, RpcOptions::default()).await;
    failed.unwrap_or_else(|e| panic!("{workflow} {id}: {e}"));
}

/// The job's pod of that number, up and running on a node that does nothing by itself, with the runner in it.
async fn in_hand(test: &Test, job: &Job<'_>, run: i32) -> (Runner, String) {
    let (pod, runner) = by_hand::in_hand(&Kubelet::of(test), job, run).await;
    (runner, pod_name(&pod))
}

/// The same, with its agent started.
async fn started(test: &Test, job: &Job<'_>, run: i32) -> (Runner, String) {
    let (runner, name) = in_hand(test, job, run).await;
    runner.welcome().await;
    runner.messages().await.expect("a stream").grant().await;
    job.until_run("the grant", |run| run.may_have_started()).await;
    (runner, name)
}

/// How the newest run's end is recorded, if it is, and by whom.
async fn error_of(job: &Job<'_>) -> Option<String> {
    job.termination().await.map(|t| t.error.map_or_else(|| format!("{:?}", t.kind), |e| e.kind))
}

/// A pod that names this account is refused until the account is there.
fn account(name: &str) -> Value {
    json!({ "template": { "spec": { "serviceAccountName": name } } })
}

async fn create_account(test: &Test, name: &str) {
    use k8s_openapi::api::core::v1::ServiceAccount;
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(test.client.clone(), &test.namespace);
    let account = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("an account");
    accounts.create(&Default::default(), &account).await.expect("an account");
}

//! The soak: hundreds of jobs of both modes while everything around them is killed, frozen, cut off and restarted. Each
//! agent keeps a ledger outside of koco, and afterwards koco's promises are compared with it.
//!
//!   make soak DURATION=300 SEED=1
//!
//! [`plan`] says what happens when; [`users`] and [`world`] do it; [`watch`] sees what koco says, [`ledger`] what the agents
//! did; [`judge`] compares. It prints its progress, and a table at the end.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use futures::future::{self, Either};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::{process::Command, time::Instant};

use self::{
    judge::{PROMISES, Promise, Story, Violation, judge},
    plan::{JobPlan, Plan, Request},
    watch::Watch,
    world::World,
};
use crate::harness::{Test, cluster::PLUGIN, node, temporal};

#[path = "../cluster/harness/mod.rs"]
#[allow(dead_code, unused_imports)] // the cluster tests use more of it
mod harness;
mod judge;
mod ledger;
mod plan;
mod users;
mod watch;
mod world;

/// How often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(15);
/// How long none may end, once nothing is disturbed any more, while some have not; and then, how long all may take to be
/// gone. Used up only by a broken promise.
const AFTERWARDS: Duration = Duration::from_secs(300);

#[ignore = "minutes: make soak"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect(name));
    let (seed, duration) = (number("SEED", 1), Duration::from_secs(number("DURATION", 300)));
    let plan = Plan::new(seed, duration);
    println!(
        "seed {seed}, {} s: {} jobs, {} disturbances",
        duration.as_secs(),
        plan.jobs.len(),
        plan.disturbances.len()
    );
    let test = Test::new().await;
    let ledger = folder(&test);
    let world = World::new(&test).await;
    let watch = Watch::of(&test);

    let began = Instant::now();
    let door = users::Door::new(&watch, began + duration);
    let jobs = &plan.jobs;
    let users = future::join_all(jobs.iter().map(|job| users::user(&test, job, &ledger, began, &door)));
    let disturbances = future::join_all(plan.disturbances.iter().map(async |disturbance| {
        let met = world.disturb(disturbance, began).await.unwrap_or_else(|| "nothing there".into());
        println!("{:6.1} s  {disturbance}: {met}", began.elapsed().as_secs_f64());
    }));
    let beside = async {
        tokio::join!(world.supervise(), progress(&watch, began));
    };
    let (asked, stories, mut violations) = {
        let all = std::pin::pin!(async {
            let (asked, _) = tokio::join!(users, disturbances);
            println!("{:6.1} s  nothing is disturbed any more", began.elapsed().as_secs_f64());
            world::heal().await;
            let took = Instant::now();
            let (applied, asked): (Vec<_>, Vec<_>) =
                jobs.iter().zip(asked).filter_map(|(job, asked)| Some((job.clone(), asked?))).unzip();
            ended(&test, &applied, &watch).await;
            println!(
                "{:6.1} s  all jobs have ended, {} s later",
                began.elapsed().as_secs_f64(),
                took.elapsed().as_secs()
            );
            let stories = stories(&applied, &watch);
            let address = world.temporal.lock().await.address.clone();
            let mut left = audit(&test, &address).await;
            delete_all(&test).await;
            left.extend(audit(&test, &address).await);
            left.extend(remains(&test, &watch, &address));
            (asked, stories, left)
        });
        match future::select(all, std::pin::pin!(beside)).await {
            Either::Left((all, _)) => all,
            Either::Right(_) => unreachable!("they have no end"),
        }
    };
    let applied = stories.len();
    for (story, asked) in stories.into_iter().zip(asked) {
        let entries = ledger::read(&ledger, &story.plan.name);
        violations.extend(judge(&Story { asked, entries, ..story }));
    }
    println!("\nseed {seed}, {} s: {applied} of the plan's {} jobs were applied", duration.as_secs(), jobs.len());
    report(seed, duration, plan.disturbances.len(), &watch, &world.exits().await, &violations);
    let _ = std::fs::remove_dir_all(&ledger);
    assert!(violations.is_empty(), "{} promises were broken", violations.len());
}

/// On the node, for agents of any user.
fn folder(test: &Test) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let folder = test.cluster.dev.join(format!("data/tests/{}-ledger", test.namespace));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    folder
}

async fn progress(watch: &Watch, began: Instant) {
    loop {
        tokio::time::sleep(PROGRESS).await;
        println!("{:6.1} s  {:?}", began.elapsed().as_secs_f64(), watch.seen.lock().phases());
    }
}

/// Waits until each job has ended or is gone. One that doesn't is a broken promise, and found as such.
async fn ended(test: &Test, jobs: &[JobPlan], watch: &Watch) {
    let (mut since, mut last) = (Instant::now(), 0);
    while since.elapsed() < AFTERWARDS {
        let listed = test.jobs().list_metadata(&ListParams::default()).await.expect("jobs").items;
        let ended = how_many_ended(jobs, watch, &listed.iter().map(ResourceExt::name_any).collect());
        if ended == jobs.len() {
            return;
        }
        if ended > last {
            (since, last) = (Instant::now(), ended);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn how_many_ended(jobs: &[JobPlan], watch: &Watch, there: &HashSet<String>) -> usize {
    let mut seen = watch.seen.lock();
    let ended = |job: &&JobPlan| {
        let deleted = job.requests.iter().any(|(_, r)| *r == Request::Delete);
        // It may have come and gone while nothing could be watched.
        if deleted && !there.contains(&job.name) {
            seen.gone(&job.name);
        }
        let seen = seen.jobs.get(&job.name);
        seen.is_some_and(|seen| seen.gone.is_some() || (seen.ended.is_some() && !deleted))
    };
    jobs.iter().filter(ended).count()
}

/// What is known by now, but for what was asked and entered.
fn stories(jobs: &[JobPlan], watch: &Watch) -> Vec<Story> {
    let seen = watch.seen.lock();
    let story = |plan: &JobPlan| {
        let job = seen.jobs.get(&plan.name).cloned().unwrap_or_default();
        Story {
            plan: plan.clone(),
            asked: Vec::new(),
            phase: job.phase,
            result: job.result,
            ended: job.ended,
            gone: job.gone,
            paused: job.paused.into_values().collect(),
            runs: seen.runs.get(&plan.name).cloned().unwrap_or_default(),
            entries: Vec::new(),
        }
    };
    jobs.iter().map(story).collect()
}

/// Deletes what is left, and waits until it is gone, or found to be left.
async fn delete_all(test: &Test) {
    let (delete, all) = (DeleteParams::default(), ListParams::default());
    test.jobs().delete_collection(&delete, &all).await.expect("delete");
    let since = Instant::now();
    while since.elapsed() < AFTERWARDS {
        let jobs = test.jobs().list(&all).await.expect("jobs").items.len();
        let runs = test.runs().list(&all).await.expect("runs").items.len();
        let pods = test.pods().list(&all).await.expect("pods").items.len();
        if jobs + runs + pods == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What `kubectl koco audit` finds.
async fn audit(test: &Test, temporal: &str) -> Vec<Violation> {
    let ns = test.namespace.as_str();
    let what = ["audit", "-n", ns, "--operator-namespace", ns, "--temporal-address", temporal, "-o", "json"];
    let done = Command::new(PLUGIN).args(what).output().await.expect("an audit");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found: serde_json::Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|e| panic!("{e}: {} {}", text(&done.stdout), text(&done.stderr)));
    let findings = found["findings"].as_array().expect("findings").iter();
    let violation = |f: &serde_json::Value| Violation {
        promise: Promise::Leaked,
        of: format!("{}/{}", f["object"]["kind"], f["object"]["name"]),
        text: format!("by the audit: {f}"),
    };
    findings.map(violation).collect()
}

/// What remains once no job is left.
fn remains(test: &Test, watch: &Watch, temporal: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut say = |of: &str, text: &str| {
        found.push(Violation { promise: Promise::Leaked, of: of.into(), text: text.into() });
    };
    for kind in ["agentjobs", "agentruns", "pods"] {
        let names = harness::cluster::kubectl(&["get", kind, "-n", &test.namespace, "-o", "name"]).expect("a list");
        names.lines().for_each(|name| say(name, "it is still there"));
    }
    let open = ["workflow", "list", "--query", "ExecutionStatus='Running'", "-o", "json"];
    let open: serde_json::Value =
        serde_json::from_str(&temporal::cli(temporal, &open).expect("workflows")).expect("JSON");
    for workflow in open.as_array().into_iter().flatten() {
        say(workflow["execution"]["workflowId"].as_str().unwrap_or_default(), "its workflow is still open");
    }
    for run in watch.seen.lock().runs.values().flat_map(BTreeMap::values) {
        let uid = run.status.as_ref().and_then(|s| s.pod_uid.clone());
        for pid in uid.iter().flat_map(|uid| node::processes(uid, "test-agent")) {
            say(&run.spec.identity.pod_name, &format!("its agent still runs, process {pid}"));
        }
    }
    found
}

fn report(
    seed: u64,
    duration: Duration,
    disturbances: usize,
    watch: &Watch,
    exits: &[(String, usize)],
    violations: &[Violation],
) {
    let seen = watch.seen.lock();
    let runs: usize = seen.runs.values().map(BTreeMap::len).sum();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for seen in seen.jobs.values() {
        *ends.entry(seen.phase.map_or("deleted".into(), |phase| format!("{phase:?}"))).or_default() += 1;
    }
    let pauses: usize = seen.jobs.values().map(|job| job.paused.len()).sum();
    println!("{ends:?}: {runs} runs, {pauses} pauses seen, {disturbances} disturbances");
    println!("roles that ended by themselves: {exits:?}\n");
    let mut table = serde_json::Map::new();
    for promise in PROMISES {
        let of_this: Vec<_> = violations.iter().filter(|v| v.promise == promise).collect();
        println!("{:>4}  {}", of_this.len(), promise.explained());
        of_this.iter().for_each(|v| println!("      {}: {}", v.of, v.text));
        table.insert(format!("{promise:?}"), json!(of_this.len()));
    }
    let all = json!({
        "seed": seed, "seconds": duration.as_secs(), "jobs": seen.jobs.len(), "ends": ends, "runs": runs, "pauses": pauses,
        "disturbances": disturbances, "violations": table,
    });
    println!("\n{all}");
}

//! `make bench-fairness`: how long one job takes to its pod, and to its agent's first line, while another namespace has
//! thousands that wait, beside the same with none. In both modes, on the servers and the simulated node of `make
//! bench-jobs`; the other namespace's nodes have room for a few pods at a time, so that they take little of the processors
//! that all share here. Nothing is asserted.

#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;

use std::time::{Duration, Instant};

use clap::Parser;
use futures::{StreamExt, stream};
use koco::api::names;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use serde_json::json;

use harness::{ExecutionMode, MODES, Node, Roles, Server, Test, agent, job::With, job::manifest, within};

/// Measures what another tenant's jobs cost a job in time.
#[derive(Parser)]
struct Arguments {
    /// Jobs of the other namespace
    #[arg(long, env = "JOBS", default_value_t = 5000)]
    jobs: usize,
    /// Single jobs, one after the other, with and without those
    #[arg(long, env = "SINGLES", default_value_t = 11)]
    singles: usize,
    /// How many of the other namespace's agents its nodes have room for
    #[arg(long, env = "PLACES", default_value_t = 4)]
    places: usize,
    /// Cargo's
    #[arg(long, hide = true)]
    bench: bool,
}

/// The limit for what must come in time for the bench to go on at all.
const LIMIT: Duration = Duration::from_secs(1800);
/// How many are created at a time.
const CREATORS: usize = 8;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mine, theirs) = (Test::new().await, Test::new().await);
    let mut roles = Roles::separate(&mine, Server::Shared);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", theirs.namespace, mine.namespace));
    roles.start().await;
    let (node, _other) = (Node::automatic(&mine), Node::with_places(&theirs, arguments.places));
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    println!("one job's time in ms, {build} build; beside {} jobs of another namespace", arguments.jobs);
    println!(
        "| mode | | alone, p50 | most | beside them, p50 | most | factor | of theirs unfinished | without a pod |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for mode in MODES {
        // The first job of all causes additional reads, which are cached afterwards.
        single(&mine, &node, mode).await;
        let alone = singles(&mine, &node, mode, arguments.singles, "alone").await;
        create(&theirs, mode, arguments.jobs).await;
        let beside = singles(&mine, &node, mode, arguments.singles, "beside").await;
        let (open, podless) = unfinished(&theirs).await;
        for (what, time) in [("to its pod", to_pod as fn(&Single) -> f64), ("to the first line", to_first_line)] {
            let [(p50, most), (beside_p50, beside_most)] = [&alone, &beside].map(|all| middle_and_most(all, time));
            let (name, factor) = (mode.as_str(), beside_p50 / p50);
            print!("| {name} | {what} | {p50:.0} | {most:.0} | {beside_p50:.0} | {beside_most:.0} | {factor:.1} ");
            println!("| {open} | {podless} |");
        }
        clear(&theirs).await;
    }
}

/// Milliseconds from a job's creation.
struct Single {
    to_pod: f64,
    to_first_line: f64,
}

fn to_pod(single: &Single) -> f64 {
    single.to_pod
}

fn to_first_line(single: &Single) -> f64 {
    single.to_first_line
}

fn middle_and_most(all: &[Single], time: fn(&Single) -> f64) -> (f64, f64) {
    let mut times: Vec<f64> = all.iter().map(time).collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() - 1])
}

/// So many, one after the other.
async fn singles(test: &Test, node: &Node, mode: ExecutionMode, many: usize, name: &str) -> Vec<Single> {
    let mut all = Vec::new();
    for n in 0..many {
        let one = single(test, node, mode).await;
        let (pod, line) = (one.to_pod, one.to_first_line);
        eprintln!("{} {name} {n}: {pod:.0} ms to its pod, {line:.0} to its first line", mode.as_str());
        all.push(one);
    }
    all
}

async fn single(test: &Test, node: &Node, mode: ExecutionMode) -> Single {
    let name = format!("single-{}", node.diary.all().len());
    let object = serde_json::from_value(manifest(&name, spec(mode))).expect("an object");
    let applied = Instant::now();
    let millis = |at: Instant| at.saturating_duration_since(applied).as_secs_f64() * 1000.0;
    let made: DynamicObject = test.raw_jobs().create(&PostParams::default(), &object).await.expect("a job");
    let uid = made.metadata.uid.expect("a UID");
    let pods = ListParams::default().labels(&format!("{}={uid}", names::LABEL_JOB_UID));
    let pod = async {
        while test.pods().list_metadata(&pods).await.expect("pods").items.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    };
    let line = within(LIMIT, "the agent to start", async || node.diary.of(&uid).pop().ok_or("not yet"));
    let (pod, life) = tokio::join!(pod, line);
    within(LIMIT, "the agent to end", async || {
        node.diary.of(&uid).iter().all(|life| life.ended.is_some()).then_some(()).ok_or("not yet")
    })
    .await;
    Single { to_pod: millis(pod), to_first_line: millis(life.began) }
}

fn spec(mode: ExecutionMode) -> serde_json::Value {
    agent("exit0-after?ms=200").mode(mode).with(json!({ "timeouts": { "heartbeat": "60s" } }))
}

async fn create(test: &Test, mode: ExecutionMode, jobs: usize) {
    let (api, spec) = (test.raw_jobs(), spec(mode));
    let create = async |n: usize| {
        let object = serde_json::from_value(manifest(&format!("many-{n}"), spec.clone())).expect("an object");
        let _: DynamicObject = api.create(&PostParams::default(), &object).await.expect("a job");
    };
    stream::iter(0..jobs).map(create).buffer_unordered(CREATORS).collect::<Vec<()>>().await;
}

/// How many have not ended, and how many of those have no pod yet.
async fn unfinished(test: &Test) -> (usize, usize) {
    let all = test.raw_jobs().list(&ListParams::default()).await.expect("jobs").items;
    let is_open = |job: &&DynamicObject| !["Succeeded", "Failed"].iter().any(|p| job.data["status"]["phase"] == *p);
    let open: Vec<_> = all.iter().filter(is_open).collect();
    (open.len(), open.iter().filter(|job| job.data["status"]["runnerPod"].is_null()).count())
}

/// Deletes all, and waits until they are gone.
async fn clear(test: &Test) {
    let all = ListParams::default();
    test.raw_jobs().delete_collection(&DeleteParams::background(), &all).await.expect("a deletion");
    let one = ListParams::default().limit(1);
    within(LIMIT, "jobs and pods to be gone", async || {
        let jobs = test.raw_jobs().list_metadata(&one).await.map_err(|e| e.to_string())?.items.len();
        let pods = test.pods().list_metadata(&one).await.map_err(|e| e.to_string())?.items.len();
        if jobs + pods == 0 { Ok(()) } else { Err("some are left".to_string()) }
    })
    .await;
}

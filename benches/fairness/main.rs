//! `make bench-fairness`: how long one job takes to its pod, and to its agent's first line, while another namespace has
//! thousands that wait, beside the same with none. In both modes, on the servers and the simulated node of `make
//! bench-jobs`; the other namespace's nodes have room for a few pods at a time, so that they take little of the processors
//! that all share here. Nothing is asserted.

#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
#[path = "../jobs/objects.rs"]
#[allow(dead_code)]
mod objects;
#[path = "../jobs/table.rs"]
#[allow(dead_code)]
mod table;

use std::time::{Duration, Instant};

use clap::Parser;
use futures::{StreamExt, stream};
use koco::api::names;
use kube::api::{DynamicObject, ListParams, PostParams};
use serde_json::json;

use harness::{ExecutionMode, MODES, Node, Roles, Server, Test, agent, job::With, job::manifest, within};
use objects::{CREATORS, Kind, LIMIT};

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

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mine, theirs) = (Test::new().await, Test::new().await);
    let mut roles = Roles::separate(&mine, Server::Shared);
    roles.set("KOCO_WATCH_NAMESPACES", &format!("{},{}", theirs.namespace, mine.namespace));
    roles.start().await;
    let (node, _other) = (Node::automatic(&mine), Node::with_places(&theirs, arguments.places));
    let (build, jobs) = (table::build(), arguments.jobs);
    println!("one job's time in ms, {build}; beside {jobs} jobs of another namespace");
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
        Kind::AgentJob(mode).clear(&theirs.client, &theirs.namespace, None).await;
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

//! `make bench-fairness`: how long one job takes to its agent's first line while another namespace has thousands that
//! wait, beside the same with none. In both modes, on the servers and the simulated node of `make bench-jobs`. Nothing is
//! asserted.

#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;

use std::time::{Duration, Instant};

use clap::Parser;
use futures::{StreamExt, stream};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use serde_json::json;

use harness::{ExecutionMode, MODES, Node, Roles, Server, Test, agent, job::With, job::manifest, within, word};

/// Measures what another tenant's jobs cost a job in time.
#[derive(Parser)]
struct Arguments {
    /// Jobs of the other namespace
    #[arg(long, env = "JOBS", default_value_t = 5000)]
    jobs: usize,
    /// Single jobs, one after the other, with and without those
    #[arg(long, env = "SINGLES", default_value_t = 11)]
    singles: usize,
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
    let (node, _other) = (Node::automatic(&mine), Node::automatic(&theirs));
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    println!(
        "one job's time to its agent's first line, ms, {build} build; beside {} jobs of another namespace",
        arguments.jobs
    );
    println!("| mode | alone, p50 | most | beside them, p50 | most | factor | of theirs still unfinished |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for mode in MODES {
        // The first job of all causes additional reads, which are cached afterwards.
        single(&mine, &node, mode, 0).await;
        let alone = singles(&mine, &node, mode, arguments.singles, "alone").await;
        create(&theirs, mode, arguments.jobs).await;
        let beside = singles(&mine, &node, mode, arguments.singles, "beside").await;
        let left = unfinished(&theirs).await;
        let (p50, most) = (middle(&alone), alone.last().copied().unwrap_or_default());
        let (p50_beside, most_beside) = (middle(&beside), beside.last().copied().unwrap_or_default());
        let (name, factor) = (word(mode), p50_beside / p50);
        println!("| {name} | {p50:.0} | {most:.0} | {p50_beside:.0} | {most_beside:.0} | {factor:.1} | {left} |");
        clear(&theirs).await;
    }
}

/// The times of so many, one after the other, the shortest first.
async fn singles(test: &Test, node: &Node, mode: ExecutionMode, many: usize, name: &str) -> Vec<f64> {
    let mut all = Vec::new();
    for n in 0..many {
        all.push(single(test, node, mode, n).await);
        eprintln!("{} {name} {n}: {:.0} ms", word(mode), all[n]);
    }
    all.sort_by(f64::total_cmp);
    all
}

fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Milliseconds from its creation to its agent's first line.
async fn single(test: &Test, node: &Node, mode: ExecutionMode, n: usize) -> f64 {
    let name = format!("single-{}-{n}-{}", word(mode).to_lowercase(), node.diary.all().len());
    let object = serde_json::from_value(manifest(&name, spec(mode))).expect("an object");
    let applied = Instant::now();
    let made: DynamicObject = test.raw_jobs().create(&PostParams::default(), &object).await.expect("a job");
    let uid = made.metadata.uid.expect("a UID");
    let life = within(LIMIT, "the agent to start", async || node.diary.of(&uid).pop().ok_or("not yet")).await;
    let time = life.began.saturating_duration_since(applied).as_secs_f64() * 1000.0;
    within(LIMIT, "the agent to end", async || {
        node.diary.of(&uid).iter().all(|life| life.ended.is_some()).then_some(()).ok_or("not yet")
    })
    .await;
    time
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

async fn unfinished(test: &Test) -> usize {
    let all = test.raw_jobs().list(&ListParams::default()).await.expect("jobs").items;
    let ended = |job: &DynamicObject| ["Succeeded", "Failed"].iter().any(|p| job.data["status"]["phase"] == *p);
    all.iter().filter(|job| !ended(job)).count()
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

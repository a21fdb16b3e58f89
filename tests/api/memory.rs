//! `make bench-memory`: what a gateway and a controller need that start beside 500 open jobs with inputs of 100 KB
//! each, nested as a chat's history is. Prints the peak of each, and asserts nothing: the limits in the chart are 512
//! MiB.

use futures::{StreamExt, stream};
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Roles, Server, Test, agent, job::With, job::manifest, within};

const JOBS: usize = 500;
const INPUTS: usize = 100_000;

/// Turns of a user, of an assistant that calls tools, and of the tools, until it is long enough.
fn chat() -> Value {
    let (mut messages, mut length) = (Vec::new(), 0);
    while length < INPUTS {
        let turn = messages.len();
        let arguments = json!({ "query": format!("turn {turn}"), "filters": { "and": [{ "lang": ["en", "de"] }] } });
        let message = json!({
            "role": (["user", "assistant", "tool"])[turn % 3],
            "content": [
                { "type": "text", "text": "the quick brown fox jumps over the lazy dog", "annotations": [] },
                { "type": "tool_use", "id": format!("call-{turn}"), "name": "search", "input": arguments },
            ],
            "usage": { "input": { "tokens": turn, "cached": 0 }, "output": { "tokens": 7 } },
        });
        length += message.to_string().len() + 1;
        messages.push(message);
    }
    json!({ "messages": messages })
}

/// The most memory that a process has had, in KiB.
pub fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make bench-memory"]
async fn memory_beside_large_jobs() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller"]);
    roles.start().await;
    let idle: Vec<u64> = roles.list.iter().map(|role| peak(role.process.pid())).collect();
    let spec = agent("anything").with(json!({ "inputs": chat() }));
    let (jobs, spec) = (test.raw_jobs(), &spec);
    stream::iter(0..JOBS)
        .for_each_concurrent(8, |i| {
            let jobs = jobs.clone();
            async move {
                let job: DynamicObject =
                    serde_json::from_value(manifest(&format!("job-{i}"), spec.clone())).expect("a job");
                jobs.create(&PostParams::default(), &job).await.expect("a job");
            }
        })
        .await;
    within(DEADLINE * 4, "a pod for each", async || {
        let pods = test.pods().list_metadata(&Default::default()).await.expect("pods").items.len();
        if pods >= JOBS { Ok(()) } else { Err(pods) }
    })
    .await;
    let busy: Vec<u64> = roles.list.iter().map(|role| peak(role.process.pid())).collect();
    roles.restart().await;
    within(DEADLINE, "each job to be looked at", async || {
        let seen = roles.role("controller").count("koco_reconciles_total").await;
        if seen >= JOBS { Ok(()) } else { Err(seen) }
    })
    .await;
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    println!("{JOBS} open jobs with {} KB of inputs each, {build} build; peak of resident memory:", INPUTS / 1000);
    for (role, (idle, busy)) in roles.list.iter().zip(idle.into_iter().zip(busy)) {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let now = mib(peak(role.process.pid()));
        let (idle, busy) = (mib(idle), mib(busy));
        println!("{:<12} {now:6.1} MiB started beside them, {busy:6.1} while they came, {idle:6.1} before", role.name);
    }
}

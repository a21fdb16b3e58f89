//! `make bench-idle`: what agents cost that run and do nothing else, and what it costs when a role restarts beside them.
//!
//! The servers, the roles and the simulated node are those of `make bench-jobs`. Half of the jobs are Direct, half have a
//! workflow. When all run, three stretches are measured one after the other: at rest; the gateway killed and started
//! again, until every runner has its stream again; the controller restarted, until it has looked at each job. Nothing is asserted: what there is to reach is printed.

#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
mod report;
#[path = "../jobs/requests.rs"]
#[allow(dead_code)]
mod requests;
#[path = "../jobs/table.rs"]
mod table;
mod temporal_metrics;
#[path = "../jobs/usage.rs"]
mod usage;

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use futures::{StreamExt, stream};
use kube::{
    api::{DynamicObject, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};

use harness::{ExecutionMode, Node, Roles, Server, Test, agent, chart::Chart, job::With, job::manifest, within};
use report::Stretch;
use requests::AuditLog;
use usage::Processes;

/// Measures agents at rest.
#[derive(Parser)]
struct Arguments {
    /// Agents, half of each mode
    #[arg(long, env = "JOBS", default_value_t = 10_000)]
    jobs: usize,
    /// Inputs of each job, in KiB
    #[arg(long, env = "INPUTS", default_value_t = 0)]
    inputs: usize,
    /// `timeouts.heartbeat` of each job
    #[arg(long, env = "HEARTBEAT", default_value = "120s")]
    heartbeat: String,
    /// Seconds until everything has come to rest
    #[arg(long, env = "SETTLE", default_value_t = 60)]
    settle: u64,
    /// Seconds that are counted
    #[arg(long, env = "WINDOW", default_value_t = 120)]
    window: u64,
    /// The folder for tables and JSON
    #[arg(long, env = "OUT", default_value = "target/bench-idle")]
    out: PathBuf,
    /// Cargo's
    #[arg(long, hide = true)]
    bench: bool,
}

/// The limit for what must come in time for the bench to go on at all.
const LIMIT: Duration = Duration::from_secs(3600);
/// How many are created at a time.
const CREATORS: usize = 8;

struct Bench<'b> {
    roles: Roles,
    node: Node,
    audit: AuditLog,
    release: String,
    arguments: &'b Arguments,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let test = Test::new().await;
    let chart = Chart::install(&test);
    let roles = chart.roles_as_installed(Server::Shared).await;
    let mut bench = Bench {
        roles,
        node: Node::automatic(&test),
        audit: AuditLog::new(test.cluster.dev.join("log/audit.log")),
        release: chart.account("").trim_end_matches('-').to_string(),
        arguments: &arguments,
    };
    let began = Instant::now();
    start(&test, &arguments).await;
    eprintln!("{} agents run after {:.0} s", arguments.jobs, began.elapsed().as_secs_f64());
    bench.all_connected().await;
    bench.settle().await;
    let window = Duration::from_secs(arguments.window);
    let mut stretches = Vec::new();
    stretches.push(bench.measure("at rest", async |_| tokio::time::sleep(window).await).await);
    stretches.push(bench.measure("gateway restarted", async |bench| bench.restart_gateway().await).await);
    bench.settle().await;
    // As a Deployment does it: it gives its lease back.
    bench.roles.role("controller").process.stop(LIMIT);
    bench.roles.role("controller").process.start();
    stretches.push(bench.measure("controller restarted", async |bench| bench.controller_catches_up().await).await);
    write(&arguments, &stretches);
}

/// Creates the jobs, and returns when all run.
async fn start(test: &Test, arguments: &Arguments) {
    let jobs = test.raw_jobs();
    let inputs = json!({ "text": "x".repeat(arguments.inputs * 1024) });
    let spec = agent("sleep").heartbeat(&arguments.heartbeat).with(json!({ "inputs": inputs }));
    let create = async |n: usize| {
        let mode = if n.is_multiple_of(2) { ExecutionMode::Direct } else { ExecutionMode::Temporal };
        let job = manifest(&format!("job-{n}"), spec.clone().mode(mode));
        let job: DynamicObject = serde_json::from_value(job).expect("a job");
        jobs.create(&PostParams::default(), &job).await.expect("a job");
    };
    let all =
        async { stream::iter(0..arguments.jobs).map(create).buffer_unordered(CREATORS).collect::<Vec<()>>().await };
    let running = async {
        let mut phases = HashMap::<String, bool>::new();
        let mut events = watcher(test.raw_jobs(), watcher::Config::default()).default_backoff().boxed();
        let (mut running, mut said) = (0, Instant::now());
        while running < arguments.jobs {
            let Some(event) = events.next().await else { return };
            let Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) = event else { continue };
            let runs = job.data["status"]["phase"] == "Running";
            let ran = phases.insert(job.metadata.name.unwrap_or_default(), runs).unwrap_or_default();
            running = running + usize::from(runs) - usize::from(ran);
            if said.elapsed() > Duration::from_secs(15) {
                eprintln!("{running} of {} run", arguments.jobs);
                said = Instant::now();
            }
        }
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(all, running) }).await.expect("all run in time");
}

impl Bench<'_> {
    /// Waits until each runner has its stream.
    async fn all_connected(&self) {
        within(LIMIT, "all runners to be connected", async || {
            let connected = self.node.diary.connected();
            if connected >= self.arguments.jobs { Ok(()) } else { Err(connected) }
        })
        .await;
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(self.arguments.settle)).await;
    }

    fn processes(&self) -> Processes {
        let mut all = Processes::named(&std::env::var("KOCO_SERVERS").expect("KOCO_SERVERS is set by tests/api/run"));
        all.0.extend(self.roles.list.iter().map(|role| (role.name.to_string(), role.process.pid())));
        all.0.push(("bench".into(), std::process::id() as i32));
        all
    }

    /// What everything uses while this is done. A process that it starts counts from its start.
    async fn measure(&mut self, name: &str, act: impl AsyncFnOnce(&mut Self)) -> Stretch {
        self.audit.news();
        let processes = self.processes();
        processes.forget_peaks();
        let (cpu, temporal, began) = (processes.cpu(), temporal_metrics::requests().await, Instant::now());
        let pids: HashMap<String, i32> = processes.0.into_iter().collect();
        act(self).await;
        let after = self.processes();
        let used = after.cpu().into_iter().map(|(name, used)| {
            let same = after.0.iter().any(|(n, pid)| *n == name && pids.get(n) == Some(pid));
            let before = if same { cpu[&name] } else { 0.0 };
            (name, used - before)
        });
        let stretch = Stretch {
            name: name.to_string(),
            seconds: began.elapsed().as_secs_f64(),
            cpu: used.collect(),
            peak: after.peaks(),
            requests: requests::count(self.audit.news().lines(), &self.release),
            temporal: temporal_metrics::difference(&temporal, &temporal_metrics::requests().await),
        };
        eprintln!("{name}: {:.1} s", stretch.seconds);
        stretch
    }

    async fn restart_gateway(&mut self) {
        self.roles.role("gateway").kill();
        within(LIMIT, "all streams to end", async || {
            let connected = self.node.diary.connected();
            if connected == 0 { Ok(()) } else { Err(connected) }
        })
        .await;
        self.roles.role("gateway").start().await;
        self.all_connected().await;
    }

    async fn controller_catches_up(&mut self) {
        self.roles.role("controller").ready().await;
        let jobs = self.arguments.jobs;
        let controller = self.roles.role("controller");
        within(LIMIT, "each job to be looked at", async || {
            let seen = controller.count("koco_reconciles_total").await;
            if seen >= jobs { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

fn write(arguments: &Arguments, stretches: &[Stretch]) {
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    let (jobs, inputs, heartbeat) = (arguments.jobs, arguments.inputs, &arguments.heartbeat);
    let title = format!("{jobs} agents with inputs of {inputs} KiB, heartbeat time-out {heartbeat}, {build} build");
    let tables = report::tables(stretches);
    println!("\n{title}\n\n{tables}");
    std::fs::create_dir_all(&arguments.out).expect("the folder");
    let json: Value = json!({ "title": title, "stretches": stretches });
    std::fs::write(arguments.out.join("idle.md"), format!("{title}\n\n{tables}")).expect("a file");
    std::fs::write(arguments.out.join("idle.json"), serde_json::to_string_pretty(&json).expect("JSON"))
        .expect("a file");
    println!("in {}: idle.md, idle.json", arguments.out.display());
}

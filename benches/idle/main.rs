//! `make bench-idle`: what agents cost that run and do nothing else, and what it costs when a role restarts beside them.
//!
//! The servers, the roles and the simulated node are those of `make bench-jobs`. Half of the jobs are Direct, half have a
//! workflow. When all run, three stretches are measured one after the other: at rest; the gateway killed and started
//! again, until every runner has its stream again; the controller restarted, until it has looked at each job. Nothing is
//! asserted: what there is to reach is printed, and what a gateway and a controller use for a runner.

#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
#[path = "../jobs/objects.rs"]
#[allow(dead_code)]
mod objects;
mod report;
#[path = "../jobs/requests.rs"]
#[allow(dead_code)]
mod requests;
#[path = "../jobs/resting.rs"]
mod resting;
mod samples;
#[path = "../jobs/svg.rs"]
#[allow(dead_code)] // bars are for benches/jobs
mod svg;
#[path = "../jobs/table.rs"]
#[allow(dead_code)]
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
use serde_json::{Value, json};

use harness::{Node, Roles, Server, Test, agent, chart::Chart, job::With, within};
use objects::LIMIT;
use report::{Stretch, Use};
use requests::AuditLog;
use samples::Samples;
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
    /// Values of the chart, as helm's --set takes them
    #[arg(long, env = "HELM_SET", default_value = "")]
    helm_set: String,
    /// The folder for tables, JSON and picture
    #[arg(long, env = "OUT", default_value = "target/bench-idle")]
    out: PathBuf,
    /// Cargo's
    #[arg(long, hide = true)]
    bench: bool,
}

struct Bench<'b> {
    roles: Roles,
    node: Node,
    audit: AuditLog,
    release: String,
    samples: Samples,
    arguments: &'b Arguments,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let test = Test::new().await;
    let chart = Chart::install_with(&test, &arguments.helm_set);
    let roles = chart.roles_as_installed(Server::Shared).await;
    let log = test.cluster.dev.join("log/audit.log");
    let release = chart.account("").trim_end_matches('-').to_string();
    let mut bench = Bench {
        roles,
        node: Node::automatic(&test),
        audit: AuditLog::new(log.clone()),
        samples: Samples::new(AuditLog::new(log), &release),
        release,
        arguments: &arguments,
    };
    let (began, empty) = (Instant::now(), bench.processes().memory());
    let spec = agent("sleep").heartbeat(&arguments.heartbeat);
    let spec = spec.with(json!({ "inputs": { "text": "x".repeat(arguments.inputs * 1024) } }));
    resting::start(&test, &bench.node, &spec, 0..arguments.jobs).await;
    eprintln!("{} agents run after {:.0} s", arguments.jobs, began.elapsed().as_secs_f64());
    bench.settle().await;
    bench.samples.begin(bench.processes());
    let window = Duration::from_secs(arguments.window);
    let mut stretches = Vec::new();
    stretches.push(bench.measure("at rest", async |_| tokio::time::sleep(window).await).await);
    stretches.push(bench.measure("gateway restarted", async |bench| bench.restart_gateway().await).await);
    bench.settle().await;
    resting::restart_controller(&mut bench.roles);
    stretches.push(bench.measure("controller restarted", async |bench| bench.controller_catches_up().await).await);
    bench.settle().await;
    let each = report::uses(&stretches, &empty, arguments.jobs);
    write(&arguments, &stretches, &each, &bench.samples.end());
}

impl Bench<'_> {
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(self.arguments.settle)).await;
    }

    fn processes(&self) -> Processes {
        let mut all = Processes::servers();
        all.0.extend(self.roles.list.iter().map(|role| (role.name.to_string(), role.process.pid())));
        all.0.push(("bench".into(), std::process::id() as i32));
        all
    }

    /// What everything uses while this is done. A process that it starts counts from its start.
    async fn measure(&mut self, name: &str, act: impl AsyncFnOnce(&mut Self)) -> Stretch {
        self.audit.news();
        let processes = self.processes();
        self.samples.watch(name, self.processes());
        processes.forget_peaks();
        let (cpu, temporal, began) = (processes.cpu(), temporal_metrics::requests().await, Instant::now());
        let pids: HashMap<String, i32> = processes.0.into_iter().collect();
        act(self).await;
        let after = self.processes();
        self.samples.watch("", self.processes());
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
        self.samples.watch("", self.processes());
        resting::all_connected(&self.node, self.arguments.jobs).await;
    }

    async fn controller_catches_up(&mut self) {
        resting::controller_catches_up(&mut self.roles, self.arguments.jobs).await;
    }
}

fn write(arguments: &Arguments, stretches: &[Stretch], each: &[Use], series: &samples::Series) {
    let (jobs, inputs, heartbeat, build) = (arguments.jobs, arguments.inputs, &arguments.heartbeat, table::build());
    let title = format!("{jobs} agents with inputs of {inputs} KiB, heartbeat time-out {heartbeat}, {build}");
    let tables = report::tables(stretches, each);
    println!("\n{title}\n\n{tables}");
    std::fs::create_dir_all(&arguments.out).expect("the folder");
    let json: Value = json!({ "title": title, "stretches": stretches, "each": each });
    let files = [
        ("idle.md", format!("{title}\n\n{tables}")),
        ("idle.json", serde_json::to_string_pretty(&json).expect("JSON")),
        ("idle.svg", series.picture(&title)),
    ];
    for (file, text) in files {
        std::fs::write(arguments.out.join(file), text).expect("a file");
    }
    println!("in {}: idle.md, idle.json, idle.svg", arguments.out.display());
}

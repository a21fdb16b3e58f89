//! `make bench-jobs`: what a job of one second costs, and how fast many of them are: as a Kubernetes Job, in Direct and
//! in Temporal mode, and as a bare workflow in Temporal. All in one run, on the same servers and the same simulated
//! node, one after the other in several rounds, in another order each.
//!
//! The servers are those of the API tests (`tests/api/run --bench jobs` starts them), with the Job controller; so is the
//! node, which writes the statuses of pods as a kubelet would and speaks to the gateway as the runner does. koco's roles
//! are processes with the accounts and the settings that Helm gives them.
//!
//! Before each stretch it is measured what everything uses without jobs, and subtracted. What a stretch used is counted
//! until some seconds after its last job. Nothing is asserted: what there is to reach is printed.

mod argo;
mod bare;
mod figures;
#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
mod objects;
mod plain;
mod report;
mod requests;
mod svg;
mod table;
mod usage;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::json;

use figures::{Measured, difference, less_idle};
use harness::{ExecutionMode, Node, Roles, Server, Test, chart::Chart, process::Process};
use objects::{Kind, Times};
use requests::AuditLog;
use usage::Processes;

/// Measures what jobs cost.
#[derive(Parser)]
struct Arguments {
    /// Jobs of each shape and round
    #[arg(long, env = "JOBS", default_value_t = 200)]
    jobs: usize,
    #[arg(long, env = "ROUNDS", default_value_t = 2)]
    rounds: usize,
    /// Only these shapes, by their names
    #[arg(long, env = "SHAPES", value_delimiter = ',')]
    shapes: Vec<String>,
    /// Seconds without jobs before each stretch
    #[arg(long, env = "IDLE", default_value_t = 10)]
    idle: u64,
    /// Seconds after its last job that still count
    #[arg(long, env = "TAIL", default_value_t = 10)]
    tail: u64,
    /// The folder for tables, JSON and picture
    #[arg(long, env = "OUT", default_value = "target/bench-jobs")]
    out: PathBuf,
    /// Is the worker of the bare workflows, on this task queue
    #[arg(long, hide = true)]
    bare_worker: Option<String>,
    /// Cargo's
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy)]
enum Shape {
    Object(Kind),
    Bare(&'static str),
}

/// Only where it is there.
const ARGO: &str = "Argo";

const SHAPES: [(&str, Shape); 6] = [
    ("Job", Shape::Object(Kind::Job)),
    ("Direct", Shape::Object(Kind::AgentJob(ExecutionMode::Direct))),
    ("Temporal", Shape::Object(Kind::AgentJob(ExecutionMode::Temporal))),
    ("bare twin", Shape::Bare("Twin")),
    ("one activity", Shape::Bare("OneActivity")),
    (ARGO, Shape::Object(Kind::Workflow)),
];

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    match &arguments.bare_worker {
        // Its future can't move between threads.
        Some(task_queue) => bare::worker(task_queue, arguments.jobs).await,
        None => measure(&arguments).await,
    }
}

/// What there is as long as the bench runs.
struct Bench<'b> {
    test: &'b Test,
    /// Kubernetes' own jobs have a namespace without an operator.
    others: &'b Test,
    nodes: [Node; 2],
    bare: bare::Bare,
    processes: Processes,
    audit: AuditLog,
    release: String,
    arguments: &'b Arguments,
}

async fn measure(arguments: &Arguments) {
    let wanted = |name: &str| arguments.shapes.is_empty() || arguments.shapes.iter().any(|s| s == name);
    let chosen: Vec<_> =
        SHAPES.into_iter().filter(|(name, _)| wanted(name) && (*name != ARGO || argo::is_there())).collect();
    let (test, others) = (Test::new().await, Test::new().await);
    let chart = Chart::install(&test);
    let roles = chart.roles_as_installed(Server::Shared).await;
    let task_queue = format!("{}-bare", test.namespace);
    let mut worker = bare_worker(&test, &task_queue, arguments.jobs);
    worker.start();
    let mut processes = processes(&roles, &worker);
    let mut argo = argo::is_there().then(|| argo::install(&others));
    if let Some(argo) = &mut argo {
        argo.start();
        processes.0.push(("argo".into(), argo.pid()));
    }
    let mut bench = Bench {
        nodes: [Node::automatic(&test), Node::with(&others, plain::player())],
        bare: bare::Bare::new(&task_queue).await,
        processes,
        audit: AuditLog::new(test.cluster.dev.join("log/audit.log")),
        release: chart.account("").trim_end_matches('-').to_string(),
        test: &test,
        others: &others,
        arguments,
    };
    eprintln!("load {}, {} jobs a stretch, {} rounds", load(), arguments.jobs, arguments.rounds);
    for (name, shape) in &chosen {
        // The first job of all causes additional reads, which are cached afterwards.
        bench.run(*shape, &format!("first-{}", name.to_lowercase().replace(' ', "-")), 10).await;
        bench.clear(*shape).await;
    }
    let mut rounds: Vec<(&str, Vec<Measured>)> = chosen.iter().map(|(name, _)| (*name, Vec::new())).collect();
    let began = load();
    for round in 0..arguments.rounds {
        for n in 0..chosen.len() {
            let n = (n + round * 2) % chosen.len();
            let (name, shape) = chosen[n];
            let measured = bench.stretch(shape, round).await;
            eprintln!("round {}: {name:<14} {:6.1}/s, load {}", round + 1, measured.rate(), load());
            rounds[n].1.push(measured);
        }
    }
    write(arguments, &rounds, &format!("{began} before and {} after", load()));
    drop((roles, argo));
}

fn write(arguments: &Arguments, rounds: &report::Rounds<'_>, load: &str) {
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    let title = format!("{} jobs of a second at once, {} rounds, {build} build", arguments.jobs, arguments.rounds);
    let tables = report::tables(rounds);
    println!("\n{title}; load of the machine {load}\n\n{tables}");
    std::fs::create_dir_all(&arguments.out).expect("the folder");
    let about = json!({ "title": title, "load": load, "processors": std::thread::available_parallelism().map_or(0, usize::from) });
    let json = serde_json::to_string_pretty(&report::json(rounds, about)).expect("JSON");
    for (file, text) in
        [("jobs.md", tables), ("jobs.json", json), ("jobs.svg", svg::draw(&title, &report::panels(rounds)))]
    {
        std::fs::write(arguments.out.join(file), text).expect("a file");
    }
    println!("in {}: jobs.md, jobs.json, jobs.svg", arguments.out.display());
}

impl Bench<'_> {
    async fn run(&self, shape: Shape, prefix: &str, jobs: usize) -> Times {
        match shape {
            Shape::Object(kind) => {
                let (test, node) = self.place(kind);
                kind.run(&test.client, &test.namespace, prefix, jobs, &node.diary).await
            }
            Shape::Bare(kind) => self.bare.run(kind, &format!("{}-{prefix}", self.test.namespace), jobs).await,
        }
    }

    fn place(&self, kind: Kind) -> (&Test, &Node) {
        if matches!(kind, Kind::AgentJob(_)) { (self.test, &self.nodes[0]) } else { (self.others, &self.nodes[1]) }
    }

    async fn clear(&self, shape: Shape) {
        if let Shape::Object(kind) = shape {
            let (test, _) = self.place(kind);
            kind.clear(&test.client, &test.namespace).await;
        }
    }

    /// One shape's jobs, and what everything used for them.
    async fn stretch(&mut self, shape: Shape, round: usize) -> Measured {
        let (idle_since, before) = (Instant::now(), self.processes.cpu());
        tokio::time::sleep(Duration::from_secs(self.arguments.idle)).await;
        let (since, start) = (Instant::now(), self.processes.cpu());
        let (idle_millis, idle) = ((since - idle_since).as_secs_f64() * 1000.0, difference(&before, &start));
        self.processes.forget_peaks();
        self.audit.news();
        let times = self.run(shape, &format!("r{round}"), self.arguments.jobs).await;
        tokio::time::sleep(Duration::from_secs(self.arguments.tail)).await;
        let (used, millis) = (difference(&start, &self.processes.cpu()), since.elapsed().as_secs_f64() * 1000.0);
        let measured = Measured {
            jobs: self.arguments.jobs,
            seconds: (times.last_end - times.first_create).as_secs_f64(),
            cpu: less_idle(&used, millis, &idle, idle_millis),
            idle: idle.into_iter().map(|(name, cpu)| (name, cpu / idle_millis * 1000.0)).collect(),
            peak: self.processes.peaks(),
            requests: requests::count(self.audit.news().lines(), &self.release),
            to_first_line: times.to_first_line,
            to_done: times.to_done,
        };
        self.clear(shape).await;
        // What follows from a deletion is nobody's idling.
        tokio::time::sleep(Duration::from_secs(self.arguments.tail)).await;
        measured
    }
}

/// The bench itself, as the worker of the bare workflows.
fn bare_worker(test: &Test, task_queue: &str, jobs: usize) -> Process {
    let program = std::env::current_exe().expect("the bench");
    let jobs = jobs.to_string();
    let log = test.cluster.dev.join("log/tests/bare-worker.log");
    Process::new("bare worker", program, &["--bare-worker", task_queue, "--jobs", &jobs], &[], &log)
}

/// The servers, whose ids the script tells, the roles, the bare worker, and the bench itself: the rest of the load.
fn processes(roles: &Roles, worker: &Process) -> Processes {
    let mut all = Processes::named(&std::env::var("KOCO_SERVERS").expect("KOCO_SERVERS is set by tests/api/run"));
    all.0.extend(roles.list.iter().map(|role| (role.name.to_string(), role.process.pid())));
    all.0.push(("twin".into(), worker.pid()));
    all.0.push(("bench".into(), std::process::id() as i32));
    all
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(1).collect()
}

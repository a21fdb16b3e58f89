//! `make bench-jobs`: what a job of one second costs, and how fast many of them are: as a Kubernetes Job, in Direct and
//! in Temporal mode, and as a bare workflow in Temporal. All in one run, on the same servers and the same simulated
//! node, one after the other in several rounds, in another order each.
//!
//! The servers are those of the API tests (`tests/api/run --bench jobs` starts them), with the Job controller; so is the
//! node, which writes the statuses of pods as a kubelet would and speaks to the gateway as the runner does. koco's roles
//! are processes with the accounts and the settings that Helm gives them.
//!
//! Before each stretch it is measured what everything uses without jobs, and subtracted. What a stretch used is counted
//! until some seconds after its last job. All may be measured twice in one run: see [`steps`]. What there is to reach is
//! printed, and not asserted; but each job must have run once, and have ended once, and well.

mod argo;
mod backlog;
mod bare;
mod compare;
mod figures;
#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
mod meter;
mod objects;
mod plain;
mod report;
mod requests;
mod resting;
mod steps;
#[allow(dead_code)] // lines are for benches/idle
mod svg;
mod table;
#[allow(dead_code)] // so is the memory of a moment
mod usage;

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use kube::api::ListParams;
use serde_json::json;

use backlog::{Backlog, Size};
use figures::Measured;
use harness::{
    ExecutionMode, Node, Roles, Server, Service, Test, chart::Chart, cluster::AGENT_IMAGE, process::Process,
};
use meter::Meter;
use objects::{BATCH, Kind, Lives, Place};
use requests::AuditLog;
use steps::{Done, Restart, Step};
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
    /// Measures beside AgentJobs that are there: so many that have ended, and so many that run, first a thirtieth of them
    #[arg(long, env = "BACKLOG")]
    backlog: Option<Size>,
    /// Measures with one gateway and one worker, then with so many of each
    #[arg(long, env = "REPLICAS", conflicts_with = "backlog")]
    replicas: Option<usize>,
    /// Seconds until everything has come to rest beside a backlog
    #[arg(long, env = "SETTLE", default_value_t = 60)]
    settle: u64,
    /// Values of the chart, as helm's --set takes them
    #[arg(long, env = "HELM_SET", default_value = "")]
    helm_set: String,
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
    /// Where koco's jobs run; and Kubernetes' own, which have a namespace without an operator.
    places: [Place; 2],
    nodes: [Node; 2],
    bare: bare::Bare,
    roles: Roles,
    /// Between runners and gateways, if there are several.
    service: Option<Service>,
    backlog: Backlog,
    /// All but the roles.
    others: Processes,
    audit: AuditLog,
    release: String,
    arguments: &'b Arguments,
}

/// Milliseconds of each job.
struct Times {
    to_first_line: Vec<f64>,
    to_done: Vec<f64>,
    seconds: f64,
}

async fn measure(arguments: &Arguments) {
    let wanted = |name: &str| arguments.shapes.is_empty() || arguments.shapes.iter().any(|s| s == name);
    let chosen: Vec<_> =
        SHAPES.into_iter().filter(|(name, _)| wanted(name) && (*name != ARGO || argo::is_there())).collect();
    let (test, others) = (Test::new().await, Test::new().await);
    let chart = Chart::install_with(&test, &arguments.helm_set);
    let mut roles = chart.roles_as_installed(Server::Shared).await;
    let service = steps::service(arguments, &mut roles).await;
    let task_queue = format!("{}-bare", test.namespace);
    let mut worker = bare_worker(&test, &task_queue, arguments.jobs);
    worker.start();
    let mut processes = servers(&worker);
    let mut argo = argo::is_there().then(|| argo::install(&others));
    if let Some(argo) = &mut argo {
        argo.start();
        processes.0.push(("argo".into(), argo.pid()));
    }
    let mut bench = Bench {
        places: [place(&test), place(&others)],
        nodes: [Node::automatic(&test), Node::with(&others, plain::player())],
        bare: bare::Bare::new(&task_queue).await,
        roles,
        service,
        backlog: Backlog::default(),
        others: processes,
        audit: AuditLog::new(test.cluster.dev.join("log/audit.log")),
        release: chart.account("").trim_end_matches('-').to_string(),
        test: &test,
        arguments,
    };
    eprintln!("load {}, {} jobs a stretch, {} rounds", load(), arguments.jobs, arguments.rounds);
    let (began, mut done) = (load(), Vec::new());
    for (n, step) in Step::all(arguments).into_iter().enumerate() {
        bench.take(&chart, step).await;
        for (name, shape) in &chosen {
            // The first job of all causes additional reads, which are cached afterwards.
            let batch = format!("first{n}-{}", name.to_lowercase().replace(' ', "-"));
            bench.run(*shape, &batch, 10).await;
            bench.clear(*shape, &batch).await;
        }
        done.push(Done { step, rounds: bench.rounds(&chosen, n).await });
    }
    let restart = match arguments.backlog {
        Some(size) => Some(bench.restart(size).await),
        None => None,
    };
    write(arguments, &done, restart.as_ref(), &format!("{began} before and {} after", load()));
    drop((bench, argo));
}

fn place(test: &Test) -> Place {
    Place {
        client: test.client.clone(),
        namespace: test.namespace.clone(),
        image: AGENT_IMAGE,
        entry_point: "exit0-after?ms=1000",
        job_pods: json!({}),
    }
}

fn write(arguments: &Arguments, steps: &[Done<'_>], restart: Option<&Restart>, load: &str) {
    let title = format!("{} jobs of a second at once, {} rounds, {}", arguments.jobs, arguments.rounds, table::build());
    let about = json!({
        "title": title, "load": load, "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "helmSet": arguments.helm_set,
    });
    let (tables, json, picture) = steps::report(&title, &about, steps, restart);
    println!("\n{title}; load of the machine {load}\n\n{tables}");
    std::fs::create_dir_all(&arguments.out).expect("the folder");
    let json = serde_json::to_string_pretty(&json).expect("JSON");
    for (file, text) in [("jobs.md", tables), ("jobs.json", json), ("jobs.svg", picture)] {
        std::fs::write(arguments.out.join(file), text).expect("a file");
    }
    println!("in {}: jobs.md, jobs.json, jobs.svg", arguments.out.display());
}

impl Bench<'_> {
    /// All rounds of all shapes, in another order each.
    async fn rounds<'s>(&mut self, chosen: &[(&'s str, Shape)], step: usize) -> Vec<(&'s str, Vec<Measured>)> {
        let mut rounds: Vec<(&str, Vec<Measured>)> = chosen.iter().map(|(name, _)| (*name, Vec::new())).collect();
        for round in 0..self.arguments.rounds {
            for n in 0..chosen.len() {
                let n = (n + round * 2) % chosen.len();
                let (name, shape) = chosen[n];
                let measured = self.stretch(shape, &format!("s{step}-r{round}")).await;
                eprintln!("round {}: {name:<14} {:6.1}/s, load {}", round + 1, measured.rate(), load());
                rounds[n].1.push(measured);
            }
        }
        rounds
    }

    async fn run(&self, shape: Shape, batch: &str, jobs: usize) -> Times {
        match shape {
            Shape::Object(kind) => {
                let (place, node) = self.place(matches!(kind, Kind::AgentJob(_)));
                times(&kind.run(place, batch, jobs).await, node)
            }
            Shape::Bare(kind) => self.bare.run(kind, &format!("{}-{batch}", self.test.namespace), jobs).await,
        }
    }

    fn place(&self, ours: bool) -> (&Place, &Node) {
        let n = usize::from(!ours);
        (&self.places[n], &self.nodes[n])
    }

    async fn clear(&self, shape: Shape, batch: &str) {
        if let Shape::Object(kind) = shape {
            let (place, _) = self.place(matches!(kind, Kind::AgentJob(_)));
            kind.clear(&place.client, &place.namespace, Some(batch)).await;
        }
    }

    /// One shape's jobs, and what everything used for them.
    async fn stretch(&mut self, shape: Shape, batch: &str) -> Measured {
        let (processes, counted) = (self.processes(), self.ends_counted().await);
        let meter = Meter::start(&processes, Duration::from_secs(self.arguments.idle)).await;
        processes.forget_peaks();
        self.audit.news();
        let times = self.run(shape, batch, self.arguments.jobs).await;
        tokio::time::sleep(Duration::from_secs(self.arguments.tail)).await;
        let measured = Measured {
            jobs: self.arguments.jobs,
            seconds: times.seconds,
            cpu: meter.used(),
            idle: meter.idle(),
            peak: processes.peaks(),
            requests: requests::count(self.audit.news().lines(), &self.release),
            to_first_line: times.to_first_line,
            to_done: times.to_done,
        };
        if matches!(shape, Shape::Object(Kind::AgentJob(_))) {
            assert_eq!(self.ends_counted().await - counted, self.arguments.jobs, "each job's end is counted once");
            self.each_ran_once(batch).await;
        }
        self.clear(shape, batch).await;
        // What follows from a deletion is nobody's idling.
        tokio::time::sleep(Duration::from_secs(self.arguments.tail)).await;
        measured
    }

    /// How many ends of jobs koco has counted.
    async fn ends_counted(&self) -> usize {
        let controller = self.roles.list.iter().find(|role| role.name == "controller").expect("a controller");
        controller.count("koco_jobs_ended_total").await
    }

    /// All jobs are there, each with one attempt in one run. That no agent ran twice, the node's diary has shown.
    async fn each_ran_once(&self, batch: &str) {
        let ours = ListParams::default().labels(&format!("{BATCH}={batch}"));
        let jobs = self.test.jobs().list(&ours).await.expect("jobs").items;
        assert_eq!(jobs.len(), self.arguments.jobs, "no job is lost");
        for job in jobs {
            let status = job.status.clone().unwrap_or_default();
            let once = (status.attempt, status.active_run) == (Some(1), Some(1));
            assert!(once, "{:?} didn't run once: {status:?}", job.metadata.name);
        }
    }

    fn processes(&self) -> Processes {
        let roles = self.roles.list.iter().map(|role| (role.name.to_string(), role.process.pid()));
        Processes(self.others.0.iter().cloned().chain(roles).collect())
    }
}

/// What the node's diary, and the watch, say of each job. Each must have had one agent.
fn times(lives: &Lives, node: &Node) -> Times {
    let millis = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
    let mut agents = HashMap::new();
    for life in node.diary.all() {
        if lives.applied.contains_key(&life.job) {
            assert!(agents.insert(life.job.clone(), life).is_none(), "an agent was started twice");
        }
    }
    assert_eq!(agents.len(), lives.applied.len(), "each job has had an agent");
    let (mut to_first_line, mut to_done) = (Vec::new(), Vec::new());
    for (job, life) in agents {
        to_first_line.push(millis(lives.applied[&job], life.began));
        to_done.push(millis(life.ended.expect("its end"), lives.ended[&job]));
    }
    Times { to_first_line, to_done, seconds: lives.seconds() }
}

/// The bench itself, as the worker of the bare workflows.
fn bare_worker(test: &Test, task_queue: &str, jobs: usize) -> Process {
    let program = std::env::current_exe().expect("the bench");
    let jobs = jobs.to_string();
    let log = test.cluster.dev.join("log/tests/bare-worker.log");
    Process::new("bare worker", program, &["--bare-worker", task_queue, "--jobs", &jobs], &[], &log)
}

/// The servers, the bare worker, and the bench itself: the rest of the load.
fn servers(worker: &Process) -> Processes {
    let mut all = Processes::servers();
    all.0.push(("twin".into(), worker.pid()));
    all.0.push(("bench".into(), std::process::id() as i32));
    all
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(1).collect()
}

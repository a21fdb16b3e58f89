//! `make bench-kubelet`: what jobs of a second cost on a real kubelet, as Kubernetes Jobs, in Direct and in Temporal mode:
//! in the cluster that is up, with the operator that is installed, in several rounds, in another order each.
//!
//! - A burst: all created at once. How many are done a second, and the API server's CPU for one, less what it uses without.
//! - Single jobs: from the create call until the agent's first line, by the time that the container runtime gives it. The
//!   node is this machine, so the clock is the same.
//!
//! A Job is measured as it is, and with the init container that koco's pods have: what that costs is the kubelet's and the
//! container runtime's. Nothing is asserted.

#[path = "../control/cluster.rs"]
mod cluster;
#[path = "../jobs/figures.rs"]
#[allow(dead_code)]
mod figures;
#[path = "../jobs/meter.rs"]
#[allow(dead_code)]
mod meter;
#[path = "../jobs/objects.rs"]
#[allow(dead_code)]
mod objects;
#[path = "../jobs/requests.rs"]
#[allow(dead_code)]
mod requests;
#[path = "../jobs/table.rs"]
#[allow(dead_code)]
mod table;
#[path = "../jobs/usage.rs"]
#[allow(dead_code)]
mod usage;

use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Parser;
use k8s_openapi::{
    api::core::v1::{Pod, ServiceAccount},
    jiff::Timestamp,
};
use koco::api::ExecutionMode;
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
};
use serde_json::{Value, json};

use figures::{API_SERVER, Measured};
use meter::Meter;
use objects::{BATCH, Kind, Place};
use table::{head, number, percentile, row};
use usage::Processes;

/// Measures jobs on a real kubelet.
#[derive(Parser)]
struct Arguments {
    /// Jobs of a burst
    #[arg(long, env = "JOBS", default_value_t = 40)]
    jobs: usize,
    #[arg(long, env = "ROUNDS", default_value_t = 5)]
    rounds: usize,
    /// Single jobs of each shape and round
    #[arg(long, env = "SINGLES", default_value_t = 5)]
    singles: usize,
    /// Seconds without jobs before each burst
    #[arg(long, env = "IDLE", default_value_t = 10)]
    idle: u64,
    /// Seconds after its last job that still count
    #[arg(long, env = "TAIL", default_value_t = 10)]
    tail: u64,
}

const IMAGE: &str = "localhost/koco-test-agent:dev";
/// A line at once, another one after a second.
const ENTRY_POINT: &str = "count?every_ms=1000&until=2";
/// What the test agent writes first.
const FIRST_LINE: &str = "pid ";

/// A name, how the jobs are made, and whether they have koco's init container though they aren't koco's.
const SHAPES: [(&str, Kind, bool); 4] = [
    ("Job", Kind::Job, false),
    ("Job, same init container", Kind::Job, true),
    ("Direct", Kind::AgentJob(ExecutionMode::Direct), false),
    ("Temporal", Kind::AgentJob(ExecutionMode::Temporal), false),
];

#[derive(Default)]
struct Figures {
    bursts: Vec<Measured>,
    /// Milliseconds of single jobs.
    to_first_line: Vec<f64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let figures = cluster::in_namespace(async |client, name| measure(&arguments, client, name).await).await?;
    print(&arguments, &figures);
    Ok(())
}

async fn measure(arguments: &Arguments, client: Client, namespace: &str) -> anyhow::Result<[Figures; SHAPES.len()]> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    while accounts.get_opt("default").await?.is_none() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let namespace = namespace.to_string();
    let plain = Place { client, namespace, image: IMAGE, entry_point: ENTRY_POINT, job_pods: json!({}) };
    let alike = Place { job_pods: init_container(&plain).await?, ..plain.clone() };
    let bench = Bench { arguments, places: [plain, alike], servers: servers()? };
    let mut all: [Figures; SHAPES.len()] = Default::default();
    for shape in 0..SHAPES.len() {
        // The first of all pulls and caches.
        bench.single(shape, &format!("first-{shape}")).await?;
    }
    for round in 0..arguments.rounds {
        for n in 0..SHAPES.len() {
            let shape = (n + round) % SHAPES.len();
            let burst = bench.burst(shape, &format!("burst-{round}-{shape}")).await;
            eprintln!("round {}: {:<26} {:6.2}/s", round + 1, SHAPES[shape].0, burst.rate());
            all[shape].bursts.push(burst);
        }
        for single in 0..arguments.singles {
            for n in 0..SHAPES.len() {
                let shape = (n + single) % SHAPES.len();
                let took = bench.single(shape, &format!("single-{round}-{single}-{shape}")).await?;
                all[shape].to_first_line.push(took);
            }
        }
    }
    Ok(all)
}

/// The init container of koco's pods, and its volumes, as a change of other pods.
async fn init_container(place: &Place) -> anyhow::Result<Value> {
    Kind::AgentJob(ExecutionMode::Direct).run(place, "sample", 1).await;
    let pod = pod(place, "sample").await?;
    let spec = json!(pod.spec.context("a spec")?);
    let containers = spec["initContainers"].as_array().context("koco's init container")?;
    let mounts: Vec<&Value> = containers
        .iter()
        .flat_map(|c| c["volumeMounts"].as_array().into_iter().flatten())
        .map(|m| &m["name"])
        .collect();
    let volumes = spec["volumes"].as_array().context("its volume")?.iter().filter(|v| mounts.contains(&&v["name"]));
    Ok(json!({ "initContainers": containers, "volumes": volumes.collect::<Vec<_>>() }))
}

/// The pod of the only job of a batch.
async fn pod(place: &Place, batch: &str) -> anyhow::Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
    let ours = ListParams::default().labels(&format!("{BATCH}={batch}"));
    pods.list(&ours).await?.items.pop().context("no pod")
}

/// The servers of the dev cluster, which knows their ids.
fn servers() -> anyhow::Result<Processes> {
    let folder = std::env::var("KOCO_DEV_DIR").context("KOCO_DEV_DIR is not set")?;
    let mut all = Processes::default();
    for entry in std::fs::read_dir(format!("{folder}/run"))? {
        let (path, name) = entry.map(|e| (e.path(), e.file_name()))?;
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".pid")) {
            let text = std::fs::read_to_string(&path)?;
            let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok()).context("a pid")?;
            all.0.push((name.into(), pid));
        }
    }
    Ok(all)
}

struct Bench<'a> {
    arguments: &'a Arguments,
    /// Without and with koco's init container in Jobs.
    places: [Place; 2],
    servers: Processes,
}

impl Bench<'_> {
    /// Many at once.
    async fn burst(&self, shape: usize, batch: &str) -> Measured {
        let (_, kind, alike) = SHAPES[shape];
        let (place, jobs) = (&self.places[usize::from(alike)], self.arguments.jobs);
        let meter = Meter::start(&self.servers, Duration::from_secs(self.arguments.idle)).await;
        let lives = kind.run(place, batch, jobs).await;
        tokio::time::sleep(Duration::from_secs(self.arguments.tail)).await;
        let cpu = meter.used();
        kind.clear(&place.client, &place.namespace, Some(batch)).await;
        // What follows from a deletion is nobody's idling.
        tokio::time::sleep(Duration::from_secs(self.arguments.tail)).await;
        Measured { jobs, seconds: lives.seconds(), cpu, ..Measured::default() }
    }

    /// Milliseconds until the first line of one.
    async fn single(&self, shape: usize, batch: &str) -> anyhow::Result<f64> {
        let (_, kind, alike) = SHAPES[shape];
        let place = &self.places[usize::from(alike)];
        let lives = kind.run(place, batch, 1).await;
        let applied = SystemTime::now() - lives.applied.values().next().context("a job")?.elapsed();
        let pods: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
        let name = pod(place, batch).await?.metadata.name.context("a name")?;
        let params = LogParams { container: Some("agent".into()), timestamps: true, ..LogParams::default() };
        let log = pods.logs(&name, &params).await?;
        let lines = log.lines().filter_map(|line| line.split_once(' '));
        let (at, _) = lines.into_iter().find(|(_, text)| text.starts_with(FIRST_LINE)).context("no first line")?;
        let at = SystemTime::from(at.parse::<Timestamp>()?);
        kind.clear(&place.client, &place.namespace, Some(batch)).await;
        Ok(at.duration_since(applied)?.as_secs_f64() * 1000.0)
    }
}

fn print(arguments: &Arguments, all: &[Figures]) {
    println!("\n{} jobs of a second at once, {} rounds, {}\n", arguments.jobs, arguments.rounds, table::build());
    let bursts: Vec<Measured> = all.iter().map(|f| Measured::together(&f.bursts)).collect();
    let mut text = String::new();
    let headings = ["shape", "done/s", "by round", "in Jobs'", "API server's CPU for one, ms", "in a Job's"];
    head(&mut text, &headings);
    for ((name, ..), (burst, figures)) in SHAPES.iter().zip(bursts.iter().zip(all)) {
        let rates: Vec<String> = figures.bursts.iter().map(|b| number(b.rate())).collect();
        let cpu = burst.cpu_each(API_SERVER);
        let ratios = [burst.rate() / bursts[0].rate(), cpu / bursts[0].cpu_each(API_SERVER)];
        let cells = [number(burst.rate()), rates.join(", "), number(ratios[0]), number(cpu), number(ratios[1])];
        row(&mut text, std::iter::once(name.to_string()).chain(cells));
    }
    text.push_str("\nSingle jobs, from the create call until the agent's first line:\n\n");
    head(&mut text, &["shape", "jobs", "p50, ms", "p99, ms", "p50 in that of a Job with the same init container"]);
    for ((name, ..), figures) in SHAPES.iter().zip(all) {
        let at = |figures: &Figures, part| percentile(&figures.to_first_line, part);
        let (p50, p99) = (at(figures, 0.5), at(figures, 0.99));
        let cells = [figures.to_first_line.len().to_string(), number(p50), number(p99), number(p50 / at(&all[1], 0.5))];
        row(&mut text, std::iter::once(name.to_string()).chain(cells));
    }
    println!("{text}");
}

//! `make bench-events`: how many events a second are committed, and how soon they are read.
//!
//! The API server, a gateway and a server are those of `make bench-jobs`; runners are simulated, each with one batch on its
//! way, as real ones. Measured in rounds, one after the other: bare INSERTs of the same rows into the same tables, in the
//! same groups and with the same fsync ([`bare`]); the same sent to the server at once; the same through the gateway. Then
//! the time from an event to a reader, and what streams cost that are idle ([`readers`]). Nothing is asserted.
//!
//! With `KOCO_TEST_POSTGRES` on the PostgreSQL of that URL. `benches/events/run` does both, and the parts that are elsewhere.

mod bare;
#[path = "../../tests/api/harness/mod.rs"]
#[allow(dead_code, unused_imports)]
mod harness;
mod readers;
#[path = "../jobs/table.rs"]
#[allow(dead_code)]
mod table;
#[path = "../jobs/usage.rs"]
#[allow(dead_code)]
mod usage;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use futures::future::join_all;
use koco::protocol::events::{Batch, CONTENT_TYPE, Event, Kind, append_path, encode};
use serde_json::{Value, json};

use harness::{
    Kubelet, Roles, Runner, Server, Test, agent,
    archive::{Reader, fid, keep_events, token},
    by_hand::started,
};
use table::{Target, at_most, head, number, percentile, reach, row};
use usage::Processes;

/// Measures events.
#[derive(Parser)]
struct Arguments {
    /// Events of a round
    #[arg(long, env = "EVENTS", default_value_t = 400_000)]
    events: usize,
    /// Runners that send them
    #[arg(long, env = "RUNNERS", default_value_t = 8)]
    runners: usize,
    /// Events of a batch
    #[arg(long, env = "BATCH", default_value_t = 1024)]
    batch: usize,
    #[arg(long, env = "ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// Streams of which nothing comes
    #[arg(long, env = "STREAMS", default_value_t = 1000)]
    streams: usize,
    /// Seconds of a thousand events each
    #[arg(long, env = "SECONDS", default_value_t = 20)]
    seconds: u64,
    /// The folder for the JSON
    #[arg(long, env = "OUT", default_value = "target/bench-events")]
    out: PathBuf,
    /// Cargo's
    #[arg(long, hide = true)]
    bench: bool,
}

/// A runner, and where it is in its events.
struct Source {
    runner: Runner,
    fid: String,
    /// The number of the last event that is stored.
    stored: u64,
}

/// Where a runner's events go.
#[derive(Clone, Copy)]
enum Way {
    Gateway,
    Server,
}

struct Bench {
    roles: Roles,
    reader: Reader,
    gateway_token: String,
    lines: Vec<String>,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::None, &["gateway", "controller", "server"]);
    keep_events(&test, &mut roles).await;
    let postgres = std::env::var("KOCO_TEST_POSTGRES").ok();
    if let Some(url) = &postgres {
        roles.set("KOCO_DATABASE_URL", url);
    }
    roles.start().await;
    let kubelet = Kubelet::of(&test);
    let mut sources = Vec::new();
    for _ in 0..arguments.runners {
        let job = test.apply(agent("anything")).await;
        let (_, runner) = started(&kubelet, &job, 1).await;
        sources.push(Source { runner, fid: fid(&job).await, stored: 0 });
    }
    let lines =
        (0..arguments.batch).map(|n| format!("{n:>8} what an agent prints is about as long as this is")).collect();
    let mut bench =
        Bench { reader: Reader::of(&test, &roles).await, gateway_token: token(&test, "gateway").await, roles, lines };
    let folder = test.cluster.dev.join("data/tests").join(format!("{}-bare", test.namespace));
    let mut bare = bare::Bare::open(&folder, postgres.as_deref()).await;
    let store = if postgres.is_some() { "PostgreSQL" } else { "SQLite" };
    println!("events on {store}, {}; {} runners, batches of {}", table::build(), arguments.runners, arguments.batch);
    let rounds = rounds(&mut bench, &mut bare, &mut sources, &arguments).await;
    let mut text = String::new();
    let mut targets = committed(&mut text, &rounds);
    let latency = readers::latency(&test, &bench.reader, &mut sources[0], arguments.seconds).await;
    let streams = readers::idle(&test, &bench.roles, &sources[0].fid, arguments.streams).await;
    head(&mut text, &["", "p50", "p99"]);
    let [p50, p99] = [0.5, 0.99].map(|part| percentile(&latency, part));
    row(&mut text, ["an event to its frame at a reader, 1,000 a second, ms".into(), number(p50), number(p99)]);
    targets.push(at_most("an event to its frame, p50, ms", p50, 150.0));
    targets.push(at_most("an event to its frame, p99, ms", p99, 500.0));
    targets.push(at_most(format!("memory of {} idle streams, MB", arguments.streams), streams, 60.0));
    reach(&mut text, &targets);
    println!("\n{text}");
    write(&arguments, store, &rounds, &latency, streams, &targets);
}

/// What a round has shown: events a second, and what of the processor and of memory they took.
struct Round {
    bare: f64,
    server: f64,
    gateway: f64,
    /// Microseconds of a processor for an event, of the gateway and of the server.
    gateway_cpu: f64,
    server_cpu: f64,
    /// MiB that the gateway's peak is above what it had before.
    gateway_memory: f64,
}

async fn rounds(bench: &mut Bench, bare: &mut bare::Bare, sources: &mut [Source], arguments: &Arguments) -> Vec<Round> {
    let mut rounds = Vec::new();
    let batches = arguments.events / arguments.runners / arguments.batch;
    let events = (batches * arguments.runners * arguments.batch) as f64;
    for n in 0..arguments.rounds {
        let took = bare.round(&bench.lines, arguments.runners, batches).await;
        let bare = events / took.as_secs_f64();
        let server = events / sent(bench, sources, batches, Way::Server).await.as_secs_f64();
        let roles = ["gateway", "server"].map(|name| (name.to_string(), bench.roles.role(name).process.pid()));
        let processes = Processes(roles.to_vec());
        let (memory, cpu) = (processes.memory(), processes.cpu());
        processes.forget_peaks();
        let gateway = events / sent(bench, sources, batches, Way::Gateway).await.as_secs_f64();
        let (peaks, after) = (processes.peaks(), processes.cpu());
        let micros = |name: &str| (after[name] - cpu[name]) * 1000.0 / events;
        let round = Round {
            bare,
            server,
            gateway,
            gateway_cpu: micros("gateway"),
            server_cpu: micros("server"),
            gateway_memory: peaks["gateway"] - memory["gateway"],
        };
        eprintln!("round {}: bare {bare:.0}/s, server {server:.0}/s, gateway {gateway:.0}/s", n + 1);
        rounds.push(round);
    }
    rounds
}

/// How long it takes until all are stored.
async fn sent(bench: &Bench, sources: &mut [Source], batches: usize, way: Way) -> Duration {
    let began = Instant::now();
    join_all(sources.iter_mut().map(async |source| {
        for _ in 0..batches {
            bench.send(source, way).await;
        }
    }))
    .await;
    began.elapsed()
}

impl Bench {
    /// Sends a batch until it is stored.
    async fn send(&self, source: &mut Source, way: Way) {
        let (from, last) = (source.stored + 1, source.stored + self.lines.len() as u64);
        while source.stored < last {
            let stored = match way {
                Way::Gateway => source.runner.tell(from, from, &self.lines).await.ok().map(|(_, stored)| stored),
                Way::Server => {
                    let event =
                        |line: &String| Event { ts: 1_800_000_000.5, kind: Kind::Stdout, payload: line.clone() };
                    let events: Vec<Event> = self.lines.iter().map(event).collect();
                    let body = encode(Batch { from, oldest: from }, &events).expect("a body");
                    let body = String::from_utf8(body).expect("text");
                    let path = append_path(&source.fid, "1");
                    let (status, answer) = self.reader.post(&path, Some(&self.gateway_token), CONTENT_TYPE, body).await;
                    answer["stored"].as_u64().filter(|_| status == 200)
                }
            };
            match stored {
                Some(stored) => source.stored = stored,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

fn committed(text: &mut String, rounds: &[Round]) -> Vec<Target> {
    head(
        text,
        &[
            "round",
            "bare INSERT, events/s",
            "to the server",
            "of bare",
            "by the gateway",
            "of bare",
            "µs of the gateway",
            "µs of the server",
            "gateway, MiB more",
        ],
    );
    for (n, r) in (1..).zip(rounds) {
        let shown = [
            r.bare,
            r.server,
            r.server / r.bare,
            r.gateway,
            r.gateway / r.bare,
            r.gateway_cpu,
            r.server_cpu,
            r.gateway_memory,
        ];
        row(text, [n.to_string()].into_iter().chain(shown.map(number)));
    }
    text.push('\n');
    let middle = |of: fn(&Round) -> f64| percentile(&rounds.iter().map(of).collect::<Vec<_>>(), 0.5);
    vec![
        at_most("bare INSERT over what comes by the gateway", middle(|r| r.bare / r.gateway), 1.0 / 0.6),
        at_most("to the server over by the gateway", middle(|r| r.server / r.gateway), 1.0 / 0.8),
        at_most("seconds of 15,000 events by the gateway", middle(|r| 15_000.0 / r.gateway), 1.0),
        at_most("memory of the gateway, MiB more", middle(|r| r.gateway_memory), 64.0),
    ]
}

fn write(arguments: &Arguments, store: &str, rounds: &[Round], latency: &[f64], streams: f64, targets: &[Target]) {
    let rounds: Vec<Value> = rounds
        .iter()
        .map(|r| {
            json!({ "bare": r.bare, "server": r.server, "gateway": r.gateway, "gatewayCpuMicros": r.gateway_cpu,
                "serverCpuMicros": r.server_cpu, "gatewayMemoryMiB": r.gateway_memory })
        })
        .collect();
    let all = json!({ "store": store, "build": table::build(), "runners": arguments.runners, "batch": arguments.batch,
        "rounds": rounds, "latencyMillis": latency, "idleStreamsMB": streams, "targets": targets });
    std::fs::create_dir_all(&arguments.out).expect("a folder");
    let file = arguments.out.join(format!("{}.json", store.to_lowercase()));
    std::fs::write(&file, format!("{all:#}\n")).expect("a file");
    println!("{}", file.display());
}

//! Numbered events of many agents of both modes, while gateway, server, database, network and runners are killed, frozen and
//! cut off: none is missing, none is there twice, and all are in order. What happens is a function of the seed; what it
//! meets is not.
//!
//!   make events-torture EVENTS=1000000 SEED=1

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::future::join_all;
use koco::api::AgentJobStatus;
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::json;

use crate::harness::{
    Cable, Job, MODES, Phase, Roles, Server, Test, agent,
    archive::{Frames, Reader, Stored, fid, keep_events, owner},
    cluster::NODE_IP,
    job::{With, pod_uid},
    node,
    wait::within,
};

/// Agents of each mode.
const EACH_MODE: u64 = 4;
/// How many runners are killed: each costs its job one of its attempts.
const RUNNERS: usize = 3;
/// How long the agents take at least, for so many events in all.
const EVENTS_A_SECOND: u64 = 1000;
/// The longest that something is away, and the longest between two disturbances, in milliseconds.
const AWAY: u64 = 8000;
const BETWEEN: u64 = 3000;
/// How long all may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// What is done to the events' way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Kill(&'static str),
    Freeze(&'static str),
    /// Between the pods and the gateway.
    CutRunners,
    /// Between the gateway and the server.
    CutServer,
    KillDatabase,
    FreezeDatabase,
    KillRunner,
    FreezeRunner,
}

const HARMS: [Harm; 12] = [
    Harm::Kill("gateway"),
    Harm::Freeze("gateway"),
    Harm::Kill("server"),
    Harm::Freeze("server"),
    Harm::Kill("controller"),
    Harm::Kill("temporal-worker"),
    Harm::CutRunners,
    Harm::CutServer,
    Harm::KillDatabase,
    Harm::FreezeDatabase,
    Harm::KillRunner,
    Harm::FreezeRunner,
];

/// A PostgreSQL of the test's.
struct Postgres {
    /// Its folder, with its socket.
    folder: PathBuf,
    url: String,
}

impl Postgres {
    fn get() -> Self {
        let url = std::env::var("KOCO_TEST_POSTGRES").expect("run it by `make cluster-test` or `make events-torture`");
        let folder = url.split_once("host=").expect("its socket's folder").1.into();
        Self { folder, url }
    }

    /// Its processes that serve a connection or do work behind it.
    fn children(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.join("postmaster.pid")).expect("postmaster.pid");
        let parent = text.lines().next().expect("a pid").to_string();
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let of = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|ppid| ppid.trim() == parent))
        };
        pids.filter(of).collect()
    }
}

/// Everything on the way.
struct Way<'t> {
    roles: Roles,
    to_gateway: Cable,
    to_server: Cable,
    postgres: Option<Postgres>,
    jobs: &'t [Job<'t>],
    rng: Pcg64Mcg,
    killed: usize,
    harms: Vec<Harm>,
}

impl Way<'_> {
    /// Does harm, and mends it.
    async fn disturb_once(&mut self) {
        let any = HARMS[self.rng.random_range(0..HARMS.len())];
        // However short it is, a runner is lost.
        let harm = if self.killed == 0 { Harm::KillRunner } else { any };
        let away = Duration::from_millis(self.rng.random_range(0..AWAY));
        let quiet = Duration::from_millis(self.rng.random_range(0..BETWEEN));
        if self.harm(harm, away).await {
            self.harms.push(harm);
        }
        tokio::time::sleep(quiet).await;
    }

    /// Whether there was something to harm.
    async fn harm(&mut self, harm: Harm, away: Duration) -> bool {
        let sleep = tokio::time::sleep(away);
        match harm {
            Harm::Kill(name) => {
                let role = self.roles.role(name);
                role.kill();
                sleep.await;
                role.start().await;
            }
            Harm::Freeze(name) => {
                self.roles.role(name).freeze();
                sleep.await;
                self.roles.role(name).thaw();
            }
            Harm::CutRunners | Harm::CutServer => {
                let cable = if harm == Harm::CutRunners { &self.to_gateway } else { &self.to_server };
                cable.cut();
                sleep.await;
                cable.mend();
            }
            Harm::KillDatabase | Harm::FreezeDatabase => {
                let Some(children) = self.postgres.as_ref().map(Postgres::children) else { return false };
                let signal = |signal| children.iter().for_each(|pid| node::signal_if_there(*pid, signal));
                signal(if harm == Harm::KillDatabase { Signal::SIGKILL } else { Signal::SIGSTOP });
                sleep.await;
                signal(Signal::SIGCONT);
            }
            Harm::KillRunner => {
                let found = if self.killed < RUNNERS { self.runner().await } else { Vec::new() };
                found.iter().for_each(|pid| node::signal_if_there(*pid, Signal::SIGKILL));
                self.killed += usize::from(!found.is_empty());
                return !found.is_empty();
            }
            Harm::FreezeRunner => {
                let found = self.runner().await;
                found.iter().for_each(|pid| node::signal_if_there(*pid, Signal::SIGSTOP));
                sleep.await;
                found.iter().for_each(|pid| node::signal_if_there(*pid, Signal::SIGCONT));
                return !found.is_empty();
            }
        }
        true
    }

    /// The processes of a runner, if the job that is drawn has one.
    async fn runner(&mut self) -> Vec<i32> {
        let job = &self.jobs[self.rng.random_range(0..self.jobs.len())];
        let Some(run) = job.run().await.filter(|run| !run.is_closed()) else { return Vec::new() };
        let pod = job.test.pods().get_opt(&run.spec.identity.pod_name).await.expect("get");
        pod.map_or(Vec::new(), |pod| node::processes(&pod_uid(&pod), "koco-runner"))
    }
}

/// How much of what there is to be.
struct Size {
    seed: u64,
    /// How many lines each agent prints, and how many events it sends beside.
    lines: u64,
}

impl Size {
    fn get() -> Self {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect(name));
        let events = number("EVENTS", 16_000);
        Self { seed: number("SEED", 1), lines: events / (2 * EACH_MODE * 2) }
    }

    /// All events but those of the runners' own.
    fn events(&self) -> u64 {
        self.lines * 2 * EACH_MODE * 2
    }

    fn entry_point(&self) -> String {
        let seconds = self.events().div_ceil(EVENTS_A_SECOND);
        let each = (self.lines / (10 * seconds)).max(1);
        format!("tell?lines={}&each={each}&every_ms=100", self.lines)
    }
}

/// What a client sees that reads from the beginning to the end, whoever is killed in between.
async fn followed(reader: &Reader, fid: &str, token: &str) -> Vec<Stored> {
    let mut all: Vec<Stored> = Vec::new();
    loop {
        let after = all.last().map(|event| event.row.to_string());
        match reader.try_stream(fid, token, after.as_deref()).await {
            Ok(response) if response.status() == 200 => {
                let mut frames = Frames::from(response);
                while let Some((kind, _, data)) = frames.next().await {
                    if kind == "end" {
                        return all;
                    }
                    all.push(serde_json::from_value(data).expect("an event"));
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Nothing is missing, twice or out of order, but for what comes after the death of a runner, and there is a mark then.
/// What may still come is an error.
fn check(name: impl fmt::Display, events: &[Stored], lines: u64) -> Result<(), String> {
    let mut runs: BTreeMap<i64, Vec<&Stored>> = BTreeMap::new();
    let mut marks: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for (row, event) in (1..).zip(events) {
        assert_eq!(event.row, row, "{name}: {event:?}");
        if event.number == 0 {
            marks.entry(event.run).or_default().push(&event.payload);
            continue;
        }
        let run = runs.entry(event.run).or_default();
        run.push(event);
        assert_eq!(event.number, run.len() as i64, "{name}: {event:?}");
    }
    let Some((last, _)) = runs.last_key_value() else { return Err("no event".into()) };
    for (run, events) in &runs {
        for (kind, text) in [("stdout", "line "), ("action", "")] {
            let payloads: Vec<&str> = events.iter().filter(|e| e.kind == kind).map(|e| e.payload.as_str()).collect();
            for (n, payload) in (1..).zip(&payloads) {
                assert_eq!(**payload, format!("{text}{n}"), "{name}, run {run}");
            }
            if run == last && payloads.len() as u64 != lines {
                return Err(format!("{name}, run {run}: {} of {lines} {kind}", payloads.len()));
            }
        }
        // Of this kind these agents send none.
        let ends: Vec<usize> = (0..events.len()).filter(|n| events[*n].kind == "debug").collect();
        let is_end = |n: &usize| n + 1 == events.len() && events[*n].payload.starts_with(r#"{"koco":{"end":"#);
        assert!(ends.iter().all(is_end), "{name}, run {run}: something was lost");
        let marks = marks.remove(run).unwrap_or_default();
        let lost = format!(r#"{{"koco":{{"lost":{{"from":{}}}}}}}"#, events.len() + 1);
        match (ends.is_empty(), run == last) {
            (true, true) => return Err(format!("{name}, run {run}: not its end")),
            (true, false) if marks.is_empty() => return Err(format!("{name}, run {run}: neither its end nor a mark")),
            (true, false) => assert_eq!(marks, [lost], "{name}, run {run}"),
            (false, _) => assert!(marks.is_empty(), "{name}, run {run}: {marks:?}, and it has its end"),
        }
    }
    assert!(marks.is_empty(), "{name}: {marks:?}");
    Ok(())
}

async fn torture(postgres: Option<Postgres>) {
    let (size, test) = (Size::get(), Test::new().await);
    let mut roles = Roles::of(&test, Server::Shared, &["gateway", "controller", "temporal-worker", "server"]);
    keep_events(&test, &mut roles).await;
    let to_gateway = Cable::to(&format!("{NODE_IP}:{}", roles.gateway_port)).await;
    let to_server = Cable::to(&format!("{NODE_IP}:{}", roles.server_port)).await;
    roles.set("KOCO_GATEWAY_URL", &format!("https://{}", to_gateway.address));
    roles.set("KOCO_SERVER_URL", &format!("https://{}", to_server.address));
    if let Some(postgres) = &postgres {
        roles.set("KOCO_DATABASE_URL", &postgres.url);
    }
    roles.start().await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    let attempts = json!({ "retryPolicy": { "maximumAttempts": RUNNERS + 1, "initialInterval": "100ms" } });
    let mut jobs = Vec::new();
    for n in 0..2 * EACH_MODE {
        let mode = MODES[usize::from(n >= EACH_MODE)];
        jobs.push(test.apply(agent(&size.entry_point()).mode(mode).grace(120).with(attempts.clone())).await);
    }
    let fids = join_all(jobs.iter().map(fid)).await;
    let (began, rng) = (Instant::now(), Pcg64Mcg::seed_from_u64(size.seed));
    let mut way = Way { roles, to_gateway, to_server, postgres, jobs: &jobs, rng, killed: 0, harms: Vec::new() };
    let streams = async { join_all(fids.iter().map(|fid| followed(&reader, fid, &token))).await };
    let over = Cell::new(false);
    let ends = async {
        let succeeded = |s: &AgentJobStatus| s.phase == Some(Phase::Succeeded);
        join_all(jobs.iter().map(|job| job.until_within(LIMIT, "its success", succeeded))).await;
        over.set(true);
    };
    let disturbed = async {
        while !over.get() {
            way.disturb_once().await;
        }
    };
    let (streamed, (), ()) = tokio::join!(streams, ends, disturbed);
    for ((job, fid), streamed) in jobs.iter().zip(&fids).zip(streamed) {
        let events = within(LIMIT, "all events", async || {
            let events = reader.events(fid, &token).await;
            check(&job.name, &events, size.lines).map(|()| events)
        });
        let events = events.await;
        assert!(streamed.len() <= events.len());
        assert!(streamed == events[..streamed.len()], "{}: a stream shows the same", job.name);
    }
    eprintln!(
        "seed {}: {} events of {} agents; {} disturbances, {} runners killed; all are there, once and in order, after {} s: {:?}",
        size.seed,
        size.events(),
        jobs.len(),
        way.harms.len(),
        way.killed,
        began.elapsed().as_secs(),
        way.harms,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite() {
    torture(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_postgresql() {
    torture(Some(Postgres::get())).await;
}

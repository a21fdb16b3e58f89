//! `make bench-runner`: the memory of a runner beside an agent that prints 20,000 lines a second, and how soon it pauses
//! beside how soon it does where nothing is printed. Asserts nothing.

#[path = "../../benches/jobs/table.rs"]
#[allow(dead_code)] // what other benches print
mod table;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use koco::{
    api::{DesiredState, RunnerState},
    protocol::{
        events::{EventsConfig, Kind},
        runner::Job,
    },
};

use serde_json::json;

use self::table::{at_most, number, percentile, reach};
use crate::harness::{Run, job, namespaces};

const PAUSES: i64 = 40;
/// How long the agent prints before its runner is looked at, and between two pauses.
const WARM: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_millis(200);

/// Resident memory and its peak, in MiB.
fn memory(pid: i32) -> [f64; 2] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["VmRSS:", "VmHWM:"].map(|field| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    })
}

/// The times to a pause, in milliseconds.
async fn pauses(run: &Run) -> Vec<f64> {
    let mut times = Vec::new();
    for n in 1..=PAUSES {
        let began = Instant::now();
        run.command(DesiredState::Paused, 2 * n);
        run.confirmed(RunnerState::Frozen, 2 * n).await;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        run.command(DesiredState::Running, 2 * n + 1);
        run.confirmed(RunnerState::Running, 2 * n + 1).await;
        tokio::time::sleep(BETWEEN).await;
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: make bench-runner"]
async fn beside_many_lines() {
    if !namespaces() {
        return;
    }
    let (mut text, mut measured, mut found) = (String::new(), Vec::new(), Vec::new());
    table::head(&mut text, &["agent", "lines/s", "runner, MiB", "its peak", "to a pause, p50 ms", "most"]);
    for entry_point in ["sleep", "print?each=200&every_ms=10"] {
        let run = Run::isolated(Job { events: Some(EventsConfig { stdio: true }), ..job(entry_point) }).await;
        run.grant();
        run.until("an agent that runs", |heard| heard.payloads(Kind::Status).contains(&"running").then_some(())).await;
        let (began, before) = (Instant::now(), run.gateway.heard().events.len());
        tokio::time::sleep(WARM).await;
        let rate = (run.gateway.heard().events.len() - before) as f64 / began.elapsed().as_secs_f64();
        let [now, peak] = memory(run.pid());
        let times = pauses(&run).await;
        let (p50, most) = (percentile(&times, 0.5), percentile(&times, 1.0));
        let numbers = [rate, now, peak, p50, most].map(number);
        table::row(&mut text, [entry_point.to_string()].into_iter().chain(numbers));
        measured.push(
            json!({ "agent": entry_point, "linesPerSecond": rate, "MiB": now, "peakMiB": peak, "pauseMillis": times }),
        );
        found.push((now, p50));
    }
    let [(_, quiet), (memory, busy)] = found[..] else { panic!("two agents") };
    let targets = [
        at_most("memory of a runner beside 20,000 lines a second, MiB", memory, 16.0),
        at_most("time to a pause beside them, over that without", busy / quiet, 1.5),
    ];
    reach(&mut text, &targets);
    println!("\na runner, {}\n\n{text}", table::build());
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-runner");
    fs::create_dir_all(&out).unwrap();
    let all = json!({ "build": table::build(), "agents": measured, "targets": targets });
    fs::write(out.join("runner.json"), format!("{all:#}\n")).unwrap();
}

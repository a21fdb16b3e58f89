//! `make bench-control`: how fast pause, resume and cancel take effect on a real node, in Temporal mode.
//!
//! Measured from the moment before the client sends its merge patch, on a connection that is open already, over at
//! least 200 rounds each:
//! - to frozen and to thawed: until the kernel shows it. The node is this machine, so `/proc/PID/stat` of the agent's
//!   process is read every half millisecond; unlike the agent's ticks it is exact to that and costs the agent nothing.
//! - to SIGTERM: until the agent has it. It writes the wall clock (milliseconds; half of one is added) to its log, and
//!   the clock is the same. An agent each round, one after the other; their pods are created a batch at a time, and
//!   each cancel waits until the processors are idle again after the previous pod's end.
//!
//! Next to each round, on the same server, a bare round trip through the Rust SDK: [`bare`]. The operator is the one
//! that is installed. Limits are printed, never asserted: the exit code tells of a bench that could not measure, and of
//! nothing else.

mod agent;
mod bare;
mod cluster;
mod rounds;
#[path = "../jobs/table.rs"]
#[allow(dead_code)]
mod table;

use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use table::percentile;

/// To reach: the slowest of a hundred.
const P99: f64 = 250.0;
/// To reach: the median, in bare round trips.
const RATIO: f64 = 4.0;

/// Measures how fast pause, resume and cancel take effect.
#[derive(Parser)]
struct Arguments {
    /// Rounds of each
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// How many pods for cancels are made at a time
    #[arg(long, default_value_t = 20)]
    batch: usize,
}

/// Milliseconds of each round.
#[derive(Default)]
struct Measured {
    bare: Vec<f64>,
    /// Those next to cancels, whose pods' ends keep the node busy.
    bare_at_cancel: Vec<f64>,
    frozen: Vec<f64>,
    thawed: Vec<f64>,
    sigterm: Vec<f64>,
    pausing: rounds::Stations,
    resuming: rounds::Stations,
    cancelling: rounds::Stations,
    /// How many rounds could not be measured.
    lost: usize,
}

/// With more of them the numbers would be of the rounds that went well.
const MAY_BE_LOST: usize = 4;

impl Measured {
    /// A round that failed is said, and does not end the bench if there are few.
    fn lost(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        self.lost += 1;
        if self.lost > MAY_BE_LOST {
            return Err(error.context("too many rounds were lost"));
        }
        eprintln!("a round is lost: {error:#}");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut measured = Measured::default();
    let done = cluster::in_namespace(async |client, name| measure(&arguments, client, name, &mut measured).await).await;
    // What was measured until then is worth printing whatever ends it.
    print(&measured);
    done
}

async fn measure(
    arguments: &Arguments,
    client: kube::Client,
    namespace: &str,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let bare = bare::Bare::start(namespace).await.context("the bare round trip")?;
    let bench = rounds::Bench::new(client, namespace, &bare).await?;
    let done = rounds(arguments, &bench, measured).await;
    bare.end().await;
    done
}

async fn rounds(arguments: &Arguments, bench: &rounds::Bench<'_>, measured: &mut Measured) -> anyhow::Result<()> {
    bench.toggle(arguments.rounds, measured).await.context("pause and resume")?;
    let mut done = 0;
    while done < arguments.rounds {
        let batch = arguments.batch.min(arguments.rounds - done);
        bench.cancel(done, batch, measured).await.context("cancel")?;
        done += batch;
    }
    Ok(())
}

fn print(m: &Measured) {
    println!("\n{:<28} {:>6} {:>9} {:>9} {:>9}", "milliseconds", "rounds", "p50", "p99", "p50/bare");
    let line = |what: &str, values: &[f64], bare: &[f64], goal: bool| {
        let bare = percentile(bare, 0.5);
        let (p50, p99) = (percentile(values, 0.5), percentile(values, 0.99));
        let verdict = match goal {
            false => "",
            true if p99 < P99 && p50 < RATIO * bare => "  reached",
            true => "  MISSED",
        };
        println!("{what:<28} {:>6} {p50:>9.1} {p99:>9.1} {:>9.2}{verdict}", values.len(), p50 / bare);
    };
    line("bare signal to activity", &m.bare, &m.bare, false);
    line("patch to frozen", &m.frozen, &m.bare, true);
    line("patch to thawed", &m.thawed, &m.bare, true);
    line("bare, next to cancels", &m.bare_at_cancel, &m.bare_at_cancel, false);
    line("patch to SIGTERM", &m.sigterm, &m.bare_at_cancel, true);
    if m.lost > 0 {
        println!("{} rounds could not be measured.", m.lost);
    }
    println!("To reach: p99 < {P99} ms, p50 < {RATIO} x bare.\n");
    println!("Where the time goes: from the patch until a watch on the job and its run shows it, p50 and p99");
    m.pausing.print("pause");
    m.resuming.print("resume");
    m.cancelling.print("cancel");
}

/// A limit for what must come in time for the bench to go on at all.
async fn within<T>(what: &str, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let limit = Duration::from_secs(120);
    tokio::time::timeout(limit, future).await.with_context(|| format!("{what}: not within {limit:?}"))?
}

//! `make bench-archive`: how long lists and searches of the archive take that has a million executions, in SQLite and in
//! PostgreSQL.
//!
//! The executions are written as the server writes them, to both at the same time. Then each question is asked many times,
//! with another text or place each time, one question after the other. Beside them, on the same data at the same time, a
//! bare read: one row by its primary key, through the same driver. Limits are printed, never asserted.

#[path = "../jobs/table.rs"]
#[allow(dead_code)]
mod table;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use clap::Parser;
use futures::future::try_join_all;
use koco::database::{Database, Execution, Fid, Filter, Location, Summary};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Value, json};

use table::{at_most, build, head, number, percentile, reach, row};

/// To reach: the slowest of a hundred, in milliseconds.
const P99: f64 = 100.0;
/// 2025-01-01, in seconds.
const START: u32 = 1_735_689_600;
const WORDS: usize = 20_000;
/// How many are written at a time.
const BATCH: u32 = 1000;
const PAGE: u32 = 50;

/// Measures lists and searches of the archive.
#[derive(Parser)]
struct Arguments {
    /// Executions
    #[arg(long, env = "EXECUTIONS", default_value_t = 1_000_000)]
    executions: u32,
    /// How often each question is asked
    #[arg(long, env = "ROUNDS", default_value_t = 200)]
    rounds: usize,
    /// Folder for SQLite's file, on the disk that is measured
    #[arg(long, env = "FOLDER", default_value = "target/bench-archive/sqlite")]
    folder: PathBuf,
    /// URL of a PostgreSQL database, empty or kept; without it SQLite alone is measured
    #[arg(long, env = "KOCO_DATABASE_POSTGRES")]
    postgres: Option<String>,
    /// Keep the databases, and measure those that a run before has kept
    #[arg(long)]
    keep: bool,
    /// The folder for table and JSON
    #[arg(long, env = "OUT", default_value = "target/bench-archive")]
    out: PathBuf,
}

/// What is written, the same each time.
struct World {
    words: Vec<String>,
    executions: u32,
}

impl World {
    fn new(executions: u32) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let letter = |random: &mut Pcg64Mcg| char::from(b'a' + random.random_range(0..26_u8));
        let word = |random: &mut Pcg64Mcg| (0..random.random_range(3..10)).map(|_| letter(random)).collect();
        Self { words: (0..WORDS).map(|_| word(&mut random)).collect(), executions }
    }

    fn fid(n: u32) -> Fid {
        let mut fid = [0; 12];
        fid[..4].copy_from_slice(&(START + n / 4).to_be_bytes());
        fid[4..8].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
        fid[8..].copy_from_slice(&n.to_be_bytes());
        Fid(fid)
    }

    /// A word; the first are the most frequent, as in languages.
    fn word(&self, random: &mut Pcg64Mcg) -> &str {
        let at = random.random_range(0.0..1.0_f64);
        &self.words[((WORDS as f64).powf(at) as usize).min(WORDS - 1)]
    }

    /// The `n`th execution: about a kilobyte of inputs and result.
    fn execution(&self, n: u32) -> Execution {
        let mut random = Pcg64Mcg::seed_from_u64(u64::from(n) + 2);
        let words: Vec<&str> = (0..150).map(|_| self.word(&mut random)).collect();
        let text = format!("{{\"topic\": \"{}\", \"ticket\": \"{}\"}}", words.join(" "), ticket(n));
        let created = i64::from(START + n / 4) * 1000;
        let failed = n.is_multiple_of(50);
        Execution {
            summary: Summary {
                fid: Self::fid(n),
                namespace: format!("team-{}", n % 20),
                namespace_uid: format!("u-{}", n % 20),
                name: format!("job-{n}"),
                uid: format!("uid-{n}"),
                owner: format!("user-{}", n % 500),
                entry_point: format!("crew-{}:main", n % 30),
                mode: "Direct".into(),
                phase: if failed { "Failed" } else { "Succeeded" }.into(),
                attempt: 1,
                error: if failed { "AgentFailed".into() } else { String::new() },
                created,
                started: Some(created + 1000),
                finished: Some(created + 60_000),
                deleted: None,
                last_row: 0,
                run: 1,
            },
            version: 1,
            object: format!("{{\"spec\":{{\"inputs\":{text}}}}}"),
            search: text,
        }
    }

    async fn write(&self, name: &str, database: &Database) -> anyhow::Result<f64> {
        let began = Instant::now();
        for from in (0..self.executions).step_by(BATCH as usize) {
            let to = (from + BATCH).min(self.executions);
            database.upsert((from..to).map(|n| self.execution(n)).collect()).await?;
            if from.is_multiple_of(100_000) {
                eprintln!("{name}: {from} executions after {} s", began.elapsed().as_secs());
            }
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// A text that one execution alone has.
fn ticket(n: u32) -> String {
    format!("{:08x}", n.wrapping_mul(2_654_435_761))
}

/// What is asked, and the limit that there is for it.
const QUESTIONS: [(&str, Option<f64>); 9] = [
    ("bare read by primary key", None),
    ("first page", Some(P99)),
    ("page 10,000, or the last", Some(P99)),
    ("first page of an owner", Some(P99)),
    ("first page of a namespace, failed", Some(P99)),
    ("search, in one execution", Some(P99)),
    ("search, in none", Some(P99)),
    ("search, frequent", Some(P99)),
    ("search, frequent, in a namespace", Some(P99)),
];

struct Asker<'a> {
    world: &'a World,
    database: &'a Database,
    bare: Bare,
    random: Pcg64Mcg,
}

/// The driver alone.
enum Bare {
    Sqlite(sqlx::SqlitePool),
    Postgres(sqlx::PgPool),
}

impl Bare {
    async fn of(location: &Location) -> anyhow::Result<Self> {
        Ok(match location {
            Location::Sqlite(folder) => {
                let url = format!("sqlite://{}?mode=ro", folder.join("koco.db").display());
                Self::Sqlite(sqlx::SqlitePool::connect(&url).await?)
            }
            Location::Postgres(url) => Self::Postgres(sqlx::PgPool::connect(url).await?),
        })
    }

    async fn read(&self, fid: Fid) -> anyhow::Result<String> {
        let text = "SELECT name FROM executions WHERE fid = $1";
        Ok(match self {
            Self::Sqlite(pool) => sqlx::query_scalar(text).bind(fid.0.as_slice()).fetch_one(pool).await?,
            Self::Postgres(pool) => sqlx::query_scalar(text).bind(fid.0.as_slice()).fetch_one(pool).await?,
        })
    }
}

impl Asker<'_> {
    /// Asks one question, and returns the milliseconds that it took and how many items there were.
    async fn ask(&mut self, question: usize) -> anyhow::Result<(f64, usize)> {
        let n = self.random.random_range(0..self.world.executions);
        let page = Filter { limit: PAGE, ..Filter::default() };
        let search = |text: &str| Filter { search: Some(text.into()), ..page.clone() };
        let some = |kind: &str, n: u32| Some(format!("{kind}-{n}"));
        let frequent = self.world.word(&mut self.random).to_string();
        let filter = match question {
            0 => {
                let began = Instant::now();
                self.bare.read(World::fid(n)).await?;
                return Ok((millis(began), 1));
            }
            1 => page,
            2 => Filter {
                before: Some(World::fid(self.world.executions.saturating_sub(10_000 * PAGE).max(PAGE))),
                ..page
            },
            3 => Filter { owner: some("user", n % 500), ..page },
            4 => Filter { namespace: some("team", n % 20), phase: Some("Failed".into()), ..page },
            5 => search(&ticket(n)),
            6 => search("no such text"),
            7 => search(&frequent),
            _ => Filter { namespace: some("team", n % 20), ..search(&frequent) },
        };
        let began = Instant::now();
        let found = self.database.list(&filter).await?;
        let took = millis(began);
        anyhow::ensure!(question != 5 || found.items.len() == 1, "execution {n} was not found by its text");
        Ok((took, found.items.len()))
    }
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

/// The milliseconds of each question, and the mean number of items.
type Measured = Vec<(Vec<f64>, f64)>;

async fn measure(
    world: &World,
    name: &str,
    location: &Location,
    database: &Database,
    rounds: usize,
) -> anyhow::Result<Measured> {
    let (bare, began) = (Bare::of(location).await?, Instant::now());
    let mut asker = Asker { world, database, bare, random: Pcg64Mcg::seed_from_u64(7) };
    let mut measured: Measured = vec![Default::default(); QUESTIONS.len()];
    // By rounds, so that what else the machine does disturbs all of them alike. The first warms up.
    for round in 0..=rounds {
        if round.is_multiple_of(20) {
            eprintln!("{name}: {round} of {rounds} rounds of questions after {} s", began.elapsed().as_secs());
        }
        for (question, (times, items)) in measured.iter_mut().enumerate() {
            let (took, found) = asker.ask(question).await?;
            if round > 0 {
                times.push(took);
                *items += found as f64 / rounds as f64;
            }
        }
    }
    Ok(measured)
}

fn report(name: &str, written: Option<f64>, executions: u32, measured: &Measured) -> (String, Value) {
    let mut text = format!("\n## {name}\n\n");
    let rate = written.map(|seconds| f64::from(executions) / seconds);
    if let Some(rate) = rate {
        text.push_str(&format!("{} executions/s were written, with their index.\n\n", number(rate)));
    }
    head(&mut text, &["question", "p50 ms", "p99 ms", "bare reads, p50", "items"]);
    let bare = percentile(&measured[0].0, 0.5);
    let (mut targets, mut all) = (Vec::new(), Vec::new());
    for ((question, limit), (times, items)) in QUESTIONS.iter().zip(measured) {
        let (p50, p99) = (percentile(times, 0.5), percentile(times, 0.99));
        row(&mut text, [question.to_string(), number(p50), number(p99), number(p50 / bare), number(*items)]);
        targets.extend(limit.map(|limit| at_most(format!("{question}: p99, ms"), p99, limit)));
        all.push(json!({ "question": question, "p50": p50, "p99": p99, "items": items, "millis": times }));
    }
    reach(&mut text, &targets);
    (text, json!({ "database": name, "writtenPerSecond": rate, "questions": all, "targets": targets }))
}

fn fresh(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("the folder of the last run"),
        _ => Ok(()),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let world = World::new(arguments.executions);
    if !arguments.keep {
        fresh(&arguments.folder)?;
    }
    std::fs::create_dir_all(&arguments.out)?;
    let postgres = arguments.postgres.map(Location::Postgres);
    let locations = [("SQLite", Some(Location::Sqlite(arguments.folder.clone()))), ("PostgreSQL", postgres)];
    let (executions, rounds) = (arguments.executions, arguments.rounds);
    let mut text = format!("# Lists and searches of {executions} executions, {rounds} times each, {}\n", build());
    let mut all = Vec::new();
    // Writing takes longest, so both are written at the same time; they are asked one after the other.
    let write =
        locations.into_iter().filter_map(|(name, location)| Some((name, location?))).map(async |(name, location)| {
            let database = Database::open(&location, "bench").await.context(name)?;
            let is_there = database.get(World::fid(world.executions - 1)).await.context(name)?.is_some();
            let has_more = database.get(World::fid(world.executions)).await.context(name)?.is_some();
            anyhow::ensure!(!has_more, "{name}: what was kept are more than {} executions", world.executions);
            let written = if is_there { None } else { Some(world.write(name, &database).await.context(name)?) };
            anyhow::Ok((name, location, database, written))
        });
    for (name, location, database, written) in try_join_all(write).await? {
        let measured = measure(&world, name, &location, &database, rounds).await.context(name)?;
        database.close().await;
        let (table, json) = report(name, written, executions, &measured);
        text.push_str(&table);
        all.push(json);
    }
    if !arguments.keep {
        fresh(&arguments.folder)?;
    }
    println!("{text}");
    let json = json!({ "executions": executions, "rounds": rounds, "build": build(), "databases": all });
    std::fs::write(arguments.out.join("archive.md"), text)?;
    std::fs::write(arguments.out.join("archive.json"), serde_json::to_string_pretty(&json)?)?;
    println!("in {}: archive.md, archive.json", arguments.out.display());
    Ok(())
}

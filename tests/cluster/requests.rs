//! What a job costs the API server, in requests: counted from its audit log, by who makes them.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use koco::api::AgentRun;
use kube::{
    Api,
    api::{ListParams, PartialObjectMeta},
};

use crate::harness::{
    AgentJob, DEADLINE, ExecutionMode, MODES, Phase, Server, Test, agent,
    audit::{self, Count, Kind},
    chart::Chart,
    job::With,
    wait::always,
    within,
};

/// How many jobs of each mode.
const JOBS: usize = 100;
/// How many of them at the same time.
const AT_A_TIME: usize = 10;
/// The most requests that one may cost, the client's own create among them.
const MOST_DIRECT: usize = 14;
const MOST_TEMPORAL: usize = 20;
/// The most conflicts of updates in a hundred jobs: they are of old copies.
const MOST_CONFLICTS: usize = 2;
/// How many writes there are for each that may conflict, creates included: those of a start that is tried again, as it took
/// longer than its time on a loaded machine, find what is there.
const WRITES: usize = 100;

type Table = BTreeMap<Kind, Count>;

/// Runs jobs of a second to their end.
async fn run(test: &Test, mode: ExecutionMode, jobs: usize) {
    let one = async |_| {
        let job = test.apply(agent("exit0-after?ms=1000").mode(mode)).await;
        let status = job.phase(Phase::Succeeded).await;
        assert_eq!((status.attempt, status.active_run), (Some(1), Some(1)), "it was disturbed: {}", job.name);
    };
    stream::iter(0..jobs).map(one).buffer_unordered(AT_A_TIME).collect::<Vec<()>>().await;
}

/// Waits until the roles are idle, and returns their requests until then.
async fn settled(test: &Test) -> Table {
    let mut last = Table::new();
    within(DEADLINE, "the roles to come to rest", async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = audit::requests(&test.namespace);
        let same = now == last;
        last = now;
        if same { Ok(()) } else { Err(total(&last)) }
    })
    .await;
    last
}

fn total(table: &Table) -> Count {
    total_of(table.iter())
}

fn total_of<'t>(rows: impl Iterator<Item = (&'t Kind, &'t Count)>) -> Count {
    rows.map(|(_, count)| count)
        .fold(Count::default(), |sum, c| Count { all: sum.all + c.all, conflicts: sum.conflicts + c.conflicts })
}

fn difference(before: &Table, after: &Table) -> Table {
    let less = |(kind, count): (&Kind, &Count)| {
        let old = before.get(kind).copied().unwrap_or_default();
        let more = Count { all: count.all - old.all, conflicts: count.conflicts - old.conflicts };
        (more.all > 0).then(|| (kind.clone(), more))
    };
    after.iter().filter_map(less).collect()
}

fn print(title: &str, table: &Table, jobs: usize) {
    eprintln!(
        "{title}\n  {:<24} {:<8} {:<24} {:>6} {:>8} {:>9}",
        "who", "verb", "resource", "all", "a job", "conflicts"
    );
    for ((who, verb, resource), count) in table {
        let each = count.all as f64 / jobs as f64;
        eprintln!("  {who:<24} {verb:<8} {resource:<24} {:>6} {each:>8.2} {:>9}", count.all, count.conflicts);
    }
    let sum = total(table);
    eprintln!("  {:<58} {:>6} {:>8.2} {:>9}", "sum", sum.all, sum.all as f64 / jobs as f64, sum.conflicts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undisturbed_jobs_cost_few_requests() {
    let test = Test::new().await;
    let chart = Chart::install(&test);
    let _roles = chart.roles(Server::Shared).await;
    let mut beyond = Vec::new();
    for (mode, most) in [(ExecutionMode::Direct, MOST_DIRECT), (ExecutionMode::Temporal, MOST_TEMPORAL)] {
        // The first job of all causes additional reads, which are cached afterwards.
        run(&test, mode, 1).await;
        let before = settled(&test).await;
        run(&test, mode, JOBS).await;
        let spent = difference(&before, &settled(&test).await);
        print(&format!("{JOBS} {} jobs of a second, {AT_A_TIME} at a time", mode.as_str()), &spent, JOBS);
        let sum = total(&spent);
        let created: usize = spent.iter().filter(|((who, ..), _)| who == "client").map(|(_, count)| count.all).sum();
        assert_eq!(created, JOBS, "the audit log has all of it");
        if sum.all > most * JOBS {
            beyond.push(format!("{mode:?}: {} requests for {JOBS} jobs, more than {most} each", sum.all));
        }
        let of = |verbs: &[&str]| total_of(spent.iter().filter(|((_, verb, ..), _)| verbs.contains(&verb.as_str())));
        let (updates, creates) = (of(&["update", "patch"]), of(&["create"]));
        if updates.conflicts * 100 > MOST_CONFLICTS * JOBS || sum.conflicts * WRITES > updates.all + creates.all {
            let (all, old) = (sum.conflicts, updates.conflicts);
            beyond.push(format!("{mode:?}: {all} conflicts in {JOBS} jobs, {old} of them of old copies"));
        }
    }
    assert!(beyond.is_empty(), "{}", beyond.join("\n"));
}

/// The version of each object of a kind: every write makes a new one.
async fn versions<K>(api: &Api<K>) -> BTreeMap<String, Option<String>>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + kube::Resource,
{
    let found = api.list_metadata(&ListParams::default()).await.expect("a list").items;
    let version = |o: PartialObjectMeta<K>| (o.metadata.name.unwrap_or_default(), o.metadata.resource_version);
    found.into_iter().map(version).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_at_rest_cost_no_writes() {
    const EACH: usize = 5;
    let test = Test::new().await;
    let chart = Chart::install(&test);
    let _roles = chart.roles(Server::Shared).await;
    let mut jobs = Vec::new();
    for mode in MODES {
        for _ in 0..EACH {
            jobs.push(test.apply(agent("sleep?seconds=600").mode(mode).heartbeat("20s")).await);
        }
    }
    for job in &jobs {
        job.phase(Phase::Running).await;
    }
    let before = settled(&test).await;
    let writes = || (audit::status_writes(&test.namespace), audit::run_writes(&test.namespace));
    let (written, api): (_, (Api<AgentJob>, Api<AgentRun>)) = (writes(), (test.jobs(), test.runs()));
    let seen = (versions(&api.0).await, versions(&api.1).await);
    // Three heartbeat time-outs.
    always(Duration::from_secs(60), "nothing is written", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = (versions(&api.0).await, versions(&api.1).await);
        if now == seen { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(writes(), written);
    print("a minute at rest", &difference(&before, &audit::requests(&test.namespace)), jobs.len());
}

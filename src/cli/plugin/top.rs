//! `top`: who uses how much. Active time and progress by job, or summed up by namespace. Reads jobs and runs page by page
//! and keeps of each only what is shown.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    io::Write,
    time::Duration,
};

use clap::{Args, ValueEnum};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{connect::Session, paging, text};
use crate::{
    api::{AgentJob, AgentRun, Phase, millis},
    lifecycle,
    platform::clock,
};

pub(super) const HELP: &str = "\
ACTIVE is the time that agents ran, without pauses, in all AgentRuns that are kept (spec.runHistoryLimit).
PROGRESS is what agents report of themselves.
ATTEMPTS are those that started, of the most that the retry policy allows; LIMIT is the share of
spec.timeouts.execution that the newest attempt has used.";

/// How many objects a page has: inputs may be large.
const PAGE: u32 = 100;

#[derive(Args)]
pub(super) struct Arguments {
    /// Show all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// A line for each
    #[arg(long, value_enum, default_value = "job")]
    by: By,
    /// The order
    #[arg(long, value_enum, default_value = "active")]
    sort: Sort,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum By {
    Job,
    Namespace,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Sort {
    /// The longest active time first.
    Active,
    /// By namespace and name.
    Name,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What is kept of a job.
#[derive(Clone, Debug, Default, PartialEq)]
struct Usage {
    namespace: String,
    name: String,
    phase: Phase,
    mode: Option<&'static str>,
    attempts: i32,
    /// 0: without limit.
    maximum_attempts: i32,
    active: Duration,
    /// In percent, as the agent reports it.
    progress: Option<i32>,
    /// Of the newest attempt, and how long it may be active.
    newest: (i32, Duration),
    limit: Option<Duration>,
}

impl Usage {
    fn of(job: &AgentJob) -> Self {
        let of = job.reference();
        let status = job.status.clone().unwrap_or_default();
        let resolved = status.resolved.as_ref();
        Self {
            namespace: of.namespace,
            name: of.name,
            phase: status.phase.unwrap_or_default(),
            mode: status.execution_mode().map(|m| m.as_str()),
            attempts: status.attempt.unwrap_or(0),
            maximum_attempts: resolved.map_or(0, |r| r.retry_policy.maximum_attempts),
            progress: status.progress.as_ref().and_then(|told| told.percent),
            limit: resolved.and_then(|r| r.timeouts.execution).map(|limit| limit.get()),
            ..Self::default()
        }
    }

    /// Adds one of its runs.
    fn add(&mut self, run: &AgentRun, now: &Time) {
        let active = lifecycle::active(run, now);
        self.active = self.active.saturating_add(active);
        let identity = &run.spec.identity;
        // The newest run of an attempt that was resumed knows what the earlier ones have used.
        let before = millis(identity.active_millis);
        if identity.number > self.newest.0 {
            self.newest = (identity.number, active.saturating_add(before));
        }
    }

    /// The share of its limit that the newest attempt has used, in percent.
    fn used(&self) -> Option<u64> {
        let limit = self.limit?.as_secs_f64().max(0.001);
        Some((100.0 * self.newest.1.as_secs_f64() / limit).min(100.0) as u64)
    }

    fn row(&self) -> [String; 8] {
        let most = if self.maximum_attempts > 0 { self.maximum_attempts.to_string() } else { "∞".into() };
        [
            self.namespace.clone(),
            self.name.clone(),
            self.mode.unwrap_or("-").into(),
            self.phase.as_str().into(),
            self.progress.map_or("-".into(), |percent| format!("{percent}%")),
            format!("{}/{most}", self.attempts),
            self.used().map_or("-".into(), |percent| format!("{percent}%")),
            lifecycle::duration_text(self.active),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "namespace": self.namespace, "name": self.name, "mode": self.mode, "phase": self.phase.as_str(),
            "attempts": self.attempts, "maximumAttempts": self.maximum_attempts, "limitPercent": self.used(),
            "progressPercent": self.progress,
            "activeSeconds": self.active.as_secs_f64(),
        })
    }
}

/// The jobs of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
struct Total {
    jobs: u32,
    phases: BTreeMap<&'static str, u32>,
    active: Duration,
}

/// The phases that have a column.
const COLUMNS: [Phase; 5] = [Phase::Pending, Phase::Running, Phase::Paused, Phase::Succeeded, Phase::Failed];

fn totals(jobs: &[Usage]) -> Vec<(String, Total)> {
    let mut totals = BTreeMap::<String, Total>::new();
    for job in jobs {
        let total = totals.entry(job.namespace.clone()).or_default();
        total.jobs += 1;
        *total.phases.entry(job.phase.as_str()).or_default() += 1;
        total.active = total.active.saturating_add(job.active);
    }
    totals.into_iter().collect()
}

pub(super) async fn run(session: &Session, arguments: &Arguments) -> anyhow::Result<()> {
    let mut jobs = HashMap::new();
    each(&api_of::<AgentJob>(session, arguments), |job| _ = jobs.insert(job.uid().to_string(), Usage::of(&job)))
        .await
        .map_err(|e| session.explain(e, ""))?;
    let now = Time(clock::now());
    each(&api_of::<AgentRun>(session, arguments), |run| {
        if let Some(job) = jobs.get_mut(&run.spec.identity.job_uid) {
            job.add(&run, &now);
        }
    })
    .await
    .map_err(|e| session.explain(e, ""))?;
    let lines = show(jobs.into_values().collect(), arguments);
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(())
}

fn show(mut jobs: Vec<Usage>, arguments: &Arguments) -> Vec<String> {
    jobs.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut totals = totals(&jobs);
    if arguments.sort == Sort::Active {
        jobs.sort_by_key(|job| Reverse(job.active));
        totals.sort_by_key(|(_, total)| Reverse(total.active));
    }
    match (arguments.by, arguments.output) {
        (By::Job, Output::Json) => vec![text::json(&jobs.iter().map(Usage::json).collect())],
        (By::Namespace, Output::Json) => {
            let of = |(namespace, total): &(String, Total)| {
                let (jobs, phases, active) = (total.jobs, &total.phases, total.active.as_secs_f64());
                json!({ "namespace": namespace, "jobs": jobs, "phases": phases, "activeSeconds": active })
            };
            vec![text::json(&totals.iter().map(of).collect())]
        }
        (By::Job, Output::Table) => {
            let head =
                ["NAMESPACE", "NAME", "MODE", "PHASE", "PROGRESS", "ATTEMPTS", "LIMIT", "ACTIVE"].map(str::to_string);
            let rows: Vec<_> = [head].into_iter().chain(jobs.iter().map(Usage::row)).collect();
            text::table(&rows).collect()
        }
        (By::Namespace, Output::Table) => {
            let head = ["NAMESPACE", "JOBS", "PENDING", "RUNNING", "PAUSED", "SUCCEEDED", "FAILED", "ACTIVE"];
            let row = |(namespace, total): &(String, Total)| {
                let [pending, running, paused, succeeded, failed] =
                    COLUMNS.map(|phase| total.phases.get(phase.as_str()).copied().unwrap_or(0).to_string());
                let active = lifecycle::duration_text(total.active);
                [namespace.clone(), total.jobs.to_string(), pending, running, paused, succeeded, failed, active]
            };
            let rows: Vec<_> = [head.map(str::to_string)].into_iter().chain(totals.iter().map(row)).collect();
            text::table(&rows).collect()
        }
    }
}

fn api_of<K>(session: &Session, arguments: &Arguments) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match arguments.all_namespaces {
        true => Api::all(session.client()),
        false => Api::namespaced(session.client(), &session.namespace),
    }
}

/// Takes all objects, page by page.
async fn each<K>(api: &Api<K>, mut take: impl FnMut(K)) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    paging::each(ListParams::default().limit(PAGE), async |page| {
        let list = api.list(page).await?;
        list.items.into_iter().for_each(&mut take);
        Ok(list.metadata)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        serde_json::from_value(json!(text)).unwrap()
    }

    fn run_of(number: i32, status: Value) -> AgentRun {
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun", "metadata": { "name": "r" },
            "spec": {
                "identity": { "jobName": "j", "jobUID": "u", "number": number, "attempt": 1, "podName": "p",
                    "executionMode": "Direct", "heartbeat": "10s", "activeMillis": if number == 1 { 0 } else { 30_000 } },
                "grant": { "time": "2024-11-22T10:00:00Z", "binding": 0 },
            },
            "status": status,
        }))
        .unwrap()
    }

    fn usage(namespace: &str, name: &str, phase: Phase, active: u64) -> Usage {
        let active = Duration::from_secs(active);
        Usage { namespace: namespace.into(), name: name.into(), phase, active, ..Usage::default() }
    }

    fn arguments(by: By, sort: Sort) -> Arguments {
        Arguments { all_namespaces: true, by, sort, output: Output::Table }
    }

    #[test]
    fn active_time_is_that_of_all_runs_without_pauses() {
        let limit = Some(Duration::from_secs(200));
        let mut job = Usage { limit, attempts: 1, progress: Some(7), ..Usage::default() };
        let evicted = json!({ "readyTime": "2024-11-22T10:00:00Z", "termination": { "type": "Evicted", "source": "Runner",
            "time": "2024-11-22T10:01:00Z", "started": true, "activeMillis": 30_000 } });
        // Active for 60 of 80 seconds, and paused now.
        let open = json!({ "readyTime": "2024-11-22T10:00:10Z", "pausedMillis": 20_000,
            "pausedSince": "2024-11-22T10:01:30Z" });
        let now = time("2024-11-22T11:00:00Z");
        job.add(&run_of(2, open), &now);
        job.add(&run_of(1, evicted), &now);
        assert_eq!((job.active.as_secs(), job.newest.1.as_secs(), job.used()), (90, 90, Some(45)));
        assert_eq!(job.row()[4..], ["7%", "1/∞", "45%", "90s"]);
        let mut waiting = Usage::default();
        waiting.add(&run_of(1, json!({})), &now);
        assert_eq!((waiting.active, waiting.used()), (Duration::ZERO, None));
    }

    #[test]
    fn lines_by_job_and_by_namespace() {
        let jobs = [
            usage("a", "x", Phase::Running, 10),
            usage("b", "y\u{1b}", Phase::Failed, 100),
            usage("a", "w", Phase::Running, 20),
        ];
        let lines = |by, sort| show(jobs.to_vec(), &arguments(by, sort));
        let names = |lines: Vec<String>| lines.into_iter().skip(1).map(|l| l[..12].to_string()).collect::<Vec<_>>();
        assert_eq!(names(lines(By::Job, Sort::Active)), [r"b          y", "a          w", "a          x"]);
        assert_eq!(names(lines(By::Job, Sort::Name)), ["a          w", "a          x", r"b          y"]);
        assert!(lines(By::Job, Sort::Name).iter().any(|l| l.contains(r"y\u{1b}")), "escaped");
        assert_eq!(
            lines(By::Namespace, Sort::Active),
            [
                "NAMESPACE  JOBS  PENDING  RUNNING  PAUSED  SUCCEEDED  FAILED  ACTIVE",
                "b          1     0        0        0       0          1       100s",
                "a          2     0        2        0       0          0       30s",
            ]
        );
    }
}

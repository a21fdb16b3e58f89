//! What an operator asks of the metrics: that they answer, in the right format, and as `docs/metrics.md` says.

use std::collections::{BTreeMap, BTreeSet};

use koco::api::DesiredState;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, Job, MODES, Node, Phase, Roles, Server, Test, agent, cluster, job::With, process::Process, within,
};

/// A scrape as Prometheus does it.
async fn scrape(roles: &mut Roles) -> String {
    let url = format!("http://{}/metrics", roles.role("operator").target());
    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let answer = reqwest::Client::new().get(url).header("accept", accept).send().await.expect("an answer");
    let kind = answer.headers()["content-type"].to_str().expect("text").to_string();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.expect("a body");
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

/// A sample's name, labels and value.
fn sample(line: &str) -> (&str, BTreeSet<&str>, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
    (name, labels.map(|pair| pair.split_once('=').expect("a label").0).collect(), value.parse().expect("a number"))
}

/// The labels of each metric in the reference.
fn reference() -> BTreeMap<String, BTreeSet<String>> {
    let page = include_str!("../../docs/metrics.md");
    let table = page.split_once("<!-- metrics -->").expect("a table").1;
    let rows = table.lines().filter(|l| l.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let words = |cell: &str| cell.split_whitespace().map(|w| w.trim_matches('`').to_string()).collect::<Vec<_>>();
        (words(cells[1])[0].clone(), words(cells[3]).into_iter().collect())
    })
    .collect()
}

/// The sum of all series of a metric that have these labels.
pub fn sum(text: &str, name: &str, labels: &str) -> f64 {
    let wanted = |line: &&str| sample(line).0 == name && labels.split(',').all(|label| line.contains(label));
    text.lines().filter(|l| !l.starts_with('#')).filter(wanted).map(|line| sample(line).2).sum()
}

/// Jobs of both modes, of each: one succeeds, one is paused, one fails with an error of its own.
pub async fn some_jobs(test: &Test) -> Vec<Job<'_>> {
    let mut paused = Vec::new();
    for mode in MODES {
        let done = test.apply(agent("succeed").mode(mode)).await;
        let spec = agent("exit?type=Canary").mode(mode);
        let failed =
            test.apply(spec.with(json!({ "retryPolicy": { "maximumAttempts": 2, "initialInterval": "1s" } }))).await;
        let job = test.apply(agent("sleep").mode(mode)).await;
        job.phase(Phase::Running).await;
        job.want(DesiredState::Paused).await;
        job.phase(Phase::Paused).await;
        done.phase(Phase::Succeeded).await;
        failed.phase(Phase::Failed).await;
        paused.push(job);
    }
    paused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_answer_an_operators_questions() {
    let (test, mut roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let _paused = some_jobs(&test).await;
    for mode in MODES.map(koco::api::ExecutionMode::as_str) {
        let wanted = [
            ("koco_jobs", format!("mode=\"{mode}\",phase=\"Paused\""), 1.0),
            ("koco_jobs", format!("mode=\"{mode}\",phase=\"Running\""), 0.0),
            ("koco_jobs_ended_total", format!("mode=\"{mode}\",phase=\"Succeeded\""), 1.0),
            ("koco_jobs_ended_total", format!("mode=\"{mode}\",phase=\"Failed\",error=\"Custom\""), 1.0),
            ("koco_attempts_started_total", format!("mode=\"{mode}\""), 4.0),
            ("koco_retries_total", format!("mode=\"{mode}\""), 1.0),
            ("koco_runs_ended_total", format!("mode=\"{mode}\",source=\"Runner\""), 3.0),
            ("koco_job_queue_seconds_count", format!("mode=\"{mode}\""), 3.0),
            ("koco_job_start_seconds_count", format!("mode=\"{mode}\""), 3.0),
            ("koco_job_duration_seconds_count", format!("mode=\"{mode}\""), 2.0),
            ("koco_control_seconds_count", format!("mode=\"{mode}\",state=\"Paused\""), 1.0),
        ];
        within(DEADLINE, "the counts", async || {
            let text = scrape(&mut roles).await;
            let found = wanted.iter().map(|(name, labels, want)| (name, labels, want, sum(&text, name, labels)));
            let wrong: Vec<_> = found.filter(|(_, _, want, found)| *want != found).map(|w| format!("{w:?}")).collect();
            if wrong.is_empty() { Ok(()) } else { Err(wrong) }
        })
        .await;
    }
    let text = scrape(&mut roles).await;
    for (name, labels) in [
        ("koco_build_info", "version="),
        ("koco_leader", ""),
        ("koco_gateway_streams", ""),
        ("koco_kubernetes_requests_total", "verb=\"PUT\",resource=\"agentjobs/status\",code=\"200\""),
        ("koco_kubernetes_requests_total", "verb=\"WATCH\",resource=\"agentruns\""),
        ("temporal_request_total", "operation=\"StartWorkflowExecution\""),
        ("temporal_request_latency_seconds_count", ""),
        ("temporal_worker_task_slots_available", "worker_type=\"ActivityWorker\""),
        ("process_open_fds", ""),
    ] {
        assert!(sum(&text, name, labels) > 0.0, "{name} {labels}: {text}");
    }
    for foreign in ["Canary", &test.namespace, "sleep"] {
        let ours = text.lines().filter(|l| !l.starts_with('#') && !l.contains("task_queue="));
        assert_eq!(ours.filter(|l| l.contains(foreign)).collect::<Vec<_>>(), Vec::<&str>::new(), "bounded labels");
    }
    as_in_the_reference(&text);
    let jobs = top(&test, "job").await;
    let failed = jobs.iter().filter(|j| j["phase"] == "Failed");
    assert_eq!(failed.map(|j| &j["attempts"]).collect::<Vec<_>>(), [2, 2], "{jobs:?}");
    let active = jobs.iter().filter(|j| j["phase"] == "Paused").map(|j| j["activeSeconds"].as_f64().expect("seconds"));
    assert!(
        active.clone().count() == 2 && active.clone().all(|seconds| seconds < 90.0),
        "paused time counts: {jobs:?}"
    );
    let [total] = &top(&test, "namespace").await[..] else { panic!("one namespace") };
    assert_eq!((&total["jobs"], &total["phases"]["Succeeded"]), (&json!(6), &json!(2)), "{total}");
}

/// `kubectl koco top`.
async fn top(test: &Test, by: &str) -> Vec<Value> {
    let arguments = ["top", "-n", &test.namespace, "--by", by, "-o", "json"];
    let done = tokio::process::Command::new(cluster::PLUGIN).args(arguments).output().await.expect("output");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("a list")
}

/// Each sample is in the reference, with its labels.
pub fn as_in_the_reference(text: &str) {
    let known = reference();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.starts_with("temporal_")) {
        let (name, mut labels, _) = sample(line);
        labels.remove("le");
        let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix)).next();
        let found = known.get(name).or_else(|| known.get(of_histogram?));
        let found = found.unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
        assert_eq!(labels, found.iter().map(String::as_str).collect(), "{line}");
    }
}

/// A real Prometheus that scrapes the roles, with the chart's alerts.
struct Prometheus {
    _process: Process,
    address: String,
}

impl Prometheus {
    async fn scraping(test: &Test, target: &str) -> Self {
        let folder = test.cluster.dev.join("data/tests").join(&test.namespace);
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [concat!(env!("CARGO_MANIFEST_DIR"), "/charts/koco/monitoring/alerts.yaml")],
            "scrape_configs": [{ "job_name": "koco", "static_configs": [{ "targets": [target] }] }],
        });
        std::fs::write(folder.join("prometheus.yaml"), config.to_string()).expect("its configuration");
        let address = format!("127.0.0.1:{}", cluster::port());
        let arguments = [
            format!("--config.file={}", folder.join("prometheus.yaml").display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let program = test.cluster.dev.join("tools/prometheus");
        let mut process = Process::new("prometheus", program, &arguments, &[], &test.log);
        process.start();
        let prometheus = Self { _process: process, address };
        within(DEADLINE, "a scrape", async || {
            let found = prometheus.query("up == 1").await?;
            if found.is_empty() { Err("none".to_string()) } else { Ok(()) }
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
        let url = format!("http://{}/api/v1/{path}", self.address);
        let url = reqwest::Url::parse_with_params(&url, query).expect("a URL");
        let answer = reqwest::Client::new().get(url).send().await.map_err(|e| e.to_string())?;
        let answer: Value = answer.json().await.map_err(|e| e.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer["error"].to_string()) }
    }

    /// The values of an instant query.
    async fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let data = self.get("query", &[("query", expression)]).await?;
        let series = data["result"].as_array().cloned().unwrap_or_default();
        Ok(series.iter().filter_map(|s| s["value"][1].as_str()?.parse().ok()).collect())
    }
}

/// Each query of the dashboard, as Grafana sends it, with its panel.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../charts/koco/monitoring/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter().filter(|p| p["type"] != "row");
    panels
        .flat_map(|panel| {
            let targets = panel["targets"].as_array().expect("queries");
            targets.iter().map(|target| {
                let query = target["expr"].as_str().expect("a query").replace("$__rate_interval", "2m");
                (panel["title"].to_string(), query)
            })
        })
        .collect()
}

/// What a real Prometheus has scraped answers each of the dashboard's panels with numbers, and the rules of the alerts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_that_scrapes_koco_answers_the_dashboard() {
    let test = Test::new().await;
    let mut roles = Roles::all_in_one(&test, Server::Shared);
    // The shortest interval in which it looks for leaks.
    roles.set("KOCO_LEAK_GRACE", "4s");
    roles.start().await;
    let _node = Node::automatic(&test);
    let prometheus = Prometheus::scraping(&test, &roles.role("operator").target()).await;
    // A series' first value is no increase.
    for _ in 0..2 {
        some_jobs(&test).await;
        let ends = async || prometheus.query("sum(koco_jobs_ended_total)").await;
        let before = ends().await.unwrap_or_default();
        within(DEADLINE, "a scrape of the ends", async || match ends().await {
            Ok(seen) if seen.iter().sum::<f64>() >= before.iter().sum::<f64>().max(4.0) => Ok(()),
            other => Err(other),
        })
        .await;
    }
    let queries = queries();
    assert!(queries.len() > 30, "{queries:?}");
    within(DEADLINE, "an answer to each query of the dashboard", async || {
        let mut open = Vec::new();
        for (panel, query) in &queries {
            let values = prometheus.query(query).await.unwrap_or_else(|e| panic!("{panel}: {query}: {e}"));
            if !values.iter().any(|value| value.is_finite()) {
                open.push((panel, query, values));
            }
        }
        if open.is_empty() { Ok(()) } else { Err(open) }
    })
    .await;
    let rules = within(DEADLINE, "the alerts to be evaluated", async || {
        let data = prometheus.get("rules", &[]).await?;
        let rules = data["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        let known = !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown");
        if known { Ok(rules) } else { Err(data.to_string()) }
    })
    .await;
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

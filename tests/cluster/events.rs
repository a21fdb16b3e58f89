//! An agent's events on the whole way: from its output and its socket through its runner and the gateway into the server,
//! and what is read there of each course of a job. Both modes must tell the same.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;
use koco::api::AgentJobStatus;
use kube::api::DeleteParams;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, DesiredState, ExecutionMode, Job, MODES, Phase, Roles, Server, Test, agent,
    archive::{Frames, Reader, Stored, fid, keep_events, owner},
    job::{With, pod_uid},
    node, volume, within,
};

/// How many lines the agents print that come to their end.
const LINES: u64 = 40;
/// How long the mark of a lost runner may take: the server waits for a minute.
const MARKED: Duration = Duration::from_secs(150);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Succeeds,
    Retries,
    Pauses,
    Evicted,
    Cancelled,
    Deleted,
    RunnerLost,
}

const COURSES: [Course; 7] = [
    Course::Succeeds,
    Course::Retries,
    Course::Pauses,
    Course::Evicted,
    Course::Cancelled,
    Course::Deleted,
    Course::RunnerLost,
];

impl Course {
    /// How many lines its agent has to tell.
    fn lines(self) -> u64 {
        // More than it comes to.
        if matches!(self, Self::Cancelled | Self::Deleted) { 1_000_000 } else { LINES }
    }

    fn spec(self) -> Value {
        let entry_point = match self {
            Self::Succeeds => format!("tell?lines={LINES}"),
            Self::Retries => format!("tell?lines={LINES}&failures=2"),
            Self::Pauses | Self::Evicted | Self::RunnerLost => format!("tell?lines={LINES}&each=2&every_ms=20&hold=10"),
            Self::Cancelled | Self::Deleted => format!("tell?lines={}&each=2&every_ms=50", self.lines()),
        };
        let retries = json!({ "retryPolicy": { "maximumAttempts": 3, "initialInterval": "100ms" } });
        let policy = if self == Self::Evicted { json!({ "pausePolicy": "Evict" }) } else { json!({}) };
        agent(&entry_point).with(retries).with(policy)
    }

    /// What is done while the agent runs.
    async fn run(self, job: &Job<'_>) {
        if !matches!(self, Self::Succeeds | Self::Retries) {
            job.until_log("some lines", |log| log.contains("line 4\n").then_some(())).await;
        }
        match self {
            Self::Succeeds | Self::Retries => {}
            Self::Pauses | Self::Evicted => {
                job.want(DesiredState::Paused).await;
                job.until("phase Paused", |s| s.phase == Some(Phase::Paused)).await;
                if self == Self::Pauses {
                    node::let_go(job).await;
                }
                job.want(DesiredState::Running).await;
            }
            Self::Cancelled => job.want(DesiredState::Cancelled).await,
            Self::Deleted => {
                job.delete(DeleteParams::default()).await;
                job.gone(DEADLINE).await;
            }
            Self::RunnerLost => {
                let pid = node::runner(&pod_uid(&job.running_pod().await)).await;
                node::signal(pid, Signal::SIGKILL);
            }
        }
    }
}

/// What of a run is told, but for times: each kind by itself, for they come from several places at once.
fn told(events: &[&Stored], lines: u64) -> BTreeMap<String, String> {
    // A mark has no number.
    let numbers: Vec<i64> = events.iter().map(|e| e.number).filter(|number| *number > 0).collect();
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>(), "nothing is missing, and nothing twice");
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events {
        told.entry(event.kind.clone()).or_default().push(event.payload.clone());
    }
    let summary = |(kind, payloads): (String, Vec<String>)| {
        let counted = |text: &dyn Fn(u64) -> String| {
            assert!((1..).zip(&payloads).all(|(n, payload)| *payload == text(n)), "{kind}: {payloads:?}");
            if payloads.len() as u64 == lines { "all".to_string() } else { "the first".to_string() }
        };
        let said = match kind.as_str() {
            "stdout" => counted(&|n| format!("line {n}")),
            "action" => counted(&|n| n.to_string()),
            "debug" => payloads.iter().map(|payload| end(payload)).collect::<Vec<_>>().join(", "),
            _ => payloads.join(", "),
        };
        (kind, said)
    };
    told.into_iter().map(summary).collect()
}

/// How a run ended, of what its runner said last, or the server in its place.
fn end(payload: &str) -> String {
    let told: Value = serde_json::from_str(payload).expect("JSON");
    if told["koco"]["lost"]["from"].is_u64() {
        return "lost".into();
    }
    let end = &told["koco"]["end"];
    assert!(end.is_object(), "{payload}");
    format!("{} {}", end["kind"], end["error"]["type"])
}

/// An execution as it is in the archive in the end: what it says of itself, and what its runs told.
async fn transcript(reader: &Reader, token: &str, fid: &str, course: Course) -> (Value, Vec<BTreeMap<String, String>>) {
    let end = if course == Course::Deleted { "deletionTime" } else { "completionTime" };
    let over = |found: &Value| found[end].is_string();
    let found = reader.until(fid, token, "its end", over).await;
    let what = format!("all events ({course:?})");
    let runs = within(MARKED, &what, async || {
        let events = reader.events(fid, token).await;
        assert!((1..).zip(&events).all(|(row, event)| event.row == row), "rows have no gap");
        let mut runs: BTreeMap<i64, Vec<&Stored>> = BTreeMap::new();
        events.iter().for_each(|event| runs.entry(event.run).or_default().push(event));
        let runs: Vec<_> = runs.values().map(|events| told(events, course.lines())).collect();
        let ended = match course {
            Course::Deleted => true,
            Course::RunnerLost => runs.len() > 1 && runs.iter().all(|run| run.contains_key("debug")),
            _ => runs.last().is_some_and(|run| run.contains_key("debug")),
        };
        if ended { Ok(runs) } else { Err(runs) }
    });
    let mut runs = runs.await;
    if course == Course::Deleted {
        // Whether its end is told depends on whether its run is gone by then.
        runs.iter_mut().for_each(|run| _ = run.remove("debug"));
    }
    // A job that was deleted before its end is kept as it was seen last.
    let phase = if course == Course::Deleted { &Value::Null } else { &found["phase"] };
    (json!({ "phase": phase, "attempt": found["attempt"], "error": found["errorType"] }), runs)
}

async fn roles(test: &Test) -> Roles {
    let mut roles = Roles::of(test, Server::Shared, &["operator", "server"]);
    keep_events(test, &mut roles).await;
    roles.start().await;
    roles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_modes_tell_the_same() {
    let test = Test::new().await;
    let roles = roles(&test).await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    let complete = AtomicUsize::new(0);
    let follow = async |course: Course, mode: ExecutionMode| {
        let job = test.apply(course.spec().mode(mode)).await;
        let fid = fid(&job).await;
        if matches!(course, Course::Deleted | Course::RunnerLost) {
            within(DEADLINE, "a line and an action in the archive", async || {
                let events = reader.events(&fid, &token).await;
                let all = ["stdout", "action"].iter().all(|kind| events.iter().any(|event| event.kind == *kind));
                if all { Ok(()) } else { Err(events) }
            })
            .await;
        }
        course.run(&job).await;
        let told = transcript(&reader, &token, &fid, course).await;
        if !matches!(course, Course::Cancelled | Course::Deleted) {
            let expected = if course == Course::RunnerLost { "Unknown" } else { "True" };
            let said = |status: &AgentJobStatus| condition(status, "EventsComplete").map(String::from);
            // Also False, if nothing was stored for two seconds at a run's end: what comes later is not counted.
            let ends = |said: &str| [expected, "False"].contains(&said);
            let status = job.until("EventsComplete", |status| said(status).is_some_and(|said| ends(&said))).await;
            complete.fetch_add(usize::from(said(&status).as_deref() == Some("True")), Ordering::Relaxed);
        }
        told
    };
    for course in COURSES {
        let found = join_all(MODES.map(|mode| follow(course, mode))).await;
        let [(direct, direct_told), (temporal, temporal_told)] = &found[..] else { panic!("two modes") };
        assert_eq!(direct, temporal, "{course:?}");
        assert_eq!(direct_told, temporal_told, "{course:?}");
        let runs = direct_told.len();
        let expected = match course {
            Course::Succeeds | Course::Pauses => (1, "Succeeded", 1),
            Course::Retries => (3, "Succeeded", 3),
            Course::Evicted => (2, "Succeeded", 1),
            Course::RunnerLost => (2, "Succeeded", 2),
            Course::Cancelled => (1, "Cancelled", 1),
            Course::Deleted => (1, "", 1),
        };
        let phase = direct["phase"].as_str().unwrap_or_default();
        assert_eq!((runs, phase, &direct["attempt"]), (expected.0, expected.1, &json!(expected.2)), "{course:?}");
        if course == Course::RunnerLost {
            assert_eq!(direct_told[0]["debug"], "lost");
        }
        let last = direct_told.last().expect("a run");
        for kind in ["stdout", "action"] {
            let how_much = if expected.1 == "Succeeded" { "all" } else { "the first" };
            assert_eq!(last[kind], how_much, "{course:?}");
        }
    }
    assert!(complete.into_inner() > 0, "no job's events are known to be complete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_also_where_it_always_was_and_a_stream_outlives_retries() {
    let test = Test::new().await;
    let roles = roles(&test).await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    for mode in MODES {
        let job = test.apply(Course::Retries.spec().mode(mode)).await;
        let fid = fid(&job).await;
        reader.until(&fid, &token, "the job", |_| true).await;
        let mut stream = Frames::of(&reader, &fid, &token, None).await;
        let mut streamed = Vec::new();
        while let Some((kind, _, data)) = stream.next().await
            && kind != "end"
        {
            streamed.push(serde_json::from_value::<Stored>(data).expect("an event"));
        }
        assert_eq!(streamed, reader.events(&fid, &token).await, "{mode:?}: three runs in one stream");
        let last = streamed.iter().filter(|e| e.run == 3 && e.kind == "stdout");
        let lines: Vec<&str> = last.map(|e| e.payload.as_str()).collect();
        assert_eq!(printed(&job).await, lines, "what kubectl logs shows");
    }
}

/// What comes by one server is read at another, and each follows the jobs by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_a_postgresql() {
    let test = Test::new().await;
    let url = std::env::var("KOCO_TEST_POSTGRES").expect("run it by `make cluster-test`");
    let mut roles = Roles::of(&test, Server::Shared, &["operator", "server"]);
    let mut others = Roles::of(&test, Server::Shared, &["server"]);
    keep_events(&test, &mut roles).await;
    for roles in [&mut roles, &mut others] {
        roles.set("KOCO_DATABASE_URL", &url);
        roles.start().await;
    }
    let (one, other) = (Reader::of(&test, &roles).await, Reader::of(&test, &others).await);
    let (token, lines) = (owner(&test).await, 10 * LINES);
    let job = test.apply(agent(&format!("tell?lines={lines}&each=4&every_ms=100")).grace(60)).await;
    let fid = fid(&job).await;
    other.until(&fid, &token, "the job", |_| true).await;
    let mut stream = Frames::of(&other, &fid, &token, None).await;
    let mut streamed: Vec<Stored> = Vec::new();
    while let Some((kind, _, data)) = stream.next().await
        && kind != "end"
    {
        streamed.push(serde_json::from_value(data).expect("an event"));
        if streamed.len() as u64 == lines / 4 {
            // The gateway's one is gone until the job has ended.
            roles.role("server").kill();
            other.until(&fid, &token, "its end", |found| found["completionTime"].is_string()).await;
            roles.role("server").start().await;
        }
    }
    assert_eq!(one.events(&fid, &token).await, streamed);
    assert_eq!(other.events(&fid, &token).await, streamed);
    let told = told(&streamed.iter().collect::<Vec<_>>(), lines);
    assert_eq!((told["stdout"].as_str(), told["action"].as_str()), ("all", "all"));

    job.delete(DeleteParams::default()).await;
    job.gone(DEADLINE).await;
    let path = format!("/api/v1/executions/{fid}");
    one.until(&fid, &token, "its deletion", |found| found["deletionTime"].is_string()).await;
    assert_eq!(one.send("DELETE", &path, Some(&token)).await.0, 204);
    assert_eq!(other.get(&path, &token).await.0, 403, "as one that never was");
}

/// On a volume of the server's that is full, jobs run and end, and what their agents told is stored when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_holds_up_no_job_and_gets_all_later() {
    let test = Test::new().await;
    let mut roles = Roles::of(&test, Server::Shared, &["operator", "server"]);
    keep_events(&test, &mut roles).await;
    let folder = test.cluster.dev.join("data/tests").join(&test.namespace);
    fs::create_dir_all(&folder).expect("a folder");
    roles.role("server").process.below(volume::words(&folder, "64m"));
    roles.start().await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    // More than SQLite has room for in files that it has already.
    let lines = 60_000;
    let told_by_then = 2_000;
    let spec = format!("tell?lines={lines}&each=500&every_ms=10&hold={told_by_then}");
    let job = test.apply(agent(&spec).grace(60)).await;
    let fid = fid(&job).await;
    within(DEADLINE, "what was told before", async || {
        let stored = reader.events(&fid, &token).await.len();
        if stored as u64 >= 2 * told_by_then { Ok(()) } else { Err(stored) }
    })
    .await;
    // The server's own view of its folder.
    let filler = format!("/proc/{}/root{}/filler", roles.role("server").process.pid(), folder.display());
    let mut file = File::create(&filler).expect("the filler");
    while file.write_all(&[0; 65536]).is_ok() {}
    drop(file);
    node::let_go(&job).await;
    let status = job.phase(Phase::Succeeded).await;
    assert_eq!(condition(&status, "EventsComplete"), Some("False"));
    let refused = roles.role("server").metrics().await;
    assert!(refused.contains("koco_server_appends_total{outcome=\"DiskFull\"}"), "{refused}");
    assert!(reader.events(&fid, &token).await.len() < 2 * lines as usize, "the volume is not full");

    fs::remove_file(&filler).expect("the filler");
    let all = within(DEADLINE, "all events", async || {
        let events = reader.events(&fid, &token).await;
        if events.iter().any(|event| event.kind == "debug") { Ok(events) } else { Err(events.len()) }
    })
    .await;
    let told = told(&all.iter().collect::<Vec<_>>(), lines);
    assert_eq!((told["stdout"].as_str(), told["action"].as_str()), ("all", "all"));
}

/// Whether a condition is True, if it is there.
fn condition<'s>(status: &'s AgentJobStatus, kind: &str) -> Option<&'s str> {
    status.conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str())
}

/// Events that are off take nothing from a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_kept_only_where_it_is_to_be() {
    let test = Test::new().await;
    let roles = roles(&test).await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    let spec = Course::Succeeds.spec().with(json!({ "events": { "stdio": false } }));
    let job = test.apply(spec).await;
    let fid = fid(&job).await;
    let (_, runs) = transcript(&reader, &token, &fid, Course::Succeeds).await;
    assert_eq!((runs[0].get("stdout"), runs[0]["action"].as_str()), (None, "all"));
    assert_eq!(printed(&job).await.len() as u64, LINES);
}

/// The agent's own lines in the log of its last pod.
async fn printed(job: &Job<'_>) -> Vec<String> {
    job.log().await.lines().filter(|line| !line.starts_with("koco-runner: ")).map(String::from).collect()
}

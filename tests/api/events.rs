//! Agents' events: on their way through a real gateway into a real server, and back to those who may read them.

use k8s_openapi::jiff::Timestamp;
use koco::{
    api::{RunnerState, TerminationType, names},
    protocol::events::{CONTENT_TYPE, append_path},
};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

pub use crate::harness::archive::Frames;
use crate::harness::{
    DEADLINE, Job, Kubelet, MODES, Phase, Roles, Runner, Server, Test, agent,
    archive::{Reader, account, fid, keep_events, owner, token},
    by_hand::{started, succeeds_with},
    gateway_client::token_of,
    job::{With, condition, pod_name},
    kubelet::End,
    runner::{Refused, failed, succeeded},
    within,
};

/// An operator and a server that keeps its agents' events, started.
pub async fn roles(test: &Test, temporal: Server<'_>) -> Roles {
    let mut roles = Roles::of(test, temporal, &["operator", "server"]);
    keep_events(test, &mut roles).await;
    roles.start().await;
    roles
}

pub fn lines(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|n| format!("line {n}")).collect()
}

/// Sends lines until they are taken: what is stored then.
pub async fn told(runner: &Runner, from: u64, oldest: u64, lines: &[String]) -> u64 {
    let what = format!("events {from} of {} to be stored", runner.run);
    let answer = within(DEADLINE, &what, async || match runner.tell(from, oldest, lines).await {
        Ok((200, stored)) => Ok(stored),
        other => Err(other),
    });
    answer.await
}

/// All events that are read page by page: row, run, number and payload.
pub async fn read(reader: &Reader, fid: &str, token: &str) -> Vec<(i64, i64, i64, String)> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let (status, page) = reader.get(&format!("/api/v1/executions/{fid}/events?after={after}&limit=2"), token).await;
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2, "{page}");
        if items.is_empty() {
            return all;
        }
        let number = |item: &Value, name: &str| item[name].as_i64().expect("a number");
        all.extend(items.iter().map(|i| {
            let payload = i["payload"].as_str().expect("a text").to_string();
            (number(i, "row"), number(i, "run"), number(i, "number"), payload)
        }));
        after = number(&page, "after");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_told_is_read_when_its_job_is_gone() {
    let test = Test::new().await;
    let mut roles = roles(&test, Server::Shared).await;
    let (reader, token) = (Reader::of(&test, &roles).await, owner(&test).await);
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let job = test.apply(agent("anything").mode(mode)).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let events = runner.register(RunnerState::Running, 0).await.expect("a job").events;
        assert!(events.is_some_and(|events| events.stdio), "the runner is told to send them");
        let fid = fid(&job).await;
        assert_eq!(told(&runner, 1, 1, &lines(1, 3)).await, 3);
        let mut stream = Frames::of(&reader, &fid, &token, None).await;
        for n in 1..=3 {
            assert_eq!(stream.line().await, format!("line {n}"));
        }
        // Repeated, in part and whole; and with a gap, whose events there still are.
        assert_eq!(runner.tell(1, 1, &lines(1, 3)).await, Ok((200, 3)));
        assert_eq!(runner.tell(2, 1, &lines(2, 4)).await, Ok((200, 4)));
        assert_eq!(stream.line().await, "line 4", "as it comes");
        assert_eq!(runner.tell(6, 1, &lines(6, 6)).await, Ok((409, 4)));
        // Without a server all else goes on, and nothing is lost or twice when it is back.
        roles.role("server").kill();
        assert_eq!(runner.tell(5, 1, &lines(5, 5)).await.map_err(|r| r.code()), Err(503));
        runner.heartbeat(RunnerState::Running, 0).await.expect("204");
        roles.start_again().await;
        assert_eq!(told(&runner, 4, 4, &lines(4, 6)).await, 6);
        let to_the_end = Frames::of(&reader, &fid, &token, Some("4")).await;
        // What the runner has lost doesn't hold up the rest.
        assert_eq!(told(&runner, 9, 9, &lines(9, 9)).await, 9);
        succeeds_with(&kubelet, &job, &pod, &runner, json!(1), Some(10)).await;
        // Those that come after the end.
        assert_eq!(told(&runner, 10, 10, &lines(10, 10)).await, 10);
        job.delete(DeleteParams::default()).await;
        job.gone(DEADLINE).await;
        reader.until(&fid, &token, "its deletion", |found| found["deletionTime"].is_string()).await;
        let lost = r#"{"koco":{"lost":{"from":7,"to":8}}}"#.to_string();
        let numbers = [1, 2, 3, 4, 5, 6, 8, 9, 10];
        let text = |n| if n == 8 { lost.clone() } else { format!("line {n}") };
        let expected: Vec<_> = (1..).zip(numbers).map(|(row, n)| (row, 1, n, text(n))).collect();
        assert_eq!(read(&reader, &fid, &token).await, expected, "{mode:?}");
        // The same from where a stream was left, whether it has waited for the end or not.
        for mut stream in [to_the_end, Frames::of(&reader, &fid, &token, Some("4")).await] {
            for (row, _, _, payload) in &expected[4..] {
                let (_, id, data) = stream.next().await.expect("an event");
                assert_eq!((id, &data["payload"]), (row.to_string(), &json!(payload)));
            }
            assert_eq!(stream.next().await, Some(("end".into(), String::new(), json!({}))));
            assert_eq!(stream.next().await, None);
        }
        // Its run is gone, too: no more is taken.
        let late = within(DEADLINE, "late events to be refused for good", async || {
            match runner.tell(11, 11, &lines(11, 11)).await {
                Err(Refused::Code(410, _)) => Ok(()),
                other => Err(other),
            }
        });
        late.await;
    }
}

/// What a runner still has when the server comes back is not missing in a stream, however long the job has been over; and
/// when all that the run has is there, no more is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_waits_for_what_is_late_and_nothing_comes_after_the_last() {
    let test = Test::new().await;
    let mut roles = roles(&test, Server::None).await;
    let (reader, token, kubelet) = (Reader::of(&test, &roles).await, owner(&test).await, Kubelet::of(&test));
    let job = test.apply(agent("anything")).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;
    let fid = fid(&job).await;
    assert_eq!(told(&runner, 1, 1, &lines(1, 2)).await, 2);
    roles.role("server").kill();
    runner.outcome_of(0, succeeded(json!(1)), Some(4), Some(2)).await.expect("204");
    kubelet.end(&pod_name(&pod), &End::exit(0, None)).await;
    let ended = job.phase(Phase::Succeeded).await.completion_time.expect("a time").0;
    roles.start_again().await;
    let run_ended = |found: &Value| found["phase"] == "Succeeded" && found["runs"][0]["events"] == 4;
    reader.until(&fid, &token, "the run's end", run_ended).await;
    // So long that nothing would be waited for if it were not known how many events the run has.
    within(DEADLINE, "the end to be long ago", async || {
        let ago = Timestamp::now().duration_since(ended);
        if ago.as_secs() > 10 { Ok(()) } else { Err(ago) }
    })
    .await;
    let mut stream = Frames::of(&reader, &fid, &token, None).await;
    assert_eq!((stream.line().await.as_str(), stream.line().await.as_str()), ("line 1", "line 2"));
    for n in 3..=4 {
        assert_eq!(told(&runner, n, n, &lines(n, n)).await, n);
        assert_eq!(stream.line().await, format!("line {n}"));
    }
    assert_eq!(stream.next().await, Some(("end".into(), String::new(), json!({}))));
    assert_eq!(runner.tell(5, 5, &lines(5, 5)).await.map_err(|r| r.code()), Err(410));
    assert_eq!(runner.tell(4, 4, &lines(4, 4)).await, Ok((200, 4)), "a repeat is no error");
    assert_eq!(read(&reader, &fid, &token).await.len(), 4);
}

/// The server of a test, an agent that has told something, and its runner.
pub async fn with_events<'t>(test: &'t Test, kubelet: &Kubelet) -> (Roles, Reader, Job<'t>, Runner, String) {
    let roles = roles(test, Server::None).await;
    let reader = Reader::of(test, &roles).await;
    let job = test.apply(agent("anything")).await;
    let (_, runner) = started(kubelet, &job, 1).await;
    assert_eq!(told(&runner, 1, 1, &lines(1, 1)).await, 1);
    let fid = fid(&job).await;
    (roles, reader, job, runner, fid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_its_runner_tells_of_a_run() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (_roles, reader, _job, victim, fid) = with_events(&test, &kubelet).await;
    let other = test.apply(agent("anything")).await;
    let (_, attacker) = started(&kubelet, &other, 1).await;
    for from in [1, 2] {
        let refused = attacker.tell_of(&victim.run, from, from, &["forged".into()]).await;
        assert_eq!(refused.map_err(|r| r.code()), Err(403));
    }
    // Nor does anybody pass a gateway by.
    account(&test, &test.namespace, "reader", &["get", "delete"], &[]).await;
    let gateway = token_of(&test.client, &test.namespace, "gateway", Some(names::GATEWAY_AUDIENCE), None).await;
    let path = append_path(&fid, "1");
    let body = "{\"from\":2,\"oldest\":2}\n{\"ts\":1,\"kind\":\"stdout\",\"payload\":\"forged\"}\n";
    for (who, token, expected) in [
        ("nobody", None, 401),
        ("a token of another audience", Some(gateway), 401),
        ("the default account", Some(token(&test, "default").await), 403),
        ("a reader", Some(token(&test, "reader").await), 403),
    ] {
        let (status, answer) = reader.post(&path, token.as_deref(), CONTENT_TYPE, body.into()).await;
        assert_eq!(status, expected, "{who}: {answer}");
    }
    assert_eq!(read(&reader, &fid, &token(&test, "reader").await).await, [(1, 1, 1, "line 1".to_string())]);
    // What is no batch stores nothing, also if a gateway sends it.
    let gateway = token(&test, "gateway").await;
    let unknown = append_path("000000000000000000000000", "1");
    let zero = append_path(&fid, "0");
    for (path, body, expected) in [
        (&path, "x", 400),
        (&path, "{\"from\":1,\"oldest\":1}\n", 400),
        (&zero, body, 400),
        (&unknown, body, 404),
        (&path, body, 200),
    ] {
        let (status, answer) = reader.post(path, Some(&gateway), CONTENT_TYPE, body.into()).await;
        assert_eq!(status, expected, "{path} {body}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_read_by_those_alone_who_may() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (_roles, reader, job, runner, fid) = with_events(&test, &kubelet).await;
    account(&test, &test.namespace, "stranger", &[], &[]).await;
    account(&test, &test.namespace, "writer", &["delete", "list", "watch"], &[]).await;
    account(&test, &test.namespace, "other", &["get"], &["another-job"]).await;
    account(&test, &test.namespace, "one", &["get"], &[&job.name]).await;
    let path = format!("/api/v1/executions/{fid}/events");
    assert_eq!(reader.send("GET", &path, None).await.0, 401);
    for name in ["stranger", "writer", "other"] {
        let token = token(&test, name).await;
        assert_eq!(reader.get(&path, &token).await.0, 403, "{name}");
        assert_eq!(reader.stream(&fid, &token, None).await.status().as_u16(), 403, "{name}");
    }
    let one = token(&test, "one").await;
    for parameters in ["limit=0", "limit=1001", "after=-1", "after=x", "what=1"] {
        assert_eq!(reader.get(&format!("{path}?{parameters}"), &one).await.0, 400, "{parameters}");
    }
    for id in ["x", "-1"] {
        assert_eq!(reader.stream(&fid, &one, Some(id)).await.status().as_u16(), 400, "{id}");
    }
    // A right that is taken away ends a stream, though nothing comes.
    let mut stream = Frames::of(&reader, &fid, &one, None).await;
    assert_eq!(stream.line().await, "line 1");
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> = Api::namespaced(test.client.clone(), &test.namespace);
    bindings.delete("one", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(stream.next().await, None);
    assert_eq!(told(&runner, 2, 2, &lines(2, 2)).await, 2);
    assert_eq!(reader.stream(&fid, &one, None).await.status().as_u16(), 403);
}

/// The bytes of memory that a process has.
fn memory(pid: i32) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("statm");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_are_slow_cost_no_memory_and_miss_nothing() {
    const READERS: usize = 24;
    const EVENTS: u64 = 60;
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (mut roles, reader, _job, runner, fid) = with_events(&test, &kubelet).await;
    let token = owner(&test).await;
    let mut slow = Vec::new();
    for _ in 0..READERS {
        slow.push(Frames::of(&reader, &fid, &token, None).await);
    }
    let mut fast = Frames::of(&reader, &fid, &token, None).await;
    let payload = |n: u64| format!("{n} ").repeat(128 * 1024);
    for n in 2..=EVENTS {
        assert_eq!(told(&runner, n, n, &[payload(n)]).await, n);
    }
    assert_eq!(fast.line().await, "line 1");
    for n in 2..=EVENTS {
        assert!(fast.line().await == payload(n), "{n}");
    }
    // With all that they have not read, of 20 MB each, it would be more than 400 MB.
    let used = memory(roles.role("server").process.pid());
    assert!(used < 300 << 20, "{} MiB", used >> 20);
    let mut last = slow.pop().expect("a reader");
    drop(slow);
    assert_eq!(last.line().await, "line 1");
    for n in 2..=EVENTS {
        assert!(last.line().await == payload(n), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reader_has_only_so_many_streams() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (_roles, reader, _job, _runner, fid) = with_events(&test, &kubelet).await;
    let token = owner(&test).await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(Frames::of(&reader, &fid, &token, None).await);
    }
    assert_eq!(reader.stream(&fid, &token, None).await.status().as_u16(), 429);
    let path = format!("/api/v1/executions/{fid}/events");
    assert_eq!(reader.get(&path, &token).await.0, 200, "pages are no streams");
    drop(open);
    within(DEADLINE, "a place for a stream", async || {
        match reader.stream(&fid, &token, None).await.status().as_u16() {
            200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_up_nothing_but_events() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (mut roles, _reader, job, runner, _fid) = with_events(&test, &kubelet).await;
    roles.role("server").freeze();
    let runner = std::sync::Arc::new(runner);
    // More than the requests that a run may have at a time.
    let told: Vec<_> = (0..12)
        .map(|n| {
            let runner = runner.clone();
            tokio::spawn(async move { runner.tell(2, 2, &lines(2, 2 + n)).await.map_err(|r| r.code()) })
        })
        .collect();
    for _ in 0..20 {
        runner.heartbeat(RunnerState::Running, 0).await.expect("204");
    }
    runner.register(RunnerState::Running, 0).await.expect("a job");
    let missing = runner.outcome_missing(0, failed("AgentFailed", 1), Some(5)).await;
    missing.expect("204");
    let mut codes = Vec::new();
    for told in told {
        codes.push(told.await.expect("no panic").expect_err("nothing is stored"));
    }
    assert!(codes.iter().all(|code| [429, 503].contains(code)) && codes.contains(&429), "{codes:?}");
    roles.role("server").thaw();
    let status = job.until("its condition", |s| s.conditions.iter().any(|c| c.type_ == "EventsComplete")).await;
    let (value, reason, message) = condition(&status, "EventsComplete");
    assert_eq!((value.as_str(), reason.as_str()), ("False", "EventsMissing"));
    assert!(message.starts_with("5 events"), "{message}");
    let termination = job.runs().await[0].termination().cloned().expect("an end");
    assert_eq!((termination.kind, termination.events_missing), (TerminationType::Failed, Some(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_no_runner_sends_events() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    let job = test.apply(agent("anything")).await;
    let (_, runner) = started(&kubelet, &job, 1).await;
    assert_eq!(runner.register(RunnerState::Running, 0).await.expect("a job").events, None);
    assert_eq!(runner.tell(1, 1, &lines(1, 1)).await.map_err(|r| r.code()), Err(503));
}

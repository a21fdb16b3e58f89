//! What an agent prints and sends on its socket, as events, and what its log is beside them.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use axum::http::StatusCode;
use koco::{
    api::{DesiredState, RunnerState, TerminationType},
    protocol::{
        events::{EventsConfig, Kind},
        runner::Job,
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::harness::{Run, job, namespaces};

/// A job whose events are kept, with what it prints.
fn loud(entry_point: &str) -> Job {
    Job { events: Some(EventsConfig { stdio: true }), ..job(entry_point) }
}

fn shell(script: &str) -> Vec<OsString> {
    ["/bin/sh", "-c", script].map(Into::into).to_vec()
}

/// Runs a script as the agent until the runner's end.
async fn script(script: &str, prepare: impl FnOnce(&Run)) -> Run {
    let mut run = Run::with(loud("x"), shell(script), false, "koco-gateway").await;
    prepare(&run);
    run.grant();
    run.exited().await;
    run
}

/// What the runner has in its spool's files, in bytes, as seen from outside.
fn spooled(run: &Run) -> u64 {
    let files = fs::read_dir(format!("/proc/{}/fd", run.pid())).into_iter().flatten().flatten();
    let is_spool =
        |path: &std::path::PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("/.spool-"));
    files.map(|file| file.path()).filter(is_spool).filter_map(|path| fs::metadata(path).ok()).map(|m| m.size()).sum()
}

/// The runner's resident memory, in KiB, at its highest.
fn memory(run: &Run) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", run.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Without the runner's lines, which may stand between any two writes of the agent.
fn without_own_lines(mut log: Vec<u8>) -> Vec<u8> {
    const BEGIN: &[u8] = b"koco-runner: ";
    while let Some(begin) = log.windows(BEGIN.len()).position(|bytes| bytes == BEGIN) {
        let end = log[begin..].iter().position(|byte| *byte == b'\n').expect("the end of a line");
        log.drain(begin..=begin + end);
    }
    log
}

#[tokio::test]
async fn a_log_has_the_bytes_that_were_printed_and_the_archive_has_the_lines() {
    let text = "head -c 300000 /dev/urandom | tee \"$KODO_RESULT_FILE-out\"; \
                head -c 200000 /dev/urandom | tee \"$KODO_RESULT_FILE-err\" >&2; \
                echo; printf 'two\\r\\n\\nlast, without an end'";
    let run = script(text, |_| {}).await;
    let file = |name: &str| fs::read(run.dir.join("state/out").join(name)).unwrap();
    let stdout = [file("result.json-out"), b"\ntwo\r\n\nlast, without an end".to_vec()].concat();
    assert!(fs::read(run.dir.join("stdout")).unwrap() == stdout);
    assert!(without_own_lines(fs::read(run.dir.join("stderr")).unwrap()) == file("result.json-err"));
    let heard = run.gateway.heard();
    let lines = heard.payloads(Kind::Stdout);
    assert_eq!(lines[lines.len() - 3..], ["two", "", "last, without an end"]);
    assert!(lines.iter().all(|line| !line.contains(['\0', '\n']) && line.len() <= 3 * 16 * 1024));
    assert!(heard.payloads(Kind::Stderr).concat().contains('\u{fffd}'));
    assert_eq!(heard.events.last().unwrap().kind, Kind::Debug, "the end is the last");
}

#[tokio::test]
async fn every_line_arrives_once_and_in_order_over_a_gateway_that_fails() {
    let run = script("seq 1 20000", |run| run.gateway.heard().events_fail_at_random = true).await;
    let expected: Vec<String> = (1..=20_000).map(|n| n.to_string()).collect();
    let heard = run.gateway.heard();
    assert!(heard.batches > 4);
    assert!(heard.payloads(Kind::Stdout) == expected, "{} lines", heard.payloads(Kind::Stdout).len());
    assert_eq!(heard.events.len(), 20_004);
    assert_eq!(run.stdout().lines().count(), 20_000);
}

/// A limit on memory that is far below the size of the spool. The program of the tests is larger than the one of a release.
const MEMORY: u64 = 40 * 1024;

#[tokio::test]
async fn an_agent_that_prints_without_end_can_be_paused_and_takes_no_memory() {
    if !namespaces() {
        return;
    }
    let endless = "exec yes \"$(head -c 4000 /dev/zero | tr '\\0' x)\" >&2";
    let run = Run::silent(loud("x"), shell(endless)).await;
    run.gateway.heard().answer_events = StatusCode::SERVICE_UNAVAILABLE;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    run.until("a spool that is full", |_| (spooled(&run) > 47 << 20).then_some(())).await;
    run.command(DesiredState::Paused, 1);
    let confirm = run.confirmed(RunnerState::Frozen, 1).await;
    assert_eq!(confirm.problem, None);
    run.heartbeats(3).await;
    assert!(spooled(&run) < 64 << 20);
    assert!(memory(&run) < MEMORY, "{} KiB", memory(&run));
    // What had no place is counted, once there is place again.
    run.gateway.heard().answer_events = StatusCode::OK;
    run.until("all that was spooled", |_| (spooled(&run) == 0).then_some(())).await;
    run.command(DesiredState::Running, 2);
    run.until("what was dropped", |heard| {
        heard.payloads(Kind::Debug).iter().find(|text| text.contains("dropped")).map(drop)
    })
    .await;
    assert!(memory(&run) < MEMORY, "{} KiB", memory(&run));
    run.command(DesiredState::Cancelled, 3);
    assert_eq!(run.outcome().await.kind, TerminationType::Cancelled);
    assert!(run.gateway.heard().payloads(Kind::Stderr).iter().all(|line| line.len() == 4000));
}

#[tokio::test]
async fn a_daemon_that_holds_the_agents_output_holds_up_no_end() {
    let leave = "echo before; pid=\"$KODO_RESULT_FILE-pid\"; \
                 setsid sh -c 'echo $$ >\"$0\"; exec sleep 60' \"$pid\" & \
                 while ! [ -s \"$pid\" ]; do sleep 0.05; done; cat \"$pid\"";
    let run = script(leave, |_| {}).await;
    let daemon: i32 = run.stdout().lines().nth(1).unwrap().parse().unwrap();
    let lives = kill(Pid::from_raw(daemon), Signal::SIGKILL).is_ok();
    assert!(lives, "it was there all the time");
    let heard = run.gateway.heard();
    assert_eq!(heard.payloads(Kind::Stdout), ["before", &daemon.to_string()]);
    assert_eq!(heard.outcomes[0].end.kind, TerminationType::Succeeded);
    assert_eq!(heard.events_before_outcome, [heard.events.len()]);
}

#[tokio::test]
async fn an_agent_finds_no_spool() {
    let look = "ls -A \"$(dirname \"$KODO_RUNNER_SOCK\")\"; \
                for file in /proc/$PPID/fd/*; do ( : <$file ) && echo opened $file; done; echo looked; sleep 60";
    let run = Run::with(loud("x"), shell(look), false, "koco-gateway").await;
    run.grant();
    run.printed("looked").await;
    let found = run.stdout();
    assert!(found.contains("runner.sock") && !found.contains("spool") && !found.contains("opened"), "{found}");
    let open = fs::read_dir(format!("/proc/{}/fd", run.pid())).unwrap().flatten();
    let spools = open.filter(|f| fs::read_link(f.path()).is_ok_and(|to| to.to_string_lossy().contains("/.spool-")));
    assert!(spools.count() > 10, "they are there");
}

#[tokio::test]
async fn without_events_the_agent_has_the_runners_output() {
    let look = "for n in 1 2; do readlink /proc/$$/fd/$n; done";
    let command = || shell(look);
    for (events, pipes) in
        [(None, 0), (Some(EventsConfig { stdio: false }), 0), (Some(EventsConfig { stdio: true }), 2)]
    {
        let mut run = Run::with(Job { events, ..job("x") }, command(), false, "koco-gateway").await;
        run.grant();
        run.exited().await;
        assert_eq!(run.stdout().matches("pipe:").count(), pipes, "{}", run.stdout());
    }
}

/// An agent's connection.
struct Client(BufReader<UnixStream>);

impl Client {
    async fn connect(run: &Run) -> Self {
        let stream = UnixStream::connect(run.dir.join("state/runner.sock")).await.unwrap();
        Self(BufReader::new(stream))
    }

    async fn send(&mut self, seq: u64, kind: &str, payload: &str) {
        let line = format!("{}\n", json!({ "seq": seq, "kind": kind, "payload": payload }));
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }
}

#[tokio::test]
async fn what_an_agent_sends_is_acknowledged_and_stored_in_its_order() {
    let mut run = Run::start(loud("count")).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    let mut client = Client::connect(&run).await;
    for (seq, kind) in [(1, "agent"), (2, "action"), (3, "result"), (4, "debug"), (9, "final")] {
        client.send(seq, kind, &format!("{{\"n\":{seq}}}")).await;
        assert_eq!(client.answer().await, json!({ "ack": seq }));
    }
    for (seq, kind) in [(10, "lock"), (11, "alive")] {
        client.send(seq, kind, "x").await;
        let error = client.answer().await;
        assert_eq!((&error["error"]["seq"], &error["error"]["reason"]), (&json!(seq), &json!("NotSupported")));
    }
    // Half a line, then the rest with others, without waiting.
    client.0.get_mut().write_all(b"{\"seq\":12,\"kind\":\"re").await.unwrap();
    client.0.get_mut().write_all(b"sult\",\"payload\":\"half\"}\nnonsense\n").await.unwrap();
    client.send(13, "error", "a traceback").await;
    assert_eq!(client.answer().await, json!({ "ack": 12 }));
    assert_eq!(client.answer().await["error"]["reason"], "Invalid");
    assert_eq!(client.answer().await, json!({ "ack": 13 }));
    run.command(DesiredState::Cancelled, 1);
    run.exited().await;
    let heard = run.gateway.heard();
    let of_agent =
        |event: &&koco::protocol::events::Event| !event.payload.contains("koco") && event.kind != Kind::Stdout;
    let sent: Vec<_> =
        heard.events.iter().filter(of_agent).map(|event| (event.kind.as_str(), &*event.payload)).collect();
    let expected = [
        ("agent", r#"{"n":1}"#),
        ("action", r#"{"n":2}"#),
        ("result", r#"{"n":3}"#),
        ("debug", r#"{"n":4}"#),
        ("final", r#"{"n":9}"#),
        ("result", "half"),
        ("error", "a traceback"),
    ];
    assert_eq!(sent[3..], expected);
}

#[tokio::test]
async fn what_an_agent_sent_last_is_read_after_its_end() {
    // It doesn't wait for the acknowledgement.
    let last = "exec 2>/dev/null; python3 -c 'import os,socket; s=socket.socket(socket.AF_UNIX); \
                s.connect(os.environ[\"KODO_RUNNER_SOCK\"]); \
                s.sendall(b\"\".join(b\"{\\\"seq\\\":%d,\\\"kind\\\":\\\"result\\\",\\\"payload\\\":\\\"%d\\\"}\\n\" % (n, n) \
                for n in range(5000))); os._exit(0)'";
    if Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    let run = script(last, |_| {}).await;
    let expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    assert!(run.gateway.heard().payloads(Kind::Result) == expected);
}

#[tokio::test]
async fn where_no_events_are_kept_what_is_sent_is_acknowledged() {
    let mut run = Run::start(job("count")).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    let mut client = Client::connect(&run).await;
    client.send(7, "result", "{}").await;
    assert_eq!(client.answer().await, json!({ "ack": 7 }));
    run.command(DesiredState::Cancelled, 1);
    run.exited().await;
    assert_eq!(run.gateway.heard().batches, 0);
}

#[tokio::test]
async fn a_full_spool_holds_up_who_sends_and_nothing_else() {
    let mut run = Run::start(loud("count")).await;
    run.gateway.heard().answer_events = StatusCode::SERVICE_UNAVAILABLE;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    let payload = "y".repeat(1 << 20);
    let Client(stream) = Client::connect(&run).await;
    let (read, mut write) = stream.into_inner().into_split();
    let line = move |seq: u64| format!("{}\n", json!({ "seq": seq, "kind": "result", "payload": payload }));
    let writes = tokio::spawn(async move {
        for seq in 1..=80 {
            write.write_all(line(seq).as_bytes()).await.unwrap();
        }
    });
    run.until("a spool that is full", |_| (spooled(&run) > 61 << 20).then_some(())).await;
    run.heartbeats(3).await;
    assert!(!writes.is_finished() && spooled(&run) <= 64 << 20);
    assert!(memory(&run) < MEMORY, "{} KiB", memory(&run));
    run.gateway.heard().answer_events = StatusCode::OK;
    let mut answers = BufReader::new(read).lines();
    for seq in 1..=80 {
        assert_eq!(answers.next_line().await.unwrap().unwrap(), format!("{{\"ack\":{seq}}}"));
    }
    run.command(DesiredState::Cancelled, 1);
    run.exited().await;
    assert_eq!(run.gateway.heard().payloads(Kind::Result).len(), 80);
}

#[tokio::test]
async fn connections_and_lines_without_end_take_no_memory() {
    let mut run = Run::start(loud("count")).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    let mut clients = vec![];
    for _ in 0..60 {
        clients.push(Client::connect(&run).await);
    }
    let writes = clients.into_iter().map(|Client(stream)| {
        tokio::spawn(async move {
            let mut stream = stream.into_inner();
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
        })
    });
    let writes: Vec<_> = writes.collect();
    run.until("one that is refused", |_| writes.iter().any(|write| write.is_finished()).then_some(())).await;
    run.heartbeats(3).await;
    assert!(memory(&run) < MEMORY, "{} KiB", memory(&run));
    writes.iter().for_each(|write| write.abort());
    let mut client = Client::connect(&run).await;
    client.send(1, "result", "{}").await;
    assert_eq!(client.answer().await, json!({ "ack": 1 }), "and others are served");
    run.command(DesiredState::Cancelled, 1);
    run.exited().await;
}

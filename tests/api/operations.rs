//! Operating a server: what its metrics say, and a copy of its archive that is made while it runs.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::{
    archive::{Reader, fid, owner},
    events::{Frames, lines, read, roles, told},
    harness::{
        DEADLINE, Kubelet, Server, Test, agent,
        by_hand::{started, succeeds},
        cluster::KOCO,
        within,
    },
    metrics::{as_in_the_reference, sum},
};

/// `koco server COMMAND` for a folder.
async fn copies(folder: &Path, command: &str, input: Option<&[u8]>) -> Output {
    let mut child = tokio::process::Command::new(KOCO)
        .args(["server", command])
        .env("KOCO_SERVER_DATA", folder)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("koco");
    if let Some(input) = input {
        // One that refuses before it reads fails here, and says why.
        let _ = child.stdin.take().expect("its input").write_all(input).await;
    }
    child.wait_with_output().await.expect("its end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_archive_is_whole_and_serves_in_its_place() {
    let test = Test::new().await;
    let mut roles = roles(&test, Server::None).await;
    let (reader, token, kubelet) = (Reader::of(&test, &roles).await, owner(&test).await, Kubelet::of(&test));
    let job = test.apply(agent("anything")).await;
    let (_, runner) = started(&kubelet, &job, 1).await;
    let fid = fid(&job).await;
    assert_eq!(told(&runner, 1, 1, &lines(1, 3)).await, 3);

    let folder = test.cluster.dev.join("data/tests").join(&test.namespace);
    let other = folder.with_extension("other");
    let copy = copies(&folder, "backup", None).await;
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    // What comes later is not in it.
    assert_eq!(told(&runner, 4, 1, &lines(4, 4)).await, 4);
    let cut = copies(&other, "restore", Some(&copy.stdout[..copy.stdout.len() - 1])).await;
    let said = String::from_utf8_lossy(&cut.stderr);
    assert!(!cut.status.success() && said.contains("the copy can't be used"), "{said}");
    let restored = copies(&other, "restore", Some(&copy.stdout)).await;
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let running = copies(&folder, "restore", Some(&copy.stdout)).await;
    let said = String::from_utf8_lossy(&running.stderr);
    assert!(!running.status.success() && said.contains("another process has this folder"), "{said}");

    roles.role("server").kill();
    roles.role("server").process.set("KOCO_SERVER_DATA", Some(other.display().to_string()));
    roles.start_again().await;
    let payloads = async || {
        let all = read(&reader, &fid, &token).await;
        all.into_iter().map(|(_, _, _, payload)| payload).collect::<Vec<_>>()
    };
    assert_eq!(payloads().await, lines(1, 3));
    // The runner no longer has what was stored in the other.
    assert_eq!(told(&runner, 5, 5, &lines(5, 5)).await, 5);
    let lost = json!({ "koco": { "lost": { "from": 4, "to": 4 } } }).to_string();
    assert_eq!(payloads().await, [lines(1, 3), vec![lost], lines(5, 5)].concat());
    assert_eq!(roles.role("server").count("koco_server_events_lost_total").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_the_server_say_what_it_does() {
    let test = Test::new().await;
    let mut roles = roles(&test, Server::None).await;
    let (reader, token, kubelet) = (Reader::of(&test, &roles).await, owner(&test).await, Kubelet::of(&test));
    let job = test.apply(agent("anything")).await;
    let (pod, runner) = started(&kubelet, &job, 1).await;
    let fid = fid(&job).await;
    assert_eq!(told(&runner, 1, 1, &lines(1, 3)).await, 3);
    assert_eq!(runner.tell(5, 1, &lines(5, 5)).await, Ok((409, 3)));
    let mut stream = Frames::of(&reader, &fid, &token, None).await;
    assert_eq!(stream.line().await, "line 1");
    assert_eq!(reader.send("GET", "/health", None).await.0, 401);
    let text = roles.role("server").metrics().await;
    as_in_the_reference(&text);
    for (name, labels, least) in [
        ("koco_server_events_total", r#"kind="output""#, 3.0),
        ("koco_server_event_bytes_total", "", 18.0),
        ("koco_server_appends_total", r#"outcome="Stored""#, 1.0),
        ("koco_server_appends_total", r#"outcome="Gap""#, 1.0),
        ("koco_server_commit_seconds_count", "", 1.0),
        ("koco_server_event_lag_seconds_count", "", 1.0),
        ("koco_server_commit_events_sum", "", 3.0),
        ("koco_server_streams", "", 1.0),
        ("koco_server_requests_total", r#"code="409""#, 1.0),
        ("koco_server_refused_total", r#"reason="NoToken""#, 1.0),
        ("koco_server_retentions_total", r#"outcome="Done""#, 1.0),
        ("koco_server_database_free_bytes", "", 1.0),
    ] {
        let found = sum(&text, name, labels);
        assert!(found >= least, "{name} {labels}: {found}\n{text}");
    }
    let has = |name: &str| text.lines().any(|line| line.starts_with(name));
    assert!(has("koco_server_database_bytes") && !has("koco_server_database_max_bytes"), "there is no limit: {text}");
    assert_eq!(sum(&text, "koco_server_events_lost_total", ""), 0.0);
    assert_eq!(roles.role("operator").count("koco_gateway_keeps_events").await, 1);

    succeeds(&kubelet, &job, &pod, &runner, json!(1)).await;
    within(DEADLINE, "the job's end in the archive to be measured", async || {
        let text = roles.role("server").metrics().await;
        let (count, seconds) =
            (sum(&text, "koco_server_archive_seconds_count", ""), sum(&text, "koco_server_archive_seconds_sum", ""));
        if count == 1.0 { Ok(()) } else { Err((count, seconds)) }
    })
    .await;
}

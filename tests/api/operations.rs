//! Operating a server: what its metrics say.

use serde_json::json;

use crate::{
    archive::{Reader, fid, owner},
    events::{Frames, lines, read, roles, told},
    harness::{
        DEADLINE, Kubelet, Server, Test, agent,
        by_hand::{started, succeeds},
        within,
    },
    metrics::{as_in_the_reference, sum},
};

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
    assert!(has("koco_server_database_bytes ") && !has("koco_server_database_max_bytes "), "there is no limit: {text}");
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

//! The built runner against a fake gateway: the life of a run, as the gateway observes it.

mod busy;
mod capture;
mod control;
mod events;
mod gateway;
mod harness;
mod progress;

use std::{ffi::OsString, io::Read, time::Duration};

use axum::http::StatusCode;
use harness::{Run, full_pipe, job};
use koco::{
    api::{DesiredState, RunnerState, TerminationType},
    protocol::{
        error_types,
        events::{EventsConfig, Kind},
        runner::{ControlMessage, Job, env},
    },
};
use serde_json::json;

#[tokio::test]
async fn a_grant_leads_to_success_with_a_result() {
    let mut run = Run::start(job("succeed")).await;
    run.until("a hello", |heard| heard.hellos.first().map(|h| assert_eq!(h.state, RunnerState::Waiting))).await;
    assert!(run.gateway.heard().confirms.is_empty(), "nothing starts without a grant");
    run.grant();
    let ending = run.outcome().await;
    assert_eq!((ending.kind, ending.started, ending.exit_code), (TerminationType::Succeeded, true, Some(0)));
    let result = ending.result.clone().unwrap();
    assert_eq!(result["fid"], json!("0123456789abcdef01234567"));
    assert_eq!((&result["inputs"], &result["extra"]), (&json!({"topic": "octopuses"}), &json!({"labels": ["a"]})));
    assert_eq!((&result["attempt"], &result["resumed"]), (&json!(1), &json!(null)));
    assert!(run.exited().await.success());
    assert_eq!(run.termination(), ending, "the termination message says the same");
    let heard = run.gateway.heard();
    assert_eq!(heard.outcomes.len(), 1);
    assert_eq!(heard.tokens[0], "Bearer the-token");
    assert!(heard.keys.iter().all(|key| *key == heard.keys[0]), "one key for all that it says");
}

#[tokio::test]
async fn the_token_is_gone_before_the_agent_starts() {
    // The agent has the runner's user and capabilities.
    let script =
        "for file in environ mem maps; do ( : </proc/$PPID/$file ) && echo opened $file; done; echo done; sleep 60";
    let command = ["/bin/sh", "-c", script].map(OsString::from);
    let run = Run::with(job("x"), command.to_vec(), false, "koco-gateway").await;
    run.until("a hello", |heard| heard.hellos.first().map(drop)).await;
    assert!(!run.dir.join("token").exists());
    run.grant();
    run.printed("done").await;
    assert!(!run.stdout().contains("opened"), "{}", run.stdout());
}

#[tokio::test]
async fn a_failure_has_the_agents_own_words() {
    let mut run = Run::start(job("error-file?type=Foo&message=bar&nonRetryable=true")).await;
    run.grant();
    let ending = run.failed("Foo").await;
    assert_eq!((ending.kind, ending.non_retryable, ending.exit_code), (TerminationType::Failed, true, Some(1)));
    assert_eq!(ending.error.unwrap().message, "bar");
    assert_eq!(run.exited().await.code(), Some(1));
}

#[tokio::test]
async fn each_end_has_its_own_type() {
    for (entry_point, kind, code) in [
        ("exit?code=3", error_types::AGENT_FAILED, 3),
        ("signal?name=SEGV", error_types::AGENT_KILLED, 139),
        ("signal?name=KILL", error_types::AGENT_KILLED, 137),
        ("bad-result", error_types::INVALID_RESULT, 1),
    ] {
        let mut run = Run::start(job(entry_point)).await;
        run.grant();
        run.failed(kind).await;
        assert_eq!(run.exited().await.code(), Some(if code == 1 { 1 } else { code }), "{entry_point}");
    }
}

#[tokio::test]
async fn a_number_that_no_double_holds_is_no_result() {
    let script = "echo '{\"a\": 1e400}' >$KODO_RESULT_FILE";
    let command = ["/bin/sh", "-c", script].map(OsString::from);
    let run = Run::with(job("x"), command.to_vec(), false, "koco-gateway").await;
    run.grant();
    let ending = run.failed(error_types::INVALID_RESULT).await;
    assert!(ending.non_retryable);
    assert!(ending.error.unwrap().message.contains("number out of range"));
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_a_failed_start() {
    let mut run = Run::with(job("x"), vec!["/no/such/agent".into()], false, "koco-gateway").await;
    run.grant();
    let ending = run.failed(error_types::START_FAILED).await;
    assert!(ending.non_retryable && !ending.started);
    assert!(ending.error.unwrap().message.contains("/no/such/agent"));
    assert_eq!(run.exited().await.code(), Some(1));
}

#[tokio::test]
async fn inputs_come_from_what_is_mounted_too() {
    let with = |entry_point| Job { inputs_from: vec!["key_".into()], ..job(entry_point) };
    let run = Run::start(with("succeed")).await;
    std::fs::create_dir_all(run.dir.join("inputs/0")).unwrap();
    std::fs::write(run.dir.join("inputs/0/api"), "a secret").unwrap();
    run.grant();
    let result = run.outcome().await.result.unwrap();
    assert_eq!(result["inputs"], json!({ "key_api": "a secret", "topic": "octopuses" }));
    assert!(!run.log().contains("a secret"));

    let kept = Some(EventsConfig { stdio: false });
    let mut run = Run::start(Job { events: kept, ..with("succeed") }).await;
    std::fs::create_dir_all(run.dir.join("inputs/0")).unwrap();
    std::fs::write(run.dir.join("inputs/0/list.json"), "a secret").unwrap();
    run.grant();
    let ending = run.failed(error_types::INVALID_INPUTS_FROM).await;
    assert!(ending.non_retryable && !ending.started);
    let message = ending.error.unwrap().message;
    assert!(message.contains("key list.json is not JSON") && !message.contains("a secret"), "{message}");
    run.exited().await;
    let heard = run.gateway.heard();
    assert_eq!(heard.payloads(Kind::Status), ["starting"]);
    assert_eq!(heard.payloads(Kind::Inputs), [r#"{"dict":{"topic":"octopuses"}}"#], "the job's alone");
    assert_eq!(heard.payloads(Kind::Error), [format!("InvalidInputsFrom: {message}")]);
}

#[tokio::test]
async fn inputs_from_everywhere_fit_the_schema_or_no_agent_starts() {
    let schema = json!({ "required": ["topic", "key"], "properties": { "key": { "pattern": "^sk-" } } });
    let with =
        || Job { inputs_from: vec![String::new()], inputs_schema: Some(schema.clone().into()), ..job("succeed") };
    for (key, fits) in [("sk-a secret", true), ("a secret", false)] {
        let run = Run::start(with()).await;
        std::fs::create_dir_all(run.dir.join("inputs/0")).unwrap();
        std::fs::write(run.dir.join("inputs/0/key"), key).unwrap();
        run.grant();
        if fits {
            assert!(run.outcome().await.error.is_none());
            continue;
        }
        let ending = run.failed(error_types::INVALID_INPUTS).await;
        assert!(ending.non_retryable && !ending.started);
        assert_eq!(ending.error.unwrap().message, "spec.inputs.key: must match the pattern \"^sk-\"");
        assert!(!run.log().contains("a secret"));
    }
}

#[tokio::test]
async fn trouble_before_the_start_is_no_failed_start() {
    let run = Run::start(job("succeed")).await;
    // Its files can't be written: as on a full disk.
    std::fs::write(run.dir.join("state/in"), "no folder").unwrap();
    run.grant();
    let ending = run.failed(error_types::NOT_STARTED).await;
    assert!(!ending.non_retryable && !ending.started);
    assert!(!run.dir.join("state/started-7").exists());
}

#[tokio::test]
async fn only_the_end_of_its_run_stops_an_agent() {
    for refusal in [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND] {
        let mut run = Run::start(job("count?every_ms=5")).await;
        run.grant();
        run.confirmed(RunnerState::Running, 0).await;
        run.gateway.go_away().await;
        run.gateway.heard().answer_hello = refusal;
        let hellos = run.gateway.heard().hellos.len();
        run.gateway.come_back();
        run.until("two refused hellos", |heard| (heard.hellos.len() >= hellos + 2).then_some(())).await;
        assert!(!run.log().contains("stopped by the gateway"), "{}", run.log());
        run.gateway.heard().answer_hello = StatusCode::OK;
        run.command(DesiredState::Cancelled, 1);
        assert_eq!(run.outcome().await.kind, TerminationType::Cancelled);
    }
}

#[tokio::test]
async fn the_agent_sees_nothing_of_the_runner() {
    let run = Run::start(job("print-env")).await;
    run.grant();
    let result = run.outcome().await.result.unwrap();
    let names: Vec<&str> = result["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert!(names.contains(&"KODO_FID") && names.contains(&"PATH"), "{names:?}");
    // The environment of this test may have such variables, too.
    let ours = |name: &&str| env::ALL.contains(name) || env::SOMETIMES.contains(name);
    assert!(!names.iter().any(ours), "{names:?}");
    assert!(!run.log().contains("the-token") && !run.log().contains("octopuses"));
}

#[tokio::test]
async fn the_agent_gets_its_trace_unless_it_has_one() {
    let environment =
        [("KOCO_TEST_TRACE", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("PATH", "/canary")];
    let environment = environment.map(|(name, value)| (name.to_string(), value.to_string())).into();
    let script = r#"echo "trace $KOCO_TEST_TRACE, path $PATH""#;
    let command = ["/bin/sh", "-c", script].map(OsString::from);
    let job = koco::protocol::runner::Job { environment, ..job("x") };
    let run = Run::with(job, command.to_vec(), false, "koco-gateway").await;
    run.grant();
    run.printed("trace 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01, path /").await;
    assert!(!run.stdout().contains("/canary"), "{}", run.stdout());
}

#[tokio::test]
async fn a_resumed_agent_is_told() {
    let run = Run::start(koco::protocol::runner::Job { resumed: true, ..job("succeed") }).await;
    run.grant();
    assert_eq!(run.outcome().await.result.unwrap()["resumed"], json!("1"));
}

#[tokio::test]
async fn a_large_result_is_cut_to_its_digest() {
    let mut run = Run::start(job("big-result?bytes=100000")).await;
    run.grant();
    let ending = run.outcome().await;
    let result = ending.result.clone().unwrap();
    assert_eq!((&result["truncated"], &result["size"]), (&json!(true), &json!(100_000)));
    assert!(result["digest"].as_str().unwrap().starts_with("sha256:"));
    run.exited().await;
    assert_eq!(run.termination(), ending);

    let mut run = Run::start(job("big-result?bytes=20000")).await;
    run.grant();
    assert_eq!(run.outcome().await.result.unwrap().as_str().unwrap().len(), 19_998);
    run.exited().await;
    assert!(run.termination().result_omitted, "it has 3 KiB in a pod of two containers");
}

#[tokio::test]
async fn a_restarted_container_does_not_start_its_agent_twice() {
    let mut run = Run::start(job("succeed")).await;
    run.grant();
    run.exited().await;
    run.restart();
    assert_eq!(run.exited().await.code(), Some(1));
    assert_eq!(run.gateway.heard().hellos.len(), 1);
    assert!(run.log().contains("not started twice"));
    assert_eq!(run.log().matches("agent started").count(), 1);
}

#[tokio::test]
async fn a_runner_goes_on_while_its_gateway_is_away() {
    let mut run = Run::start(job("count?every_ms=5")).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    run.gateway.go_away().await;
    let ticks = run.stdout().lines().count();
    run.until("ticks", |_| (run.stdout().lines().count() > ticks + 50).then_some(())).await;
    let hellos = run.gateway.heard().hellos.len();
    run.gateway.come_back();
    let hello = run.until("another hello", |heard| heard.hellos.get(hellos).cloned()).await;
    assert_eq!(hello.state, RunnerState::Running, "the gateway learns where the runner stands");
    assert_eq!((run.gateway.heard().hellos[0].has_job, hello.has_job), (false, true));
    run.heartbeats(3).await;
    run.command(DesiredState::Cancelled, 1);
    assert_eq!(run.outcome().await.kind, TerminationType::Cancelled);
    assert_eq!(run.log().matches("agent started").count(), 1, "a repeated grant starts nothing");
    assert_eq!(run.exited().await.code(), Some(143));
}

#[tokio::test]
async fn an_outcome_waits_for_the_gateway() {
    let mut run = Run::start(job("exit0-after?ms=300")).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    run.gateway.go_away().await;
    run.until("an end", |_| run.log().contains("not reported yet").then_some(())).await;
    assert_eq!(run.termination().kind, TerminationType::Succeeded, "the termination message is there before");
    run.gateway.heard().answer_outcome = StatusCode::SERVICE_UNAVAILABLE;
    run.gateway.come_back();
    run.until("two tries", |heard| (heard.outcomes.len() >= 2).then_some(())).await;
    run.gateway.heard().answer_outcome = StatusCode::NO_CONTENT;
    assert!(run.exited().await.success());
}

#[tokio::test]
async fn a_refused_report_ends_the_runner_too() {
    for status in [StatusCode::CONFLICT, StatusCode::GONE] {
        let mut run = Run::start(job("exit?code=4")).await;
        run.gateway.heard().answer_outcome = status;
        run.grant();
        assert_eq!(run.exited().await.code(), Some(4));
        assert_eq!(run.gateway.heard().outcomes.len(), 1);
    }
}

#[tokio::test]
async fn a_pod_that_is_not_wanted_ends_with_the_gateways_words() {
    for status in [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::GONE] {
        let mut run = Run::start(job("succeed")).await;
        run.gateway.heard().answer_hello = StatusCode::CONFLICT;
        run.until("tries", |heard| (heard.hellos.len() >= 2).then_some(())).await;
        run.gateway.heard().answer_hello = status;
        assert_eq!(run.exited().await.code(), Some(1));
        let ending = run.termination();
        assert_eq!(ending.error.as_ref().unwrap().kind, error_types::NOT_STARTED);
        assert!(ending.error.unwrap().message.contains("as the test wants it"));
        assert!(run.gateway.heard().outcomes.is_empty());
    }
}

#[tokio::test]
async fn another_name_or_authority_is_no_gateway() {
    let run = Run::with(job("succeed"), vec![OsString::from("/bin/true")], false, "localhost").await;
    run.until("a refusal", |_| run.log().contains("the gateway does not answer").then_some(())).await;
    assert!(run.log().contains("ertificate"), "{}", run.log());
    assert!(run.gateway.heard().hellos.is_empty(), "no token is sent to a stranger");
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing() {
    let (mut read, log) = full_pipe();
    let mut run = Run::logging_to(job("count?every_ms=5"), log).await;
    run.grant();
    run.confirmed(RunnerState::Running, 0).await;
    run.heartbeats(3).await;
    // What was said meanwhile comes when somebody reads it again.
    let log = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        let mut some = [0; 4096];
        while !String::from_utf8_lossy(&text).contains("agent started") {
            let count = read.read(&mut some).unwrap();
            text.extend(some[..count].iter().filter(|byte| **byte != b'\n'));
        }
        (read, String::from_utf8_lossy(&text).into_owned())
    });
    let (_read, log) = tokio::time::timeout(Duration::from_secs(40), log).await.expect("its lines").unwrap();
    assert!(log.starts_with("koco-runner: waiting for the grant"), "{log}");
    run.command(DesiredState::Cancelled, 1);
    assert_eq!(run.outcome().await.kind, TerminationType::Cancelled);
    assert_eq!(run.exited().await.code(), Some(143));
}

#[tokio::test]
async fn a_runner_ends_beside_a_log_that_nobody_reads() {
    let (_read, log) = full_pipe();
    let mut run = Run::logging_to(job("exit?code=4"), log).await;
    run.grant();
    assert_eq!(run.exited().await.code(), Some(4));
}

#[tokio::test]
async fn heartbeats_do_not_wait_for_each_other() {
    let run = Run::start(job("count")).await;
    run.gateway.heard().hang_heartbeats = true;
    run.grant();
    run.heartbeats(4).await;
    let times: Vec<_> = run.gateway.heard().heartbeats.iter().take(4).map(|(at, _)| *at).collect();
    assert!(times[3] - times[0] < Duration::from_millis(1500), "{times:?}");
    run.gateway.heard().hang_heartbeats = false;
    run.heartbeats(5).await;
}

#[tokio::test]
async fn when_the_job_has_ended_the_agent_is_stopped_without_a_report() {
    let mut run = Run::start(job("count")).await;
    run.grant();
    run.printed("tick 3").await;
    run.gateway.heard().answer_heartbeat = StatusCode::GONE;
    assert_eq!(run.exited().await.code(), Some(143));
    assert!(run.stdout().contains("sigterm"));
    assert!(run.gateway.heard().outcomes.is_empty());

    let mut run = Run::start(job("count")).await;
    run.grant();
    run.printed("tick 3").await;
    run.gateway.say(ControlMessage::Stop { why: "another runner has taken its place".into() });
    assert_eq!(run.exited().await.code(), Some(143));
    assert!(run.gateway.heard().outcomes.is_empty());
    assert!(run.log().contains("another runner"));
}

#[tokio::test]
async fn the_execution_limit_ends_the_agent() {
    let limited = koco::protocol::runner::Job { execution_limit_millis: Some(300), ..job("count") };
    let mut run = Run::start(limited).await;
    run.grant();
    let ending = run.failed(error_types::EXECUTION_TIMEOUT).await;
    assert!(ending.active_millis >= 300, "{ending:?}");
    assert!(run.stdout().contains("sigterm"));
    assert_eq!(run.exited().await.code(), Some(143));
}

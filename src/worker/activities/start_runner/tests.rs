use serde_json::json;

use super::{super::fake, *};

fn run(number: i32, granted_by: Option<&str>, closed: bool) -> AgentRun {
    let mut run = fake::run_json(number);
    if let Some(id) = granted_by {
        run["spec"]["grant"] = json!({ "time": now(), "binding": 0, "runID": id });
    }
    if closed {
        run["status"]["termination"] = fake::closed("Koco");
    }
    serde_json::from_value(run).unwrap()
}

fn input(run: i32, attempt: i32, resumed: bool) -> StartRunner {
    StartRunner { job: fake::job_ref(), run, attempt, resumed, desired: DesiredState::Paused, generation: 4 }
}

#[test]
fn a_run_is_begun_only_beyond_all_others() {
    let ask = input(2, 1, false);
    assert_eq!(place(&[], &ask, "run"), RunState::Free);
    assert_eq!(place(&[run(1, Some("run"), true)], &ask, "run"), RunState::Free);
    let open = [run(2, None, false)];
    assert_eq!(place(&open, &ask, "run"), RunState::Ours(&open[0]), "an earlier try");
    assert_eq!(place(&[run(2, None, true)], &ask, "run"), RunState::Further(2), "it has failed to start");
    for closed in [false, true] {
        assert_eq!(
            place(&[run(2, Some("run"), closed)], &ask, "run"),
            RunState::Further(2),
            "this execution granted it"
        );
        assert_eq!(place(&[run(7, Some("run"), closed)], &ask, "run"), RunState::Further(7), "restored from a backup");
        let reset = [run(2, Some("before"), closed)];
        assert_eq!(place(&reset, &ask, "run"), RunState::After(&reset[0]), "granted before the reset");
        let further = [run(2, Some("before"), true), run(5, Some("before"), closed)];
        assert_eq!(place(&further, &ask, "run"), RunState::After(&further[1]));
    }
    let waits = [run(5, None, false)];
    assert_eq!(place(&waits, &ask, "run"), RunState::Ours(&waits[0]), "what an earlier try came to");
    assert_eq!(place(&waits, &input(2, 2, false), "run"), RunState::After(&waits[0]), "it is for another attempt");
    assert_eq!(place(&waits, &input(2, 1, true), "run"), RunState::After(&waits[0]));
    let failed = [run(5, None, true)];
    assert_eq!(place(&failed, &ask, "run"), RunState::After(&failed[0]));
}

#[test]
fn a_resumed_attempt_has_used_up_what_its_earlier_runs_have() {
    let mut before = run(1, None, true);
    before.spec.identity.active_millis = 2;
    let new = new_run(&input(2, 1, true), 2, Some(&before));
    assert_eq!((new.active_millis, new.resumed, new.grant), (42, true, None));
    let command = new.command.unwrap();
    assert_eq!((command.state, command.generation), (DesiredState::Paused, 4));
    assert_eq!(new_run(&input(2, 1, false), 2, Some(&before)).active_millis, 0);
    assert_eq!(new_run(&input(2, 1, true), 2, None).active_millis, 0);
    assert_eq!(new_run(&StartRunner { generation: 0, ..input(2, 1, true) }, 2, None).command, None);
}

#[tokio::test]
async fn the_next_run_knows_what_was_used_up_also_if_the_one_before_is_gone() {
    let (fake, a) = fake::Fake::start().await;
    let mut job: AgentJob = serde_json::from_value(fake::job()).unwrap();
    let recorded: Spent = serde_json::from_value(json!({ "activeMillis": 7, "usage": { "inputTokens": 9 } })).unwrap();
    job.status.as_mut().unwrap().spent = Some(recorded);
    let (task, input) = (fake::task(1), input(2, 2, false));
    let (resolved, settings) = (wanted(&job).unwrap(), a.pods.settings().unwrap());
    let start = Start { a: &a, task: &task, input: &input, job: &job, resolved, settings };
    let (gone, _) = start.create(2, None).await.unwrap();
    assert_eq!(gone.spec.identity.spent, Some(recorded));
    let mut before = run(2, Some("run"), true);
    before.spec.identity.spent = serde_json::from_value(json!({ "usage": { "inputTokens": 20 } })).ok();
    let (next, _) = start.create(3, Some(&before)).await.unwrap();
    let spent = next.spec.identity.spent.unwrap();
    assert_eq!((spent.active_millis, spent.usage.input_tokens), (lifecycle::spent(&before).active_millis.max(7), 20));
    drop(fake);
}

#[tokio::test]
async fn a_workflow_that_was_reset_goes_on_beyond_the_newest_run() {
    let (fake, a) = fake::Fake::start().await;
    let job: AgentJob = serde_json::from_value(fake::job()).unwrap();
    let (task, input) = (fake::task(1), input(2, 1, false));
    let (resolved, settings) = (wanted(&job).unwrap(), a.pods.settings().unwrap());
    let start = Start { a: &a, task: &task, input: &input, job: &job, resolved, settings };
    let newest = run(5, Some("before the reset"), false);
    fake.put(&fake::run_path(5), serde_json::to_value(&newest).unwrap());
    fake.put(&format!("{}/p-5", fake::PODS), fake::pod_json(5));
    assert!(matches!(start.after(&newest).await, Err(ActivityFailure::PodNotEnded(_))));
    let closed = fake.run(5).unwrap();
    assert_eq!(closed.termination().unwrap().error.as_ref().unwrap().kind, error_types::SUPERSEDED);
    assert!(fake.calls().contains(&"DELETE pods".to_string()));
    let mut ended = fake::pod_json(5);
    ended["status"]["phase"] = json!("Failed");
    fake.put(&format!("{}/p-5", fake::PODS), ended);
    assert_eq!(start.after(&closed).await.unwrap(), 6);
    // The next try finds it by its attempt.
    assert_eq!(start.look_around().await.unwrap(), 6);
    // A delayed try finds it granted and changes nothing.
    let granted = run(6, Some("run"), false);
    fake.put(&fake::run_path(6), serde_json::to_value(&granted).unwrap());
    assert!(start.after(&closed).await.unwrap_err().is_retryable());
    assert_eq!(fake.run(6).unwrap(), granted);
}

//! The gateway refuses requests of anything but the run's runner.

use koco::{
    api::{RunnerState, TerminationType, names},
    protocol::runner::{AgentEnd, Confirm, EndReport, Heartbeat, Register, verb},
};

use crate::harness::{
    DesiredState, MODES, Node, Phase, Test, agent,
    by_hand::bare_pod,
    gateway_client::{Gateway, run_path, token},
    job::{With, pod_name},
};

fn success() -> EndReport {
    let ending = AgentEnd {
        kind: TerminationType::Succeeded,
        started: true,
        error: None,
        non_retryable: false,
        exit_code: Some(0),
        result: Some(serde_json::json!("forged")),
        active_millis: 0,
        usage: Default::default(),
        result_omitted: false,
    };
    EndReport { generation: 0, end: ending, progress: None, events: None, events_missing: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_runner_speaks_for_a_run() {
    let (test, roles) = Test::with_operator().await;
    let elsewhere = Test::new().await;
    let _node = Node::automatic(&test);
    let gateway = Gateway::of(&test, &roles).await;
    for mode in MODES {
        let victim = test.apply(agent("count").mode(mode)).await;
        let attacker = test.apply(agent("count").mode(mode)).await;
        let (pod, other) = (pod_name(&victim.running_pod().await), pod_name(&attacker.running_pod().await));
        // A pod of another namespace that looks like the runner.
        bare_pod(
            &elsewhere,
            &pod,
            serde_json::json!({
                "kodosumi.io/job-uid": victim.uid, "kodosumi.io/run-number": "1", "kodosumi.io/job-name": victim.name,
            }),
        )
        .await;
        let (client, ns, ours) = (&test.client, test.namespace.as_str(), Some(names::GATEWAY_AUDIENCE));
        let forged = [
            ("no token", None),
            ("an empty token", Some(String::new())),
            ("no token at all, really", Some("eyJhbGciOiJub25lIn0.e30.".into())),
            ("a token for the API server", Some(token(client, ns, None, Some(&pod)).await)),
            ("a token of no pod", Some(token(client, ns, ours, None).await)),
            ("another job's pod", Some(token(client, ns, ours, Some(&other)).await)),
            ("another namespace's pod", Some(token(client, &elsewhere.namespace, ours, Some(&pod)).await)),
            ("the run's own pod, whose runner has registered", Some(token(client, ns, ours, Some(&pod)).await)),
        ];
        for (who, forged) in forged {
            let forged = forged.as_deref();
            let run = run_path(&victim, 1);
            let waiting = Register { state: RunnerState::Waiting, generation: 0, has_job: false };
            let heartbeat = Heartbeat { state: RunnerState::Running, generation: 0, progress: None, between: false };
            let confirm = Confirm { state: RunnerState::Frozen, generation: 1, problem: None };
            for (verb, code) in [
                (verb::END, gateway.say(verb::END, &run, forged, &success()).await),
                (verb::HEARTBEAT, gateway.say(verb::HEARTBEAT, &run, forged, &heartbeat).await),
                (verb::CONFIRM, gateway.say(verb::CONFIRM, &run, forged, &confirm).await),
                (verb::REGISTER, gateway.say(verb::REGISTER, &run, forged, &waiting).await),
                (verb::MESSAGES, gateway.say(verb::MESSAGES, &run, forged, &()).await),
            ] {
                assert!([401, 403].contains(&code), "{who} was answered {code} at {verb} in {mode:?}");
            }
        }
        // Runs that don't exist.
        let right = token(client, ns, ours, Some(&pod)).await;
        for number in [0, 2, 1000] {
            let code = gateway.say(verb::END, &run_path(&victim, number), Some(&right), &success()).await;
            assert_eq!(code, 410, "run {number}");
        }
        victim.phase(Phase::Running).await;
        assert_eq!(victim.termination().await, None);
        for job in [&victim, &attacker] {
            job.want(DesiredState::Cancelled).await;
        }
    }
}

//! The gateway refuses requests of anything but the run's runner.

use koco::{
    api::{RunnerState, TerminationType, names},
    protocol::runner::{self, AgentEnd, EndReport, Heartbeat, Register, Sender},
};

use crate::harness::{
    DesiredState, MODES, Node, Phase, Test, agent,
    gateway_client::{Gateway, sender, token},
    job::{With, pod_name},
};

fn success(sender: Sender) -> EndReport {
    let ending = AgentEnd {
        kind: TerminationType::Succeeded,
        started: true,
        error: None,
        non_retryable: false,
        exit_code: Some(0),
        result: Some(serde_json::json!("forged")),
        active_millis: 0,
        result_omitted: false,
    };
    EndReport { sender, generation: 0, end: ending }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_the_runs_runners_are_refused() {
    let (test, roles) = Test::with_operator().await;
    let elsewhere = Test::new().await;
    let _node = Node::automatic(&test);
    let gateway = Gateway::of(&test, &roles).await;
    for mode in MODES {
        let victim = test.apply(agent("count").mode(mode)).await;
        let attacker = test.apply(agent("count").mode(mode)).await;
        let (pod, other) = (pod_name(&victim.running_pod().await), pod_name(&attacker.running_pod().await));
        // A pod of another namespace that looks like the runner.
        let twin = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": pod, "labels": {
                "kodosumi.io/job-uid": victim.uid, "kodosumi.io/run-number": "1", "kodosumi.io/job-name": victim.name,
            } },
            "spec": { "containers": [{ "name": "agent", "image": "localhost/busybox:none" }] },
        });
        crate::harness::cluster::feed(
            &test.cluster.dev,
            "kubectl",
            &["apply", "-n", &elsewhere.namespace, "-f", "-"],
            twin.to_string().as_bytes(),
        )
        .expect("a pod");
        let (ns, ours) = (test.namespace.as_str(), Some(names::GATEWAY_AUDIENCE));
        let forged = [
            ("no token", None),
            ("an empty token", Some(String::new())),
            ("no token at all, really", Some("eyJhbGciOiJub25lIn0.e30.".into())),
            ("a token for the API server", Some(token(ns, None, Some(&pod)))),
            ("a token of no pod", Some(token(ns, ours, None))),
            ("another job's pod", Some(token(ns, ours, Some(&other)))),
            ("another namespace's pod", Some(token(&elsewhere.namespace, ours, Some(&pod)))),
        ];
        for (who, forged) in forged {
            let forged = forged.as_deref();
            let heartbeat = Heartbeat { sender: sender(&victim, 1), state: RunnerState::Running, generation: 0 };
            let hello = Register { sender: sender(&victim, 1), state: RunnerState::Waiting, generation: 0 };
            for (path, code) in [
                (runner::PATH_END, gateway.say(runner::PATH_END, forged, &success(sender(&victim, 1))).await),
                (runner::PATH_HEARTBEAT, gateway.say(runner::PATH_HEARTBEAT, forged, &heartbeat).await),
                (runner::PATH_REGISTER, gateway.say(runner::PATH_REGISTER, forged, &hello).await),
                (runner::PATH_MESSAGES, gateway.say(runner::PATH_MESSAGES, forged, &sender(&victim, 1)).await),
            ] {
                assert!([401, 403].contains(&code), "{who} was answered {code} at {path} in {mode:?}");
            }
        }
        // The right pod, but of another run, or under another UID.
        let right = token(ns, ours, Some(&pod));
        for run in [0, 2, 1000] {
            let code = gateway.say(runner::PATH_END, Some(&right), &success(sender(&victim, run))).await;
            assert!([400, 403, 404, 409, 410].contains(&code), "run {run} was answered {code}");
        }
        let mut wrong = success(sender(&victim, 1));
        wrong.sender.job.uid = attacker.uid.clone();
        let code = gateway.say(runner::PATH_END, Some(&right), &wrong).await;
        assert!([403, 404, 410].contains(&code), "another UID was answered {code}");
        // And that all of this was refused for what it was, and not for something else:
        let heartbeat = Heartbeat { sender: sender(&victim, 1), state: RunnerState::Running, generation: 0 };
        assert_eq!(gateway.say(runner::PATH_HEARTBEAT, Some(&right), &heartbeat).await, 204, "the right one");
        victim.phase(Phase::Running).await;
        assert_eq!(victim.termination().await, None);
        for job in [&victim, &attacker] {
            job.want(DesiredState::Cancelled).await;
        }
    }
}

//! Any JSON object as a job's template: what leaves is for the API server to judge, and it is the run's own.

use koco::{
    api::{AgentJob, AgentRun, RawJson},
    pods::{PodView, RunnerPodSettings, template::build},
};
use proptest::{prelude::*, test_runner::TestCaseResult};
use serde_json::{Value, json};

use super::common::{check, json, key, text};

fn settings() -> RunnerPodSettings {
    RunnerPodSettings {
        image: "koco:1".into(),
        pull_policy: "IfNotPresent".into(),
        pull_secrets: vec!["mirror".into()],
        gateway_url: "https://g:8443".into(),
        gateway_ca: "PEM".into(),
        resources: json!({}),
        security_context: json!({}),
    }
}

/// A template that has the usual shape at the top.
fn template() -> impl Strategy<Value = Value> {
    let container = prop::collection::btree_map(key(), json(), 0..6);
    let containers = prop::collection::vec(container, 0..4).prop_map(|all| json!(all));
    let shaped = (containers, json(), json(), json()).prop_map(|(containers, init, volumes, metadata)| {
        json!({ "metadata": metadata, "spec": { "containers": containers, "initContainers": init, "volumes": volumes } })
    });
    prop_oneof![shaped, json()]
}

/// What is the template's leaves as it was, for the API server to judge.
fn keeps(template: &Value, pod: &Value) -> TestCaseResult {
    let (given, made) = (&template["spec"], &pod["spec"]);
    let Some(fields) = given.as_object() else {
        prop_assert!(template.get("spec").is_none() || given == made);
        return Ok(());
    };
    let ours = ["restartPolicy", "initContainers", "volumes", "containers"];
    for (key, value) in fields.iter().filter(|(key, _)| !ours.contains(&key.as_str())) {
        prop_assert_eq!(value, &made[key]);
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is_list = |key: &str| given[key].is_null() || given[key].is_array();
    let (inits, volumes) = (list(&given["initContainers"]), list(&given["volumes"]));
    if is_list("initContainers") {
        let made = list(&made["initContainers"]);
        prop_assert_eq!(&made[0]["name"], &json!("koco-install"));
        prop_assert_eq!(&made[1..], inits.as_slice());
    } else {
        prop_assert_eq!(&given["initContainers"], &made["initContainers"]);
    }
    if is_list("volumes") {
        prop_assert_eq!(&list(&made["volumes"])[..volumes.len()], volumes.as_slice());
    } else {
        prop_assert_eq!(&given["volumes"], &made["volumes"]);
    }
    let (before, after) = (list(&given["containers"]), list(&made["containers"]));
    let Some(agent) = before.first().and_then(Value::as_object) else {
        prop_assert_eq!(&given["containers"], &made["containers"]);
        return Ok(());
    };
    prop_assert_eq!(&before[1..], &after[1..]);
    let ours = ["command", "args", "env", "volumeMounts"];
    for (key, value) in agent.iter().filter(|(key, _)| !ours.contains(&key.as_str())) {
        prop_assert_eq!(value, &after[0][key]);
    }
    let command = [list(&before[0]["command"]), list(&before[0]["args"])].concat();
    prop_assert_eq!(&list(&after[0]["args"])[2..], command.as_slice());
    Ok(())
}

#[test]
fn any_template_makes_a_pod_of_the_run_or_an_error() {
    check("templates", (template(), "[a-z]{1,10}"), |(template, name)| {
        let mut job: AgentJob = serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "name": name, "namespace": "ns", "uid": "u-1" },
            "spec": { "entryPoint": "a:b", "template": {} },
        }))
        .expect("a job");
        job.spec.template = RawJson::from(&template);
        // As it is read: digits of a number may differ.
        let template: Value = job.spec.template.read().unwrap_or_default();
        let run: AgentRun = serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
            "metadata": { "name": "r", "namespace": "ns", "uid": "r-1" },
            "spec": { "identity": { "jobName": name, "jobUID": "u-1", "number": 1, "attempt": 1, "podName": "p-1",
                "executionMode": "Direct", "heartbeat": "120s" } },
        }))
        .expect("a run");
        let Ok(pod) = build(&job, &run, &settings()) else { return Ok(()) };
        let meta = &pod["metadata"];
        prop_assert_eq!((&meta["name"], &meta["namespace"]), (&json!("p-1"), &json!("ns")));
        prop_assert_eq!(&meta["ownerReferences"][0]["uid"], &json!("r-1"));
        prop_assert_eq!(&meta["labels"]["kodosumi.io/job-uid"], &json!("u-1"));
        keeps(&template, &pod)
    });
}

#[test]
fn any_pod_has_a_view() {
    check("pods", (json(), json(), text()), |(status, metadata, message)| {
        let pod = json!({ "metadata": metadata, "status": status });
        if let Ok(pod) = serde_json::from_value(pod) {
            PodView::of(&pod);
        }
        let ended = json!({ "status": { "phase": "Failed", "containerStatuses": [
            { "name": "", "image": "", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "terminated": { "exitCode": 1, "message": message } } },
        ] } });
        prop_assert!(PodView::of(&serde_json::from_value(ended).expect("a pod")).agent_ended());
        Ok(())
    });
}

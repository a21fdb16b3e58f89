//! Any JSON object as a job's template: what leaves is for the API server to judge, and it is the run's own.

use koco::{
    api::{AgentJob, AgentRun, RawJson},
    pods::{PodView, RunnerPodSettings, template::build},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{json, key, text};

fn settings() -> RunnerPodSettings {
    RunnerPodSettings {
        image: "koco:1".into(),
        pull_policy: "IfNotPresent".into(),
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

proptest! {
    #[test]
    fn any_template_makes_a_pod_of_the_run_or_an_error(template in template(), name in "[a-z]{1,10}") {
        let mut job: AgentJob = serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "name": name, "namespace": "ns", "uid": "u-1" },
            "spec": { "entryPoint": "a:b", "template": {} },
        })).expect("a job");
        job.spec.template = RawJson::from(&template);
        let run: AgentRun = serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
            "metadata": { "name": "r", "namespace": "ns", "uid": "r-1" },
            "spec": { "identity": { "jobName": name, "jobUID": "u-1", "number": 1, "attempt": 1, "podName": "p-1",
                "executionMode": "Direct", "heartbeat": "120s" } },
        })).expect("a run");
        let Ok(pod) = build(&job, &run, &settings()) else { return Ok(()) };
        let meta = &pod["metadata"];
        prop_assert_eq!((&meta["name"], &meta["namespace"]), (&json!("p-1"), &json!("ns")));
        prop_assert_eq!(&meta["ownerReferences"][0]["uid"], &json!("r-1"));
        prop_assert_eq!(&meta["labels"]["kodosumi.io/job-uid"], &json!("u-1"));
        if pod["spec"]["initContainers"].is_array() && pod["spec"].is_object() {
            prop_assert_eq!(&pod["spec"]["initContainers"][0]["name"], &json!("koco-install"));
        }
    }

    #[test]
    fn any_pod_has_a_view(status in json(), metadata in json(), message in text()) {
        let pod = json!({ "metadata": metadata, "status": status });
        if let Ok(pod) = serde_json::from_value(pod) {
            PodView::of(&pod);
        }
        let ended = json!({ "status": { "phase": "Failed", "containerStatuses": [
            { "name": "", "image": "", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "terminated": { "exitCode": 1, "message": message } } },
        ] } });
        prop_assert!(PodView::of(&serde_json::from_value(ended).expect("a pod")).agent_ended());
    }
}

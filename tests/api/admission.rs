//! What the API server refuses by the CRD's own rules, each with a message that names the field, and what only
//! the making of a pod shows.

use std::time::Duration;

use koco::api::conditions;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::harness::{
    DesiredState, MODES, Phase, Server, Test, agent, audit,
    job::{With, condition, manifest, stalled},
    wait::always,
};

/// A container of the template, patched.
fn container(patch: Value) -> Value {
    let mut spec = agent("succeed");
    json_patch::merge(&mut spec["template"]["spec"]["containers"][0], &patch);
    spec
}

fn pod(patch: Value) -> Value {
    agent("succeed").with(json!({ "template": { "spec": patch } }))
}

/// Those of the specs that are accepted, or refused without the field's name.
async fn refused(test: &Test, cases: Vec<(Value, &str)>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (spec, field) in cases {
        let object: DynamicObject = serde_json::from_value(manifest("job", spec.clone())).expect("an object");
        match test.raw_jobs().create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(e)) if e.code == 422 && e.message.contains(field) => {}
            Err(e) => wrong.push(format!("{field} is not named: {e}")),
            Ok(_) => {
                wrong.push(format!("accepted, in spite of {field}: {spec}"));
                test.raw_jobs().delete("job", &Default::default()).await.expect("delete");
            }
        }
    }
    wrong
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_the_field_is_named() {
    let test = Test::new().await;
    let cases: Vec<(Value, &str)> = vec![
        (agent("succeed").with(json!({ "entryPoint": null })), "spec.entryPoint"),
        (agent(""), "spec.entryPoint"),
        (agent("succeed").with(json!({ "executionMode": "Sometimes" })), "spec.executionMode"),
        (agent("succeed").with(json!({ "desiredState": "Sleeping" })), "spec.desiredState"),
        (agent("succeed").with(json!({ "pausePolicy": "Sometimes" })), "spec.pausePolicy"),
        (agent("succeed").with(json!({ "disruptionPolicy": "Sometimes" })), "spec.disruptionPolicy"),
        (agent("succeed").with(json!({ "inputs": [1] })), "spec.inputs"),
        (agent("succeed").with(json!({ "extra": "text" })), "spec.extra"),
        (agent("succeed").with(json!({ "inputsFrom": [{ "prefix": "x" }] })), "spec.inputsFrom"),
        (
            agent("succeed")
                .with(json!({ "inputsFrom": [{ "configMapRef": { "name": "a" }, "secretRef": { "name": "b" } }] })),
            "spec.inputsFrom",
        ),
        (agent("succeed").with(json!({ "inputsFrom": [{ "secretRef": { "name": "" } }] })), "spec.inputsFrom"),
        (agent("succeed").with(json!({ "template": null })), "spec.template"),
        (agent("succeed").with(json!({ "failedPodsHistoryLimit": -1 })), "spec.failedPodsHistoryLimit"),
        (agent("succeed").with(json!({ "runHistoryLimit": 101 })), "spec.runHistoryLimit"),
        (agent("succeed").with(json!({ "ttlSecondsAfterFinished": -1 })), "spec.ttlSecondsAfterFinished"),
        (
            agent("succeed").with(json!({ "retryPolicy": { "maximumAttempts": -1 } })),
            "spec.retryPolicy.maximumAttempts",
        ),
        (
            agent("succeed").with(json!({ "retryPolicy": { "initialInterval": "0s" } })),
            "spec.retryPolicy.initialInterval",
        ),
        (
            agent("succeed").with(json!({ "retryPolicy": { "initialInterval": "soon" } })),
            "spec.retryPolicy.initialInterval",
        ),
        (
            agent("succeed").with(json!({ "retryPolicy": { "backoffCoefficient": 0.5 } })),
            "spec.retryPolicy.backoffCoefficient",
        ),
        (
            agent("succeed").with(json!({ "retryPolicy": { "maximumInterval": "0s" } })),
            "spec.retryPolicy.maximumInterval",
        ),
        (
            agent("succeed").with(json!({ "retryPolicy": { "nonRetryableErrorTypes": [""] } })),
            "spec.retryPolicy.nonRetryableErrorTypes",
        ),
        (agent("succeed").with(json!({ "timeouts": { "heartbeat": "100ms" } })), "spec.timeouts.heartbeat"),
        (agent("succeed").with(json!({ "timeouts": { "execution": "0s" } })), "spec.timeouts.execution"),
        (agent("succeed").with(json!({ "timeouts": { "pending": "10ms" } })), "spec.timeouts.pending"),
        (agent("succeed").with(json!({ "budget": { "activeTime": "0s" } })), "spec.budget.activeTime"),
        (agent("succeed").with(json!({ "budget": { "inputTokens": 0 } })), "spec.budget.inputTokens"),
        (agent("succeed").with(json!({ "budget": { "outputTokens": -1 } })), "spec.budget.outputTokens"),
        (agent("succeed").with(json!({ "budget": { "costMicros": 1.5 } })), "spec.budget.costMicros"),
        (
            agent("succeed").with(json!({ "pauseNotice": { "signal": "SIGKILL", "seconds": 1 } })),
            "spec.pauseNotice.signal",
        ),
        (
            agent("succeed").with(json!({ "pauseNotice": { "signal": "SIGUSR1", "seconds": 0 } })),
            "spec.pauseNotice.seconds",
        ),
        (container(json!({ "command": null })), "spec.template.spec.containers[0].command"),
        (container(json!({ "command": [] })), "spec.template.spec.containers[0].command"),
        (container(json!({ "image": null })), "spec.template.spec.containers[0].image"),
        (container(json!({ "restartPolicy": "Always" })), "spec.template.spec.containers[*].restartPolicy"),
        (container(json!({ "livenessProbe": { "exec": {} } })), "spec.template.spec.containers[0].livenessProbe"),
        (container(json!({ "startupProbe": { "exec": {} } })), "spec.template.spec.containers[0].startupProbe"),
        (container(json!({ "env": [{ "name": "KODO_FID", "value": "x" }] })), "spec.template.spec.containers[0].env"),
        (pod(json!({ "containers": [] })), "spec.template.spec.containers"),
        (pod(json!({ "restartPolicy": "OnFailure" })), "spec.template.spec.restartPolicy"),
        (pod(json!({ "hostPID": true })), "spec.template.spec.hostPID"),
        (pod(json!({ "shareProcessNamespace": true })), "spec.template.spec.shareProcessNamespace"),
        (pod(json!({ "activeDeadlineSeconds": 5 })), "spec.template.spec.activeDeadlineSeconds"),
        (pod(json!({ "volumes": [{ "name": "koco-x", "emptyDir": {} }] })), "spec.template.spec.volumes"),
        (
            pod(json!({ "initContainers": [{ "name": "koco-install", "image": "i" }] })),
            "spec.template.spec.initContainers",
        ),
    ];
    let mut wrong = refused(&test, cases).await;
    let long = "a".repeat(64);
    let object: DynamicObject = serde_json::from_value(manifest(&long, agent("succeed"))).expect("an object");
    let refused = test.raw_jobs().create(&PostParams::default(), &object).await;
    if !refused.is_err_and(|e| e.to_string().contains("metadata.name must be no more than 63 characters")) {
        wrong.push("a name of 64 characters".into());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What Kubernetes would run in the agent's container before the runner has taken its token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_template_runs_beside_a_runner_that_starts() {
    let test = Test::new().await;
    let probe = json!({ "exec": { "command": ["x"] } });
    let cases = vec![
        (
            container(json!({ "lifecycle": { "postStart": probe } })),
            "spec.template.spec.containers[0].lifecycle.postStart",
        ),
        (container(json!({ "readinessProbe": probe })), "spec.template.spec.containers[0].readinessProbe.exec"),
        (
            container(json!({ "livenessProbe": probe })).with(json!({ "pausePolicy": "Evict" })),
            "spec.template.spec.containers[0].livenessProbe.exec",
        ),
        (
            container(json!({ "startupProbe": probe })).with(json!({ "pausePolicy": "Evict" })),
            "spec.template.spec.containers[0].startupProbe.exec",
        ),
    ];
    let wrong = refused(&test, cases).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What koco puts into the pod, no container of the template gets hold of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_volumes_the_path_and_the_token_of_the_runner_are_not_for_templates() {
    let test = Test::new().await;
    let mut cases = Vec::new();
    for path in ["/koco", "/koco/", "/koco/bin", "//koco", "//koco//bin", "/./koco", "koco", "./koco/bin"] {
        let field = "spec.template.spec.containers[0].volumeMounts[*].mountPath: /koco is the operator's";
        cases.push((container(json!({ "volumeMounts": [{ "name": "v", "mountPath": path }] })), field));
    }
    for path in ["/koco/../koco", "/data/../koco", "..", "/data/.."] {
        let field = "spec.template.spec.containers[0].volumeMounts[*].mountPath: ";
        cases.push((container(json!({ "volumeMounts": [{ "name": "v", "mountPath": path }] })), field));
    }
    let one_of = |name: &str, more: Value| json!({ "name": name, "image": "i", "command": ["/x"] }).with(more);
    for volume in ["koco-bin", "koco-token", "koco-state", "koco-x"] {
        let mounts = json!({ "volumeMounts": [{ "name": volume, "mountPath": "/x" }] });
        cases.push((container(mounts.clone()), "spec.template.spec.containers[*].volumeMounts[*].name"));
        let sidecar = json!({ "containers": [one_of("agent", json!({})), one_of("side", mounts.clone())] });
        cases.push((pod(sidecar), "spec.template.spec.containers[*].volumeMounts[*].name"));
        let init = json!({ "initContainers": [one_of("init", mounts)] });
        cases.push((pod(init), "spec.template.spec.initContainers[*].volumeMounts[*].name"));
    }
    let rules = json!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "NotIn", "values": [0] } }]);
    let init = one_of("init", json!({ "restartPolicy": "Always", "restartPolicyRules": rules }));
    cases.push((pod(json!({ "initContainers": [init] })), "spec.template.spec.initContainers[*].restartPolicyRules"));
    let token = |audience: &str| {
        let source = json!({ "serviceAccountToken": { "audience": audience, "path": "token" } });
        pod(json!({ "volumes": [{ "name": "v", "projected": { "sources": [{ "downwardAPI": {} }, source] } }] }))
    };
    let field = "spec.template.spec.volumes[*].projected.sources[*].serviceAccountToken.audience";
    cases.push((token("koco-gateway"), field));
    let wrong = refused(&test, cases).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What only looks like it is taken: native sidecars, other audiences, other paths.
    test.apply(token("vault")).await;
    test.apply(pod(json!({ "initContainers": [one_of("side", json!({ "restartPolicy": "Always" }))] }))).await;
    for path in ["/kocoa", "/data/koco", "/.koco", "/a..b"] {
        let volume = json!([{ "name": "v", "emptyDir": {} }]);
        let spec = container(json!({ "volumeMounts": [{ "name": "v", "mountPath": path }] }));
        test.apply(spec.with(json!({ "template": { "spec": { "volumes": volume } } }))).await;
    }
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_immutable_does_not_change() {
    let test = Test::new().await;
    let spec = agent("succeed").with(json!({
        "executionMode": "Direct",
        "inputs": { "a": 1, "nested": { "list": [1, 2, { "x": 1 }] } },
        "inputsFrom": [{ "configMapRef": { "name": "m" } }],
        "extra": { "labels": ["a", "b"], "nested": { "deep": { "er": true } } },
        "retryPolicy": { "maximumAttempts": 2, "nonRetryableErrorTypes": ["A"] },
        "timeouts": { "heartbeat": "30s" },
        "budget": { "inputTokens": 5 },
        "pauseNotice": { "signal": "SIGUSR1", "seconds": 2 },
        "template": {
            "metadata": { "labels": { "team": "x" }, "annotations": { "a": "b" } },
            "spec": {
                "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }],
                "nodeSelector": { "a": "b" },
                "priorityClassName": "x",
            },
        },
    }));
    let job = test.apply(spec.clone()).await;
    let set = |pointer: &str, value: Value| {
        let mut changed = spec.clone();
        *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        changed
    };
    let cases: Vec<(Value, &str)> = vec![
        (set("/executionMode", json!("Temporal")), "spec.executionMode"),
        (spec.clone().with(json!({ "executionMode": null })), "spec.executionMode"),
        (set("/entryPoint", json!("other")), "spec.entryPoint"),
        (set("/inputs", json!({})), "spec.inputs"),
        (set("/inputs/a", json!(2)), "spec.inputs"),
        (set("/inputs/a", json!("1")), "spec.inputs"),
        (set("/inputs/nested/list/2", json!({ "y": 1 })), "spec.inputs"),
        (set("/inputs/nested/list", json!([1, 2, { "x": 1 }, 4])), "spec.inputs"),
        (set("/inputs", json!({ "b": 1, "nested": spec["inputs"]["nested"] })), "spec.inputs"),
        (set("/inputsFrom/0/configMapRef/name", json!("n")), "spec.inputsFrom"),
        (spec.clone().with(json!({ "inputsFrom": null })), "spec.inputsFrom"),
        (set("/extra/labels/1", json!("c")), "spec.extra"),
        (set("/extra/nested/deep", json!({ "est": true })), "spec.extra"),
        (spec.clone().with(json!({ "extra": null })), "spec.extra"),
        (set("/retryPolicy/maximumAttempts", json!(3)), "spec.retryPolicy"),
        (set("/retryPolicy/nonRetryableErrorTypes", json!(["B"])), "spec.retryPolicy"),
        (spec.clone().with(json!({ "retryPolicy": null })), "spec.retryPolicy"),
        (set("/timeouts/heartbeat", json!("31s")), "spec.timeouts"),
        (spec.clone().with(json!({ "timeouts": { "pending": "1m" } })), "spec.timeouts"),
        (spec.clone().with(json!({ "timeouts": null })), "spec.timeouts"),
        (set("/budget/inputTokens", json!(6)), "spec.budget"),
        (spec.clone().with(json!({ "budget": { "activeTime": "1h" } })), "spec.budget"),
        (spec.clone().with(json!({ "budget": null })), "spec.budget"),
        (set("/pauseNotice/seconds", json!(3)), "spec.pauseNotice"),
        (spec.clone().with(json!({ "pausePolicy": "Evict" })), "spec.pausePolicy"),
        (spec.clone().with(json!({ "disruptionPolicy": "Ignore" })), "spec.disruptionPolicy"),
        (spec.clone().with(json!({ "events": { "stdio": false } })), "spec.events"),
        (set("/template/metadata/labels/team", json!("y")), "spec.template"),
        (set("/template/metadata/labels", json!({ "maet": "x" })), "spec.template"),
        (set("/template/metadata/annotations", json!({})), "spec.template"),
        (set("/template/spec/containers/0/image", json!("other")), "spec.template"),
        (set("/template/spec/containers/0/command/0", json!("/other")), "spec.template"),
        (set("/template/spec/volumes/0/emptyDir", json!({ "sizeLimit": "1Mi" })), "spec.template"),
        (set("/template/spec/nodeSelector", json!({ "c": "b" })), "spec.template"),
        (set("/template/spec/terminationGracePeriodSeconds", json!(11)), "spec.template"),
        (spec.clone().with(json!({ "template": { "spec": { "futureField": 1 } } })), "spec.template"),
        (
            spec.clone().with(json!({ "template": { "spec": { "priorityClassName": null, "futureField": "x" } } })),
            "spec.template",
        ),
    ];
    let mut wrong = Vec::new();
    for (changed, field) in cases {
        let mut object = test.raw_jobs().get(&job.name).await.expect("get");
        object.data["spec"] = changed.clone();
        match test.raw_jobs().replace(&job.name, &PostParams::default(), &object).await {
            Err(kube::Error::Api(e)) if e.code == 422 && e.message.contains(&format!("{field} is immutable")) => {}
            Err(e) => wrong.push(format!("{field} is not named: {e}")),
            Ok(_) => wrong.push(format!("accepted, in spite of {field}: {changed}")),
        }
    }
    // What may change does.
    job.patch(json!({ "spec": { "failedPodsHistoryLimit": 5, "runHistoryLimit": 7, "ttlSecondsAfterFinished": 60 } }))
        .await;
    job.want(DesiredState::Paused).await;
    job.want(DesiredState::Running).await;
    job.want(DesiredState::Cancelled).await;
    for state in ["Running", "Paused", null_word()] {
        let patch = Patch::Merge(
            json!({ "spec": { "desiredState": if state.is_empty() { Value::Null } else { json!(state) } } }),
        );
        let refused = test.raw_jobs().patch(&job.name, &PatchParams::default(), &patch).await;
        if !refused.is_err_and(|e| e.to_string().contains("spec.desiredState: Cancelled is final")) {
            wrong.push(format!("desiredState from Cancelled to {state:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Leaving the field out means its default.
fn null_word() -> &'static str {
    ""
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_phase_never_changes() {
    let test = Test::new().await;
    for last in ["Succeeded", "Failed", "Cancelled"] {
        let job = test.apply(agent("succeed")).await;
        patch_status(&job, json!({ "phase": "Running" })).await.expect("a phase");
        patch_status(&job, json!({ "phase": last })).await.expect("a final phase");
        for next in [
            json!("Running"),
            json!("Pending"),
            json!(if last == "Failed" { "Succeeded" } else { "Failed" }),
            Value::Null,
        ] {
            let refused = patch_status(&job, json!({ "phase": next })).await;
            let said = refused.err().unwrap_or_else(|| panic!("{last} became {next}")).to_string();
            assert!(said.contains("status.phase is terminal and never changes"), "{said}");
        }
        patch_status(&job, json!({ "observedGeneration": 7 })).await.expect("the rest may be written");
    }
}

/// A template that only the making of a pod shows to be wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_the_api_server_refuses_stalls_the_job() {
    let test = Test::new().await;
    let _roles = test.operator(Server::Shared).await;
    let wrong = [
        // a mount of a volume that is not there
        (container(json!({ "volumeMounts": [{ "name": "nowhere", "mountPath": "/x" }] })), "nowhere"),
        // not a pod at all
        (pod(json!({ "volumes": [{ "name": "v", "emptyDir": "what" }] })), "emptyDir"),
    ];
    let mut jobs = Vec::new();
    for mode in MODES {
        for (spec, words) in &wrong {
            jobs.push((test.apply(spec.clone().mode(mode)).await, *words));
        }
    }
    for (job, words) in &jobs {
        let status = job.until("Stalled", stalled).await;
        let (_, reason, message) = condition(&status, conditions::STALLED);
        assert_eq!(reason, "PodRefused");
        assert!(message.contains(words), "the server's own words: {message}");
        assert_eq!((status.phase, status.attempt), (Some(Phase::Pending), None));
    }
    let before = audit::tried(&test.namespace);
    always(Duration::from_secs(6), "no hot loop", async || {
        let tried = audit::tried(&test.namespace) - before;
        if tried <= 8 { Ok(()) } else { Err(tried) }
    })
    .await;
    assert!(audit::tried(&test.namespace) <= 24, "{} creates", audit::tried(&test.namespace));
    for (job, _) in &jobs {
        job.want(DesiredState::Cancelled).await;
    }
    for (job, _) in &jobs {
        job.phase(Phase::Cancelled).await;
    }
}

async fn patch_status(job: &crate::harness::Job<'_>, patch: Value) -> Result<koco::api::AgentJob, kube::Error> {
    let patch = Patch::Merge(json!({ "status": patch }));
    job.test.jobs().patch_status(&job.name, &PatchParams::default(), &patch).await
}

//! Jobs that leave fields to an AgentTemplate, and inputs that are judged by a schema.

use koco::{
    api::{AgentTemplate, conditions},
    protocol::error_types,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    harness::{
        DEADLINE, DesiredState, Job, Kubelet, MODES, Node, Phase, Test, agent,
        by_hand::{in_hand, started, succeeds},
        job::{With, condition, error_type, manifest},
        within,
    },
    rights::{client_as, refusal},
};

fn templates(test: &Test) -> Api<AgentTemplate> {
    Api::namespaced(test.client.clone(), &test.namespace)
}

/// Creates a template of this spec, or replaces it.
pub async fn template(test: &Test, name: &str, spec: Value) -> AgentTemplate {
    let object = json!({ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentTemplate", "metadata": { "name": name },
        "spec": spec });
    let params = PatchParams::apply("test").force();
    templates(test).patch(name, &params, &Patch::Apply(object)).await.expect("a template")
}

fn of(template: &str) -> Value {
    json!({ "templateRef": { "name": template } })
}

fn reason(status: &koco::api::AgentJobStatus, kind: &str) -> String {
    condition(status, kind).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_waits_for_its_template_and_keeps_what_it_was_made_from() {
    let (test, _roles) = Test::with_operator().await;
    let kubelet = Kubelet::of(&test);
    for mode in MODES {
        let name = format!("t-{}", mode.as_str().to_lowercase());
        let job = test.apply(of(&name).with(json!({ "inputs": { "a": 1 } }))).await;
        let missing = |s: &koco::api::AgentJobStatus| reason(s, conditions::SUCCEEDED) == "TemplateNotFound";
        let status = job.until("that the template is missing", missing).await;
        assert_eq!(reason(&status, conditions::STALLED), "Moving", "it may come in the same apply");
        assert!(status.resolved.is_none() && job.get().await.metadata.finalizers.is_none());
        let made = template(&test, &name, agent("first").mode(mode).with(json!({ "pausePolicy": "Evict" }))).await;
        let (pod, runner) = started(&kubelet, &job, 1).await;
        let now = job.get().await;
        assert_eq!(now.spec.template_ref.as_ref().and_then(|t| t.revision.clone()), Some(made.revision()));
        assert_eq!(now.status.and_then(|s| s.execution_mode()), Some(mode));
        let told = runner.welcome().await;
        assert_eq!((told.entry_point.as_str(), told.inputs.get()), ("first", r#"{"a":1}"#));
        assert_eq!(told.pause_policy, koco::api::PausePolicy::Evict);

        // Another version is for later jobs.
        let changed = template(&test, &name, agent("second").mode(mode)).await;
        assert_ne!(changed.revision(), made.revision());
        let later = test.apply(of(&name)).await;
        let (_, second) = in_hand(&kubelet, &later, 1).await;
        assert_eq!(second.welcome().await.entry_point, "second");
        succeeds(&kubelet, &job, &pod, &runner, json!("done")).await;
        assert_eq!(job.get().await.spec.entry_point, "first");
        later.want(DesiredState::Cancelled).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_says_itself_holds_and_a_template_that_makes_no_job_is_told() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let incomplete = agent("").with(json!({ "entryPoint": null, "extra": { "from": "template" },
        "retryPolicy": { "maximumAttempts": 7, "initialInterval": "9s" } }));
    template(&test, "t", incomplete.clone()).await;
    let job = test.apply(of("t")).await;
    let invalid = |s: &koco::api::AgentJobStatus| reason(s, conditions::STALLED) == "TemplateInvalid";
    let status = job.until("that the template gives no entry point", invalid).await;
    assert!(condition(&status, conditions::STALLED).2.contains("spec.entryPoint is required"));
    let own = json!({ "entryPoint": "succeed", "extra": {}, "retryPolicy": { "maximumAttempts": 2 } });
    let other = test.apply(of("t").with(own)).await;
    other.phase(Phase::Succeeded).await;
    let spec = other.get().await.spec;
    let retry = serde_json::to_value(spec.retry_policy).expect("JSON");
    assert_eq!((retry, spec.extra.get()), (json!({ "maximumAttempts": 2 }), "{}"), "whole fields");
    template(&test, "t", incomplete.with(json!({ "entryPoint": "succeed" }))).await;
    job.phase(Phase::Succeeded).await;
    assert_eq!(job.get().await.spec.extra.get(), r#"{"from":"template"}"#);

    // One that waits is cancelled and deleted like any other.
    let waits = test.apply(of("missing")).await;
    waits.want(DesiredState::Paused).await;
    waits.phase(Phase::Paused).await;
    waits.want(DesiredState::Cancelled).await;
    waits.phase(Phase::Cancelled).await;
    assert!(waits.runs().await.is_empty());
}

/// Each level is judged twice as often as the one above it: for ever.
fn endless() -> Value {
    let level = |n: u32| {
        let above = json!({ "$ref": format!("#/$defs/l{}", n + 1) });
        (format!("l{n}"), json!({ "allOf": [above, above] }))
    };
    let mut levels: serde_json::Map<String, Value> = (0..60).map(level).collect();
    levels.insert("l60".into(), json!({ "type": "object" }));
    json!({ "$ref": "#/$defs/l0", "$defs": levels })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_that_do_not_fit_end_a_job_before_anything_starts() {
    let (test, _roles) = Test::with_operator().await;
    let _node = Node::automatic(&test);
    let schema = json!({ "type": "object", "required": ["topic"],
        "properties": { "topic": { "type": "string" }, "pages": { "items": { "minimum": 1 } } } });
    for mode in MODES {
        let name = format!("t-{}", mode.as_str().to_lowercase());
        template(&test, &name, agent("succeed").mode(mode).with(json!({ "inputsSchema": schema }))).await;
        let inputs = |inputs: Value| of(&name).with(json!({ "inputs": inputs }));
        let fits = test.apply(inputs(json!({ "topic": "x", "pages": [1, 2] }))).await;
        let unfit = test.apply(inputs(json!({ "topic": "x", "pages": [1, 0] }))).await;
        let status = unfit.phase(Phase::Failed).await;
        assert_eq!(error_type(&status), error_types::INVALID_INPUTS);
        let (_, reason, message) = condition(&status, conditions::SUCCEEDED);
        assert_eq!((reason.as_str(), message.as_str()), ("InvalidInputs", "spec.inputs.pages[1]: must be >= 1"));
        assert!(unfit.runs().await.is_empty() && status.workflow.is_none());
        fits.phase(Phase::Succeeded).await;
    }
    // A schema is a user's: one that takes all time ends its own job alone.
    let hostile = test.apply(agent("succeed").with(json!({ "inputsSchema": endless() }))).await;
    let status = hostile.phase(Phase::Failed).await;
    assert_eq!(error_type(&status), error_types::INVALID_INPUTS);
    assert!(condition(&status, conditions::SUCCEEDED).2.contains("takes more than 2 s"), "{status:?}");
    let other = test.apply(agent("succeed").with(json!({ "inputsSchema": {}, "inputs": { "any": "thing" } }))).await;
    other.phase(Phase::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_filled_by_koco_alone_and_once() {
    let test = Test::new().await;
    let user = crate::owner::writer(&test, "template-ann").await;
    let waits = test.apply(of("t")).await;
    let filled = agent("anything").with(json!({ "templateRef": { "name": "t", "revision": "u/1" } }));
    let patch = async |client: kube::Client, job: &Job<'_>, spec: Value| {
        let jobs: Api<koco::api::AgentJob> = Api::namespaced(client, &test.namespace);
        jobs.patch(&job.name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await
    };
    // The API server takes a moment to see new rights.
    let words = within(DEADLINE, "a refusal by the policy", async || {
        match refusal(patch(client_as(&user).await, &waits, filled.clone()).await) {
            Ok(words) if words.contains("koco fills jobs from their templates") => Ok(()),
            other => Err(other),
        }
    });
    words.await;
    let admin = || test.client.clone();
    for (spec, words) in [
        (agent("anything"), "is immutable"),
        (json!({ "templateRef": null }), "is immutable"),
        (json!({ "templateRef": { "name": "other" } }), "spec.templateRef.name is immutable"),
        (json!({ "templateRef": { "revision": "u/1" } }), "is required"),
        (filled.clone().with(json!({ "desiredState": "Cancelled", "inputs": { "a": 1 } })), "spec.inputs is immutable"),
    ] {
        let error = patch(admin(), &waits, spec.clone()).await.expect_err("a refusal").to_string();
        assert!(error.contains(words), "{spec}: {error}");
    }
    patch(admin(), &waits, filled.clone()).await.expect("who may fill a job");
    for spec in [
        json!({ "templateRef": { "revision": "u/2" } }),
        json!({ "templateRef": { "revision": null } }),
        json!({ "pausePolicy": "Evict" }),
        json!({ "entryPoint": "other" }),
        json!({ "inputsSchema": {} }),
        json!({ "extra": { "a": 1 } }),
    ] {
        let error = patch(admin(), &waits, spec.clone()).await.expect_err("a refusal").to_string();
        assert!(error.contains("is immutable"), "{spec}: {error}");
    }
    // As from a backup.
    let restored = serde_json::from_value(manifest("restored", filled)).expect("a job");
    test.jobs().create(&PostParams::default(), &restored).await.expect("it is complete");
    let half = serde_json::from_value(manifest("half", json!({ "templateRef": { "name": "t", "revision": "u/1" } })));
    let error = test.jobs().create(&PostParams::default(), &half.expect("a job")).await.expect_err("a refusal");
    assert!(error.to_string().contains("spec.template is required"), "{error}");
}

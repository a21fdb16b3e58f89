//! `retry`: a new job with the spec of one that has finished, as it is stored, with fields that this binary doesn't
//! know.

use std::io::Write;

use anyhow::{Context, bail};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};

use super::connect::Session;
use crate::api::{AgentJob, DesiredState, Phase, names};

/// The longest name that leaves room for the suffix.
const HEAD: usize = 63 - "-retry-".len() - 5;

pub(super) async fn run(session: &Session, name: &str) -> anyhow::Result<()> {
    let kind = ApiResource::erase::<AgentJob>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(session.client(), &session.namespace, &kind);
    let old = api.get(name).await.map_err(|e| session.explain(e, name))?;
    let phase = old.data.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Pending");
    if !finished(phase) {
        bail!(
            "agentjob.kodosumi.io/{name} has not finished, its phase is {phase}: cancel it first, or wait for its end"
        );
    }
    let new = serde_json::from_value(again(name, &old.data)).context("the new job")?;
    let made = api.create(&PostParams::default(), &new).await.map_err(|e| session.explain(e, name))?;
    writeln!(std::io::stdout(), "{}", made.metadata.name.unwrap_or_default())?;
    Ok(())
}

fn finished(phase: &str) -> bool {
    serde_json::from_value::<Phase>(phase.into()).is_ok_and(Phase::is_terminal)
}

/// Labels and annotations are not copied: their owner (such as a GitOps tool) would adopt the new job.
fn again(name: &str, old: &Value) -> Value {
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    spec["desiredState"] = json!(DesiredState::Running);
    json!({
        "apiVersion": "kodosumi.io/v1alpha1",
        "kind": "AgentJob",
        "metadata": { "generateName": head(name) + "-retry-", "labels": { names::LABEL_RETRY_OF: name } },
        "spec": spec,
    })
}

/// The name without an earlier retry's suffix.
fn head(name: &str) -> String {
    let first = match name.rsplit_once("-retry-") {
        Some((first, random)) if random.len() == 5 && !first.is_empty() => first,
        _ => name,
    };
    let head: String = first.chars().take(HEAD).collect();
    head.trim_end_matches(['-', '.']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_has_the_same_spec_and_runs() {
        let old = json!({
            "spec": { "entryPoint": "e", "desiredState": "Cancelled", "inputs": { "a": 1 } },
            "status": { "phase": "Cancelled" },
        });
        let new = again("x", &old);
        assert_eq!(new["spec"], json!({ "entryPoint": "e", "desiredState": "Running", "inputs": { "a": 1 } }));
        assert_eq!(new["metadata"]["generateName"], "x-retry-");
        assert_eq!(new["metadata"]["labels"], json!({ "kodosumi.io/retry-of": "x" }));
        assert_eq!(new.get("status"), None);
    }

    #[test]
    fn names_stay_short() {
        assert_eq!(head("x-retry-abcde"), "x");
        assert_eq!(head("x-retry-later-on"), "x-retry-later-on");
        assert_eq!((head(&"a".repeat(63)) + "-retry-abcde").len(), 63);
    }

    #[test]
    fn only_what_has_ended_is_tried_again() {
        assert!(finished("Succeeded") && finished("Failed") && finished("Cancelled"));
        assert!(!finished("Paused") && !finished("Retrying"));
    }
}

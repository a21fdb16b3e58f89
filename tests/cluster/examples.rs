//! The manifests in deploy/examples are what people try first.

use std::path::PathBuf;

use koco::protocol::error_types;
use serde_json::{Value, json};

use crate::harness::{
    DesiredState, Phase, Test,
    cluster::{feed, kubectl},
    job::{With, error_type, result, started},
};

fn documents(file: &str) -> Vec<Value> {
    use serde::Deserialize;
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples")).join(file);
    let text = std::fs::read_to_string(path).expect("the example");
    serde_yaml_ng::Deserializer::from_str(&text).map(|d| Value::deserialize(d).expect("YAML")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_is_admitted() {
    let test = Test::new().await;
    // Not all below: the TypeScript project has YAML of its tools.
    let files = ["", "/python", "/typescript/typescript.yaml"];
    let files = files.map(|file| format!("{}/deploy/examples{file}", env!("CARGO_MANIFEST_DIR")));
    let [own, python, typescript] = files.each_ref().map(String::as_str);
    let all = ["create", "-n", &test.namespace, "--dry-run=server", "-f", own, "-f", python, "-f", typescript];
    let all = kubectl(&all).expect("admission");
    assert!(all.matches("agentjob.kodosumi.io/").count() >= 10, "{all}");
}

/// A volume of this machine, which a claim in the test's namespace gets.
struct Volume {
    name: String,
    folder: PathBuf,
}

impl Volume {
    fn new(test: &Test, claim: &str) -> Self {
        let name = format!("koco-{}", test.namespace);
        let folder = test.cluster.dev.join("data/tests").join(&name);
        std::fs::create_dir_all(&folder).expect("a folder");
        // The agent's user is not ours.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("for all");
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
            "spec": {
                "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": folder },
                "claimRef": { "namespace": test.namespace, "name": claim },
            },
        });
        feed(&test.cluster.dev, "kubectl", &["create", "-f", "-"], volume.to_string().as_bytes()).expect("a volume");
        Self { name, folder }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "pv", &self.name, "--wait=false"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checkpointing_agent_goes_on_where_it_was() {
    let (test, _roles) = Test::with_operator().await;
    let documents = documents("checkpoint-evict.yaml");
    let [claim, example] = documents.as_slice() else { panic!("a claim and a job") };
    let _volume = Volume::new(&test, claim["metadata"]["name"].as_str().expect("a name"));
    let into = ["create", "-n", &test.namespace, "-f", "-"];
    feed(&test.cluster.dev, "kubectl", &into, claim.to_string().as_bytes()).expect("the claim");
    let spec = example["spec"].clone().with(json!({ "extra": { "secondsPerSentence": 3 } }));
    let job = test.apply(spec).await;
    job.until_log("a few sentences", |log| log.contains("sentence 3/").then_some(())).await;
    job.want(DesiredState::Paused).await;
    let paused = job.phase(Phase::Paused).await;
    job.nothing_runs().await;
    assert_eq!((paused.attempt, job.run_number().await), (Some(1), 1), "no other run before the resume");
    job.want(DesiredState::Running).await;
    job.until_run("the second pod's agent", |r| started(r) && r.number() == 2).await;
    let done = job.phase(Phase::Succeeded).await;
    assert_eq!(done.attempt, Some(1), "the same attempt");
    let result = result(&done);
    assert_eq!(result["attempt"], 1);
    assert!(result["resumedAfterSentence"].as_u64().is_some_and(|n| n >= 3), "{result}");
    assert!(job.log().await.contains("going on after sentence "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_the_template_has_what_it_says() {
    let (test, _roles) = Test::with_operator().await;
    let documents = documents("template.yaml");
    let [template, example] = documents.as_slice() else { panic!("a template and a job") };
    let job = test.apply(example["spec"].clone()).await;
    let unfit = test.apply(example["spec"].clone().with(json!({ "inputs": { "text": 7 } }))).await;
    let into = ["create", "-n", &test.namespace, "-f", "-"];
    feed(&test.cluster.dev, "kubectl", &into, template.to_string().as_bytes()).expect("the template");
    let done = job.phase(Phase::Succeeded).await;
    assert_eq!(result(&done)["counts"]["sentences"], 3, "{}", result(&done));
    assert_eq!(job.get().await.spec.entry_point, "summarize");
    let refused = unfit.phase(Phase::Failed).await;
    assert_eq!(error_type(&refused), error_types::INVALID_INPUTS);
    assert!(unfit.runs().await.is_empty());
}

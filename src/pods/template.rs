//! The pod of a run, from the job's template. Pure.
//!
//! An init container copies the runner into an emptyDir, read-only for the agent; the agent's command becomes the
//! runner's arguments. The image needs nothing of koco's, not even a shell.
//!
//! The token with which the runner registers is projected into the init container only. That copies it into a volume in
//! memory, where the runner reads and removes it before the agent starts.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::PodError;
use crate::{
    api::{AgentJob, AgentRun, InputsSource, RawJson, names},
    protocol::{
        runner::{env, paths},
        termination,
    },
};

/// The operator's settings for every runner pod.
#[derive(Clone, Debug, PartialEq)]
pub struct RunnerPodSettings {
    /// The image with `/usr/local/bin/koco-runner`.
    pub image: String,
    /// Its pull policy.
    pub pull_policy: String,
    /// The names of the Secrets to pull it with.
    pub pull_secrets: Vec<String>,
    /// The gateway's URL, as runner pods reach it.
    pub gateway_url: String,
    /// The gateway's certificate authority, PEM.
    pub gateway_ca: String,
    /// `resources` of the init container.
    pub resources: Value,
    /// Its `securityContext`.
    pub security_context: Value,
}

const BIN: &str = "koco-bin";
const STATE: &str = "koco-state";
const TOKEN: &str = "koco-token";
const PROJECTED: &str = "koco-projected";
const INPUTS: &str = "koco-inputs";
/// How long the token lasts, in seconds: a pod may need that long to pull its images. It is void once the runner has
/// registered.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// Annotations that keep autoscalers from evicting a running agent. A template may override them.
const DO_NOT_DISTURB: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")];

/// The pod of a run, which owns it. An invalid template makes a pod that the API server refuses with its own message;
/// one that nests too deeply to be read is an error.
pub fn build(job: &AgentJob, run: &AgentRun, settings: &RunnerPodSettings) -> Result<Value, PodError> {
    let namespace = job.metadata.namespace.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let template = read(&job.spec.template)?;
    let mut spec = template.get("spec").cloned().unwrap_or_else(|| json!({}));
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("restartPolicy".into(), json!("Never"));
        spec.entry("automountServiceAccountToken").or_insert(json!(false));
        // The variables of all Services of a namespace would slow down and confuse the agent.
        spec.entry("enableServiceLinks").or_insert(json!(false));
        prepend(spec, "initContainers", install(settings));
        for name in &settings.pull_secrets {
            append_new(spec, "imagePullSecrets", json!({ "name": name }));
        }
        let (of_inputs, mounts): (Vec<_>, Vec<_>) = inputs(job).into_iter().unzip();
        for volume in volumes().into_iter().chain(of_inputs) {
            append(spec, "volumes", volume);
        }
        let count = |key: &str| spec.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        let bytes = termination::limit(count("containers") + count("initContainers"));
        if let Some(agent) = spec.get_mut("containers").and_then(|c| c.get_mut(0)).and_then(Value::as_object_mut) {
            wrap(agent, run, settings, &namespace, bytes);
            for mount in mounts {
                append(agent, "volumeMounts", mount);
            }
        }
    }
    let template = template.get("metadata");
    let of_template =
        |key: &str| template.and_then(|m| m.get(key)).and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut labels, mut annotations) = (inherited(job), of_template("annotations"));
    labels.extend(of_template("labels"));
    for (key, value) in DO_NOT_DISTURB {
        annotations.entry(key).or_insert(json!(value));
    }
    if let Some(agent) = spec.pointer("/containers/0/name").cloned() {
        annotations.insert(names::ANNOTATION_AGENT_CONTAINER.into(), agent.clone());
        annotations.entry("kubectl.kubernetes.io/default-container").or_insert(agent);
    }
    labels.insert(names::LABEL_JOB_UID.into(), json!(job.uid()));
    labels.insert(names::LABEL_JOB_NAME.into(), json!(name));
    labels.insert(names::LABEL_RUN_NUMBER.into(), json!(run.number().to_string()));
    labels.insert(names::LABEL_COMPONENT.into(), json!(names::RUNNER_COMPONENT));
    for (key, value) in names::LABELS {
        // What the program is called is for its author to say.
        if key != names::LABEL_NAME || !labels.contains_key(key) {
            labels.insert(key.into(), json!(value));
        }
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": run.spec.identity.pod_name,
            "namespace": namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": names::API_VERSION,
                "kind": "AgentRun",
                "name": run.name(),
                "uid": run.uid(),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": spec,
    }))
}

/// The labels of the job that its pods have, too.
fn inherited(job: &AgentJob) -> Map<String, Value> {
    let labels = job.metadata.labels.iter().flatten().filter(|(key, _)| names::is_inherited(key));
    labels.map(|(key, value)| (key.clone(), json!(value))).collect()
}

/// A template as a value; the error names the field that nests too deeply.
fn read(template: &RawJson) -> Result<Value, PodError> {
    template.read().map_err(|source| {
        let fields = |json: &RawJson| json.read::<BTreeMap<String, RawJson>>().unwrap_or_default();
        let below = fields(template).into_iter().flat_map(|(part, json)| {
            fields(&json).into_iter().map(move |(key, json)| (format!("spec.template.{part}.{key}"), json))
        });
        let field = below.into_iter().find(|(_, json)| json.read::<Value>().is_err()).map(|(field, _)| field);
        PodError::Unreadable { field: field.unwrap_or_else(|| "spec.template".into()), source }
    })
}

/// Makes the runner the container's first process and the agent its child.
fn wrap(
    agent: &mut Map<String, Value>,
    run: &AgentRun,
    settings: &RunnerPodSettings,
    namespace: &str,
    termination_bytes: usize,
) {
    let mut args = vec![json!("run"), json!("--")];
    for key in ["command", "args"] {
        args.extend(agent.get(key).and_then(Value::as_array).cloned().unwrap_or_default());
    }
    agent.insert("command".into(), json!([paths::RUNNER]));
    agent.insert("args".into(), Value::Array(args));
    let termination = agent.get("terminationMessagePath").and_then(Value::as_str).unwrap_or("/dev/termination-log");
    let ours = [
        (env::GATEWAY_URL, settings.gateway_url.clone()),
        (env::GATEWAY_CA, settings.gateway_ca.clone()),
        (env::TOKEN_FILE, paths::TOKEN_FILE.into()),
        (env::STATE_DIR, paths::STATE_DIR.into()),
        (env::NAMESPACE, namespace.into()),
        (env::RUN, run.name().into()),
        (env::TERMINATION_LOG, termination.into()),
        (env::TERMINATION_BYTES, termination_bytes.to_string()),
    ];
    for (key, value) in ours {
        append(agent, "env", json!({ "name": key, "value": value }));
    }
    for (volume, path, read_only) in
        [(BIN, paths::BIN_DIR, true), (STATE, paths::STATE_DIR, false), (TOKEN, paths::TOKEN_DIR, false)]
    {
        append(agent, "volumeMounts", json!({ "name": volume, "mountPath": path, "readOnly": read_only }));
    }
}

/// The init container that puts the runner into the pod.
fn install(settings: &RunnerPodSettings) -> Value {
    json!({
        "name": "koco-install",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": [
            "/usr/local/bin/koco-runner", "install", paths::BIN_DIR, paths::PROJECTED_TOKEN_FILE, paths::TOKEN_FILE,
        ],
        "volumeMounts": [
            { "name": BIN, "mountPath": paths::BIN_DIR },
            { "name": PROJECTED, "mountPath": paths::PROJECTED_TOKEN_DIR, "readOnly": true },
            { "name": TOKEN, "mountPath": paths::TOKEN_DIR },
        ],
        "resources": settings.resources,
        "securityContext": settings.security_context,
    })
}

fn volumes() -> [Value; 4] {
    [
        json!({ "name": BIN, "emptyDir": { "sizeLimit": "64Mi" } }),
        json!({ "name": STATE, "emptyDir": {} }),
        json!({ "name": TOKEN, "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }),
        json!({ "name": PROJECTED, "projected": { "sources": [{ "serviceAccountToken": {
            "audience": names::GATEWAY_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token",
        } }] } }),
    ]
}

/// Volumes, and their mounts in the agent's container: the sources of further inputs, which the kubelet reads, and the folder
/// in memory for the agent's file: what is in a Secret is on no disk.
fn inputs(job: &AgentJob) -> Vec<(Value, Value)> {
    let source = |(number, source): (usize, &InputsSource)| {
        let (secret, map) = (source.secret_ref.as_ref(), source.config_map_ref.as_ref());
        let volume = secret.map(|s| ("secret", json!({ "secretName": s.name, "optional": s.optional })));
        let volume = volume.or(map.map(|m| ("configMap", json!({ "name": m.name, "optional": m.optional }))));
        let (kind, content) = volume.unwrap_or(("emptyDir", json!({})));
        let (name, path) = (format!("{INPUTS}-{number}"), format!("{}/{number}", paths::INPUTS_DIR));
        (json!({ "name": name, kind: content }), json!({ "name": name, "mountPath": path, "readOnly": true }))
    };
    let mut all: Vec<_> = job.spec.inputs_from.iter().enumerate().map(source).collect();
    if !all.is_empty() {
        all.push((
            json!({ "name": INPUTS, "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }),
            json!({ "name": INPUTS, "mountPath": paths::AGENT_INPUTS_DIR, "readOnly": false }),
        ));
    }
    all
}

/// Appends a value that is not in the list yet.
fn append_new(object: &mut Map<String, Value>, key: &str, value: Value) {
    let list = object.get(key).and_then(Value::as_array);
    if !list.is_some_and(|list| list.contains(&value)) {
        append(object, key, value);
    }
}

fn append(object: &mut Map<String, Value>, key: &str, value: Value) {
    match object.entry(key).or_insert_with(|| json!([])) {
        Value::Array(list) => list.push(value),
        // `null` in a template counts as absent, as for the API server.
        other @ Value::Null => *other = json!([value]),
        // Anything else is malformed: left as it is, for the API server to refuse.
        _ => {}
    }
}

fn prepend(object: &mut Map<String, Value>, key: &str, value: Value) {
    append(object, key, value);
    if let Some(Value::Array(list)) = object.get_mut(key) {
        list.rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> AgentJob {
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob",
            "metadata": { "name": "hello", "namespace": "ns", "uid": "u-1" },
            "spec": { "entryPoint": "a:b", "template": {
                "metadata": { "labels": { "team": "x" } },
                "spec": {
                    "initContainers": [{ "name": "mine", "image": "i" }],
                    "containers": [{ "name": "agent", "image": "i", "command": ["/a"], "args": ["b"],
                        "env": [{ "name": "X", "value": "y" }], "futureField": 1 }],
                },
            } },
        }))
        .unwrap()
    }

    fn run() -> AgentRun {
        serde_json::from_value(json!({
            "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentRun",
            "metadata": { "name": "hello-x-2", "namespace": "ns", "uid": "r-2" },
            "spec": { "identity": { "jobName": "hello", "jobUID": "u-1", "number": 2, "attempt": 1,
                "podName": "hello-2", "executionMode": "Direct", "heartbeat": "120s" } },
        }))
        .unwrap()
    }

    fn settings() -> RunnerPodSettings {
        RunnerPodSettings {
            image: "koco:1".into(),
            pull_policy: "IfNotPresent".into(),
            pull_secrets: vec!["mirror".into(), "mine".into()],
            gateway_url: "https://g:8443".into(),
            gateway_ca: "PEM".into(),
            resources: json!({ "limits": { "memory": "1Gi" } }),
            security_context: json!({ "runAsNonRoot": true }),
        }
    }

    #[test]
    fn the_runner_starts_the_agents_command() {
        let pod = build(&job(), &run(), &settings()).unwrap();
        let agent = &pod["spec"]["containers"][0];
        assert_eq!(agent["command"], json!(["/koco/bin/koco-runner"]));
        assert_eq!(agent["args"], json!(["run", "--", "/a", "b"]));
        assert_eq!(agent["futureField"], json!(1));
        assert_eq!(agent["env"][0]["name"], json!("X"));
        assert_eq!(agent["env"].as_array().unwrap().len(), 1 + env::ALL.len());
        let install = &pod["spec"]["initContainers"][0];
        assert_eq!(install["name"], json!("koco-install"));
        assert_eq!(install["resources"], json!({ "limits": { "memory": "1Gi" } }));
        assert_eq!(install["securityContext"], json!({ "runAsNonRoot": true }));
        assert_eq!(pod["spec"]["initContainers"][1]["name"], json!("mine"));
        assert_eq!(pod["spec"]["restartPolicy"], json!("Never"));
        assert_eq!(pod["metadata"]["labels"]["team"], json!("x"));
        assert_eq!(pod["metadata"]["labels"][names::LABEL_RUN_NUMBER], json!("2"));
        let owner = &pod["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["uid"], &owner["controller"]),
            (&json!("AgentRun"), &json!("r-2"), &json!(true))
        );
        assert_eq!(pod["metadata"]["annotations"][names::ANNOTATION_AGENT_CONTAINER], json!("agent"));
    }

    #[test]
    fn the_runners_image_is_pulled_with_its_own_secrets_too() {
        let mut job = job();
        let secrets = |job: &AgentJob| build(job, &run(), &settings()).unwrap()["spec"]["imagePullSecrets"].clone();
        assert_eq!(secrets(&job), json!([{ "name": "mirror" }, { "name": "mine" }]));
        let mut template: Value = job.spec.template.read().unwrap();
        template["spec"]["imagePullSecrets"] = json!([{ "name": "mine" }]);
        job.spec.template = template.into();
        assert_eq!(secrets(&job), json!([{ "name": "mine" }, { "name": "mirror" }]));
    }

    #[test]
    fn only_the_init_container_has_the_projected_token() {
        let pod = build(&job(), &run(), &settings()).unwrap();
        let mounts = |container: &Value| container["volumeMounts"].to_string();
        let spec = &pod["spec"];
        assert!(mounts(&spec["initContainers"][0]).contains(PROJECTED));
        for other in [&spec["initContainers"][1], &spec["containers"][0]] {
            assert!(!mounts(other).contains(PROJECTED), "{other}");
        }
        let env = spec["containers"][0]["env"].as_array().unwrap();
        let bytes = env.iter().find(|e| e["name"] == env::TERMINATION_BYTES).unwrap();
        assert_eq!(bytes["value"], json!((12 * 1024 / 5).to_string()), "three containers, and room for two");
    }

    #[test]
    fn a_template_decides_neither_on_the_namespace_nor_on_the_owner() {
        let mut job = job();
        let mut template: Value = job.spec.template.read().unwrap();
        template["metadata"] = json!({
            "namespace": "kube-system", "name": "another", "ownerReferences": [{ "kind": "AgentRun", "uid": "another" }],
            "labels": { names::LABEL_JOB_UID: "another", names::LABEL_JOB_NAME: "another", names::LABEL_RUN_NUMBER: "9",
                names::LABEL_COMPONENT: "another" },
        });
        job.spec.template = template.into();
        let pod = build(&job, &run(), &settings()).unwrap();
        let metadata = &pod["metadata"];
        assert_eq!((&metadata["namespace"], &metadata["name"]), (&json!("ns"), &json!("hello-2")));
        assert_eq!(
            (metadata["ownerReferences"].as_array().unwrap().len(), &metadata["ownerReferences"][0]["uid"]),
            (1, &json!("r-2"))
        );
        assert!(!metadata.to_string().contains("another"), "{metadata}");
    }

    #[test]
    fn the_jobs_labels_are_inherited_and_the_templates_come_before_them() {
        let mut job = job();
        let labels =
            [("team", "y"), ("cost", "z"), ("app.kubernetes.io/instance", "an-application"), (names::LABEL_NAME, "n")];
        job.metadata.labels = Some(labels.map(|(key, value)| (key.into(), value.into())).into());
        let labels = |job: &AgentJob| build(job, &run(), &settings()).unwrap()["metadata"]["labels"].clone();
        let found = labels(&job);
        assert_eq!((&found["team"], &found["cost"]), (&json!("x"), &json!("z")));
        assert_eq!(found.get("app.kubernetes.io/instance"), None, "its manager's");
        assert_eq!(found[names::LABEL_NAME], json!("koco-agent"));
        let mut template: Value = job.spec.template.read().unwrap();
        template["metadata"]["labels"] = json!({ names::LABEL_NAME: "weather", "app.kubernetes.io/part-of": "mine" });
        job.spec.template = template.into();
        let found = labels(&job);
        assert_eq!(
            (&found[names::LABEL_NAME], &found["app.kubernetes.io/part-of"]),
            (&json!("weather"), &json!("koco"))
        );
    }

    #[test]
    fn sources_of_inputs_are_mounted_in_the_agents_container_alone() {
        let (map, secret) = (json!({ "name": "m" }), json!({ "name": "s", "optional": true }));
        let mut job = job();
        job.spec.inputs_from =
            serde_json::from_value(json!([{ "configMapRef": map }, { "prefix": "key_", "secretRef": secret }]))
                .unwrap();
        let pod = build(&job, &run(), &settings()).unwrap();
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let found: Vec<_> = volumes.iter().filter(|v| v["name"].as_str().unwrap().starts_with("koco-inputs")).collect();
        assert_eq!(
            json!(found),
            json!([
                { "name": "koco-inputs-0", "configMap": { "name": "m", "optional": false } },
                { "name": "koco-inputs-1", "secret": { "secretName": "s", "optional": true } },
                { "name": "koco-inputs", "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } },
            ])
        );
        let mounts = |container: &Value| {
            let mounts = container["volumeMounts"].as_array().unwrap();
            let found = mounts.iter().filter(|m| m["name"].as_str().unwrap().starts_with("koco-inputs"));
            found.map(|m| (m["mountPath"].clone(), m["readOnly"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(
            mounts(&pod["spec"]["containers"][0]),
            [
                (json!("/koco/inputs/0"), json!(true)),
                (json!("/koco/inputs/1"), json!(true)),
                (json!("/koco/state/in"), json!(false)),
            ]
        );
        assert_eq!(mounts(&pod["spec"]["initContainers"][0]), []);
    }

    #[test]
    fn a_malformed_template_is_passed_on_for_the_server_to_refuse() {
        let mut job = job();
        let mut template: Value = job.spec.template.read().unwrap();
        template["spec"]["volumes"] = json!("none");
        job.spec.template = template.into();
        let pod = build(&job, &run(), &settings()).unwrap();
        assert_eq!(pod["spec"]["volumes"], json!("none"));
    }

    #[test]
    fn a_template_that_nests_too_deeply_is_an_error() {
        let mut job = job();
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        job.spec.template = serde_json::from_str(&format!(r#"{{"spec":{{"containers":[],"x":{deep}}}}}"#)).unwrap();
        assert!(build(&job, &run(), &settings()).is_err());
    }
}

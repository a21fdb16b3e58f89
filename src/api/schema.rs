//! Parts of the CRDs' schema that no Rust type describes: free JSON, times, conditions, and the pod template, of which
//! the schema names only what the admission rules read (the whole would be larger than an apply annotation may be).

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Any JSON object, replaced as a whole by server-side apply.
pub fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-map-type": "atomic",
    })
}

/// Any JSON value.
pub fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true, "nullable": true })
}

/// A time as Kubernetes writes it.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// A time as Kubernetes writes it, or none.
pub fn optional_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "nullable": true })
}

/// `metav1.Condition`, one of each type.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "What it is about." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it is so." },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024,
                    "description": "Why, in one word for programs." },
                "message": { "type": "string", "maxLength": 32768,
                    "description": "What is happening and what to do next, for people." },
                "lastTransitionTime": { "type": "string", "format": "date-time",
                    "description": "Since when it has this status." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The generation of the spec that it is about." },
            },
        },
    })
}

const KEEP: &str = "x-kubernetes-preserve-unknown-fields";

fn text(max: u32, description: &str) -> Schema {
    json_schema!({ "type": "string", "maxLength": max, "description": description })
}

/// An object of which the admission rules read these properties.
fn part(description: &str, properties: Value) -> Schema {
    let mut schema = json_schema!({ "type": "object", KEEP: true, "description": description });
    if properties != json!({}) {
        schema.insert("properties".into(), properties);
    }
    schema
}

fn list(max: u32, description: &str, items: &Schema) -> Schema {
    json_schema!({ "type": "array", "maxItems": max, "description": description, "items": items })
}

/// The pod template: the fields that the admission rules name; all others are preserved.
pub fn template(_: &mut SchemaGenerator) -> Schema {
    let labels = |what: &str| {
        json_schema!({ "type": "object", "description": format!("{what} of the pod."),
            "additionalProperties": { "type": "string" } })
    };
    let spec = json_schema!({
        "type": "object",
        KEEP: true,
        "description": "The pod, as in `pod.spec`: see `kubectl explain pod.spec`.",
        "required": ["containers"],
        "properties": {
            "containers": { "type": "array", "minItems": 1, "maxItems": 16, "items": container(),
                "description": "The containers. The first is the agent." },
            "initContainers": list(16, "Containers that end before the agent starts, and sidecars.", &init_container()),
            "volumes": list(128, "Volumes. Names that start with `koco-` are koco's.", &volume()),
            "restartPolicy": text(32, "Never, or unset: `spec.retryPolicy` decides on retries."),
            "hostPID": { "type": "boolean", "description": "Must be false." },
            "shareProcessNamespace": { "type": "boolean", "description": "Must be false." },
            "activeDeadlineSeconds": { "type": "integer", "format": "int64",
                "description": "Must be unset: use `spec.timeouts.execution`." },
        },
    });
    json_schema!({
        "type": "object",
        KEEP: true,
        "required": ["spec"],
        "properties": {
            "metadata": part("Labels and annotations of the pod.", json!({
                "labels": labels("Labels"), "annotations": labels("Annotations") })),
            "spec": spec,
        },
    })
}

fn mounts() -> Schema {
    let mount = part(
        "A mount.",
        json!({
            "name": text(253, "The name of the volume."),
            "mountPath": text(1024, "The path in the container. `/koco` is koco's."),
        }),
    );
    list(128, "Where volumes are mounted.", &mount)
}

fn rules() -> Schema {
    json_schema!({ "type": "array", "maxItems": 32, "items": { "type": "object", KEEP: true },
        "description": "Must be unset: `spec.retryPolicy` decides on retries." })
}

fn container() -> Schema {
    let probe = |what: &str| part(what, json!({ "exec": part("Must be unset in the agent's container.", json!({})) }));
    let named = part("A variable.", json!({ "name": text(253, "The name of the variable.") }));
    json_schema!({
        "type": "object",
        KEEP: true,
        "required": ["name", "image"],
        "properties": {
            "name": text(63, "The name of the container."),
            "image": text(1024, "Its image."),
            "command": { "type": "array", "maxItems": 256, "items": { "type": "string" },
                "description": "The program. Required for the agent: the runner starts it." },
            "env": list(512, "Environment variables.", &named),
            "volumeMounts": mounts(),
            "restartPolicy": text(32, "Must be unset: `spec.retryPolicy` decides on retries."),
            "restartPolicyRules": rules(),
            "livenessProbe": probe("Not for the agent, unless `spec.pausePolicy` is Evict: it would kill a frozen one."),
            "readinessProbe": probe("Whether it is ready."),
            "startupProbe": probe("Not for the agent, unless `spec.pausePolicy` is Evict: it would kill a frozen one."),
            "lifecycle": part("What is run when it has started, and before it is stopped.", json!({
                "postStart": part("Must be unset in the agent's container.", json!({})) })),
        },
    })
}

fn init_container() -> Schema {
    json_schema!({
        "type": "object",
        KEEP: true,
        "properties": {
            "name": text(253, "The name of the container. Names that start with `koco-` are koco's."),
            "volumeMounts": mounts(),
            "restartPolicyRules": rules(),
        },
    })
}

fn volume() -> Schema {
    let token = part(
        "A token of the service account.",
        json!({
        "audience": text(1024, "Whom it is for. Tokens for `koco-gateway` are the runner's.") }),
    );
    let source = part("A source.", json!({ "serviceAccountToken": token }));
    let projected = part("Several sources in one volume.", json!({ "sources": list(64, "The sources.", &source) }));
    part("A volume.", json!({ "name": text(253, "The name of the volume."), "projected": projected }))
}

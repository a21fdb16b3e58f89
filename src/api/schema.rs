//! Parts of the CRDs' schema that no Rust type describes: free JSON, times, conditions, and the pod template, of which
//! the schema names only what the admission rules read (the whole would be larger than an apply annotation may be).

use schemars::{Schema, SchemaGenerator, json_schema};

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
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
            },
        },
    })
}

/// The pod template: the fields that the admission rules name; all others are preserved.
pub fn template(_: &mut SchemaGenerator) -> Schema {
    let keep = "x-kubernetes-preserve-unknown-fields";
    let text = |max: u32| json_schema!({ "type": "string", "maxLength": max });
    let named = json_schema!({ "type": "object", keep: true, "properties": { "name": text(253) } });
    let mounts = json_schema!({ "type": "array", "maxItems": 128, "items": {
        "type": "object", keep: true, "properties": { "name": text(253), "mountPath": text(1024) },
    } });
    let rules = json_schema!({ "type": "array", "maxItems": 32, "items": { "type": "object", keep: true } });
    let volume = json_schema!({
        "type": "object",
        keep: true,
        "properties": {
            "name": text(253),
            "projected": { "type": "object", keep: true, "properties": {
                "sources": { "type": "array", "maxItems": 64, "items": {
                    "type": "object", keep: true, "properties": { "serviceAccountToken": {
                        "type": "object", keep: true, "properties": { "audience": text(1024) },
                    } },
                } },
            } },
        },
    });
    let any = json_schema!({ "type": "object", keep: true });
    let probe = json_schema!({ "type": "object", keep: true, "properties": { "exec": any } });
    let container = json_schema!({
        "type": "object",
        keep: true,
        "required": ["name", "image"],
        "properties": {
            "name": text(63),
            "image": text(1024),
            "command": { "type": "array", "maxItems": 256, "items": { "type": "string" } },
            "env": { "type": "array", "maxItems": 512, "items": named },
            "volumeMounts": mounts,
            "restartPolicy": text(32),
            "restartPolicyRules": rules,
            "livenessProbe": probe,
            "readinessProbe": probe,
            "startupProbe": probe,
            "lifecycle": { "type": "object", keep: true, "properties": { "postStart": any } },
        },
    });
    let init_container = json_schema!({
        "type": "object",
        keep: true,
        "properties": { "name": text(253), "volumeMounts": mounts, "restartPolicyRules": rules },
    });
    json_schema!({
        "type": "object",
        keep: true,
        "required": ["spec"],
        "properties": {
            "metadata": {
                "type": "object",
                keep: true,
                "properties": {
                    "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                    "annotations": { "type": "object", "additionalProperties": { "type": "string" } },
                },
            },
            "spec": {
                "type": "object",
                keep: true,
                "required": ["containers"],
                "properties": {
                    "containers": { "type": "array", "minItems": 1, "maxItems": 16, "items": container },
                    "initContainers": { "type": "array", "maxItems": 16, "items": init_container },
                    "volumes": { "type": "array", "maxItems": 128, "items": volume },
                    "restartPolicy": text(32),
                    "hostPID": { "type": "boolean" },
                    "shareProcessNamespace": { "type": "boolean" },
                    "activeDeadlineSeconds": { "type": "integer", "format": "int64" },
                },
            },
        },
    })
}

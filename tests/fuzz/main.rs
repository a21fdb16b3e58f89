//! Random inputs against what is pure: whatever agents, tenants and clients write, nothing panics and what is promised
//! holds. `make fuzz` runs many more cases: `PROPTEST_CASES`. A failure prints the smallest input that shows it.

mod lifecycle;
mod pods;
mod requests;

use proptest::prelude::*;
use serde_json::Value;

/// Any JSON value, often with the names that koco looks for.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Any text, often one that means something.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "agent",
            "koco-bin",
            "koco-install",
            "/koco",
            "Succeeded",
            "Failed",
            "Evicted",
            "Cancelled",
            "Never",
            "",
        ])
        .prop_map(str::to_string),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => any::<String>(),
        4 => prop::sample::select(vec![
            "spec", "metadata", "labels", "annotations", "containers", "initContainers", "volumes", "volumeMounts",
            "env", "name", "command", "args", "image", "terminationMessagePath", "kind", "started", "error", "type",
            "message", "result", "generation", "state", "end", "signature", "activeMillis", "exitCode",
        ])
        .prop_map(str::to_string),
    ]
}

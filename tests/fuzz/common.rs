//! What tests with random inputs share: how long they go on, and the inputs that most of them begin with. The library's
//! own tests include this file, for what only they can reach.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseResult, TestError, TestRunner},
};
use serde_json::Value;

/// Feeds a property random inputs for `KOCO_FUZZ_SECONDS`, one if unset. Panics with the smallest input that breaks it.
pub fn check<S: Strategy>(name: &str, inputs: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let seconds = std::env::var("KOCO_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let (began, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let cases = Cell::new(0_u64);
    while began.elapsed() < limit {
        let config = Config { cases: 16, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
        let ran = TestRunner::new(config).run(&inputs, |input| {
            cases.set(cases.get() + 1);
            property(input)
        });
        match ran {
            Ok(()) => {}
            Err(TestError::Fail(why, input)) => panic!("{name}, case {}: {why}\nwith {input:?}", cases.get()),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    println!("{name}: {} cases in {:.0} s", cases.get(), began.elapsed().as_secs_f64());
}

/// Any JSON value, often with the names that koco looks for.
pub fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2_i64..3).prop_map(Value::from),
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
pub fn text() -> impl Strategy<Value = String> {
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
            "Paused",
            "Running",
            "Frozen",
            "Waiting",
            "Never",
            "",
        ])
        .prop_map(str::to_string),
    ]
}

/// Any name of a field, often one that means something.
pub fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => any::<String>(),
        4 => prop::sample::select(vec![
            "spec", "metadata", "labels", "annotations", "containers", "initContainers", "volumes", "volumeMounts",
            "env", "name", "command", "args", "image", "terminationMessagePath", "kind", "started", "error", "type",
            "message", "result", "generation", "state", "end", "signature", "activeMillis", "exitCode", "nonRetryable",
            "id", "desired", "epoch", "seq", "fatal",
        ])
        .prop_map(str::to_string),
    ]
}

/// A JSON value in which some fields have the type that they should have, and some not.
pub fn nearly(right: Value) -> impl Strategy<Value = Value> {
    let fields: Vec<String> = right.as_object().map(|o| o.keys().cloned().collect()).unwrap_or_default();
    let replaced = prop::collection::btree_map(prop::sample::select(fields), prop::option::of(json()), 0..3);
    (replaced, prop::option::weighted(0.2, (key(), json()))).prop_map(move |(replaced, more)| {
        let mut value = right.clone();
        for (field, with) in replaced {
            match with {
                Some(with) => value[field] = with,
                None => drop(value.as_object_mut().and_then(|o| o.remove(&field))),
            }
        }
        if let (Some((field, with)), Some(object)) = (more, value.as_object_mut()) {
            object.insert(field, with);
        }
        value
    })
}

//! Durations as Kubernetes writes them (`metav1.Duration`: `90s`, `10m`, `1h30m`), bounded so that the API server's CEL
//! can compare them.

use std::{borrow::Cow, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A duration in a spec or status, written in Go's format: whole numbers with the units `h`, `m`, `s` and `ms`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct Seconds(kube::core::Duration);

impl Seconds {
    /// Reads a duration, as values of flags are read.
    pub fn parse(text: &str) -> Result<Duration, String> {
        text.parse::<Self>().map(Self::get).map_err(|e| e.to_string())
    }

    /// The duration; a negative one, which the schema refuses, counts as zero.
    pub fn get(self) -> Duration {
        if self.0.is_negative() { Duration::ZERO } else { self.0.into() }
    }
}

impl From<Duration> for Seconds {
    fn from(d: Duration) -> Self {
        Self(d.into())
    }
}

impl std::str::FromStr for Seconds {
    type Err = kube::core::duration::ParseError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": r"^([0-9]{1,8}(\.[0-9]{1,9})?(h|m|s|ms))+$",
        })
    }
}

/// A duration in milliseconds, as objects and workflows have it.
pub fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The reverse of [`whole_millis`]; less than none is none.
pub fn millis(n: i64) -> Duration {
    Duration::from_millis(u64::try_from(n).unwrap_or(0))
}

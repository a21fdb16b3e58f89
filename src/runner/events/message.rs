//! The lines between an agent and its runner, on the socket `KODO_RUNNER_SOCK`. Pure. Used by [`super::socket`].
//!
//! | agent | runner |
//! |---|---|
//! | `{"seq": 7, "kind": "result", "payload": "text", "ts": 1795000000.5}`; `ts`, in seconds, may be left out | `{"ack": 7}` |
//! | anything else | `{"error": {"seq": 7, "reason": "Invalid", "message": "..."}}`, with `seq` if it was understood |
//!
//! Lines are answered in their order. If the agent doesn't read the answers, some are left out: `ack` counts for all
//! lines before it, but for those with an error. `seq` is any number; it means nothing beyond its connection.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::json;

use crate::protocol::events::{Kind, MAX_EVENT_BYTES};

/// The longest line.
pub const MAX_LINE: usize = MAX_EVENT_BYTES;

/// An event of the agent's.
#[derive(Debug, PartialEq)]
pub struct AgentEvent<'a> {
    pub seq: u64,
    pub ts: Option<f64>,
    pub kind: Kind,
    pub payload: Cow<'a, str>,
}

/// Why a line is not taken.
#[derive(thiserror::Error, Debug, PartialEq)]
pub enum Refusal {
    /// It is no event.
    #[error("not an event: {0}")]
    Invalid(String),
    /// The runner takes no event of this kind from its agent.
    #[error("events of kind {0} are not supported here")]
    NotSupported(String),
    /// The line is too long. The connection is closed.
    #[error("a line has at most {MAX_LINE} bytes")]
    TooLarge,
    /// The agent's main process has ended.
    #[error("the agent has ended")]
    Ended,
}

impl Refusal {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::NotSupported(_) => "NotSupported",
            Self::TooLarge => "TooLarge",
            Self::Ended => "Ended",
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    #[serde(default)]
    ts: Option<f64>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// Reads a line. An error comes with its number, if that was understood.
pub fn read(line: &[u8]) -> Result<AgentEvent<'_>, (Option<u64>, Refusal)> {
    let Line { seq, ts, kind, payload } = serde_json::from_slice(line).map_err(|error| {
        let seq = serde_json::from_slice::<Numbered>(line).ok().map(|line| line.seq);
        (seq, Refusal::Invalid(error.to_string()))
    })?;
    // Those that need an answer from elsewhere, or files, come later.
    let taken = |kind: &Kind| !matches!(kind, Kind::Lock | Kind::Lease | Kind::Upload);
    match Kind::ALL.into_iter().filter(taken).find(|taken| taken.as_str() == kind) {
        Some(kind) => Ok(AgentEvent { seq, ts, kind, payload }),
        None => Err((Some(seq), Refusal::NotSupported(kind.chars().take(32).collect()))),
    }
}

/// Says that an event is in the spool.
pub fn ack(seq: u64) -> String {
    format!("{{\"ack\":{seq}}}\n")
}

/// Says that a line is not taken.
pub fn refused(seq: Option<u64>, refusal: &Refusal) -> String {
    let mut error = json!({ "reason": refusal.reason(), "message": refusal.to_string() });
    if let Some(seq) = seq {
        error["seq"] = seq.into();
    }
    format!("{}\n", json!({ "error": error }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::fuzz::{check, nearly};

    #[test]
    fn an_event_has_a_number_a_kind_and_a_text() {
        let event = read(br#"{"seq":7,"kind":"result","payload":"{\"dict\":{}}","more":[1]}"#).unwrap();
        assert_eq!((event.seq, event.ts, event.kind), (7, None, Kind::Result));
        assert_eq!(event.payload, r#"{"dict":{}}"#);
        let event = read(br#"{"payload":"","ts":1.5,"kind":"agent","seq":0}"#).unwrap();
        assert_eq!((event.seq, event.ts, event.kind), (0, Some(1.5), Kind::Agent));
    }

    #[test]
    fn what_is_not_taken_has_a_reason() {
        for kind in ["lock", "lease", "upload", "alive"] {
            let line = format!(r#"{{"seq":7,"kind":"{kind}","payload":"x"}}"#);
            assert_eq!(read(line.as_bytes()), Err((Some(7), Refusal::NotSupported(kind.into()))));
        }
        let invalid = |line: &[u8]| match read(line) {
            Err((seq, Refusal::Invalid(_))) => seq,
            other => panic!("{other:?}"),
        };
        assert_eq!(invalid(br#"{"seq":7,"kind":"result","payload":{"dict":{}}}"#), Some(7), "a payload is a text");
        assert_eq!(invalid(br#"{"seq":7,"kind":"result"}"#), Some(7));
        assert_eq!(invalid(br#"{"seq":-7,"kind":"result","payload":""}"#), None);
        assert_eq!(invalid(b"hello"), None);
        assert_eq!(invalid(br#"{"seq":7,"kind":"result","payload":"\ud800"}"#), Some(7), "half a character");
        assert_eq!(
            refused(Some(7), &Refusal::Ended),
            "{\"error\":{\"message\":\"the agent has ended\",\"reason\":\"Ended\",\"seq\":7}}\n"
        );
        assert_eq!(ack(7), "{\"ack\":7}\n");
    }

    #[test]
    fn whatever_an_agent_sends_is_answered_in_a_line() {
        let event = json!({ "seq": 7, "ts": 1.5, "kind": "result", "payload": "x" });
        let line = prop_oneof![nearly(event).prop_map(|value: Value| value.to_string().into_bytes()), any::<Vec<u8>>()];
        check("a line of an agent's", line, |line| {
            let answer = match read(&line) {
                Ok(event) => ack(event.seq),
                Err((seq, refusal)) => refused(seq, &refusal),
            };
            prop_assert!(answer.ends_with('\n') && answer.trim_end().lines().count() == 1 && answer.len() < 1000);
            prop_assert!(serde_json::from_str::<Value>(&answer).is_ok());
            Ok(())
        });
    }
}

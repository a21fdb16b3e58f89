//! What an agent tells while it runs, on its way into the archive: from a runner to the gateway, and from the gateway to the
//! server. NDJSON: a line [`Batch`], then a line for each [`Event`].
//!
//! A *source* is one run of an execution. Its runner numbers its events 1, 2, 3, and keeps each until it is stored, so
//! that a batch may be sent again: what is stored already is skipped, and what would leave a gap is refused.
//!
//! | response | what it means |
//! |---|---|
//! | 200 [`Stored`] | stored, and everything before it: the runner drops those events |
//! | 409 [`Stored`] | the batch leaves a gap: go on with the one after that number |
//! | 410 | neither the run nor its execution takes any more events: drop them all |
//! | 429, 503, no answer | again later |
//!
//! If events that the server misses are no longer there, because `stored + 1 < oldest`, it stores an event of kind `debug`
//! in their place, `{"koco":{"lost":{"from":N,"to":M}}}`: a gap never holds up what comes after it. Jobs depend on none of this: without a server they start, run and end.

use serde::{Deserialize, Deserializer, Serialize};

/// The `Content-Type` of a batch.
pub const CONTENT_TYPE: &str = "application/x-ndjson";
/// How large a batch of several events is at most, in bytes of its lines.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;
/// The largest payload of an event, in bytes of UTF-8.
pub const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;
/// The largest body: one event whose payload is large. A line of JSON that is longer can't be sent, even if the payload in
/// it is not.
pub const MAX_BODY_BYTES: usize = 9 * 1024 * 1024;
/// The most events of a batch.
pub const MAX_BATCH_EVENTS: usize = 16 * 1024;

/// What a runner is to do with its agent's events.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// Whether lines of the agent's standard output and error are events.
    pub stdio: bool,
}

/// The first line of a request.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of the first event.
    pub from: u64,
    /// The lowest number that the runner could still send; at most `from`.
    pub oldest: u64,
}

/// What an event is, by Kodosumi's names.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The execution's status.
    Status,
    /// What is known about the execution.
    Meta,
    /// Its inputs.
    Inputs,
    /// The agents that take part.
    Agent,
    /// Files that were uploaded.
    Upload,
    /// A message for developers.
    Debug,
    /// A line of standard output.
    Stdout,
    /// A line of standard error.
    Stderr,
    /// Input that is asked for.
    Lock,
    /// The answer to that.
    Lease,
    /// An error.
    Error,
    /// An action of the agent.
    Action,
    /// An intermediate result.
    Result,
    /// The final result.
    Final,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Status,
        Self::Meta,
        Self::Inputs,
        Self::Agent,
        Self::Upload,
        Self::Debug,
        Self::Stdout,
        Self::Stderr,
        Self::Lock,
        Self::Lease,
        Self::Error,
        Self::Action,
        Self::Result,
        Self::Final,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Meta => "meta",
            Self::Inputs => "inputs",
            Self::Agent => "agent",
            Self::Upload => "upload",
            Self::Debug => "debug",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Lock => "lock",
            Self::Lease => "lease",
            Self::Error => "error",
            Self::Action => "action",
            Self::Result => "result",
            Self::Final => "final",
        }
    }
}

/// A line of a batch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Event {
    /// When, in seconds since 1970, by the runner's clock.
    pub ts: f64,
    /// What it is. A kind that only a later release knows is read as `debug`: it holds up nothing.
    #[serde(deserialize_with = "kind")]
    pub kind: Kind,
    /// Its text, as the agent wrote it.
    pub payload: String,
}

fn kind<'de, D: Deserializer<'de>>(from: D) -> Result<Kind, D::Error> {
    let word = String::deserialize(from)?;
    Ok(Kind::ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or(Kind::Debug))
}

/// The number of the last event that is stored of a source, which may be higher than that of the batch's last.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The number; 0 if there is none.
    pub stored: u64,
}

/// A body that is no batch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// A line is no JSON, or not what it has to be.
    #[error("line {0}: {1}")]
    Line(usize, String),
    /// The numbers make no sense.
    #[error("`from` is at least 1, and `oldest` from 1 to `from`")]
    Numbers,
    /// No event, or too many.
    #[error("a batch has from 1 to 16,384 events")]
    Count,
    /// An event is too large.
    #[error("line {0}: a payload has at most 8 MiB")]
    Payload(usize),
}

/// The body of a request.
pub fn encode<'a>(batch: Batch, events: impl IntoIterator<Item = &'a Event>) -> serde_json::Result<Vec<u8>> {
    let mut body = serde_json::to_vec(&batch)?;
    body.push(b'\n');
    for event in events {
        serde_json::to_writer(&mut body, event)?;
        body.push(b'\n');
    }
    Ok(body)
}

/// Reads the body of a request. Lines that are empty are skipped.
pub fn decode(body: &[u8]) -> Result<(Batch, Vec<Event>), BatchError> {
    let mut lines = (1..).zip(body.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
    let malformed = |n: usize, error: serde_json::Error| BatchError::Line(n, error.to_string());
    let (n, first) = lines.next().ok_or(BatchError::Count)?;
    let batch: Batch = serde_json::from_slice(first).map_err(|error| malformed(n, error))?;
    if batch.oldest < 1 || batch.oldest > batch.from {
        return Err(BatchError::Numbers);
    }
    let mut events = Vec::new();
    for (n, line) in lines {
        let event: Event = serde_json::from_slice(line).map_err(|error| malformed(n, error))?;
        if event.payload.len() > MAX_EVENT_BYTES {
            return Err(BatchError::Payload(n));
        }
        events.push(event);
        if events.len() > MAX_BATCH_EVENTS {
            return Err(BatchError::Count);
        }
    }
    if events.is_empty() { Err(BatchError::Count) } else { Ok((batch, events)) }
}

/// The path at which the server takes the events of a run of an execution, from gateways alone.
pub fn append_path(fid: &str, run: &str) -> String {
    format!("/internal/v1/executions/{fid}/runs/{run}/events")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, payload: &str) -> Event {
        Event { ts: 1_795_000_000.25, kind, payload: payload.into() }
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let texts = ["", "a\nb\r\n", "\u{0}\u{2028}ü\"\\", "{\"x\": 1}"];
        let events: Vec<Event> = Kind::ALL.iter().zip(texts.iter().cycle()).map(|(k, t)| event(*k, t)).collect();
        let batch = Batch { from: 7, oldest: 3 };
        let body = encode(batch, &events).unwrap();
        assert_eq!(decode(&body).unwrap(), (batch, events.clone()));
        assert_eq!(decode(body.trim_ascii_end()).unwrap().1, events, "the last line needs no end");
        let text = String::from_utf8(body).unwrap();
        let first = text.lines().take(2).collect::<Vec<_>>();
        assert_eq!(
            first,
            [r#"{"from":7,"oldest":3}"#, r#"{"ts":1795000000.25,"kind":"status","payload":""}"#],
            "on the wire it is as it was"
        );
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let body = |batch: &str, events: &[&str]| format!("{batch}\n{}", events.join("\n")).into_bytes();
        let (batch, one) = (r#"{"from":1,"oldest":1}"#, r#"{"ts":1,"kind":"stdout","payload":"x","more":1}"#);
        assert!(decode(&body(batch, &[one])).is_ok(), "a later release may say more");
        for numbers in [r#"{"from":0,"oldest":0}"#, r#"{"from":1,"oldest":0}"#, r#"{"from":1,"oldest":2}"#] {
            assert_eq!(decode(&body(numbers, &[one])), Err(BatchError::Numbers));
        }
        for none in [body("", &[]), body(batch, &[]), body(batch, &["", " "])] {
            assert_eq!(decode(&none), Err(BatchError::Count));
        }
        assert_eq!(decode(&body(batch, &vec![one; MAX_BATCH_EVENTS + 1])), Err(BatchError::Count));
        let newer = decode(&body(batch, &[r#"{"ts":1,"kind":"eof","payload":"x"}"#])).unwrap().1;
        assert_eq!(newer, [Event { ts: 1.0, ..event(Kind::Debug, "x") }], "a later release may have more kinds");
        for bad in ["x", "{}", r#"{"ts":1,"kind":7,"payload":"x"}"#, r#"{"ts":null,"kind":"final","payload":""}"#] {
            assert!(matches!(decode(&body(batch, &[one, bad])), Err(BatchError::Line(3, _))), "{bad}");
        }
        assert!(matches!(decode(&body(r#"{"from":-1,"oldest":1}"#, &[one])), Err(BatchError::Line(1, _))));
        assert!(matches!(decode(&body(batch, &["\u{1}"])), Err(BatchError::Line(2, _))));
        let large = encode(Batch { from: 1, oldest: 1 }, [&event(Kind::Result, &"x".repeat(MAX_EVENT_BYTES + 1))]);
        assert_eq!(decode(&large.unwrap()), Err(BatchError::Payload(2)));
    }

    #[test]
    fn the_largest_event_fits_into_a_body() {
        let largest = event(Kind::Result, &"x".repeat(MAX_EVENT_BYTES));
        let body = encode(Batch { from: u64::MAX, oldest: u64::MAX }, [&largest]).unwrap();
        assert!(body.len() <= MAX_BODY_BYTES);
        assert_eq!(decode(&body).unwrap().1, [largest]);
    }
}

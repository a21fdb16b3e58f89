//! An execution's events as Kodosumi streams them. Used by [`super::outputs`].
//!
//! Runners send `status` (`starting`, `running`), `inputs` and what the agent tells, for each attempt. The rest is the
//! server's, from the AgentJob, so that a client sees what Kodosumi would send, whatever an agent says of itself: `meta`
//! before each `running`; `final` and the one status that ends the stream after everything else, because what looks like an
//! end may be followed by another attempt.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use super::{
    super::{
        events::word,
        room::held,
        stream::{Answer, Framing},
    },
    execution::{Execution, Status, seconds},
    outputs::{Found, last_of},
    render,
};
use crate::{
    database::{DatabaseError, END, Fid, Kind, StoredEvent},
    server::Server,
};

/// Which events a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Stream,
    Main,
    Stdio,
}

impl View {
    fn shows(self, kind: Kind) -> bool {
        match self {
            Self::Stream => true,
            Self::Main => !matches!(kind, Kind::Stdout | Kind::Stderr | Kind::Debug | Kind::Upload),
            Self::Stdio => matches!(kind, Kind::Error | Kind::Stdout | Kind::Stderr | Kind::Debug | Kind::Upload),
        }
    }
}

/// How a stream is sent.
pub struct Frames {
    view: View,
    /// Whether payloads are rendered.
    html: bool,
    fid: Fid,
    meta: String,
    /// The row of the last event that was passed, sent or not. Frames that are no stored event carry it, so that a client
    /// that comes back goes on there.
    last: i64,
    /// Whether the client has the beginning of an attempt.
    begun: bool,
    /// Whether the last event is the last one of a run.
    complete: bool,
}

/// Something that the server adds at the end.
#[derive(Debug, PartialEq)]
struct Added {
    ts: f64,
    kind: Kind,
    payload: String,
}

impl Frames {
    /// For a client that has everything up to a row.
    pub fn new(view: View, html: bool, execution: &Execution, after: i64) -> Self {
        let (fid, meta) = (execution.summary.fid, execution.meta());
        Self { view, html, fid, meta, last: after, begun: after > 0, complete: false }
    }

    fn write(&self, text: &mut String, ts: f64, kind: Kind, payload: &str) {
        if self.view.shows(kind) {
            let payload = if self.html { Cow::Owned(render::html(kind, payload)) } else { Cow::Borrowed(payload) };
            frame(text, self.last, word(kind), &format!("{ts:?}:{payload}"));
        }
    }

    fn write_stored(&mut self, text: &mut String, stored: &StoredEvent) {
        let (ts, kind, payload) = (stored.event.ts, stored.event.kind, stored.event.payload.as_str());
        self.complete = kind == Kind::Debug && payload.starts_with(END);
        match (kind, payload) {
            // A client that is sent back to before this event gets `meta` again.
            (Kind::Status, "running") => self.write(text, ts, Kind::Meta, &self.meta),
            (Kind::Status, "starting") => self.begun = true,
            // The server's alone.
            (Kind::Status | Kind::Meta | Kind::Final, _) => {
                self.last = stored.row;
                return;
            }
            _ => {}
        }
        self.last = stored.row;
        self.write(text, ts, kind, payload);
    }

    fn write_added(&self, added: &[Added]) -> String {
        let mut text = String::new();
        added.iter().for_each(|added| self.write(&mut text, added.ts, added.kind, &added.payload));
        text
    }
}

impl Framing for Frames {
    const ALIVE: Duration = Duration::from_secs(3);

    fn events(&mut self, events: &[StoredEvent]) -> String {
        let mut text = String::new();
        events.iter().for_each(|stored| self.write_stored(&mut text, stored));
        text
    }

    fn alive(&self, now: i64) -> String {
        let mut text = String::new();
        frame(&mut text, self.last, "alive", &format!("{:?}:service alive", seconds(now)));
        text
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    async fn closing(&mut self, server: &Server, user: &str) -> Result<Answer, DatabaseError> {
        let Some((summary, object)) = server.database.get(self.fid).await? else { return Ok(Answer::None) };
        let execution = Execution::new(summary, &object);
        let run = execution.run();
        let (mut stored, mut room) = (None, None);
        if self.view.shows(Kind::Final) && execution.status() == Status::Finished {
            match last_of(server, user, self.fid, run, Kind::Final).await? {
                Found::Event(payload, place) => (stored, room) = (Some(payload), Some(place)),
                Found::Nothing => {}
                Found::NoRoom => return Ok(Answer::NoRoom),
            }
        }
        let told = execution.error().is_some() && server.database.last(self.fid, run, Kind::Error).await?.is_some();
        let added = ending(&execution, self.begun, told, stored);
        let text = self.write_added(&added);
        Ok(match (text.is_empty(), room) {
            (true, _) => Answer::None,
            (false, Some(room)) => Answer::Events(held(text, room)),
            (false, None) => Answer::Events(text.into()),
        })
    }

    fn end(&self, _: i64) -> String {
        let mut text = String::new();
        frame(&mut text, self.last, "eof", "end of stream");
        text
    }
}

/// What the server adds when an execution has ended. `begun`: the client has the beginning; `told`: the error of the last run
/// is an event; `stored`: the agent's own `final`.
fn ending(execution: &Execution, begun: bool, told: bool, stored: Option<String>) -> Vec<Added> {
    let summary = &execution.summary;
    let mut all = Vec::new();
    let mut add = |millis: i64, kind, payload: String| all.push(Added { ts: seconds(millis), kind, payload });
    if !begun {
        add(summary.created, Kind::Status, Status::Starting.as_str().into());
        add(summary.created, Kind::Inputs, execution.inputs());
        add(summary.created, Kind::Meta, execution.meta());
        if let Some(started) = summary.started {
            add(started, Kind::Status, Status::Running.as_str().into());
        }
    }
    let ended = summary.ended().unwrap_or(summary.created);
    match execution.error() {
        Some(error) if !told => add(ended, Kind::Error, error),
        Some(_) => {}
        None => add(ended, Kind::Final, stored.unwrap_or_else(|| execution.result())),
    }
    add(ended, Kind::Status, execution.status().as_str().into());
    all
}

/// Writes a frame. Data are split wherever a client would see the end of a line: a payload stays in its frame.
fn frame(text: &mut String, id: i64, event: &str, data: &str) {
    // Writing to a text never fails.
    let _ = write!(text, "id: {id}\nevent: {event}\n");
    let mut rest = data;
    loop {
        let end = rest.find(['\r', '\n']);
        text.push_str("data: ");
        text.push_str(&rest[..end.unwrap_or(rest.len())]);
        text.push('\n');
        let Some(end) = end else { break };
        let length = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[end + length..];
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::execution::tests::execution, *};
    use crate::{database::Event, fuzz::check};

    const ENDED: &str = r#"{"koco":{"end":{"kind":"Succeeded"}}}"#;

    fn stored(row: i64, kind: Kind, payload: &str) -> StoredEvent {
        StoredEvent { row, run: 1, seq: row, event: Event { ts: row as f64 + 0.5, kind, payload: payload.into() } }
    }

    fn frames(view: View, html: bool) -> Frames {
        Frames::new(view, html, &execution("Running", json!({})), 0)
    }

    /// Id, event and data of frames, as a client reads them.
    fn read(text: &str) -> Vec<(i64, String, String)> {
        let mut all = Vec::new();
        let (mut id, mut event, mut data) = (0, String::new(), Vec::new());
        for line in text.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("id", value) => id = value.parse().unwrap(),
                ("event", value) => event = value.into(),
                ("data", value) => data.push(value.to_string()),
                ("", _) if !event.is_empty() => {
                    all.push((id, std::mem::take(&mut event), std::mem::take(&mut data).join("\n")));
                }
                (other, _) => assert!(other.is_empty(), "{line}"),
            }
        }
        all
    }

    fn kinds(text: &str) -> Vec<String> {
        read(text)
            .into_iter()
            .map(|(_, event, data)| match event.as_str() {
                "status" => format!("{event} {}", data.split_once(':').unwrap().1),
                _ => event,
            })
            .collect()
    }

    #[test]
    fn an_event_is_framed_as_by_kodosumi() {
        let text = frames(View::Stream, false).events(&[stored(3, Kind::Stdout, "a: b\r\nc\rd\n")]);
        assert_eq!(text, "id: 3\nevent: stdout\ndata: 3.5:a: b\ndata: c\ndata: d\ndata: \n\n");
        let mut frames = frames(View::Stream, false);
        frames.events(&[stored(3, Kind::Stdout, "x")]);
        assert_eq!(frames.alive(1_767_225_600_250), "id: 3\nevent: alive\ndata: 1767225600.25:service alive\n\n");
        assert_eq!(frames.end(0), "id: 3\nevent: eof\ndata: end of stream\n\n");
    }

    #[test]
    fn no_payload_leaves_its_frame() {
        let payload = prop_oneof![any::<String>(), "(\r|\n|data: |id: 9|event: eof|:|x){0,12}"];
        check("a payload in a frame", payload, |payload| {
            for html in [false, true] {
                for kind in [Kind::Stdout, Kind::Result, Kind::Error, Kind::Agent] {
                    let text = frames(View::Stream, html).events(&[stored(7, kind, &payload)]);
                    let all = read(&text);
                    prop_assert_eq!(all.len(), 1);
                    prop_assert_eq!((all[0].0, all[0].1.as_str()), (7, word(kind)));
                    let same = format!("7.5:{}", payload.replace("\r\n", "\n").replace('\r', "\n"));
                    prop_assert!(html || all[0].2 == same);
                }
            }
            Ok(())
        });
    }

    #[test]
    fn each_stream_has_its_kinds() {
        let all: Vec<_> = (1..).zip(Kind::ALL).map(|(row, kind)| stored(row, kind, "starting")).collect();
        let shown = |view| kinds(&frames(view, false).events(&all)).join(" ");
        assert_eq!(shown(View::Main), "status starting inputs agent lock lease error action result");
        assert_eq!(shown(View::Stdio), "upload debug stdout stderr error");
        assert_eq!(
            shown(View::Stream),
            "status starting inputs agent upload debug stdout stderr lock lease error action result"
        );
    }

    #[test]
    fn only_the_server_says_what_an_execution_is_and_how_it_ended() {
        let forged = ["finished", "error", "awaiting", "running\n"].map(|status| stored(9, Kind::Status, status));
        let mut frames = frames(View::Stream, false);
        assert_eq!(frames.events(&forged), "");
        let events = [stored(10, Kind::Meta, r#"{"dict":{"username":"root"}}"#), stored(11, Kind::Final, "{}")];
        assert_eq!(frames.events(&events), "");
        assert_eq!(read(&frames.end(0))[0].0, 11);
    }

    #[test]
    fn meta_comes_before_each_running() {
        let mut frames = frames(View::Main, false);
        let begin = |row| {
            [
                stored(row, Kind::Status, "starting"),
                stored(row + 1, Kind::Inputs, r#"{"dict":{}}"#),
                stored(row + 2, Kind::Status, "running"),
            ]
        };
        let first = frames.events(&begin(1));
        assert_eq!(kinds(&first), ["status starting", "inputs", "meta", "status running"]);
        let all = read(&first);
        assert_eq!((all[2].0, all[3].0), (2, 3), "who comes back after `meta` gets `running`");
        assert!(all[2].2.starts_with(r#"3.5:{"dict":{"fid":"6955b900aabbccddeeff0011","#), "{}", all[2].2);
        let retry = [stored(4, Kind::Error, "AgentFailed: x"), stored(5, Kind::Debug, ENDED)];
        assert_eq!(kinds(&frames.events(&retry)), ["error"], "no status: another attempt follows");
        assert!(frames.is_complete());
        assert_eq!(kinds(&frames.events(&begin(6))), ["status starting", "inputs", "meta", "status running"]);
        assert!(!frames.is_complete());
    }

    #[test]
    fn the_end_has_the_order_of_kodosumi() {
        let shown = |phase, object, begun, told, stored: Option<&str>| {
            let added = ending(&execution(phase, object), begun, told, stored.map(String::from));
            let text = frames(View::Stream, false).write_added(&added);
            (kinds(&text).join(" "), added)
        };
        let (kinds, added) = shown("Succeeded", json!({}), true, false, Some(r#"{"str":"x"}"#));
        assert_eq!(kinds, "final status finished");
        assert_eq!((added[0].ts, added[0].payload.as_str()), (1_767_225_603.5, r#"{"str":"x"}"#));
        let (_, added) = shown("Succeeded", json!({ "status": { "result": 7 } }), true, false, None);
        assert_eq!(added[0].payload, r#"{"int":7}"#, "of an agent that sends no events");
        // An error of an attempt before doesn't make a success less.
        assert_eq!(shown("Succeeded", json!({}), true, true, None).0, "final status finished");
        assert_eq!(shown("Failed", json!({}), true, true, Some("{}")).0, "status error");
        assert_eq!(shown("Failed", json!({}), true, false, None).0, "error status error");
        assert_eq!(shown("Cancelled", json!({}), true, false, None).0, "error status error");
        let whole = "status starting inputs meta status running final status finished";
        assert_eq!(shown("Succeeded", json!({}), false, false, None).0, whole);
    }
}

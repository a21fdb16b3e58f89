//! All events of an execution as they come, as server-sent events: those that there are, then each new one, until the
//! execution has ended. The id of an event is its row, so that a client that comes back goes on where it was. How they are
//! put is a [`Framing`]'s: ours is here. Used by [`super::events`] and [`super::kodosumi`].
//!
//! A page is read from the database only when the client has taken the one before, so that a slow client costs no more
//! memory than a fast one.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, header},
    response::{IntoResponse, Response},
};
use k8s_openapi::api::authentication::v1::UserInfo;
use tokio::sync::watch;

use super::{
    Refusal,
    events::{Item, word},
    room::held,
};
use crate::{
    database::{DatabaseError, Head, StoredEvent, Summary, Tail},
    platform::{
        clock,
        http::{Connection, limits::Place},
    },
    server::{Server, access::Verb, live::Seen},
};

/// The type of a stream.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Tells proxies not to hold back what comes.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How many events are read at a time.
const PAGE: u32 = 100;
/// How often it is asked whether the client may still read.
const CHECK: Duration = Duration::from_secs(5);
/// How long it waits until there is room again.
const CROWDED: Duration = Duration::from_millis(500);
/// How long after the end of an execution events may come, in milliseconds, if the end of a run was not seen.
const LATE: i64 = 10_000;
/// And if some may be missing: until they are marked as lost, [`crate::server::lost`].
const MISSING: i64 = 90_000;
/// How often it is asked then whether they have come.
const ASK: Duration = Duration::from_secs(1);

/// What there is to send.
pub enum Answer {
    Events(Bytes),
    None,
    /// The user's clients have not taken what they asked for before.
    NoRoom,
}

/// How a stream puts what it has to say.
pub trait Framing: Send + 'static {
    /// After how long without events it says that it is alive, so that the connection is not taken for dead.
    const ALIVE: Duration;

    /// The next events. Nothing, if none of them is for this client.
    fn events(&mut self, events: &[StoredEvent]) -> String;

    /// That it is alive, at this time in milliseconds since 1970.
    fn alive(&self, now: i64) -> String;

    /// Whether no event is missing if the execution has ended.
    fn is_complete(&self) -> bool {
        false
    }

    /// What follows on all events of an execution that has ended.
    fn closing(&mut self, server: &Server, user: &str) -> impl Future<Output = Result<Answer, DatabaseError>> + Send;

    /// That the stream has ended, and how many events are known to be missing.
    fn end(&self, missing: i64) -> String;
}

/// What a stream is about.
struct Source {
    server: Arc<Server>,
    /// The request's `Authorization`.
    token: Option<String>,
    /// Whom it is of.
    user: String,
    summary: Summary,
    /// After this row.
    after: i64,
    _place: Place<String>,
}

/// A stream.
struct Stream<F> {
    of: Source,
    framing: F,
    seen: watch::Receiver<Seen>,
    checked: Instant,
    spoke: Option<Instant>,
    /// There was nothing to read the last time.
    caught_up: bool,
    /// What follows on the events was sent.
    closed: bool,
    over: bool,
}

/// Who asks for a stream, and with what.
pub struct Client<'a> {
    pub user: UserInfo,
    pub connection: &'a Connection,
    pub headers: &'a HeaderMap,
}

/// The row after which a stream begins: what a client says that comes back is newer than what its address says.
pub fn begin(headers: &HeaderMap, after: i64) -> Result<i64, Refusal> {
    let after = match headers.get("Last-Event-ID") {
        Some(id) => id.to_str().ok().and_then(|id| id.parse().ok()).filter(|after| *after >= 0),
        None => Some(after),
    };
    after.ok_or(Refusal::Malformed("Last-Event-ID: the number of an event".into()))
}

/// Answers with the events of an execution after a row, which the client may read.
pub fn open<F: Framing>(
    server: Arc<Server>,
    client: Client,
    summary: Summary,
    after: i64,
    framing: F,
) -> Result<Response, Refusal> {
    let user = client.user.username.unwrap_or_default();
    let place = server.limits.streams.enter(user.clone()).ok_or(Refusal::TooOften)?;
    // From now on it counts among the streams.
    client.connection.is_known();
    let token = client.headers.get(header::AUTHORIZATION).and_then(|h| h.to_str().ok()).map(String::from);
    let head = Head { last_row: summary.last_row, ended: summary.ended() };
    let seen = server.live.follow(summary.fid, head);
    let of = Source { server, token, user, summary, after, _place: place };
    let stream = Stream {
        of,
        framing,
        seen,
        checked: Instant::now(),
        spoke: None,
        caught_up: false,
        closed: false,
        over: false,
    };
    let body = Body::from_stream(futures::stream::unfold(stream, async |mut stream| {
        let next = stream.next().await?;
        Some((Ok::<_, Infallible>(next), stream))
    }));
    Ok(([(header::CONTENT_TYPE, EVENT_STREAM), (UNBUFFERED, "no")], body).into_response())
}

impl<F: Framing> Stream<F> {
    /// What is to be sent next; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let stop = self.of.server.stop.clone();
        loop {
            if self.over || stop.is_cancelled() || !self.may_read().await {
                return None;
            }
            // Before the events are read: what comes after that wakes it.
            let seen = *self.seen.borrow_and_update();
            if seen.gone {
                return None;
            }
            let (left, answer) = self.look(seen.head).await?;
            let now = Instant::now();
            // Nothing of a page may be for this client, and yet there are more.
            let mut more = false;
            match answer {
                Answer::Events(frames) if !frames.is_empty() => {
                    (self.spoke, self.caught_up) = (Some(now), false);
                    return Some(frames);
                }
                Answer::Events(_) => (self.caught_up, more) = (false, true),
                Answer::NoRoom => {
                    tokio::time::sleep(CROWDED).await;
                    continue;
                }
                Answer::None if seen.head.ended.is_some() && !self.caught_up => {
                    self.caught_up = true;
                    continue;
                }
                Answer::None => {}
            }
            if let Some(Left { millis: ..=0, missing }) = left.filter(|_| !more) {
                self.over = true;
                return Some(self.framing.end(missing).into());
            }
            let alive = self.spoke.map_or(now, |spoke| spoke + F::ALIVE);
            if alive <= now {
                self.spoke = Some(now);
                return Some(self.framing.alive(clock::now().as_millisecond()).into());
            }
            if more {
                continue;
            }
            let left = left.map(|left| now + Duration::from_millis(left.millis.unsigned_abs()).min(ASK));
            let until = left.into_iter().fold(alive.min(self.checked + CHECK), Instant::min);
            tokio::select! {
                changed = self.seen.changed() => changed.ok()?,
                () = tokio::time::sleep_until(until.into()) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// How long it is still waited, and what there is to send: events, or what follows on them if none can come any more.
    /// `None` ends the stream.
    async fn look(&mut self, head: Head) -> Option<(Option<Left>, Answer)> {
        let looked = async {
            // In this order: what is said to be there is read.
            let left = self.left(head).await?;
            let answer = self.read().await?;
            let is_last = left.is_some_and(|left| left.millis <= 0 || self.framing.is_complete());
            if self.closed || !is_last || !matches!(answer, Answer::None) {
                return Ok((left, answer));
            }
            let answer = self.framing.closing(&self.of.server, &self.of.user).await?;
            self.closed = !matches!(answer, Answer::NoRoom);
            Ok::<_, DatabaseError>((left, answer))
        };
        let looked = looked.await;
        looked.inspect_err(|error| tracing::warn!(%error, reason = error.reason(), "a stream of events ends")).ok()
    }

    /// How long it is waited for events of an execution that has ended, once those that there are were read.
    async fn left(&mut self, head: Head) -> Result<Option<Left>, DatabaseError> {
        let Some(ended) = head.ended.filter(|_| self.caught_up) else { return Ok(None) };
        let tail = self.of.server.database.tail(self.of.summary.fid).await?;
        Ok(Some(Left::of(tail, clock::now().as_millisecond() - ended)))
    }

    /// The next events, if there are any and there is room for them.
    async fn read(&mut self) -> Result<Answer, DatabaseError> {
        let Source { server, user, summary, after, .. } = &mut self.of;
        let Some(page) = server.database.page(summary.fid, *after, PAGE).await? else { return Ok(Answer::None) };
        let Some(room) = server.limits.room.take(user.clone(), page) else { return Ok(Answer::NoRoom) };
        let events = server.database.read(summary.fid, *after, page).await?;
        *after = page.last;
        Ok(Answer::Events(held(self.framing.events(&events), room)))
    }

    /// Whether the client may still read: asked again now and then, for a stream may last for days.
    async fn may_read(&mut self) -> bool {
        if self.checked.elapsed() < CHECK {
            return true;
        }
        self.checked = Instant::now();
        let Source { server, token, summary, .. } = &self.of;
        let Ok(user) = server.authenticator.holder(token.as_deref()).await else { return false };
        matches!(server.access.may_still(&user, Verb::Get, summary).await, Ok(true))
    }
}

/// How long it is still waited, and how many events are known to be missing.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Left {
    millis: i64,
    missing: i64,
}

impl Left {
    /// So many milliseconds after the execution's end.
    fn of(tail: Tail, since: i64) -> Self {
        match tail {
            Tail::Settled(missing) => Self { millis: 0, missing },
            Tail::Missing(missing) => Self { millis: MISSING - since, missing },
            Tail::Unknown => Self { millis: LATE - since, missing: 0 },
        }
    }
}

/// Our frames: events as JSON, which has no line ends.
pub struct JsonFrames;

impl Framing for JsonFrames {
    const ALIVE: Duration = Duration::from_secs(15);

    fn events(&mut self, events: &[StoredEvent]) -> String {
        let mut text = String::new();
        for stored in events {
            // An event always serializes.
            let data = serde_json::to_string(&Item::from(stored)).unwrap_or_default();
            text.push_str(&format!("id: {}\nevent: {}\ndata: {data}\n\n", stored.row, word(stored.event.kind)));
        }
        text
    }

    fn alive(&self, _: i64) -> String {
        ": alive\n\n".into()
    }

    async fn closing(&mut self, _: &Server, _: &str) -> Result<Answer, DatabaseError> {
        Ok(Answer::None)
    }

    fn end(&self, missing: i64) -> String {
        let data = if missing > 0 { format!(r#"{{"missing":{missing}}}"#) } else { "{}".into() };
        format!("event: end\ndata: {data}\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Event, Kind};

    #[test]
    fn a_stream_ends_when_all_has_come_and_waits_for_what_is_missing() {
        let left = |tail, since| {
            let left = Left::of(tail, since);
            (left.millis <= 0, JsonFrames.end(left.missing))
        };
        let plain = "event: end\ndata: {}\n\n".to_string();
        assert_eq!(left(Tail::Settled(0), 0), (true, plain.clone()));
        assert_eq!((left(Tail::Unknown, 9_999).0, left(Tail::Unknown, 10_000)), (false, (true, plain)));
        let missing = "event: end\ndata: {\"missing\":3}\n\n".to_string();
        assert_eq!(left(Tail::Settled(3), 0), (true, missing.clone()), "and they are marked");
        assert_eq!((left(Tail::Missing(3), 89_999).0, left(Tail::Missing(3), 90_000)), (false, (true, missing)));
    }

    #[test]
    fn no_payload_forges_a_frame() {
        let event = |row, payload: &str| StoredEvent {
            row,
            run: 1,
            seq: row,
            event: Event { ts: 0.5, kind: Kind::Result, payload: payload.into() },
        };
        let text = JsonFrames.events(&[event(7, "a\n\nid: 9\r\nevent: end\rdata: x"), event(8, "")]);
        let expected = [
            "id: 7\nevent: result\n",
            r#"data: {"row":7,"run":1,"number":7,"ts":0.5,"kind":"result","#,
            r#""payload":"a\n\nid: 9\r\nevent: end\rdata: x"}"#,
            "\n\nid: 8\nevent: result\n",
            r#"data: {"row":8,"run":1,"number":8,"ts":0.5,"kind":"result","payload":""}"#,
            "\n\n",
        ];
        assert_eq!(text, expected.concat());
        assert!(!text.contains('\r'));
    }
}

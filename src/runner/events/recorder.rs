//! Numbers events and keeps them until they are stored: what the agent prints, what it sends on its socket, and what the
//! runner has to say. Called by [`super::capture`], [`super::socket`] and the supervisor; emptied by [`super::send`].
//!
//! Its lock is held while a disk is written, so what controls the agent takes it only before the agent starts, or on a
//! thread for that.

use std::{
    io::Write,
    mem::take,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;

use super::{
    delivery::{Backlog, ENOUGH_BYTES},
    lines::{self, Lines},
    spool::{Size, Spool, Unreadable},
};
use crate::protocol::events::Kind;

const SIZE: Size = Size { segment: 4 * 1024 * 1024, total: 64 * 1024 * 1024 };
/// How much memory is kept for the next event.
const KEPT: usize = 64 * 1024;

/// A stream that the agent prints to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Of its lines.
    pub fn kind(self) -> Kind {
        match self {
            Self::Stdout => Kind::Stdout,
            Self::Stderr => Kind::Stderr,
        }
    }
}

/// Why an event is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// The spool is full: try again when [`Recorder::room`] says so.
    Full,
    /// The agent has ended.
    Ended,
}

/// All events of a run that are not stored yet.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    inner: Mutex<Inner>,
    /// There is something to send.
    pub wake: Notify,
    /// There may be room again.
    pub room: Notify,
    last: AtomicU64,
    stored: AtomicU64,
    /// How many were dropped without being stored.
    lost: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    spool: Spool,
    limits: Limits,
    printed: [Printed; 2],
    /// What was added since the last batch; since when the first of it waits.
    fresh: usize,
    since: Duration,
    urgent: bool,
    /// The last event is in.
    ended: bool,
    /// Nothing is taken any more by the gateway: events are dropped.
    closed: bool,
    line: Vec<u8>,
}

/// How many bytes the spool may have for another event of a kind. The rest is for those that wait, and for the runner's.
#[derive(Clone, Copy, Debug)]
struct Limits {
    printed: u64,
    /// What is printed after something was dropped: not before a good part is stored, so that few gaps have to be told.
    printed_again: u64,
    sent: u64,
}

impl Limits {
    fn of(size: Size) -> Self {
        let part = |parts| size.total / 64 * parts;
        Self { printed: part(48), printed_again: part(44), sent: part(63) }
    }
}

#[derive(Debug, Default)]
struct Printed {
    lines: Lines,
    /// Lines that had no room since the last one that had.
    dropped: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    ts: f64,
    kind: Kind,
    payload: &'a str,
}

impl Recorder {
    /// Its spool is in this folder, without a name.
    pub fn create(folder: &Path, began: Instant) -> std::io::Result<Self> {
        Self::of_size(folder, began, SIZE)
    }

    pub(super) fn of_size(folder: &Path, began: Instant, size: Size) -> std::io::Result<Self> {
        let inner = Inner {
            spool: Spool::create(folder, size)?,
            limits: Limits::of(size),
            printed: Default::default(),
            fresh: 0,
            since: Duration::ZERO,
            urgent: false,
            ended: false,
            closed: false,
            line: Vec::new(),
        };
        let (wake, room) = (Notify::new(), Notify::new());
        let [last, stored, lost] = [0; 3].map(AtomicU64::new);
        Ok(Self { began, inner: Mutex::new(inner), wake, room, last, stored, lost })
    }

    /// Takes what was printed. Never waits for room: lines are dropped and counted.
    pub fn printed(&self, stream: Stream, bytes: &[u8]) {
        self.change(|inner, now| {
            let mut lines = take(&mut inner.printed[stream as usize].lines);
            lines.push(bytes, |line| inner.print(stream, line, now));
            inner.printed[stream as usize].lines = lines;
        });
    }

    /// A stream has ended.
    pub fn printed_all(&self, stream: Stream) {
        self.change(|inner, now| inner.end_stream(stream, now));
    }

    /// Takes an event that the agent has sent.
    pub fn sent(&self, ts: Option<f64>, kind: Kind, payload: &str) -> Result<(), Untaken> {
        self.change(|inner, now| {
            if inner.ended {
                return Err(Untaken::Ended);
            }
            inner.urgent |= kind == Kind::Final;
            let limit = inner.limits.sent;
            if inner.add(ts, kind, payload, limit, now) { Ok(()) } else { Err(Untaken::Full) }
        })
    }

    /// Takes an event of the runner's own.
    pub fn own(&self, kind: Kind, payload: &str) {
        self.change(|inner, now| inner.add(None, kind, payload, u64::MAX, now));
    }

    /// Takes the last events, after what was printed until now, and no other ever.
    pub fn end(&self, last: &[(Kind, String)]) {
        self.change(|inner, now| {
            for stream in [Stream::Stdout, Stream::Stderr] {
                inner.end_stream(stream, now);
                inner.tell_dropped(stream, u64::MAX, now);
            }
            for (kind, payload) in last {
                inner.add(None, *kind, payload, u64::MAX, now);
            }
            inner.ended = true;
        });
        self.wake.notify_one();
        self.room.notify_waiters();
    }

    /// How many events there are, stored or not.
    pub fn count(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// How many events are on their way to the store, or wait for it.
    pub fn unstored(&self) -> u64 {
        self.last.load(Ordering::Relaxed).saturating_sub(self.stored.load(Ordering::Relaxed))
    }

    /// How many events are not known to be stored: those, and those that were lost.
    pub fn missing(&self) -> u64 {
        self.unstored().saturating_add(self.lost.load(Ordering::Relaxed))
    }

    /// The time for [`Backlog::since`].
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What there is to send.
    pub fn backlog(&self) -> Backlog {
        let inner = self.lock();
        Backlog {
            oldest: inner.spool.oldest(),
            next: inner.spool.next(),
            bytes: inner.fresh,
            since: inner.since,
            urgent: inner.urgent,
        }
    }

    /// The lines of the next batch, and how many.
    pub fn read(&self, from: u64, count: u64) -> Result<(Vec<u8>, u64), Unreadable> {
        let mut inner = self.lock();
        let read = inner.spool.read(from, count, ENOUGH_BYTES)?;
        if from + read.count == inner.spool.next() {
            (inner.fresh, inner.urgent) = (0, false);
        } else {
            inner.fresh = inner.fresh.saturating_sub(read.bytes.len());
        }
        Ok((read.bytes, read.count))
    }

    /// Drops events up to this number.
    pub fn forget(&self, through: u64) {
        let mut inner = self.lock();
        inner.spool.forget(through);
        if inner.spool.oldest() == inner.spool.next() {
            (inner.fresh, inner.urgent) = (0, false);
        }
        drop(inner);
        self.room.notify_waiters();
    }

    /// Drops events up to this number, of which so many are not stored.
    pub fn lose(&self, through: u64, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.forget(through);
    }

    /// The store has all events up to this number, but for those that were lost.
    pub fn set_stored(&self, stored: u64) {
        self.stored.store(stored, Ordering::Relaxed);
    }

    /// Drops all events, those to come, too.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.spool.clear();
        drop(inner);
        self.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is inside, and wakes who sends it where that makes a difference.
    fn change<T>(&self, change: impl FnOnce(&mut Inner, Duration) -> T) -> T {
        let now = self.now();
        let mut inner = self.lock();
        let before = (inner.fresh == 0, inner.fresh >= ENOUGH_BYTES, inner.urgent);
        let result = change(&mut inner, now);
        let after = (inner.fresh == 0, inner.fresh >= ENOUGH_BYTES, inner.urgent);
        self.last.store(inner.spool.next() - 1, Ordering::Relaxed);
        drop(inner);
        if before != after {
            self.wake.notify_one();
        }
        result
    }
}

impl Inner {
    fn print(&mut self, stream: Stream, line: &[u8], now: Duration) {
        if self.ended {
            return;
        }
        let Limits { printed, printed_again, .. } = self.limits;
        let taken = self.tell_dropped(stream, printed_again, now)
            && self.add(None, stream.kind(), &lines::text(line), printed, now);
        if !taken {
            self.printed[stream as usize].dropped += 1;
        }
    }

    fn end_stream(&mut self, stream: Stream, now: Duration) {
        let mut lines = take(&mut self.printed[stream as usize].lines);
        lines.end(|line| self.print(stream, line, now));
    }

    /// Says how many lines were dropped before the next one. Returns whether that is said, or there are none.
    fn tell_dropped(&mut self, stream: Stream, limit: u64, now: Duration) -> bool {
        let dropped = self.printed[stream as usize].dropped;
        if dropped > 0 {
            let kind = stream.kind().as_str();
            let payload = json!({ "koco": { "dropped": { "kind": kind, "lines": dropped } } }).to_string();
            if !self.add(None, Kind::Debug, &payload, limit, now) {
                return false;
            }
            self.printed[stream as usize].dropped = 0;
        }
        true
    }

    /// Adds an event if the spool has no more than `limit` bytes then. Returns whether it is in, or not wanted any more.
    fn add(&mut self, ts: Option<f64>, kind: Kind, payload: &str, limit: u64, now: Duration) -> bool {
        if self.closed || self.ended {
            return true;
        }
        let since_1970 = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.line.clear();
        let line = Line { ts: ts.unwrap_or_else(since_1970), kind, payload };
        // Neither fails: it is text for memory.
        let written = serde_json::to_writer(&mut self.line, &line).is_ok() && self.line.write_all(b"\n").is_ok();
        let taken = written && self.spool.append(&self.line, limit);
        if taken {
            if self.fresh == 0 {
                self.since = now;
            }
            self.fresh += self.line.len();
        }
        if self.line.capacity() > KEPT {
            self.line = Vec::new();
        }
        taken
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;

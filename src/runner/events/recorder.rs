//! Numbers events and keeps them until they are stored. Called by the supervisor by way of [`super`]; emptied by
//! [`super::send`].
//!
//! Its lock is held while a disk is written, so what controls the agent takes it only before the agent starts, or on a
//! thread for that.

use std::{
    io::Write,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio::sync::Notify;

use super::{
    delivery::{Backlog, ENOUGH_BYTES},
    spool::{Size, Spool, Unreadable},
};
use crate::protocol::events::Kind;

const SIZE: Size = Size { segment: 4 * 1024 * 1024, total: 64 * 1024 * 1024 };
/// How much memory is kept for the next event.
const KEPT: usize = 64 * 1024;

/// All events of a run that are not stored yet.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    inner: Mutex<Inner>,
    /// There is something to send.
    pub wake: Notify,
    last: AtomicU64,
    stored: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    spool: Spool,
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
            fresh: 0,
            since: Duration::ZERO,
            urgent: false,
            ended: false,
            closed: false,
            line: Vec::new(),
        };
        let wake = Notify::new();
        let (last, stored) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { began, inner: Mutex::new(inner), wake, last, stored })
    }

    /// Takes an event of the runner's own.
    pub fn own(&self, kind: Kind, payload: &str) {
        self.change(|inner, now| inner.add(kind, payload, now));
    }

    /// Takes the last events, and no other ever.
    pub fn end(&self, last: &[(Kind, String)]) {
        self.change(|inner, now| {
            for (kind, payload) in last {
                inner.add(*kind, payload, now);
            }
            inner.ended = true;
        });
        self.wake.notify_one();
    }

    /// Whether an event was ever taken.
    pub fn is_used(&self) -> bool {
        self.last.load(Ordering::Relaxed) > 0
    }

    /// How many events are not known to be stored.
    pub fn missing(&self) -> u64 {
        self.last.load(Ordering::Relaxed).saturating_sub(self.stored.load(Ordering::Relaxed))
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
    }

    /// The store has all events up to this number.
    pub fn set_stored(&self, stored: u64) {
        self.stored.store(stored, Ordering::Relaxed);
    }

    /// Drops all events, those to come, too.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.spool.clear();
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
    fn add(&mut self, kind: Kind, payload: &str, now: Duration) -> bool {
        if self.closed || self.ended {
            return true;
        }
        let since_1970 = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.line.clear();
        let line = Line { ts: since_1970(), kind, payload };
        // Neither fails: it is text for memory.
        let written = serde_json::to_writer(&mut self.line, &line).is_ok() && self.line.write_all(b"\n").is_ok();
        let taken = written && self.spool.append(&self.line, u64::MAX);
        if taken {
            if self.fresh == 0 {
                self.since = now;
            }
            self.fresh += self.line.len();
        }
        self.line.shrink_to(KEPT);
        taken
    }
}

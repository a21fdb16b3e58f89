//! When to send which events to the gateway, and what its answers mean: a pure state machine, time as an argument (since
//! the runner's start). Driven by [`super::send`] alone.
//!
//! The rules: one batch is in flight; an event is dropped only when the store has it, or refuses it whatever it comes with; an
//! answer that leads no further is followed by a wait, whatever it was.

use std::time::Duration;

use crate::protocol::events::MAX_BATCH_EVENTS;

/// A batch is sent when its first event has waited for so long, or when there are so many bytes.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
pub const ENOUGH_BYTES: usize = 256 * 1024;
/// The waits between tries, doubled from the first to the longest; shorter while the runner waits for the last events.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY_AT_THE_END: Duration = Duration::from_millis(500);
/// How often one event alone is refused before it is left out.
const REFUSALS: u32 = 3;

/// What waits to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backlog {
    /// The lowest number that is still there.
    pub oldest: u64,
    /// The number of the next event.
    pub next: u64,
    /// How many bytes were added since the last batch, about.
    pub bytes: usize,
    /// Since when the first of them has waited.
    pub since: Duration,
    /// Whether to wait for no others.
    pub urgent: bool,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a batch from this number on, of so many events at most, and say that none below `oldest` will come again.
    Send { from: u64, count: u64, oldest: u64 },
    /// Wait for this time, or for more events.
    Wait(Option<Duration>),
    /// Nothing is taken any more.
    Closed,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The number of the last event that is stored, whether that of the batch or not.
    Stored(u64),
    /// There is something wrong with the batch itself.
    Refused,
    /// Any other refusal, or no answer.
    Unavailable,
    /// The run takes no events any more.
    Gone,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    Nothing,
    /// Events up to this number are stored: drop them.
    Forget(u64),
    /// This event is left out: drop it and those before.
    LeaveOut(u64),
    /// Drop all.
    Close,
}

/// The delivery of one run's events.
#[derive(Debug)]
pub struct Delivery {
    /// The next number to send.
    position: u64,
    /// No number below is sent again.
    floor: u64,
    /// The last number that is stored, as the store has said last.
    stored: u64,
    /// The last number that was ever sent.
    sent: u64,
    /// The numbers of the batch in flight.
    in_flight: Option<(u64, u64)>,
    /// How many events the next batch may have.
    count: u64,
    failures: u32,
    refusals: u32,
    retry_at: Option<Duration>,
    at_the_end: bool,
    closed: bool,
}

impl Delivery {
    pub fn new() -> Self {
        Self {
            position: 1,
            floor: 1,
            stored: 0,
            sent: 0,
            in_flight: None,
            count: MAX_BATCH_EVENTS as u64,
            failures: 0,
            refusals: 0,
            retry_at: None,
            at_the_end: false,
            closed: false,
        }
    }

    /// The last number that is known to be stored.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// No more events will come: send those that are left without delay.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.at_the_end, true) {
            self.retry_at = None;
        }
    }

    /// What to do now. After [`Step::Send`] comes [`Self::sent`].
    pub fn step(&mut self, now: Duration, backlog: &Backlog) -> Step {
        if self.closed {
            return Step::Closed;
        }
        self.floor = self.floor.max(backlog.oldest);
        self.position = self.position.max(self.floor);
        if self.in_flight.is_some() || self.position >= backlog.next {
            return Step::Wait(None);
        }
        let ripe = if self.at_the_end || backlog.urgent || backlog.bytes >= ENOUGH_BYTES {
            now
        } else {
            backlog.since + LONGEST_WAIT
        };
        let at = self.retry_at.unwrap_or(ripe);
        if at > now {
            return Step::Wait(Some(at));
        }
        Step::Send { from: self.position, count: self.count, oldest: self.floor }
    }

    /// A batch of these numbers is on its way.
    pub fn sent(&mut self, from: u64, to: u64) {
        self.in_flight = Some((from, to));
        self.sent = self.sent.max(to);
        self.retry_at = None;
    }

    /// Events up to this number can't be read any more.
    pub fn skip(&mut self, through: u64) {
        self.floor = self.floor.max(through + 1);
    }

    /// The batch in flight was answered. `jitter` is from 0 to 1.
    pub fn answered(&mut self, now: Duration, jitter: f64, answer: Answer) -> Follow {
        let Some((from, to)) = self.in_flight.take() else { return Follow::Nothing };
        match answer {
            Answer::Stored(stored) => {
                self.stored = stored.min(self.sent);
                self.position = self.stored + 1;
                self.refusals = 0;
                if self.position <= from {
                    self.retry(now, jitter);
                    return Follow::Nothing;
                }
                self.failures = 0;
                self.count = (self.count * 2).min(MAX_BATCH_EVENTS as u64);
                Follow::Forget(self.stored)
            }
            Answer::Refused if from == to => {
                self.refusals += 1;
                if self.refusals < REFUSALS {
                    self.retry(now, jitter);
                    return Follow::Nothing;
                }
                self.refusals = 0;
                self.skip(from);
                Follow::LeaveOut(from)
            }
            // One of them may be the reason.
            Answer::Refused => {
                self.count = (to - from).div_ceil(2);
                Follow::Nothing
            }
            Answer::Unavailable => {
                self.retry(now, jitter);
                Follow::Nothing
            }
            Answer::Gone => {
                self.closed = true;
                Follow::Close
            }
        }
    }

    fn retry(&mut self, now: Duration, jitter: f64) {
        let longest = if self.at_the_end { LONGEST_RETRY_AT_THE_END } else { LONGEST_RETRY };
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(10)).min(longest);
        self.failures += 1;
        self.retry_at = Some(now + wait.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;

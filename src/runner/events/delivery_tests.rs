//! Tests of the [`Delivery`]: each rule alone, and all of them with a spool and a store under random failures.

use std::{collections::BTreeSet, fs, time::Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    fuzz::check,
    protocol::events::{Event, Kind},
    runner::events::{recorder::Recorder, spool::Size},
};

const SECOND: Duration = Duration::from_secs(1);

fn some(next: u64) -> Backlog {
    Backlog { oldest: 1, next, bytes: 100, since: SECOND, urgent: false }
}

fn send(from: u64) -> Step {
    Step::Send { from, count: MAX_BATCH_EVENTS as u64, oldest: 1 }
}

#[test]
fn a_batch_waits_for_others_but_not_for_long() {
    let mut delivery = Delivery::new();
    let wait = |millis| Step::Wait(Some(SECOND + Duration::from_millis(millis)));
    assert_eq!(delivery.step(SECOND, &Backlog { next: 1, ..some(1) }), Step::Wait(None));
    assert_eq!(delivery.step(SECOND, &some(5)), wait(100));
    assert_eq!(delivery.step(SECOND + LONGEST_WAIT, &some(5)), send(1));
    assert_eq!(delivery.step(SECOND, &Backlog { bytes: ENOUGH_BYTES, ..some(5) }), send(1));
    assert_eq!(delivery.step(SECOND, &Backlog { urgent: true, ..some(5) }), send(1));
    delivery.finish();
    assert_eq!(delivery.step(SECOND, &some(5)), send(1));
}

#[test]
fn one_batch_is_in_flight() {
    let mut delivery = Delivery::new();
    delivery.sent(1, 4);
    assert_eq!(delivery.step(10 * SECOND, &some(9)), Step::Wait(None));
    assert_eq!(delivery.answered(10 * SECOND, 0.0, Answer::Stored(4)), Follow::Forget(4));
    assert_eq!(delivery.step(10 * SECOND, &some(9)), send(5));
}

#[test]
fn tries_become_rare_and_end_with_success() {
    let mut delivery = Delivery::new();
    let (mut now, mut waits) = (SECOND, vec![]);
    for _ in 0..12 {
        delivery.sent(1, 4);
        assert_eq!(delivery.answered(now, 1.0, Answer::Unavailable), Follow::Nothing);
        let Step::Wait(Some(at)) = delivery.step(now, &some(9)) else { panic!("no wait") };
        waits.push((at - now).as_millis());
        now = at;
        assert_eq!(delivery.step(now, &some(9)), send(1));
    }
    assert_eq!(waits[..4], [100, 200, 400, 800]);
    assert_eq!(waits[11], 10_000);
    delivery.sent(1, 4);
    delivery.answered(now, 1.0, Answer::Unavailable);
    delivery.finish();
    assert_eq!(delivery.step(now, &some(9)), send(1), "at the end it is tried at once");
    delivery.sent(1, 4);
    delivery.answered(now, 1.0, Answer::Unavailable);
    assert_eq!(delivery.step(now, &some(9)), Step::Wait(Some(now + LONGEST_RETRY_AT_THE_END)));
    delivery.sent(1, 4);
    delivery.answered(now, 1.0, Answer::Stored(4));
    delivery.sent(5, 8);
    delivery.answered(now, 0.0, Answer::Unavailable);
    assert_eq!(delivery.step(now, &some(9)), Step::Wait(Some(now + FIRST_RETRY / 2)));
}

#[test]
fn an_answer_that_leads_no_further_is_followed_by_a_wait() {
    for stored in [0, 2, 4] {
        let mut delivery = Delivery::new();
        delivery.sent(1, 4);
        delivery.answered(SECOND, 0.0, Answer::Stored(4));
        delivery.sent(5, 8);
        assert_eq!(delivery.answered(SECOND, 1.0, Answer::Stored(stored)), Follow::Nothing);
        let at = SECOND + FIRST_RETRY;
        assert_eq!(delivery.step(SECOND, &some(9)), Step::Wait(Some(at)));
        assert_eq!(delivery.step(at, &some(9)), send(stored + 1), "it goes on where the store says");
        let (oldest, from) = (stored.max(3), stored.max(2) + 1);
        let gone = Step::Send { from: from.max(oldest), count: MAX_BATCH_EVENTS as u64, oldest };
        assert_eq!(delivery.step(at, &Backlog { oldest, ..some(9) }), gone, "or where events are left");
    }
}

#[test]
fn no_answer_frees_what_was_never_sent() {
    let mut delivery = Delivery::new();
    delivery.sent(1, 4);
    assert_eq!(delivery.answered(SECOND, 0.0, Answer::Stored(99)), Follow::Forget(4));
    assert_eq!(delivery.answered(SECOND, 0.0, Answer::Stored(99)), Follow::Nothing, "an answer to nothing");
}

#[test]
fn an_event_that_is_refused_alone_is_left_out() {
    let mut delivery = Delivery::new();
    let (mut now, mut tries, bad) = (SECOND, 0, 11);
    let mut left_out = vec![];
    let mut refused = BTreeSet::new();
    loop {
        match delivery.step(now, &some(21)) {
            Step::Wait(None) => break,
            Step::Wait(Some(at)) => now = at,
            Step::Closed => panic!("closed"),
            Step::Send { from, count, oldest } => {
                let to = (from + count - 1).min(20);
                tries += 1;
                assert!(tries < 40, "no end");
                delivery.sent(from, to);
                assert!(oldest == 1 || oldest == bad + 1, "{oldest}");
                let answer = if (from..=to).contains(&bad) { Answer::Refused } else { Answer::Stored(to) };
                if answer == Answer::Refused {
                    refused.insert((from, to));
                }
                if let Follow::LeaveOut(number) = delivery.answered(now, 0.0, answer) {
                    left_out.push(number);
                }
            }
        }
    }
    assert_eq!(left_out, [bad]);
    assert!(refused.contains(&(1, 20)) && refused.contains(&(bad, bad)));
}

#[test]
fn a_run_that_takes_nothing_more_ends_the_delivery() {
    let mut delivery = Delivery::new();
    delivery.sent(1, 4);
    assert_eq!(delivery.answered(SECOND, 0.0, Answer::Gone), Follow::Close);
    assert_eq!(delivery.step(SECOND, &some(9)), Step::Closed);
}

/// The store, and the way to it.
#[derive(Default)]
struct Store {
    /// Numbers and payloads, or, of events that it was told are lost, the last of them.
    rows: Vec<(u64, Option<String>)>,
}

impl Store {
    fn stored(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.0)
    }

    fn take(&mut self, from: u64, oldest: u64, lines: &[u8]) -> u64 {
        if self.stored() + 1 < oldest {
            self.rows.push((oldest - 1, None));
        }
        for (number, line) in (from..).zip(lines.split(|b| *b == b'\n').filter(|line| !line.is_empty())) {
            if number == self.stored() + 1 {
                let event: Event = serde_json::from_slice(line).unwrap();
                self.rows.push((number, Some(event.payload)));
            }
        }
        self.stored()
    }
}

#[derive(Clone, Debug)]
enum Happens {
    /// So many events of that size.
    Events(usize, usize),
    /// The next batch is stored and answered; so are all until the next failure.
    Up,
    /// The next ones are lost, on their way or their answers', or delayed until later.
    LostOnTheWay,
    AnswerLost,
    Late,
    /// So many commits are lost.
    Failover(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (1_usize..60, 0_usize..3000).prop_map(|(count, size)| Happens::Events(count, size)),
        3 => Just(Happens::Up),
        1 => Just(Happens::LostOnTheWay),
        1 => Just(Happens::AnswerLost),
        1 => Just(Happens::Late),
    ]
}

fn payload(number: u64, size: usize) -> String {
    format!("{number} {}", "x".repeat(size))
}

/// Lets all that happen and then lets everything through. Returns the store and how many events there are.
fn run(what: &[Happens], folder: &std::path::Path) -> (Store, u64) {
    let size = Size { segment: 100_000, total: 10_000_000 };
    let recorder = Recorder::of_size(folder, Instant::now(), size).unwrap();
    let (mut store, mut delivery) = (Store::default(), Delivery::new());
    let (mut now, mut way, mut count, mut late) = (SECOND, Happens::Up, 0, vec![]);
    let mut go = |way: &Happens, store: &mut Store, delivery: &mut Delivery| {
        match delivery.step(now, &recorder.backlog()) {
            Step::Closed => panic!("closed"),
            Step::Wait(None) => return false,
            Step::Wait(Some(at)) => now = at,
            Step::Send { from, count, oldest } => {
                let (lines, count) = recorder.read(from, count).unwrap();
                delivery.sent(from, from + count - 1);
                let answer = match way {
                    Happens::LostOnTheWay => Answer::Unavailable,
                    Happens::Late => {
                        late.push((from, oldest, lines));
                        Answer::Unavailable
                    }
                    Happens::AnswerLost => {
                        store.take(from, oldest, &lines);
                        Answer::Unavailable
                    }
                    _ => {
                        let stored = store.take(from, oldest, &lines);
                        // Of what was delayed, one comes after each that is not.
                        if let Some((from, oldest, lines)) = late.pop() {
                            store.take(from, oldest, &lines);
                        }
                        Answer::Stored(stored)
                    }
                };
                if let Follow::Forget(through) = delivery.answered(now, 0.5, answer) {
                    recorder.forget(through);
                }
            }
        }
        true
    };
    for happens in what.iter().chain([&Happens::Events(1, 0)]) {
        match happens {
            Happens::Events(events, size) => {
                for _ in 0..*events {
                    count += 1;
                    recorder.own(Kind::Debug, &payload(count, *size));
                }
            }
            Happens::Failover(commits) => store.rows.truncate(store.rows.len().saturating_sub(*commits)),
            other => way = other.clone(),
        }
        for _ in 0..3 {
            go(&way, &mut store, &mut delivery);
        }
    }
    delivery.finish();
    let mut steps = 0;
    while go(&Happens::Up, &mut store, &mut delivery) {
        steps += 1;
        assert!(steps < 10_000, "it doesn't end");
    }
    (store, count)
}

#[test]
fn whatever_fails_all_events_arrive_once_and_in_order() {
    let folder = std::env::temp_dir().join(format!("koco-delivery-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    check("events on their way", prop::collection::vec(happens(), 0..40), |what| {
        let (store, count) = run(&what, &folder);
        let numbers: Vec<u64> = store.rows.iter().map(|row| row.0).collect();
        prop_assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
        for (number, payload) in store.rows {
            let payload = payload.ok_or_else(|| TestCaseError::fail("one is marked as lost"))?;
            prop_assert!(payload.starts_with(&format!("{number} ")), "{payload} is number {number}");
        }
        Ok(())
    });
    // A store that loses what it has committed gets again what is still there, and knows of the rest.
    let failover = (1_usize..200).prop_map(Happens::Failover);
    let happens = prop_oneof![6 => happens(), 1 => failover];
    check("events on their way to a store that loses some", prop::collection::vec(happens, 0..40), |what| {
        let (store, count) = run(&what, &folder);
        prop_assert_eq!(store.stored(), count);
        let mut before = 0;
        for (number, payload) in store.rows {
            prop_assert!(number > before, "{number} after {before}");
            if let Some(payload) = payload {
                prop_assert_eq!(number, before + 1, "what is missing is marked");
                prop_assert!(payload.starts_with(&format!("{number} ")), "{payload}");
            }
            before = number;
        }
        Ok(())
    });
    fs::remove_dir_all(&folder).unwrap();
}

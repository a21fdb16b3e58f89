//! Tests of the [`Recorder`].

use std::fs;

use super::*;
use crate::protocol::events::Event;

const SMALL: Size = Size { segment: 100_000, total: 640_000 };

fn recorder(name: &str) -> Recorder {
    let folder = std::env::temp_dir().join(format!("koco-recorder-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let recorder = Recorder::of_size(&folder, Instant::now(), SMALL).unwrap();
    fs::remove_dir(&folder).unwrap();
    recorder
}

/// Takes all out, as if it were stored.
fn taken(recorder: &Recorder) -> Vec<(Kind, String)> {
    let mut events = vec![];
    loop {
        let Backlog { oldest, next, .. } = recorder.backlog();
        if oldest == next {
            return events;
        }
        let mut from = oldest;
        while from < next {
            let (lines, count) = recorder.read(from, u64::MAX).unwrap();
            from += count;
            let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            events
                .extend(lines.map(|line| serde_json::from_slice::<Event>(line).unwrap()).map(|e| (e.kind, e.payload)));
        }
        recorder.forget(next - 1);
    }
}

#[test]
fn lines_of_both_streams_are_events_in_their_order() {
    let recorder = recorder("lines");
    recorder.printed(Stream::Stdout, b"one\ntw");
    recorder.printed(Stream::Stderr, b"err");
    recorder.sent(Some(1.5), Kind::Result, "{}").unwrap();
    recorder.printed(Stream::Stdout, b"o\nthree");
    recorder.printed_all(Stream::Stdout);
    recorder.printed(Stream::Stdout, b"late\n");
    recorder.end(&[(Kind::Error, "E".into())]);
    let expected = [
        (Kind::Stdout, "one"),
        (Kind::Result, "{}"),
        (Kind::Stdout, "two"),
        (Kind::Stdout, "three"),
        (Kind::Stdout, "late"),
        (Kind::Stderr, "err"),
        (Kind::Error, "E"),
    ];
    assert_eq!(taken(&recorder), expected.map(|(kind, text)| (kind, text.to_owned())));
    recorder.printed(Stream::Stdout, b"later\n");
    recorder.own(Kind::Status, "later");
    assert_eq!(recorder.sent(None, Kind::Result, "later"), Err(Untaken::Ended));
    assert_eq!(taken(&recorder), [], "the end is the last");
    assert_eq!(recorder.missing(), 7);
    recorder.set_stored(7);
    assert_eq!(recorder.missing(), 0);
}

#[test]
fn what_is_given_up_is_missing_for_good_but_not_waited_for() {
    let recorder = recorder("lost");
    (0..3).for_each(|_| recorder.own(Kind::Status, "one"));
    recorder.lose(2, 1);
    recorder.set_stored(3);
    assert_eq!((recorder.unstored(), recorder.missing(), recorder.count()), (0, 1, 3));
}

#[test]
fn what_finds_no_room_is_dropped_and_counted_if_it_was_printed_and_waits_if_it_was_sent() {
    let recorder = recorder("full");
    let line = format!("{}\n", "x".repeat(999));
    for _ in 0..1000 {
        recorder.printed(Stream::Stdout, line.as_bytes());
    }
    let printed = recorder.backlog().next - 1;
    assert!((400..600).contains(&printed), "{printed}");
    while recorder.sent(None, Kind::Result, &line) == Ok(()) {}
    assert_eq!(recorder.sent(None, Kind::Result, &line), Err(Untaken::Full));
    let sent = recorder.backlog().next - 1 - printed;
    assert!(sent > 50, "there was room left for them: {sent}");
    recorder.own(Kind::Status, "of the runner's");
    let first = taken(&recorder);
    assert_eq!(first.len() as u64, printed + sent + 1, "and for the runner's");
    recorder.printed(Stream::Stdout, b"again\n");
    recorder.printed(Stream::Stderr, b"never dropped\n");
    let dropped = json!({ "koco": { "dropped": { "kind": "stdout", "lines": 1000 - printed } } }).to_string();
    let expected = [(Kind::Debug, dropped), (Kind::Stdout, "again".into()), (Kind::Stderr, "never dropped".into())];
    assert_eq!(taken(&recorder), expected);
}

#[test]
fn what_was_dropped_last_is_told_at_the_end() {
    let recorder = recorder("dropped");
    for _ in 0..1000 {
        recorder.printed(Stream::Stderr, format!("{}\n", "x".repeat(999)).as_bytes());
    }
    let printed = recorder.backlog().next - 1;
    recorder.end(&[(Kind::Debug, "end".into())]);
    let events = taken(&recorder);
    let [.., (Kind::Debug, dropped), (Kind::Debug, end)] = &events[..] else { panic!("{:?}", events.last()) };
    assert!(dropped.contains(&format!("\"lines\":{}", 1000 - printed)), "{dropped}");
    assert_eq!(end, "end");
}

#[test]
fn a_run_that_takes_no_events_any_more_holds_up_nothing() {
    let recorder = recorder("closed");
    recorder.printed(Stream::Stdout, b"one\ntwo\n");
    recorder.close();
    for _ in 0..10_000 {
        recorder.sent(None, Kind::Result, &"x".repeat(1000)).unwrap();
    }
    assert_eq!((taken(&recorder), recorder.missing()), (vec![], 2));
}

#[tokio::test]
async fn who_sends_is_woken_by_the_first_event_and_by_enough() {
    let recorder = recorder("wake");
    let woken = || futures::FutureExt::now_or_never(recorder.wake.notified()).is_some();
    assert!(!woken());
    recorder.printed(Stream::Stdout, b"begun, but no line");
    assert!(!woken());
    recorder.printed(Stream::Stdout, b"\n");
    assert!(woken());
    recorder.printed(Stream::Stdout, b"more\n");
    assert!(!woken(), "it waits for others anyway");
    recorder.printed(Stream::Stdout, "x\n".repeat(ENOUGH_BYTES / 20).as_bytes());
    assert!(woken());
    recorder.sent(None, Kind::Final, "{}").unwrap();
    assert!(woken(), "a result is sent at once");
    taken(&recorder);
    recorder.sent(None, Kind::Debug, "").unwrap();
    assert!(woken());
}

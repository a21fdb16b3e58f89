//! Events are appended once, in order, and read.

use koco::database::{Append, AppendError, Database, Event, EventPage, Head, Kind, Limits, Part};

use super::harness::{CLUSTER, batch, both, event, events, execution, fid, locations};

#[tokio::test]
async fn a_repeat_changes_nothing_and_a_gap_is_refused() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        let append = |from, to| store.database.append(batch(fid(1), from, to));
        assert_eq!(append(1, 3).await.unwrap(), 3, "{}", store.name());
        assert_eq!(append(1, 3).await.unwrap(), 3);
        assert_eq!(append(2, 2).await.unwrap(), 3);
        assert!(matches!(append(5, 6).await, Err(AppendError::Gap { stored: 3 })));
        assert_eq!(append(2, 5).await.unwrap(), 5);
        let all = store.all_events(fid(1)).await;
        let payloads: Vec<_> = all.iter().map(|e| e.event.payload.as_str()).collect();
        assert_eq!(payloads, ["1", "2", "3", "4", "5"]);
        assert!(all.iter().zip(1..).all(|(e, n)| (e.row, e.seq, e.run) == (n, n, 1)));
        let (summary, _) = store.database.get(fid(1)).await.unwrap().unwrap();
        assert_eq!(summary.last_row, 5);
    }
}

#[tokio::test]
async fn runs_are_numbered_each_for_itself_and_rows_go_on() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        for (run, from) in [(1, 1), (2, 1), (1, 2), (3, 1)] {
            let batch = Append { fid: fid(1), run, from, oldest: 1, events: vec![event(format!("{run}.{from}"))] };
            assert_eq!(store.database.append(batch).await.unwrap(), from, "{}", store.name());
        }
        let all = store.all_events(fid(1)).await;
        let seen: Vec<_> = all.iter().map(|e| (e.row, e.event.payload.as_str())).collect();
        assert_eq!(seen, [(1, "1.1"), (2, "2.1"), (3, "1.2"), (4, "3.1")]);
    }
}

#[tokio::test]
async fn what_is_no_batch_of_an_execution_is_refused() {
    for store in both().await {
        let refused = async |batch| store.database.append(batch).await.unwrap_err().reason();
        assert_eq!(refused(batch(fid(9), 1, 1)).await, "Unknown", "{}", store.name());
        store.database.upsert(vec![execution(1)]).await.unwrap();
        assert_eq!(refused(batch(fid(1), 1, 0)).await, "Invalid");
        assert_eq!(refused(batch(fid(1), 0, 1)).await, "Invalid");
        let mut bad = batch(fid(1), 1, 1);
        bad.events[0].ts = f64::NAN;
        assert_eq!(refused(bad).await, "Invalid");
    }
}

#[tokio::test]
async fn texts_times_and_kinds_come_back_as_they_were() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        let times = [0.1 + 0.2, 1_767_225_600.123_456_7, f64::MIN_POSITIVE, 1e300, -2.5, f64::MAX];
        let texts = ["", "ä\u{1f980}\u{2028}\r\n", "\"\\u0000\"", "null", "\u{feff}", "'; --"];
        let sent: Vec<Event> = Kind::ALL
            .into_iter()
            .enumerate()
            .map(|(n, kind)| Event { ts: times[n % 6], kind, payload: texts[n % 6].into() })
            .collect();
        store.database.append(Append { fid: fid(1), run: 1, from: 1, oldest: 1, events: sent.clone() }).await.unwrap();
        let read: Vec<Event> = store.all_events(fid(1)).await.into_iter().map(|e| e.event).collect();
        let bits = |events: &[Event]| events.iter().map(|e| e.ts.to_bits()).collect::<Vec<_>>();
        assert_eq!(read, sent, "{}", store.name());
        assert_eq!(bits(&read), bits(&sent), "{}", store.name());
    }
}

#[tokio::test]
async fn a_null_character_becomes_the_replacement_character() {
    for store in both().await {
        let mut write = execution(1);
        (write.summary.error, write.object) = ("a\0".into(), "{\"\0\":1}".into());
        store.database.upsert(vec![write]).await.unwrap();
        let (summary, object) = store.database.get(fid(1)).await.unwrap().unwrap();
        assert_eq!((summary.error.as_str(), object.as_str()), ("a\u{fffd}", "{\"\u{fffd}\":1}"), "{}", store.name());
        let batch = Append { fid: fid(1), run: 1, from: 1, oldest: 1, events: vec![event("a\0b\0")] };
        store.database.append(batch).await.unwrap();
        assert_eq!(store.all_events(fid(1)).await[0].event.payload, "a\u{fffd}b\u{fffd}");
    }
}

#[tokio::test]
async fn large_payloads_are_read_in_portions() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        let events: Vec<Event> = (0..20).map(|n| event(format!("{n}").repeat(1 << 20))).collect();
        let batch = Append { fid: fid(1), run: 1, from: 1, oldest: 1, events: events.clone() };
        assert_eq!(store.database.append(batch).await.unwrap(), 20, "{}", store.name());
        let first = store.events(fid(1), 0, 1000).await;
        assert!(first.len() < 10, "{}", first.len());
        let all: Vec<Event> = store.all_events(fid(1)).await.into_iter().map(|e| e.event).collect();
        assert!(all == events, "{}", store.name());
        let mut more = super::harness::batch(fid(1), 21, 21);
        more.events[0].payload = "x".repeat((8 << 20) + 1);
        assert_eq!(store.database.append(more).await.unwrap_err().reason(), "Invalid");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_of_the_same_events_store_them_once() {
    for store in both().await {
        store.database.upsert((1..=4).map(execution).collect()).await.unwrap();
        let mut writers = Vec::new();
        for writer in 0..8 {
            for n in 1..=4 {
                let database = store.database.clone();
                writers.push(tokio::spawn(async move {
                    let (mut next, mut size) = (1, 1 + (writer * 7 + i64::from(n)) % 40);
                    while next <= 500 {
                        let to = (next + size).min(500);
                        next = match database.append(batch(fid(n), next, to)).await {
                            Ok(stored) => stored + 1,
                            Err(AppendError::Gap { stored }) => stored + 1,
                            Err(error) => panic!("{error}"),
                        };
                        size = 1 + size * 31 % 160;
                    }
                }));
            }
        }
        for writer in writers {
            writer.await.unwrap();
        }
        for n in 1..=4 {
            let all = store.all_events(fid(n)).await;
            let payloads: Vec<_> = all.iter().map(|e| e.event.payload.clone()).collect();
            let expected: Vec<_> = (1..=500).map(|n| n.to_string()).collect();
            assert!(payloads == expected, "{}", store.name());
            assert!(all.iter().zip(1..).all(|(e, n)| (e.row, e.seq) == (n, n)), "{}", store.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_share_a_database_store_events_once() {
    for store in both().await {
        let koco::database::Location::Postgres(_) = store.location else { continue };
        let other = Database::open(&store.location, CLUSTER).await.unwrap();
        store.database.upsert((1..=4).map(execution).collect()).await.unwrap();
        let mut writers = Vec::new();
        for database in [store.database.clone(), other] {
            for n in 1..=4 {
                let database = database.clone();
                writers.push(tokio::spawn(async move {
                    let mut next = 1;
                    while next <= 300 {
                        next = match database.append(batch(fid(n), next, next + 3)).await {
                            Ok(stored) => stored + 1,
                            Err(AppendError::Gap { stored }) => stored + 1,
                            Err(error) => panic!("{error}"),
                        };
                    }
                }));
            }
        }
        for writer in writers {
            writer.await.unwrap();
        }
        for n in 1..=4 {
            let all = store.all_events(fid(n)).await;
            assert!(all.len() >= 300 && all.iter().zip(1..).all(|(e, n)| (e.row, e.seq) == (n, n)));
            assert!(all.iter().all(|e| e.event.payload == e.seq.to_string()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_fails_alone() {
    for store in both().await {
        store.database.upsert((1..=3).map(execution).collect()).await.unwrap();
        store.database.append(batch(fid(1), 1, 1)).await.unwrap();
        // The next row of one of them is taken, which never happens.
        store.raw("INSERT INTO events SELECT fid, 3, 9, 9, 0, 1, '' FROM executions WHERE name = 'job-2'").await;
        let mut calls = Vec::new();
        for n in [1, 2, 3, 9] {
            let database = store.database.clone();
            calls.push(tokio::spawn(async move { database.append(batch(fid(n), 1, 5)).await }));
        }
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.unwrap().map_err(|e| e.reason()));
        }
        assert_eq!(answers, [Ok(5), Err("Database"), Ok(5), Err("Unknown")], "{}", store.name());
        assert_eq!(store.all_events(fid(3)).await.len(), 5);
    }
}

#[tokio::test]
async fn what_its_source_has_lost_holds_up_nothing() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        store.database.append(batch(fid(1), 1, 2)).await.unwrap();
        let append = |oldest, from, to| store.database.append(Append { oldest, ..batch(fid(1), from, to) });
        let gap = append(5, 7, 7).await;
        assert!(matches!(gap, Err(AppendError::Gap { stored: 4 })), "{}: {gap:?}", store.name());
        assert_eq!(append(5, 5, 7).await.unwrap(), 7);
        assert_eq!(append(5, 5, 7).await.unwrap(), 7);
        let all = store.all_events(fid(1)).await;
        let seen: Vec<_> = all.iter().map(|e| (e.row, e.seq, e.event.payload.as_str())).collect();
        let lost = r#"{"koco":{"lost":{"from":3,"to":4}}}"#;
        assert_eq!(seen, [(1, 1, "1"), (2, 2, "2"), (3, 4, lost), (4, 5, "5"), (5, 6, "6"), (6, 7, "7")]);
        assert_eq!(all[2].event.kind, Kind::Debug);
        for (oldest, from) in [(0, 8), (9, 8)] {
            assert_eq!(append(oldest, from, from).await.unwrap_err().reason(), "Invalid");
        }
    }
}

#[tokio::test]
async fn an_execution_has_only_so_many_events() {
    for location in locations().await {
        let limits = Limits { rows: 5, bytes: 10_000, ..Limits::default() };
        let database = Database::open_with(&location, CLUSTER, limits).await.unwrap();
        database.upsert(vec![execution(1), execution(2)]).await.unwrap();
        for (from, to) in [(1, 3), (4, 6), (7, 9)] {
            assert_eq!(database.append(batch(fid(1), from, to)).await.unwrap(), to, "{location:?}: none is refused");
        }
        let other_run = Append { run: 2, ..batch(fid(1), 1, 1) };
        assert_eq!(database.append(other_run).await.unwrap(), 1);
        let all = events(&database, fid(1), 0, 1000).await;
        assert_eq!(all.len(), 7, "{location:?}: {all:?}");
        assert!(all[6].run == 0 && all[6].event.payload.starts_with(r#"{"koco":{"full":{"rows":6,"#), "{all:?}");
        let mut large = batch(fid(2), 1, 2);
        large.events[0].payload = "x".repeat(10_000);
        assert_eq!(database.append(large).await.unwrap(), 2);
        assert_eq!(database.append(batch(fid(2), 3, 3)).await.unwrap(), 3);
        assert_eq!(events(&database, fid(2), 0, 1000).await.len(), 3);
    }
}

#[tokio::test]
async fn how_far_executions_have_come_is_read_of_many_at_once() {
    for store in both().await {
        let mut ended = execution(2);
        ended.summary.finished = Some(7000);
        store.database.upsert(vec![execution(1), ended, execution(3)]).await.unwrap();
        store.database.append(batch(fid(1), 1, 4)).await.unwrap();
        store.database.delete(fid(3), 1).await.unwrap();
        let fids: Vec<_> = (1..=1200).map(fid).collect();
        let mut heads = store.database.heads(&fids).await.unwrap();
        heads.sort_by_key(|(fid, _)| *fid);
        let head = |last_row, ended| Head { last_row, ended };
        assert_eq!(heads, [(fid(1), head(4, None)), (fid(2), head(0, Some(7000)))], "{}", store.name());
        assert_eq!(store.database.heads(&[]).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_page_has_no_more_events_than_were_asked_for() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        store.database.append(batch(fid(1), 1, 9)).await.unwrap();
        let rows = store.events(fid(1), 3, 2).await;
        assert_eq!(rows.iter().map(|e| e.row).collect::<Vec<_>>(), [4, 5], "{}", store.name());
    }
}

#[tokio::test]
async fn pages_from_the_end_show_each_event_once() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        let kind = |n: i64| if n % 10 == 0 { Kind::Result } else { Kind::Stderr };
        let events = (1..=95).map(|n| Event { kind: kind(n), ..event(n.to_string()) }).collect();
        store.database.append(Append { fid: fid(1), run: 1, from: 1, oldest: 1, events }).await.unwrap();
        for (part, limit, expected) in [
            (Part::All, 7, (1..=95).collect::<Vec<i64>>()),
            (Part::All, 95, (1..=95).collect()),
            (Part::Output, 4, (1..=95).filter(|n| n % 10 != 0).collect()),
            (Part::Typed, 3, (1..=9).map(|n| n * 10).collect()),
        ] {
            let (mut seen, mut before) = (Vec::new(), 96);
            while before > 1 {
                let page = store.database.page_before(fid(1), before, part, limit).await.unwrap();
                let end = EventPage { last: before - 1, bytes: page.bytes };
                let found = store.database.read_part(fid(1), page.after, end, part).await.unwrap();
                assert!(found.len() <= limit as usize && page.after < before - 1, "{}: {page:?}", store.name());
                let size: usize = found.iter().map(|e| e.event.payload.len()).sum();
                assert!(page.bytes >= size as i64, "{}: {page:?}", store.name());
                seen.splice(0..0, found.into_iter().map(|e| e.row));
                before = page.after + 1;
            }
            assert_eq!(seen, expected, "{}: {part:?}", store.name());
        }
    }
}

#[tokio::test]
async fn a_page_from_the_end_is_bounded_in_bytes_and_in_rows_that_it_looks_at() {
    for store in both().await {
        store.database.upsert(vec![execution(1), execution(2)]).await.unwrap();
        let large = (1..=4).map(|_| event("x".repeat(300 << 10))).collect();
        store.database.append(Append { fid: fid(1), run: 1, from: 1, oldest: 1, events: large }).await.unwrap();
        let page = store.database.page_before(fid(1), 5, Part::All, 100).await.unwrap();
        assert_eq!(page.after, 3, "{}: {page:?}", store.name());
        // One result, and so many lines after it that no page looks at both.
        let mut events = vec![Event { kind: Kind::Result, ..event("1") }];
        events.extend((0..12_000).map(|_| event("")));
        store.database.append(Append { fid: fid(2), run: 1, from: 1, oldest: 1, events }).await.unwrap();
        let page = store.database.page_before(fid(2), 12_002, Part::Typed, 100).await.unwrap();
        assert!(page.bytes == 0 && page.after > 1, "{}: {page:?}", store.name());
        let page = store.database.page_before(fid(2), page.after + 1, Part::Typed, 100).await.unwrap();
        assert!(page.bytes > 0 && page.after == 0, "{}: {page:?}", store.name());
    }
}

#[tokio::test]
async fn the_last_event_of_a_kind_is_found_near_the_end() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        let event = |kind, payload: &str| Event { ts: 1.5, kind, payload: payload.into() };
        let append = |run, from, events| store.database.append(Append { fid: fid(1), run, from, oldest: 1, events });
        append(1, 1, vec![event(Kind::Final, "one"), event(Kind::Final, "two")]).await.unwrap();
        append(2, 1, vec![event(Kind::Final, "three"), event(Kind::Stdout, "x")]).await.unwrap();
        let last = async |run, kind| store.database.last(fid(1), run, kind).await.unwrap();
        let row = async |run, kind| last(run, kind).await.map(|page| page.last);
        assert_eq!((row(1, Kind::Final).await, row(2, Kind::Final).await), (Some(2), Some(3)), "{}", store.name());
        assert_eq!((row(2, Kind::Error).await, row(3, Kind::Final).await), (None, None));
        let page = last(1, Kind::Final).await.unwrap();
        let found = store.database.read(fid(1), page.last - 1, page).await.unwrap();
        assert_eq!(found.iter().map(|found| found.event.payload.as_str()).collect::<Vec<_>>(), ["two"]);
        append(2, 3, vec![event(Kind::Stdout, "x"); 999]).await.unwrap();
        assert_eq!((row(1, Kind::Final).await, row(2, Kind::Final).await), (None, None), "a thousand later");
    }
}

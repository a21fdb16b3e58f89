//! Runs are written, read and removed, and say when all events of an execution are there.

use koco::database::{END, Event, Kind, Retention, Run, Tail};

use super::harness::{Store, batch, both, execution, fid};

const DAY: i64 = 24 * 60 * 60 * 1000;

fn run(job: u32, number: i64) -> Run {
    Run {
        namespace: "a".into(),
        job_uid: format!("uid-{job}"),
        number,
        version: 10,
        ended: false,
        events: None,
        object: format!("{{\"number\":{number}}}"),
    }
}

async fn runs(store: &Store, n: u32) -> Vec<String> {
    let (summary, _) = store.database.get(fid(n)).await.unwrap().unwrap();
    store.database.runs(&summary).await.unwrap()
}

#[tokio::test]
async fn runs_are_kept_as_they_were_last_when_the_job_is_gone() {
    for store in both().await {
        let write = async |run: Run| store.database.upsert_runs(vec![run], 5).await.unwrap();
        // They may come before their execution.
        write(run(1, 2)).await;
        store.database.upsert(vec![execution(1), execution(2)]).await.unwrap();
        write(run(1, 1)).await;
        write(run(2, 1)).await;
        write(Run { version: 12, object: "\"new\0\"".into(), ..run(1, 1) }).await;
        write(Run { version: 11, object: "\"old\"".into(), ..run(1, 1) }).await;
        // Not one that only has the UID.
        write(Run { namespace: "b".into(), version: 99, ..run(1, 2) }).await;
        store.database.mark_deleted(&[fid(1)], 77).await.unwrap();
        assert_eq!(runs(&store, 1).await, ["\"new\u{fffd}\"", "{\"number\":2}"], "{}", store.name());
    }
}

#[tokio::test]
async fn runs_go_with_their_execution_and_do_not_come_back() {
    for store in both().await {
        store.database.upsert((1..=3).map(execution).collect()).await.unwrap();
        store.database.upsert_runs((1..=4).map(|n| run(n, 1)).collect(), 5).await.unwrap();
        store.database.delete(fid(1), 5).await.unwrap();
        store.database.upsert_runs(vec![Run { version: 20, ..run(1, 1) }], 5).await.unwrap();
        store.raw("UPDATE executions SET hidden = 0").await;
        assert_eq!(runs(&store, 1).await, Vec::<String>::new(), "{}", store.name());
        // Those of executions that were removed, and, after a day, those that have none.
        store.database.mark_deleted(&[fid(2)], 6).await.unwrap();
        let retention = Retention { executions: Some(DAY / 2), ..Retention::default() };
        store.database.expire(&retention, DAY).await.unwrap();
        store.database.upsert(vec![execution(2), execution(4)]).await.unwrap();
        assert_eq!((runs(&store, 2).await.len(), runs(&store, 4).await.len()), (0, 1), "{}", store.name());
        store.raw("DELETE FROM executions WHERE uid = 'uid-4'").await;
        store.database.expire(&Retention::default(), DAY + 6).await.unwrap();
        store.database.upsert(vec![execution(4)]).await.unwrap();
        assert_eq!((runs(&store, 3).await.len(), runs(&store, 4).await.len()), (1, 0), "{}", store.name());
    }
}

#[tokio::test]
async fn a_run_that_has_ended_takes_its_last_events_and_no_more() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        let tail = async || store.database.tail(fid(1)).await.unwrap();
        assert_eq!(tail().await, Tail::Unknown, "{}", store.name());
        store.database.append(batch(fid(1), 1, 2)).await.unwrap();
        let ended = Run { ended: true, events: Some(4), ..run(1, 1) };
        store.database.upsert_runs(vec![ended], 5).await.unwrap();
        assert_eq!(tail().await, Tail::Missing(2), "{}", store.name());
        let refused = store.database.append(batch(fid(1), 3, 5)).await.unwrap_err();
        assert_eq!(refused.reason(), "Ended", "{}", store.name());
        assert_eq!(store.database.append(batch(fid(1), 3, 4)).await.unwrap(), 4);
        assert_eq!(tail().await, Tail::Settled(0), "{}", store.name());
        assert_eq!(store.database.append(batch(fid(1), 5, 5)).await.unwrap_err().reason(), "Ended");
        assert_eq!(store.database.append(batch(fid(1), 1, 4)).await.unwrap(), 4, "a repeat is no error");
        assert_eq!(store.all_events(fid(1)).await.len(), 4);
        // Another run is as it was.
        let mut second = batch(fid(1), 1, 9);
        second.run = 2;
        assert_eq!(store.database.append(second).await.unwrap(), 9);
    }
}

/// The runs, numbers and payloads of what is stored after a row.
async fn marks(store: &Store, n: u32, after: usize) -> Vec<(i64, i64, String)> {
    let events = store.all_events(fid(n)).await;
    let marks = events.into_iter().skip(after);
    marks.map(|stored| (stored.run, stored.seq, stored.event.payload)).collect()
}

fn lost(run: i64, seq: i64, what: &str) -> (i64, i64, String) {
    (run, seq, format!("{{\"koco\":{{\"lost\":{{{what}}}}}}}"))
}

#[tokio::test]
async fn what_has_not_come_of_a_run_is_marked_once_and_may_still_come() {
    for store in both().await {
        let mark = async |now| store.database.mark_lost(now, 100).await.unwrap();
        let tail = async || store.database.tail(fid(1)).await.unwrap();
        let append = async |run, from, to| {
            let mut batch = batch(fid(1), from, to);
            batch.run = run;
            if run == 4 {
                batch.events = vec![Event { ts: 1.5, kind: Kind::Debug, payload: format!("{END}{{}}}}}}") }];
            }
            store.database.append(batch).await
        };
        store.database.upsert(vec![execution(1)]).await.unwrap();
        for (run, events) in [(1, 2), (2, 3), (3, 4), (4, 1)] {
            append(run, 1, events).await.unwrap();
        }
        // The first is lost, the second had more, the third has sent all, the fourth was lost after its end, and of the
        // fifth nothing has come.
        let ended = |number, events| Run { ended: true, events, ..run(1, number) };
        mark(1000).await;
        let all = [(1, None), (2, Some(5)), (3, Some(4)), (4, None), (5, None)];
        store.database.upsert_runs(all.map(|(n, events)| ended(n, events)).into(), 5).await.unwrap();
        mark(1000).await;
        mark(1099).await;
        assert_eq!((marks(&store, 1, 10).await, tail().await), (vec![], Tail::Missing(2)), "{}", store.name());
        append(2, 4, 4).await.unwrap();
        mark(1100).await;
        let expected = [lost(1, 0, r#""from":3"#), lost(2, 0, r#""from":5,"to":5"#)];
        assert_eq!(marks(&store, 1, 11).await, expected, "{}", store.name());
        assert_eq!(tail().await, Tail::Settled(1), "{}", store.name());
        // Runners that are back, a newer version of the run, and time change nothing of it.
        store.database.upsert_runs(vec![Run { version: 11, ..ended(1, None) }], 5).await.unwrap();
        for (run, from, to) in [(1, 1, 2), (1, 3, 4), (2, 5, 5)] {
            assert_eq!(append(run, from, to).await.unwrap(), to, "{}", store.name());
        }
        assert_eq!(append(2, 6, 6).await.unwrap_err().reason(), "Ended");
        mark(99_999).await;
        let late = [(1, 3), (1, 4), (2, 5)].map(|(run, seq)| (run, seq, seq.to_string()));
        assert_eq!(marks(&store, 1, 11).await, [expected.to_vec(), late.to_vec()].concat(), "{}", store.name());
        assert_eq!(tail().await, Tail::Settled(0), "{}", store.name());
    }
}

#[tokio::test]
async fn nothing_is_marked_where_nothing_came_or_all_was_removed() {
    for store in both().await {
        let ended = |job| Run { ended: true, ..run(job, 1) };
        // Of the first nothing has come; the second was deleted; the third has lost its events, and the fourth is whole.
        store.database.upsert_runs((1..=4).map(ended).collect(), 5).await.unwrap();
        store.database.mark_lost(1000, 0).await.unwrap();
        store.database.upsert((1..=4).map(execution).collect()).await.unwrap();
        for n in 2..=4 {
            store.database.append(batch(fid(n), 1, 1)).await.unwrap();
        }
        store.raw("UPDATE executions SET hidden = 1 WHERE uid = 'uid-2'").await;
        store.raw("UPDATE executions SET bytes = 0 WHERE uid = 'uid-3'").await;
        store.database.mark_lost(2000, 0).await.unwrap();
        store.raw("UPDATE executions SET hidden = 0, bytes = 9").await;
        store.database.mark_lost(3000, 0).await.unwrap();
        for (n, expected) in [(1, vec![]), (2, vec![]), (3, vec![]), (4, vec![lost(1, 0, r#""from":2"#)])] {
            let after = usize::from(n > 1);
            assert_eq!(marks(&store, n, after).await, expected, "{n}: {}", store.name());
            assert_eq!(store.database.tail(fid(n)).await.unwrap(), Tail::Settled(0), "{n}: {}", store.name());
        }
    }
}

#[tokio::test]
async fn what_an_older_release_wrote_as_ended_is_left_as_it_is() {
    for store in both().await {
        store.database.upsert((1..=2).map(execution).collect()).await.unwrap();
        store.database.upsert_runs((1..=2).map(|n| run(n, 1)).collect(), 5).await.unwrap();
        for n in 1..=2 {
            store.database.append(batch(fid(n), 1, 1)).await.unwrap();
        }
        // It doesn't know the column, and ended one of them.
        store.raw("UPDATE runs SET settled = NULL; UPDATE runs SET ended = 1 WHERE job_uid = 'uid-1'").await;
        let ended = (1..=2).map(|n| Run { ended: true, version: 11, ..run(n, 1) });
        store.database.upsert_runs(ended.collect(), 5).await.unwrap();
        store.database.mark_lost(1000, 0).await.unwrap();
        store.database.mark_lost(1000, 0).await.unwrap();
        assert_eq!(marks(&store, 1, 1).await, [], "{}", store.name());
        assert_eq!(marks(&store, 2, 1).await, [lost(1, 0, r#""from":2"#)], "{}", store.name());
    }
}

#[tokio::test]
async fn two_processes_mark_a_run_once() {
    for store in both().await {
        store.database.upsert((1..=20).map(execution).collect()).await.unwrap();
        for n in 1..=20 {
            store.database.append(batch(fid(n), 1, 1)).await.unwrap();
        }
        let ended = (1..=20).map(|job| Run { ended: true, ..run(job, 1) }).collect();
        store.database.upsert_runs(ended, 5).await.unwrap();
        store.database.mark_lost(1000, 0).await.unwrap();
        let both = tokio::join!(store.database.mark_lost(1000, 0), store.database.mark_lost(1000, 0));
        assert!(both.0.is_ok() && both.1.is_ok(), "{}: {both:?}", store.name());
        for n in 1..=20 {
            assert_eq!(marks(&store, n, 1).await, [lost(1, 0, r#""from":2"#)], "{}", store.name());
        }
    }
}

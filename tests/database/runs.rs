//! Runs are written, read and removed, and say when all events of an execution are there.

use koco::database::{Retention, Run, Tail};

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
        assert_eq!(tail().await, Tail::Complete, "{}", store.name());
        assert_eq!(store.database.append(batch(fid(1), 5, 5)).await.unwrap_err().reason(), "Ended");
        assert_eq!(store.database.append(batch(fid(1), 1, 4)).await.unwrap(), 4, "a repeat is no error");
        assert_eq!(store.all_events(fid(1)).await.len(), 4);
        // Another run is as it was.
        let mut second = batch(fid(1), 1, 9);
        second.run = 2;
        assert_eq!(store.database.append(second).await.unwrap(), 9);
    }
}

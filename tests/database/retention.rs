//! What is old is removed, and nothing else.

use koco::database::{Expired, Filter, Retention};

use super::harness::{Store, both, execution, fid};

const DAY: i64 = 24 * 60 * 60 * 1000;

/// Three executions with events: one has ended long ago, one a day ago, one runs.
async fn three(store: &Store, now: i64) {
    for (n, finished) in [(1, Some(now - 40 * DAY)), (2, Some(now - DAY)), (3, None)] {
        let mut write = execution(n);
        write.summary.finished = finished;
        store.database.upsert(vec![write]).await.unwrap();
        let mut batch = super::harness::batch(fid(n), 1, 20);
        batch.events.iter_mut().for_each(|e| e.payload = "x".repeat(1000));
        store.database.append(batch).await.unwrap();
    }
}

async fn left(store: &Store) -> Vec<(u8, usize)> {
    let page = store.database.list(&Filter { limit: 9, ..Filter::default() }).await.unwrap();
    let mut left = Vec::new();
    for item in page.items {
        left.push((item.fid.0[11], store.all_events(item.fid).await.len()));
    }
    left
}

#[tokio::test]
async fn what_is_older_than_it_may_be_goes() {
    for store in both().await {
        let now = 1000 * DAY;
        three(&store, now).await;
        let retention = Retention { events: Some(30 * DAY), executions: Some(180 * DAY), max_bytes: None };
        let done = store.database.expire(&retention, now).await.unwrap();
        assert_eq!(done, Expired { events: 1, executions: 0 }, "{}", store.name());
        assert_eq!(left(&store).await, [(3, 20), (2, 20), (1, 0)]);
        assert_eq!(store.database.expire(&retention, now).await.unwrap(), Expired::default());
        let done = store.database.expire(&retention, now + 150 * DAY).await.unwrap();
        assert_eq!(done, Expired { events: 1, executions: 1 }, "{}", store.name());
        assert_eq!(left(&store).await, [(3, 20), (2, 0)]);
        // One that has lost its events, or whose job runs on, may still append.
        assert_eq!(store.database.append(super::harness::batch(fid(2), 21, 21)).await.unwrap(), 21);
        assert_eq!(store.database.append(super::harness::batch(fid(3), 21, 21)).await.unwrap(), 21);
    }
}

#[tokio::test]
async fn a_job_that_was_deleted_before_its_end_ends_with_that() {
    for store in both().await {
        let now = 1000 * DAY;
        three(&store, now).await;
        store.database.mark_deleted(&[fid(3)], now - 31 * DAY).await.unwrap();
        let retention = Retention { events: Some(30 * DAY), ..Retention::default() };
        store.database.expire(&retention, now).await.unwrap();
        assert_eq!(left(&store).await, [(3, 0), (2, 20), (1, 0)], "{}", store.name());
    }
}

#[tokio::test]
async fn if_all_is_too_large_the_oldest_goes_first_events_before_executions() {
    for store in both().await {
        let now = 1000 * DAY;
        three(&store, now).await;
        let most = |bytes| Retention { max_bytes: Some(bytes), ..Retention::default() };
        assert_eq!(store.database.expire(&most(100_000), now).await.unwrap(), Expired::default(), "{}", store.name());
        store.database.expire(&most(50_000), now).await.unwrap();
        assert_eq!(left(&store).await, [(3, 20), (2, 20), (1, 0)], "{}", store.name());
        store.database.expire(&most(1), now).await.unwrap();
        assert_eq!(left(&store).await, [(3, 20)], "what has not ended stays");
    }
}

#[tokio::test]
async fn a_namespace_that_has_the_most_loses_the_most() {
    for store in both().await {
        let now = 1000 * DAY;
        // Those of another namespace are older, and fewer.
        for (n, namespace) in [(1, "b"), (2, "a"), (3, "a"), (4, "a")] {
            let mut write = execution(n);
            (write.summary.namespace, write.summary.finished) = (namespace.into(), Some(now - DAY + i64::from(n)));
            store.database.upsert(vec![write]).await.unwrap();
            let mut batch = super::harness::batch(fid(n), 1, 20);
            batch.events.iter_mut().for_each(|e| e.payload = "x".repeat(1000));
            store.database.append(batch).await.unwrap();
        }
        let retention = |bytes| Retention { max_bytes: Some(bytes), ..Retention::default() };
        store.database.expire(&retention(45_000), now).await.unwrap();
        assert_eq!(left(&store).await, [(4, 20), (3, 0), (2, 0), (1, 20)], "{}", store.name());
        store.database.expire(&retention(25_000), now).await.unwrap();
        assert_eq!(left(&store).await.iter().map(|(_, events)| events).sum::<usize>(), 20, "{}", store.name());
        store.database.expire(&retention(1), now).await.unwrap();
        assert_eq!(left(&store).await, []);
    }
}

#[tokio::test]
async fn a_week_without_events_takes_its_partition_along() {
    for store in both().await {
        let koco::database::Location::Postgres(url) = &store.location else { continue };
        let pool = sqlx::PgPool::connect(url).await.unwrap();
        let partitions = async || {
            let text = "SELECT count(*) FROM pg_partition_tree('events') WHERE isleaf AND level = 1";
            sqlx::query_scalar::<_, i64>(text).fetch_one(&pool).await.unwrap()
        };
        let now = 1000 * DAY;
        let retention = Retention { events: Some(30 * DAY), ..Retention::default() };
        three(&store, now).await;
        store.database.expire(&retention, now).await.unwrap();
        assert_eq!(partitions().await, 1, "one runs, and one has ended a day ago");
        let mut ended = execution(3);
        (ended.version, ended.summary.finished) = (11, Some(now));
        store.database.upsert(vec![ended]).await.unwrap();
        store.database.expire(&retention, now + 29 * DAY).await.unwrap();
        assert_eq!(partitions().await, 1, "one has ended less than 30 days ago");
        store.database.expire(&retention, now + 31 * DAY).await.unwrap();
        assert_eq!((partitions().await, left(&store).await.len()), (0, 3));
        // Others of that week may still come.
        store.database.append(super::harness::batch(fid(3), 21, 21)).await.unwrap();
        assert_eq!(partitions().await, 1);
    }
}

//! Executions are written, read, listed and deleted.

use koco::database::{Fid, Filter};

use super::harness::{Store, both, execution, fid, open};

async fn names(store: &Store, filter: Filter) -> Vec<String> {
    let page = store.database.list(&Filter { limit: 100, ..filter }).await.unwrap();
    assert_eq!(page.next, None);
    page.items.into_iter().map(|item| item.name).collect()
}

#[tokio::test]
async fn what_is_written_is_read() {
    for store in both().await {
        let mut written = execution(1);
        written.summary.error = "AgentFailed".into();
        written.object = r#"{"spec":{"inputs":{"a":1.0}}}"#.into();
        store.database.upsert(vec![written.clone()]).await.unwrap();
        let (summary, object) = store.database.get(fid(1)).await.unwrap().unwrap();
        assert_eq!((summary, object), (written.summary, written.object), "{}", store.name());
        assert_eq!(store.database.get(fid(2)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_older_write_never_replaces_a_newer_one() {
    for store in both().await {
        let (mut newer, older) = (execution(1), execution(1));
        newer.version = 11;
        newer.summary.phase = "Succeeded".into();
        newer.summary.finished = Some(5);
        for order in [vec![newer.clone(), older.clone()], vec![older.clone()], vec![older]] {
            store.database.upsert(order).await.unwrap();
            let (summary, _) = store.database.get(fid(1)).await.unwrap().unwrap();
            assert_eq!((summary.phase.as_str(), summary.finished), ("Succeeded", Some(5)), "{}", store.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_writers_the_newest_version_stays() {
    for store in both().await {
        let writers = (1..=20).map(|version| {
            let database = store.database.clone();
            tokio::spawn(async move {
                let several = (1..=5).map(|n| {
                    let mut write = execution(n);
                    write.version = version;
                    write.summary.attempt = version;
                    write
                });
                database.upsert(several.collect()).await.unwrap();
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        for n in 1..=5 {
            let (summary, _) = store.database.get(fid(n)).await.unwrap().unwrap();
            assert_eq!(summary.attempt, 20, "{}", store.name());
        }
    }
}

#[tokio::test]
async fn the_uid_of_the_namespace_is_kept_once_it_is_known() {
    for store in both().await {
        for (version, uid, kept) in [(1, "", ""), (2, "u1", "u1"), (3, "", "u1"), (4, "u2", "u1")] {
            let mut write = execution(1);
            (write.version, write.summary.namespace_uid) = (version, uid.into());
            store.database.upsert(vec![write]).await.unwrap();
            let (summary, _) = store.database.get(fid(1)).await.unwrap().unwrap();
            assert_eq!(summary.namespace_uid, kept, "{}", store.name());
        }
    }
}

#[tokio::test]
async fn lists_are_filtered() {
    for store in both().await {
        let change = |n: u32, change: fn(&mut koco::database::Execution)| {
            let mut write = execution(n);
            change(&mut write);
            write
        };
        let all = vec![
            change(1, |e| e.summary.namespace = "b".into()),
            change(2, |e| e.summary.namespace_uid = "u-old".into()),
            change(3, |e| e.summary.phase = "Failed".into()),
            change(4, |e| e.summary.entry_point = "crew".into()),
            change(5, |e| e.summary.owner = "bob".into()),
            change(6, |e| e.search = "50% of ÄRGER_\\ \0".into()),
        ];
        store.database.upsert(all).await.unwrap();
        let some = |text: &str| Some(text.to_string());
        let of = |filter: Filter| names(&store, filter);
        assert_eq!(of(Filter { namespace: some("b"), ..Filter::default() }).await, ["job-1"]);
        let anew = Filter { namespace: some("a"), namespace_uid: some("u-a"), ..Filter::default() };
        assert_eq!(of(anew).await, ["job-6", "job-5", "job-4", "job-3"], "not the one of its predecessor");
        assert_eq!(of(Filter { name: some("job-2"), ..Filter::default() }).await, ["job-2"]);
        assert_eq!(of(Filter { phase: some("Failed"), ..Filter::default() }).await, ["job-3"]);
        assert_eq!(of(Filter { entry_point: some("crew"), ..Filter::default() }).await, ["job-4"]);
        assert_eq!(of(Filter { owner: some("bob"), ..Filter::default() }).await, ["job-5"]);
        let (since, until) = (Some(fid(2).seconds()), Some(fid(4).seconds()));
        assert_eq!(of(Filter { since, until, ..Filter::default() }).await, ["job-3", "job-2"]);
        for text in ["50% OF", "ärger_", "_\\", "\0", "ä"] {
            assert_eq!(of(Filter { search: some(text), ..Filter::default() }).await, ["job-6"], "{text:?}");
        }
        assert_eq!(of(Filter { search: some("number 3"), ..Filter::default() }).await, ["job-3"]);
        for text in ["5_%", "%", "absent"] {
            let expected: &[&str] = if text == "%" { &["job-6"] } else { &[] };
            assert_eq!(of(Filter { search: some(text), ..Filter::default() }).await, expected, "{text:?}");
        }
    }
}

#[tokio::test]
async fn pages_follow_each_other_while_others_are_added() {
    for store in both().await {
        store.database.upsert((1..=10).map(execution).collect()).await.unwrap();
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let page = store.database.list(&Filter { limit: 3, before, ..Filter::default() }).await.unwrap();
            seen.extend(page.items.iter().map(|item| item.fid));
            store.database.upsert(vec![execution(10 + seen.len() as u32)]).await.unwrap();
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(seen, (1..=10).rev().map(fid).collect::<Vec<_>>(), "{}", store.name());
    }
}

#[tokio::test]
async fn a_job_that_is_gone_is_marked_once() {
    for store in both().await {
        store.database.upsert((1..=3).map(execution).collect()).await.unwrap();
        store.database.mark_deleted(&[fid(1), fid(3)], 77).await.unwrap();
        store.database.mark_deleted(&[fid(1)], 88).await.unwrap();
        let (summary, _) = store.database.get(fid(1)).await.unwrap().unwrap();
        assert_eq!(summary.deleted, Some(77), "{}", store.name());
        let live = store.database.live(None, Fid([0; 12])).await.unwrap();
        assert_eq!(live, [(fid(2), "uid-2".to_string())]);
        assert_eq!(store.database.live(Some("b"), Fid([0; 12])).await.unwrap(), []);
        assert_eq!(store.database.live(Some("a"), fid(2)).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_deleted_execution_does_not_come_back() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        store.database.append(super::harness::batch(fid(1), 1, 3)).await.unwrap();
        assert!(store.database.delete(fid(1), 5).await.unwrap(), "{}", store.name());
        assert!(!store.database.delete(fid(1), 5).await.unwrap());
        let mut late = execution(1);
        late.version = 1_000_000;
        late.object = r#"{"late":1}"#.into();
        store.database.upsert(vec![late]).await.unwrap();
        assert_eq!(store.database.get(fid(1)).await.unwrap(), None);
        assert_eq!(names(&store, Filter::default()).await, Vec::<String>::new());
        assert_eq!(store.events(fid(1), 0, 1000).await, []);
        let refused = store.database.append(super::harness::batch(fid(1), 4, 4)).await.unwrap_err();
        assert_eq!(refused.reason(), "Deleted");
        // Nor is anything of it kept where it isn't shown.
        store.raw("UPDATE executions SET hidden = 0").await;
        let (summary, object) = store.database.get(fid(1)).await.unwrap().unwrap();
        assert_eq!((summary.entry_point.as_str(), object.as_str()), ("", "{}"), "{}", store.name());
    }
}

#[tokio::test]
async fn clusters_that_share_a_database_see_nothing_of_each_other() {
    for store in both().await {
        store.database.upsert(vec![execution(1)]).await.unwrap();
        store.database.close().await;
        let Store { location, database } = store;
        drop(database);
        let other = open(&location, "c2").await;
        assert_eq!(other.get(fid(1)).await.unwrap(), None);
        assert_eq!(other.list(&Filter { limit: 9, ..Filter::default() }).await.unwrap().items, []);
        assert_eq!(other.live(None, Fid([0; 12])).await.unwrap(), []);
        assert!(!other.delete(fid(1), 1).await.unwrap());
        let refused = other.append(super::harness::batch(fid(1), 1, 1)).await.unwrap_err();
        assert_eq!(refused.reason(), "Unknown");
    }
}

#[tokio::test]
async fn what_has_changed_is_what_has_not_ended_or_only_now() {
    for store in both().await {
        let mut all: Vec<_> = (1..=4).map(execution).collect();
        for (execution, finished) in all.iter_mut().zip([Some(10), Some(20), None, None]) {
            execution.summary.finished = finished;
            execution.search = format!("needle of {}", execution.summary.name);
        }
        store.database.upsert(all).await.unwrap();
        store.database.mark_deleted(&[fid(4)], 5).await.unwrap();
        let changed = |since| names(&store, Filter { changed: Some(since), ..Filter::default() });
        assert_eq!(changed(0).await, ["job-4", "job-3", "job-2", "job-1"]);
        assert_eq!(changed(20).await, ["job-3", "job-2"], "{}", store.name());
        let found = |text: &str| Filter { changed: Some(20), search: Some(text.into()), ..Filter::default() };
        assert_eq!(names(&store, found("needle")).await, ["job-3", "job-2"], "a text doesn't bring back what is old");
        assert_eq!(names(&store, found("job-2")).await, ["job-2"]);
        let elsewhere = Filter { namespace: Some("b".into()), ..Filter::default() };
        assert_eq!(store.database.hidden(&Filter::default()).await.unwrap(), []);
        store.database.delete(fid(1), 30).await.unwrap();
        assert_eq!(store.database.hidden(&Filter::default()).await.unwrap(), [fid(1)]);
        assert_eq!(store.database.hidden(&elsewhere).await.unwrap(), []);
    }
}

#[tokio::test]
async fn objects_are_read_of_many_at_once_but_for_large_ones() {
    for store in both().await {
        let mut all: Vec<_> = (1..=3).map(execution).collect();
        all[0].object = r#"{"spec":{}}"#.into();
        all[1].object = format!(r#"{{"spec":"{}"}}"#, "x".repeat(40_000));
        store.database.upsert(all).await.unwrap();
        store.database.delete(fid(3), 1).await.unwrap();
        let found = store.database.objects(&[1, 2, 3, 4].map(fid)).await.unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(fid(1), r#"{"spec":{}}"#.to_string())], "{}", store.name());
        assert!(store.database.objects(&[]).await.unwrap().is_empty());
    }
}

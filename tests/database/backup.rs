//! A copy of SQLite's database is made while it is written to, and fills an empty folder.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use koco::database::{DatabaseError, Filter, Location, backup, backup_unnamed, restore};

use super::harness::{CLUSTER, Store, batch, both, execution, fid, open};

/// The folder of the store that is SQLite's, and one beside it.
async fn sqlite() -> (Store, PathBuf, PathBuf) {
    let store = both().await.remove(0);
    let Location::Sqlite(folder) = store.location.clone() else { panic!("SQLite comes first") };
    let other = folder.with_extension("other");
    (store, folder, other)
}

/// Restores from a copy into a folder that no other uses. A process that another test just starts may have its lock for a moment.
async fn restored(folder: &Path, copy: &[u8]) -> Result<(), DatabaseError> {
    loop {
        match restore(folder, copy).await {
            Err(error) if error.reason() == "Locked" => tokio::task::yield_now().await,
            done => return done,
        }
    }
}

/// Restores from the copy into a folder: why not.
async fn refused(folder: &Path, copy: &[u8]) -> &'static str {
    let reason = restored(folder, copy).await.expect_err("it is no copy").reason();
    assert!(!folder.join("koco.db").exists(), "nothing is left of it");
    assert!(!folder.join("koco.db.unfinished").exists(), "nothing is left of it");
    reason
}

async fn contents(store: &Store) -> (Vec<u8>, Vec<Vec<(i64, String)>>) {
    let page = store.database.list(&Filter { limit: 100, ..Filter::default() }).await.unwrap();
    let mut events = Vec::new();
    for item in &page.items {
        events.push(store.all_events(item.fid).await.into_iter().map(|e| (e.row, e.event.payload)).collect());
    }
    (page.items.iter().map(|item| item.fid.0[11]).collect(), events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_made_under_writes_is_one_moment() {
    let (store, folder, other) = sqlite().await;
    store.database.upsert((1..=3).map(execution).collect()).await.unwrap();
    store.database.append(batch(fid(1), 1, 2000)).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = Vec::new();
    for n in 2..=3 {
        let (database, stopped) = (store.database.clone(), stopped.clone());
        writers.push(tokio::spawn(async move {
            let mut next = 1;
            while !*stopped.borrow() {
                next = database.append(batch(fid(n), next, next + 100)).await.unwrap() + 1;
            }
            next - 1
        }));
    }
    let copy = folder.with_extension("copy");
    for n in 0..3 {
        while store.database.get(fid(2)).await.unwrap().unwrap().0.last_row <= n * 500 {
            tokio::task::yield_now().await;
        }
        let before = store.database.get(fid(2)).await.unwrap().unwrap().0.last_row;
        backup(&folder, &copy).await.unwrap();
        let _ = fs::remove_dir_all(&other);
        restored(&other, &fs::read(&copy).unwrap()).await.unwrap();
        let location = Location::Sqlite(other.clone());
        let restored = Store { database: open(&location, CLUSTER).await, location };
        assert_eq!(restored.all_events(fid(1)).await, store.all_events(fid(1)).await);
        for n in 2..=3 {
            let all = restored.all_events(fid(n)).await;
            assert_eq!(all.len() as i64, restored.database.get(fid(n)).await.unwrap().unwrap().0.last_row);
            assert!(all.len() % 101 == 0, "whole batches");
            assert!(n != 2 || all.len() as i64 >= before, "what was there before is in it");
            assert!(all.iter().zip(1..).all(|(e, n)| (e.row, e.seq) == (n, n) && e.event.payload == n.to_string()));
            // It goes on where the copy was.
            let next = all.len() as i64 + 1;
            assert_eq!(restored.database.append(batch(fid(n), next, next)).await.unwrap(), next);
        }
        restored.database.close().await;
        fs::remove_file(&copy).unwrap();
    }
    stop.send(true).unwrap();
    for (n, writer) in (2..).zip(writers) {
        let written = writer.await.unwrap();
        assert_eq!(store.all_events(fid(n)).await.len() as i64, written, "what was copied goes on");
    }
}

#[tokio::test]
async fn a_copy_to_be_read_leaves_nothing_in_the_folder() {
    let (store, folder, other) = sqlite().await;
    store.database.upsert((1..=3).map(execution).collect()).await.unwrap();
    store.database.append(batch(fid(1), 1, 100)).await.unwrap();
    let names = || -> BTreeSet<_> { fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
    let before = names();
    let mut copy = Vec::new();
    backup_unnamed(&folder, &folder).await.unwrap().read_to_end(&mut copy).unwrap();
    assert_eq!(names(), before);
    restored(&other, &copy).await.unwrap();
    let location = Location::Sqlite(other);
    let restored = Store { database: open(&location, CLUSTER).await, location };
    assert_eq!(contents(&restored).await, contents(&store).await);
}

#[tokio::test]
async fn what_is_no_whole_copy_is_refused() {
    let (store, folder, other) = sqlite().await;
    store.database.upsert((1..=3).map(execution).collect()).await.unwrap();
    store.database.append(batch(fid(1), 1, 2000)).await.unwrap();
    let mut copy = Vec::new();
    backup_unnamed(&folder, &folder).await.unwrap().read_to_end(&mut copy).unwrap();
    for length in [0, 50, 100, 4096, copy.len() / 2, copy.len() - 4096, copy.len() - 1] {
        assert_eq!(refused(&other, &copy[..length]).await, "Damaged", "{length} bytes");
    }
    assert_eq!(refused(&other, &[copy.clone(), vec![0; 4096]].concat()).await, "Damaged", "too long");
    assert_eq!(
        refused(&other, b"no such thing, but long enough to be one if it only were".repeat(9).as_slice()).await,
        "Damaged"
    );
    let mut changed = copy.clone();
    // The second page is the schema's, or a table's.
    changed[4096..8192].fill(0xaa);
    assert_eq!(refused(&other, &changed).await, "Damaged", "a page of it is damaged");
    restored(&other, &copy).await.unwrap();
}

#[tokio::test]
async fn a_copy_of_a_later_schema_or_of_another_program_is_refused() {
    let (store, folder, other) = sqlite().await;
    let copy = async || {
        let mut copy = Vec::new();
        backup_unnamed(&folder, &folder).await.unwrap().read_to_end(&mut copy).unwrap();
        copy
    };
    store.raw("UPDATE koco_schema SET version = 7, oldest = 7").await;
    assert_eq!(refused(&other, &copy().await).await, "SchemaNewer");
    store.raw("DROP TABLE koco_schema").await;
    assert_eq!(refused(&other, &copy().await).await, "Damaged");
}

#[tokio::test]
async fn a_database_is_replaced_by_no_copy() {
    let (store, folder, other) = sqlite().await;
    store.database.upsert(vec![execution(1)]).await.unwrap();
    let mut copy = Vec::new();
    backup_unnamed(&folder, &folder).await.unwrap().read_to_end(&mut copy).unwrap();
    let running = restore(&folder, copy.as_slice()).await.err().map(|error| error.reason());
    assert_eq!(running, Some("Locked"), "a server runs");
    store.database.close().await;
    drop(store);
    assert_eq!(restored(&folder, &copy).await.err().map(|error| error.reason()), Some("NotEmpty"));
    // A log without its database would be applied to the copy.
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("koco.db-wal"), "").unwrap();
    assert_eq!(restored(&other, &copy).await.err().map(|error| error.reason()), Some("NotEmpty"));
    fs::remove_file(other.join("koco.db-wal")).unwrap();
    restored(&other, &copy).await.unwrap();
    open(&Location::Sqlite(other), CLUSTER).await;
}

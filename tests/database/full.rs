//! A volume that is full: appends are refused, nothing is damaged, what is old can be removed, and it goes on when there is
//! room. SQLite on a real volume of its own, a tmpfs of a process in a mount namespace of its own; PostgreSQL with the error
//! that it has for it.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use koco::database::{Append, AppendError, Database, Location, Retention};

#[path = "../cluster/harness/volume.rs"]
mod volume;

use super::harness::{CLUSTER, Store, batch, both, event, execution, fid, locations};

const CHILD: &str = "KOCO_TEST_VOLUME";
const MIB: usize = 1024 * 1024;

/// Events of 1 MiB.
fn large(n: u32, from: i64, count: i64) -> Append {
    let events = (from..from + count).map(|n| event(format!("{n:07}{}", "x".repeat(MIB - 7)))).collect();
    Append { fid: fid(n), run: 1, from, oldest: 1, events }
}

/// Appends until it is refused as full. Returns how much is stored.
async fn fill(database: &Database, n: u32, mut stored: i64) -> i64 {
    loop {
        match database.append(large(n, stored + 1, 2)).await {
            Ok(to) => stored = to,
            Err(AppendError::Database(error)) => {
                assert_eq!(error.reason(), "DiskFull", "{error}");
                return stored;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether all that was acknowledged is there, and nothing else, and the database is whole.
async fn whole(store: &Store, n: u32, stored: i64) {
    let all = store.all_events(fid(n)).await;
    assert_eq!(all.len() as i64, stored);
    assert!(all.iter().zip(1..).all(|(e, n)| e.seq == n && e.event.payload.starts_with(&format!("{n:07}"))));
    let Location::Sqlite(folder) = &store.location else { panic!("SQLite") };
    let url = format!("sqlite://{}", folder.join("koco.db").display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let found: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&pool).await.unwrap();
    assert_eq!(found, "ok");
    pool.close().await;
}

/// On a volume of 192 MiB. Started by the test below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn child() {
    let Ok(volume) = std::env::var(CHILD) else { return };
    let (volume, now) = (PathBuf::from(volume), i64::from(u32::MAX) * 1000);
    let location = Location::Sqlite(volume.join("data"));
    let store = Store { database: Database::open(&location, CLUSTER).await.unwrap(), location };
    let database = &store.database;
    let mut ended = execution(1);
    ended.summary.finished = Some(1);
    database.upsert(vec![ended, execution(2)]).await.unwrap();

    // It is full before the volume is, so that what is old can go.
    let first = fill(database, 1, 0).await;
    let room = database.volume().await.unwrap().expect("a volume");
    assert!(first > 90 && room.used <= room.most && room.most as usize <= 128 * MIB, "{first} {room:?}");
    whole(&store, 1, first).await;
    assert!(
        matches!(database.append(large(2, 1, 2)).await, Err(AppendError::Database(error)) if error.reason() == "DiskFull")
    );
    let retention = Retention { max_bytes: Some(1), ..Retention::default() };
    database.expire(&retention, now).await.unwrap();
    let second = fill(database, 2, 0).await;
    assert!(second > 90, "there is room again: {second}");
    whole(&store, 2, second).await;

    // Something else takes all of the volume.
    database.close().await;
    drop(store);
    std::fs::remove_dir_all(volume.join("data")).unwrap();
    let location = Location::Sqlite(volume.join("data"));
    let store = Store { database: super::harness::open(&location, CLUSTER).await, location };
    store.database.upsert(vec![execution(3)]).await.unwrap();
    store.database.append(large(3, 1, 2)).await.unwrap();
    let filler = volume.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&vec![0; MIB]).is_ok() {}
    drop(file);
    let third = fill(&store.database, 3, 2).await;
    whole(&store, 3, third).await;
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(store.database.append(large(3, third + 1, 2)).await.unwrap(), third + 2, "it goes on by itself");
    whole(&store, 3, third + 2).await;
    println!("\nall of it holds");
}

fn on_a_volume(folder: &Path) -> Command {
    let words = volume::words(folder, "192m");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(std::env::current_exe().unwrap());
    command
}

#[tokio::test]
async fn a_full_volume_damages_nothing_and_it_goes_on_when_there_is_room() {
    let Location::Sqlite(folder) = locations().await.remove(0) else { panic!("SQLite comes first") };
    std::fs::create_dir_all(&folder).unwrap();
    let child = on_a_volume(&folder)
        .args(["--exact", "full::child", "--ignored", "--nocapture"])
        .env(CHILD, &folder)
        .stdout(Stdio::piped())
        .output()
        .expect("unshare, of util-linux");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("all of it holds"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[tokio::test]
async fn a_full_postgresql_refuses_events_and_takes_them_when_there_is_room() {
    let store = both().await.remove(1);
    store.database.upsert(vec![execution(1)]).await.unwrap();
    assert_eq!(store.database.append(batch(fid(1), 1, 2)).await.unwrap(), 2);
    store
        .raw(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER no_room BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.seq = 4) EXECUTE FUNCTION no_room()",
        )
        .await;
    for _ in 0..2 {
        let refused = store.database.append(batch(fid(1), 3, 5)).await.unwrap_err();
        assert_eq!(refused.reason(), "DiskFull", "{refused}");
        assert_eq!(store.all_events(fid(1)).await.len(), 2, "all of a batch, or nothing");
    }
    store.raw("DROP TRIGGER no_room ON events").await;
    assert_eq!(store.database.append(batch(fid(1), 3, 5)).await.unwrap(), 5);
    assert_eq!(store.all_events(fid(1)).await.len(), 5);
}

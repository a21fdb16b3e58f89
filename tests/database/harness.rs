//! Databases for tests, one of each kind, and what is written to them.

#[path = "../cluster/harness/postgres.rs"]
mod postgres;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use koco::database::{Append, Database, Event, Execution, Fid, Kind, Location, StoredEvent, Summary};

pub const CLUSTER: &str = "c1";
/// 2026-01-01, in seconds.
pub const START: u32 = 1_767_225_600;

/// An empty database of a test.
pub struct Store {
    pub location: Location,
    pub database: Database,
}

/// One of each kind.
pub async fn both() -> Vec<Store> {
    let mut stores = Vec::new();
    for location in locations().await {
        let database = Database::open(&location, CLUSTER).await.unwrap();
        stores.push(Store { location, database });
    }
    stores
}

/// Where there is none yet, of each kind.
pub async fn locations() -> Vec<Location> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder: PathBuf =
        std::env::var_os("KOCO_TEST_FOLDER").map(PathBuf::from).expect("run it by `make database-test`");
    vec![Location::Sqlite(folder.join("sqlite").join(&name)), Location::Postgres(postgres::database(&name))]
}

/// Opens a database whose last process may only just have ended.
pub async fn open(location: &Location, cluster: &str) -> Database {
    loop {
        match Database::open(location, cluster).await {
            Ok(database) => return database,
            Err(error) => assert_eq!(error.reason(), "Locked", "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

impl Store {
    /// Which of both, for messages.
    pub fn name(&self) -> String {
        format!("{:?}", self.location)
    }

    /// Executes statements of a test's own, as another program would.
    pub async fn raw(&self, text: &'static str) {
        match &self.location {
            Location::Sqlite(folder) => {
                let url = format!("sqlite://{}", folder.join("koco.db").display());
                let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
                sqlx::raw_sql(text).execute(&pool).await.unwrap();
                pool.close().await;
            }
            Location::Postgres(url) => {
                let pool = sqlx::PgPool::connect(url).await.unwrap();
                sqlx::raw_sql(text).execute(&pool).await.unwrap();
                pool.close().await;
            }
        }
    }

    /// A page of an execution's events.
    pub async fn events(&self, fid: Fid, after: i64, limit: u32) -> Vec<StoredEvent> {
        events(&self.database, fid, after, limit).await
    }

    /// The events of an execution, all of them.
    pub async fn all_events(&self, fid: Fid) -> Vec<StoredEvent> {
        let mut all: Vec<StoredEvent> = Vec::new();
        loop {
            let page = self.events(fid, all.last().map_or(0, |e| e.row), 1000).await;
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }
}

/// A page of an execution's events.
pub async fn events(database: &Database, fid: Fid, after: i64, limit: u32) -> Vec<StoredEvent> {
    match database.page(fid, after, limit).await.unwrap() {
        Some(page) => database.read(fid, after, page).await.unwrap(),
        None => Vec::new(),
    }
}

/// The fid of the `n`th execution: one a second.
pub fn fid(n: u32) -> Fid {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&(START + n).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    Fid(bytes)
}

/// The `n`th execution.
pub fn execution(n: u32) -> Execution {
    Execution {
        summary: Summary {
            fid: fid(n),
            namespace: "a".into(),
            namespace_uid: "u-a".into(),
            name: format!("job-{n}"),
            uid: format!("uid-{n}"),
            owner: "ann".into(),
            entry_point: "text:main".into(),
            mode: "Direct".into(),
            phase: "Running".into(),
            attempt: 1,
            error: String::new(),
            created: i64::from(START + n) * 1000,
            started: Some(i64::from(START + n) * 1000 + 500),
            finished: None,
            deleted: None,
            last_row: 0,
            run: 1,
        },
        version: 10,
        search: format!("{{\"text\":\"Number {n}\"}}"),
        object: "{}".into(),
    }
}

pub fn event(payload: impl Into<String>) -> Event {
    Event { ts: 1.5, kind: Kind::Stdout, payload: payload.into() }
}

/// A batch of run 1, whose events say their number.
pub fn batch(fid: Fid, from: i64, to: i64) -> Append {
    Append { fid, run: 1, from, oldest: 1, events: (from..=to).map(|n| event(n.to_string())).collect() }
}

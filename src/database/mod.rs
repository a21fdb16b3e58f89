//! What became of executions, and their events, in SQLite or PostgreSQL: the only way to the database, and it decides
//! nothing about who may read. Used by the role `server` alone.
//!
//! Each statement is written once, for both: parameters are `$1`, `$2`, and types are those that both have.
//! [`schema`] creates and changes the tables; [`executions`] writes and reads executions, [`runs`] their runs, [`list`] lists
//! and searches them, by the index that [`search`] knows; [`events`] reads events, [`append`] adds them, from one task that
//! commits those of many callers together; [`lost`] marks those that never came; [`retention`] removes what is old, and [`volume`] bounds what SQLite takes.
//! [`backup`] copies SQLite's database.
//!
//! What holds whatever happens:
//! - An older write of an execution never replaces a newer one, in whichever order they come.
//! - An event is stored once: a batch is taken only where it continues what is stored of its source. A repeat changes
//!   nothing, and a gap is refused.
//! - What was answered is committed, to the disk.

mod append;
mod backup;
mod error;
mod events;
mod executions;
mod list;
mod lost;
mod model;
mod retention;
mod runs;
mod schema;
mod search;
mod text;
mod volume;

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use sqlx::{
    Connection, PgPool, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::mpsc;

pub use self::{
    append::END,
    backup::{backup, backup_unnamed, restore},
    error::{AppendError, DISK_FULL, DatabaseError},
    model::{
        Append, Committed, Event, EventPage, Execution, Expired, Fid, Filter, Head, Kind, Limits, Page, PageBefore,
        Part, Retention, Run, StoredEvent, Summary, Tail,
    },
    volume::Volume,
};

/// The oldest PostgreSQL that is served.
const OLDEST_POSTGRESQL: i32 = 15;
/// How many connections a process opens to PostgreSQL, and to read SQLite.
const CONNECTIONS: u32 = 8;
/// How long a call waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(10);
/// How long PostgreSQL waits for a lock, for a statement's end, and for a process that stands still in a transaction: its
/// locks would hold up all others.
const BOUNDS: &str =
    "SET lock_timeout = '5s'; SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '15s'";
/// The file in SQLite's folder that a process locks.
const LOCK: &str = "lock";
/// SQLite's file, and what it has not taken over yet.
const FILE: &str = "koco.db";
const WAL: &str = "koco.db-wal";
const SHM: &str = "koco.db-shm";

/// Where the database is.
#[derive(Clone)]
pub enum Location {
    /// SQLite, in a folder of its own on a local disk: of all processes one at a time.
    Sqlite(PathBuf),
    /// PostgreSQL, by its URL, which may hold a password.
    Postgres(String),
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(folder) => write!(f, "SQLite in {}", folder.display()),
            Self::Postgres(_) => f.write_str("PostgreSQL"),
        }
    }
}

/// Connections.
enum Pools {
    Sqlite {
        /// One connection: SQLite has one writer.
        write: SqlitePool,
        read: SqlitePool,
        folder: Arc<Path>,
        /// Locked while this is open.
        _lock: File,
    },
    Postgres(PgPool),
}

/// Runs a piece of code with a connection to read with, of either database.
macro_rules! reading {
    ($database:expr, |$pool:ident| $body:expr) => {
        match &$database.inner.pools {
            $crate::database::Pools::Sqlite { read: $pool, .. } => $body,
            $crate::database::Pools::Postgres($pool) => $body,
        }
    };
}

/// Runs a piece of code with a transaction to write in, of either database. It has to commit it.
macro_rules! writing {
    ($database:expr, |$transaction:ident| $body:expr) => {
        match &$database.inner.pools {
            $crate::database::Pools::Sqlite { write, .. } => {
                // One that begins as a reader may find that another has written meanwhile, and fail.
                #[allow(unused_mut)]
                let mut $transaction = write.begin_with("BEGIN IMMEDIATE").await?;
                $body
            }
            $crate::database::Pools::Postgres(pool) => {
                #[allow(unused_mut)]
                let mut $transaction = pool.begin().await?;
                $body
            }
        }
    };
}

use reading;
use writing;

/// An open database, for the executions of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
    appends: mpsc::Sender<append::Request>,
}

struct Inner {
    pools: Pools,
    /// The cluster whose executions it shows and writes. Clusters may share a database.
    cluster: String,
    /// How much one execution may have.
    limits: Limits,
    /// PostgreSQL's partitions of events that were there, by their week.
    weeks: Mutex<HashSet<u32>>,
    /// What counts commits.
    observer: OnceLock<Observer>,
    /// Whether there is an index of texts.
    is_indexed: AtomicBool,
}

type Observer = Box<dyn Fn(&Committed) + Send + Sync>;

impl Database {
    /// Opens it, and creates or raises its schema. Must be called within a Tokio runtime.
    pub async fn open(location: &Location, cluster: &str) -> Result<Self, DatabaseError> {
        Self::open_with(location, cluster, Limits::default()).await
    }

    /// The same with other limits.
    pub async fn open_with(location: &Location, cluster: &str, limits: Limits) -> Result<Self, DatabaseError> {
        let pools = match location {
            Location::Sqlite(folder) => sqlite(folder.clone()).await?,
            Location::Postgres(url) => postgres(url).await?,
        };
        let inner = Arc::new(Inner {
            pools,
            cluster: cluster.into(),
            limits,
            weeks: Mutex::default(),
            observer: OnceLock::new(),
            is_indexed: AtomicBool::default(),
        });
        let (appends, requests) = mpsc::channel(append::WAITING);
        let database = Self { inner: inner.clone(), appends };
        schema::prepare(&database).await?;
        inner.is_indexed.store(search::prepare(&inner).await?, Ordering::Relaxed);
        tokio::spawn(append::write(inner, requests));
        Ok(database)
    }

    /// Has each commit of events told to an observer from now on; the first one stays.
    pub fn observe(&self, observer: impl Fn(&Committed) + Send + Sync + 'static) {
        // There is one already.
        let _ = self.inner.observer.set(Box::new(observer));
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        reading!(self, |pool| sqlx::query("SELECT 1").execute(pool).await?.rows_affected());
        Ok(())
    }

    /// Ends all connections.
    pub async fn close(&self) {
        match &self.inner.pools {
            Pools::Sqlite { write, read, .. } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

/// Takes a folder for this process alone, until the file is closed.
fn lock(folder: &Path) -> Result<File, DatabaseError> {
    let failed = |source| DatabaseError::Folder { path: folder.into(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let lock = File::options().create(true).append(true).open(folder.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DatabaseError::Locked(folder.into())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn sqlite(folder: PathBuf) -> Result<Pools, DatabaseError> {
    let lock = lock(&folder)?;
    let options = SqliteConnectOptions::new()
        .filename(folder.join(FILE))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL would lose what was acknowledged when the power goes.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(ACQUIRE);
    let pool = |connections| SqlitePoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE);
    let folder: Arc<Path> = folder.into();
    let bounded = folder.clone();
    let write = pool(1).after_connect(move |connection, _| {
        let folder = bounded.clone();
        Box::pin(async move {
            volume::bound(connection, &folder).await.map(drop).map_err(|error| sqlx::Error::Configuration(error.into()))
        })
    });
    // SQLite ends a transaction by itself when the disk is full, and what ends it then fails: for sqlx it is never over.
    let write = write.after_release(|connection, _| {
        Box::pin(async move {
            // What was begun before is done then.
            connection.ping().await?;
            Ok(!connection.is_in_transaction())
        })
    });
    let write = write.connect_with(options.clone()).await?;
    let read = pool(CONNECTIONS).connect_with(options.pragma("query_only", "on")).await?;
    Ok(Pools::Sqlite { write, read, folder, _lock: lock })
}

async fn postgres(url: &str) -> Result<Pools, DatabaseError> {
    // The cause would show the URL, and with it the password.
    let options = PgConnectOptions::from_str(url).map_err(|_| DatabaseError::Url)?.application_name("koco");
    let options = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .after_connect(|connection, _| {
            Box::pin(async move {
                // An answer means that it is on the disk, also where the server's default is less.
                let set = "SELECT set_config('synchronous_commit', 'on', false)
                    WHERE current_setting('synchronous_commit') IN ('off', 'local')";
                sqlx::query(set).execute(&mut *connection).await?;
                sqlx::raw_sql(BOUNDS).execute(connection).await.map(drop)
            })
        })
        .connect_with(options);
    let pool = options.await?;
    let version: String = sqlx::query_scalar("SELECT current_setting('server_version_num')").fetch_one(&pool).await?;
    let version = version.parse().unwrap_or(0) / 10_000;
    if version < OLDEST_POSTGRESQL {
        return Err(DatabaseError::TooOld(version));
    }
    Ok(Pools::Postgres(pool))
}

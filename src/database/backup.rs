//! Copies SQLite's database while it is used, and fills an empty folder from such a copy. Used by the callers of the
//! database, in a process of its own: it needs no [`Database`](super::Database).

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{DatabaseError, FILE, SHM, WAL, lock, schema};

/// What a copy is called until it is whole.
const UNFINISHED: &str = "koco.db.unfinished";
/// The first bytes of SQLite's files.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Writes a copy of a folder's database, as it was at one moment, to a file that doesn't exist yet. Programs that use
/// the database go on meanwhile: it is read in one transaction. They have to run on the same machine, as always with SQLite.
pub async fn backup(folder: &Path, to: &Path) -> Result<(), DatabaseError> {
    let file = folder.join(FILE);
    let failed = |source| DatabaseError::Folder { path: to.into(), source };
    if let Err(source) = file.metadata() {
        return Err(DatabaseError::Folder { path: file, source });
    }
    if to.exists() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let mut connection = SqliteConnectOptions::new().filename(file).busy_timeout(super::ACQUIRE).connect().await?;
    let path = to.to_str().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    let copied = sqlx::query("VACUUM INTO $1").bind(path).execute(&mut connection).await;
    connection.close().await?;
    if let Err(error) = copied {
        // What there is of it is no copy.
        let _ = std::fs::remove_file(to);
        return Err(error.into());
    }
    File::open(to).and_then(|copy| copy.sync_all()).map_err(failed)
}

/// The same into a folder, to be read once: it takes its room until it is closed.
pub async fn backup_unnamed(folder: &Path, into: &Path) -> Result<File, DatabaseError> {
    let to = into.join(format!("koco.db.backup-{}", std::process::id()));
    backup(folder, &to).await?;
    let opened = File::open(&to);
    let removed = std::fs::remove_file(&to);
    opened.and_then(|file| removed.map(|()| file)).map_err(|source| DatabaseError::Folder { path: to, source })
}

/// Fills a folder that has no database from a copy, once it is found to be whole and of a schema that this program knows.
pub async fn restore(folder: &Path, mut copy: impl Read) -> Result<(), DatabaseError> {
    let failed = |source| DatabaseError::Folder { path: folder.into(), source };
    // As long as this is open no server uses the folder.
    let _lock = lock(folder)?;
    // A log that another database has left would be applied to this one.
    if [FILE, WAL, SHM].iter().any(|name| folder.join(name).exists()) {
        return Err(DatabaseError::NotEmpty(folder.into()));
    }
    let unfinished = folder.join(UNFINISHED);
    let checked = match write(&unfinished, &mut copy) {
        Ok(file) => check(&unfinished, file).await,
        Err(source) => Err(failed(source)),
    };
    if let Err(error) = checked {
        // It may be as large as the volume.
        let _ = std::fs::remove_file(&unfinished);
        return Err(error);
    }
    std::fs::rename(&unfinished, folder.join(FILE)).map_err(failed)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// Writes what is read to a file, down to the disk.
fn write(path: &Path, from: &mut impl Read) -> io::Result<File> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    io::copy(from, &mut file)?;
    file.sync_all()?;
    Ok(file)
}

/// Whether a copy is whole, and this program's or one that it works with.
async fn check(path: &Path, mut file: File) -> Result<(), DatabaseError> {
    let damaged = |what: String| DatabaseError::Damaged(what);
    let mut head = [0; 100];
    let size = file.metadata().map_or(0, |found| found.len());
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut head));
    if read.is_err() || !head.starts_with(MAGIC) {
        return Err(damaged("it is no file of SQLite".into()));
    }
    // The page's size, of which 1 means 65,536, and their number.
    let page = match u64::from(u16::from_be_bytes([head[16], head[17]])) {
        1 => 65_536,
        page => page,
    };
    let whole = page * u64::from(u32::from_be_bytes([head[28], head[29], head[30], head[31]]));
    if size != whole {
        return Err(damaged(format!("it has {size} bytes of {whole}")));
    }
    // Nothing else knows it yet, so that no log of it is looked for.
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    let mut connection = options.connect().await.map_err(|error| damaged(error.to_string()))?;
    let checked = contents(&mut connection).await;
    connection.close().await?;
    checked
}

async fn contents(connection: &mut SqliteConnection) -> Result<(), DatabaseError> {
    let damaged = |error: sqlx::Error| DatabaseError::Damaged(error.to_string());
    let found = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut *connection).await;
    let found: String = found.map_err(damaged)?;
    if found != "ok" {
        return Err(DatabaseError::Damaged(found));
    }
    let schema = sqlx::query("SELECT version, oldest FROM koco_schema").fetch_one(connection).await;
    let schema = schema.map_err(|_| DatabaseError::Damaged("it is not a database of koco".into()))?;
    schema::usable(schema.try_get(0)?, schema.try_get(1)?)
}

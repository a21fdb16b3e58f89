//! Why the database can't be used. Used by everything in this module and by its callers.

use std::path::PathBuf;

use super::Fid;

/// The reason of an error if there is no room left.
pub const DISK_FULL: &str = "DiskFull";

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The folder can't be used.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process has the folder.
    #[error("{}: another process has this folder; SQLite serves one at a time", .0.display())]
    Locked(PathBuf),
    /// The folder to restore into has a database.
    #[error("{}: there is a database already", .0.display())]
    NotEmpty(PathBuf),
    /// What is to be restored is not a whole copy.
    #[error("the copy can't be used: {0}")]
    Damaged(String),
    /// The schema is that of a later release.
    #[error("the database has schema {found}, which needs a program of schema {oldest} or later; this one has {ours}")]
    Newer {
        /// The schema there.
        found: i64,
        /// The oldest program that works with it.
        oldest: i64,
        /// That of this program.
        ours: i64,
    },
    /// PostgreSQL is too old.
    #[error("the server is PostgreSQL {0}; koco needs 15 or later")]
    TooOld(i32),
    /// The URL is no address of a PostgreSQL server.
    #[error("the database's URL can't be read")]
    Url,
    /// The database doesn't answer or refuses.
    #[error("the database: {0}")]
    Sql(#[from] sqlx::Error),
    /// It has not answered for long.
    #[error("the database doesn't answer")]
    Silent,
    /// The task that writes has ended: the process is about to end.
    #[error("the database is closed")]
    Closed,
}

impl DatabaseError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "Folder",
            Self::Locked(_) => "Locked",
            Self::NotEmpty(_) => "NotEmpty",
            Self::Damaged(_) => "Damaged",
            Self::Newer { .. } => "SchemaNewer",
            Self::TooOld(_) => "TooOld",
            Self::Url => "Url",
            Self::Sql(error) if is_disk_full(error) => DISK_FULL,
            Self::Sql(_) => "Database",
            Self::Silent => "Silent",
            Self::Closed => "Closed",
        }
    }
}

/// Whether a statement failed because there is no room left. SQLite's code for it, and PostgreSQL's.
fn is_disk_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "13" || code == "53100")
}

/// Why events are not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Events are missing before these.
    #[error("events are missing: the last one stored is {stored}")]
    Gap {
        /// The number of the last event that is stored of this source.
        stored: i64,
    },
    /// There is no such execution, yet or any more.
    #[error("there is no execution {0}")]
    Unknown(Fid),
    /// It was deleted.
    #[error("execution {0} was deleted")]
    Deleted(Fid),
    /// This run has ended, and had fewer events.
    #[error("run {0} has ended, and has no such event")]
    Ended(i64),
    /// The batch is against the rules.
    #[error("{0}")]
    Invalid(&'static str),
    /// The database failed; nothing is stored.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for AppendError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl AppendError {
    /// One stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gap { .. } => "Gap",
            Self::Unknown(_) => "Unknown",
            Self::Deleted(_) => "Deleted",
            Self::Ended(_) => "Ended",
            Self::Invalid(_) => "Invalid",
            Self::Database(error) => error.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;

    #[tokio::test]
    async fn a_full_disk_has_a_word_of_its_own() {
        let options = SqliteConnectOptions::new().in_memory(true).pragma("max_page_count", "4");
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        sqlx::query("CREATE TABLE t (x BLOB)").execute(&pool).await.unwrap();
        let full = sqlx::query("INSERT INTO t VALUES (zeroblob(100000))").execute(&pool).await.unwrap_err();
        assert_eq!(DatabaseError::from(full).reason(), "DiskFull");
        let other = sqlx::query("INSERT INTO absent VALUES (1)").execute(&pool).await.unwrap_err();
        assert_eq!(DatabaseError::from(other).reason(), "Database");
    }
}

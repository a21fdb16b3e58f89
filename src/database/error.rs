//! Why the database can't be used. Used by everything in this module and by its callers.

use std::path::PathBuf;

use super::Fid;

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
            Self::Newer { .. } => "SchemaNewer",
            Self::TooOld(_) => "TooOld",
            Self::Url => "Url",
            Self::Sql(_) => "Database",
            Self::Closed => "Closed",
        }
    }
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
    /// There is no such execution, or it was deleted.
    #[error("there is no execution {0}")]
    Unknown(Fid),
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
            Self::Invalid(_) => "Invalid",
            Self::Database(error) => error.reason(),
        }
    }
}

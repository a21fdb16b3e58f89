//! `koco server backup` and `koco server restore`: copies SQLite's database and brings a copy back. Called by the command
//! line. A copy is a file of SQLite. PostgreSQL has tools of its own for that.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
};

use clap::Subcommand;

use super::Settings;
use crate::database::{self, DatabaseError, Location};

/// What is done instead of serving.
#[derive(Subcommand, Clone, Debug)]
pub enum CopyCommand {
    /// Write a copy of SQLite's database as it is now. The server may run, in the same pod
    Backup {
        /// Where to, a file that doesn't exist yet; without it, standard output
        #[arg(long)]
        file: Option<PathBuf>,
        /// A folder with room for the copy until it has been written to standard output; without it, the database's own
        #[arg(long, conflicts_with = "file")]
        temporary: Option<PathBuf>,
    },
    /// Fill an empty folder from such a copy, if it is whole. No server may run there
    Restore {
        /// Where from; without it, standard input
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// It is PostgreSQL.
    #[error("the database is PostgreSQL: use pg_dump and pg_restore")]
    Postgres,
    /// A file or a standard stream.
    #[error("{0}: {1}")]
    File(String, io::Error),
}

impl CopyCommand {
    /// Does it.
    pub async fn run(self, settings: &Settings) -> Result<(), CopyError> {
        let Location::Sqlite(folder) = settings.location() else { return Err(CopyError::Postgres) };
        match self {
            Self::Backup { file: Some(file), .. } => Ok(database::backup(&folder, &file).await?),
            Self::Backup { file: None, temporary } => {
                let mut copy = database::backup_unnamed(&folder, temporary.as_deref().unwrap_or(&folder)).await?;
                let mut out = io::stdout().lock();
                let written = io::copy(&mut copy, &mut out).and_then(|_| out.flush());
                written.map_err(|error| CopyError::File("standard output".into(), error))
            }
            Self::Restore { file } => {
                let from: Box<dyn Read> = match file {
                    Some(path) => {
                        let opened = File::open(&path);
                        Box::new(opened.map_err(|error| CopyError::File(path.display().to_string(), error))?)
                    }
                    None => Box::new(io::stdin()),
                };
                Ok(database::restore(&folder, from).await?)
            }
        }
    }
}

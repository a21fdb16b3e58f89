//! How much of its volume SQLite may take. It leaves a part: a statement that deletes needs room before it frees any, and
//! on a volume that is really full nothing could be removed. Used by [`super`] and by the callers of the database.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{Database, DatabaseError, FILE, Pools, WAL};

/// What is left of a volume: a tenth, but at least this or, of a small one, a half.
const LEFT: u64 = 64 * 1024 * 1024;

/// SQLite's room on its volume, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The most that it may take.
    pub most: u64,
    /// What it takes.
    pub used: u64,
}

impl Database {
    /// SQLite's room on its volume, measured anew: a volume may have grown. `None` with PostgreSQL.
    pub async fn volume(&self) -> Result<Option<Volume>, DatabaseError> {
        let Pools::Sqlite { write, read, folder, .. } = &self.inner.pools else { return Ok(None) };
        let most = bound(&mut *write.acquire().await?, folder).await?;
        let count = "SELECT (page_count - freelist_count) * page_size
            FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
        let used: i64 = sqlx::query_scalar(count).fetch_one(read).await?;
        Ok(Some(Volume { most, used: used.unsigned_abs() }))
    }
}

/// Bounds what a connection lets the database grow to. Returns that.
pub(super) async fn bound(connection: &mut SqliteConnection, folder: &Path) -> Result<u64, DatabaseError> {
    let failed = |source| DatabaseError::Folder { path: folder.into(), source };
    let found = statvfs(folder).map_err(|error| failed(error.into()))?;
    let size = |file: &str| folder.join(file).metadata().map_or(0, |found| found.len());
    let ours = size(FILE) + size(WAL);
    let most = most(found.blocks_available() * found.fragment_size() + ours);
    let page: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *connection).await?;
    let pages = most / page.unsigned_abs().max(1);
    let set = format!("PRAGMA max_page_count = {}", pages.clamp(1, u64::from(u32::MAX - 1)));
    sqlx::query(AssertSqlSafe(set)).execute(connection).await?;
    Ok(most)
}

/// How much of so much room is used.
fn most(room: u64) -> u64 {
    room - (room / 10).max(LEFT.min(room / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_volume_is_left() {
        let mib = 1024 * 1024;
        assert_eq!([10_240, 640, 100, 0].map(|size| most(size * mib)), [9216, 576, 50, 0].map(|size| size * mib));
    }
}

//! Reads events. Used by the callers of the database.

use futures::TryStreamExt;
use sqlx::Row;

use super::{Database, DatabaseError, Event, Fid, Kind, StoredEvent, reading};

/// The most events of one answer, and the bytes after which none is added.
const MOST: (i64, usize) = (1000, 4 * 1024 * 1024);

impl Database {
    /// The events of an execution after a row, the oldest first: some of them, and none if there are no more. Those of
    /// a kind that a later release has brought are left out.
    pub async fn events(&self, fid: Fid, after: i64) -> Result<Vec<StoredEvent>, DatabaseError> {
        let text = "SELECT row, run, seq, ts, kind, payload FROM events WHERE fid = $1 AND row > $2 AND kind <= $3
            ORDER BY row LIMIT $4";
        let (fid, newest) = (fid.0.as_slice(), Kind::Final.number());
        reading!(self, |pool| {
            let (mut found, mut bytes) = (Vec::new(), 0);
            let mut rows = sqlx::query(text).bind(fid).bind(after).bind(newest).bind(MOST.0).fetch(pool);
            while bytes < MOST.1
                && let Some(row) = rows.try_next().await?
            {
                let kind = Kind::of(row.try_get(4)?).unwrap_or(Kind::Debug);
                let event = Event { ts: row.try_get(3)?, kind, payload: row.try_get(5)? };
                bytes += event.payload.len();
                found.push(StoredEvent { row: row.try_get(0)?, run: row.try_get(1)?, seq: row.try_get(2)?, event });
            }
            Ok(found)
        })
    }
}

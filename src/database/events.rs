//! Reads events, and how far executions have come. Used by the callers of the database.

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Row};

use super::{Database, DatabaseError, Event, Fid, Head, Kind, StoredEvent, reading};

/// The most events of one answer, and the bytes after which none is added.
const MOST: (u32, usize) = (1000, 4 * 1024 * 1024);
/// How many executions are looked up by one statement.
const HEADS: usize = 500;

impl Database {
    /// The events of an execution after a row, the oldest first: at most `limit` of them, and none if there are no more.
    /// Those of a kind that a later release has brought are left out.
    pub async fn events(&self, fid: Fid, after: i64, limit: u32) -> Result<Vec<StoredEvent>, DatabaseError> {
        let text = "SELECT row, run, seq, ts, kind, payload FROM events WHERE fid = $1 AND row > $2 AND kind <= $3
            ORDER BY row LIMIT $4";
        let (fid, newest) = (fid.0.as_slice(), Kind::Final.number());
        let limit = i64::from(limit.min(MOST.0));
        reading!(self, |pool| {
            let (mut found, mut bytes) = (Vec::new(), 0);
            let mut rows = sqlx::query(text).bind(fid).bind(after).bind(newest).bind(limit).fetch(pool);
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

    /// How far these executions have come. Those that are not there, or were deleted, are left out.
    pub async fn heads(&self, fids: &[Fid]) -> Result<Vec<(Fid, Head)>, DatabaseError> {
        let mut found = Vec::with_capacity(fids.len());
        for fids in fids.chunks(HEADS) {
            let places: Vec<String> = (2..).take(fids.len()).map(|n| format!("${n}")).collect();
            let text = format!(
                "SELECT fid, last_row, ended FROM executions WHERE cluster = $1 AND hidden = 0 AND fid IN ({})",
                places.join(", ")
            );
            reading!(self, |pool| {
                // Each number of them is another statement: none is kept.
                let mut query = sqlx::query(AssertSqlSafe(text)).persistent(false).bind(&self.inner.cluster);
                for fid in fids {
                    query = query.bind(fid.0.as_slice());
                }
                for row in query.fetch_all(pool).await? {
                    let fid: Vec<u8> = row.try_get(0)?;
                    found.push((Fid::of(&fid), Head { last_row: row.try_get(1)?, ended: row.try_get(2)? }));
                }
            });
        }
        Ok(found)
    }
}

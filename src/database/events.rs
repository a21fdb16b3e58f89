//! Reads events, and how far executions have come. Used by the callers of the database.

use sqlx::{AssertSqlSafe, Row};

use super::{
    Database, DatabaseError, Event, EventPage, Fid, Head, Kind, PageBefore, Part, StoredEvent, append::OVERHEAD,
    executions::by_fids, reading,
};

/// The most events of a page, and the bytes that they take unless the first takes more.
const MOST: (u32, i64) = (1000, 512 * 1024);
/// How many rows are looked at for a page of some kinds.
const WALK: i64 = 10_000;
/// Among how many events the last of a kind is looked for: the end of a run.
const TAIL: i64 = 1000;

impl Part {
    /// The condition on the column `kind`.
    fn condition(self) -> String {
        let (first, last) = (Kind::Stdout.number(), Kind::Stderr.number());
        let newest = Kind::Final.number();
        match self {
            Self::All => format!("kind <= {newest}"),
            Self::Output => format!("kind BETWEEN {first} AND {last}"),
            Self::Typed => format!("kind <= {newest} AND kind NOT BETWEEN {first} AND {last}"),
        }
    }
}

impl Database {
    /// The next page of an execution's events after a row, the oldest first and at most `limit`, without its payloads; `None`
    /// if there are no more. Those of a kind that a later release has brought are left out.
    pub async fn page(&self, fid: Fid, after: i64, limit: u32) -> Result<Option<EventPage>, DatabaseError> {
        // The lengths alone are read: a client that ends early would have PostgreSQL send all rows that were asked for.
        let text =
            "SELECT row, CAST(octet_length(payload) AS BIGINT) FROM events WHERE fid = $1 AND row > $2 AND kind <= $3
            ORDER BY row LIMIT $4";
        let (fid, newest) = (fid.0.as_slice(), Kind::Final.number());
        let limit = i64::from(limit.min(MOST.0));
        let sizes: Vec<(i64, i64)> = reading!(self, |pool| {
            let rows = sqlx::query(text).bind(fid).bind(after).bind(newest).bind(limit).fetch_all(pool).await?;
            rows.iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)? + OVERHEAD as i64)))
                .collect::<Result<_, sqlx::Error>>()?
        });
        Ok(page(&sizes))
    }

    /// Where the last page of an execution's events before a row begins: at most `limit` of this part. It looks at so many
    /// rows and no more, so that a page may have few events, or none, and yet not be the first.
    pub async fn page_before(
        &self,
        fid: Fid,
        before: i64,
        part: Part,
        limit: u32,
    ) -> Result<PageBefore, DatabaseError> {
        let text = format!(
            "SELECT row, CAST(octet_length(payload) AS BIGINT) FROM events WHERE fid = $1 AND row < $2 AND row > $3 AND {}
            ORDER BY row DESC LIMIT $4",
            part.condition()
        );
        let limit = limit.clamp(1, MOST.0);
        let end = before.saturating_sub(WALK + 1).max(0);
        let sizes: Vec<(i64, i64)> = reading!(self, |pool| {
            let query = sqlx::query(AssertSqlSafe(text)).bind(fid.0.as_slice()).bind(before).bind(end);
            let rows = query.bind(i64::from(limit)).fetch_all(pool).await?;
            rows.iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)? + OVERHEAD as i64)))
                .collect::<Result<_, sqlx::Error>>()?
        });
        let found = page(&sizes);
        let oldest = sizes.last().map_or(0, |(row, _)| *row);
        // Where there may be more than the page has room for, the page before it ends at its first event.
        let cut = found.filter(|found| sizes.len() >= limit as usize || found.last > oldest);
        let after = cut.map_or(end, |found| found.last - 1);
        Ok(PageBefore { after, bytes: found.map_or(0, |found| found.bytes) })
    }

    /// The events of a page that [`Self::page`] has found after this row.
    pub async fn read(&self, fid: Fid, after: i64, page: EventPage) -> Result<Vec<StoredEvent>, DatabaseError> {
        self.read_part(fid, after, page, Part::All).await
    }

    /// The events of a part after a row, up to the last of the page.
    pub async fn read_part(
        &self,
        fid: Fid,
        after: i64,
        page: EventPage,
        part: Part,
    ) -> Result<Vec<StoredEvent>, DatabaseError> {
        let text = format!(
            "SELECT row, run, seq, ts, kind, payload FROM events
            WHERE fid = $1 AND row > $2 AND row <= $3 AND {} ORDER BY row",
            part.condition()
        );
        let fid = fid.0.as_slice();
        reading!(self, |pool| {
            let rows = sqlx::query(AssertSqlSafe(text)).bind(fid).bind(after).bind(page.last).fetch_all(pool).await?;
            let mut found = Vec::with_capacity(rows.len());
            for row in rows {
                let kind = Kind::of(row.try_get(4)?).unwrap_or(Kind::Debug);
                let event = Event { ts: row.try_get(3)?, kind, payload: row.try_get(5)? };
                found.push(StoredEvent { row: row.try_get(0)?, run: row.try_get(1)?, seq: row.try_get(2)?, event });
            }
            Ok(found)
        })
    }

    /// The namespace of an execution, also of one that was deleted.
    pub async fn namespace(&self, fid: Fid) -> Result<Option<String>, DatabaseError> {
        let text = "SELECT namespace FROM executions WHERE fid = $1 AND cluster = $2";
        reading!(self, |pool| {
            let query = sqlx::query_scalar(text).bind(fid.0.as_slice()).bind(&self.inner.cluster);
            Ok(query.fetch_optional(pool).await?)
        })
    }

    /// The last event of a kind that a run has sent, if it is near the end: a page of it.
    pub async fn last(&self, fid: Fid, run: i64, kind: Kind) -> Result<Option<EventPage>, DatabaseError> {
        let text =
            "SELECT row, CAST(octet_length(payload) AS BIGINT) FROM events WHERE fid = $1 AND run = $2 AND kind = $3
            AND row > (SELECT last_row FROM executions WHERE fid = $1) - $4 ORDER BY row DESC LIMIT 1";
        reading!(self, |pool| {
            let query = sqlx::query(text).bind(fid.0.as_slice()).bind(run).bind(kind.number()).bind(TAIL);
            match query.fetch_optional(pool).await? {
                Some(row) => {
                    let bytes = row.try_get::<i64, _>(1)? + OVERHEAD as i64;
                    Ok(Some(EventPage { last: row.try_get(0)?, bytes }))
                }
                None => Ok(None),
            }
        })
    }

    /// How far these executions have come. Those that are not there, or were deleted, are left out.
    pub async fn heads(&self, fids: &[Fid]) -> Result<Vec<(Fid, Head)>, DatabaseError> {
        let mut found = Vec::with_capacity(fids.len());
        let text = "SELECT fid, last_row, ended FROM executions WHERE cluster = $1 AND hidden = 0";
        by_fids!(self, fids, text, |fid, row| {
            found.push((fid, Head { last_row: row.try_get(1)?, ended: row.try_get(2)? }));
        });
        Ok(found)
    }
}

/// The first page of events with these rows and sizes.
fn page(sizes: &[(i64, i64)]) -> Option<EventPage> {
    let mut page: Option<EventPage> = None;
    for (row, size) in sizes {
        let bytes = page.map_or(0, |page| page.bytes) + size;
        if page.is_some() && bytes > MOST.1 {
            break;
        }
        page = Some(EventPage { last: *row, bytes });
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_before_the_event_that_is_too_much_for_it() {
        assert_eq!(page(&[]), None);
        assert_eq!(page(&[(3, 9), (5, 9)]), Some(EventPage { last: 5, bytes: 18 }));
        assert_eq!(page(&[(3, 9), (5, MOST.1 - 9), (6, 1)]), Some(EventPage { last: 5, bytes: MOST.1 }));
        assert_eq!(page(&[(3, 9), (5, MOST.1)]), Some(EventPage { last: 3, bytes: 9 }));
        assert_eq!(
            page(&[(3, MOST.1 + 1), (5, 0)]),
            Some(EventPage { last: 3, bytes: MOST.1 + 1 }),
            "the first, always"
        );
    }
}

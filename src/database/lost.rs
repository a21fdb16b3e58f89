//! Marks events as lost that have not come: what a run has not sent some time after its end. Used by the callers of the
//! database.
//!
//! What was lost in the middle [`super::append`] marks, as its runner says so; of a runner that is gone this is the only
//! trace. A mark is no event of the run, and takes none of its numbers: should the others come all the same, they follow on
//! it. So it may come too early, by a clock or by a runner that was frozen, and nothing is lost by it.

use std::time::Instant;

use super::{
    Committed, Database, DatabaseError, Fid, Inner, Pools,
    append::{FIND, LOCK, New, insert, lost},
    reading, writing,
};

/// How many runs are noticed, and looked at, at a time.
const BATCH: i64 = 500;

/// Notes which runs have ended, at a time: those that have sent all that they have are settled.
const NOTICE: &str = "UPDATE runs SET noticed = $1, settled = CASE WHEN events <= COALESCE(
        (SELECT s.seq FROM sources s JOIN executions e ON e.fid = s.fid
            WHERE e.uid = runs.job_uid AND e.namespace = runs.namespace AND s.run = runs.number), 0)
        THEN 1 ELSE 0 END
    WHERE (namespace, job_uid, number) IN (SELECT namespace, job_uid, number FROM runs
        WHERE ended <> 0 AND settled = 0 AND noticed IS NULL LIMIT $2)";
/// Runs that were noticed so long ago and are not settled.
const DUE: &str =
    "SELECT e.fid, r.number FROM runs r JOIN executions e ON e.namespace = r.namespace AND e.uid = r.job_uid
    WHERE r.ended <> 0 AND r.settled = 0 AND r.noticed <= $1 AND e.cluster = $2 ORDER BY r.noticed LIMIT $3";
/// How many events such a run has, if that is known, the number of the last that is stored, and whether that is its end.
const STATE: &str = "SELECT r.events, COALESCE(s.seq, 0), COALESCE(s.ended, 0)
    FROM runs r LEFT JOIN sources s ON s.fid = $1 AND s.run = $2
    WHERE r.number = $2 AND r.namespace = $3 AND r.job_uid = $4 AND r.ended <> 0 AND r.settled = 0";

/// What is known of a run when it is due.
struct Due {
    events: Option<i64>,
    stored: i64,
    is_end: bool,
}

/// The payload of the mark, and how many events are known to be lost; `None` if none is.
fn mark(run: &Due) -> Option<(String, i64)> {
    // Of a run of which nothing has come it isn't known whether events were kept at all.
    if run.stored == 0 || run.is_end {
        return None;
    }
    match run.events {
        Some(events) if events <= run.stored => None,
        Some(events) => Some((lost(run.stored + 1, Some(events)), events - run.stored)),
        None => Some((lost(run.stored + 1, None), 0)),
    }
}

/// Settles a run within a transaction. What was stored for it, and what it has lost.
macro_rules! settle {
    ($tx:ident, $lock:expr, $inner:expr, $fid:expr, $run:expr, $now:expr) => {{
        let (fid, run): (&[u8], i64) = ($fid.0.as_slice(), $run);
        let query = sqlx::query_as($lock).bind(fid).bind(&$inner.cluster);
        let locked: Option<(i64, i64, i64, String, String)> = query.fetch_optional(&mut *$tx).await?;
        let Some((last_row, bytes, hidden, namespace, uid)) = locked else { return Ok(None) };
        let query = sqlx::query_as(STATE).bind(fid).bind(run).bind(&namespace).bind(&uid);
        // Another process may have settled it.
        let state: Option<(Option<i64>, i64, i64)> = query.fetch_optional(&mut *$tx).await?;
        let Some((events, stored, ended)) = state else { return Ok(None) };
        let set = "UPDATE runs SET settled = 1 WHERE namespace = $1 AND job_uid = $2 AND number = $3";
        sqlx::query(set).bind(&namespace).bind(&uid).bind(run).execute(&mut *$tx).await?;
        // Nothing is said where it was deleted, or its events were removed.
        let is_there = hidden == 0 && bytes > 0;
        let mark = mark(&Due { events, stored, is_end: ended != 0 }).filter(|_| is_there);
        let mut committed = None;
        if let Some((payload, lost)) = mark {
            let new = New::of_koco(run, 0, $now as f64 / 1000.0, payload);
            let mut sum = Committed { lost: lost.unsigned_abs(), ..Committed::default() };
            // The last event of one that is full is that which says so.
            if !$inner.limits.reached(last_row + 1, bytes + new.weight()) {
                let text = insert(1);
                let query = sqlx::query(sqlx::AssertSqlSafe(text.as_str())).bind(fid).bind(last_row + 1);
                let query = query.bind(new.run).bind(new.seq).bind(new.event.ts).bind(new.event.kind.number());
                query.bind(new.event.payload.as_str()).execute(&mut *$tx).await?;
                let count = "UPDATE executions SET last_row = last_row + 1, bytes = bytes + $2 WHERE fid = $1";
                sqlx::query(count).bind(fid).bind(new.weight()).execute(&mut *$tx).await?;
                (sum.koco, sum.bytes) = (1, new.weight().unsigned_abs());
            }
            committed = Some(sum);
        }
        $tx.commit().await?;
        committed
    }};
}

impl Database {
    /// Marks what has not come of runs that have ended, `patience` milliseconds after a call has noticed their end. Returns
    /// whether there may be more to do at once.
    pub async fn mark_lost(&self, now: i64, patience: i64) -> Result<bool, DatabaseError> {
        let database = self.clone();
        // In a task of its own: a transaction is not to be left in the middle because its caller has gone.
        let task = tokio::spawn(async move { database.mark_some_lost(now, patience).await });
        task.await.map_err(|_| DatabaseError::Closed)?
    }

    async fn mark_some_lost(&self, now: i64, patience: i64) -> Result<bool, DatabaseError> {
        let noticed = writing!(self, |tx| {
            let noticed = sqlx::query(NOTICE).bind(now).bind(BATCH).execute(&mut *tx).await?.rows_affected();
            tx.commit().await?;
            noticed
        });
        let due: Vec<(Vec<u8>, i64)> = reading!(self, |pool| {
            let query = sqlx::query_as(DUE).bind(now.saturating_sub(patience)).bind(&self.inner.cluster);
            query.bind(BATCH).fetch_all(pool).await?
        });
        let all = due.len();
        let mut failed = None;
        for (fid, run) in due {
            let began = Instant::now();
            match self.inner.settle(Fid::of(&fid), run, now).await {
                Ok(None) => {}
                Ok(Some(sum)) => {
                    if let Some(observer) = self.inner.observer.get() {
                        observer(&Committed { took: began.elapsed(), ..sum });
                    }
                }
                // The others are not to wait for it.
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(noticed == BATCH.unsigned_abs() || all as i64 == BATCH),
        }
    }
}

impl Inner {
    /// What was stored for a run that is settled now, and what it has lost; `None` if it has lost nothing.
    async fn settle(&self, fid: Fid, run: i64, now: i64) -> Result<Option<Committed>, DatabaseError> {
        Ok(match &self.pools {
            Pools::Sqlite { write, .. } => {
                let mut tx = write.begin_with("BEGIN IMMEDIATE").await?;
                settle!(tx, FIND, self, fid, run, now)
            }
            Pools::Postgres(pool) => {
                let settled = async {
                    let mut tx = pool.begin().await?;
                    Ok::<_, DatabaseError>(settle!(tx, LOCK, self, fid, run, now))
                };
                tokio::time::timeout(self.limits.silence, settled).await.map_err(|_| DatabaseError::Silent)??
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_is_lost() {
        let of = |events, stored, is_end| mark(&Due { events, stored, is_end });
        assert_eq!([of(Some(3), 3, false), of(Some(3), 4, false), of(None, 4, true)], [None, None, None]);
        assert_eq!([of(Some(3), 0, false), of(None, 0, false)], [None, None], "perhaps none were kept");
        assert_eq!(of(Some(6), 3, false), Some((r#"{"koco":{"lost":{"from":4,"to":6}}}"#.into(), 3)));
        assert_eq!(of(None, 3, false), Some((r#"{"koco":{"lost":{"from":4}}}"#.into(), 0)));
    }
}

//! Marks events as lost that never came: those that a run has not sent when no more can come of it. Used by the callers of
//! the database.
//!
//! What was lost in the middle [`super::append`] marks, as its runner says so; of a runner that is gone this is the only
//! trace. A run that is marked takes no more events, so that a mark stays true.

use std::time::Instant;

use super::{
    Committed, Database, DatabaseError, Fid, Kind, Pools,
    append::{FIND, LOCK, New, insert, lost},
    reading, writing,
};

/// How the payload of a runner's last event begins, of kind `debug`: after it nothing is lost.
pub const END: &str = r#"{"koco":{"end":"#;
/// How many runs are looked at a time.
const BATCH: i64 = 100;
/// How many events are looked at for the last of a run.
const WALK: i64 = 10_000;

/// Notes which runs have ended, at a time. Those are settled that have sent all that they have, and those whose runners
/// don't count events, as they keep none.
const NOTICE: &str = "UPDATE runs SET noticed = $1, lost = CASE
        WHEN events IS NULL AND cut = 0 THEN 0
        WHEN events <= COALESCE((SELECT s.seq FROM sources s JOIN executions e ON e.fid = s.fid
            WHERE e.uid = runs.job_uid AND e.namespace = runs.namespace AND s.run = runs.number), 0) THEN 0
        END
    WHERE ended <> 0 AND lost IS NULL AND noticed IS NULL";
/// Runs of which no more can come, as they were noticed so long ago.
const DUE: &str =
    "SELECT e.fid, r.number FROM runs r JOIN executions e ON e.namespace = r.namespace AND e.uid = r.job_uid
    WHERE r.ended <> 0 AND r.lost IS NULL AND r.noticed <= $1 AND e.cluster = $2 ORDER BY r.noticed LIMIT $3";
/// How many events such a run has, if that is known, and the number of the last that is stored.
const STATE: &str = "SELECT events, COALESCE((SELECT seq FROM sources WHERE fid = $1 AND run = $2), 0) FROM runs
    WHERE number = $2 AND namespace = $3 AND job_uid = $4 AND ended <> 0 AND lost IS NULL";

/// The last event of a run, after a row.
const LAST: &str =
    "SELECT kind, payload FROM events WHERE fid = $1 AND run = $2 AND row > $3 ORDER BY row DESC LIMIT 1";

/// What becomes of a run of which no more can come.
#[derive(Debug, PartialEq)]
struct Mark {
    /// The number that the mark takes: of the last lost event, or of the first if the last isn't known.
    seq: i64,
    /// As in the table.
    lost: i64,
    payload: String,
}

/// The mark for a run that has so many events, of which so many are stored, and whether the last of those is its end;
/// `None` if nothing is lost.
fn mark(events: Option<i64>, stored: i64, is_end: bool) -> Option<Mark> {
    let from = stored + 1;
    match events.or(is_end.then_some(stored)) {
        Some(events) if events <= stored => None,
        Some(events) => Some(Mark { seq: events, lost: events - stored, payload: lost(from, Some(events)) }),
        None => Some(Mark { seq: from, lost: -1, payload: lost(from, None) }),
    }
}

/// Settles a run within a transaction: what was stored of it and lost, if anything.
macro_rules! settle {
    ($tx:ident, $lock:expr, $inner:expr, $fid:expr, $run:expr, $now:expr) => {{
        let (fid, run): (&[u8], i64) = ($fid.0.as_slice(), $run);
        let query = sqlx::query_as($lock).bind(fid).bind(&$inner.cluster);
        let locked: Option<(i64, i64, i64, String, String)> = query.fetch_optional(&mut *$tx).await?;
        let Some((last_row, bytes, hidden, namespace, uid)) = locked else { return Ok(None) };
        let query = sqlx::query_as(STATE).bind(fid).bind(run).bind(&namespace).bind(&uid);
        // Another process may have settled it.
        let state: Option<(Option<i64>, i64)> = query.fetch_optional(&mut *$tx).await?;
        let Some((events, stored)) = state else { return Ok(None) };
        let query = sqlx::query_as(LAST).bind(fid).bind(run).bind(last_row - WALK);
        let last: Option<(i16, String)> = query.fetch_optional(&mut *$tx).await?;
        let is_end = last.is_some_and(|(kind, payload)| kind == Kind::Debug.number() && payload.starts_with(END));
        let mark = mark(events, stored, is_end).filter(|_| hidden == 0);
        let set = "UPDATE runs SET lost = $4 WHERE namespace = $1 AND job_uid = $2 AND number = $3";
        let set = sqlx::query(set).bind(&namespace).bind(&uid).bind(run);
        set.bind(mark.as_ref().map_or(0, |mark| mark.lost)).execute(&mut *$tx).await?;
        let mut committed = None;
        if let Some(Mark { seq, lost, payload }) = mark {
            let step = "INSERT INTO sources (fid, run, seq) VALUES ($1, $2, $3)
                ON CONFLICT (fid, run) DO UPDATE SET seq = excluded.seq";
            sqlx::query(step).bind(fid).bind(run).bind(seq).execute(&mut *$tx).await?;
            let mut sum = Committed { lost: lost.max(0).unsigned_abs(), ..Committed::default() };
            // What is full takes no more.
            if !$inner.limits.reached(last_row, bytes) {
                let new = New::of_koco(run, seq, $now as f64 / 1000.0, payload);
                let text = insert(1);
                let query = sqlx::query(sqlx::AssertSqlSafe(text.as_str())).bind(fid).bind(last_row + 1).bind(run);
                let query = query.bind(seq).bind(new.event.ts).bind(new.event.kind.number());
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
    /// Marks what never came of runs that have ended: `patience` milliseconds after it was first called with their end there.
    pub async fn mark_lost(&self, now: i64, patience: i64) -> Result<(), DatabaseError> {
        let database = self.clone();
        // In a task of its own: a transaction is not to be left in the middle because its caller has gone.
        let task = tokio::spawn(async move { database.mark_all_lost(now, patience).await });
        task.await.map_err(|_| DatabaseError::Closed)?
    }

    async fn mark_all_lost(&self, now: i64, patience: i64) -> Result<(), DatabaseError> {
        writing!(self, |tx| {
            sqlx::query(NOTICE).bind(now).execute(&mut *tx).await?;
            tx.commit().await?;
        });
        let due: Vec<(Vec<u8>, i64)> = reading!(self, |pool| {
            let query = sqlx::query_as(DUE).bind(now.saturating_sub(patience)).bind(&self.inner.cluster);
            query.bind(BATCH).fetch_all(pool).await?
        });
        for (fid, run) in due {
            let began = Instant::now();
            let settled = self.settle(Fid::of(&fid), run, now).await?;
            if let (Some(sum), Some(observer)) = (settled, self.inner.observer.get()) {
                observer(&Committed { took: began.elapsed(), ..sum });
            }
        }
        Ok(())
    }

    /// What was stored of a run that is settled now, and what of it is lost; `None` if it had lost nothing.
    async fn settle(&self, fid: Fid, run: i64, now: i64) -> Result<Option<Committed>, DatabaseError> {
        Ok(match &self.inner.pools {
            Pools::Sqlite { write, .. } => {
                let mut tx = write.begin_with("BEGIN IMMEDIATE").await?;
                settle!(tx, FIND, self.inner, fid, run, now)
            }
            Pools::Postgres(pool) => {
                let settled = async {
                    // Another process may have dropped one.
                    self.inner.weeks.lock().clear();
                    self.inner.partition(pool, fid).await?;
                    let mut tx = pool.begin().await?;
                    Ok::<_, DatabaseError>(settle!(tx, LOCK, self.inner, fid, run, now))
                };
                tokio::time::timeout(self.inner.limits.silence, settled).await.map_err(|_| DatabaseError::Silent)??
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_is_lost_and_takes_its_number() {
        let none = [mark(Some(3), 3, false), mark(Some(0), 0, false), mark(Some(3), 4, true), mark(None, 4, true)];
        assert_eq!(none, [None, None, None, None]);
        let payload = r#"{"koco":{"lost":{"from":4,"to":6}}}"#.to_string();
        assert_eq!(mark(Some(6), 3, false), Some(Mark { seq: 6, lost: 3, payload }));
        let payload = r#"{"koco":{"lost":{"from":1}}}"#.to_string();
        assert_eq!(mark(None, 0, false), Some(Mark { seq: 1, lost: -1, payload }));
    }
}

//! Writes and reads the runs of executions, and says what is still to come of their events. Used by the callers of the
//! database.

use sqlx::Row;

use super::{Database, DatabaseError, Fid, Run, Summary, Tail, reading, text::clean, writing};

/// How many runs of an execution are read, the newest.
const MOST: i64 = 1000;
/// How long a run is kept whose execution isn't there, in milliseconds: it may come.
const ALONE: i64 = 24 * 60 * 60 * 1000;

/// A run, for [`tail`].
struct Known {
    number: i64,
    ended: bool,
    events: Option<i64>,
    /// Whether no more is waited for.
    settled: bool,
    stored: i64,
}

impl Database {
    /// Writes runs. One that is stored in a newer version stays as it is, and one of an execution that was deleted is not
    /// stored.
    pub async fn upsert_runs(&self, runs: Vec<Run>, now: i64) -> Result<(), DatabaseError> {
        let database = self.clone();
        // In a task of its own: a transaction is not to be left in the middle because its caller has gone.
        let task = tokio::spawn(async move { database.upsert_all_runs(runs, now).await });
        task.await.map_err(|_| DatabaseError::Closed)?
    }

    async fn upsert_all_runs(&self, mut runs: Vec<Run>, now: i64) -> Result<(), DatabaseError> {
        // All processes lock them in the same order.
        runs.sort_by(|a, b| {
            let [a, b] = [a, b].map(|run| (&run.namespace, &run.job_uid, run.number, run.version));
            a.cmp(&b)
        });
        runs.iter_mut().for_each(|run| clean(&mut run.object));
        let text = "INSERT INTO runs (namespace, job_uid, number, version, seen, ended, events, object, settled)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, 0 WHERE NOT EXISTS
                (SELECT 1 FROM executions WHERE uid = $2 AND namespace = $1 AND hidden <> 0)
            ON CONFLICT (namespace, job_uid, number) DO UPDATE SET version = excluded.version, ended = excluded.ended,
                events = excluded.events, object = excluded.object,
                settled = CASE WHEN runs.ended = 0 THEN 0 ELSE runs.settled END
            WHERE runs.version < excluded.version";
        writing!(self, |tx| {
            for run in &runs {
                let query = sqlx::query(text).bind(&run.namespace).bind(&run.job_uid).bind(run.number);
                let query =
                    query.bind(run.version).bind(now).bind(i64::from(run.ended)).bind(run.events).bind(&run.object);
                query.execute(&mut *tx).await?;
            }
            tx.commit().await?;
        });
        Ok(())
    }

    /// What is kept of the runs of an execution, in their order; of very many, the newest.
    pub async fn runs(&self, of: &Summary) -> Result<Vec<String>, DatabaseError> {
        let text = "SELECT object FROM runs WHERE namespace = $1 AND job_uid = $2 ORDER BY number DESC LIMIT $3";
        let mut found: Vec<String> = reading!(self, |pool| {
            sqlx::query_scalar(text).bind(&of.namespace).bind(&of.uid).bind(MOST).fetch_all(pool).await?
        });
        found.reverse();
        Ok(found)
    }

    /// What is still to come of an execution's events once it has ended.
    pub async fn tail(&self, fid: Fid) -> Result<Tail, DatabaseError> {
        let text =
            "SELECT e.run, r.number, r.ended, r.events, COALESCE(r.settled, 1), COALESCE(s.seq, 0) FROM executions e
            LEFT JOIN runs r ON r.namespace = e.namespace AND r.job_uid = e.uid
            LEFT JOIN sources s ON s.fid = e.fid AND s.run = r.number
            WHERE e.fid = $1 AND e.cluster = $2";
        reading!(self, |pool| {
            let rows = sqlx::query(text).bind(fid.0.as_slice()).bind(&self.inner.cluster).fetch_all(pool).await?;
            let (mut newest, mut runs) = (0, Vec::new());
            for row in rows {
                newest = row.try_get(0)?;
                let Some(number) = row.try_get::<Option<i64>, _>(1)? else { continue };
                let ended = row.try_get::<i64, _>(2)? != 0;
                let (events, settled, stored) = (row.try_get(3)?, row.try_get::<i64, _>(4)? != 0, row.try_get(5)?);
                runs.push(Known { number, ended, events, settled, stored });
            }
            Ok(tail(newest, &runs))
        })
    }

    /// Removes the runs whose executions are not there.
    pub(super) async fn remove_runs(&self, now: i64) -> Result<(), DatabaseError> {
        let text = "DELETE FROM runs WHERE seen < $1 AND NOT EXISTS
            (SELECT 1 FROM executions WHERE uid = runs.job_uid AND namespace = runs.namespace AND hidden = 0)";
        writing!(self, |tx| {
            sqlx::query(text).bind(now.saturating_sub(ALONE)).execute(&mut *tx).await?;
            tx.commit().await?;
        });
        Ok(())
    }
}

/// What is still to come of the events of these runs, of which this one is the newest.
fn tail(newest: i64, runs: &[Known]) -> Tail {
    if runs.iter().map(|run| run.number).max().unwrap_or(0) < newest {
        return Tail::Unknown;
    }
    if runs.iter().any(|run| !run.ended) {
        return Tail::Unknown;
    }
    let missing = |run: &Known| run.events.map_or(0, |events| events - run.stored).max(0);
    let is_settled = |run: &Known| run.settled || (run.events.is_some() && missing(run) == 0);
    let sum = runs.iter().map(missing).sum();
    if runs.iter().all(is_settled) { Tail::Settled(sum) } else { Tail::Missing(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_to_come_when_each_run_has_what_it_had() {
        let run = |number, events, stored| Known { number, ended: true, events, settled: false, stored };
        let open = Known { number: 2, ended: false, events: None, settled: false, stored: 9 };
        assert_eq!(tail(0, &[]), Tail::Settled(0), "no run was made");
        assert_eq!(tail(2, &[run(1, Some(3), 3), run(2, Some(0), 0)]), Tail::Settled(0));
        assert_eq!(tail(2, &[run(1, Some(3), 1), run(2, Some(5), 4)]), Tail::Missing(3));
        assert_eq!(tail(2, &[run(1, Some(3), 3)]), Tail::Unknown, "the newest has not been seen");
        assert_eq!(tail(2, &[run(1, Some(3), 3), open]), Tail::Unknown, "it has not ended");
        assert_eq!(tail(2, &[run(1, None, 3), run(2, Some(5), 4)]), Tail::Missing(1), "a runner was lost");
        assert_eq!(tail(1, &[run(1, Some(3), 4)]), Tail::Settled(0));
    }

    #[test]
    fn what_is_marked_as_lost_is_not_waited_for() {
        let run = |number, events, settled, stored| Known { number, ended: true, events, settled, stored };
        let all = |settled| [run(1, None, true, 4), run(2, Some(5), settled, 3)];
        assert_eq!((tail(2, &all(false)), tail(2, &all(true))), (Tail::Missing(2), Tail::Settled(2)));
        assert_eq!(tail(1, &[run(1, Some(5), true, 5)]), Tail::Settled(0), "they have come all the same");
    }
}

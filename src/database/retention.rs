//! Removes what is old. Repeating it is harmless, so that each process may do it. Used by the callers of the database.

use sqlx::{AssertSqlSafe, Row};

use super::{Database, DatabaseError, Expired, Fid, Pools, Retention, reading, writing};

/// How many executions are looked up at a time.
const BATCH: i64 = 100;
/// How many events are deleted at a time: appends wait meanwhile, in SQLite.
const EVENTS: i64 = 5000;

impl Database {
    /// Removes what is older than it may be, and the oldest if all is larger than it may be. Executions that have not
    /// ended lose nothing.
    pub async fn expire(&self, retention: &Retention, now: i64) -> Result<Expired, DatabaseError> {
        let mut done = Expired::default();
        if let Some(age) = retention.events {
            while let found @ [_, ..] = &self.ended(now.saturating_sub(age), true, None).await?[..] {
                for (fid, ..) in found {
                    self.delete_events(*fid).await?;
                    done.events += 1;
                }
            }
        }
        if let Some(age) = retention.executions {
            while let found @ [_, ..] = &self.ended(now.saturating_sub(age), false, None).await?[..] {
                for (fid, ..) in found {
                    self.remove(*fid).await?;
                    done.executions += 1;
                }
            }
        }
        if let Some(most) = retention.max_bytes {
            self.shrink(most, now, &mut done).await?;
        }
        self.remove_runs(now).await?;
        self.drop_partitions().await?;
        Ok(done)
    }

    /// Removes the oldest of the namespace that has the most, until all is small enough: first events, then executions.
    async fn shrink(&self, most: i64, now: i64, done: &mut Expired) -> Result<(), DatabaseError> {
        for with_events in [true, false] {
            // Those that may have something to lose, the largest last.
            let mut left = self.sizes().await?;
            let mut total: i64 = left.iter().map(|(_, bytes)| bytes).sum();
            while total > most {
                left.sort_by(|(a, x), (b, y)| (x, a).cmp(&(y, b)));
                let next = left.len().checked_sub(2).map_or(0, |n| left[n].1);
                let Some((namespace, bytes)) = left.last_mut() else { break };
                let found = self.ended(now, with_events, Some(namespace.as_str())).await?;
                if found.is_empty() {
                    left.pop();
                    continue;
                }
                for (fid, events, size) in found {
                    let goes = if with_events { events } else { events + size };
                    if with_events {
                        self.delete_events(fid).await?;
                        done.events += 1;
                    } else {
                        self.remove(fid).await?;
                        done.executions += 1;
                    }
                    (total, *bytes) = (total - goes, *bytes - goes);
                    if total <= most || *bytes < next {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// How many bytes the executions of each namespace take with their events, about.
    async fn sizes(&self) -> Result<Vec<(String, i64)>, DatabaseError> {
        let text = "SELECT namespace, CAST(SUM(bytes + size) AS BIGINT) FROM executions WHERE cluster = $1
            GROUP BY namespace";
        reading!(self, |pool| Ok(sqlx::query_as(text).bind(&self.inner.cluster).fetch_all(pool).await?))
    }

    /// How many bytes all executions take with their events, about.
    pub async fn bytes(&self) -> Result<i64, DatabaseError> {
        let text = "SELECT COALESCE(CAST(SUM(bytes + size) AS BIGINT), 0) FROM executions WHERE cluster = $1";
        reading!(self, |pool| Ok(sqlx::query_scalar(text).bind(&self.inner.cluster).fetch_one(pool).await?))
    }

    /// Some executions that have ended before a time, of one namespace or of all, the first to end first, with the bytes of
    /// their events and their own.
    async fn ended(
        &self,
        before: i64,
        with_events: bool,
        namespace: Option<&str>,
    ) -> Result<Vec<(Fid, i64, i64)>, DatabaseError> {
        let events = if with_events { "AND bytes > 0" } else { "" };
        let text = format!(
            "SELECT fid, bytes, size FROM executions
            WHERE ended < $1 AND cluster = $2 AND ($3 = '' OR namespace = $3) {events} ORDER BY ended LIMIT {BATCH}"
        );
        reading!(self, |pool| {
            let query = sqlx::query(AssertSqlSafe(text)).bind(before).bind(&self.inner.cluster);
            let mut found = Vec::new();
            for row in query.bind(namespace.unwrap_or_default()).fetch_all(pool).await? {
                let fid: Vec<u8> = row.try_get(0)?;
                found.push((Fid::of(&fid), row.try_get(1)?, row.try_get(2)?));
            }
            Ok(found)
        })
    }

    /// Deletes the events of an execution, in portions.
    pub(super) async fn delete_events(&self, fid: Fid) -> Result<(), DatabaseError> {
        let first = "SELECT MIN(row) FROM events WHERE fid = $1";
        loop {
            let first: Option<i64> =
                reading!(self, |pool| sqlx::query_scalar(first).bind(fid.0.as_slice()).fetch_one(pool).await?);
            let Some(first) = first else { break };
            let text = "DELETE FROM events WHERE fid = $1 AND row < $2";
            writing!(self, |tx| {
                sqlx::query(text).bind(fid.0.as_slice()).bind(first + EVENTS).execute(&mut *tx).await?;
                tx.commit().await?;
            });
        }
        writing!(self, |tx| {
            let text = "UPDATE executions SET bytes = 0 WHERE fid = $1";
            sqlx::query(text).bind(fid.0.as_slice()).execute(&mut *tx).await?;
            tx.commit().await?;
        });
        Ok(())
    }

    /// Removes an execution with all that belongs to it.
    async fn remove(&self, fid: Fid) -> Result<(), DatabaseError> {
        self.delete_events(fid).await?;
        writing!(self, |tx| {
            let runs =
                "DELETE FROM runs WHERE (namespace, job_uid) IN (SELECT namespace, uid FROM executions WHERE fid = $1)";
            // First the execution: all lock it before its runs.
            let lock = "UPDATE executions SET bytes = 0 WHERE fid = $1";
            for text in [lock, runs, "DELETE FROM sources WHERE fid = $1", "DELETE FROM executions WHERE fid = $1"] {
                sqlx::query(text).bind(fid.0.as_slice()).execute(&mut *tx).await?;
            }
            tx.commit().await?;
        });
        Ok(())
    }

    /// Drops PostgreSQL's partitions of events that are empty, of weeks whose executions have all ended.
    async fn drop_partitions(&self) -> Result<(), DatabaseError> {
        let Pools::Postgres(pool) = &self.inner.pools else { return Ok(()) };
        let text = "SELECT relid::regclass::text FROM pg_partition_tree('events') WHERE isleaf AND level = 1";
        let names: Vec<String> = sqlx::query_scalar(text).fetch_all(pool).await?;
        for name in names {
            let Some(week) = name.strip_prefix("events_").and_then(|week| week.parse::<u32>().ok()) else { continue };
            let mut tx = pool.begin().await?;
            // Nothing is appended in between.
            let lock = format!("LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE");
            let open = "SELECT EXISTS (SELECT FROM executions WHERE fid >= $1 AND fid < $2 AND ended IS NULL)";
            let (from, to) = super::append::bounds(week);
            let open: bool = sqlx::query_scalar(open).bind(from).bind(to).fetch_one(&mut *tx).await?;
            if open {
                continue;
            }
            sqlx::query("SET LOCAL lock_timeout = '1s'").execute(&mut *tx).await?;
            if sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.is_err() {
                // Somebody reads it. The next time.
                continue;
            }
            let used: bool = sqlx::query_scalar(AssertSqlSafe(format!("SELECT EXISTS (SELECT FROM {name})")))
                .fetch_one(&mut *tx)
                .await?;
            if !used {
                sqlx::query(AssertSqlSafe(format!("DROP TABLE {name}"))).execute(&mut *tx).await?;
                tx.commit().await?;
                self.inner.weeks.lock().remove(&week);
            }
        }
        Ok(())
    }
}

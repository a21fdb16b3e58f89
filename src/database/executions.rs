//! Writes and reads executions. Used by the callers of the database.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Row};

use super::{Database, DatabaseError, Execution, Fid, Summary, reading, writing};

/// The columns of a summary.
pub(super) const SUMMARY: &str = "fid, namespace, namespace_uid, name, uid, owner, entry_point, mode, phase, attempt, error, created, \
    started, finished, deleted, last_row, run";
/// The largest object that lists show something of.
const LISTED: usize = 32 * 1024;
/// The version of one that was deleted from the archive: no write is newer.
const FOR_EVER: i64 = i64::MAX;

/// The summary in a row that begins with [`SUMMARY`].
macro_rules! summary {
    ($row:expr) => {{
        let row = &$row;
        let fid: Vec<u8> = row.try_get(0)?;
        Summary {
            fid: Fid::of(&fid),
            namespace: row.try_get(1)?,
            namespace_uid: row.try_get(2)?,
            name: row.try_get(3)?,
            uid: row.try_get(4)?,
            owner: row.try_get(5)?,
            entry_point: row.try_get(6)?,
            mode: row.try_get(7)?,
            phase: row.try_get(8)?,
            attempt: row.try_get(9)?,
            error: row.try_get(10)?,
            created: row.try_get(11)?,
            started: row.try_get(12)?,
            finished: row.try_get(13)?,
            deleted: row.try_get(14)?,
            last_row: row.try_get(15)?,
            run: row.try_get(16)?,
        }
    }};
}

/// How many executions a statement reads by their fids.
pub(super) const FIDS: usize = 500;

/// Reads executions by their fids: runs a piece of code with the fid and the row of each. The statement has the cluster as its
/// first parameter, the fid as its first column, and a condition, to which that of the fids is added.
macro_rules! by_fids {
    ($database:expr, $fids:expr, $text:expr, |$fid:ident, $row:ident| $take:expr) => {
        for fids in $fids.chunks($crate::database::executions::FIDS) {
            let places: Vec<String> = (2..).take(fids.len()).map(|n| format!("${n}")).collect();
            let text = format!("{} AND fid IN ({})", $text, places.join(", "));
            $crate::database::reading!($database, |pool| {
                // Each number of them is another statement: none is kept.
                let mut query = sqlx::query(AssertSqlSafe(text)).persistent(false).bind(&$database.inner.cluster);
                for fid in fids {
                    query = query.bind(fid.0.as_slice());
                }
                for $row in query.fetch_all(pool).await? {
                    let $fid: Vec<u8> = $row.try_get(0)?;
                    let $fid = Fid::of(&$fid);
                    $take;
                }
            });
        }
    };
}

pub(super) use by_fids;
pub(super) use summary;

impl Database {
    /// Writes executions. One that is stored in a newer version stays as it is. Returns those that reached their final
    /// phase by this.
    pub async fn upsert(&self, executions: Vec<Execution>) -> Result<Vec<Fid>, DatabaseError> {
        let database = self.clone();
        // In a task of its own: a transaction is not to be left in the middle because its caller has gone.
        let task = tokio::spawn(async move { database.upsert_all(executions).await });
        task.await.map_err(|_| DatabaseError::Closed)?
    }

    async fn upsert_all(&self, mut executions: Vec<Execution>) -> Result<Vec<Fid>, DatabaseError> {
        // All processes lock them in the same order.
        executions.sort_by_key(|e| (e.summary.fid, e.version));
        let executions: Vec<Execution> = executions.into_iter().map(Execution::cleaned).collect();
        let text =
            "INSERT INTO executions (fid, cluster, namespace, namespace_uid, name, uid, owner, entry_point, mode,
                phase, attempt, error, created, started, finished, ended, version, size, search, object, run)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
            ON CONFLICT (fid) DO UPDATE SET
                namespace_uid = CASE executions.namespace_uid WHEN '' THEN excluded.namespace_uid
                    ELSE executions.namespace_uid END,
                owner = excluded.owner, mode = excluded.mode, phase = excluded.phase, attempt = excluded.attempt,
                error = excluded.error, started = excluded.started, finished = excluded.finished,
                ended = COALESCE(excluded.finished, executions.deleted), version = excluded.version,
                size = excluded.size, search = excluded.search, object = excluded.object, run = excluded.run
            WHERE executions.version < excluded.version AND executions.uid = excluded.uid";
        let known = "SELECT finished FROM executions WHERE fid = $1";
        let mut finished = Vec::new();
        writing!(self, |tx| {
            for Execution { summary: s, version, search, object } in &executions {
                let mut finishes = s.finished.is_some();
                if finishes {
                    let known = sqlx::query_scalar(known).bind(s.fid.0.as_slice());
                    let known: Option<Option<i64>> = known.fetch_optional(&mut *tx).await?;
                    finishes = known.flatten().is_none();
                }
                let size = i64::try_from(search.len() + object.len()).unwrap_or(i64::MAX);
                let query = sqlx::query(text).bind(s.fid.0.as_slice()).bind(&self.inner.cluster);
                let query = query.bind(&s.namespace).bind(&s.namespace_uid).bind(&s.name).bind(&s.uid).bind(&s.owner);
                let query = query.bind(&s.entry_point).bind(&s.mode).bind(&s.phase).bind(s.attempt).bind(&s.error);
                let query = query.bind(s.created).bind(s.started).bind(s.finished).bind(s.finished);
                let query = query.bind(version).bind(size).bind(search).bind(object).bind(s.run);
                let written = query.execute(&mut *tx).await?;
                if finishes && written.rows_affected() > 0 {
                    finished.push(s.fid);
                }
            }
            tx.commit().await?;
        });
        Ok(finished)
    }

    /// Records that the AgentJobs of these executions are gone. The first time counts.
    pub async fn mark_deleted(&self, fids: &[Fid], at: i64) -> Result<(), DatabaseError> {
        let mut fids = fids.to_vec();
        fids.sort();
        let text = "UPDATE executions SET deleted = $2, ended = COALESCE(finished, $2) WHERE fid = $1 AND cluster = $3
            AND deleted IS NULL";
        writing!(self, |tx| {
            for fid in &fids {
                let query = sqlx::query(text).bind(fid.0.as_slice()).bind(at);
                query.bind(&self.inner.cluster).execute(&mut *tx).await?;
            }
            tx.commit().await?;
        });
        Ok(())
    }

    /// A page of the executions whose AgentJobs are not known to be gone, with their UIDs, in the order of their fids.
    pub async fn live(&self, namespace: Option<&str>, after: Fid) -> Result<Vec<(Fid, String)>, DatabaseError> {
        let text = "SELECT fid, uid FROM executions WHERE deleted IS NULL AND hidden = 0 AND fid > $1 AND cluster = $2
            AND ($3 = '' OR namespace = $3) ORDER BY fid LIMIT 1000";
        reading!(self, |pool| {
            let query = sqlx::query(text).bind(after.0.as_slice()).bind(&self.inner.cluster);
            let rows = query.bind(namespace.unwrap_or_default()).fetch_all(pool).await?;
            let mut found = Vec::with_capacity(rows.len());
            for row in rows {
                let fid: Vec<u8> = row.try_get(0)?;
                found.push((Fid::of(&fid), row.try_get(1)?));
            }
            Ok(found)
        })
    }

    /// An execution, with all that is kept of its AgentJob.
    pub async fn get(&self, fid: Fid) -> Result<Option<(Summary, String)>, DatabaseError> {
        let text = format!("SELECT {SUMMARY}, object FROM executions WHERE fid = $1 AND cluster = $2 AND hidden = 0");
        let fid = fid.0.as_slice();
        reading!(self, |pool| {
            let query = sqlx::query(AssertSqlSafe(text)).bind(fid).bind(&self.inner.cluster);
            match query.fetch_optional(pool).await? {
                Some(row) => Ok(Some((summary!(row), row.try_get(17)?))),
                None => Ok(None),
            }
        })
    }

    /// What is kept of these executions' AgentJobs, but for what is large.
    pub async fn objects(&self, fids: &[Fid]) -> Result<HashMap<Fid, String>, DatabaseError> {
        let mut found = HashMap::with_capacity(fids.len());
        let text = format!(
            "SELECT fid, object FROM executions WHERE cluster = $1 AND hidden = 0 AND octet_length(object) <= {LISTED}"
        );
        by_fids!(self, fids, text, |fid, row| _ = found.insert(fid, row.try_get(1)?));
        Ok(found)
    }

    /// Deletes an execution and its events for good: later writes of its AgentJob don't bring it back. Returns whether it
    /// was there.
    pub async fn delete(&self, fid: Fid, at: i64) -> Result<bool, DatabaseError> {
        let hide = "UPDATE executions SET hidden = 1, version = $3, owner = '', entry_point = '', error = '',
                search = '', object = '{}', size = 0, ended = COALESCE(ended, $4)
            WHERE fid = $1 AND cluster = $2 AND hidden = 0";
        let runs = "DELETE FROM runs WHERE (namespace, job_uid) IN
            (SELECT namespace, uid FROM executions WHERE fid = $1 AND cluster = $2)";
        let there = writing!(self, |tx| {
            // First the execution: all lock it before its runs.
            let query = sqlx::query(hide).bind(fid.0.as_slice()).bind(&self.inner.cluster).bind(FOR_EVER).bind(at);
            let done = query.execute(&mut *tx).await?.rows_affected();
            sqlx::query(runs).bind(fid.0.as_slice()).bind(&self.inner.cluster).execute(&mut *tx).await?;
            tx.commit().await?;
            done > 0
        });
        if there {
            self.delete_events(fid).await?;
        }
        Ok(there)
    }
}

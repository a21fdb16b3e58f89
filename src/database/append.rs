//! Adds events. One task takes the batches of all callers that wait and commits them together: a commit to the disk
//! costs the same for one event as for thousands. Started by [`super::Database::open`].

use std::{fmt::Write as _, sync::Arc};

use sqlx::AssertSqlSafe;
use tokio::sync::{mpsc, oneshot};

use super::{Append, AppendError, Database, DatabaseError, Event, Fid, Inner, Pools, text::clean};

/// How many batches may wait for the task.
pub(super) const WAITING: usize = 1024;
/// How many batches, and about how many bytes, are committed together.
const GROUP: (usize, usize) = (256, 4 * 1024 * 1024);
/// How many rows a statement inserts: one of these, so that few statements are prepared.
const ROWS: [usize; 3] = [128, 16, 1];
/// The largest payload of an event.
const MAX_PAYLOAD: usize = 8 * 1024 * 1024;
/// The most events of a batch.
const MAX_EVENTS: usize = 65_536;
/// What an event takes beside its payload, about.
const OVERHEAD: usize = 70;
/// The seconds of a partition in PostgreSQL.
const WEEK: u32 = 7 * 24 * 60 * 60;

/// A batch, and where its answer goes.
pub(super) struct Request {
    batch: Append,
    answer: oneshot::Sender<Result<i64, AppendError>>,
}

impl Database {
    /// Appends a batch of events. Returns the number of the last event that is stored of their source, which may be
    /// greater than that of the batch's last. A batch that is stored already, or in part, is no error.
    pub async fn append(&self, mut batch: Append) -> Result<i64, AppendError> {
        check(&batch)?;
        batch.events.iter_mut().for_each(|event| clean(&mut event.payload));
        let (answer, answered) = oneshot::channel();
        let closed = || AppendError::Database(DatabaseError::Closed);
        self.appends.send(Request { batch, answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

fn check(batch: &Append) -> Result<(), AppendError> {
    let events = &batch.events;
    if events.is_empty() || events.len() > MAX_EVENTS {
        return Err(AppendError::Invalid("a batch has at least one event and at most 65,536"));
    }
    if batch.from < 1 || batch.run < 0 || batch.from > i64::MAX - 2 * MAX_EVENTS as i64 {
        return Err(AppendError::Invalid("events of a run are numbered from 1"));
    }
    if events.iter().any(|event| event.payload.len() > MAX_PAYLOAD) {
        return Err(AppendError::Invalid("an event has at most 8 MiB"));
    }
    if events.iter().any(|event| !event.ts.is_finite()) {
        return Err(AppendError::Invalid("an event's time is a number"));
    }
    Ok(())
}

/// Writes batches until all senders are gone.
pub(super) async fn write(inner: Arc<Inner>, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        let mut group = vec![first];
        let mut bytes = weight(&group[0].batch.events);
        // What came while the last group was committed.
        while group.len() < GROUP.0
            && bytes < GROUP.1
            && let Ok(next) = requests.try_recv()
        {
            bytes += weight(&next.batch.events);
            group.push(next);
        }
        // All processes lock executions in the same order.
        group.sort_by_key(|request| (request.batch.fid, request.batch.run, request.batch.from));
        let answers = match inner.commit(&group).await {
            Ok(answers) => answers,
            // One of them may be the reason.
            Err(_) if group.len() > 1 => {
                let mut answers = Vec::with_capacity(group.len());
                for request in &group {
                    answers.push(inner.alone(request).await);
                }
                answers
            }
            Err(_) => vec![inner.alone(&group[0]).await],
        };
        for (request, answer) in group.into_iter().zip(answers) {
            // Its caller may have gone.
            let _ = request.answer.send(answer);
        }
    }
}

/// About how many bytes events take.
fn weight(events: &[Event]) -> usize {
    events.iter().map(|event| event.payload.len() + OVERHEAD).sum()
}

/// Finds the execution that a batch is for. In SQLite a transaction that writes is alone.
const FIND: &str = "SELECT last_row FROM executions WHERE fid = $1 AND cluster = $2 AND hidden = 0";
/// The same, so that of two who append to it one waits here and then reads what the other has stored.
const LOCK: &str = "SELECT last_row FROM executions WHERE fid = $1 AND cluster = $2 AND hidden = 0 FOR UPDATE";

/// What of a batch is new, given the last number that is stored: how many of its events are not, or that there is a gap.
fn known(batch: &Append, stored: i64) -> Result<usize, AppendError> {
    match stored - (batch.from - 1) {
        missing if missing < 0 => Err(AppendError::Gap { stored }),
        known => Ok(usize::try_from(known).unwrap_or(usize::MAX).min(batch.events.len())),
    }
}

/// The statement that inserts so many events.
fn insert(rows: usize) -> String {
    let mut text = String::from("INSERT INTO events (fid, row, run, seq, ts, kind, payload) VALUES ");
    for row in 0..rows {
        let n = row * 7;
        let comma = if row == 0 { "" } else { ", " };
        // Never fails.
        let _ = std::write!(
            text,
            "{comma}(${}, ${}, ${}, ${}, ${}, ${}, ${})",
            n + 1,
            n + 2,
            n + 3,
            n + 4,
            n + 5,
            n + 6,
            n + 7
        );
    }
    text
}

/// Appends one batch within a transaction.
macro_rules! append_one {
    ($tx:ident, $lock:expr, $cluster:expr, $batch:expr) => {{
        let batch: &Append = $batch;
        let fid = batch.fid.0.as_slice();
        let locked: Option<i64> = sqlx::query_scalar($lock).bind(fid).bind($cluster).fetch_optional(&mut *$tx).await?;
        match locked {
            None => Err(AppendError::Unknown(batch.fid)),
            Some(last_row) => {
                let add = "INSERT INTO sources (fid, run, seq) VALUES ($1, $2, 0) ON CONFLICT (fid, run) DO NOTHING";
                sqlx::query(add).bind(fid).bind(batch.run).execute(&mut *$tx).await?;
                let read = "SELECT seq FROM sources WHERE fid = $1 AND run = $2";
                let stored: i64 = sqlx::query_scalar(read).bind(fid).bind(batch.run).fetch_one(&mut *$tx).await?;
                match known(batch, stored) {
                    Err(gap) => Err(gap),
                    Ok(known) => {
                        let events = &batch.events[known..];
                        let mut done = 0;
                        for rows in ROWS {
                            let text = insert(rows);
                            while events.len() - done >= rows {
                                let mut query = sqlx::query(AssertSqlSafe(text.as_str()));
                                for (n, event) in (1..).zip(&events[done..done + rows]) {
                                    let n = n + done as i64;
                                    query = query.bind(fid).bind(last_row + n).bind(batch.run).bind(stored + n);
                                    query = query.bind(event.ts).bind(event.kind.number());
                                    query = query.bind(event.payload.as_str());
                                }
                                query.execute(&mut *$tx).await?;
                                done += rows;
                            }
                        }
                        let to = stored + done as i64;
                        // Only from where it was read: whatever the isolation, no number is given twice.
                        let step = "UPDATE sources SET seq = $3 WHERE fid = $1 AND run = $2 AND seq = $4";
                        let step = sqlx::query(step).bind(fid).bind(batch.run).bind(to).bind(stored);
                        if step.execute(&mut *$tx).await?.rows_affected() != 1 {
                            return Err(DatabaseError::Sql(sqlx::Error::RowNotFound));
                        }
                        let count = "UPDATE executions SET last_row = last_row + $2, bytes = bytes + $3 WHERE fid = $1";
                        let bytes = i64::try_from(weight(events)).unwrap_or(i64::MAX);
                        sqlx::query(count).bind(fid).bind(done as i64).bind(bytes).execute(&mut *$tx).await?;
                        Ok(to)
                    }
                }
            }
        }
    }};
}

impl Inner {
    /// Commits a group of batches, and what to answer to each. If it fails nothing of them is stored, or it is not
    /// known.
    async fn commit(&self, group: &[Request]) -> Result<Vec<Result<i64, AppendError>>, DatabaseError> {
        let mut answers = Vec::with_capacity(group.len());
        match &self.pools {
            Pools::Sqlite { write, .. } => {
                let mut tx = write.begin_with("BEGIN IMMEDIATE").await?;
                for request in group {
                    answers.push(append_one!(tx, FIND, &self.cluster, &request.batch));
                }
                tx.commit().await?;
            }
            Pools::Postgres(pool) => {
                for request in group {
                    self.partition(pool, request.batch.fid).await?;
                }
                let mut tx = pool.begin().await?;
                for request in group {
                    answers.push(append_one!(tx, LOCK, &self.cluster, &request.batch));
                }
                tx.commit().await?;
            }
        }
        Ok(answers)
    }

    async fn alone(&self, request: &Request) -> Result<i64, AppendError> {
        // Another process may have dropped one.
        self.weeks.lock().clear();
        let mut answers = self.commit(std::slice::from_ref(request)).await?;
        answers.pop().unwrap_or(Err(AppendError::Database(DatabaseError::Closed)))
    }

    /// Makes the partition for an execution's events, once.
    async fn partition(&self, pool: &sqlx::PgPool, fid: Fid) -> Result<(), DatabaseError> {
        let week = fid.seconds() / WEEK;
        if self.weeks.lock().contains(&week) {
            return Ok(());
        }
        let mut tx = pool.begin().await?;
        // Of several at the same time one makes it.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('koco partitions'))").execute(&mut *tx).await?;
        sqlx::query(AssertSqlSafe(create(week))).execute(&mut *tx).await?;
        tx.commit().await?;
        self.weeks.lock().insert(week);
        Ok(())
    }
}

/// The first bytes of the fids of a week, and those of the next.
pub(super) fn bounds(week: u32) -> (Vec<u8>, Vec<u8>) {
    let bound = |week: u32| match week.checked_mul(WEEK) {
        Some(seconds) => seconds.to_be_bytes().to_vec(),
        // More than any fid.
        None => vec![0xff; 13],
    };
    (bound(week), bound(week + 1))
}

/// The statement that makes the partition of a week.
fn create(week: u32) -> String {
    let (from, to) = bounds(week);
    let (from, to) = (hex::encode(from), hex::encode(to));
    format!("CREATE TABLE IF NOT EXISTS events_{week} PARTITION OF events FOR VALUES FROM ('\\x{from}') TO ('\\x{to}')")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Kind;

    fn batch(from: i64, events: usize) -> Append {
        let event = Event { ts: 0.0, kind: Kind::Stdout, payload: String::new() };
        Append { fid: Fid([0; 12]), run: 1, from, events: vec![event; events] }
    }

    #[test]
    fn a_batch_continues_what_is_stored_or_is_known_or_leaves_a_gap() {
        assert_eq!(known(&batch(1, 3), 0).unwrap(), 0);
        assert_eq!(known(&batch(1, 3), 2).unwrap(), 2);
        assert_eq!(known(&batch(1, 3), 9).unwrap(), 3);
        assert!(matches!(known(&batch(5, 1), 3), Err(AppendError::Gap { stored: 3 })));
    }

    #[test]
    fn weeks_follow_each_other() {
        let (first, last) = (create(0), create(u32::MAX / WEEK));
        assert!(first.ends_with(r"events_0 PARTITION OF events FOR VALUES FROM ('\x00000000') TO ('\x00093a80')"));
        assert!(last.contains(r"('\xfff") && last.ends_with(r"TO ('\xffffffffffffffffffffffffff')"), "{last}");
    }
}

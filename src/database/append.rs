//! Adds events. One task takes the batches of all callers that wait and commits them together: a commit to the disk
//! costs the same for one event as for thousands. Started by [`super::Database::open`].

use std::{borrow::Cow, fmt::Write as _, sync::Arc, time::Instant};

use sqlx::AssertSqlSafe;
use tokio::sync::{mpsc, oneshot};

use super::{
    Append, AppendError, Committed, Database, DatabaseError, Event, Fid, Inner, Kind, Limits, Pools, text::clean,
};

/// How the payload of a runner's last event begins, of kind `debug`.
pub const END: &str = r#"{"koco":{"end":"#;
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
pub(super) const OVERHEAD: usize = 70;
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
    if batch.oldest < 1 || batch.oldest > batch.from {
        return Err(AppendError::Invalid("the oldest event is at most the first of the batch"));
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
pub(super) const FIND: &str =
    "SELECT last_row, bytes, hidden, namespace, uid FROM executions WHERE fid = $1 AND cluster = $2";
/// The same, so that of two who append to it one waits here and then reads what the other has stored.
pub(super) const LOCK: &str =
    "SELECT last_row, bytes, hidden, namespace, uid FROM executions WHERE fid = $1 AND cluster = $2 FOR UPDATE";

/// How far a source has come, and how many events it has if it has ended and that is known.
const STORED: &str = "SELECT seq,
        (SELECT events FROM runs WHERE namespace = $3 AND job_uid = $4 AND number = $2 AND ended <> 0)
    FROM sources WHERE fid = $1 AND run = $2";

/// An event that is to be stored.
#[derive(Debug, PartialEq)]
pub(super) struct New<'a> {
    pub(super) run: i64,
    pub(super) seq: i64,
    pub(super) event: Cow<'a, Event>,
}

impl New<'_> {
    /// What koco itself has to say, of a time at which something happened.
    pub(super) fn of_koco(run: i64, seq: i64, ts: f64, payload: String) -> Self {
        Self { run, seq, event: Cow::Owned(Event { ts, kind: Kind::Debug, payload }) }
    }

    pub(super) fn weight(&self) -> i64 {
        i64::try_from(self.event.payload.len() + OVERHEAD).unwrap_or(i64::MAX)
    }
}

/// What becomes of a batch.
#[derive(Debug, PartialEq)]
struct Plan<'a> {
    new: Vec<New<'a>>,
    /// The number of the last event of the source that is stored then, lost or dropped.
    to: i64,
    end: End,
}

/// Whether the events of a batch are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Taken,
    /// The batch leaves a gap, so that nothing of it is.
    Gap,
    /// Its run has ended, and had fewer events, so that nothing of it is.
    Past,
}

/// What becomes of a batch, given the number of the last event that is stored of its source and of the last that it has, if
/// it has ended and that is known, and how many events, of how many bytes, its execution has.
fn plan(batch: &Append, (stored, last): (i64, Option<i64>), (rows, bytes): (i64, i64), limits: Limits) -> Plan<'_> {
    let ends = batch.from - 1 + i64::try_from(batch.events.len()).unwrap_or(i64::MAX);
    if last.is_some_and(|last| ends > last) {
        return Plan { new: Vec::new(), to: stored, end: End::Past };
    }
    let drops = limits.reached(rows, bytes);
    let ts = batch.events.first().map_or(0.0, |event| event.ts);
    let (mut new, mut to) = (Vec::new(), stored);
    if batch.oldest > stored + 1 {
        to = batch.oldest - 1;
        new.push(New::of_koco(batch.run, to, ts, lost(stored + 1, Some(to))));
    }
    let known = to - (batch.from - 1);
    if known >= 0 {
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(batch.events.len());
        for event in &batch.events[known..] {
            to += 1;
            new.push(New { run: batch.run, seq: to, event: Cow::Borrowed(event) });
        }
    }
    if drops {
        new.clear();
    }
    let (rows, bytes) = new.iter().fold((rows, bytes), |(rows, bytes), new| (rows + 1, bytes + new.weight()));
    if !drops && limits.reached(rows, bytes) {
        let full = format!(r#"{{"koco":{{"full":{{"rows":{rows},"bytes":{bytes}}}}}}}"#);
        new.push(New::of_koco(0, 0, ts, full));
    }
    Plan { new, to, end: if known < 0 { End::Gap } else { End::Taken } }
}

/// Whether it is the last event of a runner.
fn is_end(event: &Event) -> bool {
    event.kind == Kind::Debug && event.payload.starts_with(END)
}

/// What is said of lost events, from the first to the last, if it is known which that is.
pub(super) fn lost(from: i64, to: Option<i64>) -> String {
    let to = to.map(|to| format!(r#","to":{to}"#)).unwrap_or_default();
    format!(r#"{{"koco":{{"lost":{{"from":{from}{to}}}}}}}"#)
}

/// Counts what is stored after the last event of its source.
fn count(new: &[New<'_>], stored: i64, sum: &mut Committed) {
    for New { run, seq, event } in new {
        match event {
            Cow::Owned(_) => {
                sum.koco += 1;
                // Of no run is what says that the execution is full.
                if *run == 0 { sum.full += 1 } else { sum.lost += (seq - stored).unsigned_abs() }
            }
            Cow::Borrowed(event) if event.kind.is_output() => sum.output += 1,
            Cow::Borrowed(_) => sum.agent += 1,
        }
    }
    sum.bytes += new.iter().map(New::weight).sum::<i64>().unsigned_abs();
    // Of a batch's lines the first is the oldest. The time of others is the agent's word.
    let first = new.iter().find(|new| new.event.kind.is_output()).map(|new| new.event.ts);
    sum.oldest = sum.oldest.into_iter().chain(first).reduce(f64::min);
}

/// The statement that inserts so many events.
pub(super) fn insert(rows: usize) -> String {
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
    ($tx:ident, $lock:expr, $inner:expr, $batch:expr, $sum:expr) => {{
        let batch: &Append = $batch;
        let fid = batch.fid.0.as_slice();
        let query = sqlx::query_as($lock).bind(fid).bind(&$inner.cluster);
        let locked: Option<(i64, i64, i64, String, String)> = query.fetch_optional(&mut *$tx).await?;
        match locked {
            None => Err(AppendError::Unknown(batch.fid)),
            Some((_, _, hidden, ..)) if hidden != 0 => Err(AppendError::Deleted(batch.fid)),
            Some((last_row, bytes, _, namespace, uid)) => {
                let add = "INSERT INTO sources (fid, run, seq) VALUES ($1, $2, 0) ON CONFLICT (fid, run) DO NOTHING";
                sqlx::query(add).bind(fid).bind(batch.run).execute(&mut *$tx).await?;
                let read = sqlx::query_as(STORED).bind(fid).bind(batch.run).bind(namespace).bind(uid);
                let (stored, last): (i64, Option<i64>) = read.fetch_one(&mut *$tx).await?;
                let Plan { new, to, end } = plan(batch, (stored, last), (last_row, bytes), $inner.limits);
                count(&new, stored, $sum);
                let mut done = 0;
                for rows in ROWS {
                    let text = insert(rows);
                    while new.len() - done >= rows {
                        let mut query = sqlx::query(AssertSqlSafe(text.as_str()));
                        for (n, New { run, seq, event }) in (1..).zip(&new[done..done + rows]) {
                            query = query.bind(fid).bind(last_row + n + done as i64).bind(*run).bind(*seq);
                            query = query.bind(event.ts).bind(event.kind.number()).bind(event.payload.as_str());
                        }
                        query.execute(&mut *$tx).await?;
                        done += rows;
                    }
                }
                if to != stored {
                    // Only from where it was read: whatever the isolation, no number is given twice.
                    let step = "UPDATE sources SET seq = $3, ended = CASE WHEN $5 <> 0 THEN 1 ELSE ended END
                        WHERE fid = $1 AND run = $2 AND seq = $4";
                    let ends = i64::from(end == End::Taken && batch.events.last().is_some_and(is_end));
                    let step = sqlx::query(step).bind(fid).bind(batch.run).bind(to).bind(stored).bind(ends);
                    if step.execute(&mut *$tx).await?.rows_affected() != 1 {
                        return Err(DatabaseError::Sql(sqlx::Error::RowNotFound));
                    }
                }
                if !new.is_empty() {
                    let count = "UPDATE executions SET last_row = last_row + $2, bytes = bytes + $3 WHERE fid = $1";
                    let bytes: i64 = new.iter().map(New::weight).sum();
                    sqlx::query(count).bind(fid).bind(done as i64).bind(bytes).execute(&mut *$tx).await?;
                }
                match end {
                    End::Taken => Ok(to),
                    End::Gap => Err(AppendError::Gap { stored: to }),
                    End::Past => Err(AppendError::Ended(batch.run)),
                }
            }
        }
    }};
}

impl Inner {
    /// Commits a group of batches, and what to answer to each. If it fails nothing of them is stored, or it is not
    /// known.
    async fn commit(&self, group: &[Request]) -> Result<Vec<Result<i64, AppendError>>, DatabaseError> {
        let (mut answers, mut sum, began) = (Vec::with_capacity(group.len()), Committed::default(), Instant::now());
        match &self.pools {
            Pools::Sqlite { write, .. } => {
                let mut tx = write.begin_with("BEGIN IMMEDIATE").await?;
                for request in group {
                    answers.push(append_one!(tx, FIND, self, &request.batch, &mut sum));
                }
                tx.commit().await?;
            }
            Pools::Postgres(pool) => {
                let committed = async {
                    for request in group {
                        self.partition(pool, request.batch.fid).await?;
                    }
                    let mut tx = pool.begin().await?;
                    for request in group {
                        answers.push(append_one!(tx, LOCK, self, &request.batch, &mut sum));
                    }
                    tx.commit().await.map_err(DatabaseError::from)
                };
                tokio::time::timeout(self.limits.silence, committed).await.map_err(|_| DatabaseError::Silent)??;
            }
        }
        if let Some(observer) = self.observer.get() {
            observer(&Committed { took: began.elapsed(), ..sum });
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

    fn batch(oldest: i64, from: i64, events: usize) -> Append {
        let event = Event { ts: 1.5, kind: Kind::Stdout, payload: String::new() };
        Append { fid: Fid([0; 12]), run: 1, from, oldest, events: vec![event; events] }
    }

    #[test]
    fn what_is_stored_is_counted() {
        let limits = Limits { rows: 7, bytes: 1 << 20, ..Limits::default() };
        let (mut sum, mut batch) = (Committed::default(), batch(4, 4, 3));
        batch.events[0].kind = Kind::Result;
        batch.events[1].payload = "x".repeat(30);
        count(&plan(&batch, (1, None), (0, 0), limits).new, 1, &mut sum);
        assert_eq!((sum.agent, sum.output, sum.koco, sum.lost, sum.full), (1, 2, 1, 2, 0), "2 and 3 are lost");
        count(&plan(&batch, (3, None), (4, 0), limits).new, 3, &mut sum);
        assert_eq!((sum.agent, sum.output, sum.koco, sum.lost, sum.full), (2, 4, 2, 2, 1), "it is full");
        assert_eq!(
            sum.bytes,
            8 * 70 + 2 * 30 + r#"{"koco":{"lost":{"from":2,"to":3}}}"#.len() as u64 + {
                r#"{"koco":{"full":{"rows":7,"bytes":240}}}"#.len() as u64
            }
        );
        count(&plan(&batch, (6, None), (4, 0), limits).new, 6, &mut sum);
        assert_eq!((sum.agent, sum.output, sum.oldest), (2, 4, Some(1.5)), "all is stored already");
        batch.events[2].ts = 0.5;
        count(&plan(&batch, (5, None), (0, 0), limits).new, 5, &mut sum);
        assert_eq!(sum.oldest, Some(0.5));
        let mut lost = Committed::default();
        count(&[New::of_koco(1, 2, 0.5, String::new())], 1, &mut lost);
        assert_eq!(lost.oldest, None, "it is no line");
    }

    /// Numbers and payloads of what is stored, the last number, and whether there is a gap.
    fn planned(batch: &Append, stored: i64, has: (i64, i64), limits: Limits) -> (Vec<(i64, i64, String)>, i64, bool) {
        let Plan { new, to, end } = plan(batch, (stored, None), has, limits);
        let gap = end == End::Gap;
        (new.into_iter().map(|new| (new.run, new.seq, new.event.payload.clone())).collect(), to, gap)
    }

    #[test]
    fn a_batch_continues_what_is_stored_or_is_known_or_leaves_a_gap() {
        let of = |batch: Append, stored| {
            let (new, to, gap) = planned(&batch, stored, (0, 0), Limits::default());
            (new.into_iter().map(|(run, seq, _)| (run, seq)).collect::<Vec<_>>(), to, gap)
        };
        assert_eq!(of(batch(1, 1, 3), 0), (vec![(1, 1), (1, 2), (1, 3)], 3, false));
        assert_eq!(of(batch(1, 1, 3), 2), (vec![(1, 3)], 3, false));
        assert_eq!(of(batch(1, 1, 3), 9), (vec![], 9, false));
        assert_eq!(of(batch(4, 5, 1), 3), (vec![], 3, true), "4 is still there");
    }

    #[test]
    fn what_is_lost_leaves_a_mark_in_its_place() {
        let lost = r#"{"koco":{"lost":{"from":4,"to":6}}}"#.to_string();
        let of = |batch: Append| planned(&batch, 3, (0, 0), Limits::default());
        assert_eq!(of(batch(7, 7, 1)), (vec![(1, 6, lost.clone()), (1, 7, String::new())], 7, false));
        assert_eq!(of(batch(7, 9, 1)), (vec![(1, 6, lost)], 6, true), "and 7 is still there");
        assert_eq!(of(batch(4, 4, 1)), (vec![(1, 4, String::new())], 4, false), "nothing is");
    }

    #[test]
    fn a_run_that_has_ended_has_no_more_events_than_it_had() {
        let of = |batch: Append, stored| {
            let Plan { new, to, end } = plan(&batch, (stored, Some(4)), (0, 0), Limits::default());
            (new.len(), to, end)
        };
        assert_eq!(of(batch(1, 2, 3), 1), (3, 4, End::Taken), "the last are late");
        assert_eq!(of(batch(1, 2, 3), 4), (0, 4, End::Taken), "and repeated");
        assert_eq!(of(batch(1, 2, 4), 1), (0, 1, End::Past));
        assert_eq!(of(batch(1, 5, 1), 4), (0, 4, End::Past));
        assert_eq!(of(batch(9, 9, 1), 4), (0, 4, End::Past), "nor has it lost any");
    }

    #[test]
    fn an_execution_that_is_full_says_so_once_and_takes_no_more() {
        let limits = Limits { rows: 5, bytes: 1000, ..Limits::default() };
        let of = |rows, bytes| planned(&batch(1, 1, 2), 0, (rows, bytes), limits);
        let plain = vec![(1, 1, String::new()), (1, 2, String::new())];
        assert_eq!(of(2, 0), (plain.clone(), 2, false));
        let full = |rows: i64, bytes: i64| {
            let said = format!(r#"{{"koco":{{"full":{{"rows":{rows},"bytes":{bytes}}}}}}}"#);
            [plain.clone(), vec![(0, 0, said)]].concat()
        };
        assert_eq!(of(3, 0), (full(5, 140), 2, false));
        assert_eq!(of(0, 900), (full(2, 1040), 2, false));
        assert_eq!((of(6, 0), of(0, 1000)), ((vec![], 2, false), (vec![], 2, false)));
        assert_eq!(planned(&batch(1, 5, 1), 3, (6, 0), limits), (vec![], 3, true));
    }

    #[test]
    fn weeks_follow_each_other() {
        let (first, last) = (create(0), create(u32::MAX / WEEK));
        assert!(first.ends_with(r"events_0 PARTITION OF events FOR VALUES FROM ('\x00000000') TO ('\x00093a80')"));
        assert!(last.contains(r"('\xfff") && last.ends_with(r"TO ('\xffffffffffffffffffffffffff')"), "{last}");
    }
}

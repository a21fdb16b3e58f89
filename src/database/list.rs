//! Lists executions, the newest first, and searches them. Used by the callers of the database.
//!
//! A page begins where the one before has ended, at a fid: no execution is skipped or comes twice, whatever is added
//! meanwhile. How much a search, or a question for changes, looks at for a page is bounded.

use std::cmp::Reverse;

use sqlx::{AssertSqlSafe, Row};

use super::{
    Database, DatabaseError, Fid, Filter, Page, Pools, Summary,
    executions::{SUMMARY, summary},
    reading,
    search::{groups, lowest, place},
    text::containing,
};

/// How many executions a search looks at before it asks the index: frequent texts are found among them, whatever else is
/// asked for. And how many for a page, where there is no index.
const WALK: (i64, i64) = (500, 5000);
/// How many executions that may contain a text are looked at for a page.
const CANDIDATES: i64 = 5000;
/// How long PostgreSQL may take to find all that contain a text: it reads each that may.
const PATIENCE: &str = "SET LOCAL statement_timeout = '1s'";
/// Has PostgreSQL take the index of texts: from how often it takes a text to be, it may read all in the order of fids
/// instead. And keeps it from compiling the statement, which takes longer than the search.
const BY_INDEX: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off; SET LOCAL jit = off";
/// Has PostgreSQL use a second index, too, to read fewer rows: it takes nearly all texts to be rare, and so hardly ever
/// would.
const BY_BOTH: &str = "SET LOCAL cpu_tuple_cost = 1000";
const BY_ONE: &str = "SET LOCAL cpu_tuple_cost TO DEFAULT";
/// How many times as many executions as are likely to be enough PostgreSQL looks at before it looks at all.
const SPARE: u64 = 4;
/// PostgreSQL's code for a statement that took too long.
const CANCELED: &str = "57014";
/// The most items of a page.
const MOST: u32 = 500;

/// A parameter of a statement that is put together.
#[derive(Clone)]
enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
}

/// Binds a list of [`Value`]s.
macro_rules! bind {
    ($query:expr, $values:expr) => {{
        let mut query = $query;
        for value in $values {
            query = match value {
                Value::Text(text) => query.bind(text.clone()),
                Value::Bytes(bytes) => query.bind(bytes.clone()),
                Value::Number(number) => query.bind(*number),
            };
        }
        query
    }};
}

/// Reads the summaries of some rows.
macro_rules! summaries {
    ($rows:expr) => {{
        let mut items = Vec::new();
        for row in $rows {
            items.push(summary!(row));
        }
        items
    }};
}

/// The conditions of a statement.
#[derive(Clone)]
struct Conditions {
    text: String,
    values: Vec<Value>,
    /// The lowest fid that may fulfil them, and the first above those that may.
    from: Fid,
    before: Option<Fid>,
    /// Whether a namespace and a phase are asked for, and nothing that has an index of its own.
    of_both: bool,
}

/// The first bytes of the fids of this second.
fn from_second(seconds: u32) -> Fid {
    let mut fid = [0; 12];
    fid.iter_mut().zip(seconds.to_be_bytes()).for_each(|(to, from)| *to = from);
    Fid(fid)
}

impl Conditions {
    /// Those of a filter, but for the search.
    fn of(filter: &Filter, cluster: &str) -> Self {
        Self::among("hidden = 0", filter, cluster)
    }

    /// Among those that fulfil a condition without parameters.
    fn among(condition: &str, filter: &Filter, cluster: &str) -> Self {
        let since = filter.since.map_or(Fid([0; 12]), from_second);
        let others = [&filter.owner, &filter.entry_point];
        let of_both =
            filter.namespace.is_some() && filter.phase.is_some() && others.iter().all(|other| other.is_none());
        let mut all = Self { text: condition.into(), values: Vec::new(), from: since, before: None, of_both };
        all.add_before(filter.before);
        all.add_before(filter.until.map(from_second));
        all.add("cluster = ", Value::Text(cluster.into()));
        let texts = [
            ("namespace = ", &filter.namespace),
            ("namespace_uid = ", &filter.namespace_uid),
            ("name = ", &filter.name),
            ("phase = ", &filter.phase),
            ("entry_point = ", &filter.entry_point),
            ("owner = ", &filter.owner),
        ];
        for (condition, text) in texts {
            if let Some(text) = text {
                all.add(condition, Value::Text(text.clone()));
            }
        }
        all
    }

    fn add(&mut self, condition: &str, value: Value) {
        self.values.push(value);
        self.text.push_str(&format!(" AND {condition}${}", self.values.len()));
    }

    /// Not those that are older than this one.
    fn add_end(&mut self, end: Option<Fid>) {
        self.from = self.from.max(end.unwrap_or(self.from));
    }

    /// Only those that are older than this one.
    fn add_before(&mut self, before: Option<Fid>) {
        self.before = self.before.into_iter().chain(before).min();
    }

    fn add_search(&mut self, text: &str) {
        self.add("search LIKE ", Value::Text(containing(text)));
        self.text.push_str(r" ESCAPE '\'");
    }

    /// The condition, and its parameters.
    fn finish(&self) -> (String, Vec<Value>) {
        let mut all = self.clone();
        let bytes = |fid: Fid| Value::Bytes(fid.0.to_vec());
        // One bound at each end: of several SQLite takes the first for the index of fids, and without any it may read
        // and sort all.
        if self.from != Fid([0; 12]) {
            all.add("fid >= ", bytes(self.from));
        }
        match self.before {
            Some(before) => all.add("fid < ", bytes(before)),
            None => all.add("fid <= ", bytes(Fid([u8::MAX; 12]))),
        }
        (all.text, all.values)
    }
}

/// Some executions, and the last that was looked at for them if there are more.
type Found = (Vec<Summary>, Option<Fid>);

/// The fid down to which `left` more executions are expected to have a text, [`SPARE`] times over, at the rate at which
/// those from `newest` down to `last` have it, of which `found` do.
fn likely_end(newest: Fid, last: Fid, found: usize, left: usize) -> Option<Fid> {
    let seconds = u64::from(newest.seconds().saturating_sub(last.seconds()).max(1));
    let back = seconds.saturating_mul(SPARE).saturating_mul(left as u64) / (found as u64 + 1);
    let end = u64::from(last.seconds()).checked_sub(back)?;
    u32::try_from(end).ok().map(from_second)
}

impl Database {
    /// A page of executions, the newest first.
    pub async fn list(&self, filter: &Filter) -> Result<Page, DatabaseError> {
        let limit = filter.limit.clamp(1, MOST) as usize;
        let (mut items, end) = match (filter.search.as_deref().filter(|text| !text.is_empty()), filter.changed) {
            (text, Some(since)) => self.changed(filter, text, since, limit + 1).await?,
            (Some(text), None) => self.search(filter, text, limit + 1).await?,
            (None, None) => (self.select(&Conditions::of(filter, &self.inner.cluster), limit + 1).await?, None),
        };
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(|last| last.fid) } else { end };
        Ok(Page { items, next })
    }

    /// Up to so many of the newest executions that have changed since this time, and contain a text if there is one.
    async fn changed(
        &self,
        filter: &Filter,
        text: Option<&str>,
        since: i64,
        limit: usize,
    ) -> Result<Found, DatabaseError> {
        let (mut conditions, end) = self.first(filter, WALK.1).await?;
        if let Some(text) = text {
            conditions.add_search(text);
        }
        conditions.add("(ended IS NULL OR ended >= ", Value::Number(since));
        conditions.text.push(')');
        Ok((self.select(&conditions, limit).await?, end))
    }

    /// Those that were deleted from the archive, among the newest that a filter has.
    pub async fn hidden(&self, filter: &Filter) -> Result<Vec<Fid>, DatabaseError> {
        let (_, end) = self.first(filter, WALK.1).await?;
        let mut conditions = Conditions::among("hidden = 1", filter, &self.inner.cluster);
        conditions.add_end(end);
        self.fids(&conditions, &format!("LIMIT {MOST}")).await
    }

    /// Up to so many executions that contain a text.
    async fn search(&self, filter: &Filter, text: &str, limit: usize) -> Result<Found, DatabaseError> {
        let (mut items, end) = self.walk(filter, text, WALK.0, limit).await?;
        let Some(last) = end.filter(|_| items.len() < limit) else { return Ok((items, end)) };
        let rest = Filter { before: Some(last), ..filter.clone() };
        let left = limit - items.len();
        let (more, end) = match self.by_index(filter, &rest, items.len(), text, left).await? {
            Some(found) => found,
            None => self.walk(&rest, text, WALK.1 - WALK.0, left).await?,
        };
        items.extend(more);
        Ok((items, end))
    }

    /// Looks at the first executions, at most so many.
    async fn walk(&self, filter: &Filter, text: &str, most: i64, limit: usize) -> Result<Found, DatabaseError> {
        let (mut conditions, end) = self.first(filter, most).await?;
        conditions.add_search(text);
        Ok((self.select(&conditions, limit).await?, end))
    }

    /// The conditions for the first so many executions, and the last of these if there are so many.
    async fn first(&self, filter: &Filter, most: i64) -> Result<(Conditions, Option<Fid>), DatabaseError> {
        let mut conditions = Conditions::of(filter, &self.inner.cluster);
        let end = self.last_of(&conditions, most).await?;
        conditions.add_end(end);
        Ok((conditions, end))
    }

    /// Looks at the executions that the index finds in `rest`; `None` if it can't. Of those of `filter` before these,
    /// `found` have the text.
    async fn by_index(
        &self,
        filter: &Filter,
        rest: &Filter,
        found: usize,
        text: &str,
        limit: usize,
    ) -> Result<Option<Found>, DatabaseError> {
        let Some(groups) = groups(text).filter(|_| self.is_indexed()) else { return Ok(None) };
        match &self.inner.pools {
            Pools::Sqlite { read, .. } => self.by_fts5(read, rest, text, groups, limit).await.map(Some),
            Pools::Postgres(pool) => {
                let newest = self.last_of(&Conditions::of(filter, &self.inner.cluster), 1).await?;
                let likely = newest.zip(rest.before).and_then(|(newest, last)| likely_end(newest, last, found, limit));
                self.by_pg_trgm(pool, rest, text, limit, likely).await
            }
        }
    }

    async fn by_fts5(
        &self,
        pool: &sqlx::SqlitePool,
        filter: &Filter,
        text: &str,
        groups: String,
        limit: usize,
    ) -> Result<Found, DatabaseError> {
        let newest = filter.before.map_or(i64::MAX, place);
        let oldest = filter.since.map_or(0, |since| place(from_second(since)));
        let last = format!(
            "SELECT rowid FROM executions_search WHERE executions_search MATCH $1 AND rowid <= $2 AND rowid >= $3
            ORDER BY rowid DESC LIMIT 1 OFFSET {}",
            CANDIDATES - 1
        );
        let last = sqlx::query_scalar(AssertSqlSafe(last)).bind(&groups).bind(newest).bind(oldest);
        let end: Option<i64> = last.fetch_optional(pool).await?;
        let mut conditions = Conditions::of(filter, &self.inner.cluster);
        conditions.add("executions_search MATCH ", Value::Text(groups));
        conditions.add("executions_search.rowid <= ", Value::Number(newest));
        conditions.add("executions_search.rowid >= ", Value::Number(end.unwrap_or(oldest)));
        conditions.add_search(text);
        let (condition, values) = conditions.finish();
        // CROSS: the index of texts first. And what it finds by its place: SQLite may take the index of namespaces, and
        // read all of the namespace for each. In the order of the index, so that it stops when there are enough.
        let found = format!(
            "SELECT {SUMMARY} FROM executions_search
            CROSS JOIN executions INDEXED BY executions_place ON place = executions_search.rowid
            WHERE {condition} ORDER BY executions_search.rowid DESC LIMIT {limit}"
        );
        let rows = bind!(sqlx::query(AssertSqlSafe(found)), &values).fetch_all(pool).await?;
        let mut items = summaries!(rows);
        if let Some(last) = items.last().filter(|_| items.len() == limit) {
            // Those at one place come in any order: a page that has some of them has them all.
            let mut at_its_place = Conditions::of(filter, &self.inner.cluster);
            at_its_place.add_end(Some(lowest(place(last.fid))));
            at_its_place.add_before(Some(lowest(place(last.fid) + 1)));
            at_its_place.add_search(text);
            items.extend(self.select(&at_its_place, limit).await?);
        }
        items.sort_unstable_by_key(|item| Reverse(item.fid));
        items.dedup_by_key(|item| item.fid);
        items.truncate(limit);
        Ok((items, end.map(lowest)))
    }

    /// PostgreSQL reads all that its index finds before it knows which are the newest. So it is asked for those down to
    /// `likely` first, which it finds by another index, and reads only what both have.
    async fn by_pg_trgm(
        &self,
        pool: &sqlx::PgPool,
        filter: &Filter,
        text: &str,
        limit: usize,
        likely: Option<Fid>,
    ) -> Result<Option<Found>, DatabaseError> {
        let mut tx = pool.begin().await?;
        sqlx::raw_sql(PATIENCE).execute(&mut *tx).await?;
        sqlx::raw_sql(BY_INDEX).execute(&mut *tx).await?;
        let mut items: Vec<Summary> = Vec::new();
        let near = likely.map(|likely| (filter.before, Some(likely)));
        for (before, end) in near.into_iter().chain([(likely.or(filter.before), None)]) {
            let mut conditions = Conditions::of(&Filter { before, ..filter.clone() }, &self.inner.cluster);
            conditions.add_end(end);
            conditions.add_search(text);
            let (text, values) = conditions.finish();
            let left = limit - items.len();
            let text = format!("SELECT {SUMMARY} FROM executions WHERE {text} ORDER BY fid DESC LIMIT {left}");
            sqlx::raw_sql(if end.is_some() { BY_BOTH } else { BY_ONE }).execute(&mut *tx).await?;
            // Planned for this text.
            match bind!(sqlx::query(AssertSqlSafe(text)).persistent(false), &values).fetch_all(&mut *tx).await {
                Ok(rows) => items.extend(summaries!(rows)),
                Err(error) if error.as_database_error().and_then(|e| e.code()).is_some_and(|code| code == CANCELED) => {
                    tracing::debug!("a search takes too long by the index");
                    let looked_at = likely.filter(|_| end.is_none());
                    return Ok(looked_at.map(|last| (items, Some(last))));
                }
                Err(error) => return Err(error.into()),
            }
            if items.len() == limit {
                break;
            }
        }
        Ok(Some((items, None)))
    }

    /// The table that these conditions are about. Of two indexes that look alike SQLite takes the older one, and reads all
    /// of a phase.
    fn table(&self, conditions: &Conditions) -> &'static str {
        match self.inner.pools {
            Pools::Sqlite { .. } if conditions.of_both => "executions INDEXED BY executions_namespace_phase",
            _ => "executions",
        }
    }

    /// Whether a plan is good for other parameters, too. PostgreSQL's isn't: without them it takes all ranges to be short.
    fn plans_last(&self) -> bool {
        matches!(self.inner.pools, Pools::Sqlite { .. })
    }

    async fn select(&self, conditions: &Conditions, limit: usize) -> Result<Vec<Summary>, DatabaseError> {
        let (text, values) = conditions.finish();
        let from = self.table(conditions);
        let text = format!("SELECT {SUMMARY} FROM {from} WHERE {text} ORDER BY fid DESC LIMIT {limit}");
        let again = self.plans_last();
        reading!(self, |pool| {
            let rows = bind!(sqlx::query(AssertSqlSafe(text)).persistent(again), &values).fetch_all(pool).await?;
            Ok(summaries!(rows))
        })
    }

    /// The last of the first `most` executions, if there are so many.
    async fn last_of(&self, conditions: &Conditions, most: i64) -> Result<Option<Fid>, DatabaseError> {
        Ok(self.fids(conditions, &format!("LIMIT 1 OFFSET {}", most - 1)).await?.pop())
    }

    /// The fids that fulfil these conditions, the newest first, and of those the ones that `some` takes.
    async fn fids(&self, conditions: &Conditions, some: &str) -> Result<Vec<Fid>, DatabaseError> {
        let ((text, values), from) = (conditions.finish(), self.table(conditions));
        let text = format!("SELECT fid FROM {from} WHERE {text} ORDER BY fid DESC {some}");
        let again = self.plans_last();
        reading!(self, |pool| {
            let rows = bind!(sqlx::query(AssertSqlSafe(text)).persistent(again), &values).fetch_all(pool).await?;
            let mut found = Vec::with_capacity(rows.len());
            for row in rows {
                let fid: Vec<u8> = row.try_get(0)?;
                found.push(Fid::of(&fid));
            }
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_namespace_and_phase_is_asked_for_where_no_other_finds_less() {
        let some = || Some("x".to_string());
        let both = Filter { namespace: some(), phase: some(), ..Filter::default() };
        assert!(Conditions::of(&both, "c").of_both);
        for narrower in [Filter { owner: some(), ..both.clone() }, Filter { entry_point: some(), ..both.clone() }] {
            assert!(!Conditions::of(&narrower, "c").of_both);
        }
        assert!(!Conditions::of(&Filter { namespace: None, ..both }, "c").of_both);
    }

    #[test]
    fn a_search_goes_back_as_far_as_the_first_ones_let_expect() {
        let fid = from_second;
        // 500 in 100 seconds, 9 of them have it: 50 more are within 500 seconds, four times that for sure.
        assert_eq!(likely_end(fid(10_000), fid(9_900), 9, 50), Some(fid(7_900)));
        assert_eq!(likely_end(fid(10_000), fid(10_000), 49, 1), Some(fid(10_000)), "all within a second");
        assert_eq!(likely_end(fid(10_000), fid(9_000), 0, 51), None, "before all times");
    }
}

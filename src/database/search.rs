//! The index of texts that a search looks at: SQLite's FTS5 or PostgreSQL's pg_trgm, both of groups of three characters.
//! Both only say where a text may be: [`super::list`], which uses this, compares.

use std::sync::atomic::Ordering;

use sqlx::AssertSqlSafe;

use super::{Database, DatabaseError, Fid, Inner, Pools};

/// How many groups of a text are looked up: those of a long one say little more.
const GROUPS: usize = 32;

/// The query for FTS5 that finds what may contain a text; `None` if the text is too short for the index.
pub(super) fn groups(text: &str) -> Option<String> {
    let characters: Vec<char> = text.to_lowercase().chars().map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect();
    let last = characters.len().checked_sub(3)?;
    // Of a long text those that have the least in common.
    let step = (last / GROUPS).max(1);
    let quoted = |group: &[char]| format!("\"{}\"", group.iter().collect::<String>().replace('"', "\"\""));
    let all: Vec<String> = characters.windows(3).step_by(step).take(GROUPS).map(quoted).collect();
    Some(all.join(" "))
}

/// Where an execution is in SQLite's index: the column `place`.
pub(super) fn place(fid: Fid) -> i64 {
    let mut first = [0; 8];
    first.iter_mut().zip(fid.0).for_each(|(to, from)| *to = from);
    // 63 bits always fit.
    i64::try_from(u64::from_be_bytes(first) >> 1).unwrap_or(i64::MAX)
}

/// The lowest fid that is at a place.
pub(super) fn lowest(place: i64) -> Fid {
    let mut fid = [0; 12];
    let first = (place.unsigned_abs() << 1).to_be_bytes();
    fid.iter_mut().zip(first).for_each(|(to, from)| *to = from);
    Fid(fid)
}

/// Makes PostgreSQL's index, unless it is there, and says whether there is one. It needs the extension pg_trgm, which is
/// not everywhere: searches work without it, more slowly.
pub(super) async fn prepare(inner: &Inner) -> Result<bool, DatabaseError> {
    let Pools::Postgres(pool) = &inner.pools else { return Ok(true) };
    let schema = "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_trgm'";
    let mut there: Option<String> = sqlx::query_scalar(schema).fetch_optional(pool).await?;
    if there.is_none() {
        // Another process may make it at the same time.
        if let Err(error) = sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_trgm").execute(pool).await {
            tracing::debug!(%error, "the extension pg_trgm can't be made");
        }
        there = sqlx::query_scalar(schema).fetch_optional(pool).await?;
    }
    let Some(schema) = there else {
        tracing::warn!(
            reason = "NoTrigramIndex",
            "PostgreSQL's extension pg_trgm is not there and can't be made: a search looks at 5,000 executions for a page"
        );
        return Ok(false);
    };
    let mut tx = pool.begin().await?;
    // It takes as long as it takes, once; of several processes one does it.
    sqlx::raw_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('koco schema'))").execute(&mut *tx).await?;
    let exists = "SELECT to_regclass('executions_search') IS NOT NULL";
    let exists: bool = sqlx::query_scalar(exists).fetch_one(&mut *tx).await?;
    if !exists {
        let schema = schema.replace('"', "\"\"");
        let create =
            format!("CREATE INDEX executions_search ON executions USING gin (search \"{schema}\".gin_trgm_ops)");
        sqlx::query(AssertSqlSafe(create)).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(true)
}

impl Database {
    /// Whether texts are found by an index, however many executions there are.
    pub fn is_indexed(&self) -> bool {
        self.inner.is_indexed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_looked_up_by_groups_of_three_characters() {
        assert_eq!(groups("ÄB\"c").as_deref(), Some("\"äb\"\"\" \"b\"\"c\""));
        assert_eq!(groups("a\0b").as_deref(), Some("\"a\u{fffd}b\""));
        assert_eq!((groups(""), groups("ab")), (None, None));
        assert_eq!(groups(&"x".repeat(256)).map(|all| all.split(' ').count()), Some(GROUPS));
        assert_eq!(groups(&"x".repeat(34)).map(|all| all.split(' ').count()), Some(GROUPS));
    }

    #[test]
    fn places_are_ordered_as_fids_are() {
        let fid = |text: &str| text.parse::<Fid>().unwrap();
        let (a, b, c) =
            (fid("6740c100aabbccdd00000000"), fid("6740c100aabbccddffffffff"), fid("6740c100aabbccdf00000000"));
        assert_eq!(place(a), place(b));
        assert_eq!(place(a) + 1, place(c));
        assert_eq!(
            (lowest(place(b)), lowest(place(c))),
            (fid("6740c100aabbccdc00000000"), fid("6740c100aabbccde00000000"))
        );
        assert!(place(fid("ffffffffffffffffffffffff")) > place(c));
    }
}

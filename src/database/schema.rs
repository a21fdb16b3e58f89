//! Creates the tables and changes them from release to release, before anything else is done with the database.
//!
//! A change has one number and a file for each database. Changes are such that the release before still works with the
//! result: `oldest` says which schema a program must know at least. So replicas of two releases may run side by side,
//! and an upgrade can be taken back. A program that is older than that touches nothing.

use sqlx::{AssertSqlSafe, Row};

use super::{Database, DatabaseError, Pools, writing};

/// One change of the schema.
struct Migration {
    sqlite: &'static str,
    postgres: &'static str,
    /// The oldest program that works with the result, by the last change that it knows.
    oldest: i64,
}

/// All changes, the first is number 1.
const MIGRATIONS: [Migration; 4] = [
    Migration {
        sqlite: include_str!("migrations/sqlite/0001.sql"),
        postgres: include_str!("migrations/postgres/0001.sql"),
        oldest: 1,
    },
    // Runs, and an index of texts.
    Migration {
        sqlite: include_str!("migrations/sqlite/0002.sql"),
        postgres: include_str!("migrations/postgres/0002.sql"),
        oldest: 1,
    },
    // An index of namespace and phase.
    Migration {
        sqlite: include_str!("migrations/sqlite/0003.sql"),
        postgres: include_str!("migrations/postgres/0003.sql"),
        oldest: 1,
    },
    // Which events of a run are lost.
    Migration {
        sqlite: include_str!("migrations/sqlite/0004.sql"),
        postgres: include_str!("migrations/postgres/0004.sql"),
        oldest: 1,
    },
];

/// The schema of this program.
const OURS: i64 = MIGRATIONS.len() as i64;

/// What to do about a database.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Ready,
    /// To make the changes after this one.
    RaiseFrom(i64),
    /// Nothing, ever: it is a later release's.
    Refuse,
}

fn step(found: i64, oldest: i64, ours: i64) -> Step {
    match found {
        found if found < ours => Step::RaiseFrom(found),
        found if found > ours && oldest > ours => Step::Refuse,
        _ => Step::Ready,
    }
}

/// Whether this program works with a schema, or can change it so that it does.
pub(super) fn usable(found: i64, oldest: i64) -> Result<(), DatabaseError> {
    match step(found, oldest, OURS) {
        Step::Refuse => Err(DatabaseError::Newer { found, oldest, ours: OURS }),
        Step::Ready | Step::RaiseFrom(_) => Ok(()),
    }
}

/// Makes the schema this program's. Of several processes one does it, the others wait.
pub(super) async fn prepare(database: &Database) -> Result<(), DatabaseError> {
    let is_sqlite = matches!(database.inner.pools, Pools::Sqlite { .. });
    writing!(database, |tx| {
        if !is_sqlite {
            // It takes as long as it takes.
            sqlx::raw_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
            sqlx::query("SELECT pg_advisory_xact_lock(hashtext('koco schema'))").execute(&mut *tx).await?;
        }
        let exists = match is_sqlite {
            true => "SELECT count(*) FROM sqlite_master WHERE name = 'koco_schema'",
            false => "SELECT count(to_regclass('koco_schema'))",
        };
        let exists: i64 = sqlx::query_scalar(exists).fetch_one(&mut *tx).await?;
        let (found, oldest) = match exists {
            0 => (0, 0),
            _ => {
                let row = sqlx::query("SELECT version, oldest FROM koco_schema").fetch_one(&mut *tx).await?;
                (row.try_get(0)?, row.try_get(1)?)
            }
        };
        match step(found, oldest, OURS) {
            Step::Ready => return Ok(()),
            Step::Refuse => return Err(DatabaseError::Newer { found, oldest, ours: OURS }),
            Step::RaiseFrom(0) => {
                let create = "CREATE TABLE koco_schema (version BIGINT NOT NULL, oldest BIGINT NOT NULL)";
                sqlx::query(create).execute(&mut *tx).await?;
                sqlx::query("INSERT INTO koco_schema VALUES (0, 0)").execute(&mut *tx).await?;
            }
            Step::RaiseFrom(_) => {}
        }
        for migration in &MIGRATIONS[usize::try_from(found).unwrap_or(0)..] {
            let text = if is_sqlite { migration.sqlite } else { migration.postgres };
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await?;
        }
        let oldest = MIGRATIONS.iter().map(|m| m.oldest).max().unwrap_or(OURS);
        let set = "UPDATE koco_schema SET version = $1, oldest = $2";
        sqlx::query(set).bind(OURS).bind(oldest).execute(&mut *tx).await?;
        tx.commit().await?;
    });
    tracing::info!(schema = OURS, "the database's schema is that of this release");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_program_works_with_a_schema_that_says_so_and_with_no_other() {
        assert_eq!(step(0, 0, 3), Step::RaiseFrom(0));
        assert_eq!(step(2, 1, 3), Step::RaiseFrom(2));
        assert_eq!(step(3, 2, 3), Step::Ready);
        assert_eq!(step(4, 3, 3), Step::Ready);
        assert_eq!(step(4, 4, 3), Step::Refuse);
    }
}

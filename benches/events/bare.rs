//! The ceiling: INSERTs of several rows, from one connection, and nothing else.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// Rows of a statement, as many as the server's.
const ROWS: usize = 128;

enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A database of its own with the server's tables.
pub struct Bare {
    database: Database,
    statement: String,
    row: i64,
}

impl Bare {
    pub async fn open(folder: &Path, postgres: Option<&str>) -> Self {
        let values: Vec<String> = (0..ROWS)
            .map(|row| {
                let places: Vec<String> = (1..=7).map(|n| format!("${}", row * 7 + n)).collect();
                format!("({})", places.join(", "))
            })
            .collect();
        let into = "INSERT INTO events (fid, row, run, seq, ts, kind, payload) VALUES ";
        let statement = format!("{into}{}", values.join(", "));
        let database = match postgres {
            Some(url) => {
                let mut admin = PgConnection::connect(url).await.expect("PostgreSQL");
                sqlx::raw_sql("CREATE DATABASE bare").execute(&mut admin).await.expect("a database");
                let url = url.replace("/postgres?", "/bare?");
                let mut own = PgConnection::connect(&url).await.expect("PostgreSQL");
                let tables = include_str!("../../src/database/migrations/postgres/0001.sql");
                let all = format!("{tables};\nCREATE TABLE events_all PARTITION OF events DEFAULT");
                sqlx::raw_sql(AssertSqlSafe(all)).execute(&mut own).await.expect("the tables");
                Database::Postgres(own)
            }
            None => {
                std::fs::create_dir_all(folder).expect("a folder");
                let options = SqliteConnectOptions::new()
                    .filename(folder.join("bare.db"))
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full);
                let mut own = options.connect().await.expect("SQLite");
                let tables = include_str!("../../src/database/migrations/sqlite/0001.sql");
                sqlx::raw_sql(tables).execute(&mut own).await.expect("the tables");
                Database::Sqlite(own)
            }
        };
        Self { database, statement, row: 0 }
    }

    /// How long so many batches of each runner take, a batch of each in a transaction: more at a time the server can't
    /// have.
    pub async fn round(&mut self, lines: &[String], runners: usize, batches: usize) -> Duration {
        let began = Instant::now();
        for _ in 0..batches {
            self.transaction(lines, runners).await;
        }
        began.elapsed()
    }

    async fn transaction(&mut self, lines: &[String], runners: usize) {
        macro_rules! insert {
            ($connection:expr) => {{
                let mut tx = $connection.begin().await.expect("a transaction");
                for runner in 0..runners {
                    let fid = [runner as u8; 12];
                    for (part, lines) in lines.chunks_exact(ROWS).enumerate() {
                        let mut query = sqlx::query(AssertSqlSafe(self.statement.as_str()));
                        for (n, line) in (0..).zip(lines) {
                            let row = self.row + (part * ROWS) as i64 + n;
                            query = query.bind(fid.to_vec()).bind(row).bind(1_i64).bind(row);
                            query = query.bind(1_800_000_000.5).bind(7_i16).bind(line.as_str());
                        }
                        query.execute(&mut *tx).await.expect("an INSERT");
                    }
                }
                tx.commit().await.expect("a commit");
            }};
        }
        assert!(lines.len().is_multiple_of(ROWS), "a batch has a multiple of {ROWS} events");
        match &mut self.database {
            Database::Sqlite(connection) => insert!(connection),
            Database::Postgres(connection) => insert!(connection),
        }
        self.row += lines.len() as i64;
    }
}

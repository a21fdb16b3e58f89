//! A PostgreSQL that doesn't answer, or a process that stands still in the middle, holds up others for so long and no longer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use koco::database::{AppendError, Database, Limits, Location};
use sqlx::Connection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, UnixStream},
};

use super::harness::{CLUSTER, batch, both, execution, fid, locations};

/// Long after all limits: what isn't over by then never is.
const NEVER: Duration = Duration::from_secs(120);

/// The URL of an empty PostgreSQL.
async fn postgres() -> String {
    match locations().await.remove(1) {
        Location::Postgres(url) => url,
        Location::Sqlite(_) => panic!("PostgreSQL comes second"),
    }
}

/// A way to a PostgreSQL that, while it is to, lets nothing through any more from the first statement on that has this text.
struct Way {
    url: String,
    holds: Arc<AtomicBool>,
}

impl Way {
    async fn to(url: &str, text: &'static str) -> Self {
        let (base, folder) = url.split_once("?host=").expect("a socket");
        let socket = format!("{folder}/.s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let holds = Arc::new(AtomicBool::new(false));
        let held = holds.clone();
        let way = Self { url: base.replace("@localhost/", &format!("@{own}/")), holds };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (held, server) = (held.clone(), UnixStream::connect(&socket).await.unwrap());
                tokio::spawn(async move {
                    let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
                    let answering = tokio::spawn(async move { copy(&mut answers, &mut back).await });
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = from.read(&mut buffer).await {
                        let has_it = buffer[..read].windows(text.len()).any(|part| part == text.as_bytes());
                        if has_it && held.load(Ordering::Relaxed) {
                            std::future::pending::<()>().await;
                        }
                        to.write_all(&buffer[..read]).await.unwrap();
                    }
                    answering.abort();
                });
            }
        });
        way
    }

    fn location(&self) -> Location {
        Location::Postgres(self.url.clone())
    }
}

/// The statement of an append that comes after it has locked its execution.
const AFTER_THE_LOCK: &str = "INSERT INTO sources";

fn reason(error: AppendError) -> &'static str {
    error.reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_falls_silent_in_the_middle_fails_an_append_and_the_next_succeeds() {
    let url = postgres().await;
    let way = Way::to(&url, AFTER_THE_LOCK).await;
    let limits = Limits { silence: Duration::from_secs(1), ..Limits::default() };
    let database = Database::open_with(&way.location(), CLUSTER, limits).await.unwrap();
    database.upsert(vec![execution(1), execution(2)]).await.unwrap();
    way.holds.store(true, Ordering::Relaxed);
    let appended = tokio::time::timeout(NEVER, database.append(batch(fid(1), 1, 3))).await.expect("it ends");
    assert_eq!(appended.map_err(reason), Err("Silent"));
    way.holds.store(false, Ordering::Relaxed);
    let appended = tokio::time::timeout(NEVER, database.append(batch(fid(2), 1, 3))).await.expect("it ends");
    assert_eq!(appended.map_err(reason), Ok(3), "others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stands_still_in_a_transaction_loses_its_locks() {
    let url = postgres().await;
    let way = Way::to(&url, AFTER_THE_LOCK).await;
    let limits = Limits { silence: Duration::MAX, ..Limits::default() };
    let stands_still = Database::open_with(&way.location(), CLUSTER, limits).await.unwrap();
    stands_still.upsert(vec![execution(1)]).await.unwrap();
    way.holds.store(true, Ordering::Relaxed);
    let append = tokio::spawn(async move { stands_still.append(batch(fid(1), 1, 3)).await });
    let mut watch = sqlx::PgConnection::connect(&url).await.unwrap();
    let text = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'idle in transaction'";
    while sqlx::query_scalar::<_, i64>(text).fetch_one(&mut watch).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    let other = Database::open(&Location::Postgres(url), CLUSTER).await.unwrap();
    let goes_on = async {
        loop {
            match other.append(batch(fid(1), 1, 3)).await {
                Ok(stored) => return stored,
                // It waits for the lock in vain.
                Err(error) => assert_eq!(error.reason(), "Database", "{error}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(NEVER, goes_on).await.expect("the other process goes on"), 3);
    append.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_program_holds_is_waited_for_only_so_long() {
    let store = both().await.remove(1);
    let Location::Postgres(url) = &store.location else { panic!("PostgreSQL comes second") };
    let mut other = sqlx::PgConnection::connect(url).await.unwrap();
    let mut held = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE executions IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let write = async || tokio::time::timeout(NEVER, store.database.upsert(vec![execution(1)])).await.expect("it ends");
    let error = write().await.expect_err("it is locked");
    assert!(error.to_string().contains("lock timeout"), "{error}");
    held.rollback().await.unwrap();
    write().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_end_ends() {
    let store = both().await.remove(1);
    store
        .raw(
            "CREATE FUNCTION sleeps() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_sleep(86400); RETURN NEW; END $$;
            CREATE TRIGGER sleeps BEFORE INSERT ON executions FOR EACH ROW EXECUTE FUNCTION sleeps()",
        )
        .await;
    let write = tokio::time::timeout(NEVER, store.database.upsert(vec![execution(1)])).await.expect("it ends");
    let error = write.expect_err("it takes too long");
    assert!(error.to_string().contains("statement timeout"), "{error}");
}

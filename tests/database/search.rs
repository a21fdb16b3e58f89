//! Executions are found by a text: the newest first, none twice and none missed, however many there are.

use koco::database::{Database, Execution, Fid, Filter, Location};

use super::harness::{CLUSTER, Store, both, execution, fid, locations, open};

/// Of which several are at the same place of SQLite's index.
fn crowded(n: u32) -> Fid {
    let mut bytes = fid(n / 7).0;
    bytes[4..8].copy_from_slice(&(n % 3).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    Fid(bytes)
}

/// An execution that has this text.
fn with_text(n: u32, text: impl Into<String>) -> Execution {
    Execution { search: text.into(), ..execution(n) }
}

fn filter(text: &str, limit: u32) -> Filter {
    Filter { search: Some(text.into()), limit, ..Filter::default() }
}

/// All that a list shows, page by page, and how many pages that took.
async fn all(database: &Database, filter: &Filter) -> (Vec<Fid>, usize) {
    let (mut seen, mut pages, mut before) = (Vec::new(), 0, filter.before);
    loop {
        let page = database.list(&Filter { before, ..filter.clone() }).await.unwrap();
        assert!(page.items.len() <= filter.limit as usize);
        seen.extend(page.items.iter().map(|item| item.fid));
        pages += 1;
        assert!(page.next.is_none() || page.next < before || before.is_none(), "each page goes on");
        before = page.next;
        if before.is_none() {
            return (seen, pages);
        }
    }
}

async fn found(store: &Store, text: &str) -> Vec<Fid> {
    all(&store.database, &filter(text, 100)).await.0
}

#[tokio::test]
async fn a_rare_text_is_found_in_one_page_however_old_it_is() {
    for store in both().await {
        let mut old = with_text(7, "a NEEDLE");
        old.summary.namespace = "b".into();
        store.database.upsert((0..7).chain(8..6000).map(execution).chain([old]).collect()).await.unwrap();
        assert!(store.database.is_indexed(), "{}", store.name());
        let narrow = Filter { namespace: Some("b".into()), since: Some(fid(3).seconds()), ..filter("needle", 10) };
        for filter in [filter("Needle", 10), narrow] {
            assert_eq!(all(&store.database, &filter).await, (vec![fid(7)], 1), "{}", store.name());
        }
        assert_eq!(all(&store.database, &filter("absent", 10)).await, (vec![], 1), "{}", store.name());
    }
}

#[tokio::test]
async fn a_short_text_is_looked_for_in_so_many_for_a_page_and_goes_on_with_the_next() {
    for store in both().await {
        let written = (0..5200).map(|n| if n == 7 { with_text(n, "§") } else { execution(n) });
        store.database.upsert(written.collect()).await.unwrap();
        let first = store.database.list(&filter("§", 10)).await.unwrap();
        assert_eq!((first.items.len(), first.next), (0, Some(fid(200))), "{}", store.name());
        let second = store.database.list(&Filter { before: first.next, ..filter("§", 10) }).await.unwrap();
        assert_eq!((second.items[0].fid, second.next), (fid(7), None), "{}", store.name());
    }
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }
}

const COUNT: u32 = 1500;

/// Executions whose texts have much in common.
fn similar(numbers: &mut Numbers) -> Vec<Execution> {
    let letters: Vec<char> = "aabbc \"%_\\äß\n*-'".chars().collect();
    (0..COUNT)
        .map(|n| {
            let text: String = (0..numbers.below(40)).map(|_| letters[numbers.below(letters.len())]).collect();
            let mut one = with_text(n, text);
            one.summary.fid = crowded(n);
            one.summary.namespace = ["a", "b"][numbers.below(2)].into();
            one
        })
        .collect()
}

/// Compares what is found with what there is, for many texts.
async fn finds_what_there_is(database: &Database, written: &[Execution], numbers: &mut Numbers) {
    for _ in 0..40 {
        let from: Vec<char> = written[numbers.below(written.len())].search.chars().collect();
        let start = numbers.below(from.len() + 1);
        let mut text: String = from[start..].iter().take(1 + numbers.below(6)).collect();
        if numbers.below(8) == 0 {
            text.push('z');
        }
        if text.is_empty() {
            continue;
        }
        let namespace = (numbers.below(2) == 0).then(|| "b".to_string());
        let filter = Filter { namespace: namespace.clone(), ..filter(&text, [9, 60, 500][numbers.below(3)]) };
        let is = |one: &&Execution| {
            one.search.contains(&text) && namespace.as_ref().is_none_or(|n| *n == one.summary.namespace)
        };
        let mut expected: Vec<Fid> = written.iter().filter(is).map(|one| one.summary.fid).collect();
        expected.sort_by(|a, b| b.cmp(a));
        assert_eq!(all(database, &filter).await.0, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_of_a_search_have_each_match_once_the_newest_first() {
    for store in both().await {
        let mut numbers = Numbers(7);
        let written = similar(&mut numbers);
        store.database.upsert(written.clone()).await.unwrap();
        finds_what_there_is(&store.database, &written, &mut numbers).await;
    }
}

#[tokio::test]
async fn what_is_written_later_is_found_as_it_was_written_last() {
    for store in both().await {
        // More than are looked at without the index.
        store.database.upsert((100..700).map(execution).collect()).await.unwrap();
        let mut write = with_text(1, "beginning");
        write.summary.fid = crowded(1);
        let mut beside = with_text(4, "neighbour");
        (beside.summary.fid, beside.summary.uid) = (crowded(4), "uid-b".into());
        store.database.upsert(vec![write.clone(), beside]).await.unwrap();
        assert_eq!(found(&store, "beginning").await, [crowded(1)], "{}", store.name());
        (write.version, write.search) = (11, "the end".into());
        store.database.upsert(vec![write]).await.unwrap();
        assert_eq!(found(&store, "beginning").await, [], "{}", store.name());
        assert_eq!(found(&store, "THE END").await, [crowded(1)]);
        store.database.delete(crowded(1), 5).await.unwrap();
        assert_eq!(found(&store, "the end").await, []);
        assert_eq!(found(&store, "neighbour").await, [crowded(4)], "which is at the same place");
        store.raw("DELETE FROM executions WHERE uid = 'uid-b'").await;
        assert_eq!(found(&store, "neighbour").await, []);
    }
}

/// What a release of the first schema writes.
const WRITE: &str =
    "INSERT INTO executions (fid, cluster, namespace, namespace_uid, name, uid, owner, entry_point, mode,
        phase, attempt, error, created, started, finished, ended, version, size, search, object)
    SELECT fid, cluster, namespace, namespace_uid, name, 'another', owner, entry_point, mode, phase, attempt, error,
        created, started, finished, ended, version, size, search, object FROM executions WHERE uid = 'uid-0'
    ON CONFLICT (fid) DO UPDATE SET version = 20, search = 'of an older release'";

#[tokio::test]
async fn what_an_older_release_writes_is_found_too() {
    for store in both().await {
        store.database.upsert((0..700).map(execution).collect()).await.unwrap();
        // SQLite needs a WHERE before that ON.
        store.raw(WRITE).await;
        assert_eq!(found(&store, "older release").await, [fid(0)], "{}", store.name());
        assert_eq!(found(&store, "number 0\"").await, [], "{}", store.name());
    }
}

/// Puts the schema back to the first one, with what is in it.
const BACK_SQLITE: &str = "DROP TABLE executions_search; DROP TRIGGER executions_search_insert;
    DROP TRIGGER executions_search_update; DROP TRIGGER executions_search_delete; DROP INDEX executions_place;
    ALTER TABLE executions DROP COLUMN place; ALTER TABLE executions DROP COLUMN run;
    ALTER TABLE sources DROP COLUMN ended;
    DROP TABLE runs;
    DROP INDEX executions_uid; DROP INDEX executions_phase; DROP INDEX executions_entry_point;
    DROP INDEX executions_namespace_phase;
    UPDATE koco_schema SET version = 1";
const BACK_POSTGRES: &str = "ALTER TABLE executions DROP COLUMN run; ALTER TABLE sources DROP COLUMN ended;
    DROP TABLE runs; DROP INDEX executions_search;
    DROP INDEX executions_uid; DROP INDEX executions_phase; DROP INDEX executions_entry_point;
    DROP INDEX executions_namespace_phase;
    DROP EXTENSION pg_trgm; UPDATE koco_schema SET version = 1";

#[tokio::test]
async fn what_an_older_schema_holds_is_found_after_the_upgrade() {
    for store in both().await {
        store.database.upsert((0..700).map(execution).collect()).await.unwrap();
        store.database.close().await;
        store.raw(if matches!(store.location, Location::Sqlite(_)) { BACK_SQLITE } else { BACK_POSTGRES }).await;
        let Store { location, database } = store;
        drop(database);
        let database = open(&location, CLUSTER).await;
        assert_eq!(all(&database, &filter("number 3\"", 10)).await, (vec![fid(3)], 1), "{location:?}");
    }
}

/// An account that may make no extension finds the same, only more slowly; the index is made once there is the extension.
#[tokio::test]
async fn without_the_extension_of_postgresql_a_search_finds_the_same() {
    let Some(Location::Postgres(url)) = locations().await.pop() else { panic!("PostgreSQL") };
    let admin = sqlx::PgPool::connect(&url).await.unwrap();
    let role = format!("plain_{}", std::process::id());
    for text in [format!("CREATE ROLE {role} LOGIN"), format!("GRANT ALL ON SCHEMA public TO {role}")] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&admin).await.unwrap();
    }
    let location = Location::Postgres(url.replace("postgres@", &format!("{role}@")));
    let database = Database::open(&location, CLUSTER).await.unwrap();
    assert!(!database.is_indexed());
    let mut numbers = Numbers(11);
    let written = similar(&mut numbers);
    database.upsert(written.clone()).await.unwrap();
    finds_what_there_is(&database, &written, &mut numbers).await;
    sqlx::raw_sql("CREATE EXTENSION pg_trgm").execute(&admin).await.unwrap();
    let database = Database::open(&location, CLUSTER).await.unwrap();
    assert!(database.is_indexed());
    finds_what_there_is(&database, &written, &mut numbers).await;
}

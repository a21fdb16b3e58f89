//! A database is opened: by one process at a time or by many, in an older or a newer schema.

use koco::database::{Database, Location};

use super::harness::{CLUSTER, Store, both, execution, fid, locations, open};

#[tokio::test(flavor = "multi_thread")]
async fn many_may_open_a_new_postgresql_at_once_and_one_sqlite() {
    for location in locations().await {
        let opening: Vec<_> = (0..4)
            .map(|_| {
                let location = location.clone();
                tokio::spawn(async move { Database::open(&location, CLUSTER).await })
            })
            .collect();
        let mut opened = Vec::new();
        for one in opening {
            opened.push(one.await.unwrap());
        }
        let refused: Vec<_> = opened.iter().filter_map(|o| o.as_ref().err()).map(|e| e.reason()).collect();
        match location {
            Location::Sqlite(_) => assert_eq!(refused, ["Locked"; 3]),
            Location::Postgres(_) => assert!(refused.is_empty(), "{refused:?}"),
        }
    }
}

#[tokio::test]
async fn a_folder_is_free_once_it_is_closed() {
    let Store { location, database } = both().await.remove(0);
    database.upsert(vec![execution(1)]).await.unwrap();
    assert_eq!(Database::open(&location, CLUSTER).await.err().map(|e| e.reason()), Some("Locked"));
    database.close().await;
    drop(database);
    // The task that appends ends a little later.
    let again = open(&location, CLUSTER).await;
    assert!(again.get(fid(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_postgresql_that_is_too_old_is_not_touched() {
    let Location::Postgres(url) = locations().await.remove(1) else { panic!("PostgreSQL comes second") };
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    // As one says it that can't be had any more.
    let old = "CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT '140018' $$;
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$";
    sqlx::raw_sql(old).execute(&pool).await.unwrap();
    let refused = Database::open(&Location::Postgres(url), CLUSTER).await.map(drop).unwrap_err();
    assert_eq!(refused.to_string(), "the server is PostgreSQL 14; koco needs 15 or later");
    assert_eq!(refused.reason(), "TooOld");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&pool).await.unwrap(), 0);
}

#[tokio::test]
async fn a_newer_schema_is_not_touched() {
    for store in both().await {
        store.raw("UPDATE koco_schema SET version = 7, oldest = 7; DROP INDEX executions_live").await;
        let Store { location, database } = store;
        database.close().await;
        drop(database);
        let refused = loop {
            match Database::open(&location, CLUSTER).await.map(drop).unwrap_err() {
                error if error.reason() == "Locked" => tokio::task::yield_now().await,
                error => break error,
            }
        };
        assert_eq!(refused.reason(), "SchemaNewer", "{refused}");
        // Nobody has put it back, nor written the version.
        let store = Store { location: location.clone(), database: older(&location).await };
        store.raw("CREATE INDEX executions_live ON executions (fid)").await;
    }
}

/// Opens it as the release before would that still works with the schema.
async fn older(location: &Location) -> Database {
    let text = "UPDATE koco_schema SET oldest = 1 WHERE version = 7 AND oldest = 7";
    let changed = match location {
        Location::Sqlite(folder) => {
            let url = format!("sqlite://{}", folder.join("koco.db").display());
            let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
            let changed = sqlx::query(text).execute(&pool).await.unwrap().rows_affected();
            pool.close().await;
            changed
        }
        Location::Postgres(url) => {
            let pool = sqlx::PgPool::connect(url).await.unwrap();
            sqlx::query(text).execute(&pool).await.unwrap().rows_affected()
        }
    };
    assert_eq!(changed, 1);
    open(location, CLUSTER).await
}

#[tokio::test]
async fn a_password_is_not_shown() {
    let location = Location::Postgres("postgres://u:hidden@127.0.0.1:1/x?nonsense=%zz".into());
    assert!(!format!("{location:?}").contains("hidden"));
    let error = Database::open(&Location::Postgres("postgres//hidden".into()), CLUSTER).await.err().unwrap();
    assert!(!error.to_string().contains("hidden") && error.reason() == "Url", "{error}");
}

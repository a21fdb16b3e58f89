//! A process that is killed while it appends: what it was told is stored is stored, once.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use koco::database::{AppendError, Database, Location};

use super::harness::{CLUSTER, Store, batch, execution, fid, locations, open};

const CHILD: &str = "KOCO_TEST_CHILD";

/// Appends until it is killed, and says what was acknowledged. Started by the test below, with the database's place.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn child() {
    let Ok(place) = std::env::var(CHILD) else { return };
    let location = if place.contains("://") { Location::Postgres(place) } else { Location::Sqlite(place.into()) };
    let database = Database::open(&location, CLUSTER).await.unwrap();
    database.upsert((1..=3).map(execution).collect()).await.unwrap();
    let mut writers = Vec::new();
    for n in 1..=3 {
        let database = database.clone();
        writers.push(tokio::spawn(async move {
            let mut next = 1;
            loop {
                next = match database.append(batch(fid(n), next, next + 50)).await {
                    Ok(stored) => {
                        println!("\n{n} has {stored}");
                        stored + 1
                    }
                    Err(AppendError::Gap { stored }) => stored + 1,
                    Err(error) => panic!("{error}"),
                };
            }
        }));
    }
    // Only one that fails ends.
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_and_is_there_once() {
    for location in locations().await {
        let place = match &location {
            Location::Sqlite(folder) => folder.display().to_string(),
            Location::Postgres(url) => url.clone(),
        };
        let mut acknowledged = [0; 4];
        // Each child goes on where the last was killed.
        for lines in [20, 3, 50] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "crash::child", "--ignored", "--nocapture"])
                .env(CHILD, &place)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut told = 0;
            for line in BufReader::new(child.stdout.take().unwrap()).lines() {
                let line = line.unwrap();
                if let Some((n, stored)) = line.split_once(" has ") {
                    acknowledged[n.parse::<usize>().unwrap()] = stored.parse::<usize>().unwrap();
                    told += 1;
                }
                if told == lines {
                    // SIGKILL; what it still writes is read to the end.
                    child.kill().unwrap();
                }
            }
            child.wait().unwrap();
            assert!(told >= lines, "the child said {told} lines");
        }
        let database = open(&location, CLUSTER).await;
        let store = Store { location, database };
        for n in 1..=3 {
            let all = store.all_events(fid(n)).await;
            assert!(all.len() >= acknowledged[n as usize], "{}: {} of {acknowledged:?}", store.name(), all.len());
            assert!(all.iter().zip(1..).all(|(e, n)| (e.row, e.seq) == (n, n)), "{}", store.name());
            assert!(all.iter().all(|e| e.event.payload == e.seq.to_string()), "{}", store.name());
        }
    }
}

//! What readers see and cost.

use std::time::{Duration, Instant};

use super::Source;
use crate::{
    harness::{
        Roles, Test,
        archive::{Frames, Reader, account, owner, token},
        within,
    },
    usage::memory,
};

/// How long a runner waits for further events before it sends a batch.
const WAIT: Duration = Duration::from_millis(100);
/// How many streams a user may have.
const STREAMS_OF_A_USER: usize = 32;
/// How many streams come from one address.
const STREAMS_OF_AN_ADDRESS: usize = 128;

/// The milliseconds from each event to its frame at a reader: a thousand a second, in a batch each 100 ms.
pub async fn latency(test: &Test, reader: &Reader, source: &mut Source, seconds: u64) -> Vec<f64> {
    let token = owner(test).await;
    let after = (source.stored).to_string();
    let mut frames = Frames::of(reader, &source.fid, &token, Some(&after)).await;
    let each = WAIT.as_millis() as u64;
    let (batches, began) = (seconds * 1000 / each, Instant::now());
    let total = (batches * each) as usize;
    let read = async {
        let mut times = Vec::with_capacity(total);
        while times.len() < total {
            let (_, _, data) = frames.next().await.expect("an event");
            let sent: f64 = data["payload"].as_str().and_then(|text| text.parse().ok()).expect("a time");
            times.push(began.elapsed().as_secs_f64() * 1000.0 - sent);
        }
        times
    };
    let send = async {
        for batch in 0..batches {
            // An event each millisecond; the batch goes when its first has waited for long enough.
            let lines: Vec<String> = (0..each).map(|n| (batch * each + n).to_string()).collect();
            tokio::time::sleep_until((began + WAIT * (batch as u32 + 1)).into()).await;
            let from = source.stored + 1;
            while source.stored < from + each - 1 {
                match source.runner.tell(from, from, &lines).await {
                    Ok((200, stored)) => source.stored = stored,
                    _ => tokio::time::sleep(WAIT).await,
                }
            }
        }
    };
    tokio::join!(read, send).0
}

/// The memory that so many streams take of the server, in MB, of users and addresses of their own.
pub async fn idle(test: &Test, roles: &Roles, fid: &str, streams: usize) -> f64 {
    let server = roles.list.iter().find(|role| role.name == "server").expect("a server").process.pid();
    let users = streams.div_ceil(STREAMS_OF_A_USER);
    let mut tokens = Vec::new();
    for n in 0..users {
        let name = format!("reader-{n}");
        account(test, &test.namespace, &name, &["get"], &[]).await;
        tokens.push(token(test, &name).await);
    }
    let addresses = streams.div_ceil(STREAMS_OF_AN_ADDRESS);
    let mut readers = Vec::new();
    for n in 0..addresses {
        let from = format!("127.0.1.{}", n + 1).parse().expect("an address");
        readers.push(Reader::from_address(test, roles, Some(from)).await);
    }
    let last = i64::MAX.to_string();
    let before = memory(server).expect("its memory");
    let mut open = Vec::new();
    for n in 0..streams {
        let (reader, token) = (&readers[n / STREAMS_OF_AN_ADDRESS], &tokens[n / STREAMS_OF_A_USER]);
        let stream = within(Duration::from_secs(60), "a stream", async || {
            match reader.try_stream(fid, token, Some(&last)).await {
                Ok(response) if response.status() == 200 => Ok(response),
                other => Err(other.map(|response| response.status())),
            }
        });
        open.push(stream.await);
    }
    // Each has been asked once more whether its user may read.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = memory(server).expect("its memory");
    drop(open);
    (after - before) * 1.048_576
}

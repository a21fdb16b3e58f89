//! Waiting for conditions.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// Generous: it is only ever used up by a test that fails.
pub const DEADLINE: Duration = Duration::from_secs(180);
/// The first wait between two looks, and the longest.
const EVERY: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(250)];
/// Between two looks at what must not happen.
const AGAIN: Duration = Duration::from_millis(75);

/// Polls until `look` returns `Ok`, and panics with `what` and its last `Err` if that takes longer than `limit`.
pub async fn within<T, E: Debug>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let (began, [mut every, longest]) = (Instant::now(), EVERY);
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(last) if began.elapsed() > limit => panic!("waited {limit:?} for {what}. Last seen: {last:?}"),
            Err(_) => tokio::time::sleep(every).await,
        }
        every = longest.min(every * 4 / 3);
    }
}

/// Polls for `how_long`, and panics if `look` returns an `Err`: for what must not happen.
pub async fn always<E: Debug>(how_long: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<(), E>) {
    let began = Instant::now();
    while began.elapsed() < how_long {
        if let Err(seen) = look().await {
            panic!("{what}: not any more after {:?}: {seen:?}", began.elapsed());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

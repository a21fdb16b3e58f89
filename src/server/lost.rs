//! Has it marked in an execution's events where a run has ended of which some have not come. Started by [`super::run`].

use std::{sync::Arc, time::Duration};

use super::Server;
use crate::{database::DatabaseError, platform::clock};

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(5);
/// How long after a run's end its last events are waited for, in milliseconds: its runner gives up after a minute, and a
/// request may take some seconds.
const PATIENCE: i64 = 75_000;

/// Looks for lost events until the server stops.
pub async fn mark(server: Arc<Server>) {
    loop {
        match server.database.mark_lost(clock::now().as_millisecond(), PATIENCE).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(DatabaseError::Closed) => return,
            Err(error) => tracing::debug!(%error, reason = error.reason(), "marking lost events"),
        }
        tokio::select! { () = server.stop.cancelled() => return, () = tokio::time::sleep(EVERY) => {} }
    }
}

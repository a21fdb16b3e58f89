//! Has it marked in an execution's events where those of a run end that has lost its last ones. Started by [`super::run`].

use std::{sync::Arc, time::Duration};

use super::Server;
use crate::{database::DatabaseError, platform::clock};

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(5);
/// How long after a run's end its last events may come, in milliseconds: its runner gives up after a minute.
const PATIENCE: i64 = 62_000;

/// Looks for lost events until the server stops.
pub async fn mark(server: Arc<Server>) {
    loop {
        match server.database.mark_lost(clock::now().as_millisecond(), PATIENCE).await {
            Ok(()) => {}
            Err(DatabaseError::Closed) => return,
            Err(error) => tracing::warn!(%error, reason = error.reason(), "marking lost events"),
        }
        tokio::select! { () = server.stop.cancelled() => return, () = tokio::time::sleep(EVERY) => {} }
    }
}

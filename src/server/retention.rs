//! Removes what is older than it may be, and the oldest if all is larger than it may be. Started by [`super::run`].

use std::{sync::Arc, time::Duration};

use super::{Server, Settings};
use crate::{
    database::{DatabaseError, Expired, Retention, Volume},
    platform::clock,
};

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(600);
/// How often at the most, while the database is full.
const FULL: Duration = Duration::from_secs(10);

/// Removes what is old until the server stops.
pub async fn keep(server: Arc<Server>, settings: Settings) {
    let stop = server.stop.clone();
    loop {
        let outcome = match once(&server, &settings).await {
            Ok(()) => "Done",
            Err(DatabaseError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, reason = error.reason(), "removing what is old");
                error.reason()
            }
        };
        server.metrics.retentions.of([outcome]).inc();
        let next = async {
            tokio::time::sleep(FULL).await;
            tokio::select! { () = server.full.notified() => {} () = tokio::time::sleep(EVERY) => {} }
        };
        tokio::select! { () = stop.cancelled() => return, () = next => {} }
    }
}

async fn once(server: &Server, settings: &Settings) -> Result<(), DatabaseError> {
    let (database, metrics, now) = (&server.database, &server.metrics, clock::now().as_millisecond());
    let by_age = settings.retention();
    removed(server, "Age", database.expire(&by_age, now).await?);
    let (volume, bytes) = (database.volume().await?, database.bytes().await?);
    if let Some(most) = max_bytes(settings.retain_bytes, volume, bytes) {
        let by_size = Retention { max_bytes: Some(most), ..Retention::default() };
        removed(server, "Size", database.expire(&by_size, now).await?);
    }
    metrics.bytes.of([]).set(database.bytes().await?);
    if let Some(most) = settings.retain_bytes.filter(|most| *most > 0) {
        metrics.max_bytes.of([]).set(i64::try_from(most).unwrap_or(i64::MAX));
    }
    if let Some(Volume { most, used }) = database.volume().await? {
        metrics.free.of([]).set(i64::try_from(most.saturating_sub(used)).unwrap_or(i64::MAX));
    }
    Ok(())
}

fn removed(server: &Server, why: &'static str, expired: Expired) {
    if expired != Expired::default() {
        tracing::info!(?expired, why, "what was old was removed");
    }
    let removed = &server.metrics.removed;
    removed.of(["events", why]).inc_by(expired.events);
    removed.of(["executions", why]).inc_by(expired.executions);
}

/// How many bytes may stay, as retention counts them, of so many. By default a part of what SQLite may take of its volume:
/// so there is room for what comes until the next time.
fn max_bytes(set: Option<u64>, volume: Option<Volume>, bytes: i64) -> Option<i64> {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    match (set, volume) {
        (Some(0), _) | (None, None) => None,
        (Some(most), _) => Some(number(most)),
        (None, Some(Volume { most, used })) => {
            let may = most / 10 * 8;
            // What rows take on the disk is more than their bytes: both shrink alike.
            (used > may).then(|| number((u128::from(bytes.unsigned_abs()) * u128::from(may) / u128::from(used)) as u64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_a_part_of_the_volume_stays() {
        let volume = |used| Some(Volume { most: 1000, used });
        assert_eq!(max_bytes(None, volume(800), 500), None);
        assert_eq!(max_bytes(None, volume(1000), 500), Some(400));
        assert_eq!(max_bytes(None, None, 500), None);
        assert_eq!(max_bytes(Some(0), volume(1000), 500), None);
        assert_eq!(max_bytes(Some(7), volume(1000), 500), Some(7));
    }
}

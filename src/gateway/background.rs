//! Background tasks: counted, so that a gateway can let them finish when it shuts down. Used by
//! [`super::requests`] and [`super::temporal_bridge`].

use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The running tasks.
#[derive(Clone, Default)]
pub struct Background(TaskTracker);

impl Background {
    /// Starts one. What it logs has the fields of what started it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(work.in_current_span());
    }

    /// Waits until all have ended, for `limit` at the most. Returns how many have not.
    pub async fn finish(&self, limit: Duration) -> usize {
        self.0.close();
        let _ = tokio::time::timeout(limit, self.0.wait()).await;
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_tasks_but_not_for_ever() {
        let background = Background::default();
        background.spawn(async { tokio::time::sleep(Duration::from_millis(200)).await });
        assert_eq!(background.finish(Duration::from_millis(20)).await, 1);
        assert_eq!(background.finish(Duration::from_secs(5)).await, 0);
    }
}

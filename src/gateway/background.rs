//! Background tasks: counted, so that a gateway can let them finish when it shuts down. Used by
//! [`super::requests`] and [`super::temporal_bridge`].

use std::time::Duration;

use tokio::sync::watch;
use tracing::Instrument;

/// The running tasks.
#[derive(Clone)]
pub struct Background {
    count: watch::Sender<usize>,
}

/// One task; dropped when it ends, also by a panic.
struct Task(watch::Sender<usize>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Background {
    /// None yet.
    pub fn new() -> Self {
        Self { count: watch::Sender::new(0) }
    }

    /// Starts one. What it logs has the fields of what started it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.count.send_modify(|n| *n += 1);
        let task = Task(self.count.clone());
        tokio::spawn(
            async move {
                let _task = task;
                work.await;
            }
            .in_current_span(),
        );
    }

    /// Waits until all have ended, for `limit` at the most. Returns how many have not.
    pub async fn finish(&self, limit: Duration) -> usize {
        let mut count = self.count.subscribe();
        let _ = tokio::time::timeout(limit, count.wait_for(|n| *n == 0)).await;
        *self.count.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_tasks_but_not_for_ever() {
        let background = Background::new();
        background.spawn(async { tokio::time::sleep(Duration::from_millis(200)).await });
        assert_eq!(background.finish(Duration::from_millis(20)).await, 1);
        assert_eq!(background.finish(Duration::from_secs(5)).await, 0);
    }
}

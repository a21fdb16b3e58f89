//! How often something may be done. Pure: time is an argument. Used by [`super`].

use std::time::{Duration, Instant};

/// A token bucket: a burst, and a rate a second.
#[derive(Debug)]
pub struct TokenBucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full one.
    pub fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        Self { burst: f64::from(burst), per_second, tokens: f64::from(burst), filled: now }
    }

    /// Takes a token, or returns the time until there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((1.0 - self.tokens) / self.per_second).max(0.001)))
    }

    /// Whether it is full again, so that it can be dropped.
    pub fn is_full(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens + passed * self.per_second >= self.burst
    }
}

/// Whether something is due that may be done once in `every`; records it if so.
pub fn due(last: &mut Option<Instant>, every: Duration, now: Instant) -> bool {
    let due = last.is_none_or(|at| now.saturating_duration_since(at) >= every);
    if due {
        *last = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_a_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(5, 1.0, start);
        for _ in 0..5 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let wait = bucket.take(start).unwrap_err();
        assert!(wait > Duration::from_millis(990) && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(!bucket.is_full(start + Duration::from_secs(4)));
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Ok(()));
        assert!(bucket.take(start + Duration::from_secs(1)).is_err());
        assert!(bucket.is_full(start + Duration::from_secs(6)));
        let later = start + Duration::from_secs(100);
        assert_eq!((0..9).filter(|_| bucket.take(later).is_ok()).count(), 5, "no more than the burst");
    }

    #[test]
    fn something_is_due_once_in_its_time() {
        let (start, every) = (Instant::now(), Duration::from_secs(2));
        let mut last = None;
        assert!(due(&mut last, every, start));
        assert!(!due(&mut last, every, start + Duration::from_secs(1)));
        assert!(due(&mut last, every, start + Duration::from_secs(2)));
    }
}

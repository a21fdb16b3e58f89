//! How often something may be done, and how much of it at a time. Time is an argument.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

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

/// Token buckets, one for each key. Those that are full again are forgotten.
pub struct Buckets<K> {
    burst: u32,
    per_second: f64,
    all: Mutex<HashMap<K, TokenBucket>>,
}

/// How many buckets are kept before full ones are looked for.
const BUCKETS: usize = 4096;

impl<K: Eq + Hash> Buckets<K> {
    /// With this burst and rate for each key.
    pub fn new(burst: u32, per_second: f64) -> Self {
        Self { burst, per_second, all: Mutex::default() }
    }

    /// Takes a token of this key, or returns the time until there is one.
    pub fn take(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut all = self.all.lock();
        if all.len() >= BUCKETS {
            all.retain(|_, bucket| !bucket.is_full(now));
        }
        all.entry(key).or_insert_with(|| TokenBucket::new(self.burst, self.per_second, now)).take(now)
    }
}

/// A number of places, of which one key may hold only so many.
pub struct Shares<K> {
    total: usize,
    each: usize,
    held: Mutex<(usize, HashMap<K, usize>)>,
}

/// A place of [`Shares`]; dropping it gives it back.
pub struct Place<K: Eq + Hash> {
    of: Arc<Shares<K>>,
    key: Option<K>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// With `total` places, `each` for one key.
    pub fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { total, each, held: Mutex::default() })
    }

    /// A place, if there is one for this key.
    pub fn enter(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        let mut held = self.held.lock();
        let ours = held.1.get(&key).copied().unwrap_or_default();
        if held.0 >= self.total || ours >= self.each {
            return None;
        }
        held.0 += 1;
        held.1.insert(key.clone(), ours + 1);
        Some(Place { of: self.clone(), key: Some(key) })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut held = self.of.held.lock();
        held.0 -= 1;
        if let std::collections::hash_map::Entry::Occupied(mut ours) = held.1.entry(key) {
            *ours.get_mut() -= 1;
            if *ours.get() == 0 {
                ours.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_a_share() {
        let shares = Shares::new(3, 2);
        let (a, b) = (shares.enter("a").unwrap(), shares.enter("a").unwrap());
        assert!(shares.enter("a").is_none());
        let c = shares.enter("b").unwrap();
        assert!(shares.enter("c").is_none(), "all are taken");
        drop(a);
        assert!(shares.enter("a").is_some());
        drop((b, c));
        assert_eq!(*shares.held.lock(), (0, HashMap::new()));
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own_and_full_ones_are_forgotten() {
        let (buckets, now) = (Buckets::new(1, 1.0), Instant::now());
        assert!(buckets.take(0, now).is_ok() && buckets.take(0, now).is_err() && buckets.take(1, now).is_ok());
        for key in 2..BUCKETS {
            assert!(buckets.take(key, now).is_ok());
        }
        assert!(buckets.take(BUCKETS, now + Duration::from_secs(1)).is_ok());
        assert_eq!(buckets.all.lock().len(), 1);
    }

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

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
        self.take_many(1.0, now)
    }

    /// Takes so many tokens, of more than the burst all, or returns the time until there are as many.
    pub fn take_many(&mut self, amount: f64, now: Instant) -> Result<(), Duration> {
        let amount = amount.min(self.burst);
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.filled = now;
        if self.tokens >= amount {
            self.tokens -= amount;
            return Ok(());
        }
        Err(Duration::from_secs_f64(((amount - self.tokens) / self.per_second).max(0.001)))
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
        self.take_many(key, 1.0, now)
    }

    /// The same with so many tokens.
    pub fn take_many(&self, key: K, amount: f64, now: Instant) -> Result<(), Duration> {
        let mut all = self.all.lock();
        if all.len() >= BUCKETS {
            all.retain(|_, bucket| !bucket.is_full(now));
        }
        all.entry(key).or_insert_with(|| TokenBucket::new(self.burst, self.per_second, now)).take_many(amount, now)
    }
}

/// A number of places, or of bytes, of which one key may hold only so many.
pub struct Shares<K> {
    total: usize,
    each: usize,
    held: Mutex<(usize, HashMap<K, usize>)>,
}

/// A place of [`Shares`], or several; dropping it gives it back.
pub struct Place<K: Eq + Hash> {
    of: Arc<Shares<K>>,
    key: K,
    size: usize,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// With `total` places, `each` for one key.
    pub fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { total, each, held: Mutex::default() })
    }

    /// A place, if there is one for this key.
    pub fn enter(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        self.enter_with(key, 1)
    }

    /// So many places, if there are as many for this key.
    pub fn enter_with(self: &Arc<Self>, key: K, size: usize) -> Option<Place<K>> {
        self.take(&key, size).then(|| Place { of: self.clone(), key, size })
    }

    fn take(&self, key: &K, size: usize) -> bool {
        let mut held = self.held.lock();
        let ours = held.1.get(key).copied().unwrap_or_default();
        if size > self.total.saturating_sub(held.0) || size > self.each.saturating_sub(ours) {
            return false;
        }
        held.0 += size;
        held.1.insert(key.clone(), ours + size);
        true
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.lock().0
    }
}

impl<K: Eq + Hash + Clone> Place<K> {
    /// Takes so many more, if there are as many for its key.
    pub fn grow(&mut self, more: usize) -> bool {
        let taken = self.of.take(&self.key, more);
        self.size += if taken { more } else { 0 };
        taken
    }
}

impl<K: Eq + Hash> Place<K> {
    /// Keeps only so many.
    pub fn shrink(&mut self, size: usize) {
        let back = self.size.saturating_sub(size);
        self.size -= back;
        let mut held = self.of.held.lock();
        held.0 -= back;
        if let Some(ours) = held.1.get_mut(&self.key) {
            *ours -= back;
            if *ours == 0 {
                held.1.remove(&self.key);
            }
        }
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.shrink(0);
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
    fn places_may_be_of_any_size() {
        let shares = Shares::new(10, 8);
        let a = shares.enter_with("a", 8).unwrap();
        assert!(shares.enter("a").is_none() && shares.enter_with("b", 3).is_none());
        let b = shares.enter_with("b", 2).unwrap();
        let mut c = shares.enter("b");
        assert!(c.is_none());
        drop(a);
        c = shares.enter_with("c", 8);
        c.as_mut().unwrap().shrink(1);
        c.as_mut().unwrap().shrink(3);
        assert_eq!(*shares.held.lock(), (3, HashMap::from([("b", 2), ("c", 1)])));
        drop(c);
        assert!(shares.enter_with("b", 7).is_none() && shares.enter_with("b", 6).is_some());
        assert!(shares.enter_with("c", usize::MAX).is_none());
        drop(b);
        assert_eq!(*shares.held.lock(), (0, HashMap::new()));
    }

    #[test]
    fn a_place_grows_as_far_as_there_is_room() {
        let shares = Shares::new(10, 6);
        let (mut a, mut b) = (shares.enter_with("a", 0).unwrap(), shares.enter_with("b", 0).unwrap());
        assert!(a.grow(4) && !a.grow(3) && a.grow(2) && !b.grow(5) && b.grow(4));
        assert_eq!(shares.held(), 10);
        drop(a);
        assert!(b.grow(2) && !b.grow(1));
        drop(b);
        assert_eq!(*shares.held.lock(), (0, HashMap::new()));
    }

    #[test]
    fn more_than_the_burst_costs_the_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 2.0, start);
        assert_eq!((bucket.take_many(4.0, start), bucket.take_many(6.0, start)), (Ok(()), Ok(())));
        assert!(bucket.take_many(50.0, start + Duration::from_secs(4)).is_err());
        assert_eq!(bucket.take_many(50.0, start + Duration::from_secs(5)), Ok(()));
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

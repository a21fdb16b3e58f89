//! Answers that are true for a while. Used where the API server is asked who sends a request and what they may do.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// A bounded number of answers, each until its time is over.
pub struct Recent<Q, A> {
    capacity: usize,
    known: Mutex<HashMap<Q, (A, Instant)>>,
}

impl<Q: Hash + Eq, A: Clone> Recent<Q, A> {
    /// At most so many.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, known: Mutex::default() }
    }

    /// The answer to a question, if it is still true.
    pub fn get(&self, question: &Q) -> Option<A> {
        let known = self.known.lock();
        known.get(question).filter(|(_, until)| Instant::now() < *until).map(|(answer, _)| answer.clone())
    }

    /// Remembers an answer. If there are too many, those that are no longer true are dropped, or else all.
    pub fn insert(&self, question: Q, answer: A, lasts: Duration) {
        let (mut known, now) = (self.known.lock(), Instant::now());
        if known.len() >= self.capacity {
            known.retain(|_, (_, until)| now < *until);
            if known.len() >= self.capacity {
                known.clear();
            }
        }
        known.insert(question, (answer, now + lasts));
    }
}

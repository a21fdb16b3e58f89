//! Answers that are true for a while. Used where the API server is asked who sends a request and what they may do.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use parking_lot::Mutex;

/// A question that is being asked: the answer and how long it is true, or none.
type Asked<A> = WeakShared<BoxFuture<'static, Option<(A, Duration)>>>;

/// A bounded number of answers, each until its time is over.
pub struct Recent<Q, A> {
    capacity: usize,
    known: Mutex<HashMap<Q, (A, Instant)>>,
    asked: Mutex<HashMap<Q, Asked<A>>>,
}

impl<Q: Hash + Eq, A: Clone> Recent<Q, A> {
    /// At most so many.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, known: Mutex::default(), asked: Mutex::default() }
    }

    /// The answer to a question, which is asked if it is not known: by one caller at a time, for whose answer the others
    /// wait. `ask` says how long it is true; `None`, there is no answer, is not remembered.
    pub async fn ask<F>(&self, question: Q, ask: impl FnOnce() -> F) -> Option<A>
    where
        Q: Clone,
        F: Future<Output = Option<(A, Duration)>> + Send + 'static,
    {
        let asking = {
            let mut asked = self.asked.lock();
            // Here, for an answer is known before it is no longer being asked for.
            if let Some(answer) = self.get(&question) {
                return Some(answer);
            }
            match asked.get(&question).and_then(WeakShared::upgrade) {
                Some(asking) => asking,
                None => {
                    let asking = ask().boxed().shared();
                    asked.retain(|_, asking| asking.upgrade().is_some());
                    asked.extend(asking.downgrade().map(|asking| (question.clone(), asking)));
                    asking
                }
            }
        };
        let answer = asking.clone().await;
        if let Some((answer, lasts)) = &answer {
            self.insert(question, answer.clone(), *lasts);
        }
        answer.map(|(answer, _)| answer)
    }

    /// Whether somebody waits for the answer to a question.
    pub fn is_asked(&self, question: &Q) -> bool {
        self.asked.lock().get(question).and_then(WeakShared::upgrade).is_some()
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    /// Asks once it may, and counts it.
    fn asks(
        count: &Arc<AtomicUsize>,
        may: &Arc<Notify>,
        answer: Option<(u8, Duration)>,
    ) -> impl Future<Output = Option<(u8, Duration)>> + Send + 'static {
        let (count, may) = (count.clone(), may.clone());
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            may.notified().await;
            answer
        }
    }

    #[tokio::test]
    async fn many_who_want_the_same_answer_ask_once() {
        let (recent, count, may) = (Recent::new(9), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let hour = Some((7, Duration::from_secs(3600)));
        let all = futures::future::join_all((0..50).map(|_| recent.ask("q", || asks(&count, &may, hour))));
        let allow = async {
            tokio::task::yield_now().await;
            assert!(recent.is_asked(&"q") && !recent.is_asked(&"r"));
            may.notify_waiters();
        };
        let (answers, ()) = tokio::join!(all, allow);
        assert_eq!((answers, count.load(Ordering::Relaxed)), (vec![Some(7); 50], 1));
        assert_eq!(recent.ask("q", || asks(&count, &may, None)).await, Some(7), "it is known now");
        assert!(!recent.is_asked(&"q"));
    }

    #[tokio::test]
    async fn no_answer_is_shared_and_not_remembered_and_one_who_leaves_holds_up_no_other() {
        let (recent, count, may) = (Recent::new(9), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let first = recent.ask("q", || asks(&count, &may, None));
        let second = recent.ask("q", || asks(&count, &may, None));
        let mut first = Box::pin(first);
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        may.notify_waiters();
        assert_eq!((second.await, count.load(Ordering::Relaxed)), (None, 1));
        may.notify_one();
        assert_eq!(recent.ask("q", || asks(&count, &may, Some((1, Duration::ZERO)))).await, Some(1));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}

//! Bounds how many objects are reconciled at a time, fairly by namespace: a namespace with thousands of objects that
//! wait delays one object of another by no more than a turn. Used by the control loops, which take every object up at
//! once and let it wait here.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The turns of all namespaces. Cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Mutex<State>>);

/// A turn, until it is dropped.
pub struct Turn {
    turns: Turns,
    namespace: String,
}

struct State {
    free: usize,
    closed: bool,
    /// Only those with objects that wait or have a turn.
    namespaces: HashMap<String, Namespace>,
    /// Counts the turns that were given, and the namespaces that came.
    count: u64,
}

#[derive(Default)]
struct Namespace {
    running: usize,
    /// When it was given its last turn, if any yet, and when it came, as [`State::count`] counts.
    last: u64,
    came: u64,
    urgent: VecDeque<oneshot::Sender<Turn>>,
    others: VecDeque<oneshot::Sender<Turn>>,
}

impl Namespace {
    fn waits(&self) -> bool {
        !self.urgent.is_empty() || !self.others.is_empty()
    }
}

impl State {
    /// Takes the next to have a turn: of the namespace with the fewest, of those the one that has had none for longest;
    /// in it urgent ones come first, and the others in their order.
    fn next(&mut self) -> Option<(String, oneshot::Sender<Turn>)> {
        if self.free == 0 {
            return None;
        }
        let waiting = self.namespaces.iter_mut().filter(|(_, n)| n.waits());
        let (name, namespace) = waiting.min_by_key(|(_, n)| (n.running, n.last, n.came))?;
        let waiter = namespace.urgent.pop_front().or_else(|| namespace.others.pop_front())?;
        self.count += 1;
        (namespace.running, namespace.last) = (namespace.running + 1, self.count);
        self.free -= 1;
        Some((name.clone(), waiter))
    }

    fn queue(&mut self, name: &str, urgent: bool) -> &mut VecDeque<oneshot::Sender<Turn>> {
        self.count += 1;
        let new = || Namespace { came: self.count, ..Namespace::default() };
        let namespace = self.namespaces.entry(name.to_string()).or_insert_with(new);
        if urgent { &mut namespace.urgent } else { &mut namespace.others }
    }

    fn give_back(&mut self, name: &str) {
        self.free += 1;
        if let Some(namespace) = self.namespaces.get_mut(name) {
            namespace.running -= 1;
            if namespace.running == 0 && !namespace.waits() {
                self.namespaces.remove(name);
            }
        }
    }
}

impl Turns {
    /// So many at a time, at least one.
    pub fn new(at_a_time: usize) -> Self {
        let free = at_a_time.max(1);
        Self(Arc::new(Mutex::new(State { free, closed: false, namespaces: HashMap::new(), count: 0 })))
    }

    /// Waits for a turn; `None` once the turns have ended.
    pub async fn wait(&self, namespace: &str, urgent: bool) -> Option<Turn> {
        let (give, given) = oneshot::channel();
        {
            let mut state = self.0.lock();
            if state.closed {
                return None;
            }
            state.queue(namespace, urgent).push_back(give);
        }
        self.give();
        given.await.ok()
    }

    /// Ends all waiting. Those that have a turn keep it.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        for namespace in state.namespaces.values_mut() {
            namespace.urgent.clear();
            namespace.others.clear();
        }
    }

    /// Gives as many turns as are free. Who no longer waits gives it back, which does this again: the lock is free then.
    fn give(&self) {
        loop {
            let Some((namespace, waiter)) = self.0.lock().next() else { return };
            drop(waiter.send(Turn { turns: self.clone(), namespace }));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.0.lock().give_back(&self.namespace);
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::BoxFuture};

    use super::*;

    type Waiting = BoxFuture<'static, Option<Turn>>;

    /// Waits, and has been asked for once.
    fn wait(turns: &Turns, namespace: &'static str, urgent: bool) -> Waiting {
        let turns = turns.clone();
        let mut waiting = async move { turns.wait(namespace, urgent).await }.boxed();
        if let Some(turn) = (&mut waiting).now_or_never() { std::future::ready(turn).boxed() } else { waiting }
    }

    fn has(waiting: &mut Waiting) -> Option<Turn> {
        waiting.now_or_never().map(|turn| turn.expect("not closed"))
    }

    #[test]
    fn one_of_another_namespace_waits_for_one_turn_behind_thousands() {
        let turns = Turns::new(2);
        let mut many: VecDeque<_> = (0..5000).map(|_| wait(&turns, "many", false)).collect();
        let mut held: Vec<_> = [many.pop_front(), many.pop_front()].into_iter().flatten().collect();
        let first = has(&mut held[0]).expect("a turn");
        let _second = has(&mut held[1]).expect("a turn");
        let mut one = wait(&turns, "one", false);
        assert!(has(&mut one).is_none(), "all are taken");
        drop(first);
        assert!(has(&mut one).is_some(), "the next is its own");
        // It has given it back.
        assert!(has(&mut many[0]).is_some());
    }

    #[test]
    fn namespaces_take_turns() {
        let turns = Turns::new(1);
        let mut running = has(&mut wait(&turns, "a", false));
        let mut waiting: Vec<_> = ["a", "a", "b", "b", "c"].into_iter().map(|n| (n, wait(&turns, n, false))).collect();
        let mut order = String::new();
        for _ in 0..5 {
            drop(running.take());
            let next = waiting.iter_mut().find_map(|(name, w)| has(w).map(|turn| (*name, turn)));
            let (name, turn) = next.expect("somebody's turn");
            let at = waiting.iter().position(|(n, _)| *n == name).expect("it waited");
            drop(waiting.remove(at));
            order += name;
            running = Some(turn);
        }
        assert_eq!(order, "bcaba");
    }

    #[test]
    fn what_is_urgent_comes_first_in_its_namespace() {
        let turns = Turns::new(1);
        let running = has(&mut wait(&turns, "a", false));
        let (mut other, mut urgent) = (wait(&turns, "a", false), wait(&turns, "a", true));
        drop(running);
        assert!(has(&mut other).is_none());
        let turn = has(&mut urgent);
        assert!(turn.is_some());
        drop(turn);
        assert!(has(&mut other).is_some());
    }

    #[test]
    fn who_no_longer_waits_takes_no_turn() {
        let turns = Turns::new(1);
        let running = has(&mut wait(&turns, "a", false));
        let (gone, mut next) = (wait(&turns, "a", false), wait(&turns, "a", false));
        drop(gone);
        drop(running);
        let turn = has(&mut next);
        assert!(turn.is_some());
        // Given, but not looked at.
        let (given, mut last) = (wait(&turns, "a", false), wait(&turns, "b", false));
        drop(turn);
        drop(given);
        assert!(has(&mut last).is_some());
        drop(last);
        let state = turns.0.lock();
        assert_eq!((state.free, state.namespaces.len()), (1, 0), "nothing is left of those that were there");
    }

    #[test]
    fn nobody_waits_for_turns_that_have_ended() {
        let turns = Turns::new(1);
        let _running = has(&mut wait(&turns, "a", false));
        let mut waiting = wait(&turns, "a", false);
        turns.close();
        assert!((&mut waiting).now_or_never().expect("an answer").is_none());
        assert!(wait(&turns, "a", true).now_or_never().expect("an answer").is_none());
    }
}

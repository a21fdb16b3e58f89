//! Reads agents' own logs: lines with the wall clock, independent of koco's status.

use std::time::{SystemTime, UNIX_EPOCH};

/// One step of an agent's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    pub n: u64,
    /// Milliseconds since 1970.
    pub at: u64,
}

/// Now, on the agents' clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// The agent's own ticks; those of its children have a prefix.
pub fn ticks(log: &str) -> Vec<Tick> {
    ticks_of(log, "")
}

/// The ticks with a prefix, such as `child `.
pub fn ticks_of(log: &str, prefix: &str) -> Vec<Tick> {
    let lines = log.lines().filter_map(|line| line.strip_prefix(prefix)?.strip_prefix("tick "));
    lines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(n, at)| Some(Tick { n: n.parse().ok()?, at: at.parse().ok()? }))
        .collect()
}

/// When the agent logged a word, such as `sigterm`.
pub fn said(log: &str, word: &str) -> Vec<u64> {
    let lines = log.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    lines.filter_map(|at| at.trim().parse().ok()).collect()
}

/// How many agents started: each logs its pid once.
pub fn starts(log: &str) -> usize {
    log.lines().filter(|line| line.starts_with("pid ")).count()
}

/// Panics unless the counter went up by one all the time: the same process, its memory intact.
pub fn same_process(ticks: &[Tick]) {
    for pair in ticks.windows(2) {
        assert_eq!(pair[1].n, pair[0].n + 1, "the agent's counter jumped: {pair:?}");
    }
}

/// The longest time without a tick, in milliseconds.
pub fn longest_gap(ticks: &[Tick]) -> u64 {
    ticks.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap_or(0)
}

//! The runner's few lines on stderr, between the agent's own. Used by every file of the runner.
//! Never the environment, a token or the inputs: many users may read a pod's log.
//!
//! No caller waits for stderr: where nothing reads it, as when the node's log disk stands still, a chatty agent fills it,
//! and heartbeats and pauses must go on. A thread writes, and lines are dropped and counted while it can't.

use std::{
    collections::VecDeque,
    fmt::Arguments,
    io::{self, Write},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

/// How many lines may wait.
const LINES: usize = 256;
/// How long the runner's exit waits for the last ones.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes one line. Unlike `eprintln!` it doesn't panic when stderr is closed.
pub fn say(line: Arguments<'_>) {
    let line = format!("koco-runner: {line}\n");
    match WRITER.get() {
        Some(writer) => writer.push(line),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// From now on a thread writes the lines. To be called once the signals that it must not take are blocked.
pub fn begin() -> io::Result<()> {
    let writer = WRITER.get_or_init(Writer::default);
    thread::Builder::new().name("log".into()).spawn(|| writer.write_to(io::stderr())).map(drop)
}

/// Waits for the last lines, but not for long. To be called before the exit.
pub fn end() {
    if let Some(writer) = WRITER.get() {
        writer.flush(LAST_LINES);
    }
}

static WRITER: OnceLock<Writer> = OnceLock::new();

#[derive(Default)]
struct Writer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    /// A line that was taken is not written yet.
    writing: bool,
    /// Lines that had no place since the last one that was taken.
    dropped: usize,
}

impl Writer {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        let mut queue = self.queue();
        if queue.lines.len() < LINES {
            queue.lines.push_back(line);
        } else {
            queue.dropped += 1;
        }
        self.changed.notify_all();
    }

    /// Writes what is pushed. Ends never.
    fn write_to(&self, mut out: impl Write) {
        loop {
            let empty = |queue: &mut Queue| queue.lines.is_empty() && queue.dropped == 0;
            let mut queue = self.changed.wait_while(self.queue(), empty).unwrap_or_else(PoisonError::into_inner);
            let lines: String = queue.lines.drain(..).collect();
            let dropped = std::mem::take(&mut queue.dropped);
            queue.writing = true;
            drop(queue);
            let _ = out.write_all(lines.as_bytes());
            if dropped > 0 {
                let _ = writeln!(out, "koco-runner: {dropped} lines are left out: nothing read this log meanwhile");
            }
            self.queue().writing = false;
            self.changed.notify_all();
        }
    }

    fn flush(&self, limit: Duration) {
        let unwritten = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        drop(self.changed.wait_timeout_while(self.queue(), limit, unwritten));
    }
}

/// An error with all its causes in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::Arc};

    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let writer = Arc::new(Writer::default());
        for n in 0..LINES + 3 {
            writer.push(format!("line {n}\n"));
        }
        let (mut read, write) = io::pipe().unwrap();
        let its = writer.clone();
        thread::spawn(move || its.write_to(write));
        writer.flush(Duration::from_secs(60));
        writer.push("more\n".into());
        let mut text = String::new();
        while !text.ends_with("more\n") {
            let mut some = [0; 4096];
            let count = read.read(&mut some).unwrap();
            text += std::str::from_utf8(&some[..count]).unwrap();
        }
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), LINES + 2);
        assert_eq!((lines[0], lines[LINES - 1]), ("line 0", "line 255"));
        assert!(lines[LINES].contains(" 3 lines are left out"), "{}", lines[LINES]);
    }
}

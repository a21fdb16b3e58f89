//! What agents entered into their jobs' files, outside of their pods and of koco: see `tests/agent/test-agent.rs`.

use std::{fs, path::Path};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Milliseconds since 1970.
    pub at: u64,
    pub pod: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Start {
        attempt: i32,
        resumed: bool,
    },
    Tick,
    /// It got SIGTERM, and ends if it doesn't ignore that.
    Sigterm,
    /// It ends with an error of its own.
    Fail,
    /// It ends with success, and with this in its result.
    Done(String),
}

/// The entries of a job, in their order; none if no agent started.
pub fn read(folder: &Path, job: &str) -> Vec<Entry> {
    let text = fs::read_to_string(folder.join(job)).unwrap_or_default();
    text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("an entry of {job}: {line}"))).collect()
}

/// One line, if it is whole.
pub fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    let (at, pod) = (words.next()?.parse().ok()?, words.next()?.to_string());
    let what = match words.next()? {
        "start" => What::Start { attempt: words.next()?.parse().ok()?, resumed: words.next()? == "1" },
        "tick" => What::Tick,
        "sigterm" => What::Sigterm,
        "fail" => What::Fail,
        "done" => What::Done(words.next()?.to_string()),
        _ => return None,
    };
    Some(Entry { at, pod, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let entry = |what| Some(Entry { at: 5, pod: "p-1".into(), what });
        assert_eq!(parse("5 p-1 start 2 1"), entry(What::Start { attempt: 2, resumed: true }));
        assert_eq!(parse("5 p-1 start 2 "), entry(What::Start { attempt: 2, resumed: false }));
        assert_eq!(parse("5 p-1 tick 7"), entry(What::Tick));
        assert_eq!(parse("5 p-1 done 1-2"), entry(What::Done("1-2".into())));
        assert_eq!(parse("5 p-1"), None);
    }
}

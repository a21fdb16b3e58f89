//! What the database holds. No I/O. Used by everything in this module and by its callers.

use std::{fmt, str::FromStr, time::Duration};

use super::text::clean;

/// The id of an execution: 12 bytes, of which the first four are its time. Written as 24 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fid(pub [u8; 12]);

impl Fid {
    /// From the column.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut fid = [0; 12];
        fid.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(fid)
    }

    /// The seconds since 1970 at which its job was created.
    pub fn seconds(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl FromStr for Fid {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = hex::decode(text).ok().filter(|bytes| bytes.len() == 12);
        bytes.map(|bytes| Self::of(&bytes)).ok_or("a fid has 24 hex digits")
    }
}

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The parts of an execution that lists show. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its id.
    pub fid: Fid,
    /// The namespace of its AgentJob.
    pub namespace: String,
    /// The UID of that namespace; empty if it is not known.
    pub namespace_uid: String,
    /// The name of its AgentJob.
    pub name: String,
    /// The UID of its AgentJob.
    pub uid: String,
    /// Who it belongs to; empty if that is not known.
    pub owner: String,
    /// What it runs.
    pub entry_point: String,
    /// The execution mode; empty until it is resolved.
    pub mode: String,
    /// The phase; empty until there is one.
    pub phase: String,
    /// How many times the agent was started.
    pub attempt: i64,
    /// The type of the last error; empty if there is none.
    pub error: String,
    /// When its AgentJob was created.
    pub created: i64,
    /// When its agent first started.
    pub started: Option<i64>,
    /// When it reached its final phase.
    pub finished: Option<i64>,
    /// When its AgentJob was found to be gone.
    pub deleted: Option<i64>,
    /// The number of its last event.
    pub last_row: i64,
    /// The number of its newest run; 0 if there is none.
    pub run: i64,
}

impl Summary {
    /// When it ended: reached its final phase, or was found to be gone before.
    pub fn ended(&self) -> Option<i64> {
        self.finished.or(self.deleted)
    }
}

/// An execution as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// What lists show. `deleted` and `last_row` are not written: they are the database's.
    pub summary: Summary,
    /// The object's resourceVersion: an older write never replaces a newer one.
    pub version: i64,
    /// What a search looks at.
    pub search: String,
    /// All that is kept of the AgentJob, as JSON.
    pub object: String,
}

impl Execution {
    /// With texts that both databases store, and its search in small letters.
    pub(super) fn cleaned(mut self) -> Self {
        let s = &mut self.summary;
        for text in [
            &mut s.namespace,
            &mut s.namespace_uid,
            &mut s.name,
            &mut s.uid,
            &mut s.owner,
            &mut s.entry_point,
            &mut s.mode,
            &mut s.phase,
            &mut s.error,
            &mut self.object,
        ] {
            clean(text);
        }
        self.search = self.search.to_lowercase();
        clean(&mut self.search);
        self
    }
}

/// A run of an execution, as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its namespace.
    pub namespace: String,
    /// The UID of its AgentJob.
    pub job_uid: String,
    /// Its number.
    pub number: i64,
    /// The object's resourceVersion: an older write never replaces a newer one.
    pub version: i64,
    /// Whether it has ended.
    pub ended: bool,
    /// How many events it has, if that is known. Then no more are taken of it.
    pub events: Option<i64>,
    /// What is kept of its AgentRun, as JSON.
    pub object: String,
}

/// What is still to come of the events of an execution that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing. So many are known to be lost.
    Settled(i64),
    /// Some may come. So many are known to be missing.
    Missing(i64),
    /// One of its runs has not been seen, or not as it ended.
    Unknown,
}

/// What an event is. The numbers are stored: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Kind {
    /// The execution's status.
    Status = 1,
    /// What is known about the execution.
    Meta = 2,
    /// Its inputs.
    Inputs = 3,
    /// The agents that take part.
    Agent = 4,
    /// Files that were uploaded.
    Upload = 5,
    /// A message for developers.
    Debug = 6,
    /// A line of standard output.
    Stdout = 7,
    /// A line of standard error.
    Stderr = 8,
    /// Input that is asked for.
    Lock = 9,
    /// The answer to that.
    Lease = 10,
    /// An error.
    Error = 11,
    /// An action of the agent.
    Action = 12,
    /// An intermediate result.
    Result = 13,
    /// The final result.
    Final = 14,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Status,
        Self::Meta,
        Self::Inputs,
        Self::Agent,
        Self::Upload,
        Self::Debug,
        Self::Stdout,
        Self::Stderr,
        Self::Lock,
        Self::Lease,
        Self::Error,
        Self::Action,
        Self::Result,
        Self::Final,
    ];

    /// Whether it is a line of standard output or error.
    pub(super) fn is_output(self) -> bool {
        matches!(self, Self::Stdout | Self::Stderr)
    }

    pub(super) fn number(self) -> i16 {
        self as i16
    }

    /// `None` for a number of a later release.
    pub(super) fn of(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// An event as its source sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, in seconds since 1970, by the source's clock.
    pub ts: f64,
    /// What it is.
    pub kind: Kind,
    /// Its text.
    pub payload: String,
}

/// Consecutive events of one source: a run of an execution.
///
/// What is missing before `oldest` is lost. Where the database misses it, one event of kind [`Kind::Debug`] takes its
/// place, `{"koco":{"lost":{"from":N,"to":M}}}`, so that a gap that can't be filled holds up nothing. What has not
/// come of a run some time after its end is marked in the same way, by an event of number 0, without `to` if the run did not
/// tell how many it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// The execution.
    pub fid: Fid,
    /// The number of the run.
    pub run: i64,
    /// The number of the first event within the run; they begin at 1.
    pub from: i64,
    /// The number of the first event that its source still has, at most `from`.
    pub oldest: i64,
    /// The events.
    pub events: Vec<Event>,
}

/// How much is kept of the events of one execution, and how long that may take. The batch that reaches it is stored, and after it one event of kind
/// [`Kind::Debug`] that belongs to no run, `{"koco":{"full":{"rows":N,"bytes":M}}}`. What comes later is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events.
    pub rows: i64,
    /// Bytes, about.
    pub bytes: i64,
    /// How long a commit to PostgreSQL may take: one whose node is gone answers nothing, and others wait for this one.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 10_000_000, bytes: 2 << 30, silence: Duration::from_secs(60) }
    }
}

impl Limits {
    /// Whether events of so many rows and bytes are as many as may be.
    pub(super) fn reached(&self, rows: i64, bytes: i64) -> bool {
        rows >= self.rows || bytes >= self.bytes
    }
}

/// What a commit of events has done, for those who count it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Committed {
    /// How long it took.
    pub took: Duration,
    /// Events that it stored, of lines of standard output and error.
    pub output: u64,
    /// Others that runs have sent.
    pub agent: u64,
    /// Those that koco has added.
    pub koco: u64,
    /// Bytes of them all, about.
    pub bytes: u64,
    /// Events that were lost on their way, or have not come, as far as their number is known.
    pub lost: u64,
    /// Executions that became full.
    pub full: u64,
    /// When the oldest line that it stored was printed, in seconds since 1970 by the source's clock.
    pub oldest: Option<f64>,
}

/// How far an execution has come, for those who wait for more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The number of its last event.
    pub last_row: i64,
    /// When it ended, or its AgentJob was found to be gone, in milliseconds since 1970.
    pub ended: Option<i64>,
}

/// Where a page of events ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// Its last row.
    pub last: i64,
    /// About the bytes that its events take.
    pub bytes: i64,
}

/// Which of an execution's events are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    #[default]
    All,
    /// Lines of standard output and error.
    Output,
    /// All but those.
    Typed,
}

/// A page of events before a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageBefore {
    /// Its events come after this row: the page before it ends there. 0 if there is none.
    pub after: i64,
    /// About the bytes that its events take.
    pub bytes: i64,
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Its number within the execution; they begin at 1, without gaps.
    pub row: i64,
    /// The number of the run that sent it.
    pub run: i64,
    /// Its number within that run; 0 for what koco itself has added at its end.
    pub seq: i64,
    /// The event.
    pub event: Event,
}

/// Which executions a list shows. What is not set is not looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of the namespace of this UID.
    pub namespace_uid: Option<String>,
    /// Of AgentJobs of this name.
    pub name: Option<String>,
    /// In this phase.
    pub phase: Option<String>,
    /// Of this entry point.
    pub entry_point: Option<String>,
    /// Of this owner.
    pub owner: Option<String>,
    /// Created at this time or later, in seconds since 1970.
    pub since: Option<u32>,
    /// Created before this time, in seconds since 1970.
    pub until: Option<u32>,
    /// Whose inputs, result or error contain this text, in small or capital letters.
    pub search: Option<String>,
    /// Older than this one: the last of the page before.
    pub before: Option<Fid>,
    /// Among the newest, those that have not ended, or at this time or later, in milliseconds since 1970.
    pub changed: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// A page of a list, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The executions.
    pub items: Vec<Summary>,
    /// Where the next page begins, if there may be one. A search, or a question for changes, looks at so many executions for a page and no more, so
    /// that a page may have few items, or none, and yet not be the last.
    pub next: Option<Fid>,
}

/// How long things are kept. `None`: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Events, after the execution's end, in milliseconds.
    pub events: Option<i64>,
    /// Executions, after their end, in milliseconds.
    pub executions: Option<i64>,
    /// The most bytes of all. Of executions that have ended, the oldest of the namespace that has the most lose their events
    /// first, then go.
    pub max_bytes: Option<i64>,
}

/// What retention has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Executions that have lost their events.
    pub events: u64,
    /// Executions that are gone.
    pub executions: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fid_is_24_hex_digits() {
        let fid: Fid = "6740c100aabbccddeeff0011".parse().unwrap();
        assert_eq!((fid.to_string().as_str(), fid.seconds()), ("6740c100aabbccddeeff0011", 0x6740_c100));
        for bad in ["", "6740c100aabbccddeeff001", "6740c100aabbccddeeff00112", "g740c100aabbccddeeff0011"] {
            assert!(bad.parse::<Fid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_keep_their_numbers() {
        let numbers: Vec<i16> = Kind::ALL.into_iter().map(Kind::number).collect();
        assert_eq!(numbers, (1..=14).collect::<Vec<i16>>());
        assert_eq!((Kind::of(14), Kind::of(15)), (Some(Kind::Final), None));
    }
}

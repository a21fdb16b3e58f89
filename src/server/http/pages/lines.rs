//! A job's events as lines: the last so many of them, or those before one, so that no page grows with the job. Used by
//! [`super::job`].

use serde::Deserialize;

use super::text::{cut, event_time, visible};
use crate::{
    database::{Kind, Part, StoredEvent, Summary},
    server::http::{Refusal, events::word},
};

/// How many lines a page has at most, also in the browser.
pub const MOST: u32 = 500;
/// How much is shown of a line, in bytes.
const SHOWN: usize = 16 * 1024;
/// How long after a job's end its page waits for more, in milliseconds.
const LATE: i64 = 30_000;

/// What the address says.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Before this row.
    before: Option<i64>,
    /// Which events: `all`, `output` or `typed`.
    show: Option<String>,
}

/// Which events are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Before this row; none: the last.
    pub before: Option<i64>,
    pub part: Part,
}

impl Parameters {
    pub fn read(self) -> Result<Asked, Refusal> {
        let part = match self.show.as_deref() {
            None => Some(Part::All),
            Some(name) => PARTS.into_iter().find(|(_, known, _)| *known == name).map(|(part, ..)| part),
        };
        let part = part.ok_or(Refusal::Malformed("show: all, output or typed".into()))?;
        if self.before.is_some_and(|before| before < 1) {
            return Err(Refusal::Malformed("before: the number of an event".into()));
        }
        Ok(Asked { before: self.before, part })
    }
}

/// The parts of the events, by their names in the address and on the page.
const PARTS: [(Part, &str, &str); 3] = [
    (Part::All, "all", "All events"),
    (Part::Output, "output", "Output only"),
    (Part::Typed, "typed", "Typed events only"),
];

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub row: i64,
    /// When, as machines read it; empty if that is no time.
    pub exact: String,
    pub shown: String,
    pub run: i64,
    pub kind: &'static str,
    pub text: String,
    /// The row before it, if the text is not all of it.
    pub whole: Option<i64>,
}

impl Line {
    fn of(stored: &StoredEvent) -> Self {
        let (text, is_cut) = cut(&stored.event.payload, SHOWN);
        let (exact, shown) = event_time(stored.event.ts).unwrap_or_default();
        Self {
            row: stored.row,
            exact,
            shown,
            run: stored.run,
            kind: word(stored.event.kind),
            text: visible(text),
            whole: is_cut.then(|| stored.row - 1),
        }
    }
}

/// A link to another part.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub name: &'static str,
    pub address: String,
    pub chosen: bool,
}

/// The lines of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    pub fid: String,
    pub lines: Vec<Line>,
    pub parts: Vec<Choice>,
    /// The name of the part in the address.
    pub part: &'static str,
    /// Before this row there may be more.
    pub older: Option<i64>,
    /// Whether these are the last.
    pub newest: bool,
    /// Whether the script adds what comes.
    pub live: bool,
    /// The last row that was looked at.
    pub last: i64,
    /// All kinds, for the script.
    pub kinds: String,
    pub most: u32,
}

impl Lines {
    /// `after`: the row after which the page begins; `last`: the last row that it may have.
    pub fn of(summary: &Summary, asked: Asked, found: &[StoredEvent], after: i64, last: i64, now: i64) -> Self {
        let fid = summary.fid.to_string();
        let newest = asked.before.is_none();
        let waits = summary.ended().is_none_or(|ended| now.saturating_sub(ended) < LATE);
        let choice = |(part, name, shown): (Part, &str, &'static str)| Choice {
            name: shown,
            address: address(&fid, name),
            chosen: part == asked.part,
        };
        Self {
            lines: found.iter().map(Line::of).collect(),
            parts: PARTS.map(choice).into(),
            part: PARTS.iter().find(|(part, ..)| *part == asked.part).map_or("all", |(_, name, _)| name),
            older: (after > 0).then_some(after + 1),
            newest,
            live: newest && waits,
            last,
            kinds: Kind::ALL.map(word).join(" "),
            most: MOST,
            fid,
        }
    }
}

fn address(fid: &str, part: &str) -> String {
    format!("/jobs/{fid}?show={part}#events")
}

/// Where a page ends: before the row that is asked for, or at the last one.
pub fn end(asked: Asked, summary: &Summary) -> i64 {
    asked.before.map_or(summary.last_row, |before| (before - 1).min(summary.last_row)).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{database::Event, server::http::pages::jobs::tests::summary};

    fn stored(row: i64, kind: Kind, payload: &str) -> StoredEvent {
        StoredEvent { row, run: 1, seq: row, event: Event { ts: 1_767_225_600.5, kind, payload: payload.into() } }
    }

    fn asked(before: Option<i64>) -> Asked {
        Asked { before, part: Part::All }
    }

    #[test]
    fn an_address_says_which_events() {
        let read = |before, show: Option<&str>| Parameters { before, show: show.map(String::from) }.read();
        assert_eq!(read(Some(7), Some("typed")), Ok(Asked { before: Some(7), part: Part::Typed }));
        assert_eq!(read(None, None), Ok(asked(None)));
        assert!(read(Some(0), None).is_err() && read(None, Some("x")).is_err());
        let s = Summary { last_row: 1000, ..summary(1) };
        assert_eq!(
            [None, Some(1), Some(501), Some(i64::MAX)].map(|before| end(asked(before), &s)),
            [1000, 0, 500, 1000]
        );
    }

    #[test]
    fn a_line_shows_its_event_as_text() {
        let line = Line::of(&stored(7, Kind::Stderr, "\u{1b}[31m<b>"));
        assert_eq!((line.text.as_str(), line.kind, line.whole), ("<b>", "stderr", None));
        assert_eq!(
            (line.exact.as_str(), line.shown.as_str()),
            ("2026-01-01T00:00:00.500Z", "2026-01-01 00:00:00.500 UTC")
        );
        let long = Line::of(&stored(7, Kind::Result, &"x".repeat(SHOWN + 1)));
        assert_eq!((long.text.len(), long.whole), (SHOWN, Some(6)));
    }

    #[test]
    fn only_the_last_page_of_a_job_that_goes_on_is_live() {
        let mut s = Summary { last_row: 900, ..summary(1) };
        let of = |s: &Summary, before, after| Lines::of(s, asked(before), &[], after, end(asked(before), s), 100_000);
        let lines = of(&s, None, 400);
        assert_eq!((lines.live, lines.newest, lines.older, lines.last), (true, true, Some(401), 900));
        let lines = of(&s, Some(401), 0);
        assert_eq!((lines.live, lines.newest, lines.older, lines.last), (false, false, None, 400));
        s.finished = Some(95_000);
        assert!(of(&s, None, 400).live, "events may come late");
        s.finished = Some(1000);
        assert!(!of(&s, None, 400).live);
    }
}

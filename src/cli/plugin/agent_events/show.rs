//! Agents' events: which are wanted, and how they are printed. Pure. Used by [`super`].

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::super::text::{Colour, paint, plain};

/// An event, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Event {
    pub row: i64,
    pub run: i64,
    pub ts: f64,
    pub kind: String,
    pub payload: String,
}

/// Which events are wanted; what is not set is not looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub kinds: Vec<String>,
    pub run: Option<i64>,
    /// Not before this time, in seconds since 1970.
    pub since: Option<f64>,
}

impl Wanted {
    pub fn fits(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.run.is_none_or(|run| run == event.run)
            && self.since.is_none_or(|since| event.ts >= since)
    }
}

/// An event as one harmless line: when, of which run, what, and its text.
pub(super) fn line(event: &Event, colours: bool) -> String {
    let Event { run, ts, kind, payload, .. } = event;
    // Casts saturate, and what is out of range is no time.
    let time = Timestamp::from_millisecond((ts * 1000.0).round() as i64).unwrap_or_default();
    let word = format!("{:<6}", plain(kind));
    let word = match colour(kind).filter(|_| colours) {
        Some(colour) => paint(&word, colour),
        None => word,
    };
    let line = format!("{}  {run}  {word}  {}", time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"), plain(payload));
    line.trim_end().to_string()
}

fn colour(kind: &str) -> Option<Colour> {
    match kind {
        "stderr" | "error" => Some(Colour::Red),
        "result" | "final" => Some(Colour::Green),
        "status" | "lock" | "lease" => Some(Colour::Yellow),
        "action" | "agent" => Some(Colour::Blue),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(run: i64, ts: f64, kind: &str, payload: &str) -> Event {
        Event { row: 1, run, ts, kind: kind.into(), payload: payload.into() }
    }

    #[test]
    fn an_event_is_one_harmless_line() {
        let event = event(2, 1_767_225_600.123_4, "stdout", "a\n\u{1b}[2J\u{202e}b");
        assert_eq!(line(&event, false), r"2026-01-01T00:00:00.123Z  2  stdout  a\n\u{1b}[2J\u{202e}b");
        let forged = Event { kind: "x\u{1b}".into(), ts: f64::NAN, payload: String::new(), ..event };
        assert_eq!(line(&forged, true), r"1970-01-01T00:00:00.000Z  2  x\u{1b}");
        let endless = Event { ts: f64::INFINITY, ..forged };
        assert!(line(&endless, false).starts_with("1970-01-01T00:00:00.000Z"));
    }

    #[test]
    fn only_kinds_have_a_colour_and_only_where_it_is_wanted() {
        let failed = event(1, 0.0, "error", "error");
        assert_eq!(line(&failed, true), "1970-01-01T00:00:00.000Z  1  \u{1b}[31merror \u{1b}[0m  error");
        assert!(!line(&failed, false).contains('\u{1b}'));
    }

    #[test]
    fn events_are_chosen_by_kind_run_and_time() {
        let wanted =
            |kinds: &[&str], run, since| Wanted { kinds: kinds.iter().map(|k| k.to_string()).collect(), run, since };
        let event = event(2, 10.0, "stdout", "");
        for (which, fits) in [
            (wanted(&[], None, None), true),
            (wanted(&["stderr", "stdout"], Some(2), Some(10.0)), true),
            (wanted(&["stderr"], None, None), false),
            (wanted(&[], Some(1), None), false),
            (wanted(&[], None, Some(10.5)), false),
        ] {
            assert_eq!(which.fits(&event), fits, "{which:?}");
        }
    }
}

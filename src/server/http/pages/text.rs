//! Texts, JSON and times as pages show them. Pure. Used by the view models of [`super`].

use k8s_openapi::jiff::Timestamp;

use crate::platform::text::{acts, age};

/// How far JSON is indented, in levels.
const DEEPEST: usize = 24;

/// A text without what would act on the page: sequences that set a terminal's colours are removed, other controls are
/// escaped, such as `\u{1b}`. Line breaks and tabs stay. The script does the same with what comes later, see `panel.js`.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| acts(c) && !matches!(c, '\n' | '\t')) {
        let (before, from) = rest.split_at(at);
        shown.push_str(before);
        rest = match control_sequence(from) {
            Some(length) => &from[length..],
            None => {
                let mut left = from.chars();
                shown.extend(left.next().into_iter().flat_map(char::escape_default));
                left.as_str()
            }
        };
    }
    shown + rest
}

/// The length of the control sequence that a text begins with: `ESC [`, parameters, intermediates, and one final byte.
fn control_sequence(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\u{1b}[")?;
    let rest =
        body.trim_start_matches(|c: char| matches!(c, '0'..='?')).trim_start_matches(|c: char| matches!(c, ' '..='/'));
    rest.starts_with(|c: char| matches!(c, '@'..='~')).then(|| text.len() - rest.len() + 1)
}

/// The first bytes of a text, whole characters, and whether that is less than all.
pub fn cut(text: &str, bytes: usize) -> (&str, bool) {
    let end = text.floor_char_boundary(bytes.min(text.len()));
    (&text[..end], end < text.len())
}

/// JSON with a line for each value. Its numbers and strings stay as they are written, and its depth costs nothing.
pub fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth.min(DEEPEST)));
    };
    let mut characters = json.chars().peekable();
    while let Some(c) = characters.next() {
        if in_string {
            out.push(c);
            (in_string, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while characters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                match characters.next_if(|c| matches!(c, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// A time with its zone, and how long ago that is.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// As machines read it.
    pub exact: String,
    /// As people do.
    pub shown: String,
    /// Such as `5m ago`.
    pub ago: String,
}

impl Moment {
    /// Of milliseconds since 1970.
    pub fn of(millis: i64, now: i64) -> Self {
        let (at, now) = (time(millis), time(now));
        Self {
            exact: at.to_string(),
            shown: at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            ago: match at <= now {
                true => format!("{} ago", age(at, now)),
                false => format!("in {}", age(now, at)),
            },
        }
    }

    /// Of a time as Kubernetes writes it.
    pub fn parse(text: &str, now: i64) -> Option<Self> {
        Some(Self::of(text.parse::<Timestamp>().ok()?.as_millisecond(), now))
    }
}

/// The time from one to another, in milliseconds since 1970.
pub fn duration(from: i64, to: i64) -> String {
    age(time(from), time(to))
}

/// When an event was, in seconds since 1970: as machines and as people read it.
pub fn event_time(seconds: f64) -> Option<(String, String)> {
    // A number of seconds that is no time of this calendar, or none at all, as a source may send it.
    let seconds = Some(seconds).filter(|s| s.is_finite() && s.abs() < 1e11)?;
    let at = Timestamp::from_millisecond((seconds * 1000.0).floor() as i64).ok()?;
    Some((at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(), at.strftime("%Y-%m-%d %H:%M:%S.%3f UTC").to_string()))
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn nothing_that_agents_print_acts_on_a_page() {
        // The same cases are run through the script by `tests/panel/script.mjs`.
        let cases: Vec<[String; 2]> =
            serde_json::from_str(include_str!("../../../../tests/panel/visible.json")).unwrap();
        assert!(cases.len() > 10);
        for [text, expected] in cases {
            assert_eq!(visible(&text), expected, "{text:?}");
        }
        for c in ('\0'..='\u{9f}').chain("\u{61c}\u{200e}\u{2028}\u{202e}\u{2066}\u{2069}".chars()) {
            let shown = visible(&format!("a{c}b"));
            assert!(!shown.contains(|c: char| acts(c) && c != '\n' && c != '\t'), "{c:?}");
        }
    }

    #[test]
    fn json_is_indented_and_stays_what_it_is() {
        assert_eq!(
            indented(r#"{"a":[1.0,{}, [ ] ],"b":"{\"[,:\\"}"#),
            "{\n  \"a\": [\n    1.0,\n    {},\n    []\n  ],\n  \"b\": \"{\\\"[,:\\\\\"\n}"
        );
        for json in [r#"{"a":{"b":[[],[1,2,"\u0000\""]]},"c":1e400}"#, "7", r#""x""#, "[]"] {
            let compact: String = indented(json).replace("\n", "").replace("  ", "").replace(": ", ":");
            assert_eq!(compact, json);
        }
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(indented(&deep).len() < 10_000 * 2 * (DEEPEST + 1));
        let value: Value = serde_json::from_str(r#"{"a": [1, "x, y: {"], "b": null}"#).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&indented(&value.to_string())).unwrap(), value);
    }

    #[test]
    fn times_have_a_zone_and_an_age() {
        let at = 1_767_225_600_000;
        let found = Moment::of(at, at + 65_000);
        assert_eq!(found.exact, "2026-01-01T00:00:00Z");
        assert_eq!((found.shown.as_str(), found.ago.as_str()), ("2026-01-01 00:00:00 UTC", "65s ago"));
        assert_eq!(Moment::of(at, at - 5000).ago, "in 5s");
        assert_eq!(Moment::parse("2026-01-01T00:00:00Z", at), Some(Moment::of(at, at)));
        assert_eq!(Moment::parse("soon", at), None);
        assert_eq!(duration(at, at + 7_200_000), "120m");
    }

    #[test]
    fn any_number_may_be_an_events_time() {
        let found = event_time(1_767_225_600.25).unwrap();
        assert_eq!(found, ("2026-01-01T00:00:00.250Z".into(), "2026-01-01 00:00:00.250 UTC".into()));
        for strange in [f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 1e12] {
            assert_eq!(event_time(strange), None, "{strange}");
        }
        assert!(event_time(f64::MIN_POSITIVE).is_some() && event_time(-2.5).is_some());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!((cut("aä", 2), cut("aä", 3)), (("a", true), ("aä", false)));
    }
}

//! Text from the cluster on a terminal. Agents and their errors control fields that the plugin prints: without escaping
//! they could move the cursor, set the clipboard, or forge lines. Used wherever the plugin prints such fields.

use std::{borrow::Cow, fmt::Display};

/// Escapes a text to one harmless line: control characters (C0, C1, DEL), line breaks of any kind, and what
/// changes the direction of writing are escaped, such as `\u{1b}` and `\n`.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

/// Whether a terminal interprets a character instead of showing it: controls, line and paragraph separators, and all
/// that Unicode has as Bidi_Control.
fn acts(c: char) -> bool {
    let bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Rows as lines, in columns that are as wide as their widest cell. The first row may be a head.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> impl Iterator<Item = String> {
    let width = |column: usize| rows.iter().map(|r| plain(&r[column]).chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter().map(move |row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{:<width$}", plain(cell)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    })
}

/// A value as one line of JSON. What acts on a terminal is escaped, as JSON has it: it only occurs in strings.
pub(super) fn json(value: &serde_json::Value) -> String {
    let mut shown = String::new();
    for c in value.to_string().chars() {
        if acts(c) {
            // All of them have one unit.
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Writes one line to stderr. The plugin's only way to it: what it says may quote the cluster.
pub(super) fn say(line: impl Display) {
    eprintln!("{}", plain(&line.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_shown() {
        let rows = [["A".to_string(), "B".into()], ["x\u{1b}".into(), "y".into()]];
        assert_eq!(table(&rows).collect::<Vec<_>>(), ["A        B", r"x\u{1b}  y"]);
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({ "a": "x\n\u{1b}\u{9b}\u{202e}\u{2028}ü" });
        let shown = json(&value);
        assert!(!shown.contains(acts), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn what_acts_is_escaped_and_the_rest_stays() {
        assert_eq!(plain("Rünning 中 \\n"), "Rünning 中 \\n");
        assert_eq!(plain("a\nPhase:  Succeeded\r\t"), r"a\nPhase:  Succeeded\r\t");
        assert_eq!(plain("\x1b[2J\x07\x7f\u{9b}31m\u{85}"), r"\u{1b}[2J\u{7}\u{7f}\u{9b}31m\u{85}");
        assert_eq!(plain("\u{202e}abc\u{2028}"), r"\u{202e}abc\u{2028}");
        let acting =
            ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}').chain("\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}".chars());
        for c in acting.chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert_eq!(plain(&format!("a{c}b")), format!("a{}b", c.escape_default()));
        }
    }
}

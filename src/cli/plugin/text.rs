//! Text from the cluster on a terminal. Agents and their errors control fields that the plugin prints: without escaping
//! they could move the cursor, set the clipboard, or forge lines. Used wherever the plugin prints such fields.

use std::{borrow::Cow, fmt::Display, io::IsTerminal};

use crate::platform::text::acts;

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

/// Rows as lines, in columns that are as wide as their widest cell. The first row may be a head.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> impl Iterator<Item = String> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.to_vec()).collect();
    padded(&rows, &mut Vec::new()).into_iter().map(|cells| cells.join("  ").trim_end().to_string())
}

/// The cells of rows, escaped and filled up. `widths` are those that earlier rows had, and grow.
pub(super) fn padded(rows: &[Vec<String>], widths: &mut Vec<usize>) -> Vec<Vec<String>> {
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (cell, width) in row.iter().zip(widths.iter_mut()) {
            *width = (*width).max(plain(cell).chars().count());
        }
    }
    let fill = |(cell, width): (&String, &usize)| format!("{:<width$}", plain(cell));
    rows.iter().map(|row| row.iter().zip(widths.iter()).map(fill).collect()).collect()
}

/// A value as one line of JSON. What acts on a terminal is escaped, as JSON has it: it only occurs in strings.
pub(super) fn json(value: &serde_json::Value) -> String {
    raw_json(&value.to_string())
}

/// The same for what is JSON already. Its line breaks and tabs can only be between values: they become spaces.
pub(super) fn raw_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' | '\r' | '\t' => shown.push(' '),
            // All of them have one unit.
            c if acts(c) => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

/// A value as JSON with a line for each field, as kubectl indents it.
pub(super) fn pretty_json(value: &serde_json::Value) -> String {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
    // Writing to memory does not fail.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8_lossy(&text).split('\n').map(raw_json).collect::<Vec<_>>().join("\n")
}

/// A colour of the terminal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
}

/// Whether what is written to stdout may be coloured: it is a terminal, and its user has nothing against it.
pub(super) fn colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb") && std::io::stdout().is_terminal()
}

/// A text that is escaped already, in a colour.
pub(super) fn paint(text: &str, colour: Colour) -> String {
    format!("\x1b[{}m{text}\x1b[0m", colour as u8)
}

/// Shows how far something is that takes long: a line on stderr that is written over, if it is a terminal.
pub(super) struct Progress {
    shown: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self { shown: false }
    }

    pub fn show(&mut self, line: impl Display) {
        if std::io::stderr().is_terminal() {
            self.shown = true;
            eprint!("\r{}\x1b[K", plain(&line.to_string()));
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
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
        assert_eq!(raw_json("{\n\t\"a\": 1 }"), r#"{  "a": 1 }"#);
        let shown = pretty_json(&value);
        assert!(shown.starts_with("{\n    \"a\": ") && !shown.contains(|c| acts(c) && c != '\n'), "{shown:?}");
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

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

/// Writes one line to stderr. The plugin's only way to it: what it says may quote the cluster.
pub(super) fn say(line: impl Display) {
    eprintln!("{}", plain(&line.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

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

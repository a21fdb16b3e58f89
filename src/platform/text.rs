//! Text and times as people see them, on a terminal and in a browser. Pure. Used by the plugin and by the server's pages.

use k8s_openapi::jiff::Timestamp;

/// Whether a character acts on what shows it, or on what stands beside it, instead of being shown: controls, line and
/// paragraph separators, and all that Unicode has as Bidi_Control.
pub fn acts(c: char) -> bool {
    let bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The time since then, as kubectl writes it.
pub fn age(at: Timestamp, now: Timestamp) -> String {
    let s = now.as_second().saturating_sub(at.as_second()).max(0);
    match s {
        0..120 => format!("{s}s"),
        120..600 => format!("{}m{}s", s / 60, s % 60),
        600..10_800 => format!("{}m", s / 60),
        10_800..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

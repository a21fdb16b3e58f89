//! Text as both databases store it. No I/O. Used by the models.

/// PostgreSQL stores no U+0000: it becomes U+FFFD in both. In JSON it may also be written as an escape, which is text
/// like any other.
pub(super) fn clean(text: &mut String) {
    if text.contains('\0') {
        *text = text.replace('\0', "\u{fffd}");
    }
}

/// A pattern of `LIKE` with `ESCAPE '\'` for a text that contains this one.
pub(super) fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(if c == '\0' { '\u{fffd}' } else { c });
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_its_text() {
        assert_eq!(containing(r"50%_A\"), r"%50\%\_a\\%");
    }
}

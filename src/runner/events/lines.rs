//! What an agent prints, as events: a line each. Pure. Used by [`super::recorder`].

use std::borrow::Cow;

/// The longest line; what is longer becomes several events.
pub const MAX_LINE: usize = 16 * 1024;

/// The begun line of a stream.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes bytes, and calls `line` with each line that is complete, without its end.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.begun.is_empty() {
                pieces(without_return(head), &mut line);
            } else {
                self.add(head, &mut line);
                line(without_return(&self.begun));
                self.begun.clear();
            }
            bytes = rest;
        }
        self.add(bytes, &mut line);
    }

    /// The stream has ended: what is begun is a line, too.
    pub fn end(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            line(&self.begun);
            self.begun.clear();
        }
    }

    /// Adds to what is begun, of which at most one line is kept.
    fn add(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while self.begun.len() + bytes.len() > MAX_LINE {
            let (head, rest) = bytes.split_at(MAX_LINE.saturating_sub(self.begun.len()).min(bytes.len()));
            self.begun.extend_from_slice(head);
            let cut = cut(&self.begun);
            line(&self.begun[..cut]);
            self.begun.drain(..cut);
            bytes = rest;
        }
        self.begun.extend_from_slice(bytes);
    }
}

/// Calls `line` with a line in pieces that are short enough.
fn pieces(mut text: &[u8], line: &mut impl FnMut(&[u8])) {
    while text.len() > MAX_LINE {
        let (piece, rest) = text.split_at(cut(&text[..MAX_LINE]));
        line(piece);
        text = rest;
    }
    line(text);
}

/// Where to cut a text so that no character is cut that may go on after it.
fn cut(text: &[u8]) -> usize {
    let start = text.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(text.len());
    let expected = match text.get(start) {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    if start > 0 && text.len() - start < expected { start } else { text.len() }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The text that is stored: invalid UTF-8 and U+0000, which no database takes, become U+FFFD.
pub fn text(line: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(line);
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::check;

    fn lines<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), vec![]);
        for chunk in chunks {
            lines.push(chunk, |line| found.push(line.to_vec()));
            assert!(lines.begun.len() <= MAX_LINE && lines.begun.capacity() <= 2 * MAX_LINE);
        }
        lines.end(|line| found.push(line.to_vec()));
        found
    }

    #[test]
    fn a_line_is_what_ends_with_a_line_feed() {
        let one = |text: &'static str| lines([text.as_bytes()]);
        assert_eq!(one("a\n\nb\r\nc\rd"), [b"a".as_slice(), b"", b"b", b"c\rd"]);
        assert_eq!(one(""), Vec::<Vec<u8>>::new());
        assert_eq!(lines([b"a".as_slice(), b"b", b"\r", b"\n", b"\n"]), [b"ab".as_slice(), b""]);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        for filler in ["x", "xy", "xyz"] {
            let text = format!("{filler}{}", "€".repeat(MAX_LINE));
            for chunk in [1000, MAX_LINE + 5, usize::MAX] {
                let found = lines(text.as_bytes().chunks(chunk.min(text.len())));
                assert!(found.len() >= 3 && found.iter().all(|l| l.len() <= MAX_LINE && str::from_utf8(l).is_ok()));
                assert_eq!(found.concat(), text.as_bytes());
            }
        }
        let hostile = vec![0x80; 3 * MAX_LINE];
        assert_eq!(lines([hostile.as_slice()]).concat(), hostile);
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        assert_eq!(text(b"a\0b\xff\xe2\x82"), "a\u{fffd}b\u{fffd}\u{fffd}");
        assert!(matches!(text("ü".as_bytes()), Cow::Borrowed("ü")));
    }

    #[test]
    fn chunks_make_no_difference_and_nothing_is_lost() {
        let part = prop_oneof![
            Just(b"\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
            (any::<u8>(), 0_usize..2 * MAX_LINE).prop_map(|(byte, count)| vec![byte; count]),
        ];
        let chunks = prop::collection::vec(part, 0..12);
        check("lines", chunks, |chunks| {
            let whole = chunks.concat();
            let found = lines(chunks.iter().map(Vec::as_slice));
            prop_assert!(found.iter().all(|line| line.len() <= MAX_LINE));
            let without = |text: &[u8]| text.iter().copied().filter(|b| *b != b'\n' && *b != b'\r').collect::<Vec<_>>();
            prop_assert_eq!(without(&found.concat()), without(&whole));
            let short = whole.split(|b| *b == b'\n').all(|line| line.len() < MAX_LINE);
            if short {
                let mut expected: Vec<_> = whole.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                let last = expected.pop().unwrap_or_default();
                let mut expected: Vec<_> = expected.iter().map(|line| without_return(line).to_vec()).collect();
                expected.extend(Some(last).filter(|last| !last.is_empty()));
                prop_assert_eq!(found, expected);
            }
            Ok(())
        });
    }
}

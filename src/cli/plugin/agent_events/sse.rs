//! Server-sent events from bytes, as the HTML standard has them. Pure. Used by [`super`].

/// The most bytes of one event: the largest payload, with each of its bytes escaped.
const LARGEST: usize = 64 * 1024 * 1024;

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Frame {
    pub id: String,
    pub event: String,
    pub data: String,
}

/// An event has more bytes than any should.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("an event of the stream is too large")]
pub(super) struct TooLarge;

/// What has come of a stream, and is no event yet.
#[derive(Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    frame: Frame,
    has_data: bool,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    returned: bool,
}

impl Parser {
    /// The events that are complete with these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, TooLarge> {
        let (mut found, mut rest) = (Vec::new(), bytes);
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let is_second = end == 0 && rest[0] == b'\n' && self.returned;
            self.returned = rest[end] == b'\r';
            if !is_second {
                self.line.extend_from_slice(&rest[..end]);
                let line = std::mem::take(&mut self.line);
                found.extend(self.take(&String::from_utf8_lossy(&line)));
            }
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            self.returned = false;
            self.line.extend_from_slice(rest);
        }
        if self.line.len() + self.frame.data.len() > LARGEST { Err(TooLarge) } else { Ok(found) }
    }

    /// The event that a line completes, if it does.
    fn take(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            return Some(frame).filter(|_| std::mem::take(&mut self.has_data));
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.frame.id = value.into(),
            "event" => self.frame.event = value.into(),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            // A comment, which keeps the connection alive, or a field of later times.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(id: &str, event: &str, data: &str) -> Frame {
        Frame { id: id.into(), event: event.into(), data: data.into() }
    }

    fn all(text: &str) -> Vec<Frame> {
        Parser::default().push(text.as_bytes()).unwrap()
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        assert_eq!(all("id: 1\nevent: stdout\ndata: {\"a\":1}\n\n"), [frame("1", "stdout", "{\"a\":1}")]);
        assert_eq!(all("data:a\ndata: b\ndata\n\ndata:  c\n\n"), [frame("", "", "a\nb\n"), frame("", "", " c")]);
        assert_eq!(all("id: 1\r\ndata: x\r\n\r\nid: 2\rdata: y\r\r"), [frame("1", "", "x"), frame("2", "", "y")]);
        assert_eq!(all(": alive\n\nretry: 5\n\nid: 7\n\n"), [], "without data there is no event");
        assert_eq!(all("data: x\n"), [], "it is not complete");
        assert_eq!(all("id: 1\ndata: a\n\ndata: b\n\n")[1].id, "", "an id is that of one event");
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let (mut parser, chunk) = (Parser::default(), vec![b'x'; 1 << 20]);
        let taken = (0..100).take_while(|_| parser.push(&chunk).is_ok()).count();
        assert_eq!(taken, 64);
    }

    proptest! {
        #[test]
        fn it_makes_no_difference_where_bytes_are_cut(
            lines in prop::collection::vec("(id: [0-9]|event: e|data: [aü]{0,3}|:|)(\n|\r\n|\r)", 0..20),
            cuts in prop::collection::vec(1..7_usize, 1..10),
        ) {
            let text = lines.concat();
            let (mut parser, mut found, mut rest) = (Parser::default(), Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                found.extend(parser.push(now).unwrap());
                rest = later;
            }
            prop_assert_eq!(found, all(&text));
        }
    }
}

//! What is printed to a terminal as HTML: colours and weights as spans with Kodosumi's classes, other control sequences left
//! out. Pure. Used by [`super`].

use super::push_escaped;

/// What is set at a place of a text.
#[derive(Clone, Default, PartialEq)]
struct Style {
    /// Bold, faint, italic, underlined and so on, by their codes.
    effects: Vec<u16>,
    foreground: Option<String>,
    background: Option<String>,
}

impl Style {
    fn class(&self) -> String {
        let effects = self.effects.iter().map(|code| format!("ansi{code}"));
        let colours = self.foreground.iter().chain(&self.background).map(|colour| format!("ansi{colour}"));
        effects.chain(colours).collect::<Vec<_>>().join(" ")
    }

    /// Follows the parameters of a sequence that ends with `m`.
    fn apply(&mut self, parameters: &str) {
        let mut codes = parameters.split([';', ':']).map(|code| match code {
            "" => 0,
            code => code.parse::<u16>().unwrap_or(u16::MAX),
        });
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Self::default(),
                1..=9 if !self.effects.contains(&code) => self.effects.push(code),
                22 => self.effects.retain(|effect| !matches!(effect, 1 | 2)),
                23..=29 => self.effects.retain(|effect| *effect != code - 20),
                30..=37 | 90..=97 => self.foreground = Some(code.to_string()),
                40..=47 | 100..=107 => self.background = Some(code.to_string()),
                39 => self.foreground = None,
                49 => self.background = None,
                38 | 48 => {
                    let mut next = || codes.next().and_then(|code| u8::try_from(code).ok());
                    let colour = match next() {
                        Some(5) => next().map(|n| format!("{code}-{n}")),
                        Some(2) => match (next(), next(), next()) {
                            (Some(r), Some(g), Some(b)) => Some(format!("{code}-{r:02x}{g:02x}{b:02x}")),
                            _ => None,
                        },
                        _ => None,
                    };
                    if code == 38 { self.foreground = colour } else { self.background = colour }
                }
                _ => {}
            }
        }
    }
}

/// A sequence that begins after an escape character: its parameters, if it sets a style, and what follows it.
fn sequence(rest: &str) -> (Option<&str>, &str) {
    let after = |n: usize| rest.get(n..).unwrap_or_default();
    match rest.as_bytes().first() {
        Some(b'[') => {
            let body = &rest[1..];
            let end = body.find(|c: char| !matches!(c, '\u{20}'..='\u{3f}')).unwrap_or(body.len());
            match body[end..].chars().next() {
                Some('m') => (Some(&body[..end]), &body[end + 1..]),
                Some('\u{40}'..='\u{7e}') => (None, &body[end + 1..]),
                // It is broken off.
                _ => (None, &body[end..]),
            }
        }
        // A title or a link, up to its end.
        Some(b']') => match rest.find(['\u{7}', '\u{1b}']) {
            Some(end) if rest.as_bytes()[end] == 7 => (None, after(end + 1)),
            Some(end) if rest[end..].starts_with("\u{1b}\\") => (None, after(end + 2)),
            Some(end) => (None, after(end)),
            None => (None, ""),
        },
        Some(0x20..=0x7e) => (None, after(1)),
        _ => (None, rest),
    }
}

/// The text with its styles.
pub fn html(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    let (mut style, mut shown) = (Style::default(), Style::default());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')).unwrap_or(rest.len());
        if end > 0 {
            if style != shown {
                change(&mut html, &shown, &style);
                shown = style.clone();
            }
            push_escaped(&mut html, &rest[..end]);
        }
        let mut control = rest[end..].chars();
        let first = control.next();
        rest = control.as_str();
        if first == Some('\u{1b}') {
            let (parameters, after) = sequence(rest);
            if let Some(parameters) = parameters {
                style.apply(parameters);
            }
            rest = after;
        }
    }
    change(&mut html, &shown, &Style::default());
    html
}

fn change(html: &mut String, from: &Style, to: &Style) {
    if *from != Style::default() {
        html.push_str("</span>");
    }
    if *to != Style::default() {
        html.push_str(&format!("<span class=\"{}\">", to.class()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_spans() {
        for (text, expected) in [
            ("plain <b> & x\n", "plain &lt;b&gt; &amp; x\n"),
            ("\u{1b}[1;31mred\u{1b}[0m done", r#"<span class="ansi1 ansi31">red</span> done"#),
            (
                "\u{1b}[32mg\u{1b}[44mb\u{1b}[39mc",
                concat!(
                    r#"<span class="ansi32">g</span><span class="ansi32 ansi44">b</span>"#,
                    r#"<span class="ansi44">c</span>"#
                ),
            ),
            ("\u{1b}[1m\u{1b}[mx", "x"),
            (
                "\u{1b}[38;5;208mo\u{1b}[48;2;1;2;255mt",
                concat!(r#"<span class="ansi38-208">o</span>"#, r#"<span class="ansi38-208 ansi48-0102ff">t</span>"#),
            ),
            ("\u{1b}[3mi\u{1b}[23m.", r#"<span class="ansi3">i</span>."#),
        ] {
            assert_eq!(html(text), expected, "{text:?}");
        }
    }

    #[test]
    fn other_sequences_are_left_out() {
        for text in [
            "a\u{1b}[2Kb",
            "a\u{1b}[?25lb",
            "a\u{7}b",
            "a\u{1b}]0;title\u{7}b",
            "a\u{1b}]8;;http://x\u{1b}\\b",
            "a\u{1b}cb",
            "a\u{9b}b",
            "a\u{1b}[99999999999mb",
        ] {
            assert_eq!(html(text), "ab", "{text:?}");
        }
        for broken in ["a\u{1b}", "a\u{1b}[", "a\u{1b}[1;", "a\u{1b}]x", "a\u{1b}[38;5m", "a\u{1b}[1m"] {
            assert_eq!(html(broken), "a", "{broken:?}");
        }
        assert_eq!(html("a\u{1b}[1é"), "aé");
        assert_eq!(html("\u{1b}é"), "é");
    }

    #[test]
    fn no_sequence_adds_a_class_of_its_own() {
        assert_eq!(html("\u{1b}[\"onload=xm<"), "nload=xm&lt;");
    }
}

//! Payloads as HTML that a page may contain, in the structure that Kodosumi gives them. Pure. Used by [`super::frames`] and
//! [`super::outputs`].
//!
//! Agents write payloads, and what they write may be anything: all of it passes [`safe`], or is escaped. Time and memory
//! are linear in the payload.
//!
//! - [`objects`] are what agents show: Markdown, HTML, text, and the objects of their framework.
//! - [`safe`] is HTML without what could act.
//! - [`ansi`] is what is printed, with its colours.

mod ansi;
mod objects;
mod safe;

use serde_json::{Value, value::RawValue};

use crate::database::Kind;

/// The largest payload that is rendered. A larger one is shown as it is.
const MOST: usize = 128 * 1024;
/// How many bytes may become of one, and how many in any case: the bytes of answers are bounded by those of payloads.
const GROWTH: (usize, usize) = (7, 490);

/// What is shown of a payload.
pub fn html(kind: Kind, payload: &str) -> String {
    let rendered = match kind {
        _ if payload.len() > MOST => None,
        Kind::Inputs => yaml(payload),
        Kind::Stdout | Kind::Stderr => Some(ansi::html(payload)),
        Kind::Action | Kind::Result | Kind::Final => objects::html(payload),
        Kind::Meta | Kind::Agent | Kind::Upload | Kind::Lock | Kind::Lease => json(payload),
        Kind::Status | Kind::Debug | Kind::Error => None,
    };
    rendered.filter(|html| size(html) <= GROWTH.0 * payload.len() + GROWTH.1).unwrap_or_else(|| escaped(payload))
}

/// How many bytes HTML takes in frames, where each line begins with `data: `.
fn size(html: &str) -> usize {
    html.len() + 6 * html.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count()
}

/// Inputs as YAML.
fn yaml(payload: &str) -> Option<String> {
    let value: Value = serde_json::from_str(payload).ok()?;
    serde_yaml_ng::to_string(&value).ok().map(|yaml| escaped(&yaml))
}

/// JSON that means the same and has nothing that HTML would read: such characters are in its strings alone.
fn json(payload: &str) -> Option<String> {
    let value: &RawValue = serde_json::from_str(payload).ok()?;
    Some(value.get().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}

/// A text as HTML shows it.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_escaped(&mut escaped, text);
    escaped
}

fn push_escaped(html: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            c => html.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fuzz::check;

    #[test]
    fn inputs_are_yaml() {
        let shown = html(Kind::Inputs, r#"{"dict":{"list":[1,null],"n":1.0,"text":"a <b>"}}"#);
        assert_eq!(shown, "dict:\n  list:\n  - 1\n  - null\n  n: 1.0\n  text: a &lt;b&gt;\n");
        let deep = format!(r#"{{"dict":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(html(Kind::Inputs, &deep), deep, "too deep to be read");
    }

    #[test]
    fn data_stay_json_and_texts_are_escaped() {
        let payload = json!({ "dict": { "name": "<script>&</script>" } }).to_string();
        for kind in [Kind::Meta, Kind::Agent, Kind::Upload, Kind::Lock, Kind::Lease] {
            let found = html(kind, &payload);
            assert!(!found.contains(['<', '>', '&']), "{found}");
            assert_eq!(
                serde_json::from_str::<Value>(&found).unwrap(),
                serde_json::from_str::<Value>(&payload).unwrap()
            );
            assert_eq!(html(kind, "<img src=x>"), "&lt;img src=x&gt;", "no JSON");
        }
        for kind in [Kind::Status, Kind::Debug, Kind::Error] {
            assert_eq!(html(kind, "a <b> & \"c\""), "a &lt;b&gt; &amp; \"c\"");
        }
    }

    #[test]
    fn what_is_large_or_grows_is_shown_as_it_is() {
        let large = format!(r#"{{"Markdown":{{"body":"{}"}}}}"#, "*x* ".repeat(MOST / 4));
        assert_eq!(html(Kind::Result, &large), large);
        // Rows are filled up to as many cells as the first has.
        let table = "|a".repeat(200) + "|\n" + &"|-".repeat(200) + "|\n" + &"|x\n".repeat(1000);
        let table = json!({ "Markdown": { "body": table } }).to_string();
        assert_eq!(html(Kind::Result, &table), table);
    }

    #[test]
    fn whatever_agents_write_acts_in_no_page() {
        let parts = prop_oneof![
            concat!(
                "(<|>|<a href=|<img src=|<b>|</b>|<p>|<script>|<svg>|<style>|href=|src=|onload=|&|\"|'|=| |\n|#|x",
                "|javascript:|&#106;avascript:|data:|\\*|`|!\\[|\\]\\(|\\)|\u{1b}\\[1m){0,40}"
            ),
            any::<String>(),
        ];
        check("rendered payloads", parts, |text| {
            for class in ["Markdown", "HTML", "Text", "TaskOutput", "CrewOutput", "Other", "<b>"] {
                let value = json!({ "body": text, "raw": text, "name": text, "description": text });
                let payload = json!({ class: value }).to_string();
                let found = html(Kind::Result, &payload);
                prop_assert!(size(&found) <= GROWTH.0 * payload.len() + GROWTH.1);
                if let Some(acts) = safe::tests::acts(&found) {
                    prop_assert!(false, "{}: {}", acts, found);
                }
            }
            for kind in Kind::ALL {
                let found = html(kind, &text);
                if let Some(acts) = safe::tests::acts(&found) {
                    prop_assert!(false, "{}: {}", acts, found);
                }
            }
            Ok(())
        });
    }
}

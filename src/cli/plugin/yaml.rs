//! YAML that is harmless on a terminal: what acts there is escaped, which only YAML's quoted strings can do. Used by
//! [`super::output`].

use serde_json::Value;

use super::text;

/// A value as a document, its last line ended.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    node(value, 0, &mut out);
    out
}

/// A list's item in a list that begins its lines with so many spaces.
pub(super) fn item(value: &Value, indent: usize) -> String {
    let mut lines = String::new();
    node(value, indent + 2, &mut lines);
    let rest = lines.get(indent + 2..).filter(|_| is_block(value)).unwrap_or(&lines);
    format!("{}- {rest}", " ".repeat(indent))
}

/// Whether a value has lines of its own.
fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn node(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                out.push_str(&format!("{}{}:", " ".repeat(indent), word(key)));
                match value {
                    // kubectl doesn't indent lists in mappings either.
                    Value::Array(items) if !items.is_empty() => {
                        out.push('\n');
                        node(value, indent, out);
                    }
                    Value::Object(fields) if !fields.is_empty() => {
                        out.push('\n');
                        node(value, indent + 2, out);
                    }
                    _ => {
                        out.push(' ');
                        node(value, 0, out);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => items.iter().for_each(|value| out.push_str(&item(value, indent))),
        Value::Object(_) => out.push_str("{}\n"),
        Value::Array(_) => out.push_str("[]\n"),
        Value::String(text) => out.push_str(&format!("{}\n", word(text))),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&format!("{value}\n")),
    }
}

/// A string, quoted unless it can be nothing else.
fn word(text: &str) -> String {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    // What some YAML takes for a boolean, a number or null.
    let other = ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf", "infinity"];
    match first && text.chars().all(plain) && !text.ends_with(':') && !other.contains(&text.to_lowercase().as_str()) {
        true => text.into(),
        false => text::json(&text.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_written_as_kubectl_writes_it() {
        let value = json!({ "metadata": { "name": "x", "labels": {} }, "spec": { "containers": [
            { "name": "agent", "args": ["a b", "c"], "env": [] }, [1, [2]], "s"] } });
        let wanted = "\
metadata:
  labels: {}
  name: x
spec:
  containers:
  - args:
    - \"a b\"
    - c
    env: []
    name: agent
  - - 1
    - - 2
  - s
";
        assert_eq!(document(&value), wanted);
    }

    #[test]
    fn what_is_read_back_is_what_was_written_and_nothing_acts() {
        let strings = [
            "",
            "true",
            "No",
            "1",
            "1.5",
            "0x1",
            "2026-01-01T00:00:00Z",
            "a: b",
            "a #b",
            "a:",
            "- a",
            "~",
            "&a",
            "*a",
            "x\n\u{1b}]52;c;\u{7}\u{9b}2J\u{202e}\u{2028}\u{7f}\t",
            " a ",
            "ü",
            "localhost/x:none",
            "/a/b",
            "😀",
            "!x",
            "%",
        ];
        for text in strings {
            let value = json!({ text: [text, { "k": text }], "n": [1, -2.5, null, true, {}, []] });
            let shown = document(&value);
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n' || "\u{202e}\u{2028}".contains(c)), "{shown:?}");
            let read: Value = serde_yaml_ng::from_str(&shown).unwrap_or_else(|e| panic!("{e}: {shown}"));
            assert_eq!(read, value, "{shown}");
        }
    }
}

//! What agents show: a JSON object with one key, the name of the value's class. Pure. Used by [`super`].

use pulldown_cmark::{Event, Options, Parser, html::push_html};
use serde_json::{Map, Value};

use super::{escaped, safe::safe};

/// The payload; `None` if it is none.
pub fn html(payload: &str) -> Option<String> {
    let root: Map<String, Value> = serde_json::from_str(payload).ok()?;
    let shown: Vec<String> = root.iter().map(|(class, value)| object(class, value)).collect();
    Some(shown.join("\n"))
}

fn object(class: &str, value: &Value) -> String {
    let field = |name: &str| value.get(name).filter(|value| !is_empty(value)).map(text);
    let body = || field("body").unwrap_or_default();
    match class {
        "Text" if value.is_object() => format!("<blockquote><code>{}</code></blockquote>", escaped(&body())),
        "HTML" if value.is_object() => safe(&body()),
        "Markdown" if value.is_object() => markdown(&dedented(&body())),
        "AgentFinish" if value.is_object() => finish(&field, "Agent Finish"),
        "AgentAction" if value.is_object() => finish(&field, "Agent Action"),
        "ToolResult" if value.is_object() => {
            let result = field("result").map(|result| markdown(&result));
            [Some(title(1, "Tool Result")), result].into_iter().flatten().collect::<Vec<_>>().join("\n")
        }
        "TaskOutput" if value.is_object() => task(&field),
        "CrewOutput" if value.is_object() => {
            let raw = field("raw").map_or_else(|| "no output found".into(), |raw| markdown(&raw));
            let tasks = value.get("tasks_output").and_then(Value::as_array).into_iter().flatten();
            let tasks = tasks.map(|value| object("TaskOutput", value));
            [title(1, "Crew Output"), raw].into_iter().chain(tasks).collect::<Vec<_>>().join("\n")
        }
        _ => format!("{}\n<pre>{}</pre>", title(1, class), escaped(&text(value))),
    }
}

fn title(level: u8, text: &str) -> String {
    format!(r#"<div class="info-l{level}"><span class="info-text">{}</span></div>"#, escaped(text))
}

fn finish(field: &dyn Fn(&str) -> Option<String>, name: &str) -> String {
    let mut parts = vec![title(1, name)];
    if let Some(thought) = field("thought") {
        parts.extend([title(2, "Thought"), markdown(&thought)]);
    }
    parts.extend(field("text").or_else(|| field("output")).map(|text| markdown(&text)));
    parts.join("\n")
}

fn task(field: &dyn Fn(&str) -> Option<String>) -> String {
    let agent = field("agent").unwrap_or_else(|| "unnamed agent".into());
    let heading = field("name").map_or_else(|| agent.clone(), |name| format!("{name} ({agent})"));
    let mut parts = vec![title(1, "Task Output"), title(2, &heading)];
    if let Some(description) = field("description") {
        parts.push(format!("{}<em>{}</em>", title(3, "Task Description:"), escaped(&description)));
    }
    parts.extend(field("raw").map(|raw| markdown(&raw)));
    parts.join("\n")
}

/// What Python takes for false.
fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || value.as_str() == Some("")
}

/// A text as it is, all else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// Markdown whose line ends are kept, as Kodosumi has it; also with tables. HTML within it is made safe with the rest.
fn markdown(text: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let events = Parser::new_ext(text, options).map(|event| match event {
        Event::SoftBreak => Event::HardBreak,
        event => event,
    });
    let mut html = String::with_capacity(text.len() * 2);
    push_html(&mut html, events);
    safe(&html)
}

/// Without the indentation that all lines have.
fn dedented(text: &str) -> String {
    let indentation = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let common = text.lines().filter(|line| !line.trim().is_empty()).map(indentation).min().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(|line| line.get(common..).unwrap_or_default()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(value: Value) -> String {
        html(&value.to_string()).unwrap()
    }

    #[test]
    fn a_body_is_shown_by_its_class() {
        let text = shown(json!({ "Text": { "body": "a <b>\nc" } }));
        assert_eq!(text, "<blockquote><code>a &lt;b&gt;\nc</code></blockquote>");
        assert_eq!(shown(json!({ "HTML": { "body": "<b onclick=x>a</b><script>x</script>" } })), "<b>a</b>");
        let markdown =
            shown(json!({ "Markdown": { "body": "\n    # A\n\n    b\n    *c* <i>d</i><script>x</script>" } }));
        assert_eq!(markdown, "<h1>A</h1>\n<p>b<br>\n<em>c</em> <i>d</i></p>\n");
        let code = shown(json!({ "Markdown": { "body": "```\na < b\n```" } }));
        assert_eq!(code, "<pre><code>a &lt; b\n</code></pre>\n");
        let table = shown(json!({ "Markdown": { "body": "|a|\n|-|\n|b|" } }));
        assert!(table.starts_with("<table><thead><tr><th>a</th></tr></thead>"), "{table}");
    }

    #[test]
    fn other_classes_are_shown_with_their_name() {
        let title = |name: &str| format!(r#"<div class="info-l1"><span class="info-text">{name}</span></div>"#);
        assert_eq!(
            shown(json!({ "dict": { "a": [1, "<"] } })),
            format!("{}\n<pre>{{\"a\":[1,\"&lt;\"]}}</pre>", title("dict"))
        );
        assert_eq!(shown(json!({ "str": "x\ny" })), format!("{}\n<pre>x\ny</pre>", title("str")));
        assert_eq!(shown(json!({ "<b>": null })), format!("{}\n<pre>null</pre>", title("&lt;b&gt;")));
        assert_eq!(shown(json!({ "Markdown": "text" })), format!("{}\n<pre>text</pre>", title("Markdown")));
        assert_eq!(html("[]"), None);
        assert_eq!(html("plain"), None);
    }

    #[test]
    fn what_a_crew_tells_is_shown_as_by_kodosumi() {
        let title = |level: u8, name: &str| {
            format!(r#"<div class="info-l{level}"><span class="info-text">{name}</span></div>"#)
        };
        let action = shown(json!({ "AgentAction": { "thought": "hm", "text": "", "output": "*o*" } }));
        let expected =
            [title(1, "Agent Action"), title(2, "Thought"), "<p>hm</p>\n".into(), "<p><em>o</em></p>\n".into()];
        assert_eq!(action, expected.join("\n"));
        assert_eq!(
            shown(json!({ "ToolResult": { "result": "r" } })),
            format!("{}\n<p>r</p>\n", title(1, "Tool Result"))
        );
        let task = json!({ "name": "n", "agent": "a", "description": "<d>", "raw": "r" });
        let output = [
            title(1, "Task Output"),
            title(2, "n (a)"),
            title(3, "Task Description:") + "<em>&lt;d&gt;</em>",
            "<p>r</p>\n".into(),
        ]
        .join("\n");
        assert_eq!(shown(json!({ "TaskOutput": task })), output);
        let crew = shown(json!({ "CrewOutput": { "raw": null, "tasks_output": [task] } }));
        assert_eq!(crew, format!("{}\nno output found\n{output}", title(1, "Crew Output")));
    }
}

//! What the documents promise: pages and links, manifests, commands, and tables that follow from the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Command};
use koco::protocol::error_types;
use serde::Deserialize;
use serde_json::Value;

use super::root;

/// A Markdown file, by its path in the repository.
struct Page {
    path: PathBuf,
    text: String,
}

fn pages() -> Vec<Page> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let (name, path) = (entry.file_name().into_string().unwrap(), folder.join(entry.file_name()));
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.') && !["target", "dist"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(Page { text: fs::read_to_string(root().join(&path)).unwrap(), path });
            }
        }
    }
    found
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

impl Page {
    /// Its lines outside of code, without what stands in backticks.
    fn prose(&self) -> Vec<String> {
        let mut in_code = false;
        let mut prose = Vec::new();
        for line in self.text.lines() {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            if !in_code && !fence {
                prose.push(line.split('`').step_by(2).collect::<Vec<_>>().join("`"));
            }
        }
        prose
    }

    /// The targets of its links, also of images.
    fn links(&self) -> Vec<String> {
        // A link may go over the end of a line.
        let text = self.prose().join("\n");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.map(|(target, _)| target.split_whitespace().next().unwrap_or_default().to_string()).collect()
    }

    /// The anchors of its headings, by GitHub's and mdBook's rule.
    fn anchors(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut in_code = false;
        for line in self.text.lines() {
            in_code ^= line.trim_start().starts_with("```");
            let heading = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#') && !in_code);
            let kept = heading.unwrap_or_default().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
            let numbered = (1..).map(|n| format!("{anchor}-{n}"));
            let free = std::iter::once(anchor.clone()).chain(numbered).find(|name| !found.contains(name));
            found.extend(free.filter(|_| !anchor.is_empty()));
        }
        found
    }

    /// Its blocks of code in one language.
    fn code(&self, language: &str) -> Vec<String> {
        let fence = format!("```{language}\n");
        let blocks = self.text.split(&fence).skip(1).filter_map(|rest| rest.split_once("```"));
        blocks.map(|(code, _)| code.to_string()).collect()
    }
}

/// A path without its `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            assert!(plain.pop(), "{} leaves the repository", path.display());
        } else {
            plain.push(part);
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let anchors: BTreeMap<_, _> = pages.iter().map(|page| (page.path.clone(), page.anchors())).collect();
    let mut followed = 0;
    for page in &pages {
        for link in page.links().into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = page.path.parent().unwrap();
            let target = if path.is_empty() { page.path.clone() } else { plain(&folder.join(path)) };
            assert!(root().join(&target).exists(), "{}: nothing is at {link}", page.path.display());
            let there = anchor.is_empty() || anchors.get(&target).is_some_and(|all| all.contains(anchor));
            assert!(there, "{}: no heading is called so: {link}", page.path.display());
            followed += 1;
        }
    }
    assert!(followed > 200, "{followed}");
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = Page { path: "docs/SUMMARY.md".into(), text: page("docs/SUMMARY.md") };
    let listed: Vec<_> = summary.links().iter().map(|link| plain(&Path::new("docs").join(link))).collect();
    for page in pages().iter().filter(|page| page.path.starts_with("docs") && page.path != summary.path) {
        let times = listed.iter().filter(|path| **path == page.path).count();
        assert_eq!(times, 1, "how many lines docs/SUMMARY.md has for {}", page.path.display());
    }
}

#[test]
fn the_readme_has_two_screens() {
    assert!(page("README.md").lines().count() <= 120, "move it to docs/");
}

/// The fields of a value that a schema doesn't know.
fn unknown(path: &str, schema: &Value, value: &Value) -> Vec<String> {
    let below = |key: &str, schema: &Value, value: &Value| unknown(&format!("{path}.{key}"), schema, value);
    match (value, &schema["properties"]) {
        (Value::Object(fields), Value::Object(known)) => {
            let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
            let of = |(key, value): (&String, &Value)| match known.get(key) {
                Some(schema) => below(key, schema, value),
                None if open || path.is_empty() => vec![],
                None => vec![format!("{path}.{key}")],
            };
            fields.iter().flat_map(of).collect()
        }
        (Value::Array(items), _) => items.iter().flat_map(|item| below("[]", &schema["items"], item)).collect(),
        _ => vec![],
    }
}

fn schema(crd: &impl serde::Serialize) -> Value {
    serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn manifests_are_agent_jobs() {
    let schema = schema(&koco::cli::crd::definitions()[0]);
    let mut read = 0;
    for page in pages() {
        for block in page.code("yaml").iter().filter(|block| block.contains("kind: AgentJob")) {
            // A block in a list is indented.
            let indent = block.lines().map(|line| line.len() - line.trim_start().len()).next().unwrap_or_default();
            let text: String =
                block.lines().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
            for document in serde_yaml_ng::Deserializer::from_str(&text) {
                let job = Value::deserialize(document).unwrap_or_else(|e| panic!("{}: {e}", page.path.display()));
                assert_eq!(unknown("", &schema, &job), Vec::<String>::new(), "{}", page.path.display());
                serde_json::from_value::<koco::api::AgentJob>(job)
                    .unwrap_or_else(|e| panic!("{}: {e}", page.path.display()));
                read += 1;
            }
        }
    }
    assert!(read > 4, "{read}");
    let wrong =
        serde_json::json!({ "spec": { "inptus": {}, "template": { "spec": { "containers": [{ "image": "i" }] } } } });
    assert_eq!(unknown("", &schema, &wrong), [".spec.inptus"]);
}

/// The commands of a block of shell, each with its continued lines, without comments. What follows && is one of its own.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split(" #").next().unwrap_or_default());
    let commands = lines.flat_map(|line| line.split("&&")).map(|command| command.trim().to_string());
    commands.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn commands_name_what_there_is() {
    let makefile = page("Makefile");
    let targets: BTreeSet<&str> = makefile.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    let values: Value = serde_yaml_ng::from_str(&page("charts/koco/values.yaml")).unwrap();
    let mut named = 0;
    for page in pages() {
        for command in page.code("sh").iter().flat_map(|block| commands(block)) {
            let words: Vec<&str> = command.split_whitespace().skip_while(|word| word.contains('=')).collect();
            let place = page.path.display();
            if words.first() == Some(&"make") {
                for target in words[1..].iter().filter(|word| !word.contains('=')) {
                    assert!(targets.contains(target), "{place}: make {target}");
                }
            }
            if words.first() == Some(&"helm") {
                for set in words.windows(2).filter(|pair| pair[0] == "--set").filter_map(|pair| pair[1].split_once('='))
                {
                    let there = values.pointer(&format!("/{}", set.0.replace('.', "/")));
                    assert!(there.is_some(), "{place}: the chart has no value {}", set.0);
                }
            }
            // Package documents are read in their own folder.
            let ours = ["charts/", "deploy/", "./python", "crds/"];
            for path in words.iter().filter(|word| ours.iter().any(|folder| word.starts_with(folder))) {
                assert!(root().join(path.trim_end_matches('/')).exists(), "{place}: {path} is not there");
                named += 1;
            }
        }
    }
    assert!(named > 10, "{named}");
}

/// The rows of a page's tables, each as its cells.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The settings of the roles, by the letters that the document gives them.
fn settings() -> Vec<(char, Command)> {
    let common = || koco::platform::settings::Common::augment_args(Command::new("koco"));
    let pods = || koco::pods::PodSettings::augment_args(common());
    let defaults = koco::controller::agentjob::Defaults::augment_args(pods());
    vec![
        ('c', koco::controller::ControllerSettings::augment_args(defaults)),
        ('w', koco::worker::WorkerSettings::augment_args(pods())),
        ('g', koco::gateway::Settings::augment_args(common())),
        ('s', koco::server::Settings::augment_args(common())),
    ]
}

#[test]
fn the_settings_are_those_of_the_code() {
    let text = page("docs/settings.md");
    let rows = rows(&text);
    let mut known = BTreeSet::new();
    for (role, command) in settings() {
        for argument in command.get_arguments() {
            let flag = format!("`--{}`", argument.get_long().unwrap());
            let row = rows.iter().find(|row| row[0] == flag).unwrap_or_else(|| panic!("docs/settings.md lacks {flag}"));
            let variable = argument.get_env().unwrap().to_str().unwrap();
            assert_eq!(row[1], format!("`{variable}`"), "{flag}");
            let default = argument.get_default_values().first().map(|value| value.to_str().unwrap());
            let said = row[3].replace("VERSION", env!("CARGO_PKG_VERSION"));
            let same = argument.is_hide_default_value_set()
                || flag == "`--identity`"
                || match default {
                    Some(default) => said.contains(&format!("`{default}`")),
                    None => !said.starts_with('`') || flag == "`--task-queue`",
                };
            assert!(same, "{flag}: its default is {default:?}, and docs/settings.md says {said}");
            known.insert((flag, role));
        }
    }
    for row in rows.iter().filter(|row| row[0].starts_with("`--")) {
        for role in row[4].chars().filter(|c| c.is_alphabetic()) {
            assert!(known.contains(&(row[0].to_string(), role)), "{} is no setting of {role}", row[0]);
        }
    }
}

#[test]
fn the_error_types_are_those_of_the_code() {
    let text = page("docs/failures.md");
    let (_, table) = text.split_once("## Error types").unwrap();
    let rows = rows(table);
    let listed: BTreeSet<&str> = rows.iter().filter_map(|row| row[0].strip_prefix('`')?.strip_suffix('`')).collect();
    for kind in &listed {
        assert_ne!(error_types::word(kind), "Custom", "there is no error type {kind}");
    }
    let code = page("src/protocol/error_types.rs");
    let mut comment = String::new();
    for line in code.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            comment = format!("{comment} {text}");
        } else if let Some((_, kind)) = line.strip_prefix("pub const ").and_then(|line| line.split_once("= \"")) {
            let seen = !["history only", "Never in a status"].iter().any(|words| comment.contains(words));
            let kind = kind.trim_end_matches("\";");
            assert!(!seen || listed.contains(kind), "docs/failures.md lacks {kind}");
            comment.clear();
        }
    }
}

#[test]
fn the_reasons_of_conditions_are_those_of_the_code() {
    let (code, text) = (page("src/api/conditions.rs"), page("docs/agentjob.md"));
    let arms = code.lines().filter(|line| line.trim_start().starts_with("Self::"));
    let reasons: Vec<&str> = arms.filter_map(|arm| arm.split_once("=> \"")?.1.strip_suffix("\",")).collect();
    assert!(reasons.len() > 20, "{reasons:?}");
    for reason in reasons {
        assert!(text.contains(&format!("`{reason}`")), "docs/agentjob.md lacks {reason}");
    }
}

/// The rows of a schema's fields, as `docs/crds.md` has them.
fn fields(path: &str, schema: &Value, table: &mut String) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let list = if field["type"] == "array" { "[]" } else { "" };
        let path = format!("{path}{name}{list}");
        let values = field["enum"].as_array();
        let kind = match values.map(|values| values.iter().filter_map(Value::as_str).collect::<Vec<_>>()) {
            Some(values) => values.join(", "),
            None if field["format"] == "date-time" => "time".into(),
            None => field["type"].as_str().unwrap_or("any").to_string(),
        };
        let bounds = match (field["minimum"].as_f64(), field["maximum"].as_f64()) {
            (Some(least), Some(most)) => format!(", {least} to {most}"),
            _ => String::new(),
        };
        let default = field.get("default").map(|value| format!("`{value}`")).unwrap_or_default();
        let text = field["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(table, "| `{path}` | {kind}{bounds} | {default} | {} |", text.replace('|', "\\|")).unwrap();
        let inner = if list.is_empty() { field } else { &field["items"] };
        fields(&format!("{path}."), inner, table);
    }
}

/// The messages of a schema's rules.
fn rules(schema: &Value, found: &mut BTreeSet<String>) {
    let here = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    found.extend(here.filter_map(|rule| rule["message"].as_str()).map(str::to_string));
    for inner in
        schema["properties"].as_object().into_iter().flat_map(|fields| fields.values()).chain(schema.get("items"))
    {
        rules(inner, found);
    }
}

#[test]
fn all_fields_are_in_the_reference() {
    let head = concat!(
        "# All fields\n\nGenerated from the CRDs. `kubectl explain agentjob.spec` says the same. ",
        "What the fields do together is in [AgentJob and AgentRun](agentjob.md).\n"
    );
    let mut text = head.to_string();
    for crd in koco::cli::crd::definitions() {
        let (schema, kind) = (schema(&crd), &crd.spec.names.kind);
        write!(text, "\n## {kind}\n\n| field | type | default | |\n|---|---|---|---|\n").unwrap();
        for part in ["spec", "status"] {
            fields(&format!("{part}."), &schema["properties"][part], &mut text);
        }
        let mut messages = BTreeSet::new();
        rules(&schema, &mut messages);
        write!(text, "\nThe API server refuses what breaks a rule, with one of these messages:\n\n").unwrap();
        for message in messages {
            writeln!(text, "- {}", message.replace('*', "\\*")).unwrap();
        }
    }
    let path = root().join("docs/crds.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    let there = fs::read_to_string(path).unwrap_or_default();
    assert!(there == text, "UPDATE=1 cargo test --test contract all_fields writes docs/crds.md");
}

/// Events that Temporal Cloud bills: starts of workflows, activities and timers, signals, markers of local activities.
const BILLED: [u64; 5] = [1, 10, 17, 26, 25];

#[test]
fn the_price_of_a_job_is_that_of_its_history() {
    let text = page("docs/temporal-cloud.md");
    let (_, table) = text.split_once("<!-- actions -->").unwrap();
    let rows = rows(table.split_once("<!-- end -->").unwrap().0);
    let mut compared = 0;
    for row in rows.iter().filter(|row| row.len() == 3 && row[1].ends_with(".json`")) {
        let history = page(&format!("tests/histories/{}", row[1].trim_matches('`')));
        let history: Value = serde_json::from_str(&history).unwrap();
        let events = history["events"].as_array().unwrap();
        let billed =
            events.iter().filter(|event| event["event_type"].as_u64().is_some_and(|kind| BILLED.contains(&kind)));
        assert_eq!(row[2], billed.count().to_string(), "{row:?}");
        compared += 1;
    }
    assert_eq!(compared, 3);
}

/// Numbers come from measurements, which SCALING.md has.
#[test]
fn measured_numbers_are_those_of_scaling() {
    let (text, scaling) = (page("docs/comparison.md"), page("SCALING.md"));
    let words = |text: &str| -> BTreeSet<String> {
        let words =
            text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_matches('.').to_string());
        words.filter(|word| word.contains('.')).collect()
    };
    let (said, measured) = (words(&text), words(&scaling));
    assert!(said.len() > 5 && said.is_subset(&measured), "{:?}", said.difference(&measured));
}

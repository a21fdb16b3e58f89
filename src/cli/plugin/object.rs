//! AgentJobs before they are created: read from a file, made of an image and a command, changed by `--set`. Pure; used by
//! [`super::create`].

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::names;

/// The longest entry point.
const ENTRY_POINT: usize = 1024;
/// The longest beginning of a name that is made up.
const HEAD: usize = 40;

/// The AgentJobs of a file, YAML or JSON: one document or several, and lists of them.
pub(super) fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    // YAML's strings lack some of JSON's escapes.
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        add(value, &mut found)?;
    } else {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            add(Value::deserialize(document).context("neither YAML nor JSON")?, &mut found)?;
        }
    }
    if found.is_empty() {
        bail!("no AgentJob in it");
    }
    Ok(found)
}

fn add(value: Value, found: &mut Vec<Value>) -> anyhow::Result<()> {
    let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    match (word("kind"), value.get("items").and_then(Value::as_array)) {
        _ if value.is_null() => Ok(()),
        ("List" | "AgentJobList", Some(items)) => items.iter().try_for_each(|item| add(item.clone(), found)),
        ("AgentJob", _) if word("apiVersion") == names::API_VERSION => {
            found.push(value);
            Ok(())
        }
        ("AgentJob", _) => bail!("apiVersion must be {}", names::API_VERSION),
        (kind, _) => bail!("kind {kind:?} is none that is created here, but AgentJob: `kubectl create` does others"),
    }
}

/// An AgentJob that runs a command in an image.
pub(super) fn of_image(name: Option<&str>, image: &str, command: &[String], env: &[(String, String)]) -> Value {
    let metadata = match name {
        Some(name) => json!({ "name": name }),
        None => json!({ "generateName": head(image) + "-" }),
    };
    let mut container = json!({ "name": "agent", "image": image, "command": command });
    if !env.is_empty() {
        container["env"] = env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    }
    let entry_point: String = command.join(" ").chars().take(ENTRY_POINT).collect();
    json!({
        "apiVersion": names::API_VERSION, "kind": "AgentJob", "metadata": metadata,
        "spec": { "entryPoint": entry_point, "template": { "spec": { "containers": [container] } } },
    })
}

/// The beginning of a name, from an image: the last part of its path, without tag and digest.
fn head(image: &str) -> String {
    let path = image.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = last.chars().map(plain).take(HEAD).collect();
    match name.trim_matches('-') {
        "" => "agent".into(),
        name => name.into(),
    }
}

/// Reads `NAME=VALUE` of a variable.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("not NAME=VALUE".into()),
    }
}

/// A change of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    path: Vec<Step>,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Item(usize),
}

impl Setting {
    /// Reads `PATH=VALUE`; a value that is JSON is taken as that, all else as a string.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, value) = split(text)?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok(Self { path, value })
    }

    /// The same, with a string whatever it looks like.
    pub fn parse_string(text: &str) -> Result<Self, String> {
        let (path, value) = split(text)?;
        Ok(Self { path, value: value.into() })
    }

    /// Changes an object. What the path leads through is made, unless it is something else.
    pub fn apply(&self, object: &mut Value) -> Result<(), String> {
        let mut at = object;
        for step in &self.path {
            at = match (step, at) {
                (Step::Field(name), Value::Object(fields)) => fields.entry(name.clone()).or_insert(Value::Null),
                (Step::Field(name), at) if at.is_null() => {
                    *at = Value::Object(Map::new());
                    &mut at[name.as_str()]
                }
                (Step::Item(n), at) if at.is_null() || at.is_array() => {
                    if at.is_null() {
                        *at = json!([]);
                    }
                    let Value::Array(items) = at else { return Err("no list".into()) };
                    if *n > items.len() {
                        return Err(format!("[{n}] is past the end of a list with {} items", items.len()));
                    }
                    if *n == items.len() {
                        items.push(Value::Null);
                    }
                    &mut items[*n]
                }
                (Step::Field(name), _) => return Err(format!("{name} is a field, and what it is to be in has none")),
                (Step::Item(n), _) => return Err(format!("[{n}] is an item, and what it is to be in is no list")),
            };
        }
        *at = self.value.clone();
        Ok(())
    }
}

/// A path from the spec, or from the object if it begins with `metadata` or `spec`; and the value.
fn split(text: &str) -> Result<(Vec<Step>, &str), String> {
    let (mut path, mut word, mut rest) = (Vec::new(), String::new(), None);
    let mut chars = text.char_indices();
    let mut field = |word: &mut String| match word.is_empty() {
        true => Err("an empty name in the path".to_string()),
        false => steps(&std::mem::take(word)).map(|steps| path.extend(steps)),
    };
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => word.extend(chars.next().map(|(_, c)| c)),
            '.' => field(&mut word)?,
            '=' => {
                field(&mut word)?;
                rest = Some(&text[at + 1..]);
                break;
            }
            c => word.push(c),
        }
    }
    let rest = rest.ok_or("not PATH=VALUE")?;
    if !matches!(path.first(), Some(Step::Field(name)) if ["metadata", "spec"].contains(&name.as_str())) {
        path.insert(0, Step::Field("spec".into()));
    }
    Ok((path, rest))
}

/// A name and the items after it, such as `containers[0]`.
fn steps(word: &str) -> Result<Vec<Step>, String> {
    let Some((name, items)) = word.split_once('[') else { return Ok(vec![Step::Field(word.into())]) };
    let items = items.strip_suffix(']').ok_or_else(|| format!("{word}: a [ without its ]"))?;
    let number = |n: &str| n.parse().map(Step::Item).map_err(|_| format!("{word}: [{n}] is no number"));
    let items: Vec<_> = items.split("][").map(number).collect::<Result<_, _>>()?;
    Ok(std::iter::once(Step::Field(name.into())).filter(|_| !name.is_empty()).chain(items).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "apiVersion: kodosumi.io/v1alpha1\nkind: AgentJob\nmetadata: {name: x}\nspec: {entryPoint: e}\n";

    #[test]
    fn files_hold_one_job_or_several() {
        assert_eq!(documents(JOB).unwrap().len(), 1);
        assert_eq!(documents(&format!("---\n{JOB}---\n# nothing\n---\n{JOB}")).unwrap().len(), 2);
        let job = &documents(JOB).unwrap()[0];
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": [job, job] });
        assert_eq!(documents(&list.to_string()).unwrap().len(), 2);
        let escaped = json!({ "apiVersion": names::API_VERSION, "kind": "AgentJob", "x": "😀" }).to_string();
        assert_eq!(documents(&escaped.replace('😀', "\\ud83d\\ude00")).unwrap()[0]["x"], "😀");
    }

    #[test]
    fn what_is_no_job_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "no AgentJob"),
            ("kind: Pod\napiVersion: v1\n", "kubectl create"),
            ("kind: AgentJob\napiVersion: kodosumi.io/v2\n", "kodosumi.io/v1alpha1"),
            ("a: [", "neither YAML nor JSON"),
            ("just words", "kubectl create"),
        ] {
            let error = format!("{:#}", documents(text).unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn an_image_and_a_command_are_a_job() {
        let command = ["sh".to_string(), "-c".into(), "echo".into()];
        let job = of_image(None, "registry:5000/a/Busy_Box:1@sha256:00", &command, &[("A".into(), "b=c".into())]);
        assert_eq!(job["metadata"], json!({ "generateName": "busy-box-" }));
        assert_eq!(job["spec"]["entryPoint"], "sh -c echo");
        assert_eq!(
            job["spec"]["template"]["spec"]["containers"],
            json!([{ "name": "agent", "image": "registry:5000/a/Busy_Box:1@sha256:00", "command": command,
                "env": [{ "name": "A", "value": "b=c" }] }])
        );
        assert_eq!(of_image(Some("x"), "i", &command, &[])["metadata"], json!({ "name": "x" }));
        assert_eq!((head("::"), head("a/b/")), ("agent".into(), "agent".into()));
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("A").is_err() && variable("=b").is_err());
    }

    fn set(settings: &[&str]) -> Value {
        let mut job = json!({ "metadata": { "name": "x" }, "spec": { "inputs": { "a": 1, "l": [1, 2] } } });
        for setting in settings {
            Setting::parse(setting).unwrap().apply(&mut job).unwrap_or_else(|e| panic!("{setting}: {e}"));
        }
        job
    }

    #[test]
    fn values_are_json_or_else_strings() {
        let inputs = |setting: &str| set(&[setting])["spec"]["inputs"].clone();
        assert_eq!(inputs("inputs.a=2")["a"], 2);
        assert_eq!(inputs("inputs.a=two words = x")["a"], "two words = x");
        assert_eq!(inputs("inputs.b.c={\"d\": [true]}")["b"]["c"]["d"][0], true);
        assert_eq!(inputs("inputs.a=")["a"], "");
        assert_eq!(inputs("spec.inputs={}"), json!({}));
        let text = Setting::parse_string("inputs.a=1.10").unwrap();
        assert_eq!(text.value, "1.10");
    }

    #[test]
    fn paths_lead_through_what_is_there_and_make_the_rest() {
        let job = set(&[
            "metadata.labels.team=x",
            r"metadata.annotations.example\.com/a=b",
            "inputs.l[0]=9",
            "inputs.l[2]=3",
            "template.spec.containers[0].resources.limits.memory=1Gi",
            "inputs.m[0][0]=1",
        ]);
        assert_eq!(job["metadata"]["labels"]["team"], "x");
        assert_eq!(job["metadata"]["annotations"]["example.com/a"], "b");
        assert_eq!(job["spec"]["inputs"], json!({ "a": 1, "l": [9, 2, 3], "m": [[1]] }));
        assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"], "1Gi");
    }

    #[test]
    fn wrong_settings_say_what_is_wrong() {
        for (setting, reason) in [
            ("inputs", "PATH=VALUE"),
            ("=1", "empty name"),
            ("a..b=1", "empty name"),
            ("a[0=1", "without its ]"),
            ("a[x]=1", "no number"),
        ] {
            let error = Setting::parse(setting).unwrap_err();
            assert!(error.contains(reason), "{setting}: {error}");
        }
        let mut job = json!({ "spec": { "a": 1, "l": [] } });
        for (setting, reason) in
            [("a.b=1", "has none"), ("a[0]=1", "no list"), ("l[1]=1", "past the end"), ("l.b=1", "has none")]
        {
            let error = Setting::parse(setting).unwrap().apply(&mut job).unwrap_err();
            assert!(error.contains(reason), "{setting}: {error}");
        }
    }
}

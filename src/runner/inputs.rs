//! The agent's inputs: those of the job, and what the ConfigMaps and Secrets of `spec.inputsFrom` add, which are mounted
//! beside the runner's state. Read once, right before the agent starts, by [`super::supervisor`] alone. No error says
//! anything of a value, which may be a Secret's.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    api::{RawJson, depth},
    protocol::runner::{MAX_INPUTS_DEPTH, MAX_INPUTS_FROM_BYTES},
};

/// What marks a key whose text is JSON. The input has the name without it.
const JSON: &str = ".json";

/// Why there are no inputs. The number is that of the source in `spec.inputsFrom`, from 0.
#[derive(thiserror::Error, Debug)]
pub enum InputsError {
    /// The node's trouble: another pod may have none.
    #[error("spec.inputsFrom[{0}]: {1}")]
    Unreadable(usize, io::Error),
    /// The text is none.
    #[error("spec.inputsFrom[{0}]: key {1} is not UTF-8")]
    NotText(usize, String),
    /// With where it isn't.
    #[error("spec.inputsFrom[{0}]: key {1} is not JSON, in line {2}, column {3}")]
    NotJson(usize, String, usize, usize),
    /// The JSON nests too deeply.
    #[error("spec.inputsFrom[{0}]: key {1} nests deeper than {MAX_INPUTS_DEPTH} levels")]
    TooDeep(usize, String),
    /// All sources together.
    #[error("spec.inputsFrom: more than {MAX_INPUTS_FROM_BYTES} bytes")]
    TooLarge,
    /// Two keys of a source make one input.
    #[error("spec.inputsFrom[{0}]: two keys are the input {1}")]
    Twice(usize, String),
    /// The job's own are no object.
    #[error("spec.inputs: not an object")]
    NotAnObject,
}

impl InputsError {
    /// Whether another pod would meet it, too, as long as its ConfigMaps and Secrets stay as they are.
    pub fn is_of_the_job(&self) -> bool {
        !matches!(self, Self::Unreadable(..))
    }
}

/// The inputs as the agent gets them. A later source wins over an earlier one, and `inputs` over all. Without sources they
/// are passed on as they are, unread.
pub fn merge(inputs: &RawJson, prefixes: &[String], folder: &Path) -> Result<RawJson, InputsError> {
    // A gateway of an older release knows none of them.
    if folder.join(prefixes.len().to_string()).exists() {
        let error = io::Error::other("the gateway says nothing of this source");
        return Err(InputsError::Unreadable(prefixes.len(), error));
    }
    if prefixes.is_empty() {
        return Ok(inputs.clone());
    }
    let (mut merged, mut left) = (BTreeMap::new(), MAX_INPUTS_FROM_BYTES);
    for (source, prefix) in prefixes.iter().enumerate() {
        let mut of_source = BTreeMap::new();
        for (key, path) in keys(&folder.join(source.to_string())).map_err(|e| InputsError::Unreadable(source, e))? {
            let bytes = fs::read(path).map_err(|e| InputsError::Unreadable(source, e))?;
            left = left.checked_sub(bytes.len()).ok_or(InputsError::TooLarge)?;
            let text = String::from_utf8(bytes).map_err(|_| InputsError::NotText(source, key.clone()))?;
            let (name, value) = match key.strip_suffix(JSON).filter(|name| !name.is_empty()) {
                Some(name) => (name, json(source, &key, &text)?),
                None => (key.as_str(), RawJson::from(serde_json::Value::String(text))),
            };
            if of_source.insert(format!("{prefix}{name}"), value).is_some() {
                return Err(InputsError::Twice(source, name.into()));
            }
        }
        merged.extend(of_source);
    }
    let own: BTreeMap<String, RawJson> = inputs.read().map_err(|_| InputsError::NotAnObject)?;
    merged.extend(own);
    RawJson::of(&merged).map_err(|_| InputsError::NotAnObject)
}

fn json(source: usize, key: &str, text: &str) -> Result<RawJson, InputsError> {
    let json: RawJson =
        serde_json::from_str(text).map_err(|e| InputsError::NotJson(source, key.into(), e.line(), e.column()))?;
    if depth(json.get()) > MAX_INPUTS_DEPTH { Err(InputsError::TooDeep(source, key.into())) } else { Ok(json) }
}

/// The keys of a mounted ConfigMap or Secret, by name. The kubelet's own folders beside them begin with two dots, which no
/// key does.
fn keys(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") {
            keys.push((name, entry.path()));
        }
    }
    keys.sort();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    /// A folder for each source, with its keys as a kubelet lays them out.
    fn mounted(sources: &[&[(&str, &[u8])]]) -> PathBuf {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("koco-inputs-{}-{number}", std::process::id()));
        for (source, keys) in sources.iter().enumerate() {
            let source = folder.join(source.to_string());
            fs::create_dir_all(source.join("..2026")).unwrap();
            std::os::unix::fs::symlink("..2026", source.join("..data")).unwrap();
            for (key, bytes) in *keys {
                fs::write(source.join("..2026").join(key), bytes).unwrap();
                std::os::unix::fs::symlink(format!("..data/{key}"), source.join(key)).unwrap();
            }
        }
        folder
    }

    fn merged(inputs: serde_json::Value, prefixes: &[&str], sources: &[&[(&str, &[u8])]]) -> Result<String, String> {
        let (folder, prefixes) = (mounted(sources), prefixes.iter().map(ToString::to_string).collect::<Vec<_>>());
        let merged = merge(&inputs.into(), &prefixes, &folder);
        fs::remove_dir_all(folder).unwrap();
        merged.map(|json| json.get().to_owned()).map_err(|e| e.to_string())
    }

    #[test]
    fn without_sources_inputs_are_passed_on_as_they_are() {
        let inputs: RawJson = serde_json::from_str(r#"{"b": 1.50, "a": {}}"#).unwrap();
        assert_eq!(merge(&inputs, &[], Path::new("/no/such/folder")).unwrap().get(), inputs.get());
    }

    #[test]
    fn keys_become_inputs_and_the_jobs_own_win() {
        let found = merged(
            json!({ "a": 1 }),
            &["", "s_"],
            &[&[("a", b"x"), ("text", b"1\n"), ("list.json", b" [1.50, {}]\n"), (".json", b"{")], &[("a", b"secret")]],
        );
        assert_eq!(found.unwrap(), r#"{".json":"{","a":1,"list":[1.50, {}],"s_a":"secret","text":"1\n"}"#);
        assert_eq!(merged(json!({}), &["", ""], &[&[("a", b"1")], &[("a", b"2")]]).unwrap(), r#"{"a":"2"}"#);
    }

    #[test]
    fn what_is_wrong_is_named_and_its_value_is_not() {
        let of = |key: &str, bytes: &[u8]| merged(json!({}), &["", ""], &[&[], &[(key, bytes)]]).unwrap_err();
        assert_eq!(of("a", b"secret \xff"), "spec.inputsFrom[1]: key a is not UTF-8");
        let error = of("a.json", b"{\n \"secret\": secret}");
        assert!(
            error.starts_with("spec.inputsFrom[1]: key a.json is not JSON, in line 2") && !error.contains("secret")
        );
        let deep = format!("{}{}", "[".repeat(MAX_INPUTS_DEPTH + 1), "]".repeat(MAX_INPUTS_DEPTH + 1));
        assert!(of("a.json", deep.as_bytes()).contains("nests deeper than"));
        assert!(of("a", &vec![b'x'; MAX_INPUTS_FROM_BYTES + 1]).contains("more than"));
        let twice = merged(json!({}), &[""], &[&[("a", b"1"), ("a.json", b"1")]]).unwrap_err();
        assert_eq!(twice, "spec.inputsFrom[0]: two keys are the input a");
        let missing = merge(&json!({}).into(), &[String::new()], Path::new("/no/such/folder")).unwrap_err();
        assert!(!missing.is_of_the_job() && missing.to_string().starts_with("spec.inputsFrom[0]: "));
    }

    #[test]
    fn no_agent_starts_without_a_source_that_is_there() {
        let folder = mounted(&[&[("a", b"1")]]);
        let error = merge(&json!({}).into(), &[], &folder).unwrap_err();
        fs::remove_dir_all(folder).unwrap();
        assert!(!error.is_of_the_job(), "another pod may be told");
    }
}

//! Judges a job's inputs by its JSON Schema. Pure. Used by the runner, which has them all, and by `koco check-inputs`, in
//! which the controller judges those that are in the spec: a schema is a user's, and may take any time and memory.

use boon::{Compiler, ErrorKind, InstanceToken, Schemas, UrlLoader, ValidationError};
use serde_json::Value;

use crate::{api::RawJson, protocol::runner::shorten};

/// What the schema is called, so that its references have something to be relative to.
const NAME: &str = "urn:koco:inputsSchema";
/// How many faults are named.
const FAULTS: usize = 5;
/// The most bytes of a message.
const MAX_MESSAGE: usize = 2000;

/// Why the inputs can't be those of the job. No message has a value of them, which may be a Secret's.
#[derive(thiserror::Error, Debug, PartialEq)]
pub enum SchemaError {
    /// The schema is none.
    #[error("spec.inputsSchema is no JSON Schema that koco can use: {0}")]
    NotASchema(String),
    /// The inputs nest too deeply, or have a number that no double holds.
    #[error("spec.inputs can't be judged by a schema: {0}")]
    Unreadable(String),
    /// What doesn't fit, and where.
    #[error("{0}")]
    Unfit(String),
}

/// A schema is complete in itself: nothing is read from a network or a disk for it.
struct NoLoader;

impl UrlLoader for NoLoader {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        Err(format!("{url} is not read: a schema refers only to what is in it").into())
    }
}

/// Whether inputs fit a schema.
pub fn judge(schema: &RawJson, inputs: &RawJson) -> Result<(), SchemaError> {
    let not = |error: &dyn std::fmt::Display| SchemaError::NotASchema(cut(error.to_string()));
    let schema: Value = schema.read().map_err(|e| not(&e))?;
    let inputs: Value = inputs.read().map_err(|e| SchemaError::Unreadable(e.to_string()))?;
    let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
    compiler.use_loader(Box::new(NoLoader));
    // Newer drafts take `format` for a remark, which is not what those mean who write it.
    compiler.enable_format_assertions();
    compiler.add_resource(NAME, schema).map_err(|e| not(&e))?;
    let index = compiler.compile(NAME, &mut schemas).map_err(|e| not(&format!("{e:#}")))?;
    schemas.validate(&inputs, index).map_err(|error| {
        let mut faults = Faults::default();
        faults.add(&error);
        let more = if faults.more > 0 { format!("; and {} more", faults.more) } else { String::new() };
        SchemaError::Unfit(cut(format!("{}{more}", faults.named.join("; "))))
    })
}

/// What doesn't fit: there may be as many faults as inputs.
#[derive(Default)]
struct Faults {
    named: Vec<String>,
    more: usize,
}

impl Faults {
    fn add(&mut self, error: &ValidationError<'_, '_>) {
        error.causes.iter().for_each(|cause| self.add(cause));
        match error.causes.is_empty() {
            true if self.named.len() == FAULTS => self.more += 1,
            true => {
                let path: String = error.instance_location.tokens.iter().map(step).collect();
                let fault = format!("spec.inputs{path}: {}", wanted(&error.kind));
                if !self.named.contains(&fault) {
                    self.named.push(fault);
                }
            }
            false => {}
        }
    }
}

fn step(token: &InstanceToken<'_>) -> String {
    let is_plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    match token {
        InstanceToken::Item(index) => format!("[{index}]"),
        InstanceToken::Prop(name) if is_plain(name) => format!(".{name}"),
        InstanceToken::Prop(name) => format!("[{name:?}]"),
    }
}

/// What the schema wants. The library's words say what there is, too.
fn wanted(kind: &ErrorKind<'_, '_>) -> String {
    match kind {
        ErrorKind::Format { want, .. } => format!("must be a valid {want}"),
        ErrorKind::Pattern { want, .. } => format!("must match the pattern {want:?}"),
        ErrorKind::ContentEncoding { want, .. } => format!("must be encoded as {want}"),
        ErrorKind::ContentMediaType { want, .. } => format!("must be of the media type {want}"),
        ErrorKind::Minimum { want, .. } => format!("must be >= {want}"),
        ErrorKind::Maximum { want, .. } => format!("must be <= {want}"),
        ErrorKind::ExclusiveMinimum { want, .. } => format!("must be > {want}"),
        ErrorKind::ExclusiveMaximum { want, .. } => format!("must be < {want}"),
        ErrorKind::MultipleOf { want, .. } => format!("must be a multiple of {want}"),
        ErrorKind::MinLength { want, .. } => format!("length must be >= {want}"),
        ErrorKind::MaxLength { want, .. } => format!("length must be <= {want}"),
        other => other.to_string(),
    }
}

fn cut(mut text: String) -> String {
    shorten(&mut text, MAX_MESSAGE);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(schema: Value, inputs: Value) -> Result<(), String> {
        judge(&schema.into(), &inputs.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_path() {
        let schema = json!({
            "type": "object",
            "required": ["topic"],
            "additionalProperties": false,
            "properties": {
                "topic": { "type": "string", "maxLength": 5 },
                "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" } },
            },
            "$defs": { "tag": { "type": "object", "properties": { "the name": { "enum": ["a", "b"] } } } },
        });
        assert_eq!(judged(schema.clone(), json!({ "topic": "x", "tags": [{ "the name": "a" }] })), Ok(()));
        let faults = |inputs: Value| judged(schema.clone(), inputs).unwrap_err();
        assert_eq!(faults(json!({})), "spec.inputs: missing properties 'topic'");
        assert_eq!(faults(json!({ "topic": 7 })), "spec.inputs.topic: want string, but got number");
        let said = faults(json!({ "topic": "x", "tags": [{}, { "the name": "c" }] }));
        assert_eq!(said, "spec.inputs.tags[1][\"the name\"]: value must be one of 'a', 'b'");
        assert_eq!(faults(json!({ "topic": "x", "b": 1 })), "spec.inputs: additionalProperties 'b' not allowed");
    }

    #[test]
    fn no_value_is_told() {
        let schema = json!({ "properties": {
            "a": { "pattern": "^x" }, "b": { "minimum": 9e9 }, "c": { "const": 1 }, "d": { "maxLength": 2 },
            "e": { "not": {} }, "f": { "multipleOf": 7 }, "g": { "format": "email" }, "h": { "type": "number" },
        } });
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for name in names {
            let value = if ["b", "f"].contains(&name) { json!(987_654_321) } else { json!("canary-987654321") };
            let said = judged(schema.clone(), json!({ name: value })).unwrap_err();
            assert!(said.starts_with(&format!("spec.inputs.{name}: ")) && !said.contains("987654321"), "{said}");
        }
    }

    #[test]
    fn nothing_is_read_for_a_schema_and_none_ends_the_process() {
        for url in ["file:///etc/passwd", "https://example.com/schema.json", "other.json"] {
            let said = judged(json!({ "$ref": url }), json!({})).unwrap_err();
            assert!(said.starts_with("spec.inputsSchema is no JSON Schema that koco can use: "), "{said}");
        }
        assert!(judged(json!({ "type": "strange" }), json!({})).unwrap_err().contains("inputsSchema"));
        assert!(judged(json!({ "pattern": "(" }), json!({})).unwrap_err().contains("inputsSchema"));
        // A reference to itself, and one that a value ends.
        assert!(judged(json!({ "$ref": "#" }), json!({})).is_err());
        let tree = json!({ "properties": { "next": { "$ref": "#" } }, "type": "object" });
        assert_eq!(judged(tree.clone(), json!({ "next": { "next": {} } })), Ok(()));
        assert_eq!(
            judged(tree, json!({ "next": { "next": 1 } })).unwrap_err(),
            "spec.inputs.next.next: want object, but got number"
        );
    }

    #[test]
    fn a_message_has_a_bound() {
        let many: serde_json::Map<String, Value> = (0..100).map(|n| (format!("n{n}"), json!(1))).collect();
        let said = judged(json!({ "additionalProperties": { "type": "string" } }), many.into()).unwrap_err();
        assert!(said.ends_with("; and 95 more"), "{said}");
        let said = judged(json!({ "const": "x".repeat(9000) }), json!({})).unwrap_err();
        assert!(said.len() <= MAX_MESSAGE);
    }
}

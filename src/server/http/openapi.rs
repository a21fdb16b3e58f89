//! The description of `/api/v1` as OpenAPI 3.1, from the types that requests are read into and answers are made of. Used by
//! [`super::router`], and by the command line for the file `docs/openapi.yaml`.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    error::Problem,
    events,
    model::{List, ListParameters, Whole},
};

/// The version of the API. One that breaks its clients has another path.
const VERSION: &str = "v1";

/// The document.
pub fn document() -> Value {
    let mut schemas = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .for_serialize()
        .into_generator();
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let list = content(schemas.subschema_for::<List>().into());
    let one = content(schemas.subschema_for::<Whole>().into());
    let mut page = content(schemas.subschema_for::<events::List>().into());
    page["text/event-stream"] = json!({ "schema": { "type": "string" } });
    let problem = content(schemas.subschema_for::<Problem>().into());
    let mut types = Value::Object(schemas.take_definitions(true));
    never_null(&mut types);
    let fid = json!({ "name": "fid", "in": "path", "required": true, "description": "The id of the execution.",
        "schema": { "type": "string", "pattern": "^[0-9a-f]{24}$" } });
    let last = json!({ "name": "Last-Event-ID", "in": "header", "description":
        "Of a stream: after this row, in place of the parameter `after`.", "schema": { "type": "integer", "minimum": 0 } });
    let answers = |code: &str, ok: Value, more: &[&str]| {
        let mut all = Map::from_iter([(code.to_string(), ok)]);
        for code in ["400", "401", "403", "404", "429", "503"].iter().chain(more) {
            all.insert((*code).into(), json!({ "$ref": "#/components/responses/Problem" }));
        }
        all
    };
    let ok = |description: &str, content: Value| json!({ "description": description, "content": content });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "koco's archive",
            "version": VERSION,
            "description": "What became of AgentJobs, and their events. Each request needs a bearer token for the audience \
                `koco`, and Kubernetes' RBAC says what its holder may read: `get` on `agentjobs/events`. What is unknown to a \
                client is to be ignored: answers get new fields.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "token": [] }],
        "paths": {
            "/api/v1/executions": { "get": {
                "operationId": "listExecutions",
                "summary": "A page of executions, the newest first",
                "parameters": parameters::<ListParameters>(),
                "responses": answers("200", ok("A page.", list), &[]),
            } },
            "/api/v1/executions/{fid}": {
                "parameters": [fid],
                "get": {
                    "operationId": "getExecution",
                    "summary": "An execution with all that is kept of it",
                    "responses": answers("200", ok("The execution.", one), &[]),
                },
                "delete": {
                    "operationId": "deleteExecution",
                    "summary": "Deletes an execution whose job is gone, for good",
                    "responses": answers("204", json!({ "description": "It is deleted." }), &["409"]),
                },
            },
            "/api/v1/executions/{fid}/events": {
                "parameters": [fid],
                "get": {
                    "operationId": "readEvents",
                    "summary": "A page of an execution's events, the oldest first; as a stream, all of them as they come",
                    "parameters": parameters::<events::Parameters>().into_iter().chain([last]).collect::<Vec<_>>(),
                    "responses": answers("200", ok("A page, or a stream.", page), &[]),
                },
            },
        },
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "responses": { "Problem": ok("Why the request is refused.", problem) },
            "schemas": types,
        },
    })
}

/// The parameters of a query that is read into this type.
fn parameters<T: JsonSchema>() -> Vec<Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).for_deserialize();
    let mut schema: Value = settings.into_generator().into_root_schema_for::<T>().into();
    never_null(&mut schema);
    let Some(Value::Object(fields)) = schema.get_mut("properties").map(Value::take) else { return Vec::new() };
    let one = |(name, mut schema): (String, Value)| {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({ "name": name, "in": "query", "description": description, "schema": schema })
    };
    fields.into_iter().map(one).collect()
}

/// A field that has no value is left out, rather than null.
fn never_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|key, value| key != "default" || !value.is_null());
            if let Some(Value::Array(kinds)) = fields.get("type")
                && let [kind, _] = kinds.as_slice()
            {
                let kind = kind.clone();
                fields.insert("type".into(), kind);
            }
            if let Some(Value::Array(one_of)) = fields.get("anyOf")
                && let [Value::Object(one), null] = one_of.as_slice()
                && null["type"] == "null"
            {
                let one = one.clone();
                fields.remove("anyOf");
                fields.extend(one);
            }
            fields.values_mut().for_each(never_null);
        }
        Value::Array(items) => items.iter_mut().for_each(never_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value in a document that has this key.
    fn all<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
        match document {
            Value::Object(fields) => {
                found.extend(fields.get(key));
                fields.values().for_each(|field| all(field, key, found));
            }
            Value::Array(items) => items.iter().for_each(|item| all(item, key, found)),
            _ => {}
        }
    }

    #[test]
    fn every_path_is_described() {
        let document = document();
        let routes = include_str!("mod.rs").split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let routes: Vec<_> = routes.filter(|path| path.starts_with("/api/v1/")).collect();
        assert!(routes.len() >= 3, "{routes:?}");
        for route in routes {
            assert!(document["paths"][route].is_object(), "{route}");
        }
    }

    #[test]
    fn all_that_is_named_is_there_and_explained() {
        let document = document();
        let mut references = Vec::new();
        all(&document, "$ref", &mut references);
        assert!(references.len() > 10);
        for reference in references {
            let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let mut parameters = Vec::new();
        all(&document, "parameters", &mut parameters);
        for parameter in parameters.into_iter().flat_map(|list| list.as_array().unwrap()) {
            assert!(parameter["description"].as_str().is_some_and(|text| text.ends_with('.')), "{parameter}");
        }
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
                let text = schema["description"].as_str().unwrap_or_default();
                assert!(text.ends_with('.') || schema["$ref"].is_string(), "{name}.{field}: {text}");
            }
        }
    }

    #[test]
    fn fields_that_may_be_missing_are_not_required() {
        let document = document();
        let required = &document["components"]["schemas"]["Execution"]["required"];
        let required: Vec<_> = required.as_array().unwrap().iter().map(|field| field.as_str().unwrap()).collect();
        assert!(required.contains(&"fid") && !required.contains(&"phase") && !required.contains(&"startTime"));
        let limit = document["paths"]["/api/v1/executions"]["get"]["parameters"].as_array().unwrap();
        let limit = limit.iter().find(|parameter| parameter["name"] == "limit").unwrap();
        assert_eq!((&limit["schema"]["type"], &limit["in"]), (&json!("integer"), &json!("query")));
    }
}

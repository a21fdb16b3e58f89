//! AgentTemplate: the fields that jobs which name it leave out of their own spec. The schema is that of an AgentJob's
//! spec without what is each job's own; the fields themselves are passed on unread.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, transform::transform_subschemas};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AgentJobSpec, RawJson};

/// The fields of an AgentJob's spec that a template has not.
const OF_JOBS: [&str; 3] = ["desiredState", "inputs", "templateRef"];

/// The fields of a spec, by name.
type Fields = BTreeMap<String, RawJson>;

/// What AgentJobs that name the template leave out: any field of their spec but `inputs` and `desiredState`.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "kodosumi.io",
    version = "v1alpha1",
    kind = "AgentTemplate",
    doc = "AgentTemplate gives AgentJobs that name it in spec.templateRef the fields of their spec that they leave out.",
    plural = "agenttemplates",
    singular = "agenttemplate",
    shortname = "at",
    category = "kodosumi",
    namespaced,
    derive = "PartialEq",
    label("app.kubernetes.io/name", "koco"),
    label("app.kubernetes.io/part-of", "koco"),
    // The same as SCHEMA_VERSION: a test compares them.
    annotation("kodosumi.io/schema-version", "7"),
    printcolumn(name = "Entry point", type_ = "string", json_path = ".spec.entryPoint"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(transparent)]
pub struct AgentTemplateSpec(Fields);

impl JsonSchema for AgentTemplateSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AgentTemplateSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = AgentJobSpec::json_schema(generator);
        let what =
            "What jobs that name the template leave out: a field of a job replaces the whole field of the template.";
        schema.insert("description".into(), what.into());
        if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            fields.retain(|name, _| !OF_JOBS.contains(&name.as_str()));
        }
        of_a_template(&mut schema);
        schema
    }
}

/// What ends a description and holds for jobs alone.
const OF_JOBS_ALONE: [&str; 2] = ["Immutable.", "Required, unless the template has it."];

/// Drops what holds for jobs alone: a template may change, and has no other template.
fn of_a_template(schema: &mut Schema) {
    transform_subschemas(&mut of_a_template, schema);
    if let Some(Value::Array(rules)) = schema.get_mut(RULES) {
        let is_of_jobs = |text: &str| text.contains("oldSelf") || text.contains("self.templateRef");
        rules.retain(|rule| !rule["rule"].as_str().is_some_and(is_of_jobs));
        if rules.is_empty() {
            schema.remove(RULES);
        }
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        OF_JOBS_ALONE.iter().for_each(|words| *text = text.replace(words, ""));
        text.truncate(text.trim_end().len());
    }
}

const RULES: &str = "x-kubernetes-validations";

/// The template of a job.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.name == oldSelf.name").message("spec.templateRef.name is immutable"),
    validation = Rule::new("!has(oldSelf.revision) || (has(self.revision) && self.revision == oldSelf.revision)").message("spec.templateRef.revision is immutable")
)]
pub struct TemplateRef {
    /// The name of the AgentTemplate.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// What the job was filled from, written by koco: the template's UID and generation. A job that has it is complete, and
    /// needs the template no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub revision: Option<String>,
}

impl Display for TemplateRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}, revision {revision}", self.name),
            None => write!(f, "{}, not read yet", self.name),
        }
    }
}

impl AgentTemplate {
    /// What a job that is filled from it has in `spec.templateRef.revision`.
    pub fn revision(&self) -> String {
        let metadata = &self.metadata;
        format!("{}/{}", metadata.uid.as_deref().unwrap_or_default(), metadata.generation.unwrap_or_default())
    }

    /// The fields that it adds to a job's spec: those that the job leaves out.
    pub fn adds_to(&self, spec: &Fields) -> Fields {
        let is_new = |name: &&String| !spec.contains_key(*name) && !OF_JOBS.contains(&name.as_str());
        self.spec.0.keys().filter(is_new).map(|name| (name.clone(), self.spec.0[name].clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;
    use serde_json::json;

    use super::*;

    fn template() -> AgentTemplate {
        serde_json::from_value(json!({
            "metadata": { "name": "t", "uid": "u", "generation": 3 },
            "spec": { "entryPoint": "a:b", "budget": { "activeTime": "1h" }, "inputs": {} },
        }))
        .unwrap()
    }

    #[test]
    fn a_job_takes_what_it_leaves_out_as_whole_fields() {
        let spec: Fields = serde_json::from_value(json!({ "budget": { "cost": "1" } })).unwrap();
        let added = template().adds_to(&spec);
        assert_eq!(added.keys().collect::<Vec<_>>(), ["entryPoint"]);
        assert_eq!(added["entryPoint"].get(), r#""a:b""#);
        assert_eq!(template().revision(), "u/3");
        let of = |revision: Option<&str>| TemplateRef { name: "t".into(), revision: revision.map(Into::into) };
        assert_eq!(of(Some("u/3")).to_string(), "t, revision u/3");
        assert_eq!(of(None).to_string(), "t, not read yet");
    }

    #[test]
    fn it_has_the_fields_and_rules_of_jobs_but_those_about_changes() {
        let of = |crd: Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
        let job = of(serde_json::to_value(crate::api::AgentJob::crd()).unwrap());
        let template = of(serde_json::to_value(AgentTemplate::crd()).unwrap());
        let names = |schema: &Value| schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let mut fields = names(&job);
        fields.retain(|name| !OF_JOBS.contains(&name.as_str()));
        assert_eq!(names(&template), fields);
        let text = template.to_string();
        for word in ["oldSelf", "Immutable", "templateRef", "\"required\":[\"entryPoint\""] {
            assert!(!text.contains(word), "{word}");
        }
        let rules = |schema: &Value| schema["properties"]["template"][RULES].as_array().map_or(0, Vec::len);
        assert_eq!(rules(&template), rules(&job) - 1, "of the pod");
        assert_eq!(template[RULES].as_array().map_or(0, Vec::len), 2, "no probe would kill a frozen agent");
    }
}

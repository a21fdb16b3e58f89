//! Which execution is meant: by its fid, or by the name of its job, which may be gone. Used by what reads from the server.

use anyhow::anyhow;
use kube::api::ObjectMeta;
use serde_json::Value;

use super::super::{
    connect::{Session, job_name},
    server::Server,
};
use crate::api;

/// How many executions a page has.
const PAGE: u32 = 500;

/// An execution.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Found {
    pub fid: String,
    /// Whether its job exists; the server may not have seen it yet.
    pub is_there: bool,
}

/// How an execution is named.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Named {
    Fid(String),
    Job(String),
}

/// Reads a fid, also as `-o name` prints it.
pub(in super::super) fn fid(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("execution/").unwrap_or(text);
    match digits.len() == 24 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        true => Ok(digits.to_ascii_lowercase()),
        false => Err("no fid: it has 24 hex digits".into()),
    }
}

/// Reads a fid or the name of a job. A job whose name looks like a fid is meant by `agentjob/NAME`.
pub(super) fn named(text: &str) -> Result<Named, String> {
    match fid(text) {
        Ok(fid) => Ok(Named::Fid(fid)),
        Err(_) if text.starts_with("execution/") => fid(text).map(Named::Fid),
        Err(_) => job_name(text).map(Named::Job),
    }
}

/// The execution of the job of this name, or of the newest of those that are gone.
pub(in super::super) async fn by_name(session: &Session, server: &mut Server, name: &str) -> anyhow::Result<Found> {
    let job = session.jobs().get_metadata_opt(name).await.map_err(|e| session.explain(e, name))?;
    if let Some(fid) = job.and_then(|job| of_job(&job.metadata)) {
        return Ok(Found { fid, is_there: true });
    }
    let namespace = &session.namespace;
    let mut parameters =
        vec![("namespace", namespace.clone()), ("name", name.to_string()), ("limit", PAGE.to_string())];
    loop {
        let page = server.get("/api/v1/executions", &parameters).await?;
        if let Some(fid) = newest(&page, name) {
            return Ok(Found { fid, is_there: false });
        }
        let Some(next) = next(&page) else {
            return Err(anyhow!(
                "there is no AgentJob {name} in the namespace {namespace}, and no execution of that name in the archive"
            ));
        };
        parameters.retain(|(parameter, _)| *parameter != "continue");
        parameters.push(("continue", next));
    }
}

/// The fid of a job that exists.
fn of_job(meta: &ObjectMeta) -> Option<String> {
    let created = meta.creation_timestamp.as_ref()?.0.as_second();
    Some(api::fid(created, meta.uid.as_deref()?))
}

/// The first of a page with this name.
fn newest(page: &Value, name: &str) -> Option<String> {
    let items = page["items"].as_array()?;
    let found = items.iter().find(|item| item["name"] == name)?;
    fid(found["fid"].as_str()?).ok()
}

/// Where the next page begins, if there may be one.
pub(super) fn next(page: &Value) -> Option<String> {
    page["continue"].as_str().filter(|next| !next.is_empty()).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FID: &str = "6740c100aabbccddeeff0011";

    #[test]
    fn what_looks_like_a_fid_is_one() {
        assert_eq!(named(FID), Ok(Named::Fid(FID.into())));
        assert_eq!(named(&format!("execution/{}", FID.to_uppercase())), Ok(Named::Fid(FID.into())));
        assert_eq!(named("my-job"), Ok(Named::Job("my-job".into())));
        assert_eq!(named(&format!("agentjob.kodosumi.io/{FID}")), Ok(Named::Job(FID.into())));
        for wrong in ["", "execution/x", "pod/x", "A", &FID[1..].to_uppercase()] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
        assert!(fid(&format!("../{FID}")).is_err() && fid("my-job").is_err());
    }

    #[test]
    fn of_several_the_newest_is_meant() {
        let page = json!({ "items": [{ "fid": "0000000000000000000000aa", "name": "y" }, { "fid": FID, "name": "x" },
            { "fid": "000000000000000000000001", "name": "x" }], "continue": FID });
        assert_eq!((newest(&page, "x"), newest(&page, "z"), next(&page)), (Some(FID.into()), None, Some(FID.into())));
        assert_eq!((newest(&json!({}), "x"), next(&json!({ "continue": "" }))), (None, None));
        assert_eq!(newest(&json!({ "items": [{ "fid": "../x", "name": "x" }] }), "x"), None);
    }
}

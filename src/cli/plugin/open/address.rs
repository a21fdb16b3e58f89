//! The addresses of pages. Pure. Used by [`super`].

use url::Url;

use crate::api::WorkflowStatus;

/// Reads the URL of Temporal's UI.
pub(super) fn ui(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|e| e.to_string())?;
    // It is given to a browser.
    match ["http", "https"].contains(&url.scheme()) && url.query().is_none() && url.fragment().is_none() {
        true => Ok(url),
        false => Err("no address of a UI: http:// or https://, a host, and perhaps a path".into()),
    }
}

/// The page of a workflow, of its newest known execution.
pub(super) fn workflow(ui: &Url, of: &WorkflowStatus) -> Url {
    let first = ["namespaces", &of.namespace, "workflows", &of.id];
    // Without a run Temporal's UI goes on to the newest.
    let run = of.run_id.iter().flat_map(|run| [run.as_str(), "history"]);
    below(ui, first.into_iter().chain(run))
}

/// The panel's page of an execution.
pub(super) fn panel(server: &Url, fid: &str) -> Url {
    below(server, ["jobs", fid])
}

fn below<'s>(base: &Url, segments: impl IntoIterator<Item = &'s str>) -> Url {
    let mut url = base.clone();
    // Each URL with a host has a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_has_a_page() {
        let of = |run: Option<&str>| WorkflowStatus {
            id: "koco-a/b c".into(),
            namespace: "team.x".into(),
            run_id: run.map(str::to_string),
            ..WorkflowStatus::default()
        };
        let page = |base: &str, run| workflow(&ui(base).unwrap(), &of(run)).to_string();
        let wanted = "https://t.example.com/namespaces/team.x/workflows/koco-a%2Fb%20c";
        assert_eq!(page("https://t.example.com", None), wanted);
        assert_eq!(page("https://t.example.com/", Some("r")), format!("{wanted}/r/history"));
        assert!(page("http://localhost:8233/ui/", None).starts_with("http://localhost:8233/ui/namespaces/team.x/"));
    }

    #[test]
    fn an_execution_has_a_page() {
        let of = |base: &str| panel(&Url::parse(base).unwrap(), "6740").to_string();
        assert_eq!(of("https://koco.example.com"), "https://koco.example.com/jobs/6740");
        assert_eq!(of("https://koco.example.com:8445/a/"), "https://koco.example.com:8445/a/jobs/6740");
    }

    #[test]
    fn a_browser_is_given_pages_alone() {
        for wrong in ["javascript:alert(1)", "file:///etc/passwd", "t.example.com", "", "https://a?b=c", "https://a#b"]
        {
            assert!(ui(wrong).is_err(), "{wrong}");
        }
    }
}

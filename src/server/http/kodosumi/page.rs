//! The page of a result. Pure. Used by [`super::outputs`].

use k8s_openapi::jiff::Timestamp;

use super::{
    execution::{Execution, VERSION},
    render::escaped,
};

const STYLE: &str = "body{font-family:sans-serif;line-height:1.5;margin:2rem auto;max-width:50rem;padding:0 1rem}\
    pre,code{white-space:pre-wrap}th{text-align:left;padding-right:1rem}img{max-width:100%}";

/// A page around what is rendered of a result.
pub fn document(execution: &Execution, main: &str) -> String {
    let summary = &execution.summary;
    let time = Timestamp::from_millisecond(summary.created).unwrap_or_default().to_string();
    let runtime = execution.runtime().map(|seconds| format!("{seconds:.0}s")).unwrap_or_default();
    let fid = summary.fid.to_string();
    let about = [
        ("DATE/ TIME", time.as_str()),
        ("RUNTIME", runtime.as_str()),
        ("FLOW ID", fid.as_str()),
        ("NAME", summary.name.as_str()),
        ("NAMESPACE", summary.namespace.as_str()),
        ("ENTRY POINT", summary.entry_point.as_str()),
        ("STATUS", execution.status().as_str()),
        ("KODOSUMI", VERSION),
    ]
    .map(|(name, value)| format!("<tr><th scope=\"row\">{name}</th><td>{}</td></tr>\n", escaped(value)))
    .concat();
    let name = escaped(&summary.name);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{name}</title>\n\
        <style>{STYLE}</style>\n</head>\n<body>\n<main>\n{main}\n</main>\n<hr>\n\
        <h2>ABOUT THIS DOCUMENT</h2>\n<table>\n{about}</table>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::execution::tests::execution, *};

    #[test]
    fn names_are_escaped() {
        let mut execution = execution("Succeeded", json!({}));
        execution.summary.entry_point = "<script>alert(1)</script>".into();
        let page = document(&execution, "<p>main</p>");
        assert!(page.contains("<main>\n<p>main</p>\n</main>") && page.contains("<td>4s</td>"), "{page}");
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
    }
}

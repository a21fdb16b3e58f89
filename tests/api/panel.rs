//! The panel: what a browser is shown of the archive, to whom, and what no other site's page can have it do.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{
    archive::{Reader, account, owner, token},
    events::{lines, told, with_events},
    harness::{
        DEADLINE, Kubelet, Test, agent,
        by_hand::{patch_status, started},
        job::With,
        within,
    },
};

/// The header by which a browser signs in.
fn cookie(token: &str) -> (&'static str, String) {
    ("cookie", format!("a=b; __Host-koco-token={token}"))
}

/// A page, as a browser reads it with a token: its status and its text.
async fn page(reader: &Reader, path: &str, token: &str) -> (u16, String) {
    let (name, value) = cookie(token);
    let answer = reader.browse("GET", path, &[(name, &value)], "").await;
    let headers = answer.headers().clone();
    let text =
        |name: &str| headers.get(name).map(|value| value.to_str().expect("text").to_string()).unwrap_or_default();
    assert!(text("content-type").starts_with("text/html"), "{path}: {headers:?}");
    let policy = text("content-security-policy");
    for part in
        ["default-src 'self'", "frame-ancestors 'none'", "object-src 'none'", "base-uri 'none'", "form-action 'self'"]
    {
        assert!(policy.contains(part), "{path}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!((text("x-content-type-options"), text("cache-control")), ("nosniff".into(), "no-store".into()));
    assert_eq!(text("referrer-policy"), "same-origin");
    let status = answer.status().as_u16();
    let body = String::from_utf8(answer.bytes().await.expect("a body").to_vec()).expect("UTF-8");
    for inline in ["<style", " style=", " onclick=", " onload=", "javascript:", "http://", "https://"] {
        assert!(!body.contains(inline), "{path}: {inline} in {body}");
    }
    assert!(body.matches("<script").count() <= 1, "{body}");
    (status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_jobs_to_those_alone_who_may_read_them() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (_roles, reader, job, _runner, fid) = with_events(&test, &kubelet).await;
    let ns = &test.namespace;
    let reads = owner(&test).await;
    let (one, here) = (format!("/jobs/{fid}"), format!("/jobs?namespace={ns}&phase=&search=&since="));
    let changes = format!("{one}/summary");

    let (status, list) = page(&reader, &here, &reads).await;
    assert_eq!(status, 200, "{list}");
    assert!(list.contains(&job.name) && list.contains(&one) && list.contains("Running"), "{list}");
    let (status, found) = page(&reader, &one, &reads).await;
    assert_eq!(status, 200, "{found}");
    for part in [job.name.as_str(), ns, "line 1", "Attempts", "data-job", "Running", "system:serviceaccount"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    let (status, typed) = page(&reader, &format!("{one}?show=typed"), &reads).await;
    assert!(status == 200 && !typed.contains("line 1"), "{typed}");
    let (status, part) = page(&reader, &changes, &reads).await;
    assert!(status == 200 && part.contains("id=\"overview\"") && !part.contains("<html"), "{part}");
    for bad in ["?show=x", "?before=0", "?x=1", "?before=x"] {
        assert_eq!(page(&reader, &format!("{one}{bad}"), &reads).await.0, 400, "{bad}");
    }
    assert_eq!(page(&reader, "/jobs/x", &reads).await.0, 400);
    assert_eq!(page(&reader, &format!("/jobs?namespace={ns}&phase=x"), &reads).await.0, 400);

    // What is refused says which right is missing, and how to look at it.
    let (status, all) = page(&reader, "/jobs", &reads).await;
    let command = "kubectl auth can-i get agentjobs.kodosumi.io --subresource=events";
    let me = format!("--as=system:serviceaccount:{ns}:owner");
    assert_eq!(status, 403, "{all}");
    assert!(all.contains(&format!("{command} --all-namespaces {me}")) && all.contains("name=\"namespace\""), "{all}");
    account(&test, ns, "stranger", &[], &[]).await;
    account(&test, ns, "writer", &["delete", "list"], &[]).await;
    for name in ["stranger", "writer"] {
        let token = token(&test, name).await;
        for path in [here.as_str(), &one, &changes, "/jobs", "/jobs/000000000000000000000000"] {
            let (status, refused) = page(&reader, path, &token).await;
            assert_eq!(status, 403, "{name} {path}: {refused}");
            assert!(refused.contains(command) && refused.contains(&format!(":{ns}:{name}")), "{refused}");
            assert!(!refused.contains(&job.name) && !refused.contains("line 1"), "{refused}");
        }
    }
    // A token that is none, and none at all: the form, and the way back to the page.
    for token in ["a.b.c", "x", ""] {
        for path in [one.as_str(), &here, &changes, "/jobs"] {
            let (status, form) = page(&reader, path, token).await;
            assert_eq!(status, 401, "{form}");
            assert!(form.contains("name=\"token\"") && !form.contains(&job.name), "{form}");
            assert!(form.contains(&format!("value=\"{}\"", path.replace('&', "&#38;"))), "{form}");
        }
    }
    // By a header, as programs and proxies send it: nothing to sign out of.
    let bearer = format!("Bearer {reads}");
    let answer = reader.browse("GET", &one, &[("authorization", &bearer)], "").await;
    assert_eq!(answer.status().as_u16(), 200);
    assert!(!String::from_utf8_lossy(&answer.bytes().await.expect("a body")).contains("/sign-out"));
    assert!(found.contains("action=\"/sign-out\""), "{found}");
    for (path, status) in
        [("/", 303), ("/sign-in", 200), ("/assets/panel.css", 200), ("/assets/panel.js", 200), ("/favicon.ico", 204)]
    {
        assert_eq!(reader.browse("GET", path, &[], "").await.status().as_u16(), status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_signs_in_by_a_form_of_this_site_and_only_reads_by_its_cookie() {
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (_roles, reader, _job, _runner, fid) = with_events(&test, &kubelet).await;
    let token = owner(&test).await;
    let form = format!("token=%0A{token}+&next=%2Fjobs%2F{fid}");
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let ours = ("sec-fetch-site", "same-origin");
    let port = format!("koco-server:{}", reader.port());
    let origin = format!("https://{port}");

    // Another site's page can neither sign a user in nor out, and what says nothing of where it comes from can't.
    for headers in [
        vec![("sec-fetch-site", "cross-site"), ("origin", origin.as_str())],
        vec![("sec-fetch-site", "same-site")],
        vec![("sec-fetch-site", "none")],
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![],
    ] {
        for path in ["/sign-in", "/sign-out"] {
            let answer = reader.browse("POST", path, &[&headers[..], &[kind]].concat(), &form).await;
            assert_eq!(answer.status().as_u16(), 403, "{path} {headers:?}");
            assert_eq!(answer.headers().get("set-cookie"), None, "{path} {headers:?}");
        }
    }
    let large = "x".repeat(40_000);
    for (body, status) in
        [("token=a.b.c", 401), ("token=", 401), ("", 401), ("token=a%0d%0aSet-Cookie:x", 401), (large.as_str(), 413)]
    {
        let answer = reader.browse("POST", "/sign-in", &[ours, kind], body).await;
        assert_eq!(answer.status().as_u16(), status, "{body}");
        assert_eq!(answer.headers().get("set-cookie"), None, "{body}");
    }
    for headers in [[ours, kind], [("origin", origin.as_str()), kind]] {
        let answer = reader.browse("POST", "/sign-in", &headers, &form).await;
        assert_eq!(answer.status().as_u16(), 303);
        assert_eq!(answer.headers()["location"], format!("/jobs/{fid}").as_str());
        let expected = format!("__Host-koco-token={token}; Path=/; Secure; HttpOnly; SameSite=Strict");
        assert_eq!(answer.headers()["set-cookie"], expected.as_str());
    }
    let away = format!("token={token}&next=https%3A%2F%2Fevil.example");
    let answer = reader.browse("POST", "/sign-in", &[ours, kind], &away).await;
    assert_eq!(answer.headers()["location"], "/jobs");

    // The cookie reads, streams too, and does nothing else.
    let (name, value) = cookie(&token);
    let signed_in = (name, value.as_str());
    let api = format!("/api/v1/executions/{fid}");
    assert_eq!(page(&reader, &format!("/jobs/{fid}"), &token).await.0, 200);
    assert_eq!(reader.browse("GET", &api, &[signed_in], "").await.status().as_u16(), 200);
    let events = format!("{api}/events?after=0");
    let mut stream = reader.browse("GET", &events, &[signed_in, ("accept", "text/event-stream")], "").await;
    assert_eq!(stream.status().as_u16(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let chunk = stream.chunk().await.expect("a chunk").expect("an event");
    assert!(String::from_utf8_lossy(&chunk).contains("line 1"), "{chunk:?}");
    let answer = reader.browse("DELETE", &api, &[signed_in, ours], "").await;
    assert_eq!(answer.status().as_u16(), 401, "not with the cookie");
    assert_eq!(reader.send("DELETE", &api, Some(&token)).await.0, 409, "but with the header: the job exists");
    let answer = reader.browse("POST", &events, &[signed_in, ours], "").await;
    assert_eq!(answer.status().as_u16(), 401);

    let answer = reader.browse("POST", "/sign-out", &[signed_in, ours], "").await;
    assert_eq!(answer.status().as_u16(), 303);
    assert_eq!(answer.headers()["location"], "/sign-in");
    let removed = answer.headers()["set-cookie"].to_str().expect("text").to_string();
    assert!(removed.starts_with("__Host-koco-token=; Path=/; Secure") && removed.ends_with("Max-Age=0"), "{removed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_agents_say_is_text_on_a_page() {
    const HOSTILE: &str =
        "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'>&\u{1b}[31mred\u{1b}]0;t\u{7}\u{202e}";
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (mut roles, reader, _job, _runner, _fid) = with_events(&test, &kubelet).await;
    let reads = owner(&test).await;
    let spec = json!({ "entryPoint": HOSTILE, "inputs": { HOSTILE: HOSTILE } });
    let job = test.apply(agent("anything").with(spec)).await;
    let (_, other) = started(&kubelet, &job, 1).await;
    assert_eq!(told(&other, 1, 1, &[HOSTILE.into(), "\u{1b}[2J".into()]).await, 2);
    let fid = crate::archive::fid(&job).await;
    // What it would write instead.
    roles.role("operator").kill();
    let status = json!({ "result": { "html": HOSTILE }, "error": { "type": HOSTILE, "message": HOSTILE } });
    patch_status(&test, "AgentJob", &job.name, status).await;
    reader.until(&fid, &reads, "its error", |found| found["errorType"] == HOSTILE).await;
    for path in [format!("/jobs/{fid}"), format!("/jobs/{fid}/summary"), format!("/jobs?namespace={}", test.namespace)]
    {
        let (status, text) = page(&reader, &path, &reads).await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("alert(1)") && text.contains("&#60;script&#62;"), "{text}");
        for raw in ["<script>", "<img", "\u{1b}", "\u{7}", "\u{202e}"] {
            assert!(!text.contains(raw), "{path}: {raw:?} in {text}");
        }
    }
    // Nor is what was asked for anything else.
    let path = format!("/jobs?namespace={}&search=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", test.namespace);
    let (status, text) = page(&reader, &path, &reads).await;
    assert!(status == 200 && !text.contains("<script>") && text.contains("alert(1)"), "{text}");
    for path in [
        "/jobs?namespace=%3Cscript%3E",
        "/jobs?%3Cscript%3E=1",
        "/jobs/%3Cscript%3E",
        "/jobs?namespace=a&since=%3Cscript%3E",
    ] {
        let (status, text) = page(&reader, path, &reads).await;
        assert!(status == 400 && !text.contains("<script>"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_does_not_grow_with_its_job_and_leads_to_all_of_it() {
    const LAST: u64 = 1203;
    let test = Test::new().await;
    let kubelet = Kubelet::of(&test);
    let (_roles, reader, job, runner, fid) = with_events(&test, &kubelet).await;
    let reads = owner(&test).await;
    assert_eq!(told(&runner, 2, 2, &lines(2, LAST)).await, LAST);
    let (mut seen, mut path, mut pages) = (BTreeSet::new(), format!("/jobs/{fid}"), 0);
    loop {
        let (status, text) = page(&reader, &path, &reads).await;
        assert_eq!(status, 200, "{text}");
        let rows: Vec<&str> = text.split("<li id=\"event-").skip(1).collect();
        assert!(!rows.is_empty() && rows.len() <= 500, "{path}: {}", rows.len());
        for row in rows {
            let number: u64 = row.split('"').next().and_then(|n| n.parse().ok()).expect("a row");
            assert!(row.contains(&format!(">line {number}<")), "{row}");
            assert!(seen.insert(number), "{number} twice");
        }
        pages += 1;
        assert_eq!(text.contains("data-job"), pages == 1, "the last page alone is live");
        let older = text.split("<a id=\"older\" href=\"").nth(1).and_then(|rest| rest.split('"').next());
        let Some(older) = older else { break };
        path = older.replace("&amp;", "&").replace("#events", "");
    }
    assert_eq!((pages, seen.len() as u64, seen.last()), (3, LAST, Some(&LAST)));

    // A table by pages, too.
    let other = test.apply(agent("anything")).await;
    let names = |text: &str| [&job.name, &other.name].map(|name| text.contains(&format!(">{name}</a>")));
    let here = format!("/jobs?namespace={}&limit=1", test.namespace);
    let (first, older) = within(DEADLINE, "two jobs", async || {
        let (_, text) = page(&reader, &here, &reads).await;
        let older = text.split("href=\"").filter_map(|rest| rest.split('"').next()).find(|a| a.contains("continue="));
        older.map(|older| (names(&text), older.replace("&#38;", "&"))).ok_or(text.clone())
    })
    .await;
    let (status, text) = page(&reader, &older, &reads).await;
    let second = names(&text);
    assert!(status == 200 && text.contains("Newest"), "{text}");
    assert_eq!([first[0] || second[0], first[1] || second[1], first == second], [true, true, false], "{text}");
}

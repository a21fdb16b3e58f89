//! What the repository promises about itself, checked without I/O beyond its own files.

#[path = "contract/documents.rs"]
mod documents;
#[path = "contract/releases.rs"]
mod releases;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use koco::protocol::error_types::is_reserved;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The part of a file that is no test.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

fn is_test_file(path: &Path) -> bool {
    let test = ["test", "tests", "fake", "fixtures"];
    let named = |part: &str| test.contains(&part) || part.ends_with("_tests");
    path.with_extension("").components().any(|c| c.as_os_str().to_str().is_some_and(named))
}

/// The modules of the crate that a module uses, by what stands in its files.
fn uses(module: &str) -> BTreeSet<String> {
    let all = LAYERS.concat();
    let mut found = BTreeSet::new();
    for code in code_under(module) {
        found.extend(
            imported(&code, "crate::").into_iter().filter(|name| all.contains(&name.as_str()) && name != module),
        );
    }
    found
}

/// The code of a module's files, without tests and comments; whitespace aside, so that an import over several lines
/// reads as one.
fn code_under(module: &str) -> Vec<String> {
    let files = sources(&root().join("src").join(module)).into_iter().filter(|p| !is_test_file(p));
    let flat = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let code: Vec<&str> = without_tests(&text).lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        code.join("\n").split_whitespace().collect()
    };
    files.map(flat).collect()
}

/// The names that follow a path such as `crate::`, one or a group.
fn imported(code: &str, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in code.match_indices(path).map(|(i, m)| i + m.len()) {
        let rest = &code[start..];
        let names: Vec<&str> = if let Some(group) = rest.strip_prefix('{') { top_level(group) } else { vec![rest] };
        for name in names {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            found.push(name[..end].to_string());
        }
    }
    found
}

/// The items of a `{a::b, c::{d, e}}` group, without its first brace.
fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..i]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    items
}

/// The layers as `src/lib.rs` has them, the highest first.
const LAYERS: [&[&str]; 8] = [
    &["cli"],
    &["controller", "worker", "gateway", "server", "runner"],
    &["audit"],
    &["pods", "temporal", "database"],
    &["runs"],
    &["platform", "lifecycle", "inputs_schema"],
    &["protocol"],
    &["api"],
];

/// Modules that use less than what lies below.
const CONFINED: [(&str, &[&str]); 3] =
    [("runner", &["inputs_schema", "protocol", "api"]), ("platform", &["api"]), ("database", &[])];

#[test]
fn layers_use_only_what_lies_below() {
    for (i, layer) in LAYERS.iter().enumerate() {
        let below = LAYERS[i + 1..].concat();
        for module in *layer {
            let confined = CONFINED.iter().find(|(confined, _)| confined == module).map(|(_, may)| may.to_vec());
            let may = confined.unwrap_or_else(|| below.clone());
            let beyond: Vec<_> = uses(module).into_iter().filter(|used| !may.contains(&used.as_str())).collect();
            assert!(
                beyond.is_empty(),
                "{module} uses {beyond:?}: roles never use each other, and layers only what lies below"
            );
        }
    }
    let modules: Vec<_> = LAYERS.concat().into_iter().map(|module| format!("pub mod {module};")).collect();
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let there: BTreeSet<_> = lib.lines().filter(|line| line.starts_with("pub mod ")).collect();
    assert_eq!(modules.iter().map(String::as_str).collect::<BTreeSet<_>>(), there, "the layers are those of lib.rs");
}

#[test]
fn the_server_alone_uses_the_database() {
    for module in LAYERS.concat().into_iter().filter(|module| !["server", "database"].contains(module)) {
        assert!(!uses(module).contains("database"), "{module} uses the database");
        for code in code_under(module) {
            assert!(!code.contains("sqlx"), "{module} uses sqlx");
        }
    }
    assert!(uses("server").contains("database"));
}

/// `cargo build --no-default-features --bin kubectl-koco` builds it without them, and without what they stand on.
#[test]
fn the_plugin_uses_no_role() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for module in ["controller", "worker", "gateway", "server", "runner", "database"] {
        assert!(lib.contains(&format!("#[cfg(feature = \"operator\")]\npub mod {module};\n")), "{module}");
        assert!(!uses("cli/plugin").contains(module), "the plugin uses {module}");
    }
    assert!(uses("cli/plugin").contains("audit"));
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
    for name in ["askama", "axum", "nix", "prometheus-client", "sqlx", "temporalio-sdk"] {
        let line = dependencies.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
        assert!(line.contains("optional = true"), "{line}");
    }
}

#[test]
fn the_platform_knows_no_kind() {
    for code in code_under("platform") {
        for kind in ["AgentJob", "AgentRun"] {
            assert!(!code.contains(kind), "platform serves any kind, and mentions {kind}");
        }
        for name in imported(&code, "crate::api::") {
            assert!(["names", "SCHEMA_VERSION"].contains(&name.as_str()), "platform uses api::{name}");
        }
    }
}

#[test]
fn the_check_of_layers_sees_imports() {
    assert!(uses("controller").contains("temporal"));
    assert!(uses("cli").contains("controller"));
}

#[test]
fn generated_files_are_up_to_date() {
    let mut generated = BTreeSet::new();
    for crd in koco::cli::crd::definitions() {
        let (name, text) = koco::cli::crd::file(&crd).unwrap();
        for folder in ["crds", "charts/koco/files"] {
            let there = fs::read_to_string(root().join(folder).join(&name)).unwrap_or_default();
            assert!(there == text, "{folder}/{name} is not what the types say: run `make crd`");
        }
        generated.insert(name);
    }
    let openapi = fs::read_to_string(root().join("docs/openapi.yaml")).unwrap_or_default();
    assert!(
        openapi == koco::cli::openapi::text().unwrap(),
        "docs/openapi.yaml is not what the types say: run `make openapi`"
    );
    for folder in ["crds", "charts/koco/files"] {
        let there = fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert_eq!(there.collect::<BTreeSet<_>>(), generated, "what lies in {folder}");
    }
}

#[test]
fn nothing_panics_outside_tests() {
    // The SDK wants bodies for definitions of activities, and never runs them.
    let definitions = root().join("src/worker/calls.rs");
    for path in sources(&root().join("src")).into_iter().filter(|p| !is_test_file(p) && *p != definitions) {
        let text = fs::read_to_string(&path).unwrap();
        for (n, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in [".unwrap()", ".expect(", "todo!(", "unimplemented!(", "panic!("] {
                assert!(!code.contains(word), "{}:{}: {word}", path.display(), n + 1);
            }
        }
    }
}

/// What the plugin says on stderr may quote agents, so it passes the one function that escapes it.
#[test]
fn the_plugin_writes_to_stderr_in_one_place() {
    for path in sources(&root().join("src/cli/plugin")).into_iter().filter(|p| !p.ends_with("text.rs")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("eprint") && !text.contains("stderr()"), "{}: use text::say", path.display());
    }
}

#[test]
fn the_python_packages_error_types_are_for_agents_to_use() {
    let text = fs::read_to_string(root().join("python/src/kodosumi_koco/errors.py")).unwrap();
    let types: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("class ")?.split_once("Error)")?.0.split('(').next())
        .collect();
    assert!(types.contains(&"InvalidInputs"), "{types:?}");
    let reserved: Vec<_> = types.into_iter().filter(|name| is_reserved(name)).collect();
    assert!(reserved.is_empty(), "koco's own: {reserved:?}");
}

#[test]
fn files_can_be_read_at_one_sitting() {
    for folder in ["src", "tests", "benches", "deploy"] {
        for path in sources(&root().join(folder)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 500, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for path in sources(&root().join("src")).into_iter().filter(|p| !is_test_file(p)) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} has no header", path.display());
    }
}

#[test]
fn durations_are_written_as_kubernetes_writes_them() {
    let two: koco::api::Seconds = "1h30m".parse().unwrap();
    assert_eq!(two.get().as_secs(), 5400);
    assert_eq!(serde_json::to_value(koco::api::Seconds::from(std::time::Duration::from_millis(1500))).unwrap(), "1.5s");
}

/// Words that no comment of `src/` may use, with the usual ones. The first list also holds outside of comments.
#[test]
fn the_usual_words_are_used() {
    let anywhere =
        [("silentSince", "unresponsiveSince"), ("setbacks", "start_failures"), ("forgiven", "ignored_disruptions")];
    let in_comments = [
        ("epoch", "run"),
        ("permit", "grant"),
        ("claim", "AgentRun"),
        ("offer", "binding"),
        ("wish", "desired state"),
        ("bell", "channel"),
        ("deaf", "liveness window"),
        ("nobody", "which role or user is meant"),
        ("whoever", "which role or user is meant"),
    ];
    for path in sources(&root().join("src")) {
        for (n, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let comment = line.split_once("//").map_or("", |(_, comment)| comment).to_lowercase();
            let words: Vec<&str> = comment.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let found = anywhere.iter().filter(|(word, _)| line.contains(word) && !line.contains("rename = "));
            let found: Vec<_> = found.chain(in_comments.iter().filter(|(word, _)| words.contains(word))).collect();
            assert!(found.is_empty(), "{}:{}: (word, usual word) {found:?}", path.display(), n + 1);
        }
    }
}

/// The names of all tests, of all tiers.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in ["src", "tests"].into_iter().flat_map(|folder| sources(&root().join(folder))) {
        let text = fs::read_to_string(path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ").and_then(|l| l.split_once('('));
            match name {
                Some((name, _)) if is_test => drop(found.insert(name.to_string())),
                _ if line.starts_with("#[test]") || line.starts_with("#[tokio::test") => is_test = true,
                // Other attributes and comments may stand between.
                _ if line.starts_with("#[") || line.starts_with("//") => continue,
                _ => {}
            }
            is_test &= name.is_none();
        }
    }
    found
}

/// What SECURITY.md says that somebody can't do, tests show.
#[test]
fn each_thing_that_can_not_be_done_has_its_tests() {
    let (text, tests) = (fs::read_to_string(root().join("SECURITY.md")).unwrap(), tests());
    assert!(tests.contains("each_thing_that_can_not_be_done_has_its_tests") && tests.len() > 300);
    let (mut in_table, mut claims) = (false, 0);
    for line in text.lines() {
        in_table = line == "| can't | tests |" || (in_table && line.starts_with('|'));
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        if !in_table || cells.len() != 2 || cells[0].trim() == "can't" {
            continue;
        }
        claims += 1;
        let names: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
        let missing: Vec<_> = names.iter().filter(|name| !tests.contains(**name)).collect();
        assert!(!names.is_empty() && missing.is_empty(), "{line}: no such test: {missing:?}");
    }
    assert!(claims > 20, "{claims}");
}

/// What docs/kodosumi.md says that differs from Kodosumi, tests show.
#[test]
fn each_deviation_from_kodosumi_has_its_tests() {
    let (text, tests) = (fs::read_to_string(root().join("docs/kodosumi.md")).unwrap(), tests());
    let table = text.split_once("## What differs").unwrap().1.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut deviations = 0;
    for line in table {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 4, "{line}");
        let names: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
        let missing: Vec<_> = names.iter().filter(|name| !tests.contains(**name)).collect();
        assert!(!names.is_empty() && missing.is_empty(), "{line}: no such test: {missing:?}");
        deviations += 1;
    }
    assert!(deviations > 15, "{deviations}");
}

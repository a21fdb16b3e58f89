//! What a release is, as far as that can be held without building one: versions, the changelog, and the names of its
//! files in scripts, documents and workflow.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
};

use serde_json::Value;

use super::root;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn yaml(path: &str) -> Value {
    serde_yaml_ng::from_str(&text(path)).unwrap()
}

/// Runs one of the release's scripts.
fn script(name: &str, arguments: &[&str]) -> Output {
    let path = root().join("deploy/release").join(name);
    Command::new(path).args(arguments).env("REPOSITORY", "owner/name").output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The files of a release, as the scripts have them.
fn files(version: &str) -> BTreeSet<String> {
    let command = format!("source deploy/release/lib.sh; release {version}; files \"${{PLATFORMS[@]}}\"");
    let output = Command::new("bash").args(["-c", &command]).current_dir(root()).output().unwrap();
    stdout(&output).lines().map(str::to_string).collect()
}

#[test]
fn the_version_is_the_same_everywhere() {
    let chart = yaml("charts/koco/Chart.yaml");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&VERSION.into(), &VERSION.into()), "Chart.yaml");
    assert!(text("README.md").contains(&format!("Version {VERSION},")), "the README's status");
}

/// A version's numbers; a pre-release is before its release.
fn order(version: &str) -> (Vec<u64>, bool, String) {
    let (numbers, pre) = version.split_once('-').unwrap_or((version, ""));
    (numbers.split('.').map(|n| n.parse().unwrap()).collect(), pre.is_empty(), pre.to_string())
}

#[test]
fn the_changelog_keeps_its_form() {
    let changelog = text("CHANGELOG.md");
    let mut headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    assert_eq!(headings.next(), Some("[Unreleased]"));
    let entries: Vec<(&str, &str)> =
        headings.map(|heading| heading.strip_prefix('[').and_then(|h| h.split_once("] - ")).expect(heading)).collect();
    assert_eq!(entries[0].0, VERSION, "the newest entry is that of Cargo.toml's version");
    assert!(entries.windows(2).all(|pair| order(pair[0].0) > order(pair[1].0)), "the newest is first: {entries:?}");
    for (i, (version, date)) in entries.iter().enumerate() {
        let dated = date.len() == 10 && date.split('-').all(|part| part.parse::<u32>().is_ok());
        assert!(dated || (i == 0 && *date == "not released"), "{version}: {date}");
    }
    let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    for kind in changelog.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(kinds.contains(&kind), "{kind} is no kind of change");
    }
}

#[test]
fn the_notes_of_a_release_are_cut_from_the_changelog() {
    let notes = stdout(&script("notes", &[VERSION]));
    assert!(notes.contains("\n### ") && !notes.contains("\n## ") && !notes.starts_with('\n'), "{notes}");
    assert!(!notes.contains("](docs/") && notes.contains("](https://github.com/owner/name/blob/v"), "{notes}");
    let changelog = text("CHANGELOG.md");
    let lines: Vec<&str> = notes.lines().filter(|line| !line.contains("](")).collect();
    assert!(lines.len() > 5 && lines.iter().all(|line| changelog.contains(line)));
    let unknown = script("notes", &["9.9.9"]);
    assert!(!unknown.status.success() && unknown.stdout.is_empty());
    let dated = !text("CHANGELOG.md").contains(&format!("## [{VERSION}] - not released"));
    assert_eq!(script("notes", &["--tagged", &format!("v{VERSION}")]).status.success(), dated, "a tag needs a date");
    for tag in ["v9.9.9", VERSION, "v1", "main"] {
        assert!(!script("notes", &["--tagged", tag]).status.success(), "{tag}");
    }
}

#[test]
fn the_manifest_for_krew_names_each_archive() {
    let folder = std::env::temp_dir().join(format!("koco-krew-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let arguments = [VERSION, folder.to_str().unwrap()];
    assert!(!script("krew", &arguments).status.success(), "there is no archive");
    let archive = |platform: &str| format!("kubectl-koco-{VERSION}-{platform}.tar.gz");
    for platform in ["linux-amd64", "linux-arm64", "darwin-arm64"] {
        fs::write(folder.join(archive(platform)), platform).unwrap();
    }
    let manifest = stdout(&script("krew", &arguments));
    fs::remove_dir_all(&folder).unwrap();
    assert!(!manifest.contains('@'), "{manifest}");
    let manifest: Value = serde_yaml_ng::from_str(&manifest).unwrap();
    assert_eq!(manifest["apiVersion"], "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!((&manifest["kind"], &manifest["metadata"]["name"]), (&"Plugin".into(), &"koco".into()));
    let spec = &manifest["spec"];
    assert_eq!(spec["version"], format!("v{VERSION}"));
    assert_eq!(spec["homepage"], "https://github.com/owner/name");
    let short = spec["shortDescription"].as_str().unwrap();
    assert!(!short.is_empty() && short.len() <= 50, "krew's index takes 50 characters: {short}");
    let sums = [
        ("linux", "amd64", "abb35c616421af72198ad7c2aeeef38516f08f6a7afb2a728cf0068a8a712ddc"),
        ("linux", "arm64", "17d46d4991b2edd5e445342a72ba0cb7cf09e4849b5e98c16408ce11e05c7388"),
        ("darwin", "arm64", "1a349b12b50ad5b43740e0952adc33c7805ce06f091074be977624d09ed9d432"),
    ];
    let platforms = spec["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), sums.len());
    for (platform, (os, arch, sum)) in platforms.iter().zip(sums) {
        assert_eq!(platform["selector"]["matchLabels"], serde_json::json!({ "os": os, "arch": arch }));
        let archive = archive(&format!("{os}-{arch}"));
        let uri = format!("https://github.com/owner/name/releases/download/v{VERSION}/{archive}");
        assert_eq!(platform["uri"], uri);
        assert_eq!(platform["sha256"], sum);
        assert_eq!(platform["bin"], "kubectl-koco");
    }
}

#[test]
fn a_release_has_the_files_that_documents_and_workflow_name() {
    let files = files("1.2.3-rc.1");
    let document = text("docs/releases.md");
    let (_, table) = document.split_once("## What a release has").unwrap();
    let names =
        table.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let told = names.map(|name| name.replace("VERSION", "1.2.3-rc.1"));
    let told = told.flat_map(|name| ["linux", "darwin"].map(|os| name.replace("OS", os)));
    let told: BTreeSet<_> = told.flat_map(|name| ["amd64", "arm64"].map(|arch| name.replace("ARCH", arch))).collect();
    assert_eq!(told, files, "docs/releases.md");

    let workflow = text(".github/workflows/release.yml");
    let mut named = 0;
    for start in ["$RELEASE/", "env.RELEASE }}/"] {
        for rest in workflow.split(start).skip(1) {
            let name = rest.split(['"', '\n', ' ']).next().unwrap().replace("$VERSION", "1.2.3-rc.1");
            let signature = name == "SHA256SUMS.sigstore.json";
            assert!(signature || files.contains(&name), "release.yml names {name}");
            named += 1;
        }
    }
    assert!(named > 3, "{named}");
}

#[test]
fn the_workflow_calls_what_there_is() {
    let workflow = text(".github/workflows/release.yml");
    let build = text("deploy/release/build");
    assert!(text("Makefile").contains("\n\t@deploy/release/build \"$(or $(VERSION),"), "make release");
    let parts = workflow.split("PART=").skip(1).map(|rest| rest.lines().next().unwrap());
    let known = build.lines().find_map(|line| line.strip_prefix("PARTS=(")?.strip_suffix(')')).unwrap();
    assert_eq!(
        parts.collect::<Vec<_>>(),
        known.split(' ').collect::<Vec<_>>(),
        "each part is built once, in this order"
    );
    let folder = |text: &str, end: &str| text.contains(&format!("dist/release-{end}"));
    assert!(folder(&text("deploy/release/lib.sh"), "$1"), "lib.sh");
    assert!(folder(&workflow, "${GITHUB_REF_NAME#v}"), "release.yml");
    let workflow = yaml(".github/workflows/release.yml");
    let matrix = workflow["jobs"]["programs"]["strategy"]["matrix"]["include"].as_array().unwrap();
    let archs: Vec<_> = matrix.iter().map(|entry| entry["arch"].as_str().unwrap()).collect();
    assert_eq!(archs, ["amd64", "arm64"]);
    // What is built where there is no script, under the name that the script looks for.
    let matrix = workflow["jobs"]["plugin"]["strategy"]["matrix"]["include"].as_array().unwrap();
    let platforms: Vec<_> = matrix.iter().map(|entry| entry["platform"].as_str().unwrap()).collect();
    assert_eq!(platforms, ["darwin-amd64", "darwin-arm64"]);
    assert_eq!(workflow["jobs"]["plugin"]["steps"][2]["with"]["path"], "kubectl-koco-*-${{ matrix.platform }}");
    assert!(text(".github/workflows/release.yml").contains("\"kubectl-koco-${GITHUB_REF_NAME#v}-$PLATFORM\""));
    assert!(build.contains("program=dist/kubectl-koco-$VERSION-$platform\n"), "build");
    assert_eq!(workflow["permissions"], serde_json::json!({ "contents": "read" }), "others for one job only");
}

//! `ARCHITECTURE.md` leads somewhere: its paths exist, as do those of `CONTRIBUTING.md`, every verb has its row, and
//! its table of crates says what their manifests say.
//!
//! Deliberately absent: whether a file does what the page says of it. That is for a reader.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_protocol::subject::Verb;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A page without its code blocks, which are pictures and commands.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// What stands in backticks.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a word in backticks names a file or a folder of this repository.
fn is_path(word: &str) -> bool {
    const ENDINGS: [&str; 8] = [".rs", ".md", ".toml", ".py", ".conf", ".yaml", ".jsonl", "/"];
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    is_plain && ENDINGS.iter().any(|ending| word.ends_with(ending))
}

/// Where the links of a page lead, without those to other sites and within the page.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://")).map(|target| target.split('#').next().unwrap())
}

/// The rows of the table with this heading, as cells.
fn table<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, table) = page.split_once(heading).unwrap_or_else(|| panic!("there is no table {heading}"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The members of a list of the workspace's manifest.
fn listed(manifest: &str, list: &str) -> Vec<String> {
    let (_, rest) = manifest.split_once(&format!("\n{list} = [")).unwrap();
    rest.split_once(']').unwrap().0.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The crates of this workspace that a crate's code imports; what only its tests import does not count.
fn imports(folder: &str) -> BTreeSet<String> {
    let manifest = read(&format!("{folder}/Cargo.toml"));
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.strip_prefix("holdfast-")?.split(['.', ' ', '=']).next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_path_exists() {
    for (name, at_least) in [("ARCHITECTURE.md", 100), ("CONTRIBUTING.md", 10)] {
        let page = prose(&read(name));
        let paths: BTreeSet<&str> = words(&page).filter(|word| is_path(word)).collect();
        assert!(paths.len() >= at_least, "{name}: only {} paths are found", paths.len());
        let missing: Vec<_> = paths.into_iter().filter(|path| !root().join(path).exists()).collect();
        assert!(missing.is_empty(), "{name} names what is not there: {missing:#?}");
    }
}

#[test]
fn links_to_files_lead_somewhere() {
    let pages = ["README.md", "ARCHITECTURE.md", "PROTOCOL.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md"];
    let mut checked = 0;
    for page in pages {
        let text = prose(&read(page));
        for target in links(&text).filter(|target| !target.is_empty()) {
            assert!(root().join(target).exists(), "{page} links to {target}");
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} links are found");
}

#[test]
fn every_verb_has_its_row_and_a_file() {
    let page = read("ARCHITECTURE.md");
    let rows = table(&page, "| verb | coordinator | rule | worker |");
    let listed: Vec<&str> = rows.iter().map(|row| words(row[0]).next().unwrap()).collect();
    assert_eq!(
        listed.iter().copied().collect::<BTreeSet<_>>(),
        Verb::ALL.iter().map(|verb| verb.as_str()).collect::<BTreeSet<_>>()
    );
    assert_eq!(listed.len(), Verb::ALL.len(), "a verb has two rows");
    for row in &rows {
        let [_, coordinator, _, worker] = row[..] else { panic!("not four cells: {row:?}") };
        assert!(words(coordinator).any(is_path), "{row:?}");
        let is_relayed = words(coordinator).any(|path| path == "coordinator/src/route.rs");
        assert!(!is_relayed || words(worker).any(is_path), "its agent answers it, in which file? {row:?}");
    }
}

#[test]
fn the_table_of_crates_says_what_the_manifests_say() {
    let page = read("ARCHITECTURE.md");
    let rows = table(&page, "| folder | what it is | what it never does | imports |");
    let drawn: BTreeMap<&str, BTreeSet<String>> = rows
        .iter()
        .map(|row| {
            let [folder, _, _, imports] = row[..] else { panic!("not four cells: {row:?}") };
            let folder = words(folder).next().unwrap().trim_end_matches('/');
            (folder, words(imports).map(str::to_owned).collect())
        })
        .collect();
    let manifest = read("Cargo.toml");
    let (members, excluded) = (listed(&manifest, "members"), listed(&manifest, "exclude"));
    let folders: BTreeSet<&str> = members.iter().chain(&excluded).map(String::as_str).collect();
    assert_eq!(drawn.keys().copied().collect::<BTreeSet<_>>(), folders);
    for member in &members {
        assert_eq!(drawn[member.as_str()], imports(member), "imports of {member}");
    }
}

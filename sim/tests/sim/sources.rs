//! What would make two runs of one seed differ does not stand in the sources of what is simulated.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// What is not to be used, and what is used instead.
const BANNED: [(&str, &str); 7] = [
    ("Uuid::now_v7", "chance::id"),
    ("Uuid::new_v4", "chance::secret_id"),
    ("rand::random", "chance::share or chance::pause"),
    ("Timestamp::now", "chance::now"),
    ("std::time::Instant::now", "tokio::time::Instant"),
    ("RandomState::new", "chance::salt"),
    ("watch::", "Notify, which wakes in the order of those who wait"),
];

/// Where one of them is right: the source itself, secrets, and a module of that name.
const EXCEPT: [(&str, &str); 4] = [
    ("store/src/chance.rs", ""),
    ("store/src/provision.rs", "rand::random"),
    ("worker/src/watch.rs", "watch::"),
    ("", "crate::watch::"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match path.is_dir() {
            true if name != "tests" && name != "simulation" => sources(&path, found)?,
            false if name.ends_with(".rs") && name != "tests.rs" => found.push(path),
            _ => {}
        }
    }
    Ok(())
}

/// What is wrong with a file, by line.
fn faults(name: &str, text: &str) -> Vec<String> {
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines: Vec<&str> = production.lines().map(str::trim_start).collect();
    let mut faults = Vec::new();
    for (n, line) in lines.iter().enumerate().filter(|(_, line)| !line.starts_with("//")) {
        for (banned, instead) in BANNED {
            let is_fine =
                |(file, what): &(&str, &str)| name.ends_with(file) && (what.is_empty() || line.contains(what));
            if line.contains(banned) && !EXCEPT.iter().any(is_fine) {
                faults.push(format!("{name}:{}: {banned}; use {instead}", n + 1));
            }
        }
        if line.contains("select! {") && lines.get(n + 1) != Some(&"biased;") {
            faults.push(format!("{name}:{}: a select that is not biased", n + 1));
        }
    }
    faults
}

#[test]
fn nothing_that_is_simulated_has_a_source_of_chance_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for part in ["coordinator/src", "worker/src", "store/src", "records/src", "rules/src"] {
        sources(&root.join(part), &mut files).unwrap();
    }
    assert!(files.len() > 100, "{} files", files.len());
    let of = |path: &PathBuf| faults(&path.to_string_lossy(), &fs::read_to_string(path).unwrap());
    let faults: Vec<String> = files.iter().flat_map(of).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn each_of_them_is_found() {
    for (banned, _) in BANNED {
        assert_eq!(faults("x.rs", &format!("let x = {banned}();\n")).len(), 1, "{banned}");
    }
    assert_eq!(faults("x.rs", "tokio::select! {\n    a => {}\n}\n").len(), 1);
    assert_eq!(faults("x.rs", "tokio::select! {\n    biased;\n    a => {}\n}\n").len(), 0);
}

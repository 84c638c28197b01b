//! `holdfast doc edit --editor`, `doc get --raw`, and output that is only a token.

use std::process::Output;

use crate::up::Up;

fn edit(up: &Up, editor: &str, options: &[&str]) -> Output {
    let mut command = up.command(&[&["doc", "edit", "s1", "--editor"], options].concat());
    command.env("VISUAL", editor).env("TMPDIR", up.folder.path()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The files that editors left.
fn drafts(up: &Up) -> Vec<String> {
    let files = std::fs::read_dir(up.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let drafts = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("holdfast-s1-"));
    drafts.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

fn raw(up: &Up) -> String {
    up.ask(&["doc", "get", "s1", "--raw"])
}

#[tokio::test]
async fn an_editor_changes_the_text_and_loses_no_work() {
    let up = Up::start().await;
    up.ask(&["session", "open", "s1", "--body", "one"]);
    assert_eq!(raw(&up), "one", "no line end is added");

    let edited = edit(&up, "printf two >", &[]);
    assert!(edited.status.success(), "{}", said(&edited));
    assert_eq!(raw(&up), "two");
    assert!(drafts(&up).is_empty());

    let unchanged = edit(&up, "true", &[]);
    assert!(unchanged.status.success() && said(&unchanged).contains("nothing was changed"), "{}", said(&unchanged));

    let failed = edit(&up, "sh -c 'printf mine > \"$1\"; exit 1' x", &[]);
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!((raw(&up).as_str(), drafts(&up)), ("two", vec!["mine".to_owned()]));
    std::fs::read_dir(up.folder.path()).unwrap().flatten().for_each(|entry| {
        if entry.file_name().to_string_lossy().starts_with("holdfast-s1-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    });

    let meanwhile = format!(
        "sh -c '\"{}\" doc edit s1 --body theirs >/dev/null; printf mine > \"$1\"' x",
        env!("CARGO_BIN_EXE_holdfast")
    );
    let conflict = edit(&up, &meanwhile, &[]);
    assert_eq!(conflict.status.code(), Some(3), "{}", said(&conflict));
    assert!(said(&conflict).contains("revision_mismatch"), "{}", said(&conflict));
    assert_eq!((raw(&up).as_str(), drafts(&up)), ("theirs", vec!["mine".to_owned()]));
}

#[tokio::test]
async fn an_editor_opens_only_if_its_change_can_be_made() {
    let up = Up::start().await;
    up.ask(&["session", "open", "s1", "--body", "one"]);
    let token = up.ask(&["lock", "acquire", "s1", "--owner", "ann", "--ttl", "1m", "--token-only"]);
    let token = token.strip_suffix('\n').unwrap();
    assert!(token.starts_with("hft_") && !token.contains(char::is_whitespace), "{token:?}");

    let opened = "touch opened; true";
    for options in [&[][..], &["--owner", "bob"], &["--token", "wrong"]] {
        let refused = edit(&up, opened, options);
        assert_eq!(refused.status.code(), Some(3), "{options:?}: {}", said(&refused));
    }
    assert!(!up.folder.path().join("opened").exists());

    assert!(edit(&up, "printf two >", &["--token", token]).status.success());
    assert_eq!(raw(&up), "two");
    up.ask(&["lock", "release", "s1", "--token", token]);

    let held = format!("sh -c '\"{}\" session get s1 > seen; printf three > \"$1\"' x", env!("CARGO_BIN_EXE_holdfast"));
    let edited = edit(&up, &held, &["--owner", "bob"]);
    assert!(edited.status.success(), "{}", said(&edited));
    assert_eq!(raw(&up), "three");
    assert!(up.read("seen").contains("held by bob"), "{}", up.read("seen"));
    assert!(up.ask(&["session", "get", "s1"]).contains("free"), "it is released");

    let taken = format!(
        "sh -c '\"{}\" admin takeover s1 --owner ops --reason r >/dev/null; printf four > \"$1\"' x",
        env!("CARGO_BIN_EXE_holdfast")
    );
    let lost = edit(&up, &taken, &["--owner", "bob"]);
    assert_eq!(lost.status.code(), Some(3), "{}", said(&lost));
    assert_eq!((raw(&up).as_str(), drafts(&up)), ("three", vec!["four".to_owned()]));
}

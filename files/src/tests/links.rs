//! Paths and links: what they lead to, and that nothing outside is read or written.

use super::*;

#[test]
fn a_real_path_is_found_through_any_links_within() {
    let place = place();
    std::fs::create_dir_all(place.at("real/deep")).unwrap();
    std::fs::write(place.at("real/a.md"), "a").unwrap();
    symlink("a.md", place.at("real/beside.md")).unwrap();
    symlink("real/a.md", place.at("down.md")).unwrap();
    symlink("../a.md", place.at("real/deep/up.md")).unwrap();
    symlink("real", place.at("folder")).unwrap();
    symlink("folder", place.at("folder2")).unwrap();
    symlink(place.at("real/a.md"), place.at("absolute.md")).unwrap();
    symlink("real/not-yet.md", place.at("dangling.md")).unwrap();
    let name = place.inside.path().canonicalize().unwrap();
    let name = name.file_name().unwrap().to_str().unwrap();
    symlink(format!("../../{name}/real/a.md"), place.at("real/out-and-back.md")).unwrap();
    for (path, real) in [
        ("real/a.md", "real/a.md"),
        ("real/beside.md", "real/a.md"),
        ("down.md", "real/a.md"),
        ("real/deep/up.md", "real/a.md"),
        ("folder/a.md", "real/a.md"),
        ("folder2/deep/up.md", "real/a.md"),
        ("absolute.md", "real/a.md"),
        ("dangling.md", "real/not-yet.md"),
        ("real/out-and-back.md", "real/a.md"),
        ("folder/new/er.md", "real/new/er.md"),
        ("nowhere/new.md", "nowhere/new.md"),
        ("real/a.md/below", "real/a.md/below"),
    ] {
        assert_eq!(place.real(path), Real::Path(real.to_owned()), "{path}");
    }
    // But nothing is opened through a link, not even within.
    for path in ["down.md", "folder/a.md", "absolute.md"] {
        assert!(place.read(path).is_err(), "{path}");
        assert!(!is_done(&place.save(path, "x", nothing_known())), "{path}");
    }
    assert_eq!(std::fs::read(place.at("real/a.md")).unwrap(), b"a");
    symlink(".", place.at("itself")).unwrap();
    assert_eq!(place.real("itself"), Real::Nameless);
    symlink("loop2", place.at("loop1")).unwrap();
    symlink("loop1", place.at("loop2")).unwrap();
    assert!(real_path(&place.mount, "loop1").is_err());
}

#[test]
fn links_that_leave_are_outside_and_nothing_is_read_or_written_through_them() {
    let place = place();
    let secret = place.outside.path().join("secret.md");
    let inside_name = place.inside.path().file_name().unwrap().to_str().unwrap();
    std::fs::create_dir(place.at("sub")).unwrap();
    symlink(&secret, place.at("file.md")).unwrap();
    symlink(place.outside.path(), place.at("folder")).unwrap();
    symlink(place.outside.path().join("nothing.md"), place.at("dangling.md")).unwrap();
    symlink("../..", place.at("sub/up")).unwrap();
    symlink(format!("../{inside_name}/../{inside_name}-not/sub"), place.at("round")).unwrap();
    symlink("/proc/self/cwd", place.at("proc")).unwrap();
    symlink("/proc/self/root", place.at("root")).unwrap();
    symlink("folder/secret.md", place.at("twice.md")).unwrap();
    for path in [
        "file.md",
        "folder/secret.md",
        "folder/new.md",
        "dangling.md",
        "sub/up/etc/passwd",
        "round/x.md",
        "proc/x.md",
        "root/etc/passwd",
        "twice.md",
    ] {
        assert_eq!(place.real(path), Real::Outside, "{path}");
        assert!(place.read(path).is_err(), "{path} was read");
        let saved = place.save(path, "x", nothing_known());
        assert!(!is_done(&saved), "{path} was written");
        place.assert_outside_is_as_it_was();
        // Told to write over whatever is there, a save puts a file in the place of a link, and none behind a folder's.
        let saved = place.save(path, "x", Over::Anything);
        assert_eq!(is_done(&saved), !path.contains('/'), "{path}");
        place.assert_outside_is_as_it_was();
    }
    assert!(!Path::new("/etc/new.md").exists());
}

#[test]
fn paths_that_are_not_canonical_or_too_long_reach_nothing() {
    let place = place();
    let outside = place.outside.path().file_name().unwrap().to_str().unwrap().to_owned();
    let long = "x".repeat(300);
    for path in [
        "..".to_owned(),
        format!("../{outside}/secret.md"),
        format!("a/../../{outside}/secret.md"),
        place.outside.path().join("secret.md").display().to_string(),
        "/etc/passwd".to_owned(),
        "a\0b".to_owned(),
        String::new(),
        long.clone(),
        format!("{long}/a.md"),
    ] {
        assert!(!matches!(place.read(&path), Ok(Some(_))), "{path:?} was read");
        assert!(!is_done(&place.save(&path, "x", Over::Anything)), "{path:?} was written");
        place.assert_outside_is_as_it_was();
    }
    assert_eq!(std::fs::read_dir(place.inside.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_name_that_another_system_wrote_decomposed_is_found_and_kept() {
    let place = place();
    let (composed, decomposed) = ("caf\u{e9}/\u{e9}.md", "cafe\u{301}/e\u{301}.md");
    std::fs::create_dir(place.at("cafe\u{301}")).unwrap();
    std::fs::write(place.at(decomposed), "text").unwrap();
    symlink(decomposed, place.at("link.md")).unwrap();
    assert_eq!(place.read(composed).unwrap().as_deref(), Some("text"));
    for path in [composed, "link.md"] {
        assert_eq!(place.real(path), Real::Path(composed.to_owned()), "{path}");
    }
    assert!(is_done(&place.save(composed, "new", known("text"))));
    assert_eq!(std::fs::read(place.at(decomposed)).unwrap(), b"new");
    assert!(!place.at(composed).exists(), "there is one file");
}

#[test]
fn a_save_says_how_many_other_names_it_cut_off() {
    let place = place();
    std::fs::write(place.at("a.md"), "one").unwrap();
    std::fs::hard_link(place.at("a.md"), place.at("b.md")).unwrap();
    std::fs::hard_link(place.at("a.md"), place.at("c.md")).unwrap();
    let cut = |saved: Result<Placed>| saved.unwrap().links_cut;
    assert_eq!(cut(place.save("a.md", "two", known("one"))), 2);
    assert_eq!(cut(place.save("a.md", "three", known("two"))), 0, "nothing has another name any more");
    assert_eq!(cut(place.save("b.md", "two", Over::Anything)), 1);
    assert_eq!(cut(place.save("new.md", "one", nothing_known())), 0);
    for (name, text) in [("a.md", "three"), ("b.md", "two"), ("c.md", "one")] {
        assert_eq!(std::fs::read_to_string(place.at(name)).unwrap(), text, "{name}");
    }
}

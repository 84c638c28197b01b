//! Saves and links on a real file system: nothing outside is read or written, and nothing half done is seen.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_protocol::id::WorkspaceName;

use super::beneath::real_path;
use super::*;

struct Place {
    inside: tempfile::TempDir,
    outside: tempfile::TempDir,
    workspace: Workspace,
}

/// A workspace, and beside it a folder with a secret that nobody may reach.
fn place() -> Place {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret.md"), "secret").unwrap();
    let workspace = Workspace { dir: inside.path().to_owned(), writable: true };
    Place { inside, outside, workspace }
}

impl Place {
    fn at(&self, path: &str) -> std::path::PathBuf {
        self.inside.path().join(path)
    }

    fn save(&self, path: &str, text: &str, over: &Over) -> std::io::Result<Save> {
        save::save(&self.workspace, &SessionId::parse("s1").unwrap(), path, text.as_bytes(), over)
    }

    fn read(&self, path: &str) -> std::io::Result<Option<String>> {
        let read = save::read(&self.workspace, path, 1 << 20)?;
        Ok(read.map(|(bytes, _)| String::from_utf8(bytes).unwrap()))
    }

    fn real(&self, path: &str) -> Real {
        real_path(&self.workspace, path).unwrap()
    }

    fn assert_outside_is_as_it_was(&self) {
        let outside = self.outside.path();
        assert_eq!(std::fs::read(outside.join("secret.md")).unwrap(), b"secret");
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1, "something was written outside");
    }
}

fn is_done(saved: &std::io::Result<Save>) -> bool {
    matches!(saved, Ok(Save::Done(_)))
}

fn nothing_known() -> Over {
    Over::Known(Known::default())
}

fn known(text: &str) -> Over {
    Over::Known(Known { baseline: Some(Baseline::of(text.as_bytes(), None)), begun: Vec::new() })
}

fn stray(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".holdfast")).collect()
}

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
    for (path, real) in [
        ("real/a.md", "real/a.md"),
        ("real/beside.md", "real/a.md"),
        ("down.md", "real/a.md"),
        ("real/deep/up.md", "real/a.md"),
        ("folder/a.md", "real/a.md"),
        ("folder2/deep/up.md", "real/a.md"),
        ("absolute.md", "real/a.md"),
        ("dangling.md", "real/not-yet.md"),
        ("folder/new/er.md", "real/new/er.md"),
        ("nowhere/new.md", "nowhere/new.md"),
        ("real/a.md/below", "real/a.md/below"),
    ] {
        assert_eq!(place.real(path), Real::Path(real.to_owned()), "{path}");
    }
    // But nothing is opened through a link, not even within.
    for path in ["down.md", "folder/a.md", "absolute.md"] {
        assert!(place.read(path).is_err(), "{path}");
        assert!(!is_done(&place.save(path, "x", &nothing_known())), "{path}");
    }
    assert_eq!(std::fs::read(place.at("real/a.md")).unwrap(), b"a");
    symlink(".", place.at("itself")).unwrap();
    assert_eq!(place.real("itself"), Real::Nameless);
    symlink("loop2", place.at("loop1")).unwrap();
    symlink("loop1", place.at("loop2")).unwrap();
    assert!(real_path(&place.workspace, "loop1").is_err());
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
    symlink(format!("../{inside_name}/sub"), place.at("round")).unwrap();
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
        let saved = place.save(path, "x", &nothing_known());
        assert!(!is_done(&saved), "{path} was written");
        place.assert_outside_is_as_it_was();
        // Told to write over whatever is there, a save puts a file in the place of a link, and none behind a folder's.
        let saved = place.save(path, "x", &Over::Anything);
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
        assert!(!is_done(&place.save(&path, "x", &Over::Anything)), "{path:?} was written");
        place.assert_outside_is_as_it_was();
    }
    assert_eq!(std::fs::read_dir(place.inside.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let place = place();
    std::fs::create_dir(place.at("folder.md")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.at("pipe.md"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for path in ["folder.md", "pipe.md"] {
        assert!(place.read(path).is_err(), "{path}");
        assert!(!is_done(&place.save(path, "x", &nothing_known())), "{path}");
    }
    let workspace = WorkspaceName::parse("main").unwrap();
    let ids = ["caf\u{e9}.md", "cafe\u{301}.md", "CAF\u{c9}.md"]
        .map(|path| CanonicalPath::parse(path, 1024).unwrap().session_id(&workspace));
    assert_eq!(ids[0], ids[1], "composed and decomposed are one name");
    assert_ne!(ids[0], ids[2], "upper and lower case are two");
}

#[test]
fn a_save_keeps_mode_and_owner_and_leaves_nothing_beside_the_file() {
    let place = place();
    assert!(is_done(&place.save("new/er/a.md", "one", &nothing_known())));
    let file = place.at("new/er/a.md");
    let usual = place.at("usual");
    std::fs::write(&usual, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&file), mode(&usual), "a new file has the usual mode");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&file, Some(12_345), Some(12_346)).unwrap();
    }
    assert!(is_done(&place.save("new/er/a.md", "two", &known("one"))));
    assert_eq!((mode(&file), std::fs::read(&file).unwrap()), (0o640, b"two".to_vec()));
    if is_root {
        let metadata = std::fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_346));
    }
    assert!(!is_done(&place.save("new/er/a.md", "three", &known("one"))), "it is not what the session knows");
    assert!(!is_done(&place.save("new/er/a.md", "three", &nothing_known())));
    assert_eq!(std::fs::read(&file).unwrap(), b"two");
    assert_eq!(stray(&place.at("new/er")), Vec::<String>::new());
}

#[test]
fn what_is_written_between_the_check_and_the_rename_is_not_written_over() {
    let place = place();
    let spot = super::beneath::spot(&place.workspace, "a.md", super::beneath::Missing::Leave).unwrap().unwrap();
    let replace = |over: &Over| save::replace(&spot, ".holdfast-s1-x".as_ref(), b"new", over).unwrap();
    std::fs::write(place.at("a.md"), "theirs").unwrap();
    assert!(matches!(replace(&known("one")), Save::Diverged(Found::File(_))));
    std::fs::remove_file(place.at(".holdfast-s1-x")).unwrap();
    assert!(matches!(replace(&nothing_known()), Save::Diverged(Found::File(_))));
    std::fs::write(place.at("temporary"), "new").unwrap();
    assert!(!save::rename(&spot, "temporary".as_ref(), true).unwrap(), "there is a file after all");
    assert_eq!(std::fs::read(place.at("a.md")).unwrap(), b"theirs");
}

#[test]
fn only_what_a_save_of_the_same_session_left_is_swept() {
    let place = place();
    for name in [".holdfast-s1-1", ".holdfast-s1-2", ".holdfast-s11-1", ".holdfast-s2-1", "a.md"] {
        std::fs::write(place.at(name), "").unwrap();
    }
    save::sweep(&place.workspace, &SessionId::parse("s1").unwrap(), "a.md").unwrap();
    let mut left = stray(place.inside.path());
    left.sort();
    assert_eq!(left, [".holdfast-s11-1", ".holdfast-s2-1"]);
}

/// Swaps `path` between a folder and a link to the outside, or a file and a link to it, until told to stop.
fn swap(path: &Path, target: &Path, spare: &Path, stop: &AtomicBool) {
    let link = spare.with_extension("link");
    symlink(target, &link).unwrap();
    while !stop.load(Ordering::Relaxed) {
        // Both are there at every moment, under one name or the other.
        rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, &link, rustix::fs::RenameFlags::EXCHANGE)
            .unwrap();
    }
}

/// Tells the other threads to stop when this one does, however it does.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_link_that_is_swapped_in_during_open_and_save_leads_nowhere() {
    let place = place();
    std::fs::create_dir(place.at("folder")).unwrap();
    std::fs::write(place.at("folder/secret.md"), "mine").unwrap();
    std::fs::write(place.at("file.md"), "mine").unwrap();
    let stop = AtomicBool::new(false);
    let (mut reads, mut saves, mut refused) = (0, 0, 0);
    std::thread::scope(|threads| {
        let (outside, secret) = (place.outside.path().to_owned(), place.outside.path().join("secret.md"));
        let (place, stop) = (&place, &stop);
        threads.spawn(move || swap(&place.at("folder"), &outside, &place.at("spare1"), stop));
        threads.spawn(move || swap(&place.at("file.md"), &secret, &place.at("spare2"), stop));
        let _stop = StopAtEnd(stop);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
        let mut rounds = 0;
        while std::time::Instant::now() < end && rounds < 20_000 {
            rounds += 1;
            for path in ["folder/secret.md", "file.md"] {
                match place.read(path) {
                    Ok(Some(text)) => {
                        assert_ne!(text, "secret", "{path} led outside");
                        reads += 1;
                    }
                    Ok(None) | Err(_) => refused += 1,
                }
                match place.save(path, "mine", &known("mine")) {
                    Ok(Save::Done(_)) => saves += 1,
                    Ok(Save::Diverged(_)) | Err(_) => refused += 1,
                }
            }
        }
    });
    place.assert_outside_is_as_it_was();
    assert!(reads > 0 && saves > 0 && refused > 0, "{reads} reads, {saves} saves and {refused} refusals are no race");
}

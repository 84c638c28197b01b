//! Saves and links on a real file system: nothing outside is read or written, and nothing half done is seen.

mod attributes;
mod folders;
mod links;
mod races;
#[cfg(target_os = "linux")]
mod rights;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::beneath::real_path;
use super::*;

const MAX: u64 = 1 << 20;

fn tag(id: &str) -> Tag {
    format!(".holdfast-default.{id}").into()
}

struct Place {
    inside: tempfile::TempDir,
    outside: tempfile::TempDir,
    mount: Mount,
}

/// A workspace, and beside it a folder with a secret that nobody may reach.
fn place() -> Place {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret.md"), "secret").unwrap();
    let mount = Mount::open(&Workspace { dir: inside.path().to_owned(), writable: true }, None).unwrap();
    Place { inside, outside, mount }
}

impl Place {
    fn at(&self, path: &str) -> std::path::PathBuf {
        self.inside.path().join(path)
    }

    fn order(path: &str, text: &str, over: Over) -> Order {
        let (path, text, baseline) = (path.to_owned(), text.to_owned(), Baseline::of(text.as_bytes()));
        Order { tag: tag("s1"), path, text, baseline, over, max: MAX }
    }

    fn prepare(&self, path: &str, text: &str, over: Over) -> Result<Prepared> {
        save::prepare(&self.mount, Self::order(path, text, over))
    }

    fn save(&self, path: &str, text: &str, over: Over) -> Result<Placed> {
        self.prepare(path, text, over)?.finish()
    }

    fn read(&self, path: &str) -> Result<Option<String>> {
        let read = save::read(&self.mount, path, MAX)?;
        Ok(read.map(|(bytes, _)| String::from_utf8(bytes).unwrap()))
    }

    fn real(&self, path: &str) -> Real {
        real_path(&self.mount, path).unwrap()
    }

    fn assert_outside_is_as_it_was(&self) {
        let outside = self.outside.path();
        assert_eq!(std::fs::read(outside.join("secret.md")).unwrap(), b"secret");
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1, "something was written outside");
    }
}

fn is_done<T>(saved: &Result<T>) -> bool {
    saved.is_ok()
}

fn nothing_known() -> Over {
    Over::Expected(Expected::default())
}

fn known(text: &str) -> Over {
    Over::Expected(known_of(text, &[]))
}

fn known_of(baseline: &str, begun: &[&str]) -> Expected {
    let digest = |text: &str| Baseline::of(text.as_bytes()).digest;
    Expected { baseline: Some(digest(baseline)), begun: begun.iter().map(|text| digest(text)).collect() }
}

fn stray(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".holdfast")).collect()
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
        assert!(!is_done(&place.save(path, "x", nothing_known())), "{path}");
    }
}

#[test]
fn only_what_a_save_of_the_same_session_left_is_swept() {
    let place = place();
    let others = [".holdfast-default.s11-1", ".holdfast-default.s2-1", ".holdfast-other.s1-1"];
    for name in [".holdfast-default.s1-1", ".holdfast-default.s1-2", "a.md"].iter().chain(&others) {
        std::fs::write(place.at(name), "").unwrap();
    }
    save::tidy(&place.mount, &tag("s1"), "a.md", &known_of("", &[""]), MAX).unwrap();
    let mut left = stray(place.inside.path());
    left.sort();
    assert_eq!(left, others);
}

#[test]
fn a_file_that_may_not_be_read_is_something_else() {
    let place = place();
    std::fs::write(place.at("a.md"), "one").unwrap();
    std::fs::set_permissions(place.at("a.md"), std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(place.at("a.md")).is_ok() {
        eprintln!("this process may read anything");
        return;
    }
    assert!(matches!(save::look(&place.mount, "a.md", MAX).unwrap(), Found::Unreadable));
    assert!(is_done(&place.save("a.md", "two", Over::Anything)));
}

#[test]
fn what_is_too_large_for_a_document_is_not_read_to_its_end() {
    let place = place();
    let file = std::fs::File::create(place.at("a.md")).unwrap();
    file.set_len(1 << 40).unwrap();
    let start = std::time::Instant::now();
    let Found::File(seen) = save::look(&place.mount, "a.md", MAX).unwrap() else { panic!("it is a file") };
    assert_eq!((seen.digest, seen.bytes), (None, 1 << 40));
    assert!(!is_done(&place.save("a.md", "x", known(""))));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

/// `cargo test --release -p holdfast-worker --lib save_of_64_kib -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for a release build on a quiet machine"]
fn a_save_of_64_kib_takes_at_most_half_as_long_again_as_a_bare_one() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let mount = Mount::open(&Workspace { dir: folder.path().to_owned(), writable: true }, None).unwrap();
    let place = Place { inside: folder, outside: tempfile::tempdir().unwrap(), mount };
    let text = |number: usize| format!("{number:016}").repeat(4096);
    let bare = |text: &str| {
        let (temporary, file) = (place.at("bare.tmp"), place.at("bare.md"));
        let mut written = std::fs::File::create(&temporary).unwrap();
        std::io::Write::write_all(&mut written, text.as_bytes()).unwrap();
        written.sync_all().unwrap();
        std::fs::rename(&temporary, &file).unwrap();
        std::fs::File::open(place.inside.path()).unwrap().sync_all().unwrap();
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    assert!(is_done(&place.save("a.md", &text(0), nothing_known())));
    for number in 1..=400 {
        let start = std::time::Instant::now();
        bare(&text(number));
        theirs.push(start.elapsed());
        let start = std::time::Instant::now();
        assert!(is_done(&place.save("a.md", &text(number), known(&text(number - 1)))));
        ours.push(start.elapsed());
    }
    ours.sort();
    theirs.sort();
    let (ours, theirs) = (ours[200], theirs[200]);
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    eprintln!("a save of 64 KiB takes {ours:?}, a bare one {theirs:?}: {ratio:.2} times");
    assert!(ratio <= 1.5);
}

//! Saves by a user who may not do everything, as workers should be run.

use std::os::unix::fs::chown;

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::*;

const NOBODY: u32 = 65_534;
/// A group that nobody is in besides.
const GROUP: u32 = 12_346;

/// Does `work` on a thread without root's rights, if this process has them.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let without_rights = || {
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            set_thread_groups(&[Gid::from_raw(GROUP)]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
        }
        work()
    };
    std::thread::scope(|scope| scope.spawn(without_rights).join().unwrap())
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A workspace with `a.md`, which says "old"; its folder and the file have these modes.
fn place_with(folder: u32, file: u32) -> Place {
    let place = place();
    std::fs::write(place.at("a.md"), "old").unwrap();
    set_mode(&place.at("a.md"), file);
    set_mode(place.inside.path(), folder);
    place
}

#[test]
fn a_file_that_may_not_be_written_is_not_replaced_unless_that_is_asked_for() {
    // Read-only; and somebody else's, where there is somebody else.
    let is_root = rustix::process::geteuid().is_root();
    for mode in [0o444, 0o644] {
        let place = place_with(0o777, mode);
        if mode == 0o444 && is_root {
            chown(place.at("a.md"), Some(NOBODY), Some(NOBODY)).unwrap();
        } else if mode == 0o644 && !is_root {
            continue; // All files are one's own.
        }
        let owner = std::fs::metadata(place.at("a.md")).unwrap().uid();
        as_nobody(|| {
            let saved = place.save("a.md", "new", known("old"));
            let Err(FileError::Protected { mode: found, uid, source }) = saved else {
                panic!("{mode:o}: {}", is_done(&saved))
            };
            assert_eq!((found, uid), (mode, owner));
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
            // What somebody else wrote is told of first.
            assert!(matches!(place.save("a.md", "new", known("older")), Err(FileError::Diverged(Found::File(_)))));
            assert_eq!(std::fs::read(place.at("a.md")).unwrap(), b"old");
            assert!(is_done(&place.save("a.md", "new", Over::Anything)), "{mode:o}");
        });
        let metadata = std::fs::metadata(place.at("a.md")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, std::fs::read(place.at("a.md")).unwrap()), (mode, b"new".to_vec()));
        assert_eq!(stray(place.inside.path()), Vec::<String>::new());
    }
}

#[test]
fn a_file_that_became_read_only_while_a_save_was_written_is_not_replaced() {
    let place = place_with(0o777, 0o666);
    let prepared = as_nobody(|| place.prepare("a.md", "new", known("old")).unwrap());
    set_mode(&place.at("a.md"), 0o444);
    assert!(matches!(as_nobody(|| prepared.finish()), Err(FileError::Protected { mode: 0o444, .. })));
    assert_eq!((std::fs::read(place.at("a.md")).unwrap(), stray(place.inside.path())), (b"old".to_vec(), vec![]));
}

#[test]
fn root_replaces_what_it_may_write() {
    if rustix::process::geteuid().is_root() {
        let place = place_with(0o777, 0o444);
        assert!(is_done(&place.save("a.md", "new", known("old"))), "the kernel lets it, whatever the mode");
    }
}

#[test]
fn what_is_anothers_is_saved_where_its_mode_lets() {
    let place = place_with(0o777, 0o666);
    assert!(is_done(&as_nobody(|| place.save("a.md", "new", known("old")))));
    assert!(is_done(&as_nobody(|| place.save("folder/b.md", "new", nothing_known()))));
    let metadata = std::fs::metadata(place.at("a.md")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o666, "whoever else could write can still");
    assert_eq!((std::fs::read(place.at("a.md")).unwrap(), stray(place.inside.path())), (b"new".to_vec(), vec![]));
    if rustix::process::geteuid().is_root() {
        assert_eq!(metadata.uid(), NOBODY, "it could not be given away");
    }
}

#[test]
fn ones_own_group_is_kept_where_the_owner_cannot_be() {
    if !rustix::process::geteuid().is_root() {
        return; // Nobody else can be given a file.
    }
    let place = place_with(0o777, 0o6664);
    chown(place.at("a.md"), Some(1), Some(GROUP)).unwrap();
    set_mode(&place.at("a.md"), 0o6664);
    assert!(is_done(&as_nobody(|| place.save("a.md", "new", known("old")))));
    let metadata = std::fs::metadata(place.at("a.md")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (NOBODY, GROUP, 0o664));
}

#[test]
fn a_folder_that_may_not_be_written_keeps_its_file() {
    // The folder is another's; or it is shared, and only their owners may replace files.
    for folder in [0o555, 0o1777] {
        let place = place_with(folder, 0o666);
        if folder == 0o1777 && !rustix::process::geteuid().is_root() {
            continue; // All files are one's own.
        }
        let saved = as_nobody(|| place.save("a.md", "new", known("old")));
        let error = saved.err().unwrap_or_else(|| panic!("{folder:o}: saved"));
        assert!(is_denied(&error), "{folder:o}: {error}");
        assert_eq!((std::fs::read(place.at("a.md")).unwrap(), stray(place.inside.path())), (b"old".to_vec(), vec![]));
        set_mode(place.inside.path(), 0o777);
    }
}

#[test]
fn what_may_not_be_read_is_not_written_over() {
    let place = place_with(0o777, 0o000);
    as_nobody(|| {
        assert!(is_denied(&place.read("a.md").unwrap_err()));
        for over in [known("old"), nothing_known()] {
            let saved = place.save("a.md", "new", over);
            assert!(matches!(saved, Err(FileError::Diverged(Found::Unreadable))));
        }
    });
    set_mode(&place.at("a.md"), 0o600);
    assert_eq!((std::fs::read(place.at("a.md")).unwrap(), stray(place.inside.path())), (b"old".to_vec(), vec![]));
}

#[test]
fn what_may_not_be_read_keeps_its_mode_where_it_is_written_over_on_purpose() {
    for mode in [0o000, 0o200, 0o600] {
        let place = place_with(0o777, mode);
        assert!(is_done(&as_nobody(|| place.save("a.md", "new", Over::Anything))));
        assert_eq!(std::fs::metadata(place.at("a.md")).unwrap().mode() & 0o7777, mode, "{mode:o}");
    }
}

fn is_denied(error: &FileError) -> bool {
    matches!(error, FileError::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied)
}

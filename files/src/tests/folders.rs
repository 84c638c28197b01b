//! Folders that a save makes, and what becomes of them when it fails.

use super::*;

/// More than a file system lets a name have.
fn too_long() -> String {
    "x".repeat(300)
}

#[test]
fn a_save_that_fails_leaves_none_of_the_folders_that_it_made() {
    let place = place();
    std::fs::create_dir(place.at("there")).unwrap();
    let refused =
        |path: String| assert!(matches!(place.save(&path, "x", nothing_known()), Err(FileError::Io(_))), "{path}");
    // Before anything is written, and at the last step.
    refused(format!("new/er/{}/a.md", too_long()));
    refused(format!("new/er/{}", too_long()));
    refused(format!("there/new/{}", too_long()));
    assert!(!place.at("new").exists());
    assert!(place.at("there").is_dir(), "it was there before, though empty");
    assert_eq!(std::fs::read_dir(place.at("there")).unwrap().count(), 0);
    assert!(is_done(&place.save("new/er/a.md", "x", nothing_known())));
    refused(format!("new/{}", too_long()));
    assert_eq!(place.read("new/er/a.md").unwrap().as_deref(), Some("x"));
}

#[test]
fn what_others_put_in_the_place_of_a_folder_that_a_save_made_stays() {
    let place = place();
    let prepare = |path: &str| place.prepare(path, "mine", nothing_known()).unwrap();
    let prepared = prepare("new/er/a.md");
    std::fs::write(place.at("new/er/a.md"), "theirs").unwrap();
    assert!(matches!(prepared.finish(), Err(FileError::Diverged(Found::File(_)))));
    assert_eq!(std::fs::read(place.at("new/er/a.md")).unwrap(), b"theirs");
    let prepared = prepare(&format!("other/{}", "x".repeat(300)));
    std::fs::remove_dir(place.at("other")).unwrap();
    // Made between so that it gets another number than the one that was removed.
    std::fs::create_dir(place.at("between")).unwrap();
    std::fs::create_dir(place.at("other")).unwrap();
    assert!(matches!(prepared.finish(), Err(FileError::Io(_))));
    assert!(place.at("other").is_dir(), "it is somebody else's");
}

#[test]
fn a_save_that_is_given_up_leaves_its_folders_to_whoever_has_the_session_now() {
    let place = place();
    let (old, new) = (
        place.prepare("new/a.md", "old", nothing_known()).unwrap(),
        place.prepare("new/a.md", "new", nothing_known()).unwrap(),
    );
    drop(old);
    assert!(is_done(&new.finish()));
    assert_eq!(place.read("new/a.md").unwrap().as_deref(), Some("new"));
}

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
    let refused = |path: String| assert!(place.save(&path, "x", nothing_known()).is_err(), "{path}");
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
    let prepare = |path: &str| match place.prepare(path, "mine", nothing_known()).unwrap() {
        Save::Done(prepared) => prepared,
        _ => panic!("refused"),
    };
    let prepared = prepare("new/er/a.md");
    std::fs::write(place.at("new/er/a.md"), "theirs").unwrap();
    assert!(matches!(prepared.finish().unwrap(), Save::Diverged(Found::File(_))));
    assert_eq!(std::fs::read(place.at("new/er/a.md")).unwrap(), b"theirs");
    let prepared = prepare(&format!("other/{}", "x".repeat(300)));
    std::fs::remove_dir(place.at("other")).unwrap();
    // Made between so that it gets another number than the one that was removed.
    std::fs::create_dir(place.at("between")).unwrap();
    std::fs::create_dir(place.at("other")).unwrap();
    assert!(prepared.finish().is_err());
    assert!(place.at("other").is_dir(), "it is somebody else's");
}

#[test]
fn a_save_that_is_given_up_leaves_its_folders_to_whoever_has_the_session_now() {
    let place = place();
    let (Save::Done(old), Save::Done(new)) = (
        place.prepare("new/a.md", "old", nothing_known()).unwrap(),
        place.prepare("new/a.md", "new", nothing_known()).unwrap(),
    ) else {
        panic!("refused")
    };
    drop(old);
    assert!(matches!(new.finish().unwrap(), Save::Done(_)));
    assert_eq!(place.read("new/a.md").unwrap().as_deref(), Some("new"));
}

//! What a file keeps when it is saved.

use super::*;

#[test]
fn a_save_keeps_mode_and_owner_and_leaves_nothing_beside_the_file() {
    let place = place();
    assert!(is_done(&place.save("new/er/a.md", "one", nothing_known())));
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
    assert!(is_done(&place.save("new/er/a.md", "two", known("one"))));
    assert_eq!((mode(&file), std::fs::read(&file).unwrap()), (0o640, b"two".to_vec()));
    if is_root {
        let metadata = std::fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_346));
    }
    assert!(!is_done(&place.save("new/er/a.md", "three", known("one"))), "it is not what the session knows");
    assert!(!is_done(&place.save("new/er/a.md", "three", nothing_known())));
    assert_eq!(std::fs::read(&file).unwrap(), b"two");
    assert_eq!(stray(&place.at("new/er")), Vec::<String>::new());
}

#[test]
fn rights_that_would_be_anothers_are_not_given_along() {
    for (mode, got, kept) in [
        (0o104_755, (1, 2), 0o4755),
        (0o104_755, (9, 2), 0o755),
        (0o102_755, (1, 9), 0o755),
        (0o101_644, (9, 9), 0o1644),
    ] {
        assert_eq!(super::super::attributes::mode_for(mode, (1, 2), got), kept, "{mode:o} of {got:?}");
    }
    let place = place();
    std::fs::write(place.at("a.md"), "one").unwrap();
    std::fs::set_permissions(place.at("a.md"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    assert!(is_done(&place.save("a.md", "two", known("one"))));
    let mode = std::fs::metadata(place.at("a.md")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o4755, "it is the same owner's");
}

#[test]
fn extended_attributes_are_kept_where_the_file_system_has_them() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let place = place();
    std::fs::write(place.at("a.md"), "one").unwrap();
    if setxattr(place.at("a.md"), "user.mood", b"good", XattrFlags::empty()).is_err() {
        eprintln!("this file system has no extended attributes");
        return;
    }
    // One more reader, as `setfacl -m u:12345:r` says it: version 2, then tag, rights and id of each entry.
    let entry =
        |tag: u16, rights: u16, id: u32| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat();
    let entries = [(1, 6, u32::MAX), (2, 4, 12_345), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)];
    let list: Vec<u8> =
        [2, 0, 0, 0].into_iter().chain(entries.into_iter().flat_map(|(t, r, i)| entry(t, r, i))).collect();
    let has_lists = setxattr(place.at("a.md"), "system.posix_acl_access", &list, XattrFlags::empty()).is_ok();
    assert!(is_done(&place.save("a.md", "two", known("one"))));
    let attribute = |name: &str| {
        let mut value = [0_u8; 256];
        getxattr(place.at("a.md"), name, &mut value).map(|length| value[..length].to_vec()).ok()
    };
    assert_eq!(attribute("user.mood").as_deref(), Some(&b"good"[..]));
    assert_eq!(attribute("system.posix_acl_access"), has_lists.then_some(list));
}

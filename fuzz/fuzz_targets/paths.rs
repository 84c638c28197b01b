//! A path that is accepted is canonical, stays inside, and is the same whoever canonicalises it again.
#![no_main]

use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::path::CanonicalPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(path) = CanonicalPath::parse(text, 1024) else { return };
    let canonical = path.as_str();
    assert!(!canonical.is_empty() && canonical.chars().count() <= 1024);
    assert!(canonical.split('/').all(|part| !matches!(part, "" | "." | "..")), "{canonical:?}");
    assert!(!canonical.chars().any(char::is_control));
    let again = CanonicalPath::parse(canonical, 1024).expect("a canonical path is a path");
    assert_eq!(again.as_str(), canonical);
    let workspace = WorkspaceName::parse("main").expect("a name");
    assert_eq!(again.session_id(&workspace), path.session_id(&workspace));
});

//! Symbolic links within a workspace: one file, one session.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::{fleet, open};

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_a_file_leads_to_the_session_of_its_real_path() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir(at("real")).unwrap();
    std::fs::write(at("real/a.md"), "text").unwrap();
    symlink("real", at("folder")).unwrap();
    symlink("folder/a.md", at("file.md")).unwrap();
    symlink(at("real/a.md"), at("absolute.md")).unwrap();
    symlink("real/new.md", at("dangling.md")).unwrap();
    let fleet = fleet(folder.path()).await;
    for (path, real) in [
        ("file.md", "real/a.md"),
        ("folder/a.md", "real/a.md"),
        ("absolute.md", "real/a.md"),
        ("real/a.md", "real/a.md"),
        ("dangling.md", "real/new.md"),
        ("folder/new.md", "real/new.md"),
    ] {
        let session = fleet.ask("session.open", "", json!({ "path": path })).await.ok();
        assert_eq!(session["path"], real, "{path}");
        assert_eq!(session["id"], open(&fleet, real).await, "{path}");
        let attached = fleet.ask("session.open", "", json!({"path": path, "mode": "attach"})).await.ok();
        assert_eq!(attached["id"], session["id"], "{path}");
    }
    let create = json!({"path": "file.md", "mode": "create"});
    fleet.ask("session.open", "", create).await.refused("conflict", "already_exists");
    let attach = json!({"path": "folder/other.md", "mode": "attach"});
    fleet.ask("session.open", "", attach).await.refused("not_found", "no_session");
    // Saves leave the links as they are.
    let id = open(&fleet, "dangling.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "new"})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(std::fs::read(at("real/new.md")).unwrap(), b"new");
    assert!(at("dangling.md").is_symlink() && at("folder").is_symlink());
    let sessions = fleet.ask("session.list", "", json!({})).await.ok();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 2, "{sessions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_put_in_the_place_of_a_sessions_file_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir(at("sub")).unwrap();
    for path in ["a.md", "b.md", "sub/c.md"] {
        std::fs::write(at(path), path).unwrap();
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("c.md"), "secret").unwrap();
    let fleet = fleet(folder.path()).await;
    let (a, c) = (open(&fleet, "a.md").await, open(&fleet, "sub/c.md").await);
    std::fs::remove_file(at("a.md")).unwrap();
    symlink("b.md", at("a.md")).unwrap();
    fleet.ask("doc.load", &a, json!({})).await.refused("filesystem", "io");
    fleet.ask("doc.edit", &a, json!({"body": "mine"})).await.ok();
    let refusal = fleet.ask("doc.save", &a, json!({})).await.refused("conflict", "disk_diverged");
    assert!(refusal["message"].as_str().unwrap().contains("symbolic link"), "{refusal}");
    fleet.ask("doc.save", &a, json!({"overwrite": true})).await.ok();
    assert_eq!(std::fs::read(at("b.md")).unwrap(), b"b.md");
    assert_eq!(std::fs::read(at("a.md")).unwrap(), b"mine");
    std::fs::rename(at("sub"), at("was")).unwrap();
    symlink(outside.path(), at("sub")).unwrap();
    fleet.ask("doc.load", &c, json!({})).await.refused("invalid_params", "path_escape");
    fleet.ask("doc.edit", &c, json!({"body": "mine"})).await.ok();
    for overwrite in [false, true] {
        let save = json!({ "overwrite": overwrite });
        fleet.ask("doc.save", &c, save).await.refused("invalid_params", "path_escape");
    }
    assert_eq!(std::fs::read(outside.path().join("c.md")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_has_become_a_link_leads_to_where_it_leads_now() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::write(at("sub/c.md"), "text").unwrap();
    let outside = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let before = open(&fleet, "sub/c.md").await;
    std::fs::rename(at("sub"), at("was")).unwrap();
    symlink("was", at("sub")).unwrap();
    let after = open(&fleet, "sub/c.md").await;
    assert_ne!(after, before);
    assert_eq!(after, open(&fleet, "was/c.md").await, "one file, one session");
    fleet.ask("doc.edit", &after, json!({"body": "new"})).await.ok();
    fleet.ask("doc.save", &after, json!({})).await.ok();
    assert_eq!(std::fs::read(at("was/c.md")).unwrap(), b"new");
    std::fs::remove_file(at("sub")).unwrap();
    symlink(outside.path(), at("sub")).unwrap();
    fleet.ask("session.open", "", json!({"path": "sub/c.md"})).await.refused("invalid_params", "path_escape");
}

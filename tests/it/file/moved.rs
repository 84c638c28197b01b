//! Folders that are something else by now: the workspace's own, and those within it.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::{fleet, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_not_at_its_name_any_more_is_no_workspace() {
    let above = tempfile::tempdir().unwrap();
    let (docs, elsewhere) = (above.path().join("docs"), above.path().join("elsewhere"));
    std::fs::create_dir(&docs).unwrap();
    std::fs::write(docs.join("a.md"), "one").unwrap();
    let fleet = fleet(&docs).await;
    let id = open(&fleet, "a.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "two"})).await.ok();
    std::fs::rename(&docs, &elsewhere).unwrap();
    for is_another_there in [false, true] {
        if is_another_there {
            std::fs::create_dir(&docs).unwrap();
        }
        for (verb, body) in [("doc.save", json!({})), ("doc.load", json!({"discard": true}))] {
            fleet.ask(verb, &id, body).await.refused("not_found", "no_workspace");
        }
        fleet.ask("session.open", "", json!({"path": "b.md"})).await.refused("not_found", "no_workspace");
        assert_eq!(std::fs::read(elsewhere.join("a.md")).unwrap(), b"one");
    }
    assert_eq!(std::fs::read_dir(&docs).unwrap().count(), 0);
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["body"], "two");
    std::fs::remove_dir(&docs).unwrap();
    std::fs::rename(&elsewhere, &docs).unwrap();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(std::fs::read(docs.join("a.md")).unwrap(), b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_became_a_file_or_a_link_is_a_divergence() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    for kind in ["file", "link"] {
        let within = folder.path().join(kind);
        std::fs::create_dir(&within).unwrap();
        std::fs::write(within.join("a.md"), "one").unwrap();
        let id = open(&fleet, &format!("{kind}/a.md")).await;
        fleet.ask("doc.edit", &id, json!({"body": "two"})).await.ok();
        std::fs::rename(&within, folder.path().join("was")).unwrap();
        match kind {
            "file" => std::fs::write(&within, "").unwrap(),
            _ => symlink("was", &within).unwrap(),
        }
        signals.wait_for(&id, "doc.diverged").await;
        let save = fleet.ask("doc.save", &id, json!({"actor": "me"})).await;
        assert_eq!(save.refused("conflict", "disk_diverged")["details"]["found_digest"], json!(null));
        assert_eq!(signals.wait_for(&id, "doc.failed").await["data"]["actor"], "me");
        fleet.ask("doc.save", &id, json!({"overwrite": true})).await.refused("filesystem", "io");
        assert_eq!(std::fs::read(folder.path().join("was/a.md")).unwrap(), b"one");
        assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["body"], "two");
        std::fs::remove_file(&within).unwrap();
        std::fs::rename(folder.path().join("was"), &within).unwrap();
        fleet.ask("doc.save", &id, json!({})).await.ok();
        assert_eq!(std::fs::read(within.join("a.md")).unwrap(), b"two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_temporary_files_are_nobodys() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let name = ".holdfast-default.file-557801e0aedbeaa0deae-x";
    symlink(name, folder.path().join("link.md")).unwrap();
    for path in [name, &format!("deep/{name}"), "link.md"] {
        fleet.ask("session.open", "", json!({ "path": path })).await.refused("invalid_params", "invalid_path");
    }
    open(&fleet, ".holdfast").await;
    open(&fleet, ".holdfast-notes/a.md").await;
}

//! Path sessions and their files: load, save, divergence, and nothing outside of the workspace.

mod contend;
mod crash;
mod front;
mod link;
mod moved;
mod rights;
mod watch;

use std::path::Path;

use holdfast_tests::fleet::Fleet;
use holdfast_tests::server;
use serde_json::json;

async fn fleet(folder: &Path) -> Fleet {
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_worker("w1", &[("main", folder)]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet
}

async fn open(fleet: &Fleet, path: &str) -> String {
    let session = fleet.ask("session.open", "", json!({ "path": path })).await.ok();
    session["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_is_made_by_its_first_save_and_kept_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "deep/er/new.md").await;
    fleet.ask("doc.load", &id, json!({})).await.refused("not_found", "no_file");
    assert_eq!(signals.wait_for(&id, "doc.failed").await["data"]["error"]["reason"], "no_file");
    let body = "\u{feff}line\r\nlast without end";
    fleet.ask("doc.edit", &id, json!({"body": body})).await.ok();
    fleet.ask("session.close", &id, json!({})).await.refused("conflict", "unsaved_changes");
    let saved = fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!((&saved["revision"], &saved["bytes"]), (&json!(1), &json!(body.len())));
    assert_eq!(saved["digest"], holdfast_tests::blake3_hex(body.as_bytes()));
    assert_eq!(std::fs::read(folder.path().join("deep/er/new.md")).unwrap(), body.as_bytes());
    assert_eq!(std::fs::read_dir(folder.path().join("deep/er")).unwrap().count(), 1, "no stray files");
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["dirty"], false);
    fleet.ask("doc.undo", &id, json!({})).await.ok();
    fleet.ask("session.close", &id, json!({"discard": true})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_wrote_is_never_written_over_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    std::fs::write(&file, "one").unwrap();
    let mut fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok().get("diverged"), None);
    fleet.ask("doc.edit", &id, json!({"body": "mine", "actor": "me"})).await.ok();
    fleet.ask("doc.edit", &id, json!({"body": "mine", "actor": "another"})).await.ok();
    std::fs::write(&file, "theirs").unwrap();
    let refusal = fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
    let details = &refusal["details"];
    assert_eq!(details["found_digest"], holdfast_tests::blake3_hex(b"theirs"));
    assert_eq!((&details["unsaved_by"], &details["found_bytes"]), (&json!("me"), &json!(6)));
    for when in ["expected_mtime", "found_mtime", "synced_at", "unsaved_since"] {
        assert!(details[when].is_string(), "{when} in {details}");
    }
    assert_eq!(refusal["actions"], json!(["load_discard", "save_overwrite", "read"]));
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["diverged"], true);
    assert_eq!(refusal["details"]["expected_digest"], holdfast_tests::blake3_hex(b"one"));
    assert_eq!(std::fs::read(&file).unwrap(), b"theirs");
    for verb in ["doc.load", "session.close"] {
        let refusal = fleet.ask(verb, &id, json!({})).await.refused("conflict", "unsaved_changes");
        let details = &refusal["details"];
        assert_eq!((&details["unsaved_by"], &details["diverged"]), (&json!("me"), &json!(true)), "{verb}");
        assert_eq!(refusal["actions"], json!(["save_overwrite", "discard"]), "{verb}: a plain save would be refused");
        assert!(details["unsaved_since"].is_string(), "{details}");
    }
    let loaded = fleet.ask("doc.load", &id, json!({"discard": true, "request_id": "l1"})).await.ok();
    assert_eq!((&loaded["body"], &loaded["dirty"]), (&json!("theirs"), &json!(false)));
    assert_eq!(fleet.ask("doc.load", &id, json!({"discard": true, "request_id": "l1"})).await.ok(), loaded);
    fleet.ask("doc.edit", &id, json!({"body": "mine"})).await.ok();
    std::fs::write(&file, "theirs again").unwrap();
    fleet.ask("doc.save", &id, json!({"overwrite": true})).await.ok();
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    // What was unsaved is there after an absence, though the disk has moved on.
    fleet.ask("doc.edit", &id, json!({"body": "unsaved"})).await.ok();
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    std::fs::write(&file, "elsewhere").unwrap();
    let back = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!((&back["body"], &back["dirty"], &back["diverged"]), (&json!("unsaved"), &json!(true), &json!(true)));
    fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
    // So it is after a move, where nothing but the log goes along.
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    fleet.ask("admin.move", &id, json!({"worker": "w2", "reason": "test"})).await.ok();
    let back = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!((&back["body"], &back["dirty"], &back["diverged"]), (&json!("unsaved"), &json!(true), &json!(true)));
    assert_eq!(std::fs::read(&file).unwrap(), b"elsewhere");
    let loaded = fleet.ask("doc.load", &id, json!({"discard": true})).await.ok();
    assert_eq!((&loaded["body"], loaded.get("diverged")), (&json!("elsewhere"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_keeps_what_can_be_undone_only_where_it_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    std::fs::write(&file, "---\na: 1\n---\none").unwrap();
    let mut fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    for change in [json!({"body": "two"}), json!({"fields": {"a": 2}}), json!({"body": "three"})] {
        fleet.ask("doc.edit", &id, change).await.ok();
    }
    fleet.ask("doc.undo", &id, json!({})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(fleet.ask("doc.load", &id, json!({})).await.ok()["revision"], 5);
    // So it is for the next worker.
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    fleet.ask("admin.move", &id, json!({"worker": "w2", "reason": "test"})).await.ok();
    for (verb, body, field) in
        [("doc.redo", "three", 2), ("doc.undo", "two", 2), ("doc.undo", "two", 1), ("doc.undo", "one", 1)]
    {
        fleet.ask(verb, &id, json!({})).await.ok();
        let document = fleet.ask("doc.get", &id, json!({})).await.ok();
        assert_eq!((&document["body"], &document["fields"]["a"]), (&json!(body), &json!(field)), "{verb}");
    }
    std::fs::write(&file, "---\na: 3\n---\none").unwrap();
    fleet.ask("doc.load", &id, json!({"discard": true})).await.ok();
    for verb in ["doc.undo", "doc.redo"] {
        fleet.ask(verb, &id, json!({})).await.refused("conflict", "nothing_to_undo");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_removed_or_made_under_a_session_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    std::fs::write(&file, "one").unwrap();
    let fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    std::fs::remove_file(&file).unwrap();
    let refusal = fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
    assert_eq!(refusal["details"]["found_digest"], json!(null));
    assert_eq!(refusal["actions"], json!(["save_overwrite", "read"]), "there is nothing to load");
    let refusal = fleet.ask("doc.load", &id, json!({})).await.refused("not_found", "no_file");
    assert_eq!(refusal["actions"], json!(["save"]));
    assert!(!file.exists());
    fleet.ask("doc.save", &id, json!({"overwrite": true})).await.ok();
    assert_eq!(std::fs::read(&file).unwrap(), b"one");
    let id = open(&fleet, "b.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "mine"})).await.ok();
    std::fs::write(folder.path().join("b.md"), "theirs").unwrap();
    let refusal = fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
    assert_eq!(refusal["details"]["expected_digest"], json!(null));
    // The same text is no divergence, whoever wrote it.
    std::fs::write(folder.path().join("b.md"), "mine").unwrap();
    fleet.ask("doc.save", &id, json!({})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_workspace_is_edited_and_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.md"), "one").unwrap();
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_read_only_worker("w1", &[("main", folder.path())]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "a.md").await;
    fleet.ask("doc.save", &id, json!({})).await.refused("forbidden", "workspace_denied");
    for (path, text) in [("a.md", "one"), ("new/b.md", "")] {
        let id = open(&fleet, path).await;
        assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["body"], text);
        fleet.ask("doc.edit", &id, json!({"body": "two"})).await.ok();
        for overwrite in [false, true] {
            let save = json!({ "overwrite": overwrite });
            fleet.ask("doc.save", &id, save).await.refused("forbidden", "workspace_denied");
        }
        fleet.ask("session.close", &id, json!({})).await.refused("conflict", "unsaved_changes");
        signals.wait_for(&id, "doc.edited").await;
        assert!(!signals.events_of(&id).contains(&"doc.saved".to_owned()), "{path}");
    }
    assert_eq!(std::fs::read(folder.path().join("a.md")).unwrap(), b"one");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_some_workers_may_only_read_a_save_finds_one_that_may_write() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.md"), "one").unwrap();
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    for reader in ["r1", "r2", "r3"] {
        fleet.add_read_only_worker(reader, &[("main", folder.path())]).await.unwrap();
    }
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "a.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "two"})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.refused("forbidden", "workspace_denied");
    fleet.add_worker("w1", &[("main", folder.path())]).await.unwrap();
    let save = || fleet.ask("doc.save", &id, json!({}));
    let saved = tokio::join!(save(), save(), save());
    for saved in [saved.0, saved.1, saved.2] {
        saved.ok();
    }
    assert_eq!(std::fs::read(folder.path().join("a.md")).unwrap(), b"two");
    let moved = signals.wait_for(&id, "session.moved").await;
    assert_eq!(moved["data"]["worker"], "w1");
    assert!(moved["data"]["reason"].as_str().unwrap().ends_with(" has workspace main read-only"), "{moved}");
    fleet.ask("doc.undo", &id, json!({})).await.ok();
    let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
    let read_only: Vec<_> = (0..4).map(|n| listed["workers"][n]["read_only"].clone()).collect();
    assert_eq!(json!(read_only), json!([["main"], ["main"], ["main"], null]));
    for n in 0..8 {
        let id = open(&fleet, &format!("{n}.md")).await;
        assert_eq!(fleet.ask("session.get", &id, json!({})).await.ok()["owner"]["worker"], "w1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_was_opened_with_is_in_no_file_until_it_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let open = json!({"path": "new.md", "content": {"body": "hours of work"}, "config": {"on_idle": "close"}});
    let session = fleet.ask("session.open", "", open).await.ok();
    let id = session["id"].as_str().unwrap();
    assert_eq!(fleet.ask("doc.get", id, json!({})).await.ok()["dirty"], true);
    for verb in ["session.close", "doc.load"] {
        fleet.ask(verb, id, json!({})).await.refused("conflict", "unsaved_changes");
    }
    // Idleness keeps what no file has, whatever it was told to do.
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    assert_eq!(fleet.ask("session.get", id, json!({})).await.ok()["state"], "passive");
    assert_eq!(fleet.ask("doc.get", id, json!({})).await.ok()["body"], "hours of work");
    fleet.ask("doc.save", id, json!({})).await.ok();
    assert_eq!(fleet.ask("doc.get", id, json!({})).await.ok()["dirty"], false);
    // An edit that changes nothing is nothing to save.
    let same = fleet.ask("doc.edit", id, json!({"body": "hours of work"})).await.ok();
    assert_eq!((&same["revision"], &same["dirty"]), (&json!(1), &json!(false)));
    fleet.ask("doc.undo", id, json!({})).await.refused("conflict", "nothing_to_undo");
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    fleet.ask("session.get", id, json!({})).await.refused("not_found", "no_session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_file_nobody_can_read_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    let fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    std::fs::write(&file, b"\xff\xfe").unwrap();
    let document = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!((&document["body"], &document["diverged"]), (&json!(""), &json!(true)));
    fleet.ask("doc.load", &id, json!({})).await.refused("filesystem", "not_utf8");
    // One without an end is not read to its end.
    std::fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    fleet.ask("doc.load", &id, json!({})).await.refused("too_large", "body_too_large");
    fleet.ask("doc.edit", &id, json!({"body": "mine"})).await.ok();
    let refusal = fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
    let details = &refusal["details"];
    assert_eq!((&details["found_digest"], &details["found_bytes"]), (&json!(null), &json!(1_u64 << 40)));
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let refusal = fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
    assert_eq!(refusal["actions"], json!(["read"]), "a folder can be neither loaded nor written over");
    fleet.ask("doc.save", &id, json!({"overwrite": true})).await.refused("filesystem", "io");
    fleet.ask("session.close", &id, json!({"discard": true})).await.ok();
    fleet.ask("session.open", "", json!({"path": "a.md"})).await.refused("filesystem", "io");
    let long = "x".repeat(300);
    fleet.ask("session.open", "", json!({ "path": long })).await.refused("invalid_params", "invalid_path");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_a_file_makes_no_session_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    // Asked of a coordinator that knows nothing yet.
    fleet.stop_coordinator().await;
    fleet.add_coordinator().await.unwrap();
    assert_eq!(fleet.ask("session.open", "", json!({ "id": id })).await.ok()["path"], "a.md");
    fleet.ask("session.close", &id, json!({})).await.ok();
    fleet.ask("session.open", "", json!({ "id": id })).await.refused("invalid_params", "invalid_session_id");
    assert_eq!(open(&fleet, "a.md").await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_on_one_file_do_not_write_over_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    let there = |verb: &str, tail: &str| format!("{}.other.{verb}{tail}", fleet.root);
    let other = fleet.ask_raw(&there("session.open", ""), br#"{"path": "a.md"}"#.to_vec()).await.ok();
    assert_eq!(other["id"], id.as_str());
    fleet.ask("doc.edit", &id, json!({"body": "one"})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    let tail = format!(".{id}");
    fleet.ask_raw(&there("doc.edit", &tail), br#"{"body": "another"}"#.to_vec()).await.ok();
    let refused = fleet.ask_raw(&there("doc.save", &tail), b"{}".to_vec()).await;
    refused.refused("conflict", "disk_diverged");
    assert_eq!(std::fs::read(folder.path().join("a.md")).unwrap(), b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_out_of_the_workspace_leads_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.md");
    std::fs::write(&secret, "secret").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&secret, folder.path().join("file.md")).unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("folder")).unwrap();
    std::fs::write(folder.path().join("latin1.md"), b"\xe9t\xe9").unwrap();
    let fleet = fleet(folder.path()).await;
    for path in ["file.md", "folder/secret.md"] {
        let reply = fleet.ask("session.open", "", json!({ "path": path })).await;
        reply.refused("invalid_params", "path_escape");
    }
    fleet.ask("session.open", "", json!({"path": "latin1.md"})).await.refused("filesystem", "not_utf8");
    let id = open(&fleet, "new.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "x"})).await.ok();
    std::os::unix::fs::symlink(&secret, folder.path().join("new.md")).unwrap();
    fleet.ask("doc.save", &id, json!({"overwrite": true})).await.ok();
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret", "the link was replaced, not followed");
}

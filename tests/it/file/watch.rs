//! What happens to a file under its session is told, without anybody asking.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use holdfast_tests::wait::until;
use serde_json::json;

use super::{fleet, open};

/// Writes a file in one step, so that nobody sees half of it.
fn put(file: impl AsRef<Path>, text: &str) {
    let part = file.as_ref().with_extension("part");
    std::fs::write(&part, text).unwrap();
    std::fs::rename(part, file).unwrap();
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_changed_under_a_clean_session_is_announced_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    put(&file, "one");
    let fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "a.md").await;
    put(&file, "theirs");
    let told = signals.wait_for(&id, "doc.diverged").await;
    assert_eq!(told.get("correlationid"), None, "no request was the cause");
    let data = &told["data"];
    assert_eq!((&data["path"], &data["revision"], &data["changed"]), (&json!("a.md"), &json!(0), &json!([])));
    assert_eq!((&data["error"]["code"], &data["error"]["reason"]), (&json!("conflict"), &json!("disk_diverged")));
    let details = &data["error"]["details"];
    assert_eq!(details["expected_digest"], holdfast_tests::blake3_hex(b"one"));
    for when in ["synced_at", "expected_mtime", "found_mtime"] {
        assert!(details[when].is_string(), "{when} in {details}");
    }
    let document = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!(
        (&document["diverged"], &document["dirty"], &document["body"]),
        (&json!(true), &json!(false), &json!("one"))
    );
    // Neither more of the same, nor a take-up, is news.
    put(&file, "theirs, longer");
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["diverged"], true);
    // Loaded, it is what the session knows; the next change is news again.
    let loaded = fleet.ask("doc.load", &id, json!({})).await.ok();
    assert_eq!((&loaded["body"], loaded.get("diverged")), (&json!("theirs, longer"), None));
    std::fs::remove_file(&file).unwrap();
    let told = signals.wait_for_nth(2, &id, "doc.diverged").await;
    let error = &told["data"]["error"];
    assert_eq!(error["details"]["found_digest"], json!(null));
    assert!(error["message"].as_str().unwrap().contains("removed"), "{error}");
    // Back as it was, as after `git checkout`.
    put(&file, "theirs, longer");
    assert_eq!(signals.wait_for(&id, "doc.converged").await["data"]["error"], json!(null));
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok().get("diverged"), None);
    let events = ["doc.loaded", "doc.diverged", "doc.converged"];
    let counts = events.map(|event| signals.events_of(&id).iter().filter(|name| *name == event).count());
    assert_eq!(counts, [1, 2, 1], "{:?}", signals.events_of(&id));
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_saves_and_the_same_text_are_no_news() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    // Its folder is made by the first save, and watched from then on.
    let id = open(&fleet, "new/a.md").await;
    for text in ["one", "two", "three"] {
        fleet.ask("doc.edit", &id, json!({ "body": text })).await.ok();
        fleet.ask("doc.save", &id, json!({})).await.ok();
    }
    let file = folder.path().join("new/a.md");
    put(&file, "three");
    // When another file's change is told, this one's has been looked at, or is just before the next request.
    let other = open(&fleet, "new/b.md").await;
    put(folder.path().join("new/b.md"), "theirs");
    signals.wait_for(&other, "doc.diverged").await;
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok().get("diverged"), None);
    put(&file, "theirs");
    let told = signals.wait_for(&id, "doc.diverged").await;
    assert_eq!(told["data"]["error"]["details"]["found_digest"], holdfast_tests::blake3_hex(b"theirs"));
    let names = signals.events_of(&id);
    assert!(!names.iter().any(|name| name == "doc.converged"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_goes_and_a_link_that_comes_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    let file = folder.path().join("sub/a.md");
    put(&file, "one");
    put(folder.path().join("b.md"), "one");
    let fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    let (a, b) = (open(&fleet, "sub/a.md").await, open(&fleet, "b.md").await);
    std::fs::rename(folder.path().join("sub"), folder.path().join("was")).unwrap();
    signals.wait_for(&a, "doc.diverged").await;
    std::fs::remove_file(folder.path().join("b.md")).unwrap();
    symlink("was/a.md", folder.path().join("b.md")).unwrap();
    signals.wait_for(&b, "doc.diverged").await;
    // In a new folder of the old name the file is watched from the next save on.
    fleet.ask("doc.save", &a, json!({"overwrite": true})).await.ok();
    assert_eq!(std::fs::read(&file).unwrap(), b"one");
    put(&file, "theirs");
    signals.wait_for_nth(2, &a, "doc.diverged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_further_up_that_goes_and_comes_back_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (sub, was) = (folder.path().join("sub"), folder.path().join("was"));
    let make = |text: &str| {
        std::fs::create_dir_all(sub.join("deep/er")).unwrap();
        put(sub.join("deep/er/a.md"), text);
    };
    make("one");
    let fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "sub/deep/er/a.md").await;
    std::fs::rename(&sub, &was).unwrap();
    signals.wait_for(&id, "doc.diverged").await;
    std::fs::rename(&was, &sub).unwrap();
    signals.wait_for(&id, "doc.converged").await;
    // As with `git checkout` of a branch that does not have it, and back.
    std::fs::remove_dir_all(&sub).unwrap();
    signals.wait_for_nth(2, &id, "doc.diverged").await;
    make("one");
    signals.wait_for_nth(2, &id, "doc.converged").await;
    put(sub.join("deep/er/a.md"), "theirs");
    signals.wait_for_nth(3, &id, "doc.diverged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_away_notices_when_it_is_back_and_tells_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    put(&file, "one");
    let mut fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "a.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "mine", "actor": "me"})).await.ok();
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    put(&file, "theirs");
    let back = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!((&back["dirty"], &back["diverged"]), (&json!(true), &json!(true)));
    let told = signals.wait_for(&id, "doc.diverged").await;
    assert_eq!(told["data"]["error"]["details"]["unsaved_by"], "me");
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    fleet.ask("admin.move", &id, json!({"worker": "w2", "reason": "test"})).await.ok();
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["diverged"], true);
    // On another worker it is watched as well.
    put(&file, "one");
    signals.wait_for(&id, "doc.converged").await;
    let names = signals.events_of(&id);
    assert_eq!(names.iter().filter(|name| *name == "doc.diverged").count(), 1, "{names:?}");
    until("the session to be as it was", SOON, async || {
        let document = fleet.ask("doc.get", &id, json!({})).await.ok();
        (document.get("diverged").is_none() && document["dirty"] == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_a_relative_name_is_watched() {
    // As `--workspace main=./docs` has it.
    let folder = tempfile::Builder::new().prefix("docs-").tempdir_in(".").unwrap();
    let relative = Path::new(".").join(folder.path().file_name().unwrap());
    put(relative.join("a.md"), "one");
    let fleet = fleet(&relative).await;
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "a.md").await;
    put(relative.join("a.md"), "theirs");
    signals.wait_for(&id, "doc.diverged").await;
}

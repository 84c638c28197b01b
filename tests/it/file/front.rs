//! Fields and the front matter of files, as a client sees them.

use serde_json::json;

use super::{fleet, open};

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_the_front_matter_and_what_did_not_change_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    let text =
        "\u{feff}---\r\n# head\r\ntitle:   'Old'  # why\r\ntags: [a,   b]\r\ndate: 2026-11-22\r\n---\r\n\r\nbody";
    std::fs::write(&file, text).unwrap();
    let mut fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    let document = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!(document["fields"], json!({"title": "Old", "tags": ["a", "b"], "date": "2026-11-22"}));
    assert_eq!(document["body"], "\r\nbody");
    fleet.ask("doc.edit", &id, json!({"body": "\r\nnew"})).await.ok();
    let saved = fleet.ask("doc.save", &id, json!({})).await.ok();
    let expected = text.replace("body", "new");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
    assert_eq!(
        (&saved["digest"], &saved["bytes"]),
        (&json!(holdfast_tests::blake3_hex(expected.as_bytes())), &json!(expected.len()))
    );
    // The text as it was read goes along to whoever has the session next.
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    fleet.ask("admin.move", &id, json!({"worker": "w2", "reason": "test"})).await.ok();
    fleet.stop_worker("w1").await;
    fleet.ask("doc.edit", &id, json!({"fields": {"title": "New", "draft": true}})).await.ok();
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    let expected = expected.replace("'Old'", "New").replace("11-22\r\n", "11-22\r\ndraft: true\r\n");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
    // And back again: undo takes fields too.
    fleet.ask("doc.undo", &id, json!({})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    let expected = expected.replace("New", "Old").replace("draft: true\r\n", "");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_brings_the_fields_of_the_file_and_says_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    std::fs::write(&file, "plain").unwrap();
    let fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "a.md").await;
    std::fs::write(&file, "+++\ntitle = \"T\" # x\n[author]\nname = 'N'\n+++\nplain").unwrap();
    let loaded = fleet.ask("doc.load", &id, json!({})).await.ok();
    assert_eq!(
        (&loaded["fields"], &loaded["body"]),
        (&json!({"title": "T", "author": {"name": "N"}}), &json!("plain"))
    );
    assert_eq!(signals.wait_for(&id, "doc.loaded").await["data"]["changed"], json!(["fields"]));
    fleet.ask("doc.edit", &id, json!({"fields": {"author": {"name": "M"}}})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "+++\ntitle = \"T\" # x\n[author]\nname = \"M\"\n+++\nplain");
    fleet.ask("doc.edit", &id, json!({"fields": {"author": [null]}})).await.ok();
    let refusal = fleet.ask("doc.save", &id, json!({})).await.refused("filesystem", "bad_frontmatter");
    assert!(refusal["message"].as_str().unwrap().contains("TOML cannot say null"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_gets_a_front_matter_with_its_first_field_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(folder.path()).await;
    let content = json!({"body": "text", "fields": {"title": "T"}});
    let session = fleet.ask("session.open", "", json!({"path": "a.md", "content": content})).await.ok();
    let id = session["id"].as_str().unwrap();
    fleet.ask("doc.save", id, json!({})).await.ok();
    assert_eq!(std::fs::read_to_string(folder.path().join("a.md")).unwrap(), "---\ntitle: T\n---\ntext");
    // A body that begins with one is written as it stands, and is fields when the file is read again.
    let id = open(&fleet, "b.md").await;
    let body = "---\nx: 1\n---\ntext";
    fleet.ask("doc.edit", &id, json!({ "body": body })).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(std::fs::read_to_string(folder.path().join("b.md")).unwrap(), body);
    let loaded = fleet.ask("doc.load", &id, json!({})).await.ok();
    assert_eq!((&loaded["fields"], &loaded["body"]), (&json!({"x": 1}), &json!("text")));
    // But none that nobody could read again.
    let id = open(&fleet, "c.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "---\n{\n---\n"})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.refused("filesystem", "bad_frontmatter");
    assert!(!folder.path().join("c.md").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_change_stays_as_it_was_however_deep_and_exact() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    let text = "---\nauthor:\n  name: Ann  # who\n  mail: a@x\n  born: 1979-05-27\nsize: 1.602176634e-19\neps: 1e-30\n---\nbody";
    std::fs::write(&file, text).unwrap();
    let mut fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    fleet.ask("admin.move", &id, json!({"worker": "w2", "reason": "through the log"})).await.ok();
    fleet.ask("doc.edit", &id, json!({"body": "text"})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    let text = text.replace("body", "text");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    fleet.ask("doc.edit", &id, json!({"fields": {"author": {"mail": "b@x"}}})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text.replace("a@x", "b@x"));
    // A byte order mark stays the first of the file.
    std::fs::write(folder.path().join("b.md"), "\u{feff}body").unwrap();
    let id = open(&fleet, "b.md").await;
    for title in ["T", "U"] {
        fleet.ask("doc.edit", &id, json!({"fields": {"title": title}})).await.ok();
        fleet.ask("doc.save", &id, json!({})).await.ok();
        let written = std::fs::read_to_string(folder.path().join("b.md")).unwrap();
        assert_eq!(written, format!("\u{feff}---\ntitle: {title}\n---\nbody"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_byte_order_mark_is_the_same_document_after_a_load_and_keeps_undo() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    let plain = "\u{feff}body\r\n";
    std::fs::write(&file, plain).unwrap();
    let mut fleet = fleet(folder.path()).await;
    let signals = fleet.signals().await.unwrap();
    let id = open(&fleet, "a.md").await;
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["body"], plain);
    fleet.ask("doc.edit", &id, json!({"fields": {"title": "T"}})).await.ok();
    assert_eq!(signals.wait_for(&id, "doc.edited").await["data"]["changed"], json!(["body", "fields"]));
    let titled = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!(titled["body"], "body\r\n");
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "\u{feff}---\r\ntitle: T\r\n---\r\nbody\r\n");
    let loaded = fleet.ask("doc.load", &id, json!({})).await.ok();
    assert_eq!((&loaded["body"], &loaded["fields"]), (&titled["body"], &titled["fields"]));
    // Through the log, too.
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    fleet.ask("admin.move", &id, json!({"worker": "w2", "reason": "test"})).await.ok();
    fleet.ask("doc.undo", &id, json!({})).await.ok();
    let undone = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!((&undone["body"], &undone["fields"]), (&json!(plain), &json!({})));
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), plain);
    // Whoever opens it anew finds what the session had.
    fleet.ask("doc.redo", &id, json!({})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    fleet.ask("session.close", &id, json!({})).await.ok();
    let id = open(&fleet, "a.md").await;
    let anew = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!((&anew["body"], &anew["fields"]), (&titled["body"], &titled["fields"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_matter_that_does_not_parse_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.md"), "---\nok: 1\nbad: [1\n---\n").unwrap();
    std::fs::write(folder.path().join("b.md"), format!("---\na: {}\n---\n", "[".repeat(10_000))).unwrap();
    let fleet = fleet(folder.path()).await;
    let open = async |path: &str| fleet.ask("session.open", "", json!({ "path": path })).await;
    let refusal = open("a.md").await.refused("filesystem", "bad_frontmatter");
    let details = &refusal["details"];
    assert_eq!((&details["line"], &details["column"], &details["path"]), (&json!(3), &json!(6), &json!("a.md")));
    open("b.md").await.refused("too_large", "fields_too_large");
    std::fs::write(folder.path().join("a.md"), "---\nok: 1\n---\n").unwrap();
    assert_eq!(open("a.md").await.ok()["created"], true, "a refused open leaves nothing behind");
}

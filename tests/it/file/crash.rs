//! SIGKILL at every step of a save: the file is the old one or the new one, whole, and the session knows which.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use holdfast_protocol::{Boot, Namespace, SessionId, SessionKey, WorkerName};
use holdfast_tests::fleet::{Fleet, SOON, worker_at};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::{Value, json};

use super::open;

const OLD: &str = "---\n# kept\ntitle: old\n---\nold";
const NEW: &str = "---\n# kept\ntitle: new\n---\nnew";

/// A worker in a process of its own, which ends with this.
struct Doomed(Child);

impl Drop for Doomed {
    fn drop(&mut self) {
        // It is gone already where the test went well.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a worker that dies at `step` of a save.
async fn doomed(fleet: &Fleet, folder: &Path, step: &str) -> Doomed {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "file::crash::a_worker_in_a_process_of_its_own", "--ignored"])
        .env("HOLDFAST_TEST_URL", &fleet.url)
        .env("HOLDFAST_TEST_ROOT", fleet.root.to_string())
        .env("HOLDFAST_TEST_FOLDER", folder)
        .env("HOLDFAST_FAIL_AT", step)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the doomed worker", SOON, async || {
        let workers = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), b"{}".to_vec()).await.ok();
        workers["workers"].as_array().is_some_and(|workers| !workers.is_empty()).then_some(())
    })
    .await;
    Doomed(child)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by other tests, in a process of its own"]
async fn a_worker_in_a_process_of_its_own() {
    let (url, root) = (env::var("HOLDFAST_TEST_URL").unwrap(), env::var("HOLDFAST_TEST_ROOT").unwrap());
    let folder = env::var("HOLDFAST_TEST_FOLDER").unwrap();
    let worker = worker_at(&url, &root, "doomed", &[("main", Path::new(&folder))]).await.unwrap();
    // Whoever started it kills it.
    tokio::time::sleep(Duration::from_secs(120)).await;
    worker.stop(Duration::ZERO).await;
}

/// Has the session's owner save, past the coordinator, which would have another worker save when this one dies.
async fn save_and_die(fleet: &Fleet, worker: &mut Doomed, id: &str, body: &Value) {
    let session = fleet.ask("session.get", id, json!({})).await.ok();
    let boot: Boot = serde_json::from_value(session["owner"]["boot"].clone()).unwrap();
    let key = SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse(id).unwrap());
    let subject = fleet.root.agent(&WorkerName::parse("doomed").unwrap(), boot, &key, "doc.save");
    fleet.nats.publish(subject, body.to_string().into()).await.unwrap();
    fleet.nats.flush().await.unwrap();
    let status = until("the worker to die", SOON, async || worker.0.try_wait().unwrap()).await;
    assert_eq!(status.signal(), Some(9), "{status}");
}

fn strays(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with(".holdfast")).count()
}

async fn fleet() -> Fleet {
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet
}

/// Whether the file was the new one when its worker died at `step`.
async fn die_at(step: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.md");
    std::fs::write(&file, OLD).unwrap();
    let mut fleet = fleet().await;
    let mut worker = doomed(&fleet, folder.path(), step).await;
    let id = open(&fleet, "a.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "new", "fields": {"title": "new"}})).await.ok();
    save_and_die(&fleet, &mut worker, &id, &json!({"request_id": "s1"})).await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text == OLD || text == NEW, "{step}: {text:?}");
    assert!(strays(folder.path()) <= 1, "{step}");
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    let document = fleet.ask("doc.get", &id, json!({})).await.ok();
    assert_eq!((&document["body"], &document["dirty"]), (&json!("new"), &json!(true)), "{step}");
    assert_eq!(document.get("diverged"), None, "{step}: the session knows its own file");
    assert_eq!(strays(folder.path()), 0, "{step}");
    // Even when the next save is another one.
    fleet.ask("doc.edit", &id, json!({"body": "newer"})).await.ok();
    fleet.ask("doc.save", &id, json!({"request_id": "s1"})).await.ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), NEW.replace("\nnew", "\nnewer"), "{step}");
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["dirty"], false, "{step}");
    text == NEW
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_of_a_save_leaves_one_whole_file_that_the_session_knows() {
    let mut seen = Vec::new();
    for step in holdfast_worker::document::SAVE_STEPS {
        seen.push((*step, die_at(step).await));
    }
    let is_new: Vec<&str> = seen.iter().filter(|(_, is_new)| *is_new).map(|(step, _)| *step).collect();
    assert_eq!(is_new, ["renamed", "durable"], "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_after_a_crashed_save_is_not_taken_for_ones_own() {
    for step in ["synced", "renamed"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.md");
        let mut fleet = fleet().await;
        let mut worker = doomed(&fleet, folder.path(), step).await;
        let id = open(&fleet, "new.md").await;
        fleet.ask("doc.edit", &id, json!({"body": "mine"})).await.ok();
        save_and_die(&fleet, &mut worker, &id, &json!({})).await;
        std::fs::write(&file, "theirs").unwrap();
        fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
        let document = fleet.ask("doc.get", &id, json!({})).await.ok();
        assert_eq!((&document["body"], &document["diverged"]), (&json!("mine"), &json!(true)), "{step}");
        fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
        assert_eq!(std::fs::read(&file).unwrap(), b"theirs");
    }
}

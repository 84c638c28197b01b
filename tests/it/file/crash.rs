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

/// What is saved when the worker dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    /// A change of a file that is there.
    Changed,
    /// The same once more.
    Unchanged,
    /// The first save of a file, in folders that are not there.
    New,
    /// Over what somebody else wrote, as told to.
    Overwrite,
}

impl Case {
    fn path(self) -> &'static str {
        if self == Self::New { "deep/er/a.md" } else { "a.md" }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Changed | Self::Overwrite => NEW,
            Self::Unchanged => OLD,
            Self::New => "new",
        }
    }
}

/// Whether folders here can have files without a name, of which a crash leaves nothing.
fn forgets(folder: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    open(folder, OFlags::TMPFILE | OFlags::WRONLY, Mode::RUSR).is_ok()
}

/// Whether the save had come to the file when its worker died at `step`; `None`: it does not come by there.
async fn die_at(step: &str, case: Case) -> Option<bool> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(case.path());
    if case != Case::New {
        std::fs::write(&file, OLD).unwrap();
    }
    let mut fleet = fleet().await;
    let mut worker = doomed(&fleet, folder.path(), step).await;
    let id = open(&fleet, case.path()).await;
    match case {
        Case::Changed | Case::Overwrite => {
            fleet.ask("doc.edit", &id, json!({"body": "new", "fields": {"title": "new"}})).await.ok();
        }
        Case::New => {
            fleet.ask("doc.edit", &id, json!({"body": "new"})).await.ok();
        }
        Case::Unchanged => {}
    }
    let mut was = (case != Case::New).then_some(OLD);
    if case == Case::Overwrite {
        std::fs::write(&file, "theirs").unwrap();
        was = Some("theirs");
    }
    let save = json!({"request_id": "s1", "overwrite": case == Case::Overwrite});
    let passes = match case {
        Case::New => !matches!(step, "named" | "exchanged"),
        Case::Overwrite => step != "exchanged",
        Case::Changed | Case::Unchanged => true,
    };
    if !passes {
        return None;
    }
    save_and_die(&fleet, &mut worker, &id, &save).await;
    let text = std::fs::read_to_string(&file).ok();
    let expected = case.expected();
    assert!(text.as_deref() == was || text.as_deref() == Some(expected), "{case:?} {step}: {text:?}");
    let may_stay = matches!(step, "named" | "exchanged" | "placed") || !forgets(folder.path());
    let beside = file.parent().unwrap();
    assert!(!beside.exists() || strays(beside) <= usize::from(may_stay), "{case:?} {step}");
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    let is_new = text.as_deref() == Some(expected);
    let document = fleet.ask("doc.get", &id, json!({})).await.ok();
    let dirty = !is_new && case != Case::Unchanged;
    assert_eq!(document["dirty"], dirty, "{case:?} {step}: the session knows which");
    let diverged = (case == Case::Overwrite && !is_new).then_some(json!(true));
    assert_eq!(document.get("diverged"), diverged.as_ref(), "{case:?} {step}: it knows its own file");
    assert!(!beside.exists() || strays(beside) == 0, "{case:?} {step}");
    // The request again has the outcome that the first had, and the next save is another one.
    let again = fleet.ask("doc.save", &id, save).await.ok();
    assert_eq!(again["digest"], holdfast_tests::blake3_hex(expected.as_bytes()), "{case:?} {step}");
    fleet.ask("doc.edit", &id, json!({"body": "newer"})).await.ok();
    fleet.ask("doc.save", &id, json!({})).await.ok();
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("newer"), "{case:?} {step}");
    assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["dirty"], false, "{case:?} {step}");
    Some(is_new)
}

async fn die_at_each_step(case: Case) -> Vec<&'static str> {
    let mut is_new = Vec::new();
    for step in holdfast_files::STEPS {
        if die_at(step, case).await == Some(true) {
            is_new.push(*step);
        }
    }
    is_new
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_of_a_save_leaves_one_whole_file_that_the_session_knows() {
    assert_eq!(die_at_each_step(Case::Changed).await, ["exchanged", "placed", "removed", "durable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_of_a_first_save_leaves_the_file_or_none() {
    assert_eq!(die_at_each_step(Case::New).await, ["placed", "removed", "durable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_of_writing_over_what_others_wrote_leaves_theirs_or_its_own() {
    assert_eq!(die_at_each_step(Case::Overwrite).await, ["placed", "removed", "durable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_it_saves_what_the_file_has_leaves_nothing_beside_it() {
    for step in ["created", "synced", "named", "exchanged", "placed"] {
        die_at(step, Case::Unchanged).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_after_a_crashed_save_is_not_taken_for_ones_own() {
    for step in ["synced", "placed"] {
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

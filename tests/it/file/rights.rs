//! What a worker does that may not write everything: read-only files, other people's files, and names that a save cuts
//! off.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_tests::fleet::{Fleet, SOON, worker_at};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use rustix::process::geteuid;
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::json;
use tokio::sync::oneshot;

use super::{fleet, open};

const NOBODY: u32 = 65_534;

/// A worker without root's rights: its threads inherit those of the thread that starts it.
struct Ordinary {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ordinary {
    async fn start(fleet: &Fleet, folder: &Path) -> Self {
        let (url, root, folder) = (fleet.url.clone(), fleet.root.to_string(), folder.to_owned());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            if geteuid().is_root() {
                let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(gid, gid, gid).unwrap();
                set_thread_res_uid(uid, uid, uid).unwrap();
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let worker = worker_at(&url, &root, "w1", &[("main", &folder)]).await.unwrap();
                stopped.await.ok();
                worker.stop(Duration::ZERO).await;
            });
        });
        let worker = Self { stop: Some(stop), thread: Some(thread) };
        until("the worker", SOON, async || {
            let workers = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), b"{}".to_vec()).await.ok();
            workers["workers"].as_array().is_some_and(|workers| !workers.is_empty()).then_some(())
        })
        .await;
        worker
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// `path` below `folder`, of `text`, with this mode, and of this owner where there are others.
fn file(folder: &Path, path: &str, text: &str, mode: u32, uid: u32) -> PathBuf {
    let file = folder.join(path);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    if geteuid().is_root() {
        chown(&file, Some(uid), Some(uid)).unwrap();
    }
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_may_not_write_is_replaced_only_on_purpose() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut cases = vec![("read-only.md", 0o444, NOBODY)];
    if geteuid().is_root() {
        cases.push(("theirs.md", 0o644, 1000));
    }
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let _worker = Ordinary::start(&fleet, folder.path()).await;
    for (path, mode, uid) in cases {
        let file = file(folder.path(), path, "old", mode, uid);
        let owner = std::fs::metadata(&file).unwrap().uid();
        let id = open(&fleet, path).await;
        fleet.ask("doc.edit", &id, json!({"body": "new"})).await.ok();
        let refusal = fleet.ask("doc.save", &id, json!({"request_id": "save-1"})).await.refused("filesystem", "io");
        let (details, message) = (&refusal["details"], refusal["message"].as_str().unwrap());
        let octal = format!("{mode:04o}");
        assert_eq!(
            (&details["mode"], &details["uid"], &details["path"]),
            (&json!(octal), &json!(owner), &json!(path)),
            "{refusal}"
        );
        assert!(message.contains(path) && message.contains(&octal) && message.contains(&format!("uid {owner}")));
        assert_eq!((&refusal["actions"], &details["session_id"]), (&json!(["save_overwrite"]), &json!(id)));
        assert_eq!(signals.wait_for(&id, "doc.failed").await["data"]["error"]["reason"], "io");
        assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["dirty"], true);
        // What somebody else wrote is told of first.
        std::fs::write(&file, "theirs").unwrap();
        fleet.ask("doc.save", &id, json!({})).await.refused("conflict", "disk_diverged");
        std::fs::write(&file, "old").unwrap();
        fleet.ask("doc.save", &id, json!({})).await.refused("filesystem", "io");
        assert_eq!(std::fs::read(&file).unwrap(), b"old");
        fleet.ask("doc.save", &id, json!({"overwrite": true, "request_id": "save-1"})).await.ok();
        let metadata = std::fs::metadata(&file).unwrap();
        assert_eq!((std::fs::read(&file).unwrap(), metadata.mode() & 0o7777), (b"new".to_vec(), mode), "{path}");
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!names.into_iter().any(|name| name.to_str().unwrap().starts_with(".holdfast")), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_names_the_hard_links_that_it_cuts_also_when_it_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a.md"), "one").unwrap();
    std::fs::hard_link(at("a.md"), at("b.md")).unwrap();
    let mut fleet = fleet(folder.path()).await;
    let id = open(&fleet, "a.md").await;
    fleet.ask("doc.edit", &id, json!({"body": "two"})).await.ok();
    let saved = fleet.ask("doc.save", &id, json!({"request_id": "save-1"})).await.ok();
    assert_eq!(saved["links_cut"], 1, "{saved}");
    assert_eq!(
        (std::fs::read(at("a.md")).unwrap(), std::fs::read(at("b.md")).unwrap()),
        (b"two".into(), b"one".into())
    );
    assert_eq!(fleet.ask("doc.save", &id, json!({"request_id": "save-1"})).await.ok(), saved);
    fleet.add_worker("w2", &[("main", folder.path())]).await.unwrap();
    fleet.ask("admin.move", &id, json!({"worker": "w2", "reason": "test"})).await.ok();
    assert_eq!(fleet.ask("doc.save", &id, json!({"request_id": "save-1"})).await.ok(), saved, "the next worker knows");
    let again = fleet.ask("doc.save", &id, json!({"request_id": "save-2"})).await.ok();
    assert_eq!(again.get("links_cut"), None, "there is nothing more to cut: {again}");
}

//! Acts follow from what was done and from the request: each golden act is built here, as a coordinator does it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use holdfast_protocol::act::{Act, Done, Origin};
use holdfast_protocol::subject::Root;
use holdfast_protocol::{Boot, Process, RequestId, WorkerName};
use serde_json::Value;

#[path = "fixture/golden.rs"]
mod golden;

const BOOT: u128 = 0x0193_5b3c_6a00_7000_8000_0000_0000_0001;

fn process(worker: &str, boot: u128) -> Process {
    Process { worker: WorkerName::parse(worker).unwrap(), boot: Boot(uuid::Uuid::from_u128(boot)) }
}

fn drained(worker: &str, boot: u128) -> Done {
    Done::Drained { process: process(worker, boot), sessions_left: 3 }
}

fn rotated(generation: u64, released: Option<u64>) -> Done {
    Done::Rotated { generation, revoke: true, released }
}

fn made(done: &Done, request: &str, reason: &str, actor: Option<&str>, actor_proven: Option<&str>) -> Act {
    let request_id = RequestId::parse(request).unwrap();
    let time = "2026-11-22T12:00:12Z";
    Act::of(done, Origin { request_id: &request_id, actor, actor_proven, reason, time })
}

#[test]
fn every_act_is_as_its_file_says() {
    let undrained = Done::Undrained { process: process("w1", BOOT), sessions_left: 0 };
    let (actor, lost) = (Some("oncall"), "a backup was lost");
    let acts = [
        ("worker.drained", made(&drained("w1", BOOT), "r-1", "new disk", actor, None)),
        ("worker.drained.proven", made(&drained("w1", BOOT), "r-1", "new disk", actor, Some("OPS/ops"))),
        ("worker.undrained", made(&undrained, "r-1", "done", None, None)),
        ("secret.rotated", made(&rotated(2, Some(5)), "r-1", lost, actor, None)),
        ("secret.rotated.unfinished", made(&rotated(2, None), "r-1", lost, actor, None)),
    ];
    for (file, act) in &acts {
        let made: Value = serde_json::from_slice(&act.to_json()).unwrap();
        assert_eq!(made, golden::value(&format!("act/{file}")), "{file}");
        assert!(file.starts_with(act.event()) && Done::EVENTS.contains(&act.event()), "{file}");
    }
    let files: BTreeSet<String> =
        golden::names().iter().filter_map(|name| name.strip_prefix("act/")).map(str::to_owned).collect();
    assert_eq!(files, acts.iter().map(|(file, _)| (*file).to_owned()).collect());
}

#[test]
fn what_took_effect_once_has_one_id_and_what_was_done_anew_another() {
    let id = |done: &Done, request: &str, reason: &str| made(done, request, reason, None, None).id;
    let first = id(&drained("w1", BOOT), "r-1", "new disk");
    assert_eq!(id(&drained("w1", BOOT), "r-1", "told by another coordinator"), first);
    let undrained = Done::Undrained { process: process("w1", BOOT), sessions_left: 3 };
    let others = [
        id(&drained("w1", BOOT), "r-2", "new disk"),
        id(&drained("w2", BOOT), "r-1", "new disk"),
        id(&drained("w1", BOOT + 1), "r-1", "new disk"),
        id(&undrained, "r-1", "new disk"),
        id(&rotated(1, Some(0)), "r-1", "new disk"),
        id(&rotated(2, Some(0)), "r-1", "new disk"),
    ];
    assert_eq!(others.iter().chain([&first]).collect::<BTreeSet<_>>().len(), 1 + others.len());
    assert_eq!(id(&rotated(2, None), "r-1", "x"), id(&rotated(2, Some(7)), "r-1", "x"));
}

#[test]
fn acts_have_a_stream_of_their_own() {
    let root = Root::default();
    assert_eq!((&*root.audit_stream(), &*root.act("worker.drained")), ("HF_AUDIT", "hf.sys.audit.worker.drained"));
    let acme = Root::parse("acme").unwrap();
    assert_eq!((acme.audit_stream(), acme.audit_stream_subjects()), ("acme_HF_AUDIT".to_owned(), vec![acme.acts()]));
}

//! The first path: a session is opened, locked and edited, its worker is killed, and the next one goes on.

use std::time::Duration;

use anyhow::Result;
use holdfast_sim::{Fleet, simulate};
use serde_json::json;

const QUIET: Duration = Duration::from_secs(3);

/// What a run shows: who had the session, the signals in order, and the net's history.
async fn run(seed: u64) -> Result<(Vec<String>, Vec<String>)> {
    let mut fleet = Fleet::start(seed, 2, 2).await?;
    let client = fleet.client("a");
    let mut signals = client.listen("hf.default.signal.s1.>").await?;
    let session = client.ask("hf.default.session.open", &json!({"id": "s1"})).await.done();
    let owner = session["owner"]["worker"].as_str().unwrap_or_default().to_owned();
    let grant = client.ask("hf.default.lock.acquire.s1", &json!({"owner": "ann"})).await.done();
    let token = &grant["lock_token"];
    let edited = client.ask("hf.default.doc.edit.s1", &json!({"token": token, "body": "one"})).await.done();
    assert_eq!(edited["revision"], 1);

    fleet.kill(&owner)?;
    let edited = client.ask("hf.default.doc.edit.s1", &json!({"token": token, "body": "two"})).await.done();
    assert_eq!(edited["revision"], 2);
    let document = client.ask("hf.default.doc.get.s1", &json!({})).await.done();
    assert_eq!(document["body"], "two");
    client.ask("hf.default.lock.release.s1", &json!({"token": token})).await.done();
    let session = client.ask("hf.default.session.get.s1", &json!({})).await.done();
    assert_ne!(session["owner"]["worker"], owner.as_str());

    let heard = signals.until_quiet(QUIET).await;
    let name = |subject: &str| subject.splitn(5, '.').last().map(str::to_owned);
    let names: Vec<String> = heard.iter().filter_map(|(subject, _)| name(subject)).collect();
    let sequences: Vec<&str> = heard.iter().filter_map(|(_, signal)| signal["sequence"].as_str()).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    let kept: Vec<String> = fleet.net.kept().iter().map(|kept| kept.subject.to_string()).collect();
    let of_stream = heard.iter().map(|(subject, _)| subject.clone()).filter(|subject| !subject.contains(".doc."));
    assert_eq!(kept, of_stream.collect::<Vec<_>>());
    Ok((names, fleet.history()))
}

#[test]
fn a_session_survives_its_worker_and_its_signals_tell_the_whole_story() {
    let (names, _) = simulate(1, run(1)).unwrap();
    let expected = [
        "session.opened",
        "session.activated",
        "lock.acquired",
        "doc.edited",
        "session.moved",
        "doc.edited",
        "lock.released",
    ];
    assert_eq!(names, expected);
}

#[test]
fn one_seed_makes_one_run() {
    for seed in 1..=5 {
        let (_, first) = simulate(seed, run(seed)).unwrap();
        let (_, again) = simulate(seed, run(seed)).unwrap();
        let differs = first.iter().zip(&again).position(|(one, other)| one != other);
        assert!(
            differs.is_none() && first.len() == again.len(),
            "seed {seed}, message {differs:?} of {} and {}:\n{:#?}\n{:#?}",
            first.len(),
            again.len(),
            differs.map(|at| &first[at]),
            differs.map(|at| &again[at]),
        );
    }
    let of = |seed| simulate(seed, run(seed)).unwrap().1;
    assert_ne!(of(1), of(2));
}

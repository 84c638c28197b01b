//! Runs with every fault at once: they follow from their seed as well, and all comes to rest behind them.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use holdfast_sim::client::Reply;
use holdfast_sim::{Client, Fleet, simulate};
use holdfast_store::chance::Dice;
use holdfast_store::net::Link;
use holdfast_store::{memory, net};
use serde_json::{Value, json};

const SESSIONS: u64 = 4;

/// One client's requests, each decided by `dice`.
async fn busy(client: Client, name: String, mut dice: Dice) {
    for n in 0..30 {
        let id = format!("s{}", dice.below(SESSIONS));
        let request_id = format!("{name}-{n}");
        let (verb, body) = match dice.below(6) {
            0 => ("session.open".to_owned(), json!({"id": id, "request_id": request_id})),
            1 => (format!("lock.acquire.{id}"), json!({"owner": name, "ttl_ms": 2000, "request_id": request_id})),
            2 => (format!("session.get.{id}"), json!({})),
            3 => (format!("doc.get.{id}"), json!({})),
            4 => (format!("lock.acquire.{id}"), json!({"owner": name, "ttl_ms": 1000, "wait_ms": 3000})),
            _ => (format!("doc.edit.{id}"), json!({"body": request_id, "request_id": request_id})),
        };
        client.ask(&format!("hf.default.{verb}"), &body).await;
        tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
    }
}

/// Troubles one part after the other.
async fn trouble(fleet: &Fleet, mut dice: Dice) -> Result<()> {
    let links = [Link::Broken, Link::Deaf, Link::Mute, Link::Silent, Link::Frozen];
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500 + dice.below(1_500))).await;
        let names = fleet.names();
        let name = &names[usize::try_from(dice.below(names.len() as u64))?];
        fleet.set_link(name, links[usize::try_from(dice.below(links.len() as u64))?])?;
        tokio::time::sleep(Duration::from_millis(dice.below(4_000))).await;
        fleet.set_link(name, Link::Up)?;
    }
    Ok(())
}

async fn run(seed: u64) -> Result<Vec<String>> {
    let mut fleet = Fleet::start(seed, 2, 3).await?;
    let operator = fleet.client("op");
    for n in 0..SESSIONS {
        operator.ask("hf.default.session.open", &json!({"id": format!("s{n}")})).await.done();
    }
    fleet.net.set_faults(net::Faults { delay_ms: 20, lost: 5, double: 50, unrouted: 5, ..net::Faults::default() });
    fleet.memory.set_faults(memory::Faults {
        seed,
        unavailable: 10,
        lost_ack: 10,
        lost_write: 10,
        late: 10,
        unreadable: 10,
        delay_ms: 10,
        stale: 10,
        behind: 100,
        frame_bytes_max: 0,
    });
    let clients = ["a", "b", "c"]
        .map(|name| busy(fleet.client(name), name.to_owned(), Dice::new(seed ^ u64::from(name.as_bytes()[0]))));
    let (troubled, _) = tokio::join!(trouble(&fleet, Dice::new(seed)), join_all(clients));
    troubled?;
    fleet.kill("w2")?;
    fleet.net.set_faults(net::Faults::default());
    fleet.memory.set_faults(memory::Faults::default());
    tokio::time::sleep(Duration::from_secs(30)).await;
    for n in 0..SESSIONS {
        let session = operator.ask(&format!("hf.default.session.get.s{n}"), &json!({})).await;
        ensure!(matches!(&session, Reply::Done(session) if session["lock"] == Value::Null), "s{n}: {session:?}");
        let edited = operator.ask(&format!("hf.default.doc.edit.s{n}"), &json!({"body": "last"})).await;
        ensure!(matches!(edited, Reply::Done(_)), "s{n}: {edited:?}");
    }
    Ok(fleet.history())
}

#[test]
fn a_storm_follows_from_its_seed_and_all_comes_to_rest_behind_it() {
    let seeds = std::env::var("HOLDFAST_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(10);
    for seed in 1..=seeds {
        let first = simulate(seed, run(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let again = simulate(seed, run(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let differs = first.iter().zip(&again).position(|(one, other)| one != other);
        let at = differs.unwrap_or(first.len().min(again.len()));
        assert!(
            differs.is_none() && first.len() == again.len(),
            "seed {seed}, message {at}:\n{:#?}\n{:#?}",
            &first[at.saturating_sub(3)..first.len().min(at + 2)],
            &again[at.saturating_sub(3)..again.len().min(at + 2)],
        );
    }
}

//! The cost of Holdfast over the NATS operations that it cannot avoid. Both sides run in turn on the same servers; the
//! result is the median of the ratios of several rounds.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::measure::{Measured, load, spread};
use crate::raw::Raw;
use crate::say;
use crate::setup::Installation;

/// How long each side runs in a round. Short, because a disk's speed drifts and both sides of a round should see the
/// same.
const SPAN: Duration = Duration::from_millis(500);
/// How many saves are timed, and the pause between them.
const SAVES: usize = 300;
const PAUSE: Duration = Duration::from_millis(3);
/// The number of clients in measurements with many clients.
const MANY: usize = 64;

/// Runs all measurements that have `only` in their name, and prints them.
pub(crate) async fn run(rounds: u32, only: String) -> Result<()> {
    let plan = Plan { rounds: rounds as usize, only };
    let installation = Installation::start(1).await?;
    let clients = installation.clients(MANY).await?;
    let raw = Raw::start(&installation).await?;
    say(&format!(
        "nats-server {}, one server, sync_interval: always; {rounds} rounds of {SPAN:?} a side",
        installation.version()
    ))?;
    say(
        "what, clients                              holdfast/s        raw/s    ratio (min .. max)   p50 holdfast / raw",
    )?;
    for count in [1, MANY] {
        let clients = &clients[..count];
        let sessions = open_sessions(&installation, clients).await?;
        compare(
            "lock.acquire + lock.release",
            &plan,
            clients,
            async |n| lock_cycle(&installation, &clients[n], &sessions[n]).await,
            async |n| raw_lock_cycle(&raw, &clients[n], n).await,
        )
        .await?;
        compare(
            "doc.edit on distinct sessions",
            &plan,
            clients,
            async |n| edit(&installation, &clients[n], &sessions[n]).await,
            async |n| raw_edit(&raw, &clients[n], n).await,
        )
        .await?;
        compare(
            "session.open of new ids",
            &plan,
            clients,
            async |n| open(&installation, &clients[n]).await.map(|_| ()),
            async |n| {
                raw.create(&clients[n]).await?;
                raw.ask(&clients[n]).await?;
                raw.ask(&clients[n]).await
            },
        )
        .await?;
    }
    hot_session(&installation, &raw, &clients, &plan).await?;
    saves(&installation, &raw, &clients[0], &plan).await?;
    installation.stop().await;
    Ok(())
}

/// The measurements and their number of rounds.
struct Plan {
    rounds: usize,
    only: String,
}

impl Plan {
    fn has(&self, what: &str) -> bool {
        what.contains(&self.only)
    }
}

/// 64 clients on one session, compared with one conditional publish at a time.
async fn hot_session(
    installation: &Installation,
    raw: &Raw,
    clients: &[async_nats::Client],
    plan: &Plan,
) -> Result<()> {
    let what = "64 clients on one session";
    if !plan.has(what) {
        return Ok(());
    }
    let hot = open(installation, &clients[0]).await?;
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..plan.rounds {
        let ours = load(clients.len(), SPAN, async |n| edit(installation, &clients[n], &hot).await).await?;
        let theirs = load(1, SPAN, async |n| raw.write(&clients[n], n).await).await?;
        ratios.push(ours.rate / theirs.rate);
        rates.push((ours.rate, theirs.rate));
    }
    let (ours, theirs): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
    let (low, middle, high) = spread(ratios);
    say(&format!(
        "{what}, edits/s {:.0}, against one conditional publish at a time {:.0}/s: {middle:.1} times ({low:.1} .. {high:.1})",
        spread(ours).1,
        spread(theirs).1,
    ))
}

/// Saves of 64 KiB: the time from request to answer. Compared with a bare write + fsync + rename + fsync, and with the
/// same plus the NATS operations that a save cannot avoid (the round trip to the worker, and the proof of ownership).
/// The sides run in turn with a pause, as a person saves, so work after the answer is not measured.
async fn saves(installation: &Installation, raw: &Raw, client: &async_nats::Client, plan: &Plan) -> Result<()> {
    let what = "doc.save of 64 KiB";
    if !plan.has(what) {
        return Ok(());
    }
    let text = "0123456789abcde\n".repeat(4096);
    let content = json!({"path": "saved.md", "content": {"body": text, "fields": {"title": "bench"}}});
    let session = ask(installation, client, "session.open", "", content).await?;
    let id = session["id"].as_str().context("a session has an id")?.to_owned();
    let (mut ours, mut bare, mut proven) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..SAVES {
        let splice = json!({"splices": [{"at": round % 1000, "delete": 1, "insert": "x"}]});
        ask(installation, client, "doc.edit", &id, splice).await?;
        let (folder, text) = (installation.files.clone(), text.clone());
        let bare_save = async || {
            let (folder, text) = (folder.clone(), text.clone());
            tokio::task::spawn_blocking(move || bare_save(&folder, text.as_bytes())).await?
        };
        tokio::time::sleep(PAUSE).await;
        ours.push(timed(ask(installation, client, "doc.save", &id, json!({}))).await?);
        tokio::time::sleep(PAUSE).await;
        bare.push(timed(bare_save()).await?);
        tokio::time::sleep(PAUSE).await;
        let with_proof = async {
            raw.ask(client).await?;
            raw.write(client, 0).await?;
            raw.ask(client).await?;
            bare_save().await
        };
        proven.push(timed(with_proof).await?);
    }
    let [ours, bare, proven] = [ours, bare, proven].map(|times| spread(times).1 * 1e3);
    say(&format!(
        "{what}, median of {SAVES}: {ours:.2} ms; bare {bare:.2} ms: {:.2} times; bare + NATS {proven:.2} ms: {:.2} times",
        ours / bare,
        ours / proven,
    ))
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<f64> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed().as_secs_f64())
}

fn bare_save(folder: &std::path::Path, bytes: &[u8]) -> Result<()> {
    let (temporary, name) = (folder.join("bare.tmp"), folder.join("bare.md"));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, &name)?;
    Ok(std::fs::File::open(folder)?.sync_all()?)
}

async fn compare(
    what: &str,
    plan: &Plan,
    clients: &[async_nats::Client],
    ours: impl AsyncFn(usize) -> Result<()>,
    raw: impl AsyncFn(usize) -> Result<()>,
) -> Result<()> {
    let what = &format!("{what}, {}", clients.len());
    if !plan.has(what) {
        return Ok(());
    }
    let rounds = in_turn(plan.rounds, clients.len(), SPAN, ours, raw).await?;
    let (low, ratio, high) = spread(ratios(&rounds));
    let median = |value: &dyn Fn(&(Measured, Measured)) -> f64| spread(rounds.iter().map(value).collect()).1;
    say(&format!(
        "{what:<40} {:>12.0} {:>12.0}    {ratio:.2} ({low:.2} .. {high:.2})   {:.2?} / {:.2?}",
        median(&|(ours, _)| ours.rate),
        median(&|(_, raw)| raw.rate),
        Duration::from_secs_f64(median(&|(ours, _)| ours.p50().as_secs_f64())),
        Duration::from_secs_f64(median(&|(_, raw)| raw.p50().as_secs_f64())),
    ))
}

/// Measures both sides in turn for `rounds`, after one round that warms them up.
pub(crate) async fn in_turn(
    rounds: usize,
    clients: usize,
    span: Duration,
    ours: impl AsyncFn(usize) -> Result<()>,
    raw: impl AsyncFn(usize) -> Result<()>,
) -> Result<Vec<(Measured, Measured)>> {
    let mut measured = Vec::new();
    for round in 0..=rounds {
        let pair = (load(clients, span, &ours).await?, load(clients, span, &raw).await?);
        if round > 0 {
            measured.push(pair);
        }
    }
    Ok(measured)
}

/// Holdfast's rate as a part of the raw one, in each round.
pub(crate) fn ratios(rounds: &[(Measured, Measured)]) -> Vec<f64> {
    rounds.iter().map(|(ours, raw)| ours.rate / raw.rate).collect()
}

async fn ask(
    installation: &Installation,
    client: &async_nats::Client,
    verb: &str,
    id: &str,
    body: Value,
) -> Result<Value> {
    let tail = if id.is_empty() { String::new() } else { format!(".{id}") };
    let subject = format!("{}.default.{verb}{tail}", installation.root);
    let reply: Value = serde_json::from_slice(&client.request(subject, body.to_string().into()).await?.payload)?;
    ensure!(reply.get("error").is_none(), "{verb}: {reply}");
    Ok(reply)
}

async fn open(installation: &Installation, client: &async_nats::Client) -> Result<Arc<str>> {
    let id = format!("b-{}", uuid::Uuid::now_v7());
    ask(installation, client, "session.open", "", json!({ "id": id })).await?;
    Ok(id.into())
}

pub(crate) async fn open_sessions(
    installation: &Installation,
    clients: &[async_nats::Client],
) -> Result<Vec<Arc<str>>> {
    join_all(clients.iter().map(|client| open(installation, client))).await.into_iter().collect()
}

pub(crate) async fn lock_cycle(installation: &Installation, client: &async_nats::Client, id: &str) -> Result<()> {
    let grant = ask(installation, client, "lock.acquire", id, json!({"owner": "bench"})).await?;
    ask(installation, client, "lock.release", id, json!({"token": grant["lock_token"]})).await.map(|_| ())
}

pub(crate) async fn edit(installation: &Installation, client: &async_nats::Client, id: &str) -> Result<()> {
    let splices = json!([{"at": 0, "delete": 0, "insert": "x"}]);
    // The text is short, so that the message path is measured and not the copying.
    let edit = ask(installation, client, "doc.edit", id, json!({ "splices": splices })).await?;
    if edit["revision"].as_u64().unwrap_or_default() % 256 == 0 {
        ask(installation, client, "doc.edit", id, json!({"body": ""})).await?;
    }
    Ok(())
}

/// The raw side of a lock's cycle: two conditional publishes, and two requests that are answered at once.
pub(crate) async fn raw_lock_cycle(raw: &Raw, client: &async_nats::Client, n: usize) -> Result<()> {
    raw.write(client, n).await?;
    raw.ask(client).await?;
    raw.write(client, n).await?;
    raw.ask(client).await
}

/// The raw side of an edit: one conditional publish, the way to a coordinator, and from there to a worker.
pub(crate) async fn raw_edit(raw: &Raw, client: &async_nats::Client, n: usize) -> Result<()> {
    raw.write(client, n).await?;
    raw.ask(client).await?;
    raw.ask(client).await
}

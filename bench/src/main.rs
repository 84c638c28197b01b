//! The cost of Holdfast over the NATS operations that it cannot avoid. Both sides run in turn on one server; the result
//! is the median of the ratios of several rounds.
//!
//! ```text
//! cargo run --release -p holdfast-bench [-- ROUNDS [ONLY]]
//! ```
//!
//! `ONLY` selects the measurements that have this word in their name.

mod raw;
mod setup;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use serde_json::{Value, json};

use raw::Raw;
use setup::Installation;

/// How long each side runs in a round. Short, because a disk's speed drifts and both sides of a round should see the
/// same.
const SPAN: Duration = Duration::from_millis(500);
/// How many saves are timed, and the pause between them.
const SAVES: usize = 300;
const PAUSE: Duration = Duration::from_millis(3);
/// The number of clients in measurements with many clients.
const MANY: usize = 64;

#[tokio::main]
async fn main() -> Result<()> {
    let plan = Plan::from_args()?;
    let installation = Installation::start().await?;
    let clients = installation.clients(MANY).await?;
    let raw = Raw::start(&installation).await?;
    say(&format!(
        "nats-server {}, one server, sync_interval: always; {} rounds of {SPAN:?} a side",
        installation.version, plan.rounds
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
            async |n| {
                raw.write(&clients[n], n).await?;
                raw.ask(&clients[n]).await?;
                raw.write(&clients[n], n).await?;
                raw.ask(&clients[n]).await
            },
        )
        .await?;
        compare(
            "doc.edit on distinct sessions",
            &plan,
            clients,
            async |n| edit(&installation, &clients[n], &sessions[n]).await,
            async |n| {
                raw.write(&clients[n], n).await?;
                raw.ask(&clients[n]).await?;
                raw.ask(&clients[n]).await
            },
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
    fn from_args() -> Result<Self> {
        let mut args = std::env::args().skip(1);
        let rounds = args.next().map_or(Ok(15), |text| text.parse()).context("ROUNDS must be a number")?;
        ensure!(rounds > 0, "ROUNDS must be at least 1");
        Ok(Self { rounds, only: args.next().unwrap_or_default() })
    }

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
        let ours = measure(clients.len(), async |n| edit(installation, &clients[n], &hot).await).await?;
        let theirs = measure(1, async |n| raw.write(&clients[n], n).await).await?;
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

struct Measured {
    rate: f64,
    p50: Duration,
}

/// Runs `operation` on `count` concurrent clients for a span.
async fn measure(count: usize, operation: impl AsyncFn(usize) -> Result<()>) -> Result<Measured> {
    let done = AtomicU64::new(0);
    let begin = Instant::now();
    let client = async |n: usize| -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        while begin.elapsed() < SPAN {
            let start = Instant::now();
            operation(n).await?;
            took.push(start.elapsed());
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(took)
    };
    let all: Vec<Vec<Duration>> = join_all((0..count).map(client)).await.into_iter().collect::<Result<_>>()?;
    let elapsed = begin.elapsed();
    let mut all: Vec<Duration> = all.into_iter().flatten().collect();
    all.sort_unstable();
    ensure!(!all.is_empty(), "nothing was done in {SPAN:?}");
    Ok(Measured { rate: all.len() as f64 / elapsed.as_secs_f64(), p50: all[all.len() / 2] })
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
    let (mut our_runs, mut raw_runs) = (Vec::new(), Vec::new());
    // One round is not counted: it warms both sides up.
    for round in 0..=plan.rounds {
        let pair = (measure(clients.len(), &ours).await?, measure(clients.len(), &raw).await?);
        if round > 0 {
            our_runs.push(pair.0);
            raw_runs.push(pair.1);
        }
    }
    let (low, ratio, high) = spread(our_runs.iter().zip(&raw_runs).map(|(ours, raw)| ours.rate / raw.rate).collect());
    let rate = |runs: &[Measured]| spread(runs.iter().map(|run| run.rate).collect()).1;
    let p50 =
        |runs: &[Measured]| Duration::from_secs_f64(spread(runs.iter().map(|run| run.p50.as_secs_f64()).collect()).1);
    say(&format!(
        "{what:<40} {:>12.0} {:>12.0}    {ratio:.2} ({low:.2} .. {high:.2})   {:.2?} / {:.2?}",
        rate(&our_runs),
        rate(&raw_runs),
        p50(&our_runs),
        p50(&raw_runs),
    ))
}

/// Minimum, median, maximum.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
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

async fn open_sessions(installation: &Installation, clients: &[async_nats::Client]) -> Result<Vec<Arc<str>>> {
    join_all(clients.iter().map(|client| open(installation, client))).await.into_iter().collect()
}

async fn lock_cycle(installation: &Installation, client: &async_nats::Client, id: &str) -> Result<()> {
    let grant = ask(installation, client, "lock.acquire", id, json!({"owner": "bench"})).await?;
    ask(installation, client, "lock.release", id, json!({"token": grant["lock_token"]})).await.map(|_| ())
}

async fn edit(installation: &Installation, client: &async_nats::Client, id: &str) -> Result<()> {
    let splices = json!([{"at": 0, "delete": 0, "insert": "x"}]);
    // The text is short, so that the message path is measured and not the copying.
    let edit = ask(installation, client, "doc.edit", id, json!({ "splices": splices })).await?;
    if edit["revision"].as_u64().unwrap_or_default() % 256 == 0 {
        ask(installation, client, "doc.edit", id, json!({"body": ""})).await?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output is closed")
}

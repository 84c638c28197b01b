//! Two programs and an operator work on one document: open, lock, edit, conflict, takeover, signals, and a fenced write
//! to a database.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_client::protocol::SessionId;
use holdfast_client::protocol::document::Splice;
use holdfast_client::protocol::request::Takeover;
use holdfast_client::{Acquire, Client, DocGet, Edit, Error, Event, Follower, Open};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The lease of a lock: the holder renews it by editing, and whoever is gone loses it.
const TTL: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let ann = connect("client").await?.acting_as("ann's editor");
    let bob = connect("client").await?.acting_as("bob's editor");
    let operator = connect("ops").await?.acting_as("on call");
    let id = SessionId::parse(&format!("plan-{}", Uuid::new_v4().simple()))?;
    let (of_ann, of_bob) = (ann.session(id.clone()), bob.session(id.clone()));
    let mut telling = tokio::task::JoinSet::new();
    telling.spawn(tell(of_ann.follow(None).await?));

    // Open the session, take its lock, and edit under the token.
    let content = json!({"body": "# Plan\n"});
    ann.open(Open { content: Some(serde_json::from_value(content)?), ..Open::id(&id) }).await?;
    let lock = of_ann.lock(Acquire::by("ann").ttl(TTL)).await?;
    let insert = Splice { at: 7, delete: 0, insert: "1. Ship.\n".to_owned() };
    let edited = of_ann.edit(Edit::splices(vec![insert]).token(lock.token())).await?;
    println!("ann edited revision {}", edited.revision);

    // A conflict explains itself.
    match of_bob.lock(Acquire::by("bob").ttl(TTL)).await {
        Err(Error::Conflict(held)) => {
            let (owner, since) = (&held.details["owner"], &held.details["held_for_ms"]);
            let owner = owner.as_str().unwrap_or_default();
            println!("bob is refused: {owner} holds it for {since} ms; can do: {:?}", held.actions);
        }
        other => bail!("it was not refused: {other:?}"),
    }

    // The holder also writes to a database: each grant has a fence, which only rises.
    let mut row = Row::default();
    println!("ann's write to the database: {}", row.write("by ann", lock.grant().fence));

    // An operator takes the lock over. From this moment ann's token and ann's fence are refused.
    let takeover = Takeover {
        owner: "bob".to_owned(),
        reason: "ann's editor hangs".to_owned(),
        ttl_ms: Some(u64::try_from(TTL.as_millis())?),
        ..Takeover::default()
    };
    let taken = operator.session(id.clone()).take_over(takeover).await?;
    println!("taken over from {}", taken.previous_owner.as_deref().unwrap_or("nobody"));
    match of_ann.edit(Edit::body("too late").token(lock.token())).await {
        Err(Error::Conflict(stale)) => {
            let owner = stale.details["owner"].as_str().unwrap_or_default();
            println!("ann is refused: {}, the lock is {owner}'s", stale.reason);
        }
        other => bail!("it was not refused: {other:?}"),
    }
    println!("bob's write to the database: {}", row.write("by bob", taken.grant.fence));
    println!("ann's late write to the database: {}", row.write("by ann", lock.grant().fence));

    let lock = of_bob.held(taken.grant);
    let patch = Map::from_iter([("status".to_owned(), json!("shipped"))]);
    of_bob.edit(Edit::fields(patch).token(lock.token())).await?;
    lock.release().await?;
    let document = of_bob.document(DocGet::default()).await?;
    println!("the document: {:?} {}", document.body, serde_json::to_string(&document.fields)?);

    tokio::time::sleep(Duration::from_secs(1)).await; // the last signals
    telling.shutdown().await;
    Ok(())
}

/// Connects with the context file of a role, as `holdfast up` and the `nats` CLI write it.
async fn connect(role: &str) -> Result<Client> {
    #[derive(serde::Deserialize)]
    struct LogIn {
        url: String,
        user: String,
        password: String,
        inbox_prefix: String,
    }
    let folder = std::env::var_os("HOLDFAST_CONTEXTS").unwrap_or(".holdfast/config/nats/context".into());
    let file = PathBuf::from(folder).join(format!("{role}.json"));
    let text = std::fs::read(&file).with_context(|| format!("{}: does `holdfast up` run?", file.display()))?;
    let login: LogIn = serde_json::from_slice(&text)?;
    let options = async_nats::ConnectOptions::with_user_and_password(login.user, login.password)
        .custom_inbox_prefix(login.inbox_prefix);
    Ok(Client::connect(login.url, options).await?)
}

/// Prints the signals of a session.
async fn tell(mut signals: Follower) {
    while let Some(event) = signals.next().await {
        match event {
            Event::Signal(signal) => {
                println!("signal: {} by {}", signal.kind, signal.data.get("actor").unwrap_or(&Value::Null));
            }
            Event::Gap(gap) => println!("some signals were missed ({gap:?}): read the document again"),
            Event::Denied(error) => println!("{error}"),
        }
    }
}

/// A row of a database, for the example: it refuses a writer whose fence is smaller than the one stored beside it.
#[derive(Default)]
struct Row {
    text: String,
    fence: u64,
}

impl Row {
    fn write(&mut self, text: &str, fence: u64) -> bool {
        let is_current = fence >= self.fence;
        if is_current {
            (self.text, self.fence) = (text.to_owned(), fence);
        }
        is_current
    }
}

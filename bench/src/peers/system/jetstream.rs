//! Raw JetStream: what a program does that writes its locks itself, with conditional publishes into one stream. The
//! lock is a record; an edit is appended on condition that the record is unchanged, as Holdfast does it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{Client, HeaderMap, jetstream};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_store::connect::{ConnectOptions, connect};
use serde_json::{Value, json};

use super::{Ability, CONNECTIONS, CONTENT, Edit, Held, Part, Reading, System};
use crate::cluster::NatsServers;
use crate::peers::pause;

const STREAM: &str = "raw";
/// The server's error code for a condition that does not hold.
const WRONG_SEQUENCE: u64 = 10071;
/// The same, because another conditional write on the subject is in flight.
const IN_FLIGHT: u64 = 10164;
/// The server's error code for a message that is not there.
const NO_MESSAGE: u64 = 10037;

pub(super) struct Jetstream {
    label: &'static str,
    version: String,
    servers: NatsServers,
    clients: Vec<Client>,
    /// The sequences of the records that a client of this program freed last.
    freed: Mutex<HashMap<String, u64>>,
    content: Bytes,
}

/// The outcome of a conditional publish.
enum Written {
    At(u64),
    /// The condition does not hold.
    Mismatch,
}

impl Jetstream {
    pub(super) async fn start(label: &'static str, folder: &Path, size: usize) -> Result<Self> {
        let servers = NatsServers::start(folder, size).await?;
        let version = format!("nats-server {}", servers.version);
        let content = Bytes::from(vec![b'x'; CONTENT]);
        let mut raw = Self { label, version, servers, clients: Vec::new(), freed: Mutex::default(), content };
        raw.connect().await?;
        let config = Config {
            name: STREAM.to_owned(),
            subjects: vec!["raw.record.>".to_owned(), "raw.log.>".to_owned()],
            max_messages_per_subject: 64,
            storage: StorageType::File,
            num_replicas: size,
            allow_direct: true,
            ..Config::default()
        };
        jetstream::new(raw.clients[0].clone()).create_stream(config).await?;
        Ok(raw)
    }

    async fn connect(&mut self) -> Result<()> {
        self.clients.clear();
        for _ in 0..CONNECTIONS {
            self.clients.push(connect(&ConnectOptions::to(self.servers.url())).await?);
        }
        Ok(())
    }

    fn freed(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes if the record of `key` is at `expected`.
    async fn publish(&self, client: usize, subject: String, key: &str, expected: u64, body: Bytes) -> Result<Written> {
        let record = record(key);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string().as_str());
        headers.insert("Nats-Msg-Id", uuid::Uuid::now_v7().to_string().as_str());
        if subject != record {
            headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", record.as_str());
        }
        loop {
            let request = async_nats::Request::new().headers(headers.clone()).payload(body.clone());
            let reply = self.clients[client % CONNECTIONS].send_request(subject.clone(), request).await?;
            let ack: Value = serde_json::from_slice(&reply.payload)?;
            match ack["error"]["err_code"].as_u64() {
                None => return Ok(Written::At(ack["seq"].as_u64().context("an acknowledgement has a sequence")?)),
                Some(WRONG_SEQUENCE) => return Ok(Written::Mismatch),
                Some(IN_FLIGHT) => pause().await,
                Some(_) => bail!("{subject}: {ack}"),
            }
        }
    }

    /// Writes a record that says whether its key is locked.
    async fn write(&self, client: usize, key: &str, expected: u64, state: State) -> Result<Written> {
        let mut body = vec![b'x'; CONTENT];
        body[0] = state as u8;
        let written = self.publish(client, record(key), key, expected, body.into()).await?;
        match written {
            Written::At(sequence) if state == State::Free => self.freed().insert(key.to_owned(), sequence),
            _ => self.freed().remove(key),
        };
        Ok(written)
    }

    /// The sequence of a record that is free, or was never written; read from the leader.
    async fn free(&self, client: usize, key: &str) -> Result<Option<u64>> {
        let Some((sequence, data)) = self.last(client, record(key)).await? else { return Ok(Some(0)) };
        // Three bytes are four characters of base64: `lxx` is `bHh4`.
        Ok((!data.starts_with("bHh4")).then_some(sequence))
    }

    /// The last message of a subject, from the stream's leader: its sequence and its data, which are base64.
    async fn last(&self, client: usize, subject: String) -> Result<Option<(u64, String)>> {
        let request = json!({ "last_by_subj": subject }).to_string();
        let client = &self.clients[client % CONNECTIONS];
        let reply = client.request(format!("$JS.API.STREAM.MSG.GET.{STREAM}"), request.into()).await?;
        let reply: Value = serde_json::from_slice(&reply.payload)?;
        match reply["error"]["err_code"].as_u64() {
            Some(NO_MESSAGE) => return Ok(None),
            Some(_) => bail!("{subject}: {reply}"),
            None => {}
        }
        let message = &reply["message"];
        let sequence = message["seq"].as_u64().context("a stored message has a sequence")?;
        Ok(Some((sequence, message["data"].as_str().unwrap_or_default().to_owned())))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free = b'f' as isize,
    Locked = b'l' as isize,
}

fn record(key: &str) -> String {
    format!("raw.record.{key}")
}

fn held(sequence: u64) -> Held {
    Held { proof: sequence.to_string(), fence: Some(sequence) }
}

#[async_trait(?Send)]
impl System for Jetstream {
    fn label(&self) -> &'static str {
        self.label
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "`deploy/nats/server.conf` (`sync_interval: always`), R1 or R3; lock and unlock are one conditional publish each, \
         without a TTL; waiting is a loop of read, publish and a pause of 1 to 4 ms; an edit is conditional on the lock's \
         record; a signal is a bare publish"
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::Renew | Ability::Expire => Some("its lock has no TTL"),
            Ability::List => Some("no list of documents"),
            Ability::KillOwner => Some("no owner"),
            _ => None,
        }
    }

    fn pids(&self) -> Vec<(String, u32)> {
        self.servers.pids()
    }

    async fn prepare(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    async fn open(&self, client: usize, key: &str) -> Result<()> {
        match self.publish(client, record(key), key, 0, self.content.clone()).await? {
            Written::At(_) => Ok(()),
            Written::Mismatch => bail!("{key} exists"),
        }
    }

    async fn lock(&self, client: usize, key: &str) -> Result<Held> {
        // What this program freed itself it knows; anything else is read first.
        let known = self.freed().get(key).copied();
        let free = match known {
            Some(sequence) => Some(sequence),
            None => self.free(client, key).await?,
        };
        let sequence = free.with_context(|| format!("{key} is locked"))?;
        match self.write(client, key, sequence, State::Locked).await? {
            Written::At(sequence) => Ok(held(sequence)),
            Written::Mismatch => bail!("{key} was locked by another client"),
        }
    }

    async fn unlock(&self, client: usize, key: &str, held: Held) -> Result<()> {
        match self.write(client, key, held.proof.parse()?, State::Free).await? {
            Written::At(_) => Ok(()),
            Written::Mismatch => bail!("the lock of {key} was lost"),
        }
    }

    async fn wait_lock(&self, client: usize, key: &str) -> Result<Held> {
        loop {
            if let Some(sequence) = self.free(client, key).await?
                && let Written::At(sequence) = self.write(client, key, sequence, State::Locked).await?
            {
                return Ok(held(sequence));
            }
            pause().await;
        }
    }

    async fn edit(&self, client: usize, key: &str, held: &Held, part: Part) -> Result<Edit> {
        let subject = format!("raw.log.{key}.{}", part.editor);
        // Ten digits and five more bytes, so that the value can be found in base64 again.
        let body = format!("{:015}{}", part.value, &"x".repeat(85));
        match self.publish(client, subject, key, held.proof.parse()?, body.into()).await? {
            Written::At(_) => Ok(Edit::Done),
            Written::Mismatch => Ok(Edit::Refused),
        }
    }

    async fn values(&self, key: &str, editors: usize) -> Result<Vec<u64>> {
        let mut values = Vec::new();
        for editor in 0..editors {
            let last = self.last(0, format!("raw.log.{key}.{editor}")).await?;
            values.push(last.map(|(_, data)| digits(&data)).transpose()?.unwrap_or_default());
        }
        Ok(values)
    }

    async fn read(&self, client: usize, key: &str, reading: Reading) -> Result<()> {
        if reading == Reading::Latest {
            return self.last(client, record(key)).await?.map(drop).context("there is no record");
        }
        let subject = format!("$JS.API.DIRECT.GET.{STREAM}.{}", record(key));
        let reply = self.clients[client % CONNECTIONS].request(subject, Bytes::new()).await?;
        ensure!(reply.status.is_none(), "direct get: {:?}", reply.status);
        Ok(())
    }

    async fn take_over(&self, client: usize, key: &str) -> Result<Held> {
        loop {
            let sequence = self.last(client, record(key)).await?.map_or(0, |(sequence, _)| sequence);
            if let Written::At(sequence) = self.write(client, key, sequence, State::Locked).await? {
                return Ok(held(sequence));
            }
        }
    }

    async fn signals(&self, client: usize, key: &str) -> Result<BoxStream<'static, ()>> {
        let client = &self.clients[client % CONNECTIONS];
        let messages = client.subscribe(format!("bare.{key}")).await?;
        client.flush().await?;
        Ok(messages.map(drop).boxed())
    }

    async fn cause_signal(&self, client: usize, key: &str, _held: &Held, value: u64) -> Result<()> {
        let client = &self.clients[client % CONNECTIONS];
        client.publish(format!("bare.{key}"), format!("{value:0>100}").into()).await?;
        Ok(client.flush().await?)
    }

    async fn restart(&mut self) -> Result<()> {
        self.clients.clear();
        self.servers.restart().await?;
        self.connect().await?;
        // The stream has its leader later than the servers have theirs.
        for _ in 0..1000 {
            if self.last(0, record("none")).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the stream has no leader after a restart")
    }

    async fn stop(mut self: Box<Self>) {
        self.clients.clear();
        self.servers.stop().await;
    }
}

/// The 15 digits at the beginning of `data`, which is base64.
fn digits(data: &str) -> Result<u64> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0_u32;
    let mut bytes = Vec::new();
    for (index, letter) in data.bytes().take(20).enumerate() {
        let value = LETTERS.iter().position(|&known| known == letter).context("the data are not base64")?;
        bits = (bits << 6) | u32::try_from(value)?;
        if index % 4 == 3 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
        }
    }
    Ok(String::from_utf8(bytes)?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_from_base64() {
        // `printf '%015d' 42 | base64`
        assert_eq!(digits("MDAwMDAwMDAwMDAwMDQyeHg=").unwrap(), 42);
        assert!(digits("????").is_err());
    }
}

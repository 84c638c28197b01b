//! The NATS operations that a coordinator cannot avoid: a conditional publish of a record's size into a bucket with the
//! same settings, and a request to a service that answers at once.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::{Client, HeaderMap, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use crate::setup::Installation;

/// About the size of a session's record.
const RECORD_BYTES: usize = 700;
const SUBJECT: &str = "$KV.raw.bench";
const ECHO: &str = "raw.echo";

/// The side without Holdfast.
pub(crate) struct Raw {
    payload: Bytes,
    /// The last sequence of each client's own subject.
    last: Vec<AtomicU64>,
    _echo: AbortOnDropHandle<()>,
}

impl Raw {
    pub(crate) async fn start(installation: &Installation) -> Result<Self> {
        let clients = installation.clients(2).await?;
        let config = Config {
            name: "KV_raw".to_owned(),
            subjects: vec!["$KV.raw.>".to_owned()],
            max_messages_per_subject: 64,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: installation.servers(),
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..Config::default()
        };
        jetstream::new(clients[0].clone()).create_stream(config).await?;
        let echo = clients[1].clone();
        let mut requests = echo.subscribe(ECHO).await?;
        echo.flush().await?;
        #[allow(clippy::disallowed_methods, reason = "its handle ends it")]
        let echo = tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let Some(reply) = request.reply else { continue };
                if echo.publish(reply, request.payload).await.is_err() {
                    return;
                }
            }
        });
        let last = (0..1024).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { payload: vec![b'x'; RECORD_BYTES].into(), last, _echo: AbortOnDropHandle::new(echo) })
    }

    /// One conditional publish on the client's own subject.
    pub(crate) async fn write(&self, client: &Client, n: usize) -> Result<()> {
        let expected = self.last[n].load(Ordering::Relaxed);
        let sequence = self.publish(client, format!("{SUBJECT}.{n}"), expected).await?;
        self.last[n].store(sequence, Ordering::Relaxed);
        Ok(())
    }

    /// One conditional publish of a new key.
    pub(crate) async fn create(&self, client: &Client) -> Result<()> {
        self.publish(client, format!("{SUBJECT}.{}", uuid::Uuid::now_v7()), 0).await.map(|_| ())
    }

    async fn publish(&self, client: &Client, subject: String, expected: u64) -> Result<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string().as_str());
        headers.insert("Nats-Msg-Id", uuid::Uuid::now_v7().to_string().as_str());
        let request = async_nats::Request::new().headers(headers).payload(self.payload.clone());
        let ack: Value = serde_json::from_slice(&client.send_request(subject, request).await?.payload)?;
        ensure!(ack.get("error").is_none(), "{ack}");
        Ok(ack["seq"].as_u64().unwrap_or_default())
    }

    /// One bare request-reply.
    pub(crate) async fn ask(&self, client: &Client) -> Result<()> {
        client.request(ECHO, Bytes::from_static(b"{\"owner\":\"bench\"}")).await?;
        Ok(())
    }
}

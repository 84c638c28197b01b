//! What an operator does with a KV client: reads, edits and deletes records, without Holdfast's headers.

use anyhow::{Context, Result};
use async_nats::jetstream;
use serde_json::Value;

use super::Fleet;

impl Fleet {
    fn record_subject(&self, id: &str) -> String {
        format!("$KV.{}.default.{id}", self.root.sessions_bucket())
    }

    /// The record of a session in namespace `default`, as a KV client reads it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn record(&self, id: &str) -> Result<(u64, Value)> {
        let (revision, body) = self.record_bytes(id).await?;
        Ok((revision, serde_json::from_slice(&body)?))
    }

    /// The raw value under a session's key.
    ///
    /// # Errors
    /// When the key never had a value.
    pub async fn record_bytes(&self, id: &str) -> Result<(u64, Vec<u8>)> {
        let store = jetstream::new(self.reader.clone());
        let stream = store.get_stream_no_info(self.root.sessions_stream()).await?;
        let message = stream.get_last_raw_message_by_subject(&self.record_subject(id)).await?;
        Ok((message.sequence, message.payload.to_vec()))
    }

    /// Writes a record as `nats kv update` does: on condition of its revision.
    ///
    /// # Errors
    /// When the revision is not the current one.
    pub async fn edit_record(&self, id: &str, revision: u64, body: Vec<u8>) -> Result<u64> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string().as_str());
        self.put_record(id, headers, body).await
    }

    /// Deletes a record as `nats kv del` does (`DEL`), or as `nats kv purge` does (`PURGE`).
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn delete_record(&self, id: &str, operation: &str) -> Result<u64> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("KV-Operation", operation);
        if operation == "PURGE" {
            headers.insert("Nats-Rollup", "sub");
        }
        self.put_record(id, headers, Vec::new()).await
    }

    async fn put_record(&self, id: &str, headers: async_nats::HeaderMap, body: Vec<u8>) -> Result<u64> {
        let request = async_nats::Request::new().headers(headers).payload(body.into());
        let reply = self.ops.send_request(self.record_subject(id), request).await?;
        let ack: Value = serde_json::from_slice(&reply.payload)?;
        ack["seq"].as_u64().filter(|_| ack.get("error").is_none()).with_context(|| format!("refused: {ack}"))
    }
}

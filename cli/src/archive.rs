//! What an operator reads and writes without a coordinator: records, logs and kept signals.
//!
//! Invariant: it works with exactly the rights of the role `ops`: direct gets and writes of records; no consumers. A
//! read that NATS denies ends at once with `permission_denied`.

use std::collections::VecDeque;

use holdfast_client::Denials;
use holdfast_client::protocol::subject::Root;
use holdfast_client::protocol::{Error as Contract, Namespace, Reason, Revision, SessionId, SessionKey};
use holdfast_store::{Begin, Jetstream, KeptMessage, Storage, StoreError, Stored};

use crate::connect::Connection;
use crate::exit::Failure;

/// How many messages are asked for at once.
pub(crate) const PAGE: usize = 500;

/// The streams of one installation.
pub(crate) struct Archive {
    pub(crate) nats: async_nats::Client,
    pub(crate) store: Jetstream,
    pub(crate) root: Root,
    pub(crate) namespace: Namespace,
    denials: Denials,
}

impl Archive {
    /// Connects.
    pub(crate) async fn open(connection: &Connection) -> Result<Self, Failure> {
        let (nats, denials) = connection.of_a_command().await?;
        let root = connection.root.clone();
        let store = Jetstream::new(nats.clone(), root.clone()).await.map_err(failure)?;
        Ok(Self { nats, store, root, namespace: connection.namespace.clone(), denials })
    }

    /// The session `id` of the namespace that the command line names.
    pub(crate) fn key(&self, id: &SessionId) -> SessionKey {
        SessionKey::new(self.namespace.clone(), id.clone())
    }

    /// Does `work`, unless NATS denies a part of it.
    pub(crate) async fn permitted<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            error = self.denials.any() => Err(error.into()),
            outcome = work => outcome,
        }
    }

    /// The record of `key`.
    ///
    /// # Errors
    /// `no_session` when there never was one, or nothing of it is left.
    pub(crate) async fn record(&self, key: &SessionKey) -> Result<Stored, Failure> {
        let stored = self.store.read(key).await.map_err(failure)?;
        stored.ok_or_else(|| {
            let message = format!("no record is stored of session {} in namespace {}", key.id, key.namespace);
            Failure::from(Contract::new(Reason::NoSession, message).detail("session_id", key.id.as_str()))
        })
    }

    /// The stored revisions of a record, oldest first.
    pub(crate) async fn revisions(&self, key: &SessionKey, at_least: Revision) -> Result<Vec<Stored>, Failure> {
        self.store.history(key, at_least).await.map_err(failure)
    }

    /// The newest `most` messages of `subject` from `begin` on, oldest first, and how many older ones were left out.
    pub(crate) async fn newest(
        &self,
        stream: &str,
        subject: &str,
        begin: Begin,
        most: usize,
    ) -> Result<(Vec<KeptMessage>, u64), Failure> {
        let mut page = self.store.kept(stream, subject, begin, PAGE).await.map_err(failure)?;
        let total = page.messages.len() as u64 + page.pending;
        if total > (most + PAGE) as u64
            && let Some(first) = page.messages.first()
        {
            let from = self.skip(stream, subject, first.sequence, most as u64).await?;
            page = self.store.kept(stream, subject, Begin::Sequence(from), PAGE).await.map_err(failure)?;
        }
        let mut kept: VecDeque<KeptMessage> = VecDeque::new();
        loop {
            let last = page.messages.last().map(|message| message.sequence);
            kept.extend(page.messages);
            kept.drain(..kept.len().saturating_sub(most));
            let Some(last) = last.filter(|_| page.pending > 0) else { break };
            page = self.store.kept(stream, subject, Begin::Sequence(last + 1), PAGE).await.map_err(failure)?;
        }
        let left_out = total.saturating_sub(kept.len() as u64);
        Ok((kept.into(), left_out))
    }

    /// A sequence after `low` from which on `most` messages of `subject` or a few more are kept. It is found by
    /// halving, because the server says how many messages follow and cannot be asked for the last ones.
    async fn skip(&self, stream: &str, subject: &str, mut low: u64, most: u64) -> Result<u64, Failure> {
        let (mut high, mut step) = (None, PAGE as u64);
        loop {
            let middle = match high {
                None => low + step,
                Some(high) if high - low <= 1 => return Ok(low),
                Some(high) => low + (high - low) / 2,
            };
            let page = self.store.kept(stream, subject, Begin::Sequence(middle), 1).await.map_err(failure)?;
            let follow = page.messages.len() as u64 + page.pending;
            if follow < most {
                high = Some(middle);
            } else if follow <= most + PAGE as u64 {
                return Ok(middle);
            } else {
                (low, step) = (middle, step * 2);
            }
        }
    }
}

/// A failure of the storage as an error of the contract.
pub(crate) fn failure(error: StoreError) -> Failure {
    let (reason, message) = match error {
        StoreError::Moved { expected } => (
            Reason::LockMoved,
            format!("another writer changed the record after revision {expected}; nothing was written: read it again"),
        ),
        StoreError::Unknown(why) => (
            Reason::AckTimeout,
            format!("the edit may or may not be written ({why}): look with `holdfast record get` before you repeat it"),
        ),
        StoreError::Unavailable(why) => (
            Reason::StorageUnavailable,
            format!("{why}; only operators may read and write the streams: `holdfast context show` says who you are"),
        ),
        StoreError::Refused(why) => (Reason::StorageUnavailable, why),
    };
    Contract::new(reason, message).advise(&[]).into()
}

impl From<Contract> for Failure {
    fn from(error: Contract) -> Self {
        Self::Request(error.into())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_tests::fleet::Fleet;
    use holdfast_tests::server;

    use super::*;

    /// More than a few pages, of two subjects in turn.
    const STORED: usize = 4_000;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_newest_messages_of_a_subject_are_found_without_reading_all() {
        let fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
        let (nats, root) = (fleet.nats.clone(), fleet.root.clone());
        let key = |id: &str| SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse(id).unwrap());
        for n in 0..STORED {
            let subject = root.kept_signal(&key(if n % 2 == 0 { "s1" } else { "s2" }), "lock", "acquired");
            if n + 1 < STORED {
                nats.publish(subject, n.to_string().into()).await.unwrap();
            } else {
                nats.request(subject, n.to_string().into()).await.unwrap();
            }
        }
        let store = Jetstream::new(nats.clone(), root.clone()).await.unwrap();
        let (namespace, denials) = (Namespace::parse("default").unwrap(), Denials::default());
        let archive = Archive { nats, store, root: root.clone(), namespace, denials };
        let (stream, subject) = (root.signals_stream(), root.signals(&key("s1"), None));
        let total = STORED / 2;
        for most in [1, 300, 1_400, total, total + 1] {
            let (found, left_out) = archive.newest(&stream, &subject, Begin::Sequence(1), most).await.unwrap();
            let numbers: Vec<usize> =
                found.iter().map(|message| String::from_utf8_lossy(&message.payload).parse().unwrap()).collect();
            let expected: Vec<usize> = (total.saturating_sub(most)..total).map(|n| 2 * n).collect();
            assert_eq!(numbers, expected, "the newest {most}");
            assert_eq!(left_out as usize, total - expected.len());
        }
        let since = archive.newest(&stream, &subject, Begin::Time(jiff::Timestamp::now()), 10).await.unwrap();
        assert!(since.0.is_empty() && since.1 == 0);
        let nothing = archive.newest(&stream, &root.signals(&key("s3"), None), Begin::Sequence(1), 10).await.unwrap();
        assert!(nothing.0.is_empty());
    }
}

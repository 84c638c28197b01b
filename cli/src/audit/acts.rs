//! What operators did to workers and to the secret of tokens, as the stream `HF_AUDIT` keeps it.
//!
//! Invariant: an installation that has no such stream yet, or whose nats.conf is from an earlier version, still shows
//! what its signals tell. A note says what is missing then.

use std::time::Duration;

use holdfast_client::protocol::Reason;
use holdfast_client::protocol::act::Act;
use holdfast_store::Begin;
use jiff::Timestamp;

use super::entry::Entry;
use crate::archive::{Archive, PAGE, failure};
use crate::exit::Failure;
use crate::output::note;
use crate::probe::{Probe, Unread};

/// How often the stream is read while it is followed. Operators act seldom, and may not listen to what coordinators
/// publish there.
const LOOK: Duration = Duration::from_secs(1);
/// How long the stream may take to say whether it exists.
const ASK: Duration = Duration::from_secs(2);

/// A place in the stream.
pub(super) struct Acts<'a> {
    archive: &'a Archive,
    begin: Begin,
}

impl<'a> Acts<'a> {
    /// Acts since a time.
    pub(super) fn since(archive: &'a Archive, since: Timestamp) -> Self {
        Self { archive, begin: Begin::Time(since) }
    }

    /// Gives the kept acts to `show`, oldest first, up to the end of the stream. Returns whether there is such a stream
    /// for this user; if not, a note says so.
    pub(super) async fn kept(&mut self, show: impl FnMut(Entry)) -> Result<Presence, Failure> {
        let archive = self.archive;
        let reading = archive.permitted(self.read(show)).await;
        let Err(why) = reading else { return Ok(Presence::There) };
        let reason = if let Failure::Request(error) = &why { Some(error.contract().reason) } else { None };
        let missing = match reason {
            Some(Reason::PermissionDenied) => {
                "NATS does not let this user read it; the nats.conf of an earlier version lets nobody"
            }
            Some(Reason::StorageUnavailable) if is_missing(archive).await => {
                "it does not exist; a coordinator of this version makes it at its start"
            }
            _ => return Err(why),
        };
        let stream = archive.root.audit_stream();
        note(&format!(
            "drains, undrains and rotations of the secret are not shown: they are in {stream}, and {missing}"
        ));
        Ok(Presence::Missing)
    }

    /// Gives the acts from now on to `show`, until it fails.
    pub(super) async fn follow(&mut self, mut show: impl FnMut(&Entry) -> Result<(), Failure>) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut entries = Vec::new();
            // It goes on from the same place when the servers are back.
            if let Err(error) = self.read(|entry| entries.push(entry)).await {
                tracing::debug!(?error, "acts were not read");
            }
            entries.iter().try_for_each(&mut show)?;
        }
    }

    async fn read(&mut self, mut show: impl FnMut(Entry)) -> Result<(), Failure> {
        let root = &self.archive.root;
        let (stream, subject) = (root.audit_stream(), root.acts());
        loop {
            let page = self.archive.store.kept(&stream, &subject, self.begin, PAGE).await.map_err(failure)?;
            if let Some(last) = page.messages.last() {
                self.begin = Begin::Sequence(last.sequence + 1);
            }
            for message in &page.messages {
                match serde_json::from_slice::<Act>(&message.payload) {
                    Ok(act) => Entry::of_act(act).into_iter().for_each(&mut show),
                    Err(error) => tracing::warn!(sequence = message.sequence, %error, "an act does not parse"),
                }
            }
            if page.pending == 0 {
                return Ok(());
            }
        }
    }
}

/// Whether an installation has a stream of acts that this user may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    There,
    Missing,
}

async fn is_missing(archive: &Archive) -> bool {
    let probe = Probe { nats: archive.nats.clone(), root: archive.root.clone(), patience: ASK };
    let stream = archive.root.audit_stream();
    let asked = archive.permitted(async { Ok(probe.stream(&stream).await) }).await;
    matches!(asked, Ok(Err(Unread::Missing)))
}

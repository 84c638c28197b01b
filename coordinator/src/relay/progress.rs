//! One step of the relay: takes deliveries and publishes their signals. They are acknowledged once the signals are
//! kept.
//!
//! Invariant: acknowledging a message acknowledges all before it, so no message may be skipped. Deliveries are
//! numbered. When a number is missing (a relay died before it announced, or a connection broke), everything after the
//! last acknowledgement is read from the stream itself before the step continues. The same is done when a sequence is
//! missing: some messages may be delivered again, with new ones after them, while those in between are still for
//! another relay to acknowledge.
//!
//! A snapshot removes earlier frames from the stream and carries their events, and this may happen before the frames
//! are announced. The snapshot comes later in the stream than other commits of that time. So when sequences are
//! missing, each step looks ahead for the snapshots.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::Subject;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use holdfast_protocol::{Revision, SessionKey};
use holdfast_store::feed::Delivery;
use holdfast_store::mutant::{self, Mutant};
use tokio::time::Instant;

use crate::audit;
use crate::context::Context;
use crate::relay::echo::Echo;
use crate::relay::input::{Input, Origin, What};
use crate::relay::keep::Keeping;
use crate::relay::translate::{Announcement, Translator};
use crate::relay::{RelayError, announce, fault, floor, state};

/// How many logs are read concurrently.
const SIDE_BY_SIDE: usize = 16;
/// How often the checkpoint is stored while there is work. If the consumer is lost, what was done since is done again.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// The progress of this relay.
pub(super) struct Progress {
    done: Done,
    translator: Translator,
    echo: Echo,
    keeping: Keeping,
    /// The last delivery, until it is acknowledged.
    unacknowledged: Option<Subject>,
    checkpoint: Checkpoint,
    /// Messages up to here may have been removed before they were read; the snapshots that carry their events are in
    /// the stream up to here too.
    thinned_until: u64,
}

/// When the checkpoint was stored last.
struct Checkpoint {
    at: Instant,
    /// Whether something was announced since.
    is_due: bool,
}

/// What was announced, and whether deliveries were complete since.
#[derive(Debug)]
struct Done {
    /// Everything up to this sequence was announced.
    sequence: u64,
    /// The number of the last delivery; `None` when the next one cannot prove that nothing was missed.
    delivery: Option<u64>,
}

/// How a delivery continues those before it.
#[derive(Debug, PartialEq, Eq)]
enum Continuity {
    /// It follows what was announced.
    Next,
    /// Something before it may be missing.
    Gap,
    /// It was announced before.
    Repeat,
}

impl Done {
    fn take(&mut self, delivery: u64, sequence: u64) -> Continuity {
        let is_whole = self.delivery.is_some_and(|last| last + 1 == delivery);
        if sequence <= self.sequence {
            // Delivered again. Deliveries in between may have been lost as well.
            self.delivery = if is_whole { Some(delivery) } else { None };
            return Continuity::Repeat;
        }
        let follows = sequence == self.sequence + 1;
        self.delivery = Some(delivery);
        self.sequence = sequence;
        if is_whole && follows { Continuity::Next } else { Continuity::Gap }
    }
}

impl Progress {
    /// Begins after `acknowledged`.
    pub(super) fn new(stream: &str, acknowledged: u64, echo: Echo) -> Self {
        Self {
            echo,
            done: Done { sequence: acknowledged, delivery: None },
            translator: Translator::new(stream),
            keeping: Keeping::default(),
            unacknowledged: None,
            checkpoint: Checkpoint { at: Instant::now(), is_due: false },
            thinned_until: 0,
        }
    }

    /// When [`Progress::settle`] must be called; `None` when nothing waits for it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.keeping.due()
    }

    /// Keeps the signals that were announced, acknowledges their messages, and stores the checkpoint if it is old.
    pub(super) async fn settle(&mut self, context: &Context) -> Result<(), RelayError> {
        self.keeping.store(context).await?;
        if let Some(ack) = self.unacknowledged.take() {
            context.feed.acknowledge(&ack).await.map_err(fault)?;
            floor::publish(context, self.done.sequence).await;
        }
        if self.checkpoint.is_due && self.checkpoint.at.elapsed() >= CHECKPOINT_EVERY {
            self.store_checkpoint(context).await?;
        }
        Ok(())
    }

    /// Settles everything, before this relay ends or rests.
    pub(super) async fn finish(&mut self, context: &Context) -> Result<(), RelayError> {
        self.settle(context).await?;
        if self.checkpoint.is_due { self.store_checkpoint(context).await } else { Ok(()) }
    }

    async fn store_checkpoint(&mut self, context: &Context) -> Result<(), RelayError> {
        self.checkpoint = Checkpoint { at: Instant::now(), is_due: false };
        context.feed.checkpoint(self.done.sequence).await.map_err(fault)
    }

    /// Announces `deliveries`. They are acknowledged at once if there is nothing to keep.
    pub(super) async fn step(&mut self, context: &Context, deliveries: Vec<Delivery>) -> Result<(), RelayError> {
        let root = &context.config.root;
        let Some(ack) = deliveries.last().map(|delivery| delivery.ack.clone()) else { return Ok(()) };
        let mut inputs: Vec<Input> = Vec::with_capacity(deliveries.len());
        let begin = self.done.sequence;
        let mut is_thinned = false;
        for Delivery { number, posted, .. } in deliveries {
            let input = Input::of(root, posted);
            let announced = self.done.sequence;
            match self.done.take(number, input.sequence) {
                Continuity::Repeat => {}
                Continuity::Next => inputs.push(input),
                Continuity::Gap if mutant::is(Mutant::GapNotRead) => inputs.push(input),
                Continuity::Gap => {
                    is_thinned = true;
                    // Another relay may have acknowledged more than this one knows.
                    let acknowledged = state(context).await?.acknowledged;
                    let after = announced.max(acknowledged);
                    inputs.extend(between(context, after, input.sequence).await?);
                    self.translator.read_late(after, input.sequence);
                    inputs.push(input);
                }
            }
        }
        if is_thinned {
            // The snapshots that removed them are in the stream by now.
            self.thinned_until = context.store.last().await.map_err(read_fault)?;
        }
        if mutant::is(Mutant::RelayAcknowledgesFirst) {
            context.feed.acknowledge(&ack).await.map_err(fault)?;
        }
        let is_thinned = begin < self.thinned_until;
        let ahead = if is_thinned { self.look_ahead(context, &inputs).await? } else { Vec::new() };
        self.announce(context, &inputs, ahead).await?;
        for key in inputs.iter().filter_map(Input::key).filter(|_| is_thinned) {
            self.translator.was_announced_until(key, self.done.sequence);
        }
        if mutant::is(Mutant::AcknowledgedBeforeKept) {
            context.feed.acknowledge(&ack).await.map_err(fault)?;
        }
        if mutant::is(Mutant::CheckpointBeforeKept) {
            context.feed.checkpoint(self.done.sequence).await.map_err(fault)?;
        }
        self.unacknowledged = Some(ack);
        self.checkpoint.is_due = true;
        match self.due() {
            Some(due) if due > Instant::now() => Ok(()),
            _ => self.settle(context).await,
        }
    }

    /// Events of the sessions of `inputs` that were committed up to here and are now carried by later snapshots.
    async fn look_ahead(
        &self,
        context: &Context,
        inputs: &[Input],
    ) -> Result<Vec<(SessionKey, Announcement)>, RelayError> {
        let until = self.done.sequence;
        let keys: BTreeSet<SessionKey> = inputs.iter().filter_map(Input::key).cloned().collect();
        let looks = stream::iter(keys).map(async |key| {
            // A snapshot removes all frames before it, so it is the first message of its log.
            let first = first_of_log(context, &key).await?;
            let ahead = first.map_or_else(Vec::new, |first| self.translator.ahead(&first, &key, until));
            Ok(ahead.into_iter().map(move |announcement| (key.clone(), announcement)).collect::<Vec<_>>())
        });
        looks.buffer_unordered(SIDE_BY_SIDE).try_concat().await
    }

    async fn announce(
        &mut self,
        context: &Context,
        inputs: &[Input],
        ahead: Vec<(SessionKey, Announcement)>,
    ) -> Result<(), RelayError> {
        let mut announcements = ahead;
        for input in inputs {
            let Some(key) = input.key() else { continue };
            let said = self.translator.translate(&context.store, input).await;
            let said = said.map_err(|error| RelayError::Read(error.to_string()))?;
            announcements.extend(said.into_iter().map(|announcement| (key.clone(), announcement)));
            if let Some(record) = self.translator.last_record(input) {
                context.countdown.see(&record);
            }
            // If publishing fails, the relay restarts with a new translator.
            self.translator.was_announced(input);
        }
        self.keeping.add(announce::all(context, &mut self.echo, announcements).await?);
        for input in inputs {
            if let What::Record(key, Origin::Hand) = &input.what {
                audit::hand_edit(key, Revision(input.sequence));
            }
        }
        Ok(())
    }
}

async fn first_of_log(context: &Context, key: &SessionKey) -> Result<Option<Input>, RelayError> {
    let root = &context.config.root;
    let first = context.feed.first(Some(&root.log(key)), 1).await.map_err(read_fault)?;
    Ok(first.map(|posted| Input::of(root, posted)))
}

fn read_fault(error: impl std::fmt::Display) -> RelayError {
    RelayError::Read(error.to_string())
}

/// All messages between two sequences, from the leader.
async fn between(context: &Context, after: u64, until: u64) -> Result<Vec<Input>, RelayError> {
    let mut inputs = Vec::new();
    let mut next = after + 1;
    while next < until {
        match context.feed.first(None, next).await.map_err(read_fault)? {
            Some(posted) if posted.sequence < until => {
                next = posted.sequence + 1;
                inputs.push(Input::of(&context.config.root, posted));
            }
            Some(_) | None => break,
        }
    }
    if !inputs.is_empty() {
        tracing::info!(messages = inputs.len(), "announcing messages that were delivered before and not acknowledged");
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_delivery_is_noticed_and_one_that_comes_again_is_not_announced_again() {
        let mut done = Done { sequence: 10, delivery: None };
        // Deliveries as (number, stream sequence).
        let table = [
            ((5, 14), Continuity::Gap, "the first one after a start says nothing of those before"),
            ((6, 15), Continuity::Next, ""),
            ((7, 19), Continuity::Gap, "those in between were removed from the stream, or another relay has them"),
            ((9, 21), Continuity::Gap, "delivery 8 was lost"),
            ((10, 20), Continuity::Repeat, "what was lost comes again"),
            ((11, 22), Continuity::Next, ""),
            ((13, 15), Continuity::Repeat, "something else was lost with delivery 12"),
            ((14, 23), Continuity::Gap, "so what follows must look back"),
            ((15, 24), Continuity::Next, ""),
            ((16, 30), Continuity::Gap, "the numbers follow each other, and 25 to 29 are not there yet"),
        ];
        for (n, ((delivery, sequence), expected, why)) in table.into_iter().enumerate() {
            assert_eq!(done.take(delivery, sequence), expected, "row {n}: {why}");
        }
    }
}

//! One step of the relay: messages in, signals out, acknowledgement.
//!
//! Invariant: acknowledging a message acknowledges all before it, so none may be skipped. Deliveries are numbered; where a
//! number is missing (a relay that was lost with messages in its hands, a connection that broke) everything behind the
//! last acknowledgement is read from the stream itself before the step goes on.

use async_nats::jetstream;
use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use holdfast_protocol::SessionKey;

use crate::hub::Hub;
use crate::relay::input::Input;
use crate::relay::translate::{Announcement, Translator};
use crate::relay::{RelayError, announce, fault, floor};

/// How far this relay has come.
pub(super) struct Progress {
    done: Done,
    translator: Translator,
}

/// What was announced, and whether deliveries were whole since.
#[derive(Debug)]
struct Done {
    /// Everything up to this sequence was announced.
    sequence: u64,
    /// The number of the last delivery; `None` where it does not say that nothing was missed.
    delivery: Option<u64>,
}

/// What to do about a delivery.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It follows what was announced.
    Next,
    /// Something before it may be missing.
    Gap,
    /// It was announced before.
    Known,
}

impl Done {
    fn take(&mut self, delivery: u64, sequence: u64) -> Step {
        let is_whole = self.delivery.is_some_and(|last| last + 1 == delivery);
        if sequence <= self.sequence {
            // Delivered again. Whatever came between may have been lost as well.
            self.delivery = if is_whole { Some(delivery) } else { None };
            return Step::Known;
        }
        self.delivery = Some(delivery);
        self.sequence = sequence;
        if is_whole { Step::Next } else { Step::Gap }
    }
}

impl Progress {
    /// Begins behind `acknowledged`.
    pub(super) fn new(stream: &str, acknowledged: u64) -> Self {
        Self { done: Done { sequence: acknowledged, delivery: None }, translator: Translator::new(stream) }
    }

    /// Announces `messages` and acknowledges them.
    pub(super) async fn step(
        &mut self,
        hub: &Hub,
        stream: &Stream<()>,
        consumer: &Consumer<PullConfig>,
        messages: Vec<jetstream::Message>,
    ) -> Result<(), RelayError> {
        let root = &hub.config.root;
        let Some(ack) = messages.last().and_then(|message| message.reply.clone()) else { return Ok(()) };
        let mut inputs: Vec<Input> = Vec::with_capacity(messages.len());
        for message in messages {
            let (delivery, input) = Input::delivered(root, message)
                .ok_or_else(|| RelayError::Read("a delivery does not say its place".to_owned()))?;
            let announced = self.done.sequence;
            match self.done.take(delivery, input.sequence) {
                Step::Known => {}
                Step::Next => inputs.push(input),
                Step::Gap => {
                    // Another relay may have come further than this one knows.
                    let acknowledged = floor::of(&consumer.get_info().await.map_err(fault)?);
                    let after = announced.max(acknowledged);
                    inputs.extend(between(hub, stream, after, input.sequence).await?);
                    self.translator.read_late(after, input.sequence);
                    inputs.push(input);
                }
            }
        }
        self.announce(hub, &inputs).await?;
        hub.client.publish(ack, "+ACK".into()).await.map_err(fault)?;
        floor::publish(hub, self.done.sequence).await;
        Ok(())
    }

    async fn announce(&self, hub: &Hub, inputs: &[Input]) -> Result<(), RelayError> {
        let mut announcements: Vec<(SessionKey, Announcement)> = Vec::with_capacity(inputs.len());
        for input in inputs {
            let Some(key) = input.key() else { continue };
            let said = self.translator.translate(&hub.store, input).await;
            let said = said.map_err(|error| RelayError::Read(error.to_string()))?;
            announcements.extend(said.into_iter().map(|announcement| (key.clone(), announcement)));
            // Should publishing fail, this memory goes with the relay's life.
            self.translator.was_announced(input);
        }
        announce::all(hub, announcements).await
    }
}

/// Everything between two sequences, from the leader.
async fn between(hub: &Hub, stream: &Stream<()>, after: u64, until: u64) -> Result<Vec<Input>, RelayError> {
    let mut inputs = Vec::new();
    let mut next = after + 1;
    while next < until {
        match stream.get_first_raw_message_by_subject(">", next).await {
            Ok(message) if message.sequence < until => {
                next = message.sequence + 1;
                inputs.push(Input::stored(&hub.config.root, message));
            }
            Ok(_) => break,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
            Err(error) => return Err(RelayError::Read(error.to_string())),
        }
    }
    if !inputs.is_empty() {
        tracing::info!(messages = inputs.len(), "announcing what was delivered before and never acknowledged");
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
            ((5, 14), Step::Gap, "the first one after a start says nothing of those before"),
            ((6, 15), Step::Next, ""),
            ((7, 19), Step::Next, "sequences in between were removed from the stream"),
            ((9, 21), Step::Gap, "delivery 8 was lost"),
            ((10, 20), Step::Known, "what was lost comes again"),
            ((11, 22), Step::Next, ""),
            ((13, 15), Step::Known, "something else was lost with delivery 12"),
            ((14, 23), Step::Gap, "so what follows must look back"),
            ((15, 24), Step::Next, ""),
        ];
        for (n, ((delivery, sequence), expected, why)) in table.into_iter().enumerate() {
            assert_eq!(done.take(delivery, sequence), expected, "row {n}: {why}");
        }
    }
}

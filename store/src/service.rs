//! Questions about a micro service: `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`. Source: ADR-32.
//!
//! It is here because coordinators and workers are both such services, under names of their own. A question to one name
//! reaches no service of another name.
//!
//! Deliberately absent: endpoints and statistics, which each service has of its own.

use futures_util::stream::{SelectAll, StreamExt, select_all};
use holdfast_protocol::subject::Root;
use serde_json::{Value, json};

use crate::wire::{Outgoing, Subscription, Wire, WireError};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who is there?
    Ping,
    /// What can be requested, and how?
    Info,
    /// What was done so far?
    Stats,
}

impl Question {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    fn token(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        }
    }

    fn of(subject: &str) -> Self {
        let token = subject.split('.').nth(1);
        Self::ALL.into_iter().find(|question| Some(question.token()) == token).unwrap_or(Self::Ping)
    }

    /// The answer's members that every service has. `metadata` has texts only.
    pub fn answer(self, service: &str, id: &str, version: &str, metadata: &Value) -> Value {
        let kind = self.token().to_lowercase();
        json!({
            "type": format!("io.nats.micro.v1.{kind}_response"),
            "name": service,
            "id": id,
            "version": version,
            "metadata": metadata,
        })
    }
}

/// The questions to one instance of a service.
pub type Questions = SelectAll<Subscription>;

/// Subscribes to the questions to the instance `id` of `service`, to all of its instances, and to all services.
///
/// # Errors
/// The subject that the connection does not take, and why.
pub async fn listen(wire: &dyn Wire, service: &str, id: &str) -> Result<Questions, (String, WireError)> {
    let mut subscriptions = Vec::new();
    for question in Question::ALL {
        for tail in [String::new(), format!(".{service}"), format!(".{service}.{id}")] {
            let subject = format!("$SRV.{}{tail}", question.token());
            match wire.subscribe(subject.clone().into(), None).await {
                Ok(subscription) => subscriptions.push(subscription),
                Err(error) => return Err((subject, error)),
            }
        }
    }
    Ok(select_all(subscriptions))
}

/// Answers questions until the subscriptions end.
pub async fn answer(wire: &dyn Wire, root: &Root, mut questions: Questions, answer: impl Fn(Question) -> Value) {
    while let Some(question) = questions.next().await {
        let Some(reply) = question.reply.filter(|reply| root.may_answer(reply)) else { continue };
        let body = answer(Question::of(&question.subject)).to_string();
        if let Err(error) = wire.publish(Outgoing::to(reply, body)).await {
            tracing::debug!(%error, "a question about the micro service was not answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_told_by_its_subject() {
        assert_eq!(Question::of("$SRV.PING"), Question::Ping);
        assert_eq!(Question::of("$SRV.INFO.holdfast"), Question::Info);
        assert_eq!(Question::of("$SRV.STATS.holdfast-worker.1"), Question::Stats);
        let answer = Question::Stats.answer("s", "1", "0.1.0", &json!({}));
        assert_eq!(answer["type"], "io.nats.micro.v1.stats_response");
    }
}

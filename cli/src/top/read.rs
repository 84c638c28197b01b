//! Reads what `top` shows: once a second the workers, one page of sessions and the service's statistics; and signals as
//! they come.
//!
//! Invariant: a refresh costs what one page costs, whatever the namespace holds. Larger namespaces are read one page
//! after the other, and up to [`MOST`] sessions.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::connection::State as Link;
use futures_util::StreamExt;
use holdfast_client::Client;
use holdfast_client::protocol::reply::{Session, WorkerView};
use holdfast_client::protocol::request::List;
use holdfast_client::protocol::signal::Signal;
use holdfast_client::protocol::subject::Root;
use holdfast_client::protocol::{Namespace, SessionId};
use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::state::Rate;
use crate::signals::line;

/// The time between two refreshes.
const REFRESH: Duration = Duration::from_secs(1);
/// How long one of its requests may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long coordinators may take to answer about their statistics.
const GATHER: Duration = Duration::from_millis(200);
/// The size of a page.
const PAGE: usize = 500;
/// How many sessions are shown at most.
const MOST: usize = 5_000;

/// Something new.
#[derive(Debug)]
pub(super) enum News {
    Workers(Vec<WorkerView>),
    Sessions {
        sessions: Vec<Session>,
        more: bool,
    },
    Rates(Vec<Rate>),
    Event(String),
    /// Why nothing can be read; `None` when it can again.
    Away(Option<String>),
    /// What an action came to.
    Done(String),
}

/// Where to read.
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) nats: async_nats::Client,
    pub(super) root: Root,
    pub(super) namespace: Namespace,
}

impl Reader {
    /// Sends news until nobody listens.
    pub(super) async fn run(self, news: Sender<News>) {
        tokio::join!(self.refresh(&news), self.follow(&news));
    }

    async fn refresh(&self, news: &Sender<News>) {
        let mut tick = interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut listing, mut counts) = (Listing::default(), Counts::default());
        while !news.is_closed() {
            tick.tick().await;
            if self.nats.connection_state() != Link::Connected {
                let why = "NATS is away; what is shown is old. It goes on when NATS is back";
                news.send(News::Away(Some(why.to_owned()))).await.ok();
                continue;
            }
            let read = async {
                let workers = self.client.workers().within(PATIENCE).await?.workers;
                let list = List { limit: Some(PAGE as u64), after: listing.after.clone(), ..List::default() };
                Ok::<_, holdfast_client::Error>((workers, self.client.list(list).within(PATIENCE).await?))
            };
            match read.await {
                Ok((workers, page)) => {
                    listing.take(page.sessions, page.next);
                    let (sessions, more) = (listing.sessions(), listing.is_cut);
                    news.send(News::Away(None)).await.ok();
                    news.send(News::Workers(workers)).await.ok();
                    news.send(News::Sessions { sessions, more }).await.ok();
                }
                Err(error) => {
                    // The cursor may be the reason.
                    listing.after = None;
                    news.send(News::Away(Some(format!("nothing can be read: {error}")))).await.ok();
                }
            }
            if let Some(stats) = self.stats().await {
                news.send(News::Rates(counts.take(stats, Instant::now()))).await.ok();
            }
        }
    }

    /// The statistics of all coordinators of this installation that answer in time.
    async fn stats(&self) -> Option<Vec<Stats>> {
        let inbox = self.nats.new_inbox();
        let mut replies = self.nats.subscribe(inbox.clone()).await.ok()?;
        self.nats.publish_with_reply("$SRV.STATS.holdfast", inbox, "".into()).await.ok()?;
        let mut all = Vec::new();
        let gathering = async {
            while let Some(reply) = replies.next().await {
                let stats = serde_json::from_slice::<Stats>(&reply.payload).ok();
                all.extend(
                    stats.filter(|stats| stats.metadata.get("root").is_none_or(|root| root == self.root.as_str())),
                );
            }
        };
        timeout(GATHER, gathering).await.ok();
        Some(all)
    }

    /// The signals of sessions and locks. Those of documents are as many as there are edits.
    async fn follow(&self, news: &Sender<News>) {
        let subjects = ["lock", "session"].map(|group| format!("{}.{}.signal.*.{group}.*", self.root, self.namespace));
        let mut subscriptions = Vec::new();
        for subject in subjects {
            match self.nats.subscribe(subject).await {
                Ok(subscription) => subscriptions.push(subscription),
                Err(error) => tracing::debug!(%error, "the signals cannot be followed"),
            }
        }
        let mut signals = futures_util::stream::select_all(subscriptions);
        while let Some(message) = signals.next().await {
            let Ok(signal) = serde_json::from_slice::<Signal>(&message.payload) else { continue };
            if news.send(News::Event(told(&signal))).await.is_err() {
                return;
            }
        }
    }
}

/// A signal on one line. Of its time only the time of the day, to seconds.
fn told(signal: &Signal) -> String {
    let line = line(signal);
    let what = line.split_once("  ").map_or("", |(_, what)| what);
    let time = signal.time.get(11..19).unwrap_or(&signal.time);
    format!("{time}  {}  {what}", signal.subject)
}

/// The sessions, read page by page, again and again.
#[derive(Default)]
struct Listing {
    after: Option<String>,
    known: HashMap<SessionId, (u64, Session)>,
    round: u64,
    /// Whether the last round ended at [`MOST`].
    is_cut: bool,
}

impl Listing {
    /// Takes a page. At the end of a round, sessions that were not met in it are forgotten.
    fn take(&mut self, sessions: Vec<Session>, next: Option<String>) {
        let round = self.round;
        self.known.extend(sessions.into_iter().map(|session| (session.id.clone(), (round, session))));
        let met = self.known.values().filter(|(seen, _)| *seen == round).count();
        self.after = next.filter(|_| met < MOST);
        if self.after.is_none() {
            self.known.retain(|_, (seen, _)| *seen == round);
            self.is_cut = met >= MOST;
            self.round += 1;
        }
    }

    fn sessions(&self) -> Vec<Session> {
        self.known.values().map(|(_, session)| session.clone()).collect()
    }
}

/// A reply of the micro service. Source: ADR-32.
#[derive(Deserialize)]
struct Stats {
    id: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    name: String,
    num_requests: u64,
    num_errors: u64,
}

/// The counts of each coordinator and endpoint at the last look.
#[derive(Default)]
struct Counts {
    last: HashMap<(String, String), (Instant, u64, u64)>,
}

impl Counts {
    /// The rates since the last look. A coordinator that was not there then does not count yet.
    fn take(&mut self, all: Vec<Stats>, now: Instant) -> Vec<Rate> {
        let mut rates: HashMap<String, (f64, f64)> = HashMap::new();
        let mut counts = HashMap::new();
        for Stats { id, endpoints, .. } in all {
            for Endpoint { name, num_requests, num_errors } in endpoints {
                let key = (id.clone(), name.clone());
                if let Some((then, requests, errors)) = self.last.get(&key) {
                    let seconds = now.duration_since(*then).as_secs_f64().max(0.001);
                    let rate = rates.entry(name).or_default();
                    rate.0 += num_requests.saturating_sub(*requests) as f64 / seconds;
                    rate.1 += num_errors.saturating_sub(*errors) as f64 / seconds;
                }
                counts.insert(key, (now, num_requests, num_errors));
            }
        }
        // A coordinator that was too slow this time is compared with its count of before.
        self.last.retain(|_, (then, ..)| now.duration_since(*then) < REFRESH * 10);
        self.last.extend(counts);
        let rate =
            |(name, (requests, errors)): (String, _)| Rate { verb: name.replacen('-', ".", 1), requests, errors };
        rates.into_iter().map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(id: &str) -> Session {
        serde_json::from_value(json!({"id": id, "namespace": "default", "kind": "document", "workspace": null,
            "path": null, "state": "passive", "owner": null, "lock": null, "lock_revision": 0, "revision": 1,
            "config": {"idle_timeout_ms": 1, "on_idle": "passivate", "lock": "optional"}, "created_at": ""}))
        .unwrap()
    }

    #[test]
    fn a_session_that_is_gone_is_forgotten_at_the_end_of_a_round() {
        let mut listing = Listing::default();
        let shown = |listing: &Listing| {
            let mut ids: Vec<_> = listing.sessions().iter().map(|session| session.id.to_string()).collect();
            ids.sort();
            ids
        };
        listing.take(vec![session("a")], Some("cursor".to_owned()));
        listing.take(vec![session("b")], None);
        assert_eq!(shown(&listing), ["a", "b"]);
        listing.take(vec![session("b")], Some("cursor".to_owned()));
        assert_eq!(shown(&listing), ["a", "b"], "the round is not over");
        listing.take(vec![session("c")], None);
        assert_eq!(shown(&listing), ["b", "c"]);
    }

    #[test]
    fn a_large_namespace_is_cut_and_says_so() {
        let mut listing = Listing::default();
        for page in 0..=MOST / PAGE {
            let page: Vec<_> = (0..PAGE).map(|n| session(&format!("s{page}-{n}"))).collect();
            listing.take(page, Some("cursor".to_owned()));
            assert!(listing.sessions().len() <= MOST + PAGE);
        }
        assert!(listing.is_cut);
    }

    #[test]
    fn a_rate_is_the_difference_per_second_over_all_coordinators() {
        let stats = |id: &str, requests: u64, errors: u64| -> Stats {
            serde_json::from_value(json!({"id": id, "metadata": {}, "endpoints":
                [{"name": "lock-acquire", "num_requests": requests, "num_errors": errors}]}))
            .unwrap()
        };
        let mut counts = Counts::default();
        let begin = Instant::now();
        assert_eq!(counts.take(vec![stats("a", 1_000, 9)], begin), [], "the first look is no rate");
        let two_seconds = begin + Duration::from_secs(2);
        let rates = counts.take(vec![stats("a", 1_010, 9), stats("b", 500, 0)], two_seconds);
        assert_eq!(rates, [Rate { verb: "lock.acquire".to_owned(), requests: 5.0, errors: 0.0 }]);
        let rates = counts.take(vec![stats("a", 1_010, 11), stats("b", 502, 0)], two_seconds + Duration::from_secs(1));
        assert_eq!(rates, [Rate { verb: "lock.acquire".to_owned(), requests: 2.0, errors: 2.0 }]);
    }
}

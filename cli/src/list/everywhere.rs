//! The sessions of all namespaces.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_client::protocol::record::State;
use holdfast_client::protocol::reply::{Session, SessionPage};
use holdfast_client::protocol::{Namespace, SessionRecord};

use super::{ListArgs, page, pages};
use crate::ask::Asker;
use crate::connect::Connection;
use crate::exit::Failure;
use crate::output;
use crate::probe::{Probe, Survey, Unread};
use crate::status;

/// Reads them. Records that do not parse are left out, and said on standard error.
pub(super) async fn all(connection: &Connection, asker: &Asker, args: &ListArgs) -> Result<SessionPage, Failure> {
    let probe = status::probe(connection, "holdfast list").await?;
    let survey = survey(&probe, connection.timeout).await?;
    let limit = args.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut sessions = if args.idle.is_some() {
        idle(asker, args, &survey).await?
    } else {
        sessions(&survey).into_iter().filter(|session| args.wants(session)).collect()
    };
    sessions.truncate(limit);
    Ok(page(sessions))
}

/// Reads all records, and says what was left out.
pub(super) async fn survey(probe: &Probe, time: Duration) -> Result<Survey, Failure> {
    let name = probe.root.sessions_stream();
    let unread = |why: Unread| Failure::Connect(anyhow::anyhow!("the stream {name} {why}"));
    let last = probe.stream(&name).await.map_err(unread)?.state.last_sequence;
    let survey = probe.survey(last, time).await.map_err(unread)?;
    if !survey.is_whole {
        output::note("not all records were read in time: give a longer --timeout");
    }
    for (key, (_, record)) in &survey.records {
        if let Err(why) = record {
            output::note(&output::plain(&format!("left out: the record {key} does not parse: {why}")));
        }
    }
    Ok(survey)
}

/// The sessions of a survey, ordered by namespace and id.
pub(super) fn sessions(survey: &Survey) -> Vec<Session> {
    let valid = survey.records.values().filter_map(|(revision, record)| Some((revision, record.as_ref().ok()?)));
    valid.map(|(revision, record)| Session::of(record, *revision)).collect()
}

/// The idle sessions of each namespace that has any in memory, as its workers know them.
async fn idle(asker: &Asker, args: &ListArgs, survey: &Survey) -> Result<Vec<Session>, Failure> {
    let records = survey.records.values().filter_map(|(_, record)| record.as_ref().ok());
    let in_memory = |record: &&SessionRecord| record.state == State::Active;
    let namespaces: BTreeSet<Namespace> = records.filter(in_memory).map(|record| record.namespace.clone()).collect();
    let mut all = Vec::new();
    for namespace in namespaces {
        let client = asker.client.clone().in_namespace(namespace);
        all.extend(pages::all(asker, &client, args.request()).await?.sessions);
    }
    Ok(all)
}

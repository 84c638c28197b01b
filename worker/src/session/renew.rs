//! `lock.renew`: the holder keeps the lock for another lease.

use holdfast_protocol::reply::Renewed;
use holdfast_protocol::request::{Request, ShowToken, parse};
use holdfast_rules::validate::prove;

use super::commit::refused;
use super::decide::{chosen_id, done};
use super::stop::Stop;
use super::{Agent, End};
use crate::letter::{Answer, Letter};

impl Agent {
    pub(super) async fn renew(&mut self, letter: &Letter) -> Result<Answer, End> {
        let show = match parse::<ShowToken>(&letter.payload, &self.core.limits) {
            Ok(show) => show,
            Err(error) => return Ok(refused(&error, &letter.request_id)),
        };
        let request_id = chosen_id(show.request_id(), letter);
        match self.renewed(&show.token).await {
            Ok(renewed) => Ok(done(&renewed)),
            Err(stop) => Ok(refused(&stop.refusal()?, &request_id)),
        }
    }

    async fn renewed(&mut self, token: &str) -> Result<Renewed, Stop> {
        // Nothing proves this yes but the record itself.
        self.refresh_or_end().await?;
        let proven = prove(&self.record, self.revision, token).map(|lock| (lock.owner.clone(), lock.revision));
        let (owner, lock_revision) = proven.map_err(|refusal| self.explained(refusal))?;
        self.touch();
        self.renew_lock_clock();
        let expires_in_ms = self.lease_view().expires_in_ms;
        Ok(Renewed { session_id: self.key.id.clone(), owner, lock_revision, expires_in_ms })
    }
}

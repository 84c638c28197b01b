//! Everything that fails: the net, the storage, links and processes; and the people who edit records by hand.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_store::chance::Dice;
use holdfast_store::net::Link;
use holdfast_store::{memory, net};
use tokio::time::sleep;

use super::by_hand;
use crate::fleet::Fleet;
use crate::history::Fault;
use crate::plan::place;
use crate::world::World;

/// For how many milliseconds a commit is waited for.
const MOMENTS: u32 = 400;
/// How long a stop in order may take.
const GRACE: Duration = Duration::from_secs(5);

/// Whoever has the fleet.
pub struct Saboteur {
    world: Arc<World>,
    /// The fleet.
    pub fleet: Fleet,
    dice: Dice,
}

impl Saboteur {
    /// Nothing is wrong yet.
    pub fn new(world: &Arc<World>, fleet: Fleet, dice: Dice) -> Self {
        Self { world: world.clone(), fleet, dice }
    }

    async fn pause(&mut self, from_ms: u64, more_ms: u64) {
        sleep(Duration::from_millis(from_ms + self.dice.below(more_ms))).await;
    }

    fn begin(&self, fault: Fault) {
        self.world.history.begin(self.world.now(), fault);
    }

    fn end(&self, fault: &Fault) {
        self.world.history.end(self.world.now(), fault);
    }

    /// Has things fail until the clients are done; then all is well again.
    ///
    /// # Errors
    /// When a part cannot be started again.
    pub async fn meddle(mut self) -> Result<Self> {
        while !self.world.is_over() {
            self.pause(200, 2_500).await;
            match self.dice.below(100) {
                0..=19 => self.change_weather(),
                20..=44 if self.world.plan.links => self.cut_off().await?,
                45..=65 if self.world.plan.kills => self.end_one().await?,
                66..=69 if self.world.plan.kills => self.end_all_workers().await?,
                70..=94 if self.world.plan.hand_edits => self.edit_by_hand().await,
                _ => {}
            }
        }
        self.clear_weather();
        Ok(self)
    }

    /// Who announced something last.
    fn last_signaller(&self) -> Option<String> {
        let published = self.world.net.published();
        let signal = published.iter().rev().find(|message| message.subject.contains(".signal."));
        signal.map(|message| message.from.clone())
    }

    /// The net and the storage become bad, or good.
    fn change_weather(&mut self) {
        if self.dice.happens(400) {
            return self.clear_weather();
        }
        let (net, storage) = (self.world.plan.net, self.world.plan.storage);
        self.world.net.set_faults(net);
        self.world.memory.set_faults(storage);
        // A grant that is not routed counts as unheard, and is lost with its reply.
        let fault = if net.lost > 0 || net.unrouted > 0 { Fault::Loss } else { Fault::Net };
        self.begin(fault);
        self.begin(Fault::Storage);
        if storage.stale > 0 {
            self.begin(Fault::Stale);
        }
    }

    fn clear_weather(&mut self) {
        self.world.net.set_faults(net::Faults::default());
        self.world.memory.set_faults(memory::Faults::default());
        for fault in [Fault::Loss, Fault::Net, Fault::Storage, Fault::Stale] {
            self.end(&fault);
        }
    }

    /// Anybody; or whoever relays, in the moment after a commit.
    async fn victim(&mut self) -> String {
        if self.dice.happens(300) {
            let before = self.world.memory.last_sequence();
            for _ in 0..MOMENTS {
                if self.world.memory.last_sequence() > before {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
            if let Some(relay) = self.last_signaller().filter(|name| self.fleet.process(name).is_ok()) {
                return relay;
            }
        }
        let names = self.fleet.names();
        names[place(&mut self.dice, names.len())].clone()
    }

    /// The link of one part fails for a while.
    async fn cut_off(&mut self) -> Result<()> {
        let links = [Link::Broken, Link::Deaf, Link::Mute, Link::Silent, Link::Frozen];
        let link = links[place(&mut self.dice, links.len())];
        let name = self.victim().await;
        let fault = Fault::Link(name.clone());
        self.begin(fault.clone());
        self.world.history.note(self.world.now(), format!("{name} is {link:?}"));
        self.fleet.set_link(&name, link)?;
        let most = if self.dice.happens(300) { 14_000 } else { 3_000 };
        self.pause(100, most).await;
        self.fleet.set_link(&name, Link::Up)?;
        self.end(&fault);
        Ok(())
    }

    /// One part is killed or stopped, and started again.
    async fn end_one(&mut self) -> Result<()> {
        let name = self.victim().await;
        let fault = Fault::Absent(name.clone());
        self.begin(fault.clone());
        if self.dice.happens(300) {
            self.world.history.note(self.world.now(), format!("{name} is stopped"));
            self.fleet.stop(&name, GRACE).await?;
        } else {
            self.world.history.note(self.world.now(), format!("{name} is killed"));
            self.fleet.kill(&name)?;
        }
        if self.dice.happens(200) {
            self.world.history.note(self.world.now(), "a server was killed and has lost its deletions");
            self.world.memory.lose_consumer();
            for n in 1..=self.world.plan.configs.len() {
                self.world.memory.forget_deletions(&crate::world::key(&format!("s{n}")));
            }
        }
        let most = if self.dice.happens(500) { 1_000 } else { 12_000 };
        self.pause(50, most).await;
        self.restart(&name).await?;
        self.end(&fault);
        Ok(())
    }

    /// All workers are killed at once: for a while only the records say anything.
    async fn end_all_workers(&mut self) -> Result<()> {
        let names: Vec<String> = self.fleet.names().into_iter().filter(|name| name.starts_with('w')).collect();
        for name in &names {
            self.begin(Fault::Absent(name.clone()));
            self.fleet.kill(name)?;
        }
        self.pause(50, 14_000).await;
        for name in &names {
            self.restart(name).await?;
            self.end(&Fault::Absent(name.clone()));
        }
        Ok(())
    }

    /// Tries until the part is there: its start may fail as anything may.
    async fn restart(&mut self, name: &str) -> Result<()> {
        for _ in 0..60 {
            let started = match name.starts_with('c') {
                true => self.fleet.add_coordinator(name, |_| ()).await,
                false => self.fleet.add_worker(name, |_| ()).await,
            };
            match started {
                Ok(()) => {
                    self.world.history.note(self.world.now(), format!("{name} is started"));
                    return Ok(());
                }
                Err(error) => self.world.history.note(self.world.now(), format!("{name} does not start: {error}")),
            }
            self.pause(500, 1_000).await;
        }
        anyhow::bail!("{name} cannot be started again")
    }

    async fn edit_by_hand(&mut self) {
        let id = self.world.plan.session(&mut self.dice);
        by_hand::edit(&self.world, &mut self.dice, &id).await;
    }
}

//! What a seed decides before a run: how large the fleet is, who acts, and which faults there are.

use std::time::Duration;

use holdfast_store::chance::Dice;
use holdfast_store::{memory, net};
use serde_json::{Value, json};

/// What one run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How many coordinators.
    pub coordinators: usize,
    /// How many workers.
    pub workers: usize,
    /// How many clients.
    pub clients: u64,
    /// How many requests each of them makes.
    pub requests: u64,
    /// The longest pause between two of them.
    pub pause: Duration,
    /// The sessions' settings, as `session.open` takes them. The ids are `s1` and so on.
    pub configs: Vec<Value>,
    /// Whether operators act.
    pub operators: bool,
    /// Whether records are edited by hand.
    pub hand_edits: bool,
    /// Whether links fail.
    pub links: bool,
    /// Whether processes are killed and started again.
    pub kills: bool,
    /// The net while it is bad.
    pub net: net::Faults,
    /// The storage while it is bad.
    pub storage: memory::Faults,
}

impl Plan {
    /// What `seed` decides.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x706c_616e);
        // One seed in five has no faults at all, and one in five has rough ones.
        let (is_quiet, is_rough) = (dice.happens(200), dice.happens(200));
        let sessions = 1 + dice.below(3);
        let configs = (0..sessions).map(|_| config(&mut dice)).collect();
        let mut plan = Self {
            seed,
            coordinators: 2 + usize::from(dice.happens(300)),
            workers: 2 + usize::from(dice.happens(300)),
            clients: 3 + dice.below(2),
            requests: 15 + dice.below(15),
            pause: Duration::from_millis([200, 500, 1_500][place(&mut dice, 3)]),
            configs,
            operators: dice.happens(600),
            hand_edits: dice.happens(250),
            links: dice.happens(500),
            kills: dice.happens(500),
            net: net_faults(&mut dice, is_rough),
            storage: storage_faults(&mut dice, is_rough),
        };
        if is_quiet {
            (plan.links, plan.kills) = (false, false);
            (plan.net, plan.storage) = (net::Faults::default(), memory::Faults::default());
        }
        plan
    }

    /// The id of one of its sessions.
    pub fn session(&self, dice: &mut Dice) -> String {
        format!("s{}", 1 + dice.below(self.configs.len() as u64))
    }

    /// The settings of the session `id`.
    pub fn config(&self, id: &str) -> &Value {
        let number: usize = id.trim_start_matches('s').parse().expect("ids are s and a number");
        &self.configs[number - 1]
    }
}

/// A number below `bound`, for places in lists.
pub(crate) fn place(dice: &mut Dice, bound: usize) -> usize {
    usize::try_from(dice.below(bound as u64)).expect("it is below a usize")
}

fn config(dice: &mut Dice) -> Value {
    let idle_timeout_ms = match dice.below(3) {
        0 => 1_000 + dice.below(4_000),
        1 => 5_000 + dice.below(15_000),
        _ => 600_000,
    };
    let on_idle = if dice.happens(300) { "close" } else { "passivate" };
    let lock = if dice.happens(200) { "required" } else { "optional" };
    json!({ "idle_timeout_ms": idle_timeout_ms, "on_idle": on_idle, "lock": lock })
}

fn net_faults(dice: &mut Dice, is_rough: bool) -> net::Faults {
    let rough = if is_rough { 5 } else { 1 };
    let mut share = |chance: u64, most: u64| if dice.happens(chance) { dice.below(most) } else { 0 };
    net::Faults {
        delay_ms: share(800, 20 * rough),
        lost: share(400, 10 * rough),
        double: share(700, 100 * rough),
        double_ms: share(500, 10_000),
        unrouted: share(400, 10 * rough),
    }
}

fn storage_faults(dice: &mut Dice, is_rough: bool) -> memory::Faults {
    let rough = if is_rough { 8 } else { 1 };
    let seed = dice.roll();
    let mut share = |chance: u64, most: u64| if dice.happens(chance) { dice.below(most) } else { 0 };
    memory::Faults {
        seed,
        unavailable: share(500, 30 * rough),
        lost_ack: share(500, 20 * rough),
        lost_write: share(500, 15 * rough),
        late: share(500, 20 * rough),
        unreadable: share(300, 20 * rough),
        delay_ms: share(800, 12),
        stale: share(400, 30 * rough),
        behind: share(600, 1_000),
        frame_bytes_max: 0,
    }
}

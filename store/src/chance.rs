//! The source of ids, random pauses and timestamps for people.
//!
//! Invariant: in production these are exactly the libraries' values. A simulation plants a seed on its thread; until
//! the seed is dropped, everything here is derived from it and from tokio's clock, so that one seed makes one run.
//!
//! Deliberately absent: the secret of tokens, which is never made from a seed (`provision`).

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

thread_local! {
    static SEEDED: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// The time at which a simulation begins: 2026-01-01T00:00:00Z.
const EPOCH_SECONDS: i64 = 1_767_225_600;

struct Source {
    dice: Dice,
    begun: Instant,
    /// Orders the ids of one millisecond.
    ids: u64,
}

impl Source {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.begun.elapsed()).unwrap_or(SignedDuration::MAX);
        let epoch = Timestamp::from_second(EPOCH_SECONDS).unwrap_or_default();
        epoch.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }
}

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug, Default)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True with a probability of `share` in 1,000.
    pub fn happens(&mut self, share: u64) -> bool {
        share > 0 && self.below(1000) < share
    }
}

/// A planted seed. Dropping it ends the simulation on its thread.
#[must_use]
pub struct Planted(PhantomData<*const ()>);

impl Drop for Planted {
    fn drop(&mut self) {
        SEEDED.with(|seeded| seeded.borrow_mut().take());
    }
}

/// Derives everything on this thread from `seed` and from tokio's clock, from now on. For simulations.
pub fn plant(seed: u64) -> Planted {
    let source = Source { dice: Dice::new(seed), begun: Instant::now(), ids: 0 };
    SEEDED.with(|seeded| *seeded.borrow_mut() = Some(source));
    Planted(PhantomData)
}

fn seeded<T>(make: impl FnOnce(&mut Source) -> T) -> Option<T> {
    SEEDED.with(|seeded| seeded.borrow_mut().as_mut().map(make))
}

/// A new id that is larger than earlier ones (UUIDv7).
pub fn id() -> Uuid {
    let made = seeded(|source| {
        source.ids += 1;
        let ms = u128::try_from(source.now().as_millisecond()).unwrap_or(0) & 0xffff_ffff_ffff;
        let order = u128::from(source.ids & 0xfff);
        let random = u128::from(source.dice.roll() >> 2);
        Uuid::from_u128(ms << 80 | 0x7 << 76 | order << 64 | 0b10 << 62 | random)
    });
    made.unwrap_or_else(Uuid::now_v7)
}

/// A new id that nobody can guess (UUIDv4).
pub fn secret_id() -> Uuid {
    let made = seeded(|source| {
        let (high, low) = (u128::from(source.dice.roll() & !0xf000), u128::from(source.dice.roll() >> 2));
        Uuid::from_u128((high | 0x4000) << 64 | 0b10 << 62 | low)
    });
    made.unwrap_or_else(Uuid::new_v4)
}

/// A random number for hashing, so that no client can choose which keys collide.
pub fn salt() -> u64 {
    seeded(|source| source.dice.roll()).unwrap_or_else(|| RandomState::new().hash_one(0))
}

/// A random share within `range`.
pub fn share(range: Range<f64>) -> f64 {
    let drawn = seeded(|source| {
        let unit = (source.dice.roll() >> 11) as f64 / (1_u64 << 53) as f64;
        range.start + (range.end - range.start) * unit
    });
    drawn.unwrap_or_else(|| rand::random_range(range))
}

/// A random pause within `range`.
pub fn pause(range: Range<Duration>) -> Duration {
    range.start + range.end.saturating_sub(range.start).mul_f64(share(0.0..1.0))
}

/// The current time, for people. Never compared.
pub fn now() -> Timestamp {
    seeded(|source| source.now()).unwrap_or_else(Timestamp::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> String {
        let ids: Vec<Uuid> = (0..5).map(|_| id()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(ids.iter().all(|id| id.get_version_num() == 7) && secret_id().get_version_num() == 4);
        assert!((0..100).map(|_| share(0.5..1.5)).all(|share| (0.5..1.5).contains(&share)));
        format!("{ids:?} {} {} {:?} {}", secret_id(), share(0.5..1.5), pause(Duration::ZERO..Duration::MAX), now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_makes_all_of_it_and_another_one_something_else() {
        let of = |seed| {
            let _planted = plant(seed);
            drawn()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_ne!(drawn(), drawn(), "nothing is planted any more");
    }

    #[tokio::test(start_paused = true)]
    async fn time_for_people_follows_tokios_clock() {
        let _planted = plant(1);
        let begun = now();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(now().duration_since(begun).as_secs(), 3600);
    }
}

//! Rules broken on purpose, one at a time, so that a simulation can show that it would see each of them.
//!
//! Invariant: without the feature `mutants`, [`is`] is a constant `false` and costs nothing; with it a build without
//! debug assertions, which a release is, does not compile. A mutant is planted on a thread, as the seed of a simulation
//! is ([`crate::chance`]), and belongs to that thread alone.
//!
//! Deliberately absent: what a mutation does. It stands where the rule lives, in a line that names it. What sees it is
//! in `sim/tests/teeth`.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` breaks the rules of Holdfast on purpose: it is for tests only");

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A rule that is broken on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $what])+ $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it breaks.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

mutants! {
    /// A frame is stored whatever revision the record is at.
    FrameWithoutCondition,
    /// A frame's condition does not see a change of the record that is in flight, as with a wildcard on three replicas.
    ConditionOnWildcard,
    /// A write that was not answered is sent again under a new id.
    RetryWithNewId,
    /// A late copy is answered from a record that was seen before it arrived.
    LateCopyFromCache,
    /// A drain ends sessions that close when idle.
    DrainThatCloses,
    /// A grant that nobody heard stays.
    GrantToWhoIsGone,
    /// The relay acknowledges before it announces.
    RelayAcknowledgesFirst,
    /// The relay acknowledges before the signals are kept.
    AcknowledgedBeforeKept,
    /// The relay's checkpoint is ahead of what is kept.
    CheckpointBeforeKept,
    /// A record's count of unannounced changes begins anew without a look at the relay.
    MarkResetUnseen,
    /// A local read is answered by an agent that was not proven to own the session.
    LocalReadUnconfirmed,
    /// A lease ends by the grant's time and this machine's clock, which runs apart from others'.
    ExpiryByWallClock,
    /// Replay applies an op that it has applied before.
    ReplayTrustsDoubles,
    /// A change is answered before its frame is stored.
    ReplyBeforeAck,
    /// The record's past is not asked whether a request took effect before.
    PastNotAsked,
    /// The record's past is not asked about a waiter to whom a release hands the lock.
    HeirsPastNotAsked,
    /// A past answers for revisions that it does not cover.
    PastOfLess,
    /// A late `session.open` makes the session again that its first copy made.
    LateOpenReopens,
    /// A late `session.close` closes a session that was opened since.
    LateCloseClosesNext,
    /// A late drain drains again.
    LateDrainDrains,
    /// A move acts again on a late copy.
    LateMoveMoves,
    /// A change meant for one life of a session is made in the next.
    LifeIgnored,
    /// A move ends sessions that close when idle.
    MoveThatCloses,
    /// A reclaim does not look whether the session became busy.
    ReclaimOfBusy,
    /// A waiter takes its place in line after something was awaited.
    PlaceAfterAwait,
    /// A copy of a granted request is answered, and the record does not say so.
    CopyNotNoted,
    /// A failure that passes ends a wait.
    WaitEndsByFault,
    /// A coordinator that leaves does not pass on those who wait.
    WaitNotPassedOn,
    /// Nobody counts the lease of a lock whose session has no agent.
    LeaseUncounted,
    /// A renewal counts by when it is read, not by when it came.
    RenewalByReading,
    /// The relay does not look back where deliveries are missing.
    GapNotRead,
    /// The relay takes what it published for delivered, whatever became of its connection.
    EchoNotAwaited,
    /// A read by a worker that has lost the session is passed on.
    ReadOfLoser,
    /// After a frame of unknown outcome the fence stays where it is.
    UnknownFrameNotFenced,
}

#[cfg(not(feature = "mutants"))]
/// Whether `mutant` is planted: never, in this build.
pub const fn is(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use planted::{Planted, is, plant};

#[cfg(feature = "mutants")]
mod planted {
    use std::cell::Cell;
    use std::marker::PhantomData;

    use super::Mutant;

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether `mutant` is planted on this thread.
    pub fn is(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }

    /// Has this thread break the rule of `mutant` until what is returned is dropped.
    pub fn plant(mutant: Mutant) -> Planted {
        PLANTED.set(Some(mutant));
        Planted(PhantomData)
    }

    /// Ends a mutant when it is dropped. It belongs to its thread.
    #[must_use]
    pub struct Planted(PhantomData<*const ()>);

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}

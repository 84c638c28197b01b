//! Who gets a name, by what was heard of its holder and what its lease does meanwhile.

use futures_util::StreamExt;
use holdfast_protocol::reply::WorkerState;
use holdfast_store::memory::{Faults, Memory};
use holdfast_store::net::{Net, Process};
use holdfast_store::wire::Outgoing;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::*;

/// A net on which always the same is heard of the process of boot 1, and whoever asks there.
struct Fleet {
    asker: Process,
    root: Root,
    _holder: JoinSet<()>,
}

impl Fleet {
    async fn of(heard: Heard) -> Self {
        Self::with(heard, || std::future::ready(())).await
    }

    /// As [`Fleet::of`]; `then` happens at each question before it is answered.
    async fn with<F: Future<Output = ()> + Send + 'static>(
        heard: Heard,
        then: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        let root = Root::default();
        let net = Net::new(root.clone(), 1);
        let (asker, process) = (net.connect("asker"), net.connect("holder"));
        let mut holder = JoinSet::new();
        if heard != Heard::Nobody {
            let subject = root.worker_controls(&lease(1).worker, lease(1).boot);
            let mut questions = process.subscribe(subject.into(), None).await.unwrap();
            holder.spawn(async move {
                while let Some(question) = questions.next().await {
                    then().await;
                    if let (Some(reply), Heard::Answer) = (question.reply, heard) {
                        process.publish(Outgoing::to(reply, "{}")).await.unwrap();
                    }
                }
            });
        }
        Self { asker, root, _holder: holder }
    }

    fn asking(&self) -> Asking<'_> {
        Asking { wire: &self.asker, root: &self.root }
    }
}

fn lease(boot: u128) -> WorkerLease {
    WorkerLease {
        worker: WorkerName::parse("w1").unwrap(),
        boot: Boot(Uuid::from_u128(boot)),
        state: WorkerState::Ready,
        sessions: 0,
        workspaces: Vec::new(),
        read_only: Vec::new(),
        kinds: Vec::new(),
        version: String::new(),
    }
}

async fn take_as(memory: &Memory, boot: u128, rule: NameRule, heard: Heard) -> Result<Revision, ClaimError> {
    let fleet = Fleet::of(heard).await;
    take(memory, &lease(boot), rule, &fleet.asking(), &LeaseHealth::new(Instant::now())).await
}

/// A store in which boot 1 has the name, and the revision of its lease.
async fn held() -> (Memory, Revision) {
    let memory = Memory::new(Faults::default());
    let revision = memory.put_lease(&lease(1), Revision(0)).await.unwrap();
    (memory, revision)
}

async fn holder(memory: &Memory) -> Boot {
    memory.lease(&lease(1).worker).await.unwrap().lease.unwrap().boot
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_has_is_taken_at_once() {
    let memory = Memory::new(Faults::default());
    let begun = Instant::now();
    let revision = take_as(&memory, 2, NameRule::Respect, Heard::Nobody).await.unwrap();
    assert!(begun.elapsed().is_zero());
    memory.drop_lease(&lease(2).worker, revision).await.unwrap();
    // What is left of a lease that was taken away has a revision as well.
    take_as(&memory, 3, NameRule::Respect, Heard::Answer).await.unwrap();
    assert_eq!(holder(&memory).await, lease(3).boot);
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_process_that_answers_is_refused_unless_it_is_to_be_replaced() {
    let (memory, _) = held().await;
    match take_as(&memory, 2, NameRule::Respect, Heard::Answer).await {
        Err(ClaimError::Taken { boot, .. }) => assert_eq!(boot, lease(1).boot),
        other => panic!("{other:?}"),
    }
    assert_eq!(holder(&memory).await, lease(1).boot);
    take_as(&memory, 2, NameRule::Replace, Heard::Answer).await.unwrap();
    assert_eq!(holder(&memory).await, lease(2).boot);
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_process_that_is_gone_is_taken_long_before_its_lease_runs_out() {
    let (memory, _) = held().await;
    let begun = Instant::now();
    take_as(&memory, 2, NameRule::Respect, Heard::Nobody).await.unwrap();
    assert!(begun.elapsed() >= NOBODY && begun.elapsed() < NOBODY * 2, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_silent_and_renews_is_alive_and_one_whose_lease_stands_still_is_not() {
    let (memory, revision) = held().await;
    let renewing = async {
        sleep(LEASE_RENEW).await;
        memory.put_lease(&lease(1), revision).await.unwrap();
    };
    let (taken, ()) = tokio::join!(take_as(&memory, 2, NameRule::Respect, Heard::Silence), renewing);
    assert!(matches!(taken, Err(ClaimError::Taken { .. })), "{taken:?}");
    let begun = Instant::now();
    take_as(&memory, 2, NameRule::Respect, Heard::Silence).await.unwrap();
    assert!(begun.elapsed() < WATCH + 2 * ASK_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_that_start_at_once_one_has_the_name_and_the_other_is_refused() {
    let (memory, _) = held().await;
    // Boot 9 is faster: it has the name by the time that boot 1, which says nothing, was asked.
    let overtaken = {
        let memory = memory.clone();
        move || {
            let memory = memory.clone();
            async move {
                let slot = memory.lease(&lease(1).worker).await.unwrap();
                if slot.lease.is_some_and(|found| found.boot == lease(1).boot) {
                    memory.put_lease(&lease(9), slot.revision).await.unwrap();
                }
            }
        }
    };
    let fleet = Fleet::with(Heard::Silence, overtaken).await;
    let nine = fleet.asker.clone();
    let mut questions =
        nine.subscribe(fleet.root.worker_controls(&lease(9).worker, lease(9).boot).into(), None).await.unwrap();
    let answers = async {
        while let Some(question) = questions.next().await {
            nine.publish(Outgoing::to(question.reply.unwrap(), "{}")).await.unwrap();
        }
    };
    let health = LeaseHealth::new(Instant::now());
    let (asking, two) = (fleet.asking(), lease(2));
    let taken = tokio::select! {
        taken = take(&memory, &two, NameRule::Respect, &asking, &health) => taken,
        () = answers => unreachable!("the subscription has no end"),
    };
    assert!(matches!(taken, Err(ClaimError::Taken { boot, .. }) if boot == lease(9).boot), "{taken:?}");
    assert_eq!(holder(&memory).await, lease(9).boot);
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_is_away_is_waited_for_and_not_for_ever() {
    let away = || Faults { unreadable: 1000, ..Faults::default() };
    let memory = Memory::new(away());
    let heals = async {
        sleep(STORAGE_AWAY / 2).await;
        memory.set_faults(Faults::default());
    };
    let (taken, ()) = tokio::join!(take_as(&memory, 2, NameRule::Respect, Heard::Nobody), heals);
    taken.unwrap();
    let begun = Instant::now();
    let never = take_as(&Memory::new(away()), 2, NameRule::Respect, Heard::Nobody).await;
    assert!(matches!(never, Err(ClaimError::Store(StoreError::Unavailable(_)))), "{never:?}");
    assert!(begun.elapsed() >= STORAGE_AWAY && begun.elapsed() < STORAGE_AWAY * 2);
}

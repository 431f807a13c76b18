//! What a decision costs: reserve and settle through six gates with leases in hand, alone and among ten thousand other
//! budgets, and what a million accounts weigh.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bursar::domain::budget::{Budget, Limits, WhenUnavailable};
use bursar::domain::decision::Decision;
use bursar::domain::estimate::Estimate;
use bursar::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use bursar::domain::ledger::account::LocalAccount;
use bursar::domain::ledger::escrow::{self, Account, AccountKey, Exchange, Grant, Lease};
use bursar::domain::ledger::{Actual, Ledger, OnTimeout, Outgoing, Sharing, Terms, Verdict};
use bursar::domain::money::{Amounts, NanoUsd, Tokens, Units};
use bursar::domain::period::{Period, Schedule, WeekStart, Zone};
use bursar::domain::settlement::Certainty;
use bursar::domain::subject::{Scope, ScopeKind, Subject, Target};
use bursar::domain::time::{Mono, Now, Wall};

const TTL: Duration = Duration::from_secs(10);
/// Nobody reaches it, so that only the way to an admission is measured.
const LIMIT: i64 = i64::MAX / 4;
const OTHER_BUDGETS: u32 = 10_000;
/// Decisions between two looks at the clock, so that reading it does not count.
const BLOCK: u32 = 200;
const ROUNDS: usize = 2_000;
const ACCOUNTS: u32 = 1_000_000;
/// New accounts between two batches.
const ACCOUNTS_AT_ONCE: u32 = 2_000;

fn main() {
    let mut alone = Workload::new(0);
    let mut among = Workload::new(OTHER_BUDGETS);
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Side by side, so that whatever else this machine does befalls both.
        few.push(alone.block());
        many.push(among.block());
    }
    println!("reserve + settle, 6 gates        p25 ns   p50 ns   p75 ns");
    let alone_p50 = show("6 budgets", few);
    let among_p50 = show("10 006 budgets", many);
    println!("ratio of the medians             {:.2}", among_p50 / alone_p50);
    println!("decisions that had to wait       {}", alone.waited + among.waited);
    drop((alone, among));
    weigh_accounts();
}

fn show(name: &str, mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let [low, median, high] = [1, 2, 3].map(|quarter| samples[samples.len() * quarter / 4]);
    println!("{name:<30} {low:>8.0} {median:>8.0} {high:>8.0}");
    median
}

/// One subject that makes requests, and the ledger that decides on them.
struct Workload {
    ledger: Ledger,
    pool: HashMap<AccountKey, (Account, Option<Lease>)>,
    subject: Arc<Subject>,
    settlement: Id,
    now: Now,
    made: u128,
    waited: u32,
}

impl Workload {
    fn new(others: u32) -> Self {
        let mut ledger = ledger();
        let now = start();
        let targets = ["acme", "red", "ann", "key", "openai", "gpt-4o"].map(id);
        for (at, (kind, target)) in ScopeKind::ALL.into_iter().zip(&targets).enumerate() {
            let place = u128::try_from(at).unwrap();
            ledger.put_budget(budget(place, kind, Target::One(target.clone())), now);
        }
        for other in 0..others {
            let target = Target::One(id(&format!("somebody else {other}")));
            ledger.put_budget(budget(u128::from(other) + 100, ScopeKind::Identity, target), now);
        }
        let [workspace, project, identity, api_key, provider, model] = targets;
        let subject = Subject {
            workspace,
            project: Some(project),
            identity: Some(identity),
            api_key: Some(api_key),
            provider: Some(provider),
            model: Some(model),
        };
        let mut workload = Self {
            ledger,
            pool: HashMap::new(),
            subject: Arc::new(subject),
            settlement: id("chatcmpl-0123456789"),
            now,
            made: 0,
            waited: 0,
        };
        for _ in 0..100 {
            workload.block();
        }
        workload.waited = 0;
        workload
    }

    /// Nanoseconds per decision and settlement.
    fn block(&mut self) -> f64 {
        let begun = Instant::now();
        for _ in 0..BLOCK {
            self.decide_and_settle();
        }
        let taken = begun.elapsed();
        self.exchange();
        taken.as_nanos() as f64 / f64::from(BLOCK)
    }

    fn decide_and_settle(&mut self) {
        self.made += 1;
        self.now.mono = self.now.mono.plus(Duration::from_micros(1));
        let reservation = ReservationId { holder: HolderId(1), nonce: self.made };
        let subject = Arc::clone(&self.subject);
        let verdict = self.ledger.reserve(subject, estimate(), reservation, self.now);
        if matches!(black_box(verdict), Verdict::Starved(_)) {
            self.waited += 1;
            self.exchange();
        }
        let actual = Actual {
            settlement: self.settlement.clone(),
            certainty: Certainty::Exact,
            amounts: Amounts { cost: NanoUsd::new(900_000), tokens: Tokens::new(1200) },
            usage: None,
            model: None,
            rates: None,
        };
        black_box(self.ledger.settle(reservation, actual, self.now)).unwrap();
    }

    fn exchange(&mut self) {
        let Self { ledger, pool, now, .. } = self;
        exchange(ledger, *now, |asked| {
            let (account, lease) = pool.entry(asked.account.clone()).or_default();
            escrow::exchange(account, lease, asked, Units::new(LIMIT), TTL, now.wall).unwrap()
        });
    }
}

fn weigh_accounts() {
    let mut ledger = ledger();
    let now = start();
    ledger.put_budget(budget(1, ScopeKind::Identity, Target::Each), now);
    let before = resident_bytes();
    for first in (0..ACCOUNTS).step_by(usize::try_from(ACCOUNTS_AT_ONCE).unwrap()) {
        for number in first..first + ACCOUNTS_AT_ONCE {
            let identity = Some(id(&format!("user-{number:07}")));
            let subject = Subject { identity, ..Subject::of_workspace(id("acme")) };
            let reservation = ReservationId { holder: HolderId(1), nonce: u128::from(number) };
            let verdict = ledger.reserve(Arc::new(subject), estimate(), reservation, now);
            assert!(matches!(verdict, Verdict::Starved(_)), "a new account has no lease");
        }
        // The store forgets each account at once, so that only the ledger's memory is seen.
        exchange(&mut ledger, now, |asked| {
            let (mut account, mut lease) = (Account::default(), None);
            escrow::exchange(&mut account, &mut lease, asked, Units::new(LIMIT), TTL, now.wall)
                .unwrap()
        });
        for (_, decision) in ledger.take_decided() {
            let Decision::Allow(admission) = decision else { panic!("{decision:?}") };
            ledger.release(admission.reservation.unwrap(), now).unwrap();
        }
    }
    let grown = resident_bytes() - before;
    println!("{:<30} {:>8} MB", format!("{} accounts", ledger.live_accounts()), grown / 1_000_000);
    println!("{:<30} {:>8} B", "one account, all told", grown / u64::from(ACCOUNTS));
    println!("{:<30} {:>8} B", "one account, its record", size_of::<LocalAccount>());
}

/// Lets a store answer until there is nothing left to say.
fn exchange(ledger: &mut Ledger, now: Now, mut answer: impl FnMut(&Exchange) -> Grant) {
    while let Some(Outgoing { exchanges, .. }) = ledger.next_batch(now) {
        let grants: Vec<_> = exchanges.iter().map(&mut answer).collect();
        ledger.apply(&grants, now);
    }
}

fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE
}

fn ledger() -> Ledger {
    let terms = Terms {
        reservation_timeout: Duration::from_secs(600),
        on_timeout: OnTimeout::Charge,
        lease_ttl: TTL,
        sharing: Sharing::Alone,
    };
    Ledger::new(id("acme"), HolderId(1), terms)
}

fn start() -> Now {
    Now { wall: Wall::from_ms(1_795_341_600_000), mono: Mono::from_ns(1_000_000_000_000) }
}

fn estimate() -> Estimate {
    let amounts = Amounts { cost: NanoUsd::new(1_000_000), tokens: Tokens::new(1500) };
    Estimate::of(amounts)
}

fn budget(number: u128, kind: ScopeKind, target: Target) -> Budget {
    let schedule =
        Schedule { period: Period::Monthly, zone: Zone::utc(), week_start: WeekStart::Monday };
    Budget {
        workspace: id("acme"),
        id: BudgetId(number),
        generation: 0,
        resets: 0,
        scope: Scope { kind, target },
        limits: Limits {
            cost: Some(NanoUsd::new(LIMIT)),
            schedule: Some(schedule),
            ..Limits::default()
        },
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: Wall::from_ms(0),
        updated_at: Wall::from_ms(0),
    }
}

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

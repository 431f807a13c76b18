//! What requests without a cap use in practice, learned from what earlier ones used: a small histogram for each pair of a key
//! and a model. It holds no money, so the table may forget.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::domain::estimate::Lesson;
use crate::domain::ids::Id;
use crate::domain::subject::Subject;
use crate::domain::usage::Usage;

/// Pairs of a key and a model at the most: some 4 MB. Beyond it those that were not used of late make room.
pub const LEARNED_MAX: usize = 10_000;

/// Fewer samples say nothing of what one request in a hundred does.
const SAMPLES_MIN: u16 = 100;
/// With so many samples all counts are halved, so that a change of habits shows within a few times as many.
const SAMPLES_MAX: u16 = 2_048;
/// One request in so many may use more.
const RARE: u16 = 100;

/// The largest value of each bucket, each at most half as large again as the one before. The first is the least that is ever
/// said; no model takes or writes more than the last.
const BOUNDS: [u64; 32] = [
    64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072, 4_096, 6_144, 8_192, 12_288,
    16_384, 24_576, 32_768, 49_152, 65_536, 98_304, 131_072, 196_608, 262_144, 393_216, 524_288,
    786_432, 1_048_576, 1_572_864, 2_097_152, 3_145_728,
];

/// What 99 of 100 requests of the same kind stay within. `None` where too little is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usual {
    /// Tokens in.
    pub input: Option<u64>,
    /// Tokens out, of requests without a cap.
    pub output: Option<u64>,
}

/// What was learned so far.
#[derive(Debug, Default)]
pub struct Learned {
    /// Found by name. A place is given to another pair when the table is full.
    slots: Vec<Slot>,
    index: HashTable<usize>,
    hasher: RandomState,
    /// Where to look next for a pair that was not used of late.
    hand: usize,
}

/// Whose requests are alike. Identities share, because they are many and seldom heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name<'a> {
    workspace: &'a Id,
    asker: Asker<'a>,
    model: &'a Id,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asker<'a> {
    ApiKey(&'a Id),
    Project(&'a Id),
    Workspace,
}

#[derive(Debug)]
struct Slot {
    /// The first of those whose name this is.
    subject: Arc<Subject>,
    input: Histogram,
    output: Histogram,
    /// Whether it was used since the hand came by.
    is_recent: bool,
}

/// How many samples fell into each bucket.
#[derive(Debug, Clone, Copy, Default)]
struct Histogram {
    counts: [u16; BOUNDS.len()],
    total: u16,
}

impl Learned {
    /// What requests like this subject's usually use. Nothing is known of a request whose subject names no model.
    pub fn usual(&mut self, subject: &Subject) -> Usual {
        let slot = Name::of(subject).and_then(|name| self.find(name));
        let Some(slot) = slot.and_then(|at| self.slots.get_mut(at)) else {
            return Usual::default();
        };
        slot.is_recent = true;
        Usual { input: slot.input.high(), output: slot.output.high() }
    }

    /// Takes in what one request really used.
    pub fn learn(&mut self, subject: &Arc<Subject>, usage: &Usage, lesson: Lesson) {
        if lesson == Lesson::Nothing {
            return;
        }
        let slot = self.place(subject).and_then(|at| self.slots.get_mut(at));
        let Some(slot) = slot else { return };
        slot.input.add(usage.input);
        if lesson == Lesson::InputAndOutput {
            slot.output.add(usage.output);
        }
    }

    fn find(&self, name: Name<'_>) -> Option<usize> {
        let is_it = |at: &usize| self.name_at(*at) == Some(name);
        self.index.find(self.hasher.hash_one(name), is_it).copied()
    }

    /// The place of a subject's slot, made where there is none yet.
    fn place(&mut self, subject: &Arc<Subject>) -> Option<usize> {
        let name = Name::of(subject)?;
        if let Some(at) = self.find(name) {
            return Some(at);
        }
        let at = if self.slots.len() < LEARNED_MAX {
            self.slots.push(Slot::of(subject));
            self.slots.len().saturating_sub(1)
        } else {
            let at = self.vacate()?;
            *self.slots.get_mut(at)? = Slot::of(subject);
            at
        };
        let Self { slots, index, hasher, .. } = self;
        index.insert_unique(hasher.hash_one(name), at, |at| {
            slots.get(*at).and_then(Slot::name).map_or(0, |name| hasher.hash_one(name))
        });
        Some(at)
    }

    /// Takes the next pair out of the index that was not used since the hand came by. It goes round twice at the most, and an
    /// addition moves it by one place on average, because each use earns one pass.
    fn vacate(&mut self) -> Option<usize> {
        loop {
            let at = self.hand;
            self.hand = at.saturating_add(1);
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = self.slots.get_mut(at)?;
            if !std::mem::take(&mut slot.is_recent) {
                let hash = self.hasher.hash_one(slot.name()?);
                self.index.find_entry(hash, |found| *found == at).ok()?.remove();
                return Some(at);
            }
        }
    }

    fn name_at(&self, at: usize) -> Option<Name<'_>> {
        self.slots.get(at).and_then(Slot::name)
    }
}

impl<'a> Name<'a> {
    fn of(subject: &'a Subject) -> Option<Self> {
        let asker = match (&subject.api_key, &subject.project) {
            (Some(key), _) => Asker::ApiKey(key),
            (None, Some(project)) => Asker::Project(project),
            (None, None) => Asker::Workspace,
        };
        Some(Self { workspace: &subject.workspace, asker, model: subject.model.as_ref()? })
    }
}

impl Slot {
    fn of(subject: &Arc<Subject>) -> Self {
        let subject = Arc::clone(subject);
        let (input, output) = (Histogram::default(), Histogram::default());
        Self { subject, input, output, is_recent: false }
    }

    fn name(&self) -> Option<Name<'_>> {
        Name::of(&self.subject)
    }
}

impl Histogram {
    fn add(&mut self, tokens: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < tokens);
        // Larger numbers than any model's count in the last bucket.
        let bucket = bucket.min(BOUNDS.len().saturating_sub(1));
        let Some(count) = self.counts.get_mut(bucket) else { return };
        *count = count.saturating_add(1);
        self.total = self.total.saturating_add(1);
        if self.total >= SAMPLES_MAX {
            for count in &mut self.counts {
                *count /= 2;
            }
            self.total = self.counts.iter().copied().fold(0, u16::saturating_add);
        }
    }

    /// The bound that all but one sample in a hundred stay within.
    fn high(&self) -> Option<u64> {
        if self.total < SAMPLES_MIN {
            return None;
        }
        let mut to_spare = self.total / RARE;
        for (count, bound) in self.counts.iter().zip(BOUNDS).rev() {
            match to_spare.checked_sub(*count) {
                Some(left) => to_spare = left,
                None => return Some(bound),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;

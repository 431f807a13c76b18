//! What happened: a hash of all of it, which two runs of one seed must share, and the last of it in words when it is wanted.

use std::collections::VecDeque;

/// So many steps are kept in words.
const KEPT: usize = 20_000;

#[derive(Debug)]
pub struct Trace {
    hash: u64,
    /// `None` for a run of which nobody wants words.
    tail: Option<VecDeque<String>>,
}

impl Trace {
    pub fn new(in_words: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, tail: in_words.then(VecDeque::new) }
    }

    /// Something happened, at a time, at a replica.
    pub fn mark(&mut self, at: u64, what: &str, who: usize, words: impl FnOnce() -> String) {
        self.mix(at);
        what.bytes().for_each(|byte| self.mix(u64::from(byte)));
        self.mix(u64::try_from(who).unwrap_or(u64::MAX));
        if let Some(tail) = &mut self.tail {
            if tail.len() >= KEPT {
                tail.pop_front();
            }
            let (seconds, micros) = (at / 1_000_000_000, at / 1_000 % 1_000_000);
            tail.push_back(format!("{seconds:>4}.{micros:06} r{who} {what} {}", words()));
        }
    }

    /// A number that two runs must share.
    pub fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn tail(&self) -> String {
        self.tail.iter().flatten().cloned().collect::<Vec<_>>().join("\n")
    }
}

//! What a request names more than once, found in steps.

use std::collections::HashSet;

use crate::wire::codec::StrBytes;

/// What a look at a name costs of a turn's budget, in inflated bytes.
const NAME_COST: usize = 1 << 10;

/// The names of one request; each is of a kind, where the request has kinds.
#[derive(Default)]
pub(super) struct Repeated {
    seen: HashSet<(i8, StrBytes)>,
    twice: HashSet<(i8, StrBytes)>,
    /// Names that were looked at.
    at: usize,
}

impl Repeated {
    /// Looks at further names, the first of which has the number 0, until `budget`, which counts
    /// inflated bytes, is spent. True when there is no other name.
    pub(super) fn step(&mut self, name: impl Fn(usize) -> Option<(i8, StrBytes)>, budget: &mut usize) -> bool {
        while let Some(name) = name(self.at) {
            if *budget == 0 {
                return false;
            }
            *budget = budget.saturating_sub(NAME_COST);
            self.at += 1;
            if !self.seen.insert(name.clone()) {
                self.twice.insert(name);
            }
        }
        true
    }

    /// Whether this name stands there more than once.
    pub(super) fn has(&self, kind: i8, name: &StrBytes) -> bool {
        !self.twice.is_empty() && self.twice.contains(&(kind, name.clone()))
    }

    /// The names that stand there more than once, sorted.
    pub(super) fn sorted(&self) -> Vec<StrBytes> {
        let mut names: Vec<StrBytes> = self.twice.iter().map(|(_, name)| name.clone()).collect();
        names.sort_unstable();
        names
    }
}

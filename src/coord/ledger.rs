//! What is counted up and down by what comes and goes.

/// More than any ledger can hold: it has gone below zero.
const ABSURD: usize = isize::MAX as usize;

/// A count of bytes or of things. A miscount ends no process: it wraps, and
/// [`super::Coordinator::verify`] finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger(usize);

impl Ledger {
    /// Begins with a count.
    pub fn new(count: usize) -> Ledger {
        Ledger(count)
    }

    /// The count.
    pub fn get(self) -> usize {
        self.0
    }

    /// So much has come.
    pub fn add(&mut self, count: usize) {
        self.0 = self.0.wrapping_add(count);
    }

    /// So much has gone.
    pub fn sub(&mut self, count: usize) {
        self.0 = self.0.wrapping_sub(count);
    }

    /// What took `before` takes `after` now.
    pub fn replace(&mut self, before: usize, after: usize) {
        self.add(after);
        self.sub(before);
    }

    /// Whether more has gone than had come.
    pub fn is_absurd(self) -> bool {
        self.0 > ABSURD
    }
}

/// Memory of an entry of a `BTreeMap`, at most: five parts of eleven of its nodes are filled at least.
pub const fn entry_bytes<K, V>() -> usize {
    (size_of::<K>() + size_of::<V>()) * 11 / 5 + 16
}

/// Memory of the first node of a `BTreeMap` that has entries, besides that counted with one of them: it
/// has room for eleven.
pub const fn map_bytes<K, V>() -> usize {
    (size_of::<K>() + size_of::<V>()) * 9 + 16
}

/// Memory of a text on the heap: its bytes, and what is counted or rounded up beside them.
pub const fn text_bytes(text: &str) -> usize {
    text.len() + 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miscount_is_known_and_ends_nothing() {
        let mut ledger = Ledger::new(5);
        ledger.replace(4, 9);
        assert_eq!((ledger.get(), ledger.is_absurd()), (10, false));
        ledger.sub(11);
        assert!(ledger.is_absurd());
        ledger.add(3);
        assert_eq!(ledger, Ledger::new(2));
    }
}

//! A set of names in little more memory than their bytes: consumers may subscribe to very many.

/// Names in order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    text: Box<str>,
    /// Where each name ends in `text`.
    ends: Box<[u32]>,
}

impl Names {
    /// The set of these names.
    pub fn new(mut names: Vec<&str>) -> Names {
        names.sort_unstable();
        names.dedup();
        let mut text = String::with_capacity(names.iter().map(|name| name.len()).sum());
        let mut ends = Vec::with_capacity(names.len());
        for name in names {
            text.push_str(name);
            ends.push(text.len() as u32);
        }
        Names { text: text.into(), ends: ends.into() }
    }

    fn get(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[at] as usize]
    }

    /// The names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map(|at| self.get(at))
    }

    /// Whether a name is in the set.
    pub fn contains(&self, name: &str) -> bool {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle) < name { low = middle + 1 } else { high = middle }
        }
        low < self.ends.len() && self.get(low) == name
    }

    /// Memory that the names take.
    pub fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_set_of_texts(names in prop::collection::vec("[ab\u{e9}]{0,3}", 0..20), asked in "[ab\u{e9}]{0,3}") {
            let set: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            let ours = Names::new(names.iter().map(String::as_str).collect());
            prop_assert_eq!(ours.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(ours.contains(&asked), set.contains(&*asked));
            prop_assert!(names.iter().all(|name| ours.contains(name)));
        }
    }
}

//! What a cleaning must know of transactions: whose records do not count, and which markers are still needed.

use std::collections::{BTreeMap, HashSet};

use crate::base::ids::{Offset, ProducerId};
use crate::wire::batch::{BatchHeader, Marker};

/// How the transactions ended that were seen in a stretch of the log.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// First offset looked at. Of transactions before it nothing is known: their aborted records went in an earlier cleaning.
    from: Offset,
    /// By producer and offset of the marker: whether it was aborted.
    markers: BTreeMap<(ProducerId, Offset), bool>,
    open: BTreeMap<ProducerId, Offset>,
}

impl Outcomes {
    /// Nothing seen yet; the batches from offset `from` on will be.
    pub fn new(from: Offset) -> Outcomes {
        Outcomes { from, ..Outcomes::default() }
    }

    /// Takes in a transactional batch that holds data.
    pub fn data(&mut self, header: &BatchHeader) {
        self.open.entry(header.producer_id).or_insert(header.base_offset);
    }

    /// Takes in a control batch.
    pub fn control(&mut self, header: &BatchHeader, marker: Marker) {
        // The end of a transaction whose data is gone, or lies before the stretch, says nothing about any record in it.
        if marker != Marker::Other && self.open.remove(&header.producer_id).is_some() {
            self.markers.insert((header.producer_id, header.base_offset), marker == Marker::Abort);
        }
    }

    /// The ends of the transactions that are open lie in a part of the log that cannot be read, before
    /// offset `upto`: they count as committed.
    pub fn lose_open(&mut self, upto: Offset) {
        for (producer_id, _) in std::mem::take(&mut self.open) {
            self.markers.insert((producer_id, upto), false);
        }
    }

    /// The first offset of the transactions whose end was not seen.
    pub fn first_open(&self) -> Option<Offset> {
        self.open.values().min().copied()
    }

    /// Whether the batch belongs to a transaction that was aborted.
    pub fn aborted(&self, header: &BatchHeader) -> bool {
        let id = header.producer_id;
        let next = || self.markers.range((id, header.base_offset)..=(id, Offset::MAX)).next().is_some_and(|(_, aborted)| *aborted);
        header.is_transactional() && !header.is_control() && header.base_offset >= self.from && next()
    }
}

/// Which transactions still have records, while a log is rewritten from its start.
#[derive(Clone, Debug, Default)]
pub struct Alive(HashSet<ProducerId>);

impl Alive {
    /// A transactional batch with data was seen.
    pub fn data(&mut self, header: &BatchHeader) {
        self.0.insert(header.producer_id);
    }

    /// A control batch was seen; true when nothing is left of the transaction that it ends.
    pub fn ended(&mut self, header: &BatchHeader, marker: Marker) -> bool {
        marker != Marker::Other && !self.0.remove(&header.producer_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::{BatchSpec, build_batch};

    fn header(base_offset: Offset, producer_id: ProducerId, control: bool) -> BatchHeader {
        let spec = BatchSpec { base_offset, producer_id, producer_epoch: 0, control, transactional: true, ..BatchSpec::default() };
        BatchHeader::parse(&build_batch(&spec, &[(Some(b"k"), Some(b"v"), 1)])).unwrap()
    }

    #[test]
    fn each_transaction_has_its_own_end() {
        let mut outcomes = Outcomes::new(10);
        for (offset, id, marker) in [
            (10, 1, None),
            (11, 2, None),
            (12, 1, None),
            (13, 1, Some(Marker::Abort)),
            (14, 1, None),
            (15, 2, Some(Marker::Other)),
            (16, 2, Some(Marker::Commit)),
            (17, 1, Some(Marker::Commit)),
            (18, 3, None),
            (19, 4, Some(Marker::Abort)),
        ] {
            let header = header(offset, id, marker.is_some());
            match marker {
                Some(marker) => outcomes.control(&header, marker),
                None => outcomes.data(&header),
            }
        }
        for (offset, id, aborted) in
            [(10, 1, true), (12, 1, true), (14, 1, false), (11, 2, false), (18, 3, false), (9, 1, false), (10, 4, false)]
        {
            assert_eq!(outcomes.aborted(&header(offset, id, false)), aborted, "{offset} {id}");
        }
        assert_eq!(outcomes.first_open(), Some(18));
    }

    #[test]
    fn transactions_whose_end_cannot_be_read_are_not_aborted() {
        let mut outcomes = Outcomes::new(10);
        outcomes.data(&header(10, 1, false));
        outcomes.lose_open(19);
        outcomes.data(&header(20, 1, false));
        outcomes.control(&header(21, 1, true), Marker::Abort);
        assert!(!outcomes.aborted(&header(10, 1, false)) && outcomes.aborted(&header(20, 1, false)));
        assert_eq!(outcomes.first_open(), None);
    }

    #[test]
    fn markers_outlive_their_records() {
        let mut alive = Alive::default();
        alive.data(&header(1, 1, false));
        assert!(!alive.ended(&header(2, 1, true), Marker::Commit));
        assert!(alive.ended(&header(3, 1, true), Marker::Commit));
        assert!(!alive.ended(&header(4, 1, true), Marker::Other));
    }
}

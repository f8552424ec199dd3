//! Reads back what a run has sent and compares: every acknowledged batch there, once, in order, unharmed.

use std::{collections::HashMap, io};

use crate::{
    admin::{Client, Target, error_name},
    batch::{BatchHead, Stamp, crc_ok},
    fetch::{AtEnd, Cursor, Fetcher},
    produce::Ledger,
    stats::{Clock, Stats},
    topic::Topic,
};

const FETCH_BYTES: usize = 8 << 20;

/// What was found. All but `batches`, `records` and `unacknowledged` are faults.
#[derive(Default, Debug)]
pub struct Findings {
    pub batches: u64,
    pub records: u64,
    /// Acknowledged, but not there.
    pub lost: u64,
    /// There more than once.
    pub duplicates: u64,
    /// After a later one of the same connection.
    pub disordered: u64,
    /// Refused by the broker, but there.
    pub refused_present: u64,
    /// With a checksum that does not fit, not the expected number of records, or a sequence that was never sent.
    pub damaged: u64,
    /// There without having been acknowledged: allowed.
    pub unacknowledged: u64,
}

impl Findings {
    pub fn good(&self) -> bool {
        self.lost + self.duplicates + self.disordered + self.refused_present + self.damaged == 0
    }
}

/// Which batches of one ledger were seen.
struct Seen<'a> {
    ledger: &'a Ledger,
    bits: Vec<u64>,
    highest: Option<u64>,
}

impl Seen<'_> {
    fn mark(&mut self, sequence: u64, findings: &mut Findings) {
        if sequence >= self.ledger.sent {
            findings.damaged += 1;
            return;
        }
        let (word, bit) = (&mut self.bits[sequence as usize / 64], 1 << (sequence % 64));
        if *word & bit != 0 {
            findings.duplicates += 1;
            return;
        }
        *word |= bit;
        findings.disordered += u64::from(self.highest.is_some_and(|highest| sequence < highest));
        self.highest = self.highest.max(Some(sequence));
        findings.unacknowledged += u64::from(sequence >= self.ledger.answered);
        findings.refused_present += u64::from(self.ledger.refused.contains(&sequence));
    }

    fn lost(&self) -> u64 {
        let missing = |sequence: &u64| self.bits[*sequence as usize / 64] & (1 << (sequence % 64)) == 0;
        (0..self.ledger.answered).filter(missing).filter(|sequence| !self.ledger.refused.contains(sequence)).count() as u64
    }
}

/// What a batch of the run looks like.
pub struct Expected {
    pub run: u32,
    pub stamp_at: usize,
    pub records: u64,
}

/// Reads a topic's partitions from the offsets where the run began to their ends, and compares with the ledgers.
pub fn verify(topic: &Topic, ledgers: &[&Ledger], expected: &Expected, findings: &mut Findings) -> io::Result<()> {
    for (target, start) in topic.targets.iter().zip(&topic.starts) {
        let of_partition = ledgers.iter().copied().filter(|ledger| ledger.partition == target.partition);
        let mut seen: HashMap<u32, Seen> = of_partition
            .map(|ledger| (ledger.connection, Seen { ledger, bits: vec![0; ledger.sent as usize / 64 + 1], highest: None }))
            .collect();
        read_partition(&topic.name, target, *start, |batch, head| {
            let stamp = batch.get(expected.stamp_at..).and_then(Stamp::read).filter(|stamp| stamp.run == expected.run);
            let sane = crc_ok(batch) && head.records == expected.records;
            match stamp.and_then(|stamp| Some((stamp, seen.get_mut(&stamp.connection)?))) {
                Some((stamp, seen)) if sane => {
                    findings.batches += 1;
                    findings.records += head.records;
                    seen.mark(stamp.sequence, findings);
                }
                // Another producer's batch is no fault, a damaged one is.
                _ => findings.damaged += u64::from(!crc_ok(batch)),
            }
        })?;
        findings.lost += seen.values().map(Seen::lost).sum::<u64>();
    }
    Ok(())
}

/// Calls `each` with every batch from `start` to the end of the partition.
fn read_partition(topic: &str, target: &Target, start: i64, mut each: impl FnMut(&[u8], &BatchHead)) -> io::Result<()> {
    let mut client = Client::connect(&target.leader)?;
    let end = client.offsets(topic, &[target.partition], crate::admin::LATEST)?[0];
    let mut offset = start;
    let mut stats = Stats::new(Clock::idle());
    while offset < end {
        let cursor = Cursor { partition: target.partition, start: offset, offset };
        let mut fetcher = Fetcher::new(topic, vec![cursor], FETCH_BYTES, AtEnd::Wrap);
        let mut frame = Vec::new();
        fetcher.put_request(&mut frame, 0);
        let answer = client.call(frame)?;
        let head = fetcher.head(&answer, 0, &mut stats)?;
        if let Some(code) = stats.errors.keys().next() {
            return Err(io::Error::other(format!("reading back partition {}: {}", target.partition, error_name(*code))));
        }
        let mut records = answer.get(head.length..head.length + head.records_len).ok_or_else(|| crate::wire::malformed("records"))?;
        let before = offset;
        while let Some(batch) = BatchHead::read(records).filter(|batch| batch.total <= records.len()) {
            // The gap check: offsets of a partition that only grows have none.
            if batch.base_offset != offset {
                return Err(io::Error::other(format!("partition {}: offset {} follows {offset}", target.partition, batch.base_offset)));
            }
            each(&records[..batch.total], &batch);
            offset = batch.next_offset;
            records = &records[batch.total..];
        }
        if offset == before {
            return Err(io::Error::other(format!("partition {}: no batch at {offset}, though its end is {end}", target.partition)));
        }
    }
    Ok(())
}

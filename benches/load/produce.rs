//! The producing side of a connection: Produce requests of version 9 around the run's batch.

use std::{io, sync::Arc};

use crate::{
    batch::{Stamp, Template},
    keys::Draw,
    stats::{Stats, Totals},
    wire::{CORRELATION_ID, Put, Take, request, seal},
};

/// What was sent to one partition over one connection: compared with what can be read back.
#[derive(Clone, Default)]
pub struct Ledger {
    pub connection: u32,
    pub partition: i32,
    /// Batches sent; their sequences count from 0.
    pub sent: u64,
    /// Batches answered: with requests in order, these are the first ones.
    pub answered: u64,
    /// Sequences that the broker refused.
    pub refused: Vec<u64>,
}

pub struct Producer {
    template: Arc<Template>,
    /// The request up to its batch.
    prefix: Vec<u8>,
    /// Where in the prefix the partition stands.
    partition_at: usize,
    /// Where in the prefix the length of the batch stands.
    records_at: usize,
    acks: i16,
    run: u32,
    ledgers: Vec<Ledger>,
    turn: usize,
    /// Draws the next partition, if records are keyed.
    draw: Option<Draw>,
}

impl Producer {
    /// Sends to `partitions` in turn, the first being number `first` of them.
    pub fn new(template: Arc<Template>, topic: &str, acks: i16, run: u32, connection: u32, partitions: &[i32], first: usize) -> Self {
        let mut prefix = request(0, 9, true);
        prefix.uvarint(0); // transactional id: null
        prefix.i16(acks);
        prefix.i32(30_000);
        prefix.uvarint(2); // one topic
        prefix.compact_string(topic);
        prefix.uvarint(2); // one partition
        let partition_at = prefix.len();
        prefix.i32(0);
        let records_at = prefix.len();
        prefix.uvarint(template.batch_len() as u64 + 1);
        seal(&mut prefix, template.framed_len());
        let ledgers = partitions.iter().map(|&partition| Ledger { connection, partition, ..Ledger::default() }).collect();
        Self { template, prefix, partition_at, records_at, acks, run, ledgers, turn: first % partitions.len(), draw: None }
    }

    /// Draws partitions by these shares, by their place among the producer's, instead of taking turns.
    pub fn draw_by(&mut self, shares: impl Iterator<Item = f64>, seed: u64) {
        self.draw = Some(Draw::new(shares, seed));
    }

    pub fn template(&self) -> &Template {
        &self.template
    }

    pub fn wants_answer(&self) -> bool {
        self.acks != 0
    }

    /// Appends the next request, a whole batch's without its tail; which ledger it belongs to.
    pub fn put_request(&mut self, out: &mut Vec<u8>, correlation_id: i32, intended: u64, records: u64) -> usize {
        if let Some(draw) = &mut self.draw {
            self.turn = draw.next();
        }
        let (start, turn) = (out.len(), self.turn);
        let ledger = &mut self.ledgers[turn];
        let whole = records == self.template.records;
        if whole {
            out.extend(&self.prefix);
        } else {
            out.extend(&self.prefix[..self.records_at]);
            out.uvarint(self.template.part_len(records) as u64 + 1);
        }
        out[start + CORRELATION_ID..][..4].copy_from_slice(&correlation_id.to_be_bytes());
        out[start + self.partition_at..][..4].copy_from_slice(&ledger.partition.to_be_bytes());
        let stamp = Stamp { run: self.run, connection: ledger.connection, sequence: ledger.sent, intended };
        if whole {
            self.template.put_head(out, &stamp);
        } else {
            self.template.put_part(out, &stamp, records);
            seal(&mut out[start..], 0);
        }
        ledger.sent += 1;
        self.turn = (turn + 1) % self.ledgers.len();
        turn
    }

    /// Takes the answer to a request of ledger `turn` with so many records, after its correlation id.
    pub fn answer(&mut self, body: &[u8], turn: usize, records: u64, now: u64, stats: &mut Stats) -> io::Result<()> {
        let mut take = Take::new(body);
        take.tags()?;
        take.compact_length()?; // topics: one
        let name = take.compact_length()?;
        take.slice(name)?;
        take.compact_length()?; // partitions: one
        take.i32()?;
        self.done(turn, records, take.i16()?, now, stats);
        Ok(())
    }

    /// Counts a batch as done, with the broker's error code.
    pub fn done(&mut self, turn: usize, records: u64, error: i16, now: u64, stats: &mut Stats) {
        let ledger = &mut self.ledgers[turn];
        if error != 0 {
            ledger.refused.push(ledger.answered);
            stats.error(error);
        } else if stats.clock.measures(now) {
            stats.produced.add(Totals { requests: 1, records, bytes: self.template.part_bytes(records) as u64 });
        }
        ledger.answered += 1;
    }

    pub fn into_ledgers(self) -> Vec<Ledger> {
        self.ledgers
    }
}

//! Looking through the records of a batch in steps, whatever its compression.

use std::io::BufRead;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::super::compression::{Compression, CompressionError, INFLATED_MAX, decoder, describe};
use super::super::scan::{Front, Scanner};
use super::*;

/// Bytes of a plain payload that are looked at between two looks at the budget.
const PLAIN_STEP: usize = 64 << 10;
/// The same where they are compressed.
const PLAIN_STEP_SMALL: usize = 16 << 10;
/// So many plain bytes cost as much as one that is inflated.
pub(super) const PLAIN_CHEAPER: usize = 16;
/// What a record costs of the budget besides its bytes, in inflated bytes.
pub(super) const RECORD_COST: usize = 8;

enum Input {
    Plain(Bytes),
    Packed {
        input: Box<dyn BufRead>,
        /// What an inflated byte costs.
        weight: usize,
    },
}

/// A pass over the records of one batch that checks each of them whole. Compressed records are
/// inflated piece by piece, up to [`INFLATED_MAX`].
pub(super) struct Inspection {
    input: Input,
    scanner: Scanner,
    /// Bytes inflated so far.
    inflated: usize,
    /// Bytes of a plain payload that are looked at between two looks at the budget.
    plain_step: usize,
}

impl Inspection {
    /// Of the whole batch that `batch` begins with.
    pub(super) fn new(header: &BatchHeader, batch: &Bytes) -> Result<Inspection, CompressionError> {
        let compression = header.compression().map_err(CompressionError::Batch)?;
        if batch.len() < header.total_len() {
            return Err(CompressionError::Batch(BatchError::Truncated));
        }
        let payload = batch.slice(HEADER_LEN..header.total_len());
        let input = match compression {
            // Kafka writes no payload where there are no records, whatever the codec.
            _ if header.records_count == 0 => Input::Plain(Bytes::new()),
            Compression::None => Input::Plain(payload),
            _ => {
                let input = decoder(compression, payload, INFLATED_MAX);
                let input = input.map_err(|error| describe(error, INFLATED_MAX))?;
                Input::Packed { input, weight: compression.inflating_weight() }
            }
        };
        let scanner = Scanner::new(header.records_count);
        Ok(Inspection { input, scanner, inflated: 0, plain_step: PLAIN_STEP })
    }

    /// A pass whose payload is taken piece by piece for something that costs more than a look at it.
    pub(super) fn in_small_pieces(self) -> Inspection {
        Inspection { plain_step: PLAIN_STEP_SMALL, ..self }
    }

    /// Bytes inflated so far; none where the records are not compressed.
    pub(super) fn inflated(&self) -> usize {
        self.inflated
    }

    /// Goes on until `budget`, which counts inflated bytes, was spent. True at the end of the
    /// records, which then are right, or once `visit` breaks.
    pub(super) fn step(&mut self, budget: &mut usize, visit: impl FnMut(Front) -> ControlFlow<()>) -> Result<bool, CompressionError> {
        self.step_into(budget, visit, |_| 0)
    }

    /// As [`Inspection::step`]; `take` is given the payload, piece by piece, and says what that has
    /// cost.
    pub(super) fn step_into(
        &mut self,
        budget: &mut usize,
        mut visit: impl FnMut(Front) -> ControlFlow<()>,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> Result<bool, CompressionError> {
        let Inspection { input, scanner, inflated, plain_step } = self;
        while *budget > 0 {
            let mut cost = 0;
            let mut visit = |front| {
                cost += RECORD_COST;
                visit(front)
            };
            let (flow, spent, last) = match input {
                Input::Plain(payload) => {
                    let piece = payload.split_to(payload.len().min(*plain_step));
                    let cost = piece.len() / PLAIN_CHEAPER + take(&piece);
                    (scanner.feed(&piece, &mut visit)?, cost, payload.is_empty())
                }
                Input::Packed { input, weight } => {
                    let piece = input.fill_buf().map_err(|error| describe(error, INFLATED_MAX))?;
                    let (taken, len) = (take(piece), piece.len());
                    let flow = scanner.feed(piece, &mut visit)?;
                    input.consume(len);
                    *inflated += len;
                    (flow, len * *weight + taken, len == 0)
                }
            };
            *budget = budget.saturating_sub(cost + spent);
            if flow.is_break() {
                return Ok(true);
            }
            if last {
                scanner.finish()?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What a batch is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The first record at `from` or behind it whose timestamp (ms) is `ts` or later.
    AtOrAfter {
        /// Lowest timestamp (ms).
        ts: i64,
        /// Lowest offset.
        from: Offset,
    },
    /// The first record that has the largest timestamp.
    Largest,
}

/// Looks a record of one batch up by time, in steps.
pub struct TimeSearch {
    header: BatchHeader,
    wanted: Wanted,
    /// `None` where the header says it all.
    inspection: Option<Inspection>,
    found: Option<(Offset, i64)>,
}

impl TimeSearch {
    /// In the whole batch that `batch` begins with.
    pub fn new(batch: &Bytes, wanted: Wanted) -> Result<TimeSearch, CompressionError> {
        let header = BatchHeader::parse(batch).map_err(CompressionError::Batch)?;
        let mut search = TimeSearch { header, wanted, inspection: None, found: None };
        let early = match wanted {
            Wanted::AtOrAfter { from, .. } if header.last_offset() < from => true,
            Wanted::AtOrAfter { ts, .. } => header.max_timestamp < ts && !header.time_unknown(),
            Wanted::Largest => false,
        };
        // Offsets may be missing behind the first one.
        let whole = !matches!(wanted, Wanted::AtOrAfter { from, .. } if from > header.base_offset);
        if early || header.records_count == 0 {
            return Ok(search);
        }
        if header.timestamp_type() == TimestampType::LogAppendTime && whole {
            search.found = Some((header.base_offset, header.max_timestamp));
        } else {
            search.inspection = Some(Inspection::new(&header, batch)?);
        }
        Ok(search)
    }

    /// Goes on until `budget` inflated bytes were spent; true when [`TimeSearch::found`] is final.
    pub fn step(&mut self, budget: &mut usize) -> Result<bool, CompressionError> {
        let TimeSearch { header, wanted, inspection, found } = self;
        let Some(inspection) = inspection else { return Ok(true) };
        inspection.step(budget, |front| {
            let offset = header.base_offset.wrapping_add(front.offset_delta.into());
            let timestamp = match header.timestamp_type() {
                TimestampType::LogAppendTime => header.max_timestamp,
                TimestampType::CreateTime => header.base_timestamp.wrapping_add(front.timestamp_delta),
            };
            match *wanted {
                Wanted::AtOrAfter { ts, from } if timestamp >= ts && offset >= from => {
                    *found = Some((offset, timestamp));
                    return ControlFlow::Break(());
                }
                Wanted::Largest if found.is_none_or(|(_, largest)| timestamp > largest) => {
                    *found = Some((offset, timestamp));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })
    }

    /// Offset and timestamp (ms) of the record, `None` if there is none.
    pub fn found(&self) -> Option<(Offset, i64)> {
        self.found
    }

    /// Searches to the end in one go.
    pub fn run(mut self) -> Result<Option<(Offset, i64)>, CompressionError> {
        self.step(&mut usize::MAX.clone())?;
        Ok(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BatchSpec, Stamp, build_batch};
    use super::*;

    #[test]
    fn records_are_found_by_time_in_every_compression() {
        for compression in Compression::ALL {
            let spec = BatchSpec { base_offset: 100, compression, ..BatchSpec::default() };
            let records = [(None, Some(&b"a"[..]), 1000), (None, Some(b"b"), 3000), (None, None, 2000), (None, None, 3000)];
            let mut batch = build_batch(&spec, &records);
            let search = |batch: &[u8], wanted| TimeSearch::new(&Bytes::copy_from_slice(batch), wanted).and_then(TimeSearch::run);
            let from = |batch: &[u8], ts, from| search(batch, Wanted::AtOrAfter { ts, from }).unwrap();
            let first = |batch: &[u8], ts| from(batch, ts, 0);
            assert_eq!(first(&batch, 0), Some((100, 1000)));
            assert_eq!(first(&batch, 1001), Some((101, 3000)), "the first in offset order, not in time order");
            assert_eq!(first(&batch, 3001), None);
            assert_eq!(search(&batch, Wanted::Largest), Ok(Some((101, 3000))));
            assert!(search(&batch[..batch.len() - 1], Wanted::AtOrAfter { ts: 0, from: 0 }).is_err());
            assert_eq!(from(&batch, 0, 102), Some((102, 2000)), "the first ones are deleted");
            assert_eq!((from(&batch, 2001, 102), from(&batch, 0, 104)), (Some((103, 3000)), None));
            Stamp::Largest(-1).apply(&mut batch);
            assert_eq!(first(&batch, 1001), Some((101, 3000)), "the header says -1");
            assert_eq!(first(&batch, 3001), None);
            assert_eq!(search(&batch, Wanted::Largest), Ok(Some((101, 3000))));
            Stamp::LogAppendTime(5000).apply(&mut batch);
            assert_eq!(first(&batch, 4000), Some((100, 5000)));
            assert_eq!((from(&batch, 4000, 102), from(&batch, 4000, 104)), (Some((102, 5000)), None));
            assert_eq!(search(&batch, Wanted::Largest), Ok(Some((100, 5000))));
        }
    }

    #[test]
    fn a_step_inflates_no_more_than_its_budget() {
        let value = vec![0; 1 << 20];
        for compression in Compression::ALL.into_iter().filter(|c| *c != Compression::None) {
            let spec = BatchSpec { compression, ..BatchSpec::default() };
            let batch: Bytes = build_batch(&spec, &[(None, Some(&value), 7)]).into();
            let mut search = TimeSearch::new(&batch, Wanted::Largest).unwrap();
            let mut steps = 1;
            while !search.step(&mut (64 << 10)).unwrap() {
                assert_eq!(search.found(), None, "the record has not ended");
                steps += 1;
            }
            let expected = if compression == Compression::Gzip { 33 } else { 17 };
            assert_eq!((search.found(), steps), (Some((0, 7)), expected), "{}", compression.name());
        }
    }

    #[test]
    fn plain_records_are_looked_at_in_steps_too() {
        let value = vec![0; 1000];
        let records: Vec<_> = (0..5000).map(|time| (None, Some(&value[..]), time)).collect();
        let batch: Bytes = build_batch(&BatchSpec::default(), &records).into();
        let mut search = TimeSearch::new(&batch, Wanted::Largest).unwrap();
        let mut steps = 1;
        while !search.step(&mut (64 << 10)).unwrap() {
            steps += 1;
        }
        let cost = batch.len() / PLAIN_CHEAPER + records.len() * RECORD_COST;
        assert_eq!(search.found(), Some((4999, 4999)));
        assert!((cost / (80 << 10)..=cost / (64 << 10) + 1).contains(&steps), "{steps}");
    }
}

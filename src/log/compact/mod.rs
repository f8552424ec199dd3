//! Compaction: of each key only the last record stays. Kafka's `LogCleaner`, for one log.
//!
//! A cleaning reads the dirty part and notes the last offset of every key (`OffsetMap`), then rewrites the complete segments from the
//! log's start on without the records that have a later one, and puts each rewritten segment in the place of its sources
//! (`install`). Appends and reads go on meanwhile. A crash at any point leaves the sources or their replacement.

#[cfg(test)]
mod damage_tests;
mod install;
mod io;
mod map;
mod plan;
#[cfg(test)]
mod tests;
mod txn;

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::LogError;
use super::{Inner, Log, files, walk};
use crate::base::ids::Offset;
use crate::rt::{Open, Rt};
use crate::wire::batch::{BatchHeader, Filtered, Filtering, Marker, Payload, Retention, marker};
use crate::wire::record::Record;
pub(super) use install::finish_swaps;
pub use io::Pace;
use io::{Next, Output, Source};
use map::OffsetMap;
use plan::Sealed;
pub use plan::{Dirt, Rules};
use txn::{Alive, Outcomes};

/// What a cleaning may use.
pub struct Means<'a> {
    /// Bytes of the table of keys.
    pub map_bytes: usize,
    /// How full the table may get, in millionths.
    pub map_load_ppm: u32,
    /// Bytes read and written at a time.
    pub buffer: usize,
    /// How fast it reads and writes.
    pub pace: &'a Pace,
}

/// What a cleaning did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Everything below is compacted now.
    pub upto: Offset,
    /// Keys of the dirty part.
    pub keys: usize,
    /// Bytes of the segments looked at.
    pub bytes_before: u64,
    /// Bytes that they have now.
    pub bytes_after: u64,
}

/// What the note of a key costs of a turn's budget, in inflated bytes.
const KEY_COST: usize = 128;

/// Segments, by their first offset, of which was said that something in them cannot be read.
pub(super) type Told = BTreeSet<Offset>;

impl<R: Rt> Inner<R> {
    /// Says what cannot be read in the segment of `base`, once.
    fn tell_unreadable(&self, base: Offset, what: &str) {
        let start = self.state.borrow().segments[0].base;
        let mut told = self.told.borrow_mut();
        told.retain(|told| *told >= start);
        if told.insert(base) {
            tracing::error!("compaction: {what}");
        }
    }

    /// An error once the log is to be left alone.
    fn still_open(&self) -> Result<(), LogError> {
        let state = self.state.borrow();
        match &state.fenced {
            Some(reason) => Err(LogError::Fenced(reason.clone())),
            None if state.closed || self.deleted.get() => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    /// The segments that nothing is appended to any more, all of them flushed and with their indexes stored.
    fn sealed(&self) -> Vec<Sealed> {
        let state = self.state.borrow();
        let limit = state.storing.first().map_or(state.writing, |first| state.writing.min(*first));
        let pairs = state.segments.windows(2).take_while(|pair| pair[0].base < limit);
        pairs.map(|pair| Sealed { base: pair[0].base, size: pair[0].size, next: pair[1].base }).collect()
    }

    pub(super) fn segment_path(&self, base: Offset) -> PathBuf {
        files::name(&self.dir, base, "log")
    }

    async fn source<'a>(&'a self, segment: &Sealed, means: &Means<'a>) -> Result<Source<'a, R>, LogError> {
        Source::open(self, means.pace, self.segment_path(segment.base), segment, means.buffer).await
    }
}

impl<R: Rt> Log<R> {
    /// Everything below has been compacted, as far as is known.
    pub fn cleaned_offset(&self) -> Offset {
        self.0.cleaned.get()
    }

    /// What could be cleaned at `now_ms`, of the offsets below `stable`: the high watermark, or the first offset of an open transaction.
    pub async fn dirt(&self, stable: Offset, rules: &Rules, now_ms: i64) -> Result<Dirt, LogError> {
        let log = &*self.0;
        log.still_open()?;
        let from = log.cleaned.get().max(self.start_offset());
        let sealed = log.sealed();
        let mut upto = sealed.last().map_or(from, |last| last.next).min(stable);
        if rules.min_lag_ms > 0 {
            for segment in sealed.iter().filter(|s| s.next > from && s.base < upto) {
                let newest = match self.max_timestamp_of(segment.base).await {
                    // A damaged segment is left as it is anyway.
                    Err(LogError::Corrupt { .. }) => None,
                    newest => newest?,
                };
                if newest.is_some_and(|newest| newest > now_ms.saturating_sub(rules.min_lag_ms)) {
                    upto = segment.base;
                    break;
                }
            }
        }
        let mut dirt = Dirt::measure(from, upto, &sealed);
        if rules.max_lag_ms < i64::MAX && dirt.dirty_bytes > 0 {
            for segment in sealed.iter().filter(|s| s.next > from && s.size > 0) {
                let first = self.first_timestamp_of(segment).await?;
                dirt.overdue |= first > 0 && first < now_ms.saturating_sub(rules.max_lag_ms);
            }
        }
        Ok(dirt)
    }

    async fn max_timestamp_of(&self, base: Offset) -> Result<Option<i64>, LogError> {
        let _turn = self.0.indexed_times(base).await?;
        let state = self.0.state.borrow();
        let segment = &state.segments[state.segment_of(base)];
        Ok(segment.index.as_ref().and_then(|index| index.max_timestamp()).map(|(max, _)| max))
    }

    /// -1: it has none.
    async fn first_timestamp_of(&self, segment: &Sealed) -> Result<i64, LogError> {
        let known = self.0.state.borrow_mut().segment_at(segment.base).and_then(|segment| segment.since_ms);
        if let Some(known) = known {
            return Ok(known);
        }
        let path = self.0.segment_path(segment.base);
        let file = self.0.rt.open(&path, Open::Read).await.map_err(LogError::io_or_exhausted("open", &path))?;
        let first = walk::first_timestamp(&self.0.rt, &file, &path).await?;
        if let Some(segment) = self.0.state.borrow_mut().segment_at(segment.base) {
            segment.since_ms = first;
        }
        Ok(first.unwrap_or(-1))
    }

    /// Cleans what [`Log::dirt`] has found. `pinned` says of which batches at least the header must stay: those that hold the last sequence
    /// number of a producer, as far as is flushed. A failure before a segment is in place leaves the log as it was; one after that fences it.
    /// What cannot be read stays as it is, and so do the tombstones and markers behind it: it may hold records that they end.
    ///
    /// Errors besides those of the disk: [`LogError::Closed`] when the log is closed or deleted meanwhile.
    pub async fn compact(
        &self,
        dirt: &Dirt,
        rules: &Rules,
        means: &Means<'_>,
        pinned: &dyn Fn(&BatchHeader) -> bool,
    ) -> Result<Cleaned, LogError> {
        let log = &*self.0;
        let _turn = log.upkeep.enter().await;
        log.still_open()?;
        let sealed: Vec<Sealed> = log.sealed().into_iter().filter(|s| s.base < dirt.upto).collect();
        let mut seed = [0; 32];
        log.rt.random(&mut seed);
        let mut keys = Keys { map: OffsetMap::new(means.map_bytes, means.map_load_ppm, seed), outcomes: None, upto: dirt.from };
        let read = keys.read(log, &sealed, dirt.from, dirt.upto, means).await?;
        if read == Seen::Transactions {
            keys.outcomes = Some(outcomes(log, &sealed, dirt.from, means).await?);
            let open = keys.outcomes.as_ref().and_then(Outcomes::first_open);
            keys.read(log, &sealed, dirt.from, open.map_or(dirt.upto, |open| open.min(dirt.upto)), means).await?;
        }
        let mut cleaned = Cleaned { upto: keys.upto, keys: keys.map.len(), ..Cleaned::default() };
        let now_ms = log.rt.now().wall_ms;
        let passed = Passed::default();
        let mut filter = Filter { keys, passed, now_ms, delete_retention_ms: rules.delete_retention_ms, pinned };
        let sources: Vec<Sealed> = sealed.into_iter().filter(|s| s.base < cleaned.upto).collect();
        for group in plan::groups(&sources, u64::from(log.config.get().segment_bytes)) {
            let group = &sources[group];
            cleaned.bytes_before += group.iter().map(|s| s.size).sum::<u64>();
            cleaned.bytes_after += self.clean_group(group, &mut filter, means).await?;
        }
        log.cleaned.set(cleaned.upto);
        Ok(cleaned)
    }

    /// Makes one segment of several; the bytes of all afterwards. Damaged ones stay as they are, and
    /// only neighbours become one.
    async fn clean_group(&self, group: &[Sealed], filter: &mut Filter<'_>, means: &Means<'_>) -> Result<u64, LogError> {
        let mut bytes = 0;
        // The next one last: segments to clean, and whether a damaged one lies before them.
        let mut todo = vec![(group, false)];
        while let Some((group, behind_damage)) = todo.pop() {
            filter.passed.unread |= behind_damage;
            let before = filter.passed.clone();
            match self.clean_neighbours(group, filter, means).await? {
                Ok(size) => bytes += size,
                Err(damaged) => {
                    filter.passed = before;
                    bytes += group[damaged].size;
                    todo.push((&group[damaged + 1..], true));
                    todo.push((&group[..damaged], false));
                }
            }
        }
        Ok(bytes)
    }

    /// Makes one segment of several; its bytes, or which one is damaged.
    async fn clean_neighbours(&self, group: &[Sealed], filter: &mut Filter<'_>, means: &Means<'_>) -> Result<Result<u64, usize>, LogError> {
        let log = &*self.0;
        let bytes = group.iter().map(|s| s.size).sum();
        if bytes == 0 {
            return Ok(Ok(0));
        }
        if let [only] = group {
            // Most of a large log is clean: it is read, but not written anew for nothing.
            let before = filter.passed.clone();
            match changes(log, only, filter, means).await? {
                Changes::None => return Ok(Ok(bytes)),
                Changes::Damaged => return Ok(Err(0)),
                Changes::Some => filter.passed = before,
            }
        }
        let base = group[0].base;
        let path = files::name(&log.dir, base, "log.cleaned");
        let written = write_group(log, group, filter, means).await;
        if !matches!(written, Ok(Ok(_))) {
            // What is left of it is removed at the next start at the latest.
            let _ = log.rt.remove_file(&path);
        }
        let written = match written? {
            Ok(written) => written,
            Err(damaged) => return Ok(Err(damaged)),
        };
        let size = written.size;
        install::install(log, group, written).await?;
        Ok(Ok(size))
    }
}

/// What a cleaning would do to a segment.
enum Changes {
    None,
    Some,
    /// Nothing: it is damaged.
    Damaged,
}

async fn changes<R: Rt>(log: &Inner<R>, segment: &Sealed, filter: &mut Filter<'_>, means: &Means<'_>) -> Result<Changes, LogError> {
    let mut source = log.source(segment, means).await?;
    let mut changes = Changes::None;
    loop {
        match source.next().await? {
            Next::Batch(header) => {
                if filter.apply(&header, &source, source.at_end()).await? != Filtered::Whole {
                    changes = Changes::Some;
                    break;
                }
            }
            Next::End => break,
            Next::Damaged => return Ok(Changes::Damaged),
        }
    }
    Ok(changes)
}

/// Writes what stays of a group to the file that ends in `.cleaned`; or says which segment is damaged.
async fn write_group<R: Rt>(
    log: &Inner<R>,
    group: &[Sealed],
    filter: &mut Filter<'_>,
    means: &Means<'_>,
) -> Result<Result<io::Written<R::File>, usize>, LogError> {
    let base = group[0].base;
    let path = files::name(&log.dir, base, "log.cleaned");
    let mut output = Output::create(log, means.pace, path, base, log.config.get().index_interval_bytes, means.buffer).await?;
    let last_source = group.iter().rposition(|s| s.size > 0);
    for (at, segment) in group.iter().enumerate() {
        let mut source = log.source(segment, means).await?;
        loop {
            let header = match source.next().await? {
                Next::Batch(header) => header,
                Next::End => break,
                Next::Damaged => return Ok(Err(at)),
            };
            // The last batch of the group stays, as a bare header if need be: it tells where the segment ends.
            let last = source.at_end() && last_source == Some(at);
            match filter.apply(&header, &source, last).await? {
                Filtered::Gone => {}
                Filtered::Whole => output.push(&source.with_time(&header).await, source.batch()).await?,
                Filtered::Rewritten(bytes) => {
                    let header = BatchHeader::parse(&bytes).map_err(|e| LogError::BadBatch(e.to_string()))?;
                    output.push(&header, &bytes).await?;
                }
            }
        }
    }
    output.finish().await.map(Ok)
}

/// Whether a reading of keys met transactions whose ends it did not know.
#[derive(PartialEq, Eq)]
enum Seen {
    Transactions,
    Everything,
}

/// The keys of the dirty part.
struct Keys {
    map: OffsetMap,
    outcomes: Option<Outcomes>,
    /// Every key below is in the map.
    upto: Offset,
}

impl Keys {
    /// Notes the keys of the offsets `from..upto`, as far as the map has room. Stops at the first transactional batch while the outcomes of
    /// transactions are not known.
    async fn read<R: Rt>(
        &mut self,
        log: &Inner<R>,
        sealed: &[Sealed],
        from: Offset,
        upto: Offset,
        means: &Means<'_>,
    ) -> Result<Seen, LogError> {
        for segment in sealed.iter().filter(|s| s.next > from && s.base < upto) {
            let mut source = log.source(segment, means).await?;
            while let Next::Batch(header) = source.next().await? {
                if header.base_offset >= upto {
                    break;
                }
                if header.is_control() || header.last_offset() < from {
                    continue;
                }
                match &self.outcomes {
                    None if header.is_transactional() => return Ok(Seen::Transactions),
                    Some(outcomes) if outcomes.aborted(&header) => continue,
                    _ => {}
                }
                let Some(payload) = source.payload(&header).await? else { continue };
                for record in payload.records() {
                    log.rt.slices().pass(KEY_COST).await;
                    let offset = header.base_offset.wrapping_add(record.offset_delta.into());
                    if offset >= from && record.key.is_some_and(|key| !self.map.put(key, offset)) {
                        self.upto = offset;
                        return Ok(Seen::Everything);
                    }
                }
            }
        }
        self.upto = upto;
        Ok(Seen::Everything)
    }
}

/// How the transactions ended that have records from offset `from` on.
async fn outcomes<R: Rt>(log: &Inner<R>, sealed: &[Sealed], from: Offset, means: &Means<'_>) -> Result<Outcomes, LogError> {
    let mut outcomes = Outcomes::new(from);
    for segment in sealed.iter().filter(|s| s.next > from) {
        let mut source = log.source(segment, means).await?;
        loop {
            let header = match source.next().await? {
                Next::Batch(header) => header,
                Next::End => break,
                Next::Damaged => {
                    // Their markers may lie in there: nothing of them is taken for aborted.
                    outcomes.lose_open(segment.next - 1);
                    break;
                }
            };
            if header.is_control() {
                let payload = source.payload(&header).await?;
                // One that cannot be read does not take records away either.
                outcomes.control(&header, payload.as_ref().map_or(Marker::Commit, marker));
            } else if header.is_transactional() && header.base_offset >= from {
                outcomes.data(&header);
            }
        }
    }
    Ok(outcomes)
}

/// What a cleaning has come past so far.
#[derive(Clone, Debug, Default)]
struct Passed {
    alive: Alive,
    /// Something that cannot be read: tombstones and markers behind it stay, for it may hold records
    /// that they end.
    unread: bool,
}

/// Decides which records of a batch stay.
struct Filter<'a> {
    keys: Keys,
    passed: Passed,
    now_ms: i64,
    delete_retention_ms: i64,
    pinned: &'a dyn Fn(&BatchHeader) -> bool,
}

impl Filter<'_> {
    async fn apply<R: Rt>(&mut self, header: &BatchHeader, source: &Source<'_, R>, last: bool) -> Result<Filtered, LogError> {
        let payload = source.payload(header).await?;
        if header.is_transactional() && !header.is_control() {
            self.passed.alive.data(header);
        }
        let Some(payload) = payload else {
            self.passed.unread = true;
            return Ok(Filtered::Whole);
        };
        let retention = self.retention(header, &payload, last);
        let expired = self.expired(header);
        let (keys, control) = (&self.keys, header.is_control());
        let mut keep = |offset: Offset, record: &Record<'_>| match record.key {
            _ if control || offset >= keys.upto => true,
            // Nothing can be said of it: Kafka drops such records too. They date from before the topic was compacted.
            None => false,
            Some(key) => keys.map.get(key).is_none_or(|latest| offset >= latest) && (record.value.is_some() || !expired),
        };
        let mut filtering = Filtering::new(header, source.batch(), &payload, retention);
        Ok(source.slices().run(|budget| filtering.step(budget, &mut keep)).await)
    }

    /// Whether the tombstones or the marker in a batch may go.
    fn expired(&self, header: &BatchHeader) -> bool {
        !self.passed.unread && header.has_delete_horizon() && header.base_timestamp <= self.now_ms
    }

    fn retention(&mut self, header: &BatchHeader, payload: &Payload, last: bool) -> Retention {
        let mut retention = Retention {
            discard: false,
            keep_empty: last || header.has_producer_id() && (self.pinned)(header),
            hollow_marker: false,
            horizon_ms: self.now_ms.saturating_add(self.delete_retention_ms),
        };
        if header.is_control() {
            // Of aborted transactions too it goes only after a later cleaning than their records.
            retention.hollow_marker = self.passed.alive.ended(header, marker(payload));
            retention.discard = retention.hollow_marker && self.expired(header);
        } else if header.is_transactional() {
            retention.discard = self.keys.outcomes.as_ref().is_some_and(|outcomes| outcomes.aborted(header));
        }
        retention
    }
}

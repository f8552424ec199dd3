//! No room on the disk, or no file descriptor: what is not written is taken back, and the log waits until there is.
//!
//! Nobody but the producers that still wait has seen the offsets that are given up: the high watermark is the written offset. So they are
//! used again, in the same leader epoch. Reads go on meanwhile.

use std::rc::Rc;
use std::time::Duration;

use super::error::LogError;
use super::span::block_ceil;
use super::state::{FIRST_ALLOCATION, State};
use super::{Inner, Log, files, walk, writer};
use crate::rt::Rt;

/// How often it is tried again.
const RETRY: Duration = Duration::from_millis(250);

impl<F> State<F> {
    /// Forgets what was appended and not written. The index of the last segment and its unaligned end are to be read again.
    pub(super) fn take_back(&mut self) {
        if self.written == self.end {
            return;
        }
        // The cache is told of the spans that are written, those since the last write included.
        self.retire_written();
        let (base, end) = (self.writing, self.written);
        let keep = self.segment_of(base) + 1;
        self.segments.truncate(keep);
        let unwritten = self.spans.values().chain(&self.active).find(|span| span.segment == base && span.next > end);
        let size = unwritten.map(|span| span.position_of(end));
        self.active = None;
        self.seat = None;
        self.dirty.clear();
        self.carried.retain(|(_, next)| *next <= end);
        self.spans.retain(|_, span| span.next <= end);
        self.snapshots.clear();
        self.point.take_if(|(offset, _)| *offset > end);
        self.wanted = self.wanted.filter(|(first, _)| *first <= end).map(|(first, last)| (first, last.min(end)));
        self.end = end;
        let segment = self.last_segment();
        segment.size = size.unwrap_or(segment.size);
        segment.index = None;
        if segment.size == 0 {
            segment.since_ms = None;
        }
    }
}

impl<R: Rt> Log<R> {
    /// Allocates so many bytes behind the log's end, so that appends of that size find room. All that
    /// was appended is written, and nothing else is under way. Without room the log stays as it is.
    pub async fn make_room(&self, bytes: u64) -> Result<(), LogError> {
        let log = &self.0;
        let (size, before) = {
            let mut state = log.state.borrow_mut();
            if let Some(reason) = &state.fenced {
                return Err(LogError::Fenced(reason.clone()));
            }
            if let Some(what) = &state.stalled {
                return Err(LogError::Exhausted(what.clone()));
            }
            if state.closed {
                return Err(LogError::Closed);
            }
            let segment = state.writing_segment();
            (segment.size, segment.allocated)
        };
        let least = block_ceil(size + bytes);
        if least <= before {
            return Ok(());
        }
        // With all that the first write needs besides.
        let (base, file) = writer::writing_file(log).await?;
        let path = files::name(&log.dir, base, "log");
        // Whatever comes of it, the file is not what its indexes tell: they are stored at the close.
        log.state.borrow_mut().changed = true;
        let allocated = writer::allocate(log, &file, least, least + FIRST_ALLOCATION).await;
        if allocated.is_err() {
            // A part of it may have been allocated: others can use that.
            let kept = before.max(size);
            log.rt.truncate(&file, kept).await.map_err(LogError::io("truncate", &path))?;
        }
        allocated.map_err(LogError::io_or_exhausted("allocate space for", &path))
    }
}

/// Takes back what is not written, and returns when the log can be written to again. An error fences it.
pub(super) async fn wait<R: Rt>(log: &Rc<Inner<R>>, what: String) -> Result<(), LogError> {
    let dir = log.dir.display();
    tracing::error!("partition {dir}: {what}: its producers are refused until that has changed");
    {
        let mut state = log.state.borrow_mut();
        state.take_back();
        state.stalled = Some(what);
    }
    log.progressed();
    let mut repaired = false;
    while !log.deleted.get() {
        log.rt.sleep(RETRY).await;
        match resume(log, &mut repaired).await {
            Ok(()) => {
                tracing::info!("partition {dir}: accepts records again");
                break;
            }
            Err(LogError::Exhausted(_)) => {}
            Err(e) => return Err(e),
        }
    }
    log.state.borrow_mut().stalled = None;
    Ok(())
}

async fn resume<R: Rt>(log: &Rc<Inner<R>>, repaired: &mut bool) -> Result<(), LogError> {
    let (base, file) = writer::writing_file(log).await?;
    let path = files::name(&log.dir, base, "log");
    let (size, written, closed) = {
        let mut state = log.state.borrow_mut();
        (state.writing_segment().size, state.written, state.closed)
    };
    if !*repaired {
        // Behind the last batch lies what the failed operation has left.
        log.rt.truncate(&file, size).await.map_err(LogError::io("truncate", &path))?;
        log.rt.sync(&file).await.map_err(LogError::io("flush", &path))?;
        writer::flushed(log, written)?;
        log.state.borrow_mut().writing_segment().cut_to(size);
        if log.state.borrow().active.is_none() {
            let index = walk::walk_index(&log.rt, &path, base, written, size, log.config.get().index_interval_bytes).await?;
            let tail = walk::ending(&log.rt, &log.dir, base, size).await?.tail;
            let mut state = log.state.borrow_mut();
            state.writing_segment().index = Some(index);
            // A segment that is complete has a successor, which begins with nothing.
            state.tail = if state.writing == state.last_segment().base { tail } else { Box::default() };
        }
        *repaired = true;
    }
    if closed {
        return Ok(());
    }
    let least = block_ceil(size) + FIRST_ALLOCATION;
    log.state.borrow_mut().writing_segment().step = FIRST_ALLOCATION;
    let allocated = writer::allocate(log, &file, least, least).await;
    if allocated.is_err() {
        // A part of it may have been allocated: others can use that.
        log.rt.truncate(&file, size).await.map_err(LogError::io("truncate", &path))?;
    }
    allocated.map_err(LogError::io_or_exhausted("allocate space for", &path))
}

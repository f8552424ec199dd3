//! The writer of a log: one write in flight, group commit, segment change, giving back what an idle log does not need.

use std::io;
use std::rc::Rc;

use futures_lite::future::{or, zip};

use super::error::LogError;
use super::recovery_point::RecoveryPoint;
use super::span::block_ceil;
use super::state::{Flight, Job, Segment};
use super::{Inner, files, stall};
use crate::base::ids::Offset;
use crate::rt::{Class, Open, Rt};

/// Works until the log is idle and trimmed, fenced, closed or deleted.
pub(super) async fn run<R: Rt>(log: Rc<Inner<R>>) {
    loop {
        let job = log.state.borrow_mut().next_job(log.deleted.get());
        let result = match job {
            Job::Wait => {
                log.wake.notified().await;
                continue;
            }
            Job::Stop => break,
            Job::Write => write(&log).await,
            Job::Sync => sync(&log).await,
            Job::Finish => finish(&log).await,
            Job::Create => writing_file(&log).await.map(|_| ()),
            Job::Trim => match trim(&log).await {
                Ok(true) => break,
                Ok(false) => Ok(()),
                Err(e) => Err(e),
            },
        };
        let result = match result {
            Err(LogError::Exhausted(what)) => stall::wait(&log, what).await,
            other => other,
        };
        if let Err(e) = result {
            log.fence(&e);
        }
        log.cache_retired();
        log.store_recovery_point();
        log.progressed();
    }
    log.state.borrow_mut().running = false;
    log.progressed();
}

impl<R: Rt> Inner<R> {
    /// What a failed write or flush left on the device is unknown, and the kernel may forget the failure: no retry, ever.
    pub(super) fn fence(&self, e: &LogError) {
        tracing::error!("partition {} goes offline: {e}", self.dir.display());
        self.state.borrow_mut().fenced.get_or_insert_with(|| e.to_string());
        self.wake.notify();
    }

    /// Tells the cache of the spans that it may drop from now on.
    fn cache_retired(&self) {
        let (retired, all_written) = {
            let mut state = self.state.borrow_mut();
            (std::mem::take(&mut state.retired), state.written >= state.end)
        };
        let any = all_written || !retired.is_empty();
        for (key, bytes) in retired {
            self.cache.insert(self.this.clone(), key, bytes);
        }
        if any {
            self.cache.relieve();
        }
    }
}

async fn write<R: Rt>(log: &Rc<Inner<R>>) -> Result<(), LogError> {
    let (base, file) = writing_file(log).await?;
    let path = || files::name(&log.dir, base, "log");
    let (end, allocation) = {
        let mut state = log.state.borrow_mut();
        let Some(end) = state.next_end() else { return Ok(()) };
        (end, state.writing_segment().allocation(end, log.config.get().segment_bytes as u64))
    };
    if let Some(len) = allocation {
        allocate(log, &file, block_ceil(end), len).await.map_err(|e| LogError::io_or_exhausted("allocate space for", &path())(e))?;
    }
    let wait = log.state.borrow_mut().gather.wait(log.rt.now().mono);
    if let Some(left) = wait {
        // More has come, or nobody has: the loop asks again.
        or(log.rt.sleep(left), log.wake.notified()).await;
        return Ok(());
    }
    let started = log.rt.now().mono;
    let Some(flight) = log.state.borrow_mut().take_off() else { return Ok(()) };
    let end = flight.position + flight.window.len() as u64;
    let (boundary, zeros) = {
        let mut state = log.state.borrow_mut();
        let segment = state.writing_segment();
        (segment.zeroed, segment.zero_ahead(flight.position, end))
    };
    let data = write_parts(log, &file, &flight, boundary);
    let written = match zeros {
        None => data.await,
        Some((position, len)) => {
            let (written, zeroed) = zip(data, log.rt.zero(&file, position, len)).await;
            written.and(zeroed)
        }
    };
    written.map_err(|e| LogError::io_or_exhausted("write", &path())(e))?;
    let mut state = log.state.borrow_mut();
    state.gather.landed(flight.window.len(), flight.durable, started, log.rt.now().mono);
    state.landed(flight)
}

/// Writes a window, what lies on blocks that were written before (up to `boundary`) apart from what lies on blocks that were only allocated: for a write to
/// both kinds the kernel needs a worker thread, which costs a sixth of the CPU of 64 KiB batches. Both are under way at once and waited for.
async fn write_parts<R: Rt>(log: &Inner<R>, file: &R::File, flight: &Flight, boundary: u64) -> io::Result<()> {
    let front = boundary.saturating_sub(flight.position) as usize;
    if front == 0 || front >= flight.window.len() {
        return log.rt.write_at(file, flight.position, flight.window.clone(), flight.durable).await;
    }
    let (front, rest) = flight.window.split_at(front);
    let front_len = front.len() as u64;
    let front = log.rt.write_at(file, flight.position, front, flight.durable);
    let (front, rest) = zip(front, log.rt.write_at(file, flight.position + front_len, rest, flight.durable)).await;
    front.and(rest)
}

/// Allocates blocks up to `len`, or up to `least` where there is no room for more.
pub(super) async fn allocate<R: Rt>(log: &Inner<R>, file: &R::File, least: u64, len: u64) -> io::Result<()> {
    let done = match log.rt.allocate(file, len).await {
        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && least < len => log.rt.allocate(file, least).await.map(|()| least),
        other => other.map(|()| len),
    };
    let mut state = log.state.borrow_mut();
    let segment = state.writing_segment();
    segment.allocated = segment.allocated.max(done?);
    Ok(())
}

async fn sync<R: Rt>(log: &Rc<Inner<R>>) -> Result<(), LogError> {
    let (base, file) = writing_file(log).await?;
    let written = log.state.borrow().written;
    log.rt.sync(&file).await.map_err(|e| LogError::io("flush", &files::name(&log.dir, base, "log"))(e))?;
    flushed(log, written)
}

pub(super) fn flushed<R: Rt>(log: &Inner<R>, offset: Offset) -> Result<(), LogError> {
    let mut state = log.state.borrow_mut();
    state.unflushed = false;
    state.flushed_to(offset)
}

/// Cuts the segment being written to its logical size and flushes that: a segment that has a successor is complete.
async fn cut<R: Rt>(log: &Rc<Inner<R>>) -> Result<(), LogError> {
    let (written, size, needed) = {
        let mut state = log.state.borrow_mut();
        let (written, unflushed) = (state.written, state.unflushed);
        let segment = state.writing_segment();
        (written, segment.size, unflushed || segment.allocated > segment.size)
    };
    if !needed {
        return Ok(());
    }
    let (base, file) = writing_file(log).await?;
    let path = files::name(&log.dir, base, "log");
    log.rt.truncate(&file, size).await.map_err(LogError::io("truncate", &path))?;
    log.state.borrow_mut().writing_segment().cut_to(size);
    log.rt.sync(&file).await.map_err(LogError::io("flush", &path))?;
    flushed(log, written)
}

/// Completes a full segment and turns to the next one. The order matters to recovery: the next file's name is made durable only after this.
async fn finish<R: Rt>(log: &Rc<Inner<R>>) -> Result<(), LogError> {
    cut(log).await?;
    let (base, index, snapshots) = {
        let mut state = log.state.borrow_mut();
        let at = state.segment_of(state.writing);
        let next = state.segments[at + 1].base;
        state.writing = next;
        let snapshots: Vec<_> = state.snapshots.extract_if(.., |(offset, _)| *offset <= next).collect();
        let snapshot = snapshots.iter().find(|(offset, _)| *offset == next).map(|(_, snapshot)| snapshot.clone());
        if let Some(snapshot) = snapshot.filter(|_| state.point.as_ref().is_none_or(|(offset, _)| *offset <= next)) {
            state.point = Some((next, RecoveryPoint { segment: next, snapshot, ..RecoveryPoint::default() }.encode()));
        }
        let (base, index) = (state.segments[at].base, state.segments[at].index.clone());
        state.storing.insert(base);
        (base, index, snapshots)
    };
    log.used_segment(base);
    let this = log.clone();
    log.rt.spawn(Class::Background, async move {
        if let Some(index) = index {
            this.store_index(base, &index).await;
        }
        for (offset, payload) in snapshots {
            files::write_snapshot(&this.rt, &this.dir, offset, payload).await;
        }
        this.state.borrow_mut().storing.remove(&base);
        this.wake_waiters();
    });
    Ok(())
}

/// True when the log is at rest; false when something was appended meanwhile.
async fn trim<R: Rt>(log: &Rc<Inner<R>>) -> Result<bool, LogError> {
    cut(log).await?;
    let mut state = log.state.borrow_mut();
    // `cut` may have waited, and the log may have been used meanwhile.
    if !state.trim || state.written < state.end {
        return Ok(false);
    }
    state.trim = false;
    state.rest();
    Ok(true)
}

/// The file of the segment being written, opened, and created durably if it is new.
pub(super) async fn writing_file<R: Rt>(log: &Rc<Inner<R>>) -> Result<(Offset, R::File), LogError> {
    let (base, exists, first) = {
        let mut state = log.state.borrow_mut();
        let first = !state.opened_for_writing;
        let segment = state.writing_segment();
        match &segment.file {
            Some(file) if !first => return Ok((segment.base, file.clone())),
            _ => (segment.base, segment.exists, first),
        }
    };
    if first && exists {
        // They were true when the log was last closed, but will not be for what comes now.
        for kind in ["index", "timeindex"] {
            let _ = log.rt.remove_file(&files::name(&log.dir, base, kind));
        }
    }
    let path = files::name(&log.dir, base, "log");
    let how = if exists { Open::Write } else { Open::Create };
    let file = log.open(&path, how).await.map_err(LogError::io_or_exhausted("open", &path))?;
    let settled = log.state.borrow().settled;
    if !settled {
        files::settle(log).await?;
    } else if !exists {
        log.rt.sync_dir(&log.dir).await.map_err(LogError::io("flush", &log.dir))?;
    }
    files::write_owed_epochs(log).await?;
    let mut state = log.state.borrow_mut();
    state.settled = true;
    state.opened_for_writing = true;
    let segment: &mut Segment<R::File> = state.writing_segment();
    segment.exists = true;
    segment.file = Some(file.clone());
    Ok((base, file))
}

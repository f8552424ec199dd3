//! A log's own file that tells its first offset, for a deletion of records that was answered.
//!
//! Kafka's `log-start-offset-checkpoint` is written once a minute: what was deleted since would come
//! back after a crash. This file lies in the log's directory, goes with it, and names the topic's id.

use std::path::Path;

use super::error::LogError;
use super::{Inner, Log, Opening, files};
use crate::base::ids::{Offset, TopicId};
use crate::rt::Rt;

/// The file's name; one that Kafka does not know and leaves alone.
const NAME: &str = "corelane-log-start";

fn encode(topic_id: TopicId, start: Offset) -> String {
    files::with_checksum(format!("version: 1\ntopic_id: {topic_id}\nlog_start: {start}\n"))
}

/// Topic id and first offset; `None` where the text is not what was once encoded.
fn parse(text: &str) -> Option<(TopicId, Offset)> {
    // Version 0 has no checksum.
    let content = match text.starts_with("version: 0\n") {
        true => text,
        false => files::without_checksum(text)?,
    };
    let mut lines = content.lines();
    if !matches!(lines.next()?, "version: 0" | "version: 1") {
        return None;
    }
    let topic_id = lines.next()?.strip_prefix("topic_id: ")?.parse().ok()?;
    let start = lines.next()?.strip_prefix("log_start: ")?.parse().ok().filter(|start| *start >= 0)?;
    lines.next().is_none().then_some((topic_id, start))
}

/// The first offset that the directory of a topic's partition tells; 0 if it tells none. A zero id:
/// the directory does not say whose it is otherwise. Where the file is damaged, the start that was
/// stored when the log was closed is in the checkpoint too.
pub(super) async fn read<R: Rt>(rt: &R, dir: &Path, topic_id: TopicId, opening: &Opening) -> Result<Offset, LogError> {
    let path = dir.join(NAME);
    let Some(text) = files::read_text(rt, &path)? else { return Ok(0) };
    match parse(&text) {
        Some((id, start)) if id == topic_id || topic_id.is_zero() => Ok(start),
        Some((id, _)) => {
            tracing::warn!("{}: is of the topic {id}, not of {topic_id}: ignored", path.display());
            Ok(0)
        }
        None if opening.clean => {
            let start = opening.log_start;
            tracing::warn!("{}: damaged: written anew, with the start {start} of the checkpoint", path.display());
            // As a whole, or not at all: a crash leaves the damaged one.
            let text = encode(topic_id, start).into_bytes();
            rt.replace_file(&path, text).await.map_err(LogError::io_or_exhausted("write", &path))?;
            Ok(start)
        }
        // Going on would serve records that were deleted.
        None => Err(LogError::corrupt(
            &path,
            0,
            format!(
                "it does not tell the log's first offset. If it is removed, the log starts at offset {} or at its first \
                 segment, and records that were deleted behind that are back",
                opening.log_start
            ),
        )),
    }
}

/// Removes the file, for good: the log ends below `start`.
pub(super) async fn remove<R: Rt>(rt: &R, dir: &Path, start: Offset) -> Result<(), LogError> {
    let path = dir.join(NAME);
    tracing::warn!("{}: the log ends below its first offset {start}: removed", path.display());
    rt.remove_file(&path).map_err(LogError::io("remove", &path))?;
    rt.sync_dir(dir).await.map_err(LogError::io("flush", dir))
}

impl<R: Rt> Log<R> {
    /// Makes the log's start as it is now survive a loss of power. All below is flushed before: a
    /// log must not end below its start. Without room nothing is stored, and it may be tried again;
    /// any other failure fences the log.
    pub async fn store_start(&self) -> Result<(), LogError> {
        let inner = &*self.0;
        let _turn = inner.storing_start.enter().await;
        let start = self.start_offset();
        if start <= inner.stored_start.get() {
            return Ok(());
        }
        self.flush_to(start).await?;
        let stored = inner.replace_start(start).await;
        match &stored {
            Ok(()) => inner.stored_start.set(start),
            Err(LogError::Exhausted(_) | LogError::Closed) => {}
            Err(e) => {
                inner.fence(e);
                inner.progressed();
            }
        }
        stored
    }
}

impl<R: Rt> Inner<R> {
    async fn replace_start(&self, start: Offset) -> Result<(), LogError> {
        let path = self.dir.join(NAME);
        // The directory may be renamed any time now, and then be that of another topic. A closed log
        // has waited for what was under way.
        if self.deleted.get() || self.state.borrow().closed {
            return Err(LogError::Closed);
        }
        let text = encode(self.topic_id.get(), start).into_bytes();
        self.rt.replace_file(&path, text).await.map_err(LogError::io_or_exhausted("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::base::ids::Uuid;
    use crate::base::prng::Prng;
    use crate::log::Log;
    use crate::log::tests::{CONFIG, ID, batch_of, create, path, reopen};
    use crate::sim::{Fault, FaultOp, Sim, SimRt};

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let id = TopicId::from_random([7; 16]);
        assert_eq!(parse(&encode(id, 15)), Some((id, 15)));
        let before = format!("version: 0\ntopic_id: {id}\nlog_start: 15\n");
        assert_eq!(parse(&before), Some((id, 15)));
        for text in [before, encode(id, 15)] {
            for bad in ["", &text[..text.len() - 5], &text.replace("15", "-1"), &format!("{text}x\n")] {
                assert_eq!(parse(bad), None, "{bad:?}");
            }
        }
        let text = encode(id, 15);
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert_eq!(parse(&String::from_utf8_lossy(&damaged)), None, "{at}");
        }
    }

    /// Appends batches of one record up to `end`.
    fn append_up_to(log: &Log<SimRt>, random: &mut Prng, end: Offset) {
        for base in log.end_offset()..end {
            log.append(&batch_of(random, 1, 300, 1000), base, 0, None).unwrap();
        }
    }

    #[test]
    fn what_was_deleted_stays_deleted_after_any_crash_and_no_log_ends_below_its_start() {
        for seed in 0..60 {
            let sim = Sim::new(seed, 1);
            let (stored, end) = (Cell::new(0), Cell::new(0));
            for life in 0..3 {
                let rt = sim.rt(0);
                let work = async {
                    let mut random = Prng::new(seed);
                    let log = match life {
                        0 => create(&rt, CONFIG).await,
                        _ => reopen(&rt, CONFIG, Opening::default()).await.unwrap(),
                    };
                    assert!(log.start_offset() >= stored.get(), "seed {seed}");
                    assert!(log.start_offset() <= log.end_offset() && log.end_offset() >= end.get());
                    for _ in 0..5 {
                        let start = log.end_offset() + sim.below(5) as Offset;
                        append_up_to(&log, &mut random, start + sim.below(5) as Offset);
                        while log.written_offset() < start {
                            sim.sleep(std::time::Duration::from_micros(50)).await;
                        }
                        log.set_start(start);
                        log.store_start().await.unwrap();
                        stored.set(start);
                        end.set(log.flushed_offset());
                    }
                };
                let time = sim.sleep(std::time::Duration::from_micros(sim.below(6000)));
                sim.run_until(futures_lite::future::or(work, time));
                // A directory that a crash took away is that of a log without a batch.
                sim.crash();
                if stored.get() == 0 {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_start_of_another_topic_is_none() {
        let sim = Sim::new(3, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = create(&rt, CONFIG).await;
            append_up_to(&log, &mut Prng::new(3), 20);
            log.flush().await.unwrap();
            for (id, start) in [(ID, 15), (Uuid([8; 16]), 0)] {
                rt.replace_file(&path().join(NAME), encode(id, 15).into_bytes()).await.unwrap();
                let log = reopen(&rt, CONFIG, Opening::default()).await.unwrap();
                assert_eq!((log.start_offset(), log.end_offset()), (start, 20));
            }
            // Damaged, it is told by a checkpoint of a clean stop alone, which makes it anew.
            let damaged = encode(ID, 15).replace("15", "14").into_bytes();
            rt.write_file(&path().join(NAME), damaged).await.unwrap();
            assert!(reopen(&rt, CONFIG, Opening::default()).await.is_err());
            let closed = Opening { recovery_point: 20, clean: true, log_start: 15, cleaned: 0 };
            for opening in [closed, Opening::default()] {
                let log = reopen(&rt, CONFIG, opening).await.unwrap();
                assert_eq!((log.start_offset(), log.end_offset()), (15, 20));
            }
        });
    }

    /// Else the offsets below the start would be given to new records, which a start would hide.
    #[test]
    fn a_log_that_ends_below_its_start_loses_it() {
        let sim = Sim::new(4, 1);
        let rt = sim.rt(0);
        sim.run_until(async {
            let log = create(&rt, CONFIG).await;
            append_up_to(&log, &mut Prng::new(4), 10);
            log.flush().await.unwrap();
            rt.replace_file(&path().join(NAME), encode(ID, 15).into_bytes()).await.unwrap();
            let log = reopen(&rt, CONFIG, Opening::default()).await.unwrap();
            append_up_to(&log, &mut Prng::new(5), 20);
            log.flush().await.unwrap();
            let log = reopen(&rt, CONFIG, Opening::default()).await.unwrap();
            assert!(log.start_offset() <= 10 && log.end_offset() == 20);
        });
    }

    #[test]
    fn a_start_that_cannot_be_stored_is_told_and_a_failed_flush_fences() {
        for (fault, fenced) in [(Fault::Errno(libc::ENOSPC), false), (Fault::Errno(libc::EIO), true)] {
            let sim = Sim::new(5, 1);
            let rt = sim.rt(0);
            sim.run_until(async {
                let log = create(&rt, CONFIG).await;
                append_up_to(&log, &mut Prng::new(5), 20);
                log.flush().await.unwrap();
                log.set_start(15);
                let op = if fenced { FaultOp::Sync } else { FaultOp::Write };
                sim.inject(op, NAME, 0, fault);
                assert!(log.store_start().await.is_err());
                assert_eq!(log.fenced().is_some(), fenced);
                assert_eq!(log.store_start().await.is_ok(), !fenced);
                let log = reopen(&rt, CONFIG, Opening::default()).await.unwrap();
                assert_eq!(log.start_offset(), if fenced { 0 } else { 15 });
            });
        }
    }
}

//! Compaction of a core's logs: the one with the largest share of uncompacted data first, one at a time, in the background.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::op::Key;
use super::owner::Replica;
use crate::base::ids::Offset;
use crate::base::limits::{BLOCK, REGION};
use crate::cluster::settings::BrokerSettings;
use crate::cluster::topic_config::TopicConfig;
use crate::log::LogError;
use crate::log::compact::{Dirt, Means, Pace, Rules};
use crate::rt::Rt;
use crate::rt::notify::Notify;

/// Shortest pause between two looks at the logs.
const PAUSE: Duration = Duration::from_millis(10);
/// Logs looked at without letting others have their turn.
const LOOKS: usize = 64;
/// Least memory for the table of keys of one core.
const MAP_MIN: usize = 1 << 20;
/// Smallest buffer for reading, and for writing.
const BUFFER_MIN: usize = 64 << 10;

/// What this core's cleaner goes by besides the settings themselves.
pub struct Cleaner {
    pace: Pace,
    /// `log.cleaner.backoff.ms` as it was last seen.
    backoff: Cell<i64>,
    backoff_changed: Notify,
}

impl Default for Cleaner {
    fn default() -> Cleaner {
        Cleaner { pace: Pace::new(f64::MAX), backoff: Cell::default(), backoff_changed: Notify::default() }
    }
}

impl<R: Rt> Shard<R> {
    /// Compacts this core's logs when they are due, for as long as the core runs.
    pub async fn clean_logs(self) {
        // Logs that could not be cleaned: not before the next start, as in Kafka.
        let mut damaged = HashSet::new();
        while !self.0.stopped.get() {
            let mut stuck = HashSet::new();
            while let Some((key, replica, dirt)) = self.filthiest(&mut damaged, &stuck).await {
                match replica.clean(self.rt(), &dirt, &self.means()).await {
                    Ok(true) => {}
                    Ok(false) => {
                        stuck.insert(key);
                    }
                    Err(()) => {
                        damaged.insert(key);
                    }
                }
            }
            damaged.retain(|key| self.0.owner.replica(key).is_some());
            let backoff = Duration::from_millis(self.0.cleaner.backoff.get().max(0) as u64).max(PAUSE);
            futures_lite::future::or(self.rt().sleep(backoff), self.0.cleaner.backoff_changed.notified()).await;
        }
    }

    /// The settings may have changed: a pause between or within cleanings is cut short if it has another length now.
    pub(super) fn cleaner_follows(&self, settings: &BrokerSettings) {
        let (cleaner, cores) = (&self.0.cleaner, self.rt().cores() as f64);
        cleaner.pace.set_rate((settings.fraction("log.cleaner.io.max.bytes.per.second") / cores).max(1.0));
        let backoff = settings.number("log.cleaner.backoff.ms");
        if cleaner.backoff.replace(backoff) != backoff {
            cleaner.backoff_changed.notify();
        }
    }

    /// This core's part of what the settings allow the whole process.
    fn means(&self) -> Means<'_> {
        let (image, cores) = (self.image(), self.rt().cores());
        let bytes = |name| usize::try_from(image.settings().number(name)).unwrap_or(0);
        Means {
            // A quarter of the process's memory at most: the pools have three of them.
            map_bytes: (bytes("log.cleaner.dedupe.buffer.size") / cores).min(self.rt().memory().budget() / 3).max(MAP_MIN),
            map_load_ppm: ((image.settings().fraction("log.cleaner.io.buffer.load.factor") * 1e6) as u32).clamp(1, 1_000_000),
            // A cleaning holds one while it waits for the other: a small part of the memory.
            buffer: (bytes("log.cleaner.io.buffer.size") / cores / 2).min(self.rt().memory().budget() / 16).clamp(BUFFER_MIN, REGION)
                / BLOCK
                * BLOCK,
            pace: &self.0.cleaner.pace,
        }
    }

    /// The log that needs it most, of those that are due.
    async fn filthiest(&self, damaged: &mut HashSet<Key>, stuck: &HashSet<Key>) -> Option<(Key, Rc<Replica<R>>, Dirt)> {
        let now_ms = self.rt().now().wall_ms;
        let mut best: Option<(Key, Rc<Replica<R>>, Dirt)> = None;
        for (at, (key, replica)) in self.0.owner.replicas().into_iter().enumerate() {
            if at % LOOKS == LOOKS - 1 {
                self.rt().yield_now().await;
            }
            if !replica.config.borrow().compact || damaged.contains(&key) || stuck.contains(&key) {
                continue;
            }
            let rules = rules(&replica.config.borrow());
            match replica.log.dirt(replica.stable_offset(), &rules, now_ms).await {
                Ok(dirt) if dirt.due(&rules) => {
                    if best.as_ref().is_none_or(|(_, _, other)| dirt.dirty_ppm() > other.dirty_ppm()) {
                        best = Some((key, replica, dirt));
                    }
                }
                Ok(_) | Err(LogError::Closed | LogError::Fenced(_) | LogError::Exhausted(_)) => {}
                Err(e) => {
                    tracing::error!("{}: will not be compacted before the next start: {e}", replica.name);
                    damaged.insert(key);
                }
            }
        }
        best
    }
}

fn rules(config: &TopicConfig) -> Rules {
    Rules {
        delete_retention_ms: config.delete_retention_ms,
        min_lag_ms: config.min_compaction_lag_ms,
        max_lag_ms: config.max_compaction_lag_ms,
        min_dirty_ppm: config.min_cleanable_dirty_ppm,
    }
}

impl<R: Rt> Replica<R> {
    /// Below it nothing will be taken back, and every transaction has ended.
    fn stable_offset(&self) -> Offset {
        let partition = self.partition.borrow();
        partition.producers.first_open_transaction().map_or(partition.high_watermark, |first| first.min(partition.high_watermark))
    }

    /// Cleans the log: whether it has come any further, or an error when there is no use in trying again.
    async fn clean(&self, rt: &R, dirt: &Dirt, means: &Means<'_>) -> Result<bool, ()> {
        let started = rt.now().mono;
        let rules = rules(&self.config.borrow());
        // As it was before a flush: a batch that a crash can still take must not be the only one that tells of its producer.
        let last = self.partition.borrow().producers.last_records();
        let done = match self.log.flush().await {
            Ok(()) => self.log.compact(dirt, &rules, means, &|header| last.hold(header)).await,
            Err(e) => Err(e),
        };
        match done {
            Ok(done) => {
                tracing::info!(
                    "{}: compacted offsets {} to {} in {} ms: {} keys, {} of {} bytes are left",
                    self.name,
                    dirt.from,
                    done.upto,
                    rt.now().mono.saturating_sub(started).as_millis(),
                    done.keys,
                    done.bytes_after,
                    done.bytes_before,
                );
                Ok(done.upto > dirt.from)
            }
            Err(LogError::Closed | LogError::Fenced(_)) => Ok(false),
            Err(LogError::Exhausted(what)) => {
                tracing::warn!("{}: not compacted, which needs some room first: {what}", self.name);
                Ok(false)
            }
            Err(e) => {
                tracing::error!("{}: will not be compacted before the next start: {e}", self.name);
                Err(())
            }
        }
    }
}

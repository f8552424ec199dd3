//! What keeps the logs of a core small and its replicas in service: retention, DeleteRecords, sizes, replicas that could not be opened.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::message::Home;
use super::op::Key;
use super::owner::{Owner, Replica};
use crate::base::error::ErrorCode;
use crate::cluster::topic_config::TopicConfig;
use crate::log::{LogError, Retention};
use crate::partition::op::{DeletionItem, DeletionResult, ReplicaSize};
use crate::rt::Rt;

/// Kafka's `log.initial.task.delay.ms`: nothing is deleted sooner after the start.
const FIRST_CHECK: Duration = Duration::from_secs(30);
/// What the size of a replica costs of a turn's budget, in inflated bytes.
const SIZE_COST: usize = 512;
/// How often the opening of replicas is tried again that lacked room or descriptors.
const REOPEN: Duration = Duration::from_secs(1);

impl<R: Rt> Shard<R> {
    /// Deletes what the topics' retention does not keep, for as long as the core runs.
    pub async fn retain_logs(self, interval: Duration) {
        self.rt().sleep(interval.min(FIRST_CHECK)).await;
        while !self.0.stopped.get() {
            for (_, replica) in self.0.owner.replicas() {
                let result = replica.retain(self.rt().now().wall_ms).await;
                // A topic that was deleted meanwhile is fenced, and so is a log that has said so.
                if let Err(e) = result
                    && replica.partition.borrow().fenced().is_none()
                {
                    tracing::error!("{}: retention: {e}", replica.name);
                }
                self.rt().yield_now().await;
            }
            self.rt().sleep(interval).await;
        }
    }

    /// Opens replicas that could not be opened for want of room or descriptors, for as long as the core runs.
    pub async fn reopen_replicas(self) {
        while !self.0.stopped.get() {
            self.rt().sleep(REOPEN).await;
            for (key, home) in self.0.owner.waiting() {
                if self.0.stopping.get() {
                    return;
                }
                self.0.reopening.replace(Some(home.dir.clone()));
                let go_on = self.reopen(key, &home).await;
                self.0.reopening.replace(None);
                if !go_on {
                    break;
                }
            }
        }
    }

    /// Opens one of them; false if it still lacks room. The metadata may change meanwhile.
    async fn reopen(&self, key: Key, home: &Home) -> bool {
        let image = self.image();
        if image.topic_by_id(key.0).is_none() || self.0.owner.replica(&key).is_some() {
            return true;
        }
        let opened = self.open(&image, key, home).await;
        let image = self.image();
        let topic = image.topic_by_id(key.0);
        match (opened, topic) {
            (Ok(()), Some(_)) if self.0.owner.is_pending(&key) => {}
            (Ok(()), Some(_)) => tracing::info!("{}: online", home.dir.display()),
            (Ok(()), None) => self.drop_replica(&key).await,
            (Err(LogError::Exhausted(_)), _) => return false,
            (Err(_), None) => {}
            (Err(e), Some(_)) => {
                tracing::error!("{}: stays offline until the next start: {e}", home.dir.display());
                self.0.owner.set_offline(key, None);
            }
        }
        true
    }

    /// Whether a replica is being reopened, in this directory if one is named.
    pub(super) fn is_reopening(&self, dir: Option<&Path>) -> bool {
        self.0.reopening.borrow().as_deref().is_some_and(|reopening| dir.is_none_or(|dir| dir == reopening))
    }
}

impl<R: Rt> Owner<R> {
    /// Deletes records.
    pub async fn delete_records(&self, items: &[DeletionItem]) -> Vec<DeletionResult> {
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let result = match self.replica(&item.key) {
                None => Err(self.missing(&item.key)),
                Some(replica) => replica.delete_records(item.offset).await,
            };
            results.push(match result {
                Ok(low_watermark) => DeletionResult { code: ErrorCode::None, low_watermark },
                Err(code) => DeletionResult { code, low_watermark: -1 },
            });
        }
        results
    }

    /// What the replicas of this core occupy.
    pub async fn sizes(&self) -> Vec<ReplicaSize> {
        let one = |replica: Rc<Replica<R>>| {
            let (topic, partition) = replica.topic_and_partition();
            let fenced = replica.partition.borrow().fenced().is_some();
            ReplicaSize { log_dir: replica.log_dir.display().to_string(), topic, partition, bytes: replica.log.size(), fenced }
        };
        let mut sizes = Vec::new();
        for (_, replica) in self.replicas() {
            sizes.push(one(replica));
            self.rt.slices().pass(SIZE_COST).await;
        }
        sizes
    }
}

fn retention(config: &TopicConfig) -> Retention {
    match config.delete {
        true => Retention { ms: Some(config.retention_ms).filter(|ms| *ms >= 0), bytes: u64::try_from(config.retention_bytes).ok() },
        // Records before the log's start go in any case.
        false => Retention::default(),
    }
}

impl<R: Rt> Replica<R> {
    /// Deletes the segments that are not to be kept.
    async fn retain(&self, now_ms: i64) -> Result<(), LogError> {
        if self.partition.borrow().fenced().is_some() {
            return Ok(());
        }
        // It is being compacted: at the next check.
        let Some(_turn) = self.log.upkeep() else { return Ok(()) };
        let retention = retention(&self.config.borrow());
        let before = self.log.expired_before(retention, now_ms).await?;
        if before == self.log.end_offset() && self.log.size() > 0 {
            // If it cannot, the last segment stays for now.
            let snapshot = self.partition.borrow().producers.encode_snapshot();
            self.log.roll(snapshot).await?;
        }
        self.move_start(before);
        // In this order: whoever reads below the new start is refused before the files go.
        let deleted = self.log.delete_before(before).await?;
        if deleted > 0 {
            tracing::info!("{}: deleted {deleted} segments before offset {before}", self.name);
        }
        if self.epochs_moved.replace(false) {
            let text = self.partition.borrow().epochs.encode();
            self.log.set_epochs(text).await?;
        }
        Ok(())
    }

    /// The log's start after the deletion, which is durable then.
    async fn delete_records(&self, offset: i64) -> Result<i64, ErrorCode> {
        if !self.config.borrow().delete {
            return Err(ErrorCode::PolicyViolation);
        }
        let start = self.partition.borrow().deletion(offset)?;
        self.move_start(start);
        match self.log.store_start().await {
            Ok(()) => Ok(start),
            Err(LogError::Closed) => Err(ErrorCode::UnknownTopicOrPartition),
            Err(e) => {
                tracing::error!("{}: records are not deleted yet: {e}", self.name);
                Err(ErrorCode::KafkaStorageError)
            }
        }
    }

    fn move_start(&self, start: i64) {
        let mut partition = self.partition.borrow_mut();
        if partition.start_moved(start) {
            self.epochs_moved.set(true);
        }
        self.log.set_start(start);
    }
}

//! Changes of the metadata on their way through the controller shard: they wait for a bounded time,
//! are decided one at a time, written, flushed, applied, and acted on by every core.
//!
//! A request never ends the process. What the disk has no room for stays in the queue until its
//! deadline, and is decided anew when there is room, so that nothing appears after its client was
//! told that it did not. Room for deletions is kept ahead of need.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::or;

use super::control::Control;
use super::message::{Answer, Assignment, Call, Change, Home, Ids, Ticket};
use super::op::Key;
use super::{Image, MetadataRecord};
use crate::base::error::ErrorCode;
use crate::base::fatal::fatal;
use crate::base::ids::{TopicId, Uuid};
use crate::cluster::queue::{Entry, Lane};
use crate::cluster::{journal, placement};
use crate::log::LogError;
use crate::rt::{Class, Rt};

/// Bytes of the metadata log that are allocated ahead, for deletions alone and for what a start has to
/// write: a full disk can be cleared over the network.
const RESERVE: u64 = 1 << 20;
/// What the application of a record costs of a turn's budget, in inflated bytes.
const RECORD_COST: usize = 16 << 10;
/// Likewise of the choice of a directory for a partition.
const PLACE_COST: usize = 2 << 10;
/// How often a change that the disk has no room for is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// Who asked for a change: its core and the call.
pub(super) type Asker = (usize, Ticket);

/// What could not be written for want of room; nothing of it is in the log.
#[derive(Debug)]
pub(super) struct NoRoom(pub(super) String);

/// Why nothing was written. A failed write or flush ends the process: what is on the device is not known.
fn refused(error: LogError) -> NoRoom {
    match error {
        LogError::Exhausted(what) => NoRoom(what),
        // Nobody can ask for the one, the other is a stop.
        LogError::TooLarge | LogError::Closed => NoRoom(error.to_string()),
        e => fatal(&format!("the metadata log cannot be written: {e}")),
    }
}

/// The log is being changed, for as long as this lives: a close waits.
struct Busy<'a>(&'a Cell<bool>);

impl<'a> Busy<'a> {
    fn new(busy: &'a Cell<bool>) -> Busy<'a> {
        busy.set(true);
        Busy(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<R: Rt> Control<R> {
    /// Takes a change into the queue.
    pub(super) fn submit(&self, from: usize, ticket: Ticket, change: Change) {
        let until = self.shard.rt().now().mono + change.terms.within;
        let (lane, bytes) = (change.terms.lane, change.terms.bytes);
        let pushed = self.queue.borrow_mut().push(lane, bytes, until, ((from, ticket), change));
        match pushed {
            Ok(()) => {
                self.queued.notify();
                self.expiry.notify();
            }
            // A code that clients try again after.
            Err((asker, _)) => self.refuse(asker, ErrorCode::RequestTimedOut),
        }
    }

    fn refuse(&self, (to, ticket): Asker, code: ErrorCode) {
        self.shard.reply(to, ticket, Answer::Control(Err(code)));
    }

    /// Decides on one change after the other, for as long as the log is open.
    pub(super) async fn run(self: Rc<Self>) {
        let expiring = self.clone();
        self.shard.rt().spawn(Class::Foreground, async move { expiring.expire().await });
        // Once the log is closed nothing can be decided: those who asked have lost their connections.
        while !self.closed.get() {
            self.pay().await;
            let now = self.shard.rt().now().mono;
            let next = self.queue.borrow_mut().pop(now);
            match next {
                Some(entry) => self.decide(entry).await,
                None => self.wait(now).await,
            }
        }
    }

    /// Until a change comes, or until it is time to look for room again.
    async fn wait(&self, now: Duration) {
        let owing = (!self.owed.borrow().is_empty()).then(|| now + AGAIN);
        let again = self.queue.borrow().next_try().into_iter().chain(owing).min();
        let sleep = async {
            match again {
                Some(at) => self.shard.rt().sleep(at.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        or(self.queued.notified(), sleep).await;
    }

    /// Answers those whose deadline has come. What is being written then may still be done: a write
    /// cannot be taken back from the device.
    async fn expire(self: Rc<Self>) {
        while !self.closed.get() {
            let now = self.shard.rt().now().mono;
            let expired = self.queue.borrow_mut().expire(now);
            expired.into_iter().for_each(|(asker, _)| self.refuse(asker, ErrorCode::RequestTimedOut));
            if let Some((asker, _)) = self.deciding.get().filter(|(_, until)| *until <= now) {
                self.deciding.set(None);
                self.refuse(asker, ErrorCode::RequestTimedOut);
            }
            let under_way = self.deciding.get().map(|(_, until)| until);
            let next = self.queue.borrow().next_deadline().into_iter().chain(under_way).min();
            let sleep = async {
                match next {
                    Some(at) => self.shard.rt().sleep(at.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            or(self.expiry.notified(), sleep).await;
        }
    }

    async fn decide(&self, mut entry: Entry<(Asker, Change)>) {
        let now = self.shard.rt().now();
        let (asker, change) = &mut entry.item;
        if entry.until <= now.mono {
            return self.refuse(*asker, ErrorCode::RequestTimedOut);
        }
        let mut random = || {
            let mut bytes = [0; 16];
            self.shard.rt().random(&mut bytes);
            bytes
        };
        self.deciding.set(Some((*asker, entry.until)));
        // Nobody else changes the image meanwhile.
        self.shard.rt().doing("a change of the metadata");
        let step = |budget: &mut usize| (change.decide)(&self.image.borrow(), &mut Ids { now, random: &mut random }, budget);
        let (records, reply) = self.shard.rt().slices().run(step).await;
        let done = self.commit(&records, entry.lane, now.wall_ms).await;
        // None: its deadline has come meanwhile.
        let Some(((to, ticket), _)) = self.deciding.take() else { return };
        match done {
            Ok(()) => {
                match entry.lane {
                    Lane::Frees => self.queue.borrow_mut().release(),
                    Lane::Takes => self.say_room(),
                }
                self.shard.reply(to, ticket, Answer::Control(Ok(reply)));
            }
            Err(NoRoom(what)) => {
                self.say_full(&what);
                let again = self.shard.rt().now().mono + AGAIN;
                self.queue.borrow_mut().put_back(entry, again);
            }
        }
    }

    /// Writes, flushes, applies, publishes. Without room nothing is done.
    async fn commit(&self, records: &[MetadataRecord], lane: Lane, now_ms: i64) -> Result<(), NoRoom> {
        if records.is_empty() {
            return Ok(());
        }
        if lane == Lane::Takes {
            self.settle_checkpoints().await?;
        }
        let reserve = if lane == Lane::Frees { 0 } else { RESERVE };
        self.make_room(records, reserve).await?;
        // Producer ids are of interest here alone.
        let quiet = records.iter().all(|record| matches!(record, MetadataRecord::ProducerIds { .. }));
        let growing = growing(&self.image.borrow(), records);
        let mut done = Ok(());
        for (n, part) in journal::split(records).enumerate() {
            done = self.write(part, now_ms).await;
            // What was allocated is taken by nobody else: this is a disk that gives less than it said.
            while let Err(NoRoom(what)) = &done
                && n > 0
                && self.deciding.get().is_some()
                && !self.closed.get()
            {
                self.say_full(what);
                self.shard.rt().sleep(AGAIN).await;
                done = self.write(part, now_ms).await;
            }
            if done.is_err() {
                break;
            }
        }
        if !quiet {
            let grown = grown(&self.image.borrow(), growing);
            self.publish(grown).await;
            // A topic that is created again under the name of a deleted one starts anew, wherever there is room.
            if records.iter().any(|record| matches!(record, MetadataRecord::RemoveTopic { .. })) {
                self.places.borrow_mut().forget_all_but(&self.image.borrow());
            }
        }
        done
    }

    /// Has room in the log for these records, and so many bytes beside.
    async fn make_room(&self, records: &[MetadataRecord], beside: u64) -> Result<(), NoRoom> {
        let _busy = Busy::new(&self.busy);
        self.log.make_room(journal::room(records) as u64 + beside).await.map_err(refused)
    }

    /// Takes room for deletions ahead of need. Without it the broker works as well, until the disk is full.
    pub(super) async fn reserve(&self) {
        if let Err(NoRoom(what)) = self.make_room(&[], RESERVE).await {
            tracing::warn!("metadata log: no room is kept for deletions: {what}");
        }
    }

    /// Writes one batch, flushes and applies it.
    pub(super) async fn write(&self, records: &[MetadataRecord], now_ms: i64) -> Result<(), NoRoom> {
        let _busy = Busy::new(&self.busy);
        let base = self.log.end_offset();
        let appended = self.log.append(&journal::encode(records, now_ms), base, 0, None);
        let mut done = match appended {
            Ok(_) => self.log.flush().await,
            Err(e) => Err(e),
        };
        loop {
            match done {
                Ok(()) => break,
                Err(LogError::Exhausted(_)) if self.log.end_offset() > base => {
                    // It is in the file, and only its flush is missing.
                    self.shard.rt().sleep(AGAIN).await;
                    done = self.log.flush().await;
                }
                Err(e) => return Err(refused(e)),
            }
        }
        for (at, record) in (base..).zip(records) {
            self.image.borrow_mut().apply(at, record);
            self.shard.rt().slices().pass(RECORD_COST).await;
        }
        Ok(())
    }

    /// Once, until there is room again.
    fn say_full(&self, what: &str) {
        if !self.full.replace(true) {
            let hint = "changes of the metadata wait for room, deletions of topics go on";
            tracing::error!("metadata log: {what}: {hint}");
        }
    }

    fn say_room(&self) {
        if self.full.replace(false) {
            tracing::info!("metadata log: there is room again");
        }
    }

    /// Writes what has to be in the log before anything is produced. Without room it is owed: until it is
    /// there, partitions are read and deleted, but nothing is appended to them.
    pub(super) async fn write_or_owe(&self, records: Vec<MetadataRecord>) {
        self.owed.borrow_mut().extend(records);
        if let Err(NoRoom(what)) = self.write_owed().await {
            tracing::error!(
                "metadata log: {what}: the leader epochs cannot grow, so producers are refused until there is room; \
                 delete topics or records to make some"
            );
            self.image.borrow_mut().set_held(true);
            self.full.set(true);
        }
    }

    /// True while there is something owed, see [`Control::write_or_owe`].
    pub(super) fn owes(&self) -> bool {
        !self.owed.borrow().is_empty()
    }

    async fn write_owed(&self) -> Result<(), NoRoom> {
        let owed = self.owed.borrow().clone();
        self.make_room(&owed, 0).await?;
        for part in journal::split(&owed) {
            self.write(part, self.shard.rt().now().wall_ms).await?;
            self.owed.borrow_mut().drain(..part.len());
        }
        Ok(())
    }

    /// Writes what is owed, if there is room now.
    async fn pay(&self) {
        if self.owes() && self.write_owed().await.is_ok() {
            self.image.borrow_mut().set_held(false);
            self.publish(Vec::new()).await;
            self.full.set(false);
            tracing::info!("leader epochs have grown: producers are served");
        }
    }

    /// Gives the image to every core, with the replicas to open, and waits until all have acted on it.
    pub(super) async fn publish(&self, open: Vec<Key>) {
        let cores = self.shard.rt().cores();
        let image = Arc::new(self.image.borrow().clone());
        let mut assignments: Vec<Vec<Assignment>> = vec![Vec::new(); cores];
        self.places.borrow_mut().look_for_usable(self.shard.rt());
        for key in open {
            self.shard.rt().slices().pass(PLACE_COST).await;
            let Some(topic) = image.topic_by_id(key.0) else { continue };
            let home = self.places.borrow_mut().place(key, &topic.name).map(|(dir, opening)| Home { dir, opening });
            assignments[placement::owner(key.0, key.1, cores)].push(Assignment { key, home });
        }
        let calls: Vec<_> =
            (0..cores).map(|core| self.shard.call_now(core, Call::Assign(image.clone(), std::mem::take(&mut assignments[core])))).collect();
        for call in calls {
            call.await;
        }
    }
}

/// The topics that `records` create or enlarge, with the partitions that each has in `image`, the one
/// before them.
fn growing(image: &Image, records: &[MetadataRecord]) -> Vec<(TopicId, i32)> {
    let mut seen = HashSet::new();
    let id = |record: &MetadataRecord| match record {
        MetadataRecord::Topic { id, .. } | MetadataRecord::AddPartitions { id, .. } => Some(Uuid(*id)),
        _ => None,
    };
    let ids = records.iter().filter_map(id).filter(|id| seen.insert(*id));
    ids.map(|id| (id, count(image, id))).collect()
}

/// The partitions that these topics have in `image`, and did not have before.
fn grown(image: &Image, before: Vec<(TopicId, i32)>) -> Vec<Key> {
    let new = |(id, before): (TopicId, i32)| (before..count(image, id)).map(move |partition| (id, partition));
    before.into_iter().flat_map(new).collect()
}

fn count(image: &Image, id: TopicId) -> i32 {
    image.topic_by_id(id).map_or(0, |topic| topic.partitions.len() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::settings::BrokerSettings;

    fn topic(id: u8, partitions: usize) -> MetadataRecord {
        let leader_epochs = vec![0; partitions];
        MetadataRecord::Topic { id: [id; 16], name: format!("t{id}"), leader_epochs, configs: vec![], created_ms: 0 }
    }

    #[test]
    fn a_change_opens_what_it_adds_whatever_else_there_is() {
        let mut image = Image::of(BrokerSettings::default(), &[topic(1, 3), topic(2, 1), topic(3, 1)]);
        let more = |count| MetadataRecord::AddPartitions { id: [2; 16], leader_epochs: vec![0; count] };
        let records = [topic(9, 2), more(1), more(1), MetadataRecord::RemoveTopic { id: [3; 16] }];
        let growing = growing(&image, &records);
        assert_eq!(growing, [(Uuid([9; 16]), 0), (Uuid([2; 16]), 1)], "the work is that of the change");
        // The disk gave less than it said: the last two are not in the log.
        records[..2].iter().for_each(|record| image.apply(image.offset() + 1, record));
        let (new, old) = (Uuid([9; 16]), Uuid([2; 16]));
        assert_eq!(grown(&image, growing.clone()), [(new, 0), (new, 1), (old, 1)]);
        records[2..].iter().for_each(|record| image.apply(image.offset() + 1, record));
        assert_eq!(grown(&image, growing), [(new, 0), (new, 1), (old, 1), (old, 2)]);
    }
}

//! Incremental fetch sessions (KIP-227): the client names only what changed, the answer holds only what is new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::ErrorCode;
use crate::base::ids::{LeaderEpoch, Offset, TopicId};
use crate::base::time::Now;

/// Request epoch that ends a session, or with session id 0 does without one.
pub const FINAL_EPOCH: i32 = -1;
/// Request epoch that asks for a new session.
pub const INITIAL_EPOCH: i32 = 0;
/// "No session", in requests and responses.
pub const NO_SESSION: i32 = 0;
/// A session unused for longer gives its slot to any other, one younger than this keeps it (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
const EVICTION: Duration = Duration::from_secs(120);
/// Bytes of the heap that a session takes for each of its partitions, besides the topic's name.
const PARTITION_BYTES: usize = 280;

/// One partition to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchTarget {
    /// Zero before Fetch v13.
    pub topic_id: TopicId,
    /// Empty from v13 on. Not a slice of the request: a session would keep its receive buffer alive.
    pub name: Arc<str>,
    /// Number within the topic.
    pub partition: i32,
    /// First offset wanted.
    pub fetch_offset: Offset,
    /// Of this partition.
    pub max_bytes: i32,
    /// What the client takes for the leader's epoch, or -1.
    pub current_leader_epoch: LeaderEpoch,
    /// Epoch of the record before `fetch_offset`, or -1.
    pub last_fetched_epoch: LeaderEpoch,
    /// A follower's log start, or -1.
    pub log_start_offset: Offset,
}

/// One partition that an incremental request no longer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Zero before Fetch v13.
    pub topic_id: TopicId,
    /// Empty from v13 on.
    pub name: Arc<str>,
    /// Number within the topic.
    pub partition: i32,
}

/// A Fetch request, as far as it concerns sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRequest {
    /// Session id, or 0.
    pub session_id: i32,
    /// [`FINAL_EPOCH`], [`INITIAL_EPOCH`], or the number of this request in its session.
    pub epoch: i32,
    /// Fetch v13 and up name topics by id.
    pub by_topic_id: bool,
    /// In request order.
    pub targets: Vec<FetchTarget>,
    /// See [`Forgotten`].
    pub forgotten: Vec<Forgotten>,
}

/// What came of reading one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchOutcome {
    /// `None` for success.
    pub code: ErrorCode,
    /// As answered.
    pub high_watermark: Offset,
    /// As answered.
    pub log_start_offset: Offset,
    /// There are records in the answer.
    pub has_records: bool,
    /// Something else is to be told: a diverging epoch or a preferred read replica.
    pub must_answer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sessionless,
    Create {
        by_topic_id: bool,
    },
    /// The session's epoch is to be this one when the fetch ends.
    Incremental {
        session_id: i32,
        epoch: i32,
    },
}

/// A fetch under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionContext {
    /// All partitions to read, in the order in which they may use up the request's bytes.
    pub targets: Vec<FetchTarget>,
    kind: Kind,
}

/// How to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Session id of the response.
    pub session_id: i32,
    /// Indexes of the targets that go into it, rising.
    pub include: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Id(TopicId),
    Name(Arc<str>),
}

type Key = (Topic, i32);

fn key(by_topic_id: bool, topic_id: TopicId, name: &Arc<str>, partition: i32) -> Key {
    (if by_topic_id { Topic::Id(topic_id) } else { Topic::Name(name.clone()) }, partition)
}

struct Cached {
    target: FetchTarget,
    /// As last answered; -1 makes the next answer hold the partition.
    high_watermark: Offset,
    log_start_offset: Offset,
}

impl Cached {
    fn new(target: FetchTarget) -> Cached {
        Cached { target, high_watermark: -1, log_start_offset: -1 }
    }

    /// True when the client has to hear of it.
    fn update(&mut self, outcome: &FetchOutcome) -> bool {
        let failed = outcome.code != ErrorCode::None;
        let moved = self.high_watermark != outcome.high_watermark || self.log_start_offset != outcome.log_start_offset;
        // After an error the partition is told of again as soon as it works.
        self.high_watermark = if failed { -1 } else { outcome.high_watermark };
        self.log_start_offset = outcome.log_start_offset;
        outcome.has_records || outcome.must_answer || failed || moved
    }
}

struct Session {
    /// Of the next request.
    epoch: i32,
    by_topic_id: bool,
    created: Duration,
    used: Duration,
    /// By place in the queue: those that got data go to its end, so that all get their turn when the bytes do not suffice for all.
    partitions: BTreeMap<u64, Cached>,
    places: BTreeMap<Key, u64>,
    next_place: u64,
    /// Of the heap, about.
    bytes: usize,
}

/// Bytes of the heap that a session takes for a partition, at most: the partitions of a topic share its name.
fn bytes_of(target: &FetchTarget) -> usize {
    PARTITION_BYTES + target.name.len()
}

impl Session {
    fn new(by_topic_id: bool, now: Duration) -> Session {
        Session {
            epoch: next_epoch(INITIAL_EPOCH),
            by_topic_id,
            created: now,
            used: now,
            partitions: BTreeMap::new(),
            places: BTreeMap::new(),
            next_place: 0,
            bytes: 0,
        }
    }

    fn key(&self, target: &FetchTarget) -> Key {
        key(self.by_topic_id, target.topic_id, &target.name, target.partition)
    }

    fn put(&mut self, target: FetchTarget) -> &mut Cached {
        let place = *self.places.entry(self.key(&target)).or_insert(self.next_place);
        self.next_place += 1;
        let bytes = &mut self.bytes;
        let cached = self.partitions.entry(place).or_insert_with(|| {
            *bytes += bytes_of(&target);
            Cached::new(target.clone())
        });
        *bytes = *bytes - bytes_of(&cached.target) + bytes_of(&target);
        cached.target = target;
        cached
    }

    fn forget(&mut self, gone: &Forgotten) {
        if let Some(place) = self.places.remove(&key(self.by_topic_id, gone.topic_id, &gone.name, gone.partition)) {
            let cached = self.partitions.remove(&place);
            self.bytes -= cached.map_or(0, |cached| bytes_of(&cached.target));
        }
    }

    fn move_to_end(&mut self, place: u64) {
        let Some(cached) = self.partitions.remove(&place) else {
            return;
        };
        self.places.insert(self.key(&cached.target), self.next_place);
        self.partitions.insert(self.next_place, cached);
        self.next_place += 1;
    }

    /// Takes in the outcomes of all partitions, in order; the indexes of those that are to be answered.
    fn update(&mut self, outcomes: &[FetchOutcome]) -> Vec<usize> {
        let mut include = Vec::new();
        let mut with_records = Vec::new();
        for (index, ((place, cached), outcome)) in self.partitions.iter_mut().zip(outcomes).enumerate() {
            if cached.update(outcome) {
                include.push(index);
            }
            if outcome.has_records {
                with_records.push(*place);
            }
        }
        with_records.into_iter().for_each(|place| self.move_to_end(place));
        include
    }
}

/// Epochs of a session run from 1 to `i32::MAX` and start over at 1.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}

/// The fetch sessions of one core.
pub struct Sessions {
    max_slots: usize,
    max_bytes: usize,
    by_id: BTreeMap<i32, Session>,
    /// Of all sessions together.
    bytes: usize,
}

impl Sessions {
    /// At most `max_slots` sessions (`max.incremental.fetch.session.cache.slots`; 0: none), which take at
    /// most `max_bytes` of the heap. Whom they do not suffice for is served without a session.
    pub fn new(max_slots: usize, max_bytes: usize) -> Sessions {
        Sessions { max_slots, max_bytes, by_id: BTreeMap::new(), bytes: 0 }
    }

    /// Sessions open.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True when no session is open.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Partitions that a session remembers; 0 if there is no such session.
    pub fn len_of(&self, session_id: i32) -> usize {
        self.by_id.get(&session_id).map_or(0, |session| session.partitions.len())
    }

    /// Bytes of the heap that all sessions take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a request in. An error is to be answered at the top of the response, with session id 0 and no topics:
    /// `FetchSessionIdNotFound`, `InvalidFetchSessionEpoch`, or `FetchSessionTopicIdError` (names and ids mixed in one session).
    /// Upon each of them a client goes back to a full fetch.
    pub fn begin(&mut self, request: SessionRequest, now: Now) -> Result<SessionContext, ErrorCode> {
        let SessionRequest { session_id, epoch, by_topic_id, targets, .. } = request;
        if epoch == FINAL_EPOCH || epoch == INITIAL_EPOCH {
            // A full fetch ends the session that it names.
            self.remove(session_id);
            let kind = if epoch == FINAL_EPOCH { Kind::Sessionless } else { Kind::Create { by_topic_id } };
            return Ok(SessionContext { targets, kind });
        }
        let session = self.by_id.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_topic_id != by_topic_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let before = session.bytes;
        for target in targets {
            session.put(target);
        }
        request.forgotten.iter().for_each(|gone| session.forget(gone));
        session.epoch = next_epoch(epoch);
        session.used = now.mono;
        self.bytes = self.bytes - before + session.bytes;
        let kind = Kind::Incremental { session_id, epoch: session.epoch };
        let targets = session.partitions.values().map(|cached| cached.target.clone()).collect();
        if session.partitions.is_empty() {
            // Nothing left to remember, and nothing to read.
            self.remove(session_id);
            return Ok(SessionContext { targets, kind: Kind::Sessionless });
        }
        if self.bytes > self.max_bytes {
            self.remove(session_id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        Ok(SessionContext { targets, kind })
    }

    /// Ends a fetch; `outcomes` one per target, in their order. `random` supplies ids for a new session. Errors as in
    /// [`Sessions::begin`], when the session ended or went on meanwhile.
    pub fn finish(
        &mut self,
        context: &SessionContext,
        outcomes: &[FetchOutcome],
        now: Now,
        random: impl FnMut() -> i32,
    ) -> Result<Finished, ErrorCode> {
        assert_eq!(context.targets.len(), outcomes.len(), "one outcome per target");
        let session_id = match context.kind {
            Kind::Sessionless => NO_SESSION,
            Kind::Create { by_topic_id } => self.create(by_topic_id, &context.targets, outcomes, now.mono, random),
            Kind::Incremental { session_id, epoch } => {
                let session = self.by_id.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
                if session.epoch != epoch {
                    return Err(ErrorCode::InvalidFetchSessionEpoch);
                }
                return Ok(Finished { session_id, include: session.update(outcomes) });
            }
        };
        Ok(Finished { session_id, include: (0..outcomes.len()).collect() })
    }

    /// The new session's id, or [`NO_SESSION`] where there is no room: the client then goes on with full fetches.
    fn create(
        &mut self,
        by_topic_id: bool,
        targets: &[FetchTarget],
        outcomes: &[FetchOutcome],
        now: Duration,
        mut random: impl FnMut() -> i32,
    ) -> i32 {
        let bytes = targets.iter().map(bytes_of).sum();
        if bytes > self.max_bytes || !self.make_room(targets.len(), bytes, now) {
            return NO_SESSION;
        }
        let mut session = Session::new(by_topic_id, now);
        for (target, outcome) in targets.iter().zip(outcomes) {
            session.put(target.clone()).update(outcome);
        }
        let mut id = random() & i32::MAX;
        while id == NO_SESSION || self.by_id.contains_key(&id) {
            // Not asked again: a poor source could keep us here.
            id = id.wrapping_add(1) & i32::MAX;
        }
        self.bytes += session.bytes;
        self.by_id.insert(id, session);
        id
    }

    /// Frees a slot as Kafka does: that of the session unused for longest, if it is unused for long; else that of the smallest old one
    /// that is smaller than the newcomer, which has `size` partitions. Likewise until there is room for its bytes.
    fn make_room(&mut self, size: usize, bytes: usize, now: Duration) -> bool {
        while self.by_id.len() >= self.max_slots || self.bytes + bytes > self.max_bytes {
            let unused = self.by_id.iter().min_by_key(|(id, s)| (s.used, **id)).filter(|(_, s)| now.saturating_sub(s.used) > EVICTION);
            let old = || self.by_id.iter().filter(|(_, s)| now.saturating_sub(s.created) > EVICTION && s.partitions.len() < size);
            let Some((id, _)) = unused.or_else(|| old().min_by_key(|(id, s)| (s.partitions.len(), **id))) else {
                return false;
            };
            let id = *id;
            self.remove(id);
        }
        true
    }

    fn remove(&mut self, session_id: i32) {
        if let Some(session) = self.by_id.remove(&session_id) {
            self.bytes -= session.bytes;
        }
    }

    /// Panics unless all invariants hold.
    pub fn check(&self) {
        assert!(self.by_id.len() <= self.max_slots && self.bytes <= self.max_bytes);
        assert_eq!(self.bytes, self.by_id.values().map(|s| s.bytes).sum::<usize>());
        for (id, session) in &self.by_id {
            assert!(*id > 0 && session.epoch > 0, "session {id} epoch {}", session.epoch);
            assert_eq!(session.places.len(), session.partitions.len());
            assert_eq!(session.bytes, session.partitions.values().map(|cached| bytes_of(&cached.target)).sum::<usize>());
            for (place, cached) in &session.partitions {
                assert_eq!(session.places.get(&session.key(&cached.target)), Some(place));
                assert!(*place < session.next_place);
            }
        }
    }
}

#[cfg(test)]
#[path = "fetch_session_tests.rs"]
mod tests;

//! Incremental fetch sessions (KIP-227): the client names only what changed, the answer holds only what is new.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
/// What a partition takes on the heap of its session beside its topic's name, and what a session takes
/// with few of them besides: trees grow in nodes.
const PARTITION_BYTES: usize = 320;
const SESSION_BYTES: usize = 2400;
/// In so many targets those that name the same partition are looked for pair by pair.
const FEW_TARGETS: usize = 16;
/// See [`distinct`].
const GONE: usize = usize::MAX;

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

/// Leaves of targets that name the same partition the last, in the place of the first, as in Kafka: a
/// partition that is named ten thousand times is read and answered once.
fn distinct(by_topic_id: bool, targets: &mut Vec<FetchTarget>) {
    let order = |a: &FetchTarget, b: &FetchTarget| {
        let topics = if by_topic_id { a.topic_id.cmp(&b.topic_id) } else { a.name.cmp(&b.name) };
        a.partition.cmp(&b.partition).then(topics)
    };
    let same = |a: &FetchTarget, b: &FetchTarget| order(a, b).is_eq();
    if targets.len() <= FEW_TARGETS {
        let repeated = |at: usize| targets[..at].iter().any(|target| same(target, &targets[at]));
        if !(1..targets.len()).any(repeated) {
            return;
        }
    }
    let mut places: Vec<usize> = (0..targets.len()).collect();
    places.sort_by(|a, b| order(&targets[*a], &targets[*b]));
    let mut last = places.clone();
    for repeated in places.chunk_by(|a, b| same(&targets[*a], &targets[*b])) {
        last[repeated[0]] = repeated[repeated.len() - 1];
        repeated[1..].iter().for_each(|place| last[*place] = GONE);
    }
    for place in 0..targets.len() {
        if last[place] != GONE && last[place] != place {
            targets[place] = targets[last[place]].clone();
        }
    }
    let mut places = last.into_iter();
    targets.retain(|_| places.next() != Some(GONE));
}

/// Bytes of the heap that a session takes for a partition.
fn partition_bytes(target: &FetchTarget) -> usize {
    PARTITION_BYTES + target.name.len()
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
    /// On the heap, about.
    bytes: usize,
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
            bytes: SESSION_BYTES,
        }
    }

    fn key(&self, target: &FetchTarget) -> Key {
        key(self.by_topic_id, target.topic_id, &target.name, target.partition)
    }

    fn put(&mut self, target: FetchTarget) -> &mut Cached {
        let place = *self.places.entry(self.key(&target)).or_insert(self.next_place);
        self.next_place += 1;
        self.bytes += partition_bytes(&target);
        match self.partitions.entry(place) {
            Entry::Occupied(cached) => {
                let cached = cached.into_mut();
                self.bytes -= partition_bytes(&cached.target);
                cached.target = target;
                cached
            }
            Entry::Vacant(cached) => cached.insert(Cached::new(target)),
        }
    }

    fn forget(&mut self, gone: &Forgotten) {
        if let Some(place) = self.places.remove(&key(self.by_topic_id, gone.topic_id, &gone.name, gone.partition)) {
            let gone = self.partitions.remove(&place);
            self.bytes -= gone.map_or(0, |cached| partition_bytes(&cached.target));
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
    /// At most `max_slots` sessions (`max.incremental.fetch.session.cache.slots`; 0: none), of about
    /// `max_bytes` of the heap together. Whom they do not suffice for is served without a session.
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

    /// Bytes of the heap that all sessions take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Partitions that a session remembers: its next request reads all of them.
    pub fn partitions_of(&self, session_id: i32) -> usize {
        self.by_id.get(&session_id).map_or(0, |session| session.partitions.len())
    }

    /// Takes a request in. An error is to be answered at the top of the response, with session id 0 and no topics:
    /// `FetchSessionIdNotFound`, `InvalidFetchSessionEpoch`, or `FetchSessionTopicIdError` (names and ids mixed in one session).
    /// Upon each of them a client goes back to a full fetch.
    pub fn begin(&mut self, request: SessionRequest, now: Now) -> Result<SessionContext, ErrorCode> {
        let SessionRequest { session_id, epoch, by_topic_id, mut targets, .. } = request;
        if epoch == FINAL_EPOCH || epoch == INITIAL_EPOCH {
            // A full fetch ends the session that it names.
            self.remove(session_id);
            distinct(by_topic_id, &mut targets);
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
        let kind = Kind::Incremental { session_id, epoch: session.epoch };
        self.bytes = self.bytes - before + session.bytes;
        if session.partitions.is_empty() {
            // Nothing left to remember, and nothing to read.
            self.remove(session_id);
            return Ok(SessionContext { targets: Vec::new(), kind: Kind::Sessionless });
        }
        if self.bytes > self.max_bytes {
            self.remove(session_id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let targets = session.partitions.values().map(|cached| cached.target.clone()).collect();
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
        let bytes = SESSION_BYTES + targets.iter().map(partition_bytes).sum::<usize>();
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
    /// that is smaller than the newcomer. Likewise until there is room for the newcomer's bytes.
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
            let targets = session.partitions.values().map(|cached| partition_bytes(&cached.target));
            assert_eq!(session.bytes, SESSION_BYTES + targets.sum::<usize>());
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

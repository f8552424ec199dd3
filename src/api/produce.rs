//! Produce: a request becomes one item for each batch that passes the checks; results become the response.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::config::{AckPolicy, Verify};
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::cluster::image::{Image, Topic};
use crate::cluster::names;
use crate::partition::acks::Level;
use crate::partition::op::{ProduceItem, Produced};
use crate::wire::batch::{BatchHeader, Checker, ProduceRules, Rejection, TimestampType};
use crate::wire::compression::INFLATED_MAX;
use crate::wire::produce::{PartitionResult, ProducePartition, ProduceRequest, TopicResult};

/// A request on its way: what to append, and the response as far as it is known.
pub struct Plan {
    /// Batches to append, in the request's order.
    pub items: Vec<ProduceItem>,
    /// The response; results of `items` are filled in with [`Plan::answer`].
    pub topics: Vec<TopicResult>,
    /// Topic and partition of each item in `topics`.
    places: Vec<(u32, u32)>,
    /// Errors of records that may still be listed.
    listable: usize,
}

/// Inflated bytes of all batches of one request together.
const INFLATED_MAX_OF_REQUEST: usize = 16 * INFLATED_MAX;
/// Records of all batches of one request whose errors are listed: seven bytes of a request are not to
/// become a hundred of an answer.
const RECORD_ERRORS_OF_REQUEST: usize = 1000;
/// What a batch costs of a step's budget besides its inflated bytes: a decoder is made for it.
const COST_COMPRESSED: usize = 8 << 10;
/// The same for a batch that is not compressed.
const COST_PLAIN: usize = 512;

/// What checks need besides the request.
#[derive(Clone)]
pub struct Context {
    /// The request's version.
    pub version: i16,
    /// The topics as they are.
    pub image: Arc<Image>,
    /// The wall clock, ms since 1970.
    pub now_ms: i64,
    /// How far compressed batches are looked at.
    pub verify: Verify,
}

/// Copies a batch to memory that is counted, if there is some.
pub type Room<'a> = dyn Fn(&[u8]) -> Option<Bytes> + 'a;

/// Checks a request against the image, in steps: what the batches hold is known only once they are
/// inflated.
pub struct Planner {
    request: ProduceRequest,
    context: Context,
    plan: Plan,
    /// The topic that is being checked.
    topic: usize,
    /// The batch that is being checked, between two steps.
    checker: Option<Checker>,
    /// Inflated bytes that the request may still have.
    inflatable: usize,
}

impl Planner {
    /// Nothing checked yet.
    pub fn new(request: ProduceRequest, context: Context) -> Planner {
        let topics = Vec::with_capacity(request.topics.len());
        let plan = Plan { topics, ..Plan::new() };
        Planner { request, context, plan, topic: 0, checker: None, inflatable: INFLATED_MAX_OF_REQUEST }
    }

    /// Who is to have the records before the answer.
    pub fn acks(&self) -> i16 {
        self.request.acks
    }

    /// How long (ms) the client waits for the answer.
    pub fn timeout_ms(&self) -> i32 {
        self.request.timeout_ms
    }

    /// Goes on until `budget`, which counts inflated bytes, was spent; true when all is checked.
    /// Batches that are compressed anew get their memory from `room`, which may have none; without
    /// it the first of them is left for a later step.
    pub fn step(&mut self, budget: &mut usize, room: Option<&Room<'_>>) -> bool {
        let Planner { request, context, plan, topic: at, checker, inflatable } = self;
        while let Some(topic) = request.topics.get(*at) {
            let by_id = context.version >= 13;
            let known = if by_id { context.image.topic_by_id(topic.id) } else { context.image.topic(&topic.name) };
            if plan.topics.len() == *at {
                let partitions = Vec::with_capacity(topic.partitions.len());
                plan.topics.push(TopicResult { name: topic.name.clone(), id: topic.id, partitions });
            }
            while let Some(partition) = topic.partitions.get(plan.topics[*at].partitions.len()) {
                if *budget == 0 {
                    return false;
                }
                let unknown = if by_id { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
                let checked = match known {
                    None => Some(Err(refused(unknown))),
                    Some(known) => {
                        let acks = request.acks;
                        let mut check = Check { acks, context, topic: known, partition, checker, room };
                        check.run(budget, inflatable)
                    }
                };
                match checked {
                    Some(checked) => plan.put(*at, partition.index, checked),
                    None => return false,
                }
            }
            *at += 1;
        }
        true
    }

    /// True while no batch is half checked.
    pub fn between_batches(&self) -> bool {
        self.checker.is_none()
    }

    /// The plan, once all is checked. What was asked is forgotten: the items hold on to what they
    /// need of it.
    pub fn take(&mut self) -> Plan {
        self.request.topics.clear();
        std::mem::replace(&mut self.plan, Plan::new())
    }
}

impl Plan {
    fn new() -> Plan {
        Plan { items: Vec::new(), topics: Vec::new(), places: Vec::new(), listable: RECORD_ERRORS_OF_REQUEST }
    }

    /// Takes in what became of the next partition of a topic.
    fn put(&mut self, topic: usize, index: i32, checked: Result<ProduceItem, PartitionResult>) {
        let partitions = &mut self.topics[topic].partitions;
        let result = match checked {
            Ok(item) => {
                self.places.push((topic as u32, partitions.len() as u32));
                self.items.push(item);
                refused(ErrorCode::UnknownServerError)
            }
            Err(mut result) => {
                result.record_errors.truncate(self.listable);
                result.record_errors.shrink_to_fit();
                self.listable -= result.record_errors.len();
                result
            }
        };
        partitions.push(PartitionResult { index, ..result });
    }

    /// Fills in the result of an item.
    pub fn answer(&mut self, item: usize, produced: &Produced) {
        let (topic, partition) = self.places[item];
        let result = &mut self.topics[topic as usize].partitions[partition as usize];
        result.code = produced.code;
        result.base_offset = produced.base_offset;
        result.log_append_time_ms = produced.log_append_time;
        result.log_start_offset = produced.log_start_offset;
    }

    /// Refuses all items.
    pub fn refuse(&mut self, code: ErrorCode) {
        self.items.clear();
        for item in 0..self.places.len() {
            self.answer(item, &Produced::refused(code));
        }
    }

    /// True when something was refused: with acks=0 the only way to say so is to close the connection.
    pub fn refused(&self) -> bool {
        self.topics.iter().flat_map(|t| &t.partitions).any(|p| p.code != ErrorCode::None)
    }
}

/// The check of one partition's batch.
struct Check<'a> {
    acks: i16,
    context: &'a Context,
    topic: &'a Topic,
    partition: &'a ProducePartition,
    checker: &'a mut Option<Checker>,
    room: Option<&'a Room<'a>>,
}

impl Check<'_> {
    /// `None`: the budget is spent, or there is no room here.
    fn run(&mut self, budget: &mut usize, inflatable: &mut usize) -> Option<Result<ProduceItem, PartitionResult>> {
        let rules = rules(self.context, self.topic, self.partition.index);
        let (mut checker, records) = match (self.checker.take(), &self.partition.records) {
            (Some(checker), Some(records)) => (checker, records),
            _ => match self.begin(&rules, budget) {
                Ok(begun) => begun,
                Err(result) => return Some(Err(result)),
            },
        };
        if self.room.is_none() && checker.recompresses(&rules) {
            return None;
        }
        let inflates = checker.is_compressed();
        let checked = loop {
            let granted = if inflates { (*budget).min(*inflatable) } else { *budget };
            let (before, mut left) = (checker.inflated(), granted);
            let checked = checker.step(&rules, &mut left);
            *budget -= granted - left;
            *inflatable = inflatable.saturating_sub(checker.inflated() - before);
            if !matches!(checked, Ok(None)) || *budget == 0 || inflates && *inflatable == 0 {
                break checked;
            }
        };
        match checked {
            Ok(Some(checked)) => {
                let records = match &checked.recompressed {
                    None => Ok(records.clone()),
                    Some(batch) => self.move_in(batch),
                };
                Some(records.and_then(|records| self.item(checked.header, records)))
            }
            Ok(None) if !inflates || *inflatable > 0 => {
                *self.checker = Some(checker);
                None
            }
            Ok(None) => {
                let message = format!("The request has more than {INFLATED_MAX_OF_REQUEST} bytes of records when decompressed");
                Some(Err(PartitionResult { message: Some(message), ..refused(ErrorCode::MessageTooLarge) }))
            }
            Err(rejection) => Some(Err(rejected(rejection))),
        }
    }

    /// Everything that can be told without inflating.
    fn begin(&self, rules: &ProduceRules<'_>, budget: &mut usize) -> Result<(Checker, &Bytes), PartitionResult> {
        let Check { acks, topic, partition, .. } = self;
        if !(-1..=1).contains(acks) {
            return Err(refused(ErrorCode::InvalidRequiredAcks));
        }
        if topic.partition(partition.index).is_none() {
            return Err(refused(ErrorCode::UnknownTopicOrPartition));
        }
        if names::is_internal(&topic.name) {
            // Only the broker itself writes there.
            return Err(refused(ErrorCode::InvalidTopicException));
        }
        let Some(records) = &partition.records else { return Err(refused(ErrorCode::InvalidRecord)) };
        let checker = Checker::new(records, rules).map_err(rejected)?;
        *budget = budget.saturating_sub(if checker.is_compressed() { COST_COMPRESSED } else { COST_PLAIN });
        Ok((checker, records))
    }

    /// A batch that was compressed anew, in memory that is counted.
    fn move_in(&self, batch: &[u8]) -> Result<Bytes, PartitionResult> {
        let records = self.room.and_then(|room| room(batch));
        // The client is to try again.
        records.ok_or_else(|| refused(ErrorCode::RequestTimedOut))
    }

    fn item(&self, header: BatchHeader, records: Bytes) -> Result<ProduceItem, PartitionResult> {
        if header.is_transactional() {
            return Err(refused(ErrorCode::InvalidTxnState));
        }
        let (topic, config) = (self.topic, &self.topic.config);
        let key: (TopicId, i32) = (topic.id, self.partition.index);
        let level = level(self.acks, config.ack, config.flush_messages);
        Ok(ProduceItem { key, header, records, level, log_append_time: config.log_append_time })
    }
}

fn rules<'a>(context: &Context, topic: &'a Topic, partition: i32) -> ProduceRules<'a> {
    let config = &topic.config;
    ProduceRules {
        topic: &topic.name,
        partition,
        max_message_bytes: config.max_message_bytes,
        compacted: config.compact,
        timestamp_type: if config.log_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        before_max_ms: config.timestamp_before_max_ms,
        after_max_ms: config.timestamp_after_max_ms,
        now_ms: context.now_ms,
        api_version: context.version,
        verify: context.verify,
        codec: config.codec(),
    }
}

fn rejected(rejection: Rejection) -> PartitionResult {
    PartitionResult { record_errors: rejection.record_errors, message: Some(rejection.message), ..refused(rejection.code) }
}

/// What the producer waits for: its own choice, unless the topic promises more or less.
fn level(acks: i16, policy: AckPolicy, flush_messages: i64) -> Level {
    match (acks, policy) {
        (0, _) => Level::Written,
        _ if flush_messages == 1 => Level::Flushed,
        (_, AckPolicy::Flushed) | (-1, AckPolicy::Default) => Level::Flushed,
        _ => Level::Written,
    }
}

fn refused(code: ErrorCode) -> PartitionResult {
    PartitionResult {
        index: 0,
        code,
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        record_errors: Vec::new(),
        message: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image};
    use crate::wire::batch::{BatchSpec, build_batch};
    use crate::wire::compression::Compression;
    use crate::wire::produce::ProduceTopic;

    fn batch(compression: Compression, key: Option<&[u8]>, value: usize) -> Option<Bytes> {
        let spec = BatchSpec { compression, ..BatchSpec::default() };
        Some(build_batch(&spec, &[(key, Some(&vec![0; value]), 1000)]).into())
    }

    /// A request of one long batch, one without a key, a plain one and one for a missing partition.
    fn planner() -> Planner {
        let batches = [
            batch(Compression::Zstd, Some(b"k"), 1 << 20),
            batch(Compression::Gzip, None, 1 << 20),
            batch(Compression::None, Some(b"k"), 100),
            batch(Compression::None, Some(b"k"), 100),
        ];
        let partitions = (0..).zip(batches).map(|(index, records)| ProducePartition { index, records });
        let topics = vec![
            ProduceTopic { name: "none".into(), partitions: partitions.clone().take(1).collect(), ..ProduceTopic::default() },
            ProduceTopic { name: "t".into(), partitions: partitions.collect(), ..ProduceTopic::default() },
        ];
        let request = ProduceRequest { acks: -1, topics, ..ProduceRequest::default() };
        let broker = broker(&[]);
        let image = Arc::new(image(&broker, &[("t", 1, 3)]));
        Planner::new(request, Context { version: 9, image, now_ms: 2000, verify: Verify::Full })
    }

    fn codes(plan: &Plan) -> Vec<Vec<ErrorCode>> {
        plan.topics.iter().map(|topic| topic.partitions.iter().map(|p| p.code).collect()).collect()
    }

    #[test]
    fn a_request_is_checked_in_steps_as_in_one_go() {
        let mut at_once = planner();
        assert!(at_once.step(&mut usize::MAX.clone(), None));
        let at_once = at_once.take();
        // Results of items are not known yet.
        let (pending, unknown) = (ErrorCode::UnknownServerError, ErrorCode::UnknownTopicOrPartition);
        assert_eq!(codes(&at_once), [vec![unknown], vec![pending, ErrorCode::InvalidRecord, pending, unknown]]);
        let mut planner = planner();
        let (mut steps, mut within) = (0, 0);
        while !planner.step(&mut (64 << 10), None) {
            steps += 1;
            within += usize::from(!planner.between_batches());
        }
        assert!(steps >= 32 && within >= 30, "{steps} {within}");
        let plan = planner.take();
        assert_eq!(plan.topics, at_once.topics);
        let items = |plan: &Plan| plan.items.iter().map(|item| (item.key, item.header)).collect::<Vec<_>>();
        assert_eq!(items(&plan), items(&at_once));
        assert_eq!(plan.places, [(1, 0), (1, 2)]);
    }

    /// Those in another codec than the topic's wait for a turn in which there is room for them.
    #[test]
    fn batches_that_are_compressed_anew_need_room() {
        let planner = || {
            let batches = [Compression::Gzip, Compression::None].map(|codec| batch(codec, Some(b"k"), 5000));
            let partitions = (0..).zip(batches).map(|(index, records)| ProducePartition { index, records });
            let topics = vec![ProduceTopic { name: "t".into(), partitions: partitions.collect(), ..ProduceTopic::default() }];
            let request = ProduceRequest { acks: -1, topics, ..ProduceRequest::default() };
            let image = Arc::new(image(&broker(&[("compression.type", "gzip")]), &[("t", 1, 3)]));
            Planner::new(request, Context { version: 9, image, now_ms: 2000, verify: Verify::Full })
        };
        let mut early = planner();
        for _ in 0..2 {
            assert!(!early.step(&mut usize::MAX.clone(), None) && early.between_batches());
            assert_eq!(early.plan.items.len(), 1, "the first one has its codec");
        }
        assert!(early.step(&mut usize::MAX.clone(), Some(&|batch| Some(Bytes::copy_from_slice(batch)))));
        let plan = early.take();
        let compressions: Vec<_> = plan.items.iter().map(|item| item.header.compression()).collect();
        assert_eq!(compressions, [Ok(Compression::Gzip); 2]);
        let lens: Vec<_> = plan.items.iter().map(|item| item.header.total_len() - item.records.len()).collect();
        assert_eq!(lens, [0, 0]);
        let mut full = planner();
        assert!(full.step(&mut usize::MAX.clone(), Some(&|_| None)));
        let plan = full.take();
        assert_eq!((plan.items.len(), codes(&plan)[0][1]), (1, ErrorCode::RequestTimedOut));
    }

    #[test]
    fn the_errors_of_a_request_are_bounded() {
        let mut plan = Plan::new();
        plan.topics.push(TopicResult::default());
        for index in 0..100 {
            let record_errors = (0..50).map(|n| (n, "bad".to_owned())).collect();
            plan.put(0, index, Err(PartitionResult { record_errors, ..refused(ErrorCode::InvalidRecord) }));
        }
        let listed = plan.topics[0].partitions.iter().map(|p| p.record_errors.len());
        assert_eq!(listed.sum::<usize>(), RECORD_ERRORS_OF_REQUEST);
        assert_eq!(plan.topics[0].partitions[99].code, ErrorCode::InvalidRecord);
    }

    #[test]
    fn a_request_has_a_limit_too() {
        let mut planner = planner();
        planner.inflatable = 3 << 19;
        assert!(planner.step(&mut usize::MAX.clone(), None));
        let plan = planner.take();
        assert_eq!(codes(&plan)[1][1], ErrorCode::MessageTooLarge);
        assert_eq!(plan.items.len(), 2, "the others are not affected");
    }

    #[test]
    fn acknowledgement_levels() {
        use AckPolicy::*;
        assert_eq!(level(0, Flushed, i64::MAX), Level::Written);
        assert_eq!(level(1, Default, i64::MAX), Level::Written);
        assert_eq!(level(-1, Default, i64::MAX), Level::Flushed);
        assert_eq!(level(-1, Written, i64::MAX), Level::Written);
        assert_eq!(level(1, Flushed, i64::MAX), Level::Flushed);
        assert_eq!(level(1, Written, 1), Level::Flushed);
    }
}

//! The Produce request and response, by hand: the walk leaves the records where they lie, and allocates per topic, not per field.

use bytes::{BufMut, Bytes};

use super::WireError;
use super::codec::StrBytes;
use super::frame::{begin, finish, str_bytes};
use super::primitive::{Reader, put_array_len, put_no_tags, put_string};
use super::versions::ApiKey;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;

/// Topics and partitions of one request together: the default `max.request.size` of Kafka's clients (1 MiB) holds fewer. Each of them
/// takes memory until it is answered, the more so if its records are refused one by one.
pub const TARGETS_MAX: usize = 20_000;

/// First version that names topics by id (KIP-516).
const TOPIC_ID_FROM: i16 = 13;
/// First version with `log_start_offset` in the response.
const LOG_START_FROM: i16 = 5;
/// First version with error messages, also per record (KIP-467).
const MESSAGES_FROM: i16 = 8;

/// A Produce request of version 3 to 13.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceRequest {
    /// Set by transactional producers.
    pub transactional_id: Option<StrBytes>,
    /// Who must have the records before the answer: -1 all in-sync replicas, 0 nobody (and no answer), 1 the leader.
    pub acks: i16,
    /// How long the client waits, ms.
    pub timeout_ms: i32,
    /// In the request's order; a topic may occur twice.
    pub topics: Vec<ProduceTopic>,
}

/// The part of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceTopic {
    /// Empty from version 13 on.
    pub name: StrBytes,
    /// Zero before version 13.
    pub id: Uuid,
    /// In the request's order.
    pub partitions: Vec<ProducePartition>,
}

/// The part of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducePartition {
    /// Index of the partition in its topic.
    pub index: i32,
    /// What is to be appended, in the memory of the request, unchecked.
    pub records: Option<Bytes>,
}

/// Walks a request's body (without header). The records share its memory.
pub fn decode(body: Bytes, version: i16) -> Result<ProduceRequest, WireError> {
    if !ApiKey::Produce.accepted().contains(&version) {
        return Err(WireError::UnsupportedVersion { api_key: ApiKey::Produce.code(), api_version: version });
    }
    let mut walk = Walk { body: &body, reader: Reader::new(&body), version, flexible: ApiKey::Produce.is_flexible(version), targets: 0 };
    walk.request()
}

struct Walk<'a> {
    body: &'a Bytes,
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    targets: usize,
}

impl Walk<'_> {
    fn request(&mut self) -> Result<ProduceRequest, WireError> {
        let transactional_id = self.reader.string(self.flexible)?.map(|text| str_bytes(self.body, text)).transpose()?;
        let (acks, timeout_ms) = (self.reader.i16()?, self.reader.i32()?);
        let topics = self.array(Self::topic)?;
        self.tags()?;
        Ok(ProduceRequest { transactional_id, acks, timeout_ms, topics })
    }

    fn topic(&mut self) -> Result<ProduceTopic, WireError> {
        let mut topic = ProduceTopic::default();
        if self.version >= TOPIC_ID_FROM {
            topic.id = Uuid(self.reader.uuid()?);
        } else {
            let name = self.reader.string(self.flexible)?.ok_or(WireError::Malformed("topic name: null"))?;
            topic.name = str_bytes(self.body, name)?;
        }
        topic.partitions = self.array(Self::partition)?;
        self.tags()?;
        Ok(topic)
    }

    fn partition(&mut self) -> Result<ProducePartition, WireError> {
        let index = self.reader.i32()?;
        let records = self.reader.bytes(self.flexible)?.map(|records| self.body.slice_ref(records));
        self.tags()?;
        Ok(ProducePartition { index, records })
    }

    /// Grows with the elements that are really there, up to [`TARGETS_MAX`] of all arrays together.
    fn array<T>(&mut self, element: impl Fn(&mut Self) -> Result<T, WireError>) -> Result<Vec<T>, WireError> {
        let len = self.reader.array_len(self.flexible)?;
        self.targets = self.targets.saturating_add(len);
        if self.targets > TARGETS_MAX {
            return Err(WireError::TooLarge("produce request: topics and partitions"));
        }
        let mut out = Vec::with_capacity(len.min(16));
        for _ in 0..len {
            out.push(element(self)?);
        }
        Ok(out)
    }

    fn tags(&mut self) -> Result<(), WireError> {
        if self.flexible { self.reader.skip_tags() } else { Ok(()) }
    }
}

/// What became of one topic's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicResult {
    /// As asked; not sent from version 13 on.
    pub name: StrBytes,
    /// As asked; not sent before version 13.
    pub id: Uuid,
    /// One per partition asked for.
    pub partitions: Vec<PartitionResult>,
}

/// What became of one partition's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResult {
    /// Index of the partition in its topic.
    pub index: i32,
    /// Success or why not.
    pub code: ErrorCode,
    /// Offset of the batch's first record; -1 on an error.
    pub base_offset: i64,
    /// The time that the broker gave the batch, ms; -1 if timestamps are the producer's.
    pub log_append_time_ms: i64,
    /// First offset of the partition; -1 on an error.
    pub log_start_offset: i64,
    /// Index in the batch and error message of records that made the batch fail.
    pub record_errors: Vec<(i32, String)>,
    /// Said to people; without it clients show their own text for the code.
    pub message: Option<String>,
}

impl PartitionResult {
    /// The result of a partition that nothing was appended to.
    pub fn failed(index: i32, code: ErrorCode, message: Option<String>) -> PartitionResult {
        let (base_offset, log_append_time_ms, log_start_offset) = (-1, -1, -1);
        PartitionResult { index, code, base_offset, log_append_time_ms, log_start_offset, record_errors: Vec::new(), message }
    }
}

/// A whole response frame: size, header, body.
pub fn encode_response(version: i16, correlation_id: i32, topics: &[TopicResult], throttle_ms: i32) -> Bytes {
    let flexible = ApiKey::Produce.is_flexible(version);
    let capacity = 32 + topics.iter().map(|topic| 32 + topic.name.len() + 48 * topic.partitions.len()).sum::<usize>();
    let mut out = begin(ApiKey::Produce, version, correlation_id, capacity);
    put_array_len(&mut out, flexible, topics.len());
    for topic in topics {
        if version >= TOPIC_ID_FROM {
            out.put_slice(&topic.id.0);
        } else {
            put_string(&mut out, flexible, Some(&topic.name));
        }
        put_array_len(&mut out, flexible, topic.partitions.len());
        for partition in &topic.partitions {
            put_partition(&mut out, version, flexible, partition);
        }
        put_no_tags(&mut out, flexible);
    }
    out.put_i32(throttle_ms);
    put_no_tags(&mut out, flexible);
    finish(&mut out, 0).expect("a response to a bounded number of partitions, with bounded texts, fits a frame");
    out.freeze()
}

fn put_partition(out: &mut bytes::BytesMut, version: i16, flexible: bool, partition: &PartitionResult) {
    out.put_i32(partition.index);
    out.put_i16(partition.code.code());
    out.put_i64(partition.base_offset);
    out.put_i64(partition.log_append_time_ms);
    if version >= LOG_START_FROM {
        out.put_i64(partition.log_start_offset);
    }
    if version >= MESSAGES_FROM {
        put_array_len(out, flexible, partition.record_errors.len());
        for (index, message) in &partition.record_errors {
            out.put_i32(*index);
            put_string(out, flexible, Some(message));
            put_no_tags(out, flexible);
        }
        put_string(out, flexible, partition.message.as_deref());
    }
    put_no_tags(out, flexible);
}

#[cfg(test)]
mod tests {
    use super::super::codec::{self, encode, produce_request};
    use super::super::frame::parse_response;
    use super::*;

    fn versions() -> std::ops::RangeInclusive<i16> {
        ApiKey::Produce.accepted()
    }

    fn sample(version: i16) -> codec::ProduceRequest {
        let mut request = codec::ProduceRequest::default();
        request.transactional_id = (version % 2 == 0).then(|| StrBytes::from("tx"));
        request.acks = -1;
        request.timeout_ms = 30_000;
        for t in 0..3 {
            let mut topic = produce_request::TopicProduceData::default();
            if version >= 13 {
                topic.topic_id = Uuid([t as u8 + 1; 16]).into();
            } else {
                topic.name = format!("topic-{t}").into();
            }
            for index in 0..t {
                let mut partition = produce_request::PartitionProduceData::default();
                partition.index = index;
                partition.records = (index == 0).then(|| Bytes::from(vec![b'r'; 200]));
                topic.partition_data.push(partition);
            }
            request.topic_data.push(topic);
        }
        request
    }

    fn from_codec(request: codec::ProduceRequest) -> ProduceRequest {
        let partition = |p: produce_request::PartitionProduceData| ProducePartition { index: p.index, records: p.records };
        let topic = |t: produce_request::TopicProduceData| ProduceTopic {
            name: t.name,
            id: t.topic_id.into(),
            partitions: t.partition_data.into_iter().map(partition).collect(),
        };
        ProduceRequest {
            transactional_id: request.transactional_id,
            acks: request.acks,
            timeout_ms: request.timeout_ms,
            topics: request.topic_data.into_iter().map(topic).collect(),
        }
    }

    #[test]
    fn the_walk_agrees_with_the_codec_in_every_version() {
        for version in versions() {
            let body = encode(&sample(version), version).unwrap();
            let walked = decode(body.clone(), version).unwrap();
            assert_eq!(walked, from_codec(codec::decode(body.clone(), version).unwrap()), "version {version}");
            let records = walked.topics[1].partitions[0].records.as_ref().unwrap();
            assert!(body.as_ptr_range().contains(&records.as_ptr()), "not copied");
            // Every cut is an error; a byte too many is passed over, as the codec does.
            for len in 0..body.len() {
                assert!(decode(body.slice(..len), version).is_err(), "version {version} cut at {len}");
            }
            assert_eq!(decode(Bytes::from([&body[..], b"x"].concat()), version).unwrap(), walked);
        }
        assert!(decode(Bytes::new(), 2).is_err() && decode(Bytes::new(), 14).is_err());
    }

    #[test]
    fn what_the_codec_takes_of_a_mutated_request_the_walk_takes_too() {
        let mut prng = crate::base::prng::Prng::new(1);
        for round in 0..20_000 {
            let version = 3 + (round % 11);
            let mut body = encode(&sample(version), version).unwrap().to_vec();
            for _ in 0..1 + prng.below(3) {
                let at = prng.below(body.len() as u64) as usize;
                body[at] = prng.next_u64() as u8;
            }
            let body = Bytes::from(body);
            let walked = decode(body.clone(), version);
            if let Ok(expected) = codec::decode(body, version) {
                assert_eq!(walked, Ok(from_codec(expected)));
            }
        }
    }

    #[test]
    fn tags_are_skipped_and_counts_not_believed() {
        // Version 9: null transactional id, acks 1, timeout 0, no topics, one unknown tag.
        assert!(decode(Bytes::from_static(&[0, 0, 1, 0, 0, 0, 0, 1, 1, 7, 2, b'a', b'b']), 9).is_ok());
        let claim = [0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert_eq!(decode(Bytes::copy_from_slice(&claim), 9), Err(WireError::Malformed("array length")));
        let mut many = vec![0, 0, 1, 0, 0, 0, 0];
        super::super::primitive::put_unsigned_varint(&mut many, TARGETS_MAX as u64 + 2);
        many.resize(many.len() + 3 * TARGETS_MAX + 10, 1);
        assert!(matches!(decode(Bytes::from(many), 9), Err(WireError::TooLarge(_))));
    }

    #[test]
    fn responses_agree_with_the_codec_in_every_version() {
        let appended = PartitionResult {
            base_offset: 77,
            log_append_time_ms: 5,
            log_start_offset: 3,
            ..PartitionResult::failed(0, ErrorCode::None, None)
        };
        let mut rejected = PartitionResult::failed(1, ErrorCode::InvalidRecord, Some("all of it".into()));
        rejected.record_errors = vec![(0, "no key".into()), (4, "é".repeat(20_000))];
        for version in versions() {
            let id = Uuid([9; 16]);
            let topics =
                [TopicResult { name: "t".into(), id, partitions: vec![appended.clone(), rejected.clone()] }, TopicResult::default()];
            let frame = encode_response(version, 42, &topics, 11);
            assert_eq!(frame[..4], (frame.len() as i32 - 4).to_be_bytes());
            let (correlation_id, body) = parse_response(ApiKey::Produce, version, frame.slice(4..)).unwrap();
            let seen = codec::decode::<codec::ProduceResponse>(body.clone(), version).unwrap();
            assert_eq!((correlation_id, seen.throttle_time_ms, seen.responses.len()), (42, 11, 2));
            assert_eq!(encode(&seen, version).unwrap(), body, "nothing that the codec does not write");
            let topic = &seen.responses[0];
            assert_eq!((&topic.name[..], Uuid::from(topic.topic_id)), if version < 13 { ("t", Uuid::ZERO) } else { ("", id) });
            let [first, second] = &topic.partition_responses[..] else { panic!() };
            assert_eq!((first.index, first.error_code, first.base_offset, first.log_append_time_ms), (0, 0, 77, 5));
            assert_eq!(first.log_start_offset, if version >= 5 { 3 } else { -1 });
            assert_eq!((second.index, second.error_code, second.base_offset), (1, 87, -1));
            assert_eq!(second.record_errors.len(), if version >= 8 { 2 } else { 0 });
            assert_eq!(second.error_message.as_deref(), (version >= 8).then_some("all of it"));
        }
    }
}

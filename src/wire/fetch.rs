//! The Fetch response, by hand: its bytes go around record slices that are sent from where they lie.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::StrBytes;
use super::frame::{begin, finish};
use super::primitive::{put_array_len, put_no_tags, put_string, put_unsigned_varint};
use super::versions::ApiKey;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;

/// Record slices shorter than this are copied: cheaper than one more piece for the kernel to gather.
const COPY_BELOW: usize = 256;

/// First version with an error and a session for the whole response (KIP-227).
const SESSION_FROM: i16 = 7;
/// First version with the partition's log start offset (KIP-107).
const LOG_START_FROM: i16 = 5;
/// First version with a preferred read replica (KIP-392).
const READ_REPLICA_FROM: i16 = 11;
/// First version that names topics by id (KIP-516).
const TOPIC_ID_FROM: i16 = 13;

const TAG_DIVERGING_EPOCH: u8 = 0;
const TAG_CURRENT_LEADER: u8 = 1;

/// First version without the replica's id at the beginning of a request.
const NO_REPLICA_ID_FROM: i16 = 15;

/// The session that the body of a request names; 0 if none.
pub fn session_id(version: i16, body: &[u8]) -> i32 {
    // Before it: maximum time, minimum and maximum bytes, and the isolation level.
    let at = if version >= NO_REPLICA_ID_FROM { 13 } else { 17 };
    let id = body.get(at..).and_then(|rest| rest.first_chunk::<4>()).filter(|_| version >= SESSION_FROM);
    id.map_or(0, |id| i32::from_be_bytes(*id))
}

/// A Fetch response of version 4 to 18.
#[derive(Clone, Debug)]
pub struct FetchResponse {
    /// How long the client is muted, ms.
    pub throttle_ms: i32,
    /// An error of the whole response; not sent before version 7.
    pub code: ErrorCode,
    /// The fetch session, 0 for none; not sent before version 7.
    pub session_id: i32,
    /// In an incremental session those with news, otherwise all that were asked for.
    pub topics: Vec<FetchTopicData>,
}

/// The part of one topic.
#[derive(Clone, Debug, Default)]
pub struct FetchTopicData {
    /// Not sent from version 13 on.
    pub name: StrBytes,
    /// Not sent before version 13.
    pub id: Uuid,
    /// One per partition.
    pub partitions: Vec<FetchPartitionData>,
}

/// The part of one partition.
#[derive(Clone, Debug)]
pub struct FetchPartitionData {
    /// Index of the partition in its topic.
    pub index: i32,
    /// Success or why there is nothing.
    pub code: ErrorCode,
    /// End of what consumers may read; -1 if unknown.
    pub high_watermark: i64,
    /// End of what `read_committed` consumers may read; -1 if unknown.
    pub last_stable_offset: i64,
    /// First offset of the partition; -1 if unknown.
    pub log_start_offset: i64,
    /// Whole batches, in order; nothing is sent as length 0, never as null (librdkafka drops the response at a null).
    pub records: Vec<Bytes>,
    /// Where the client's log parts from this one: largest epoch up to the client's last, and its end offset. From version 12 on.
    pub diverging_epoch: Option<(i32, i64)>,
    /// Broker id and epoch of the leader to go to. From version 12 on.
    pub current_leader: Option<(i32, i32)>,
}

impl FetchPartitionData {
    /// The data of a partition that has none to give.
    pub fn failed(index: i32, code: ErrorCode) -> FetchPartitionData {
        let (high_watermark, last_stable_offset, log_start_offset) = (-1, -1, -1);
        let (records, diverging_epoch, current_leader) = (Vec::new(), None, None);
        FetchPartitionData { index, code, high_watermark, last_stable_offset, log_start_offset, records, diverging_epoch, current_leader }
    }
}

/// A whole response frame (size, header, body) in pieces to be sent one after the other. Panics if it is longer than 2 GiB, which
/// `fetch.max.bytes` rules out. `charge` has what is on the heap counted.
pub fn encode(version: i16, correlation_id: i32, response: FetchResponse, charge: impl FnOnce(Bytes) -> Bytes) -> Vec<Bytes> {
    let flexible = ApiKey::Fetch.is_flexible(version);
    let mut out =
        Assembly { version, flexible, text: begin(ApiKey::Fetch, version, correlation_id, capacity(&response)), records: Vec::new() };
    out.text.put_i32(response.throttle_ms);
    if version >= SESSION_FROM {
        out.text.put_i16(response.code.code());
        out.text.put_i32(response.session_id);
    }
    put_array_len(&mut out.text, flexible, response.topics.len());
    for topic in response.topics {
        out.topic(topic);
    }
    put_no_tags(&mut out.text, flexible);
    out.pieces(charge)
}

/// What the response takes without the records that are not copied, generously.
fn capacity(response: &FetchResponse) -> usize {
    let partition =
        |partition: &FetchPartitionData| 96 + partition.records.iter().map(Bytes::len).filter(|len| *len < COPY_BELOW).sum::<usize>();
    let topic = |topic: &FetchTopicData| 32 + topic.name.len() + topic.partitions.iter().map(partition).sum::<usize>();
    32 + response.topics.iter().map(topic).sum::<usize>()
}

struct Assembly {
    version: i16,
    flexible: bool,
    /// Everything but the records that are not copied.
    text: BytesMut,
    /// Those records, each with the place in `text` that it goes to.
    records: Vec<(usize, Bytes)>,
}

impl Assembly {
    fn topic(&mut self, topic: FetchTopicData) {
        if self.version >= TOPIC_ID_FROM {
            self.text.put_slice(&topic.id.0);
        } else {
            put_string(&mut self.text, self.flexible, Some(&topic.name));
        }
        put_array_len(&mut self.text, self.flexible, topic.partitions.len());
        for partition in topic.partitions {
            self.partition(partition);
        }
        put_no_tags(&mut self.text, self.flexible);
    }

    fn partition(&mut self, partition: FetchPartitionData) {
        let text = &mut self.text;
        text.put_i32(partition.index);
        text.put_i16(partition.code.code());
        text.put_i64(partition.high_watermark);
        text.put_i64(partition.last_stable_offset);
        if self.version >= LOG_START_FROM {
            text.put_i64(partition.log_start_offset);
        }
        put_null_array(text, self.flexible); // aborted transactions
        if self.version >= READ_REPLICA_FROM {
            text.put_i32(-1);
        }
        let len = partition.records.iter().map(Bytes::len).sum::<usize>();
        if self.flexible {
            put_unsigned_varint(text, len as u64 + 1);
        } else {
            text.put_i32(len as i32);
        }
        for slice in partition.records {
            if slice.len() < COPY_BELOW {
                self.text.put_slice(&slice);
            } else {
                self.records.push((self.text.len(), slice));
            }
        }
        if self.flexible {
            put_partition_tags(&mut self.text, partition.diverging_epoch, partition.current_leader);
        }
    }

    fn pieces(mut self, charge: impl FnOnce(Bytes) -> Bytes) -> Vec<Bytes> {
        let outside = self.records.iter().map(|(_, slice)| slice.len()).sum();
        finish(&mut self.text, outside).expect("fetch.max.bytes bounds a response well below 2 GiB");
        let text = charge(self.text.freeze());
        let mut pieces = Vec::with_capacity(2 * self.records.len() + 1);
        let mut from = 0;
        for (at, slice) in self.records {
            if from < at {
                pieces.push(text.slice(from..at));
            }
            pieces.push(slice);
            from = at;
        }
        if from < text.len() {
            pieces.push(text.slice(from..));
        }
        pieces
    }
}

fn put_null_array(text: &mut BytesMut, flexible: bool) {
    if flexible { text.put_u8(0) } else { text.put_i32(-1) }
}

fn put_partition_tags(text: &mut BytesMut, diverging_epoch: Option<(i32, i64)>, current_leader: Option<(i32, i32)>) {
    text.put_u8(u8::from(diverging_epoch.is_some()) + u8::from(current_leader.is_some()));
    // Each value is a struct with an empty tag section of its own.
    if let Some((epoch, end_offset)) = diverging_epoch {
        text.put_slice(&[TAG_DIVERGING_EPOCH, 4 + 8 + 1]);
        text.put_i32(epoch);
        text.put_i64(end_offset);
        text.put_u8(0);
    }
    if let Some((id, epoch)) = current_leader {
        text.put_slice(&[TAG_CURRENT_LEADER, 4 + 4 + 1]);
        text.put_i32(id);
        text.put_i32(epoch);
        text.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec;
    use super::super::frame::parse_response;
    use super::*;

    fn sample() -> FetchResponse {
        let big = Bytes::from(vec![b'b'; 1000]);
        let small = Bytes::from_static(b"small");
        let data = FetchPartitionData {
            high_watermark: 50,
            last_stable_offset: 40,
            log_start_offset: 30,
            records: vec![big.clone(), small.clone(), big.clone(), big],
            ..FetchPartitionData::failed(0, ErrorCode::None)
        };
        let empty = FetchPartitionData { high_watermark: 9, ..FetchPartitionData::failed(1, ErrorCode::None) };
        let mut diverged = FetchPartitionData::failed(2, ErrorCode::None);
        diverged.diverging_epoch = Some((3, 99));
        let mut moved = FetchPartitionData::failed(3, ErrorCode::NotLeaderOrFollower);
        (moved.diverging_epoch, moved.current_leader, moved.records) = (Some((1, 2)), Some((7, 8)), vec![small]);
        let topic = FetchTopicData { name: "t".into(), id: Uuid([5; 16]), partitions: vec![data, empty, diverged, moved] };
        let topics = vec![FetchTopicData::default(), topic];
        FetchResponse { throttle_ms: 3, code: ErrorCode::None, session_id: 77, topics }
    }

    fn decode(version: i16, frame: &Bytes) -> codec::FetchResponse {
        assert_eq!(frame[..4], (frame.len() as i32 - 4).to_be_bytes());
        let (correlation_id, body) = parse_response(ApiKey::Fetch, version, frame.slice(4..)).unwrap();
        assert_eq!(correlation_id, 21);
        let seen = codec::decode::<codec::FetchResponse>(body.clone(), version).unwrap();
        assert_eq!(codec::encode(&seen, version).unwrap(), body, "nothing that the codec does not write");
        seen
    }

    #[test]
    fn responses_agree_with_the_codec_in_every_version() {
        for version in ApiKey::Fetch.accepted() {
            let pieces = encode(version, 21, sample(), |text| text);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            let seen = decode(version, &Bytes::from(pieces.concat()));
            assert_eq!((seen.throttle_time_ms, seen.responses.len()), (3, 2));
            assert_eq!(seen.session_id, if version >= 7 { 77 } else { 0 });
            let topic = &seen.responses[1];
            assert_eq!((&topic.topic[..], Uuid::from(topic.topic_id)), if version < 13 { ("t", Uuid::ZERO) } else { ("", Uuid([5; 16])) });
            let [data, empty, diverged, moved] = &topic.partitions[..] else { panic!() };
            assert_eq!((data.high_watermark, data.last_stable_offset), (50, 40));
            assert_eq!(data.log_start_offset, if version >= 5 { 30 } else { -1 });
            assert_eq!(data.records.as_ref().unwrap().len(), 3005);
            assert_eq!(data.records.as_ref().unwrap()[998..1007], *b"bbsmallbb");
            assert_eq!((empty.partition_index, empty.records.as_deref()), (1, Some(&b""[..])), "never null");
            assert!([data, empty, diverged, moved].iter().all(|p| p.preferred_read_replica == -1 && p.aborted_transactions.is_none()));
            if version >= 12 {
                assert_eq!((diverged.diverging_epoch.epoch, diverged.diverging_epoch.end_offset), (3, 99));
                assert_eq!((moved.current_leader.leader_id, moved.current_leader.leader_epoch), (7, 8));
                assert_eq!((data.current_leader.leader_id, data.diverging_epoch.epoch), (-1, -1), "the codec's defaults");
            }
            assert_eq!((moved.error_code, moved.records.as_deref()), (6, Some(&b"small"[..])));
        }
    }

    #[test]
    fn the_session_of_a_request_is_found_in_every_version() {
        for version in ApiKey::Fetch.accepted() {
            let mut request = codec::FetchRequest::default();
            request.session_id = if version >= 7 { 0x0102_0304 } else { 0 };
            (request.max_wait_ms, request.min_bytes, request.max_bytes) = (-1, -1, -1);
            let body = codec::encode(&request, version).unwrap();
            assert_eq!(session_id(version, &body), request.session_id, "version {version}");
            assert_eq!(session_id(version, &body[..13]), 0, "cut");
        }
    }

    #[test]
    fn large_records_are_not_copied() {
        let response = sample();
        let sent = response.topics[1].partitions[0].records.clone();
        let pieces = encode(12, 1, response, |text| text);
        assert_eq!(pieces.len(), 6, "text, big, text with small, big, big, text");
        assert_eq!(pieces[1].as_ptr(), sent[0].as_ptr());
        assert_eq!(pieces[4].as_ptr(), sent[3].as_ptr());
    }

    #[test]
    fn an_error_of_the_whole_response() {
        for version in ApiKey::Fetch.accepted() {
            let response = FetchResponse { throttle_ms: 0, code: ErrorCode::FetchSessionIdNotFound, session_id: 0, topics: Vec::new() };
            let pieces = encode(version, 21, response, |text| text);
            assert_eq!(pieces.len(), 1);
            assert_eq!(decode(version, &pieces[0]).error_code, if version >= 7 { 70 } else { 0 });
        }
    }
}

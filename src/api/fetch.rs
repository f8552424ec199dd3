//! Fetch: the session's partitions become reads at their owners; results become the response.

use std::sync::Arc;

use super::fetch_session::{FetchOutcome, FetchTarget, Forgotten, SessionRequest};
use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::partition::op::{ReadItem, ReadResult};
use crate::wire::codec::{FetchRequest, StrBytes};
use crate::wire::fetch::{FetchPartitionData, FetchResponse, FetchTopicData};

/// From this version on topics are named by id.
const TOPIC_ID_FROM: i16 = 13;

/// What a request says to its session.
pub fn session_request(request: &FetchRequest, version: i16) -> SessionRequest {
    let mut session = SessionRequest {
        session_id: request.session_id,
        epoch: request.session_epoch,
        by_topic_id: version >= TOPIC_ID_FROM,
        ..SessionRequest::default()
    };
    if version < 7 {
        // Sessions came with version 7: before, every fetch is a full one.
        (session.session_id, session.epoch) = (super::fetch_session::NO_SESSION, super::fetch_session::FINAL_EPOCH);
    }
    for topic in &request.topics {
        let name: Arc<str> = topic.topic.as_str().into();
        session.targets.extend(topic.partitions.iter().map(|p| FetchTarget {
            topic_id: topic.topic_id.into(),
            name: name.clone(),
            partition: p.partition,
            fetch_offset: p.fetch_offset,
            max_bytes: p.partition_max_bytes,
            current_leader_epoch: p.current_leader_epoch,
            last_fetched_epoch: p.last_fetched_epoch,
            log_start_offset: p.log_start_offset,
        }));
    }
    for topic in &request.forgotten_topics_data {
        let name: Arc<str> = topic.topic.as_str().into();
        let gone = |&partition: &i32| Forgotten { topic_id: topic.topic_id.into(), name: name.clone(), partition };
        session.forgotten.extend(topic.partitions.iter().map(gone));
    }
    session
}

/// The read for each target, or why there is none.
pub fn plan<'a>(targets: &'a [FetchTarget], version: i16, image: &'a Image) -> impl Iterator<Item = Result<ReadItem, ErrorCode>> + 'a {
    let one = move |target: &FetchTarget| {
        let topic = if version >= TOPIC_ID_FROM {
            image.topic_by_id(target.topic_id).ok_or(ErrorCode::UnknownTopicId)?
        } else {
            image.topic(&target.name).ok_or(ErrorCode::UnknownTopicOrPartition)?
        };
        topic.partition(target.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        Ok(ReadItem {
            key: (topic.id, target.partition),
            offset: target.fetch_offset,
            max_bytes: target.max_bytes.max(0) as usize,
            current_leader_epoch: target.current_leader_epoch,
            last_fetched_epoch: target.last_fetched_epoch,
        })
    };
    targets.iter().map(one)
}

/// What the session has to know of a result.
pub fn outcome(result: &ReadResult) -> FetchOutcome {
    FetchOutcome {
        code: result.code,
        high_watermark: result.high_watermark,
        log_start_offset: result.log_start_offset,
        has_records: !result.records.is_empty(),
        must_answer: result.diverging.is_some(),
    }
}

/// The response with the targets in `include` (rising), whose results are taken.
pub fn respond(session_id: i32, targets: &[FetchTarget], results: &mut [ReadResult], include: &[usize]) -> FetchResponse {
    let same = |a: &usize, b: &usize| {
        let (a, b) = (&targets[*a], &targets[*b]);
        a.topic_id == b.topic_id && a.name == b.name
    };
    let mut one = |index: &usize| {
        let result = &mut results[*index];
        FetchPartitionData {
            index: targets[*index].partition,
            code: result.code,
            high_watermark: result.high_watermark,
            // Without transactions everything readable is stable.
            last_stable_offset: result.high_watermark,
            log_start_offset: result.log_start_offset,
            records: std::mem::take(&mut result.records),
            diverging_epoch: result.diverging,
            current_leader: None,
        }
    };
    let topic = |of_topic: &[usize]| {
        let target = &targets[of_topic[0]];
        let partitions = of_topic.iter().map(&mut one).collect();
        FetchTopicData { name: StrBytes::from(&*target.name), id: target.topic_id, partitions }
    };
    let topics = include.chunk_by(same).map(topic).collect();
    FetchResponse { throttle_ms: 0, code: ErrorCode::None, session_id, topics }
}

/// A response that is an error as a whole.
pub fn refuse(code: ErrorCode) -> FetchResponse {
    FetchResponse { throttle_ms: 0, code, session_id: 0, topics: Vec::new() }
}

//! OffsetForLeaderEpoch: where a leader epoch ends, so that a client can tell whether its log went another way (KIP-320).

use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::partition::op::{EpochItem, EpochResult};
use crate::wire::codec::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use crate::wire::codec::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

/// One item for each partition that exists; the numbers are the partition's place in the request.
pub fn plan(request: &OffsetForLeaderEpochRequest, image: &Image) -> Vec<(usize, EpochItem)> {
    let partitions = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)));
    let item = |(place, (topic, partition)): (
        usize,
        (
            &crate::wire::codec::offset_for_leader_epoch_request::OffsetForLeaderTopic,
            &crate::wire::codec::offset_for_leader_epoch_request::OffsetForLeaderPartition,
        ),
    )| {
        let known = image.topic(&topic.topic)?;
        known.partition(partition.partition)?;
        let (current_leader_epoch, epoch) = (partition.current_leader_epoch, partition.leader_epoch);
        Some((place, EpochItem { key: (known.id, partition.partition), current_leader_epoch, epoch }))
    };
    partitions.enumerate().filter_map(item).collect()
}

/// The response, from the results by place.
pub fn respond(request: &OffsetForLeaderEpochRequest, results: Vec<(usize, EpochResult)>) -> OffsetForLeaderEpochResponse {
    let mut by_place: std::collections::HashMap<usize, EpochResult> = results.into_iter().collect();
    let unknown = || EpochResult { code: ErrorCode::UnknownTopicOrPartition, epoch: -1, end_offset: -1 };
    let mut response = OffsetForLeaderEpochResponse::default();
    let mut place = 0;
    for topic in &request.topics {
        let mut answer = OffsetForLeaderTopicResult::default();
        answer.topic = topic.topic.clone();
        for partition in &topic.partitions {
            let result = by_place.remove(&place).unwrap_or_else(unknown);
            let mut one = EpochEndOffset::default();
            one.partition = partition.partition;
            one.error_code = result.code.code();
            (one.leader_epoch, one.end_offset) = (result.epoch, result.end_offset);
            answer.partitions.push(one);
            place += 1;
        }
        response.topics.push(answer);
    }
    response
}

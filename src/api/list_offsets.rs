//! ListOffsets: where a timestamp, or a special place such as the end, lies in each partition.

use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::partition::op::{OffsetItem, OffsetResult};
use crate::wire::codec::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use crate::wire::codec::{ListOffsetsRequest, ListOffsetsResponse};

/// From this version on the answer names the leader epoch of the offset.
const LEADER_EPOCH_FROM: i16 = 4;

/// The lowest special timestamp that each version knows: MAX_TIMESTAMP from 7, EARLIEST_LOCAL from 8, LATEST_TIERED from 9,
/// EARLIEST_PENDING_UPLOAD from 11.
fn lowest_special(version: i16) -> i64 {
    match version {
        ..=6 => -2,
        7 => -3,
        8 => -4,
        9..=10 => -5,
        _ => -6,
    }
}

/// One item for each partition that exists; the numbers are the partition's place in the request.
pub fn plan(request: &ListOffsetsRequest, version: i16, image: &Image) -> Vec<(usize, OffsetItem)> {
    let mut items = Vec::new();
    let partitions = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)));
    for (place, (topic, partition)) in partitions.enumerate() {
        let Some(known) = image.topic(&topic.name) else { continue };
        if known.partition(partition.partition_index).is_some() && partition.timestamp >= lowest_special(version) {
            let key = (known.id, partition.partition_index);
            let current_leader_epoch = partition.current_leader_epoch;
            items.push((place, OffsetItem { key, current_leader_epoch, timestamp: partition.timestamp }));
        }
    }
    items
}

/// The response, from the results by place.
pub fn respond(request: &ListOffsetsRequest, version: i16, image: &Image, results: Vec<(usize, OffsetResult)>) -> ListOffsetsResponse {
    let mut by_place: std::collections::HashMap<usize, OffsetResult> = results.into_iter().collect();
    let mut response = ListOffsetsResponse::default();
    let mut place = 0;
    for topic in &request.topics {
        let mut answer = ListOffsetsTopicResponse::default();
        answer.name = topic.name.clone();
        for partition in &topic.partitions {
            let mut one = ListOffsetsPartitionResponse::default();
            one.partition_index = partition.partition_index;
            (one.offset, one.timestamp, one.leader_epoch) = (-1, -1, -1);
            match by_place.remove(&place) {
                Some(result) => {
                    one.error_code = result.code.code();
                    (one.offset, one.timestamp) = (result.offset, result.timestamp);
                    if version >= LEADER_EPOCH_FROM {
                        one.leader_epoch = result.leader_epoch;
                    }
                }
                None => {
                    let exists = image.topic(&topic.name).is_some_and(|t| t.partition(partition.partition_index).is_some());
                    let unsupported = exists && partition.timestamp < lowest_special(version);
                    let code = if unsupported { ErrorCode::UnsupportedVersion } else { ErrorCode::UnknownTopicOrPartition };
                    one.error_code = code.code();
                }
            }
            answer.partitions.push(one);
            place += 1;
        }
        response.topics.push(answer);
    }
    response
}

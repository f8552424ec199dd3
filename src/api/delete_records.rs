//! DeleteRecords: partitions are cut at the front.

use std::collections::HashMap;

use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::cluster::names;
use crate::partition::op::{DeletionItem, DeletionResult};
use crate::wire::codec::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use crate::wire::codec::{DeleteRecordsRequest, DeleteRecordsResponse};

/// One item for each partition that may be asked for; the numbers are the partition's place in the request.
pub fn plan(request: &DeleteRecordsRequest, image: &Image) -> Vec<(usize, DeletionItem)> {
    let mut items = Vec::new();
    let partitions = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)));
    for (place, (topic, partition)) in partitions.enumerate() {
        let Some(known) = image.topic(&topic.name) else { continue };
        if known.partition(partition.partition_index).is_some() && !names::is_internal(&topic.name) {
            items.push((place, DeletionItem { key: (known.id, partition.partition_index), offset: partition.offset }));
        }
    }
    items
}

/// The response, from the results by place.
pub fn respond(request: &DeleteRecordsRequest, image: &Image, results: Vec<(usize, DeletionResult)>) -> DeleteRecordsResponse {
    let mut by_place: HashMap<usize, DeletionResult> = results.into_iter().collect();
    let mut response = DeleteRecordsResponse::default();
    let mut place = 0;
    for topic in &request.topics {
        let mut answer = DeleteRecordsTopicResult::default();
        answer.name = topic.name.clone();
        for partition in &topic.partitions {
            let refused = || {
                let exists = image.topic(&topic.name).is_some_and(|t| t.partition(partition.partition_index).is_some());
                let internal = exists && names::is_internal(&topic.name);
                let code = if internal { ErrorCode::InvalidTopicException } else { ErrorCode::UnknownTopicOrPartition };
                DeletionResult { code, low_watermark: -1 }
            };
            let result = by_place.remove(&place).unwrap_or_else(refused);
            let mut one = DeleteRecordsPartitionResult::default();
            one.partition_index = partition.partition_index;
            (one.low_watermark, one.error_code) = (result.low_watermark, result.code.code());
            answer.partitions.push(one);
            place += 1;
        }
        response.topics.push(answer);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, image, in_every_version};
    use crate::wire::codec::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
    use crate::wire::versions::ApiKey;

    fn request(topics: &[(&str, &[(i32, i64)])]) -> DeleteRecordsRequest {
        let mut request = DeleteRecordsRequest::default();
        for (name, partitions) in topics {
            let mut topic = DeleteRecordsTopic::default();
            topic.name = (*name).into();
            for (index, offset) in *partitions {
                let mut partition = DeleteRecordsPartition::default();
                (partition.partition_index, partition.offset) = (*index, *offset);
                topic.partitions.push(partition);
            }
            request.topics.push(topic);
        }
        request
    }

    #[test]
    fn each_partition_has_its_answer() {
        let broker = broker(&[]);
        let image = image(&broker, &[("a", 1, 2), ("__consumer_offsets", 2, 1)]);
        let request = request(&[("none", &[(0, 1)]), ("a", &[(1, 7), (2, 7), (0, -1)]), ("__consumer_offsets", &[(0, 1), (1, 1)])]);
        let items = plan(&request, &image);
        let asked: Vec<_> = items.iter().map(|(place, item)| (*place, item.key.1, item.offset)).collect();
        assert_eq!(asked, [(1, 1, 7), (3, 0, -1)]);
        let results = [(3, 40, ErrorCode::None), (1, -1, ErrorCode::OffsetOutOfRange)];
        let results = || results.map(|(place, low_watermark, code)| (place, DeletionResult { code, low_watermark })).to_vec();
        let response = respond(&request, &image, results());
        let answers = response.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.partition_index, p.low_watermark, p.error_code));
        assert_eq!(answers.collect::<Vec<_>>(), [(0, -1, 3), (1, -1, 1), (2, -1, 3), (0, 40, 0), (0, -1, 17), (1, -1, 3)]);
        in_every_version(ApiKey::DeleteRecords, |_| respond(&request, &image, results()));
    }
}

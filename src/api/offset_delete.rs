//! OffsetDelete (47): a group forgets offsets.

use super::groups::{name, named};
use crate::base::error::ErrorCode;
use crate::cluster::image::Image;
use crate::coord::op::{Answer, Op, Reply};
use crate::wire::codec::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use crate::wire::codec::{OffsetDeleteRequest, OffsetDeleteResponse};

/// What the group's coordinator is asked: the partitions that exist.
pub fn plan(request: &OffsetDeleteRequest, image: &Image) -> Result<Op, ErrorCode> {
    named(&request.group_id)?;
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let Some(found) = image.topic(&topic.name) else { continue };
        let known = topic.partitions.iter().filter(|p| found.partition(p.partition_index).is_some());
        wanted.extend(known.map(|p| (name(&topic.name), found.id, p.partition_index)));
    }
    Ok(Op::DeleteOffsets(wanted))
}

fn exists(image: &Image, topic: &str, partition: i32) -> bool {
    image.topic(topic).is_some_and(|t| t.partition(partition).is_some())
}

/// The answer, with the image that [`plan`] saw.
pub fn respond(request: &OffsetDeleteRequest, image: &Image, reply: Reply) -> OffsetDeleteResponse {
    let mut response = OffsetDeleteResponse::default();
    let mut codes = match reply {
        Ok(Answer::Codes(codes)) => codes.into_iter(),
        Ok(_) => Vec::new().into_iter(),
        Err(code) => {
            response.error_code = code.code();
            return response;
        }
    };
    for topic in &request.topics {
        let mut entry = OffsetDeleteResponseTopic::default();
        entry.name = topic.name.clone();
        for partition in &topic.partitions {
            let mut result = OffsetDeleteResponsePartition::default();
            result.partition_index = partition.partition_index;
            let known = exists(image, &topic.name, partition.partition_index);
            let code = if known { codes.next().unwrap_or(ErrorCode::UnknownServerError) } else { ErrorCode::UnknownTopicOrPartition };
            result.error_code = code.code();
            entry.partitions.push(result);
        }
        response.topics.push(entry);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{broker, id, image, in_every_version};
    use crate::wire::codec::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
    use crate::wire::versions::ApiKey;

    #[test]
    fn unknown_partitions_are_not_asked_for() {
        let image = image(&broker(&[]), &[("t", 1, 1)]);
        let mut request = OffsetDeleteRequest::default();
        request.group_id = "g".into();
        let mut topic = OffsetDeleteRequestTopic::default();
        topic.name = "t".into();
        for index in [1, 0] {
            let mut partition = OffsetDeleteRequestPartition::default();
            partition.partition_index = index;
            topic.partitions.push(partition);
        }
        request.topics = vec![topic];
        assert!(matches!(plan(&request, &image), Ok(Op::DeleteOffsets(wanted)) if wanted == [("t".into(), id(1), 0)]));
        let codes = vec![ErrorCode::GroupSubscribedToTopic];
        let response = respond(&request, &image, Ok(Answer::Codes(codes.clone())));
        assert_eq!(response.topics[0].partitions.iter().map(|p| p.error_code).collect::<Vec<_>>(), [3, 86]);
        in_every_version(ApiKey::OffsetDelete, |_| respond(&request, &image, Ok(Answer::Codes(codes.clone()))));
        assert_eq!(respond(&request, &image, Err(ErrorCode::GroupIdNotFound)).error_code, 69);
    }
}

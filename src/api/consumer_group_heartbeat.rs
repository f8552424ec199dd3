//! ConsumerGroupHeartbeat (68): a member of a group of the new protocol (KIP-848) joins, reports or leaves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error_text;
use super::groups::{client_host, text};
use crate::base::config::table::CONSUMER_ASSIGNORS;
use crate::base::error::ErrorCode;
use crate::base::ids::Uuid;
use crate::coord::modern::Refusal;
use crate::coord::modern::heartbeat::Request;
use crate::coord::modern::leave::Leave;
use crate::coord::modern::member::{JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH, Partitions};
use crate::coord::op::{Answer, Op, Reply};
use crate::wire::codec::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use crate::wire::codec::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, StrBytes};

/// From this version on members make their ids themselves.
const OWN_ID_FROM: i16 = 1;
/// Longest text in the log's keys.
const TEXT_MAX: usize = i16::MAX as usize;

/// What the group's coordinator is asked. The texts are Kafka's.
pub fn plan(request: &ConsumerGroupHeartbeatRequest, version: i16, client_id: &str, address: IpAddr) -> Result<Op, Refusal> {
    check(request, version)?;
    let owned_text = |text: &StrBytes| text.as_str().to_owned();
    let (group_id, member_id) = (owned_text(&request.group_id), owned_text(&request.member_id));
    let instance_id = request.instance_id.as_ref().map(owned_text);
    if matches!(request.member_epoch, LEAVE_EPOCH | LEAVE_STATIC_EPOCH) {
        let for_a_while = request.member_epoch == LEAVE_STATIC_EPOCH;
        return Ok(Op::ConsumerLeave(Leave { group_id, member_id, instance_id, for_a_while }));
    }
    Ok(Op::ConsumerHeartbeat(Box::new(Request {
        group_id,
        member_id,
        member_epoch: request.member_epoch,
        instance_id,
        rack_id: request.rack_id.as_ref().map(owned_text),
        rebalance_timeout_ms: Some(request.rebalance_timeout_ms).filter(|ms| *ms != -1),
        topic_names: request.subscribed_topic_names.as_ref().map(|names| names.iter().map(owned_text).collect()),
        topic_regex: request.subscribed_topic_regex.as_ref().map(owned_text),
        server_assignor: request.server_assignor.as_ref().map(owned_text),
        owned: owned(request),
        client_id: client_id.to_owned(),
        client_host: client_host(address).to_string(),
    })))
}

fn owned(request: &ConsumerGroupHeartbeatRequest) -> Option<Partitions> {
    let mut owned = Partitions::new();
    for topic in request.topic_partitions.as_ref()? {
        let partitions: BTreeSet<i32> = topic.partitions.iter().copied().collect();
        if !partitions.is_empty() {
            owned.entry(Uuid::from(topic.topic_id)).or_default().extend(partitions);
        }
    }
    Some(owned)
}

fn check(request: &ConsumerGroupHeartbeatRequest, version: i16) -> Result<(), Refusal> {
    let refused = |code, message: &str| Err(Refusal { code, message: message.to_owned() });
    let invalid = |message: &str| refused(ErrorCode::InvalidRequest, message);
    let is_empty = |text: Option<&StrBytes>| text.is_some_and(|text| text.trim().is_empty());
    let epoch = request.member_epoch;
    let has_id = version >= OWN_ID_FROM || epoch > JOIN_EPOCH || epoch == LEAVE_EPOCH;
    if has_id && is_empty(Some(&request.member_id)) {
        return invalid("MemberId can't be empty.");
    }
    if is_empty(Some(&request.group_id)) {
        return invalid("GroupId can't be empty.");
    }
    if is_empty(request.instance_id.as_ref()) {
        return invalid("InstanceId can't be empty.");
    }
    if is_empty(request.rack_id.as_ref()) {
        return invalid("RackId can't be empty.");
    }
    if epoch == JOIN_EPOCH {
        if request.rebalance_timeout_ms == -1 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
    } else if epoch == LEAVE_STATIC_EPOCH && request.instance_id.is_none() {
        return invalid("InstanceId can't be null.");
    } else if epoch < LEAVE_STATIC_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    let long = |text: &StrBytes| text.len() > TEXT_MAX;
    let texts = [Some(&request.group_id), Some(&request.member_id), request.instance_id.as_ref(), request.rack_id.as_ref()];
    if texts.into_iter().flatten().chain(request.subscribed_topic_names.iter().flatten()).any(long) {
        return invalid("A name is longer than 32767 bytes.");
    }
    match request.server_assignor.as_deref() {
        Some(assignor) if !CONSUMER_ASSIGNORS.contains(&assignor) => {
            let supported = CONSUMER_ASSIGNORS.join(", ");
            refused(
                ErrorCode::UnsupportedAssignor,
                &format!("ServerAssignor {assignor} is not supported. Supported assignors: {supported}."),
            )
        }
        _ => Ok(()),
    }
}

/// The answer.
pub fn respond(reply: Reply) -> ConsumerGroupHeartbeatResponse {
    let mut response = ConsumerGroupHeartbeatResponse::default();
    match reply {
        Ok(Answer::Heard(Ok(heard))) => {
            response.member_id = Some(text(&heard.member_id));
            response.member_epoch = heard.epoch;
            response.heartbeat_interval_ms = heard.heartbeat_interval_ms;
            response.assignment = heard.assignment.map(assignment);
        }
        Ok(Answer::Heard(Err(refusal))) => {
            response.error_code = refusal.code.code();
            response.error_message = error_text(&refusal.message);
        }
        Ok(_) => response.error_code = ErrorCode::UnknownServerError.code(),
        Err(code) => response.error_code = code.code(),
    }
    response
}

fn assignment(partitions: Partitions) -> Assignment {
    let topic = |(id, partitions): (Uuid, BTreeSet<i32>)| {
        let mut entry = TopicPartitions::default();
        (entry.topic_id, entry.partitions) = (id.into(), partitions.into_iter().collect());
        entry
    };
    let mut assignment = Assignment::default();
    assignment.topic_partitions = partitions.into_iter().map(topic).collect();
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::in_every_version;
    use crate::coord::modern;
    use crate::wire::codec::consumer_group_heartbeat_request;
    use crate::wire::versions::ApiKey;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn join() -> ConsumerGroupHeartbeatRequest {
        let mut request = ConsumerGroupHeartbeatRequest::default();
        (request.group_id, request.member_id, request.rebalance_timeout_ms) = ("g".into(), "m".into(), 5);
        request.subscribed_topic_names = Some(vec!["b".into(), "a".into(), "b".into()]);
        request.topic_partitions = Some(vec![]);
        request
    }

    #[test]
    fn what_the_coordinator_is_asked() {
        let Ok(Op::ConsumerHeartbeat(asked)) = plan(&join(), 1, "c", HERE) else { panic!("refused") };
        assert_eq!((asked.rebalance_timeout_ms, asked.client_host.as_str()), (Some(5), "/127.0.0.1"));
        assert_eq!(asked.topic_names, Some(BTreeSet::from(["a".to_owned(), "b".to_owned()])));
        let mut report = ConsumerGroupHeartbeatRequest::default();
        (report.group_id, report.member_id, report.member_epoch) = ("g".into(), "m".into(), 3);
        let mut topic = consumer_group_heartbeat_request::TopicPartitions::default();
        topic.partitions = vec![2, 1, 2];
        report.topic_partitions = Some(vec![topic, Default::default()]);
        let Ok(Op::ConsumerHeartbeat(asked)) = plan(&report, 0, "c", HERE) else { panic!("refused") };
        assert_eq!((asked.topic_names, asked.rebalance_timeout_ms), (None, None));
        assert_eq!(asked.owned, Some(Partitions::from([(Uuid::ZERO, BTreeSet::from([1, 2]))])));
        (report.member_epoch, report.instance_id) = (-2, Some("i".into()));
        assert!(matches!(plan(&report, 1, "c", HERE), Ok(Op::ConsumerLeave(Leave { for_a_while: true, .. }))));
    }

    #[test]
    fn what_is_refused() {
        type Change = fn(&mut ConsumerGroupHeartbeatRequest);
        let cases: [(Change, &str); 9] = [
            (|r| r.member_id = " ".into(), "MemberId can't be empty."),
            (|r| r.group_id = "".into(), "GroupId can't be empty."),
            (|r| r.instance_id = Some("".into()), "InstanceId can't be empty."),
            (|r| r.rack_id = Some("".into()), "RackId can't be empty."),
            (|r| r.rebalance_timeout_ms = -1, "RebalanceTimeoutMs must be provided in first request."),
            (|r| r.topic_partitions = None, "TopicPartitions must be empty when (re-)joining."),
            (
                |r| r.subscribed_topic_names = None,
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
            ),
            (|r| r.member_epoch = -2, "InstanceId can't be null."),
            (|r| r.member_id = "x".repeat(40_000).as_str().into(), "A name is longer than 32767 bytes."),
        ];
        for (change, text) in cases {
            let mut request = join();
            change(&mut request);
            let refusal = plan(&request, 1, "c", HERE).unwrap_err();
            assert_eq!((refusal.code, refusal.message.as_str()), (ErrorCode::InvalidRequest, text));
        }
        let mut request = join();
        request.member_id = "".into();
        assert!(plan(&request, 0, "c", HERE).is_ok(), "version 0 is given an id");
        request.server_assignor = Some("sticky".into());
        assert_eq!(plan(&request, 0, "c", HERE).unwrap_err().code, ErrorCode::UnsupportedAssignor);
    }

    #[test]
    fn every_version_encodes() {
        let assignment = Some(Partitions::from([(Uuid([1; 16]), BTreeSet::from([0, 7]))]));
        let heard = modern::Reply { member_id: "m".into(), epoch: 4, heartbeat_interval_ms: 5000, assignment };
        in_every_version(ApiKey::ConsumerGroupHeartbeat, |_| respond(Ok(Answer::Heard(Ok(heard.clone())))));
        let refusal = Refusal { code: ErrorCode::FencedMemberEpoch, message: "why".into() };
        let response = respond(Ok(Answer::Heard(Err(refusal))));
        assert_eq!((response.error_code, response.error_message.as_deref()), (110, Some("why")));
    }
}

//! Kafka's error codes.

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// An error as the Kafka protocol numbers it (Kafka's `Errors` enum); `None` is success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i16)]
        pub enum ErrorCode { $($(#[$doc])* #[doc = concat!("Code ", $code, ". ", $text)] $name = $code,)* }

        impl ErrorCode {
            /// Kafka's own wording: tools show it, scripts match it.
            pub fn message(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The number on the wire.
            pub fn code(self) -> i16 {
                self as i16
            }
        }
    };
}

error_codes! {
    UnknownServerError = -1, "The server experienced an unexpected error when processing the request.";
    None = 0, "";
    OffsetOutOfRange = 1, "The requested offset is not within the range of offsets maintained by the server.";
    CorruptMessage = 2, "This message has failed its CRC checksum, exceeds the valid size, has a null key for a compacted topic, or is otherwise corrupt.";
    UnknownTopicOrPartition = 3, "This server does not host this topic-partition.";
    LeaderNotAvailable = 5, "There is no leader for this topic-partition as we are in the middle of a leadership election.";
    NotLeaderOrFollower = 6, "For requests intended only for the leader, this error indicates that the broker is not the current leader. For requests intended for any replica, this error indicates that the broker is not a replica of the topic partition.";
    RequestTimedOut = 7, "The request timed out.";
    MessageTooLarge = 10, "The request included a message larger than the max message size the server will accept.";
    OffsetMetadataTooLarge = 12, "The metadata field of the offset request was too large.";
    CoordinatorLoadInProgress = 14, "The coordinator is loading and hence can't process requests.";
    CoordinatorNotAvailable = 15, "The coordinator is not available.";
    NotCoordinator = 16, "This is not the correct coordinator.";
    InvalidTopicException = 17, "The request attempted to perform an operation on an invalid topic.";
    RecordListTooLarge = 18, "The request included message batch larger than the configured segment size on the server.";
    InvalidRequiredAcks = 21, "Produce request specified an invalid value for required acks.";
    IllegalGeneration = 22, "Specified group generation id is not valid.";
    InconsistentGroupProtocol = 23, "The group member's supported protocols are incompatible with those of existing members or first group member tried to join with empty protocol type or empty protocol list.";
    InvalidGroupId = 24, "The group id is invalid.";
    UnknownMemberId = 25, "The coordinator is not aware of this member.";
    InvalidSessionTimeout = 26, "The session timeout is not within the range allowed by the broker (as configured by group.min.session.timeout.ms and group.max.session.timeout.ms).";
    RebalanceInProgress = 27, "The group is rebalancing, so a rejoin is needed.";
    InvalidTimestamp = 32, "The timestamp of the message is out of acceptable range.";
    UnsupportedVersion = 35, "The version of API is not supported.";
    TopicAlreadyExists = 36, "Topic with this name already exists.";
    InvalidPartitions = 37, "Number of partitions is below 1.";
    InvalidReplicationFactor = 38, "Replication factor is below 1 or larger than the number of available brokers.";
    InvalidReplicaAssignment = 39, "Replica assignment is invalid.";
    InvalidConfig = 40, "Configuration is invalid.";
    NotController = 41, "This is not the correct controller for this cluster.";
    InvalidRequest = 42, "This most likely occurs because of a request being malformed by the client library or the message was sent to an incompatible broker. See the broker logs for more details.";
    UnsupportedForMessageFormat = 43, "The message format version on the broker does not support the request.";
    PolicyViolation = 44, "Request parameters do not satisfy the configured policy.";
    OutOfOrderSequenceNumber = 45, "The broker received an out of order sequence number.";
    DuplicateSequenceNumber = 46, "The broker received a duplicate sequence number.";
    InvalidProducerEpoch = 47, "Producer attempted to produce with an old epoch.";
    InvalidTxnState = 48, "The producer attempted a transactional operation in an invalid state.";
    TransactionalIdAuthorizationFailed = 53, "Transactional Id authorization failed.";
    KafkaStorageError = 56, "Disk error when trying to access log file on the disk.";
    UnknownProducerId = 59, "This exception is raised by the broker if it could not locate the producer metadata associated with the producerId in question.";
    NonEmptyGroup = 68, "The group is not empty.";
    GroupIdNotFound = 69, "The group id does not exist.";
    FetchSessionIdNotFound = 70, "The fetch session ID was not found.";
    InvalidFetchSessionEpoch = 71, "The fetch session epoch is invalid.";
    ListenerNotFound = 72, "There is no listener on the leader broker that matches the listener on which metadata request was processed.";
    TopicDeletionDisabled = 73, "Topic deletion is disabled.";
    FencedLeaderEpoch = 74, "The leader epoch in the request is older than the epoch on the broker.";
    UnknownLeaderEpoch = 75, "The leader epoch in the request is newer than the epoch on the broker.";
    UnsupportedCompressionType = 76, "The requesting client does not support the compression type of given partition.";
    MemberIdRequired = 79, "The group member needs to have a valid member id before actually entering a consumer group.";
    GroupMaxSizeReached = 81, "The group has reached its maximum size.";
    FencedInstanceId = 82, "The broker rejected this static consumer since another consumer with the same group.instance.id has registered with a different member.id.";
    GroupSubscribedToTopic = 86, "Deleting offsets of a topic is forbidden while the consumer group is actively subscribed to it.";
    InvalidRecord = 87, "This record has failed the validation on broker and hence will be rejected.";
    ThrottlingQuotaExceeded = 89, "The throttling quota has been exceeded.";
    UnknownTopicId = 100, "This server does not host this topic ID.";
    InconsistentTopicId = 103, "The log's topic ID did not match the topic ID in the request.";
    FetchSessionTopicIdError = 106, "The fetch session encountered inconsistent topic ID usage.";
    BrokerIdNotRegistered = 102, "The given broker ID was not registered.";
    OffsetNotAvailable = 78, "The leader high watermark has not caught up from a recent leader election so the offsets cannot be guaranteed to be monotonically increasing.";
}

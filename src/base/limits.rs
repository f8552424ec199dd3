//! Every bound that is not a configuration, in one place, related to each other by constant assertions.

/// Memory page, and the unit of all direct I/O: a multiple of every device's logical block.
pub const BLOCK: usize = 4096;
/// One registered region of memory; also the largest block that a core's pool hands out.
pub const REGION: usize = 4 << 20;
/// A receive buffer that the kernel picks when bytes arrive, so that an idle connection holds none.
pub const SMALL_RECEIVE: usize = 16 << 10;
/// How many of those a core offers to the kernel at a time (a power of two).
pub const SMALL_RECEIVES: usize = 64;
/// Smallest and largest append chunk of a log.
pub const CHUNK_MIN: usize = 16 << 10;
/// See [`CHUNK_MIN`].
pub const CHUNK_MAX: usize = REGION;
/// Requests of one connection that may be in work at a time; more wait in the socket.
pub const PIPELINE: usize = 64;
/// Operations that one core may have outstanding at another; more wait on their own core.
pub const MAILBOX: usize = 1024;
/// Bytes by which segment files are allocated ahead of the writes.
pub const ALLOCATE_AHEAD: u64 = 32 << 20;
/// Groups that one request may ask about; what is told of each takes memory.
pub const GROUPS_PER_REQUEST: usize = 50_000;
/// The share of `corelane.memory` that groups and their offsets may take: one part of so many.
pub const GROUPS_SHARE: usize = 4;
/// Likewise the settings of topics, groups and brokers that are set at run time.
pub const SETTINGS_SHARE: usize = 4;
/// Longest response that our own client takes from a server.
pub const RESPONSE_MAX: usize = 256 << 20;
/// Most that one compressed batch may become in our own client.
pub const CLIENT_INFLATED_MAX: usize = 1 << 30;
/// Longest topic name (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_NAME_MAX: usize = 249;
/// Batches per producer and partition that a repeat is recognised in (Kafka's `NUM_BATCHES_TO_RETAIN`).
pub const DUPLICATE_WINDOW: usize = 5;

const _: () = assert!(REGION.is_multiple_of(BLOCK) && CHUNK_MIN.is_multiple_of(BLOCK) && SMALL_RECEIVE.is_multiple_of(BLOCK));
const _: () = assert!(CHUNK_MAX <= REGION && CHUNK_MIN <= CHUNK_MAX && SMALL_RECEIVES.is_power_of_two());

//! What cores say to each other.
//!
//! Every message waits in its sender's outbox when the mailbox is full and none is dropped: calls are bounded by the requests that the
//! sender's connections may have in work, replies by the calls, notices by the waits they answer, connections by the accept loop.

use std::any::Any;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::ErrorCode;
use crate::base::ids::Offset;
use crate::base::time::Now;
use crate::cluster::image::Image;
use crate::cluster::queue::Lane;
use crate::cluster::record::MetadataRecord;
use crate::coord::Name;
use crate::coord::op::{Listed, Op, Reply};
use crate::log::Opening;
use crate::partition::op::{
    DeletionItem, DeletionResult, EpochItem, EpochResult, Key, OffsetItem, OffsetResult, ProduceItem, Produced, ReadItem, ReadResult,
    ReplicaSize,
};

/// Names a call on the core that made it.
pub type Ticket = usize;

/// One message. `A` is a connection on its way.
pub enum Message<A> {
    /// A connection for the receiving core.
    Connection(Connection<A>),
    /// Work for the receiver, answered by one `Reply` of the same ticket.
    Call(Ticket, Call),
    /// The answer.
    Reply(Ticket, Answer),
    /// Tell the sender once when one of the partitions has grown past what it has seen.
    Watch(Ticket, Vec<Watched>),
    /// The sender does not wait any longer.
    Unwatch(Ticket),
    /// A watched partition has grown.
    Notice(Ticket),
}

/// A connection that one core has accepted for another to serve.
pub struct Connection<A> {
    /// The socket.
    pub accepted: A,
    /// The other end.
    pub peer: SocketAddr,
    /// Which listener accepted it.
    pub listener: usize,
    /// Its place among the connections; given back when dropped.
    pub seat: Box<dyn Any + Send>,
}

/// A partition and what the watcher knows of it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Which.
    pub key: Key,
    /// The high watermark that the watcher has read up to.
    pub high_watermark: Offset,
    /// Bytes to wait for.
    pub need_bytes: usize,
}

/// What one core can ask of another.
pub enum Call {
    /// Append batches; the numbers are the caller's.
    Produce(Vec<(u32, ProduceItem)>),
    /// Read. `first`: the response has no batch yet, and one is due that is larger than the limits
    /// (KIP-74). `holds`: the response has batches already.
    Read {
        /// What to read.
        items: Vec<ReadItem>,
        /// Bytes in all.
        max_bytes: usize,
        /// See above.
        first: bool,
        /// See above.
        holds: bool,
    },
    /// Find offsets.
    Offsets(Vec<OffsetItem>),
    /// Find ends of epochs.
    Epochs(Vec<EpochItem>),
    /// Delete records from the front.
    DeleteRecords(Vec<DeletionItem>),
    /// Say what the replicas occupy.
    Sizes,
    /// Adopt a new image: open or create the replicas named, drop those of topics that are gone. Answered when that is done.
    Assign(Arc<Image>, Vec<Assignment>),
    /// Change the metadata; for the core that runs the controller shard.
    Control(Change),
    /// A request to the group coordinator beside a partition.
    Group(Key, Name, Box<Op>),
    /// All groups whose state and type are among these (empty: any).
    ListGroups(Vec<String>, Vec<String>),
    /// Flush all logs and say how far they are.
    Checkpoint,
    /// Write the checkpoints; for the core that runs the controller shard.
    StoreCheckpoints,
    /// Finish what was read, end groups and connections.
    Disconnect,
    /// Close the logs, once all cores are disconnected.
    Stop,
}

impl Call {
    /// What the core is at as it handles it.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Produce(_) => "Produce of another core",
            Call::Read { .. } => "Fetch of another core",
            Call::Offsets(_) => "ListOffsets of another core",
            Call::Epochs(_) => "OffsetForLeaderEpoch of another core",
            Call::DeleteRecords(_) => "DeleteRecords of another core",
            Call::Sizes => "sizes of replicas",
            Call::Assign(..) => "a new image",
            Call::Control(_) => "a change of the metadata",
            Call::Group(..) => "a request for a group",
            Call::ListGroups(..) => "ListGroups",
            Call::Checkpoint | Call::StoreCheckpoints => "checkpoints",
            Call::Disconnect | Call::Stop => "the stop",
        }
    }
}

/// The answers, in the order of [`Call`].
pub enum Answer {
    /// See [`Call::Produce`].
    Produced(Vec<(u32, Produced)>),
    /// See [`Call::Read`].
    Read(Vec<ReadResult>),
    /// See [`Call::Offsets`].
    Offsets(Vec<OffsetResult>),
    /// See [`Call::Epochs`].
    Epochs(Vec<EpochResult>),
    /// See [`Call::DeleteRecords`].
    Deleted(Vec<DeletionResult>),
    /// See [`Call::Sizes`].
    Sizes(Vec<ReplicaSize>),
    /// See [`Call::Control`].
    Control(Result<Box<dyn Any + Send>, ErrorCode>),
    /// See [`Call::Group`].
    Group(Reply),
    /// See [`Call::ListGroups`].
    Groups(Result<Vec<Listed>, ErrorCode>),
    /// See [`Call::Checkpoint`].
    Checkpoint(Vec<Position>),
    /// See [`Call::StoreCheckpoints`]. Whether they are stored.
    StoredCheckpoints(bool),
    /// See [`Call::Assign`].
    Assigned,
    /// See [`Call::Disconnect`].
    Disconnected,
    /// See [`Call::Stop`].
    Stopped(Vec<Position>),
}

/// A replica to open or create.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Which partition.
    pub key: Key,
    /// `None`: its directory may be in a log directory that is not there, so it is offline.
    pub home: Option<Home>,
}

/// Where a replica is.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its directory.
    pub dir: PathBuf,
    /// What the last process left behind about its log.
    pub opening: Opening,
}

/// How far a replica's log is.
#[derive(Clone, Debug)]
pub struct Position {
    /// Which partition.
    pub key: Key,
    /// What the next start is to know. `clean`: the log was closed.
    pub opening: Opening,
    /// One past the last record that consumers may read.
    pub high_watermark: Offset,
}

/// A pure decision that the controller shard makes on its newest image: the records to commit, and the answer to give once they are
/// committed and every core has acted on them. Made in steps on one image, each until the budget is spent, and anew when there was no
/// room for the records.
pub type Decide = Box<dyn FnMut(&Image, &mut Ids, &mut usize) -> Option<(Vec<MetadataRecord>, Box<dyn Any + Send>)> + Send>;

/// A change of the metadata.
pub struct Change {
    /// What is to be decided.
    pub decide: Decide,
    /// How it waits.
    pub terms: Terms,
}

/// How a change waits for its turn, and for room.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whoever asked gives up after this time; a change that is not begun by then is not made.
    pub within: Duration,
    /// Whether it makes room or takes some.
    pub lane: Lane,
    /// Bytes of the request.
    pub bytes: usize,
}

/// Gives ids and the time to a decision.
pub struct Ids<'a> {
    /// The time of the decision.
    pub now: Now,
    /// Random bytes for an id.
    pub random: &'a mut dyn FnMut() -> [u8; 16],
}

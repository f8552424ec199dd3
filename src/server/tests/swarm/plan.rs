//! What a life draws from its seed: its machine, its settings, and which features and faults it has.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::base::prng::Prng;

/// What clients do beside producing and consuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Topics are deleted and created again under the same name.
    Churn,
    /// DeleteRecords.
    DeleteRecords,
    /// Topics with retention by time or size.
    Retention,
    /// Topics that are compacted.
    Compaction,
    /// Settings of topics are altered.
    Alter,
    /// Partitions are added.
    Grow,
    /// A group commits offsets.
    Commits,
    /// Producers with acks=0 and acks=1.
    WeakAcks,
    /// Producers go away before the answer, and send again.
    LostAnswers,
    /// Topics with the names of the broker's own logs are asked for.
    OwnNames,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The power is lost.
    PowerLoss,
    /// The process is killed.
    Kill,
    /// The process is stopped and started.
    Stop,
    /// The power is lost, or the process killed, at an operation on the disk.
    MidStep,
    /// Indexes and snapshots are gone when the broker starts.
    LostFiles,
    /// Another one of these hits while the broker starts.
    InRecovery,
    /// The disk is full for a while.
    Full,
    /// Reads fail.
    BadReads,
    /// Writes fail.
    BadWrites,
    /// Flushes fail.
    BadFlushes,
    /// Opening, renaming, removing fail.
    BadNames,
    /// One partition or one disk stalls for 10 ms to 10 s.
    Stall,
    /// A bit flips in a file.
    Flip,
    /// A write lands elsewhere in its file.
    Misdirected,
    /// A write is acknowledged and dropped.
    LostWrite,
    /// A flush is acknowledged and does nothing.
    LostFlush,
    /// log.dirs in another order.
    Order,
    /// A disk leaves and returns, or is replaced by an empty one until then.
    DiskLeaves,
    /// The wall clock jumps.
    Clock,
}

const FEATURES: [Feature; 10] = [
    Feature::Churn,
    Feature::DeleteRecords,
    Feature::Retention,
    Feature::Compaction,
    Feature::Alter,
    Feature::Grow,
    Feature::Commits,
    Feature::WeakAcks,
    Feature::LostAnswers,
    Feature::OwnNames,
];

/// Each with the number of lives of which one has it.
const TROUBLES: [(Trouble, u64); 19] = [
    (Trouble::PowerLoss, 2),
    (Trouble::Kill, 2),
    (Trouble::Stop, 2),
    (Trouble::MidStep, 2),
    (Trouble::LostFiles, 4),
    (Trouble::InRecovery, 3),
    (Trouble::Full, 5),
    (Trouble::BadReads, 6),
    (Trouble::BadWrites, 6),
    (Trouble::BadFlushes, 6),
    (Trouble::BadNames, 6),
    (Trouble::Stall, 3),
    (Trouble::Flip, 6),
    (Trouble::Misdirected, 8),
    (Trouble::LostWrite, 8),
    (Trouble::LostFlush, 8),
    (Trouble::Order, 3),
    (Trouble::DiskLeaves, 4),
    (Trouble::Clock, 5),
];

/// Features and faults that no life has unless WITHOUT says otherwise: the broker does not stand them yet.
const LEFT_OUT: &str = "";

/// One life's draw.
pub struct Plan {
    /// Cores of the machine.
    pub cores: usize,
    /// Data directories, each a disk of its own.
    pub dirs: Vec<String>,
    /// How long clients and faults go on, in virtual time.
    pub length: Duration,
    /// Topic names in use.
    pub topics: usize,
    /// What clients do.
    pub features: BTreeSet<Feature>,
    /// What goes wrong.
    pub troubles: BTreeSet<Trouble>,
    /// How often something goes wrong.
    pub mishaps: u64,
    /// Milliseconds that a client's short pause takes at most.
    pub short_pause_ms: u64,
    /// Of so many pauses of a client one is long.
    pub long_pause_one_in: u64,
    /// Interval of the checkpoints.
    pub checkpoint: Duration,
    /// The broker's settings.
    pub settings: Vec<String>,
}

fn one<T: Copy>(random: &mut Prng, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

impl Plan {
    /// The draw of a seed.
    pub fn new(seed: u64) -> Plan {
        let mut random = Prng::new(seed ^ 0x5117_a9c3);
        let random = &mut random;
        let quiet = random.chance(1, 8);
        let mut features: BTreeSet<Feature> = FEATURES.into_iter().filter(|_| random.chance(1, 2)).collect();
        let mut troubles: BTreeSet<Trouble> = TROUBLES.into_iter().filter(|(_, n)| random.chance(1, *n)).map(|(t, _)| t).collect();
        let without = std::env::var("WITHOUT").unwrap_or_else(|_| LEFT_OUT.into());
        features.retain(|feature| !without.contains(&format!("{feature:?}")));
        troubles.retain(|trouble| !without.contains(&format!("{trouble:?}")));
        if quiet {
            troubles.clear();
        }
        let dirs = (0..one(random, &[1, 1, 2, 3])).map(|n| format!("/disk{n}")).collect();
        let length = Duration::from_secs(one(random, &[10, 20, 20, 60, 60, 60, 200, 200, 600, 3600]));
        let checkpoint = Duration::from_millis(one(random, &[1000, 5000, 60_000]));
        let cores = one(random, &[1, 2, 2, 3]);
        let settings = vec![
            format!("log.flush.offset.checkpoint.interval.ms={}", checkpoint.as_millis()),
            format!("corelane.log.idle.ms={}", one(random, &[50, 1000, 5000])),
            format!("log.retention.check.interval.ms={}", one(random, &[1000, 7000, 60_000])),
            format!("log.cleaner.backoff.ms={}", one(random, &[200, 3000, 15_000])),
            format!("log.segment.delete.delay.ms={}", one(random, &[0, 1000, 60_000])),
            format!("log.index.interval.bytes={}", one(random, &[0, 500, 4096])),
            format!("offsets.topic.num.partitions={}", one(random, &[1, 3])),
            format!("num.recovery.threads.per.data.dir={}", one(random, &[1, 4])),
            "offsets.retention.minutes=2147483647".into(),
            "log.segment.bytes=1048576".into(),
            // Clients would have to reckon with both when the clock jumps.
            "producer.id.expiration.ms=2147483647".into(),
            "log.message.timestamp.after.max.ms=9223372036854775807".into(),
        ];
        Plan {
            cores,
            dirs,
            length,
            topics: one(random, &[1, 2, 3]),
            features,
            troubles,
            mishaps: 4 + random.below(16),
            short_pause_ms: one(random, &[30, 200, 1000]),
            long_pause_one_in: one(random, &[4, 10, 20]),
            checkpoint,
            settings,
        }
    }

    /// True when clients do this.
    pub fn does(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// True when this goes wrong.
    pub fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { cores, dirs, length, topics, features, troubles, settings, .. } = self;
        write!(f, "{cores} cores, {} disks, {topics} topics, {} s, {features:?}, {troubles:?}, ", dirs.len(), length.as_secs())?;
        write!(f, "{}", settings.join(" "))
    }
}

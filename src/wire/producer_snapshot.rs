//! Kafka's file form of a partition's producer state (`NAME.snapshot`, ProducerSnapshot.json version 1).

use std::fmt;

use crate::base::ids::{Offset, ProducerId};

const VERSION: i16 = 1;
/// Version, checksum.
const CHECKSUMMED_FROM: usize = 6;
/// Version, checksum, count.
const HEADER: usize = 10;
const ENTRY: usize = 46;

/// What is kept of a producer's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence number of the batch's last record; -1 without a batch.
    pub last_sequence: i32,
    /// Offset of the batch's last record; -1 without a batch.
    pub last_offset: Offset,
    /// Last minus first sequence number of the batch.
    pub offset_delta: i32,
    /// Largest timestamp of the batch, or that of a later transaction marker, ms.
    pub timestamp: i64,
    /// Epoch of the transaction coordinator of the last marker; -1 without one.
    pub coordinator_epoch: i32,
    /// First offset of the open transaction; -1 without one.
    pub transaction_first_offset: Offset,
}

/// Why bytes are not a producer snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Not the length that its count of entries makes.
    Length,
    /// Not version 1.
    Version(i16),
    /// The checksum does not match: as stored, as computed.
    Checksum(u32, u32),
    /// The entry at this index holds impossible values, or its producer came before.
    Entry(usize),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("producer snapshot: wrong length"),
            Self::Version(version) => write!(f, "producer snapshot: version {version}, expected {VERSION}"),
            Self::Checksum(..) => f.write_str("producer snapshot: checksum mismatch"),
            Self::Entry(index) => write!(f, "producer snapshot: entry {index} is invalid"),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// The content of a file with these entries.
pub fn encode(entries: impl ExactSizeIterator<Item = Entry>) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + entries.len() * ENTRY);
    out.extend(VERSION.to_be_bytes());
    out.extend([0; CHECKSUMMED_FROM - 2]);
    out.extend((entries.len() as i32).to_be_bytes());
    for entry in entries {
        out.extend(entry.producer_id.to_be_bytes());
        out.extend(entry.epoch.to_be_bytes());
        out.extend(entry.last_sequence.to_be_bytes());
        out.extend(entry.last_offset.to_be_bytes());
        out.extend(entry.offset_delta.to_be_bytes());
        out.extend(entry.timestamp.to_be_bytes());
        out.extend(entry.coordinator_epoch.to_be_bytes());
        out.extend(entry.transaction_first_offset.to_be_bytes());
    }
    let checksum = crc32c::crc32c(&out[CHECKSUMMED_FROM..]);
    out[2..CHECKSUMMED_FROM].copy_from_slice(&checksum.to_be_bytes());
    out
}

/// The entries of a file, in their order; what they say is not looked at. Nothing is reserved from the claimed count.
pub fn decode(bytes: &[u8]) -> Result<impl ExactSizeIterator<Item = Entry> + '_, SnapshotError> {
    let (header, entries) = bytes.split_at_checked(HEADER).ok_or(SnapshotError::Length)?;
    let mut fields = Numbers(header);
    let version = i16::from_be_bytes(fields.take());
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let (stored, computed) = (u32::from_be_bytes(fields.take()), crc32c::crc32c(&bytes[CHECKSUMMED_FROM..]));
    if stored != computed {
        return Err(SnapshotError::Checksum(stored, computed));
    }
    let count = i32::from_be_bytes(fields.take());
    if i64::from(count) * ENTRY as i64 != entries.len() as i64 {
        return Err(SnapshotError::Length);
    }
    Ok(entries.chunks_exact(ENTRY).map(|entry| {
        let mut fields = Numbers(entry);
        Entry {
            producer_id: i64::from_be_bytes(fields.take()),
            epoch: i16::from_be_bytes(fields.take()),
            last_sequence: i32::from_be_bytes(fields.take()),
            last_offset: i64::from_be_bytes(fields.take()),
            offset_delta: i32::from_be_bytes(fields.take()),
            timestamp: i64::from_be_bytes(fields.take()),
            coordinator_epoch: i32::from_be_bytes(fields.take()),
            transaction_first_offset: i64::from_be_bytes(fields.take()),
        }
    }))
}

/// Big-endian numbers one after the other, from a slice whose length was checked.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (number, rest) = self.0.split_first_chunk().expect("length was checked");
        self.0 = rest;
        *number
    }
}

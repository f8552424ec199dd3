//! Printing producer snapshots and transaction indexes.

use std::io::{ErrorKind, Write};

use super::{Failed, absolute, base_offset, failed, unreadable};
use crate::wire::producer_snapshot::{self, Entry, SnapshotError};

/// Bytes of an entry of a transaction index.
const ABORTED: usize = 34;
const ABORTED_VERSION: i16 = 0;

/// Prints a `.snapshot` file. A damaged one is told of and passed over.
pub fn producers(out: &mut dyn Write, path: &str) -> Result<(), Failed> {
    let bytes = std::fs::read(path).or_else(|e| unreadable(path, &e))?;
    let entries = match producer_snapshot::decode(&bytes) {
        Ok(entries) => entries,
        Err(error) => {
            out.flush()?;
            eprintln!("{}", damage(path, error));
            return Ok(());
        }
    };
    for entry in entries {
        print_producer(out, &entry)?;
    }
    Ok(())
}

fn damage(path: &str, error: SnapshotError) -> String {
    match error {
        SnapshotError::Version(version) => {
            format!("Snapshot failed schema validation: Snapshot contained an unknown file version {version}")
        }
        SnapshotError::Checksum(stored, computed) => {
            format!("Snapshot is corrupt (CRC is no longer valid). Stored crc: {stored}. Computed crc: {computed}")
        }
        other => format!("Snapshot failed schema validation: {path}: {other}"),
    }
}

fn print_producer(out: &mut dyn Write, entry: &Entry) -> Result<(), Failed> {
    let open = match entry.transaction_first_offset {
        ..0 => "OptionalLong.empty".to_owned(),
        first => format!("OptionalLong[{first}]"),
    };
    write!(
        out,
        "producerId: {} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {open} lastTimestamp: {}",
        entry.producer_id, entry.epoch, entry.coordinator_epoch, entry.timestamp
    )?;
    if entry.last_offset >= 0 {
        let first_sequence = entry.last_sequence.wrapping_sub(entry.offset_delta) & i32::MAX;
        write!(
            out,
            " firstSequence: {first_sequence} lastSequence: {} lastOffset: {} offsetDelta: {} timestamp: {}",
            entry.last_sequence, entry.last_offset, entry.offset_delta, entry.timestamp
        )?;
    }
    Ok(writeln!(out)?)
}

/// Prints a `.txnindex` file: version, producer, first and last offset of each aborted transaction, and the last stable offset when it
/// ended. A file that is not there says that no transaction was aborted.
pub fn transactions(out: &mut dyn Write, path: &str) -> Result<(), Failed> {
    base_offset(path)?;
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.or_else(|e| unreadable(path, &e))?,
    };
    for entry in bytes.chunks_exact(ABORTED) {
        let version = i16::from_be_bytes([entry[0], entry[1]]);
        if version > ABORTED_VERSION {
            return failed(format!(
                "Unexpected aborted transaction version {version} in transaction index {}, current version is {ABORTED_VERSION}",
                absolute(path)
            ));
        }
        let mut longs = entry[2..].chunks_exact(8).map(|long| i64::from_be_bytes(long.try_into().expect("eight bytes")));
        let [producer, first, last, stable] = std::array::from_fn(|_| longs.next().expect("four numbers"));
        writeln!(out, "version: {version} producerId: {producer} firstOffset: {first} lastOffset: {last} lastStableOffset: {stable}")?;
    }
    Ok(())
}

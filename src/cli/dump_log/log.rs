//! Printing `.log` files and metadata snapshots (`.checkpoint`).

use std::io::Write;

use super::batches::LogFile;
use super::decode::{self, Decoder};
use super::{Failed, absolute, base_offset, failed, name_of, note};
use crate::cli::tool::java_text;
use crate::wire::batch::{BatchHeader, HEADER_LEN, TimestampType, crc_ok};
use crate::wire::compression::{Compression, decompress};
use crate::wire::record::{Record, Records};

/// Kafka reads payloads into arrays, which are no longer.
const INFLATED_MAX: usize = i32::MAX as usize;

/// How much is printed.
pub struct Printing<'a> {
    /// Records, not only batches.
    pub records: bool,
    /// Keys and values.
    pub contents: Option<&'a Decoder>,
    /// Offsets, sizes, ….
    pub metadata: bool,
    /// Bytes to read; `i32::MAX` for all.
    pub max_bytes: i32,
}

/// Prints a file. Offsets that are not one above the record before are added to `gaps`.
pub fn dump(out: &mut dyn Write, path: &str, printing: &Printing, gaps: &mut Vec<(String, Vec<(i64, i64)>)>) -> Result<(), Failed> {
    if path.ends_with(".log") {
        writeln!(out, "Log starting offset: {}", base_offset(path)?)?;
    } else if name_of(path) == "bootstrap.checkpoint" {
        writeln!(out, "KRaft bootstrap snapshot")?;
    } else {
        let Some((offset, epoch)) = snapshot_name(name_of(path)) else {
            return failed(format!("{path}: the name of a metadata snapshot is OFFSET-EPOCH.checkpoint"));
        };
        writeln!(out, "Snapshot end offset: {offset}, epoch: {epoch}")?;
    }
    let mut log = LogFile::open(path)?;
    let mut range = log.range(0, printing.max_bytes)?;
    let (mut last, file) = (-1, absolute(path));
    loop {
        let position = range.position;
        let Some((header, batch)) = log.next(&mut range)? else { break };
        print_batch(out, &header, batch, position)?;
        if printing.records {
            records(&header, batch, |offset, timestamp, record| {
                if offset != last + 1 {
                    note(gaps, &file, (last, offset));
                }
                last = offset;
                print_record(out, &header, offset, timestamp, record, printing)
            })?;
        }
    }
    let trailing = range.end - range.position;
    if trailing > 0 && printing.max_bytes == i32::MAX {
        writeln!(out, "Found {trailing} invalid bytes at the end of {}", name_of(path))?;
    }
    Ok(())
}

fn snapshot_name(name: &str) -> Option<(i64, i32)> {
    let (offset, epoch) = name.strip_suffix(".checkpoint")?.split_once('-')?;
    (offset.len() == 20 && epoch.len() == 10).then(|| Some((offset.parse().ok()?, epoch.parse().ok()?)))?
}

fn print_batch(out: &mut dyn Write, header: &BatchHeader, batch: &[u8], position: u64) -> Result<(), Failed> {
    let horizon = if header.has_delete_horizon() { format!("[{}]", header.base_timestamp) } else { ".empty".to_owned() };
    write!(
        out,
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {} deleteHorizonMs: OptionalLong{horizon}",
        header.base_offset,
        header.last_offset(),
        header.records_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.partition_leader_epoch,
        header.is_transactional(),
        header.is_control(),
    )?;
    let compression = header.compression().or_else(|e| failed(e.to_string()))?;
    writeln!(
        out,
        " position: {position} {}: {} size: {} magic: {} compresscodec: {} crc: {} isvalid: {}",
        time_name(header),
        header.max_timestamp,
        batch.len(),
        header.magic,
        compression.name(),
        header.crc,
        crc_ok(batch),
    )?;
    Ok(())
}

fn time_name(header: &BatchHeader) -> &'static str {
    match header.timestamp_type() {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

/// Hands over the records of a batch with their offsets and timestamps. Those of a damaged compressed batch are not looked at at all.
pub fn records(header: &BatchHeader, batch: &[u8], mut each: impl FnMut(i64, i64, &Record) -> Result<(), Failed>) -> Result<(), Failed> {
    let compression = header.compression().or_else(|e| failed(e.to_string()))?;
    let mut payload = &batch[HEADER_LEN..];
    let inflated;
    if compression != Compression::None && header.records_count > 0 {
        inflated = decompress(compression, payload, INFLATED_MAX).or_else(|e| failed(e.to_string()))?;
        payload = &inflated;
        if let Some(error) = Records::new(payload, header.records_count).find_map(Result::err) {
            return failed(error.to_string());
        }
    }
    for record in Records::new(payload, header.records_count) {
        let record = record.or_else(|e| failed(e.to_string()))?;
        let timestamp = match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => header.base_timestamp.wrapping_add(record.timestamp_delta),
        };
        each(header.base_offset.wrapping_add(record.offset_delta.into()), timestamp, &record)?;
    }
    Ok(())
}

fn print_record(
    out: &mut dyn Write,
    header: &BatchHeader,
    offset: i64,
    timestamp: i64,
    record: &Record,
    printing: &Printing,
) -> Result<(), Failed> {
    if printing.metadata {
        let size = |field: Option<&[u8]>| field.map_or(-1, |bytes| bytes.len() as i64);
        let sequence = match header.base_sequence {
            none @ ..0 => none.max(-1),
            first => first.wrapping_add(record.offset_delta) & i32::MAX,
        };
        let keys: Vec<_> = record.headers().map(|(key, _)| java_text(key)).collect();
        let (key_size, value_size, keys) = (size(record.key), size(record.value), keys.join(","));
        let time = time_name(header);
        write!(
            out,
            "| offset: {offset} {time}: {timestamp} keySize: {key_size} valueSize: {value_size} sequence: {sequence} headerKeys: [{keys}]"
        )?;
        if header.is_control() {
            write!(out, "{}", decode::control(record)?)?;
        }
    }
    if let Some(decoder) = printing.contents.filter(|_| !header.is_control()) {
        let (key, value) = decoder.decode(record, offset)?;
        let mut prefix = if printing.metadata { " " } else { "| " };
        if let Some(key) = key {
            write!(out, "{prefix}key: {key}")?;
            prefix = " ";
        }
        if let Some(value) = value {
            write!(out, "{prefix}payload: {value}")?;
        }
    }
    Ok(writeln!(out)?)
}

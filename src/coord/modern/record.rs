//! Records of the new protocol's groups in `__consumer_offsets`: Kafka's `ConsumerGroup*Key` and
//! `ConsumerGroup*Value`. `tests/golden` holds them as Kafka's own classes write them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::group::Resolved;
use super::member::{ClassicMember, CurrentAssignment, MemberId, MemberMetadata, MemberState, Owned, Partitions};
use crate::base::ids::Uuid;
use crate::wire::WireError;
use crate::wire::primitive::{Reader, put_array_len, put_string, put_unsigned_varint};

/// The group's epoch.
const EPOCH: i16 = 3;
/// Topics of the group, in Kafka 4.0; the hash in the epoch's record has taken its place.
const PARTITION_METADATA: i16 = 4;
const MEMBER: i16 = 5;
const TARGET_EPOCH: i16 = 6;
const TARGET: i16 = 7;
const CURRENT: i16 = 8;
const REGEX: i16 = 16;

/// Kinds of keys that [`decode`] takes.
pub const KINDS: [i16; 7] = [EPOCH, PARTITION_METADATA, MEMBER, TARGET_EPOCH, TARGET, CURRENT, REGEX];

/// The only version that the values have so far; later ones may add tagged fields only.
const VERSION: i16 = 0;

/// A group's epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// See [`super::group::Group::epoch`].
    pub epoch: i32,
    /// See [`super::topics::metadata_hash`].
    pub metadata_hash: i64,
}

/// The epoch of a target assignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetEpoch {
    /// The group epoch that it was made for.
    pub epoch: i32,
    /// When, milliseconds since 1970; 0 where the writer did not say.
    pub timestamp_ms: i64,
}

/// A change of one group; `None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new epoch; a tombstone is the end of the group.
    Epoch(Option<Epoch>),
    /// A record that Kafka 4.0 wrote; nothing in it is needed, but it is to be removed.
    PartitionMetadata {
        /// Whether it is there now.
        present: bool,
    },
    /// A member and its subscription; a tombstone removes the member.
    Member(MemberId, Option<MemberMetadata>),
    /// A new target assignment is complete.
    TargetEpoch(Option<TargetEpoch>),
    /// What a member is to have.
    Target(MemberId, Option<Partitions>),
    /// What a member has.
    Current(MemberId, Option<CurrentAssignment>),
    /// Topics that match a pattern.
    Regex(String, Option<Resolved>),
}

impl Change {
    /// A new epoch.
    pub fn epoch(epoch: i32, metadata_hash: i64) -> Change {
        Change::Epoch(Some(Epoch { epoch, metadata_hash }))
    }

    /// A new target assignment.
    pub fn target_epoch(epoch: i32, timestamp_ms: i64) -> Change {
        Change::TargetEpoch(Some(TargetEpoch { epoch, timestamp_ms }))
    }

    /// True for what takes something away.
    pub fn is_tombstone(&self) -> bool {
        match self {
            Change::Epoch(value) => value.is_none(),
            Change::PartitionMetadata { present } => !present,
            Change::Member(_, value) => value.is_none(),
            Change::TargetEpoch(value) => value.is_none(),
            Change::Target(_, value) => value.is_none(),
            Change::Current(_, value) => value.is_none(),
            Change::Regex(_, value) => value.is_none(),
        }
    }

    /// Key and value of the record in the log.
    pub fn encode(&self, group_id: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut key = BytesMut::new();
        let kind = match self {
            Change::Epoch(_) => EPOCH,
            Change::PartitionMetadata { .. } => PARTITION_METADATA,
            Change::Member(..) => MEMBER,
            Change::TargetEpoch(_) => TARGET_EPOCH,
            Change::Target(..) => TARGET,
            Change::Current(..) => CURRENT,
            Change::Regex(..) => REGEX,
        };
        key.put_i16(kind);
        put_string(&mut key, false, Some(group_id));
        match self {
            Change::Member(id, _) | Change::Target(id, _) | Change::Current(id, _) => put_string(&mut key, false, Some(id)),
            Change::Regex(regex, _) => put_string(&mut key, false, Some(regex)),
            Change::Epoch(_) | Change::PartitionMetadata { .. } | Change::TargetEpoch(_) => {}
        }
        (key.into(), self.encode_value())
    }

    fn encode_value(&self) -> Option<Vec<u8>> {
        let mut out = BytesMut::new();
        out.put_i16(VERSION);
        match self {
            Change::Epoch(value) => put_epoch(&mut out, value.as_ref()?),
            Change::PartitionMetadata { present: false } => return None,
            // Nobody writes one; this is for the form's sake: no topics.
            Change::PartitionMetadata { present: true } => out.put_slice(&[1, 0]),
            Change::Member(_, metadata) => put_member(&mut out, metadata.as_ref()?),
            Change::TargetEpoch(value) => put_target_epoch(&mut out, value.as_ref()?),
            Change::Target(_, partitions) => put_target(&mut out, partitions.as_ref()?),
            Change::Current(_, current) => put_current(&mut out, current.as_ref()?),
            Change::Regex(_, resolved) => put_resolved(&mut out, resolved.as_ref()?),
        }
        Some(out.into())
    }
}

/// The group id and the change that a record of one of the [`KINDS`] holds. Lengths in it are checked against the bytes there are.
///
/// Errors: a key of another kind, a value of a newer version, or bytes that are neither.
pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<(Arc<str>, Change), WireError> {
    let mut key = Reader::new(key);
    let kind = key.i16()?;
    let group_id = text(key.classic_string()?)?.into();
    let mut name = || text(key.classic_string()?);
    let mut value = value.map(Reader::new);
    if let Some(value) = &mut value
        && value.i16()? > VERSION
    {
        return Err(WireError::Malformed("version of a consumer group record"));
    }
    let value = value.as_mut();
    let change = match kind {
        EPOCH => Change::Epoch(value.map(epoch).transpose()?),
        PARTITION_METADATA => Change::PartitionMetadata { present: value.is_some() },
        MEMBER => Change::Member(name()?.into(), value.map(member).transpose()?),
        TARGET_EPOCH => Change::TargetEpoch(value.map(target_epoch).transpose()?),
        TARGET => Change::Target(name()?.into(), value.map(target).transpose()?),
        CURRENT => Change::Current(name()?.into(), value.map(current).transpose()?),
        REGEX => Change::Regex(name()?, value.map(resolved).transpose()?),
        _ => return Err(WireError::Malformed("kind of a consumer group record")),
    };
    Ok((group_id, change))
}

// ---- values ----

fn put_epoch(out: &mut BytesMut, value: &Epoch) {
    out.put_i32(value.epoch);
    put_tags(out, &[(0, (value.metadata_hash != 0).then(|| value.metadata_hash.to_be_bytes().to_vec()))]);
}

fn epoch(r: &mut Reader<'_>) -> Result<Epoch, WireError> {
    let mut value = Epoch { epoch: r.i32()?, metadata_hash: 0 };
    tags(r, |tag, mut r| {
        if tag == 0 {
            value.metadata_hash = r.i64()?;
        }
        Ok(())
    })?;
    Ok(value)
}

fn put_member(out: &mut BytesMut, value: &MemberMetadata) {
    put_string(out, true, value.instance_id.as_deref());
    put_string(out, true, value.rack_id.as_deref());
    put_string(out, true, Some(&value.client_id));
    put_string(out, true, Some(&value.client_host));
    put_array_len(out, true, value.topic_names.len());
    value.topic_names.iter().for_each(|name| put_string(out, true, Some(name)));
    put_string(out, true, value.topic_regex.as_deref());
    out.put_i32(value.rebalance_timeout_ms);
    put_string(out, true, value.server_assignor.as_deref());
    // Kafka's default is an empty structure, not null: a member without one is told apart by a null.
    put_tags(out, &[(0, Some(classic_bytes(value.classic.as_ref())))]);
}

/// A nullable structure in a tagged field: a varint in front, 0 for null.
fn classic_bytes(classic: Option<&ClassicMember>) -> Vec<u8> {
    let Some(classic) = classic else { return vec![0] };
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_i32(classic.session_timeout_ms);
    put_array_len(&mut out, true, classic.protocols.len());
    for (name, metadata) in &classic.protocols {
        put_string(&mut out, true, Some(name));
        put_unsigned_varint(&mut out, metadata.len() as u64 + 1);
        out.put_slice(metadata);
        out.put_u8(0);
    }
    out.put_u8(0);
    out.to_vec()
}

fn member(r: &mut Reader<'_>) -> Result<MemberMetadata, WireError> {
    let mut value = MemberMetadata {
        instance_id: nullable(r)?,
        rack_id: nullable(r)?,
        client_id: text(r.string(true)?)?,
        client_host: text(r.string(true)?)?,
        topic_names: texts(r)?,
        topic_regex: nullable(r)?,
        rebalance_timeout_ms: r.i32()?,
        server_assignor: nullable(r)?,
        classic: None,
    };
    tags(r, |tag, mut r| {
        if tag == 0 {
            value.classic = classic(&mut r)?;
        }
        Ok(())
    })?;
    // Kafka leaves the field out where it is empty, and Corelane once did where it is null. No
    // member of the classic protocol is without protocols, so all three say the same.
    value.classic = value.classic.filter(|classic| *classic != ClassicMember::default());
    Ok(value)
}

fn classic(r: &mut Reader<'_>) -> Result<Option<ClassicMember>, WireError> {
    if r.unsigned_varint()? as i32 <= 0 {
        return Ok(None);
    }
    let mut value = ClassicMember { session_timeout_ms: r.i32()?, protocols: Vec::new() };
    for _ in 0..r.array_len(true)? {
        let name = text(r.string(true)?)?;
        let metadata = r.bytes(true)?.ok_or(WireError::Malformed("null protocol metadata"))?;
        value.protocols.push((name, Bytes::copy_from_slice(metadata)));
        r.skip_tags()?;
    }
    r.skip_tags()?;
    Ok(Some(value))
}

fn put_target_epoch(out: &mut BytesMut, value: &TargetEpoch) {
    out.put_i32(value.epoch);
    put_tags(out, &[(0, (value.timestamp_ms != 0).then(|| value.timestamp_ms.to_be_bytes().to_vec()))]);
}

fn target_epoch(r: &mut Reader<'_>) -> Result<TargetEpoch, WireError> {
    let mut value = TargetEpoch { epoch: r.i32()?, timestamp_ms: 0 };
    tags(r, |tag, mut r| {
        if tag == 0 {
            value.timestamp_ms = r.i64()?;
        }
        Ok(())
    })?;
    Ok(value)
}

fn put_target(out: &mut BytesMut, value: &Partitions) {
    put_array_len(out, true, value.len());
    for (topic, partitions) in value {
        out.put_slice(&topic.0);
        put_array_len(out, true, partitions.len());
        partitions.iter().for_each(|&partition| out.put_i32(partition));
        out.put_u8(0);
    }
    out.put_u8(0);
}

fn target(r: &mut Reader<'_>) -> Result<Partitions, WireError> {
    let mut value = Partitions::new();
    for _ in 0..r.array_len(true)? {
        let topic = Uuid(r.uuid()?);
        let partitions: BTreeSet<i32> = numbers(r)?.into_iter().collect();
        r.skip_tags()?;
        if !partitions.is_empty() {
            value.insert(topic, partitions);
        }
    }
    r.skip_tags()?;
    Ok(value)
}

fn put_current(out: &mut BytesMut, value: &CurrentAssignment) {
    out.put_i32(value.epoch);
    out.put_i32(value.previous_epoch);
    out.put_i8(value.state as i8);
    put_owned(out, &value.assigned);
    put_owned(out, &value.pending_revocation);
    out.put_u8(0);
}

fn put_owned(out: &mut BytesMut, owned: &Owned) {
    put_array_len(out, true, owned.len());
    for (topic, partitions) in owned {
        out.put_slice(&topic.0);
        put_array_len(out, true, partitions.len());
        partitions.keys().for_each(|&partition| out.put_i32(partition));
        let mut epochs = BytesMut::new();
        put_array_len(&mut epochs, true, partitions.len());
        partitions.values().for_each(|&epoch| epochs.put_i32(epoch));
        put_tags(out, &[(0, Some(epochs.to_vec()))]);
    }
}

fn current(r: &mut Reader<'_>) -> Result<CurrentAssignment, WireError> {
    let (epoch, previous_epoch, state) = (r.i32()?, r.i32()?, MemberState::from_number(r.u8()? as i8));
    let value = CurrentAssignment { epoch, previous_epoch, state, assigned: owned(r, epoch)?, pending_revocation: owned(r, epoch)? };
    r.skip_tags()?;
    Ok(value)
}

/// Brokers before 4.3 kept no epochs of partitions: the member's own stands for them.
fn owned(r: &mut Reader<'_>, member_epoch: i32) -> Result<Owned, WireError> {
    let mut value = Owned::new();
    for _ in 0..r.array_len(true)? {
        let topic = Uuid(r.uuid()?);
        let partitions = numbers(r)?;
        let mut epochs = Vec::new();
        tags(r, |tag, mut r| {
            if tag == 0 {
                // A length of 0 is a null array.
                epochs = if r.rest().first() == Some(&0) { Vec::new() } else { numbers(&mut r)? };
            }
            Ok(())
        })?;
        let epochs = epochs.into_iter().chain(std::iter::repeat(member_epoch));
        let partitions: BTreeMap<i32, i32> = partitions.into_iter().zip(epochs).collect();
        if !partitions.is_empty() {
            value.insert(topic, partitions);
        }
    }
    Ok(value)
}

fn put_resolved(out: &mut BytesMut, value: &Resolved) {
    put_array_len(out, true, value.topics.len());
    value.topics.iter().for_each(|name| put_string(out, true, Some(name)));
    out.put_i64(value.version);
    out.put_i64(value.timestamp_ms);
    out.put_u8(0);
}

fn resolved(r: &mut Reader<'_>) -> Result<Resolved, WireError> {
    let value = Resolved { topics: texts(r)?, version: r.i64()?, timestamp_ms: r.i64()? };
    r.skip_tags()?;
    Ok(value)
}

// ---- fields ----

fn text(bytes: Option<&[u8]>) -> Result<String, WireError> {
    let bytes = bytes.ok_or(WireError::Malformed("null text"))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Malformed("text that is not UTF-8"))
}

fn nullable(r: &mut Reader<'_>) -> Result<Option<String>, WireError> {
    r.string(true)?.map(|bytes| text(Some(bytes))).transpose()
}

fn texts(r: &mut Reader<'_>) -> Result<BTreeSet<String>, WireError> {
    (0..r.array_len(true)?).map(|_| text(r.string(true)?)).collect()
}

fn numbers(r: &mut Reader<'_>) -> Result<Vec<i32>, WireError> {
    (0..r.array_len(true)?).map(|_| r.i32()).collect()
}

/// Appends the tagged fields that are set.
fn put_tags(out: &mut BytesMut, fields: &[(u64, Option<Vec<u8>>)]) {
    let set: Vec<_> = fields.iter().filter_map(|(tag, bytes)| Some((tag, bytes.as_ref()?))).collect();
    put_unsigned_varint(out, set.len() as u64);
    for (tag, bytes) in set {
        put_unsigned_varint(out, *tag);
        put_unsigned_varint(out, bytes.len() as u64);
        out.put_slice(bytes);
    }
}

/// Shows each tagged field to `take`, which passes over those it does not know.
fn tags<'a>(r: &mut Reader<'a>, mut take: impl FnMut(u32, Reader<'a>) -> Result<(), WireError>) -> Result<(), WireError> {
    for _ in 0..r.unsigned_varint()? {
        let tag = r.unsigned_varint()?;
        let len = r.unsigned_varint()?;
        take(tag, Reader::new(r.take(len as usize)?))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;

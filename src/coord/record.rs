//! The records of `__consumer_offsets`, in Kafka's formats: keys of type 0 and 1 (a committed offset), 2 (a classic group), and those of
//! groups of the new protocol ([`super::modern::record`]).
//!
//! A key begins with its type as `int16`, a value with its version. A record without a value is a tombstone. Types that this broker does
//! not know are passed over at replay, as Kafka does.

use std::fmt;

use bytes::{BufMut, Bytes};

use super::Name;
use super::group::{GroupMetadata, MemberMetadata};
use super::modern::record::{self as modern, Change};
use super::offsets::CommittedOffset;
use crate::base::ids::{TopicId, Uuid};
use crate::wire::WireError;
use crate::wire::primitive::{Reader, put_unsigned_varint};

const OFFSET_COMMIT_V0: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
const GROUP_METADATA: i16 = 2;

/// OffsetCommitValue: 1 alone has an expiry time, 4 is flexible and can name the topic's id.
const OFFSET_WITH_EXPIRY: i16 = 1;
const OFFSET_VALUE: i16 = 4;
/// Tag of the topic's id in version 4.
const TOPIC_ID_TAG: u32 = 0;
/// GroupMetadataValue: 3 is the last that is not flexible.
const GROUP_VALUE: i16 = 3;
const GROUP_VALUE_MAX: i16 = 4;

/// One change of a coordinator's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An offset is committed or, without a value, gone.
    Offset {
        /// Group.
        group: Name,
        /// Topic.
        topic: Name,
        /// Partition.
        partition: i32,
        /// What is committed.
        value: Option<CommittedOffset>,
    },
    /// A classic group has a new generation or, without a value, is gone.
    Group {
        /// Group.
        group: Name,
        /// The generation.
        value: Option<GroupMetadata>,
    },
    /// A change of a group of the new protocol.
    Modern {
        /// Group.
        group: Name,
        /// What changes.
        change: Box<Change>,
    },
}

/// Why bytes are no record of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// No key.
    NoKey,
    /// A value of a version that this broker does not know.
    Version(i16),
    /// A text that is not UTF-8.
    Text,
    /// A field is damaged, or the bytes end within one.
    Field(WireError),
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRecord::NoKey => f.write_str("a record without a key"),
            BadRecord::Version(version) => write!(f, "a value of version {version}"),
            BadRecord::Text => f.write_str("a text that is not UTF-8"),
            BadRecord::Field(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BadRecord {}

impl From<WireError> for BadRecord {
    fn from(error: WireError) -> BadRecord {
        BadRecord::Field(error)
    }
}

/// What [`Record::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A record.
    Known(Record),
    /// A key of a type that this broker does not have.
    Unknown(i16),
}

impl Record {
    /// A change of a group of the new protocol.
    pub fn modern(group: &Name, change: Change) -> Record {
        Record::Modern { group: group.clone(), change: Box::new(change) }
    }

    /// The group that the record belongs to.
    pub fn group(&self) -> &Name {
        match self {
            Record::Offset { group, .. } | Record::Group { group, .. } | Record::Modern { group, .. } => group,
        }
    }

    /// Key and value.
    pub fn encode(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut key = Vec::new();
        match self {
            Record::Offset { group, topic, partition, value } => {
                key.put_i16(OFFSET_COMMIT);
                put_text(&mut key, group);
                put_text(&mut key, topic);
                key.put_i32(*partition);
                (key, value.as_ref().map(encode_offset))
            }
            Record::Group { group, value } => {
                key.put_i16(GROUP_METADATA);
                put_text(&mut key, group);
                (key, value.as_ref().map(encode_group))
            }
            Record::Modern { group, change } => change.encode(group),
        }
    }

    /// The record of a key and a value, which may come from a damaged disk.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Decoded, BadRecord> {
        let bytes = key.ok_or(BadRecord::NoKey)?;
        let mut key = Reader::new(bytes);
        Ok(Decoded::Known(match key.i16()? {
            OFFSET_COMMIT_V0 | OFFSET_COMMIT => Record::Offset {
                group: text(&mut key)?,
                topic: text(&mut key)?,
                partition: key.i32()?,
                value: value.map(decode_offset).transpose()?,
            },
            GROUP_METADATA => Record::Group { group: text(&mut key)?, value: value.map(decode_group).transpose()? },
            kind if modern::KINDS.contains(&kind) => {
                let (group, change) = modern::decode(bytes, value)?;
                Record::modern(&group, change)
            }
            other => return Ok(Decoded::Unknown(other)),
        }))
    }
}

fn encode_offset(value: &CommittedOffset) -> Vec<u8> {
    let mut out = Vec::with_capacity(26 + value.metadata.len());
    let version = if value.expire_ms.is_some() { OFFSET_WITH_EXPIRY } else { OFFSET_VALUE };
    let flexible = version == OFFSET_VALUE;
    out.put_i16(version);
    out.put_i64(value.offset);
    if flexible {
        out.put_i32(value.leader_epoch);
    }
    put_text_as(&mut out, flexible, &value.metadata);
    out.put_i64(value.commit_ms);
    if let Some(expire_ms) = value.expire_ms {
        out.put_i64(expire_ms);
    }
    if flexible && value.topic_id.is_zero() {
        put_unsigned_varint(&mut out, 0);
    } else if flexible {
        put_unsigned_varint(&mut out, 1);
        put_unsigned_varint(&mut out, TOPIC_ID_TAG.into());
        put_unsigned_varint(&mut out, value.topic_id.0.len() as u64);
        out.put_slice(&value.topic_id.0);
    }
    out
}

fn decode_offset(bytes: &[u8]) -> Result<CommittedOffset, BadRecord> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16()?;
    if !(0..=OFFSET_VALUE).contains(&version) {
        return Err(BadRecord::Version(version));
    }
    let flexible = version == OFFSET_VALUE;
    let offset = reader.i64()?;
    let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
    let metadata = text_as(&mut reader, flexible)?;
    let commit_ms = reader.i64()?;
    let expire_ms = if version == OFFSET_WITH_EXPIRY { Some(reader.i64()?).filter(|ms| *ms != -1) } else { None };
    let topic_id = if flexible { topic_id_tag(&mut reader)? } else { Uuid::ZERO };
    Ok(CommittedOffset { offset, leader_epoch, metadata, commit_ms, expire_ms, topic_id })
}

/// The topic's id among the tagged fields; zero where it is not said.
fn topic_id_tag(reader: &mut Reader<'_>) -> Result<TopicId, BadRecord> {
    let mut id = Uuid::ZERO;
    for _ in 0..reader.unsigned_varint()? {
        let (tag, len) = (reader.unsigned_varint()?, reader.unsigned_varint()?);
        let field = reader.take(len as usize)?;
        if tag == TOPIC_ID_TAG {
            id = Uuid(field.try_into().map_err(|_| WireError::Malformed("topic id"))?);
        }
    }
    Ok(id)
}

fn encode_group(value: &GroupMetadata) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_i16(GROUP_VALUE);
    put_text(&mut out, &value.protocol_type);
    out.put_i32(value.generation);
    put_nullable_text(&mut out, value.protocol.as_ref());
    put_nullable_text(&mut out, value.leader.as_ref());
    out.put_i64(value.state_ms);
    out.put_i32(value.members.len() as i32);
    for member in &value.members {
        put_text(&mut out, &member.member_id);
        put_nullable_text(&mut out, member.instance_id.as_ref());
        put_text(&mut out, &member.client_id);
        put_text(&mut out, &member.client_host);
        out.put_i32(member.rebalance_timeout_ms);
        out.put_i32(member.session_timeout_ms);
        for field in [&member.subscription, &member.assignment] {
            out.put_i32(field.len() as i32);
            out.put_slice(field);
        }
    }
    out
}

fn decode_group(bytes: &[u8]) -> Result<GroupMetadata, BadRecord> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16()?;
    if !(0..=GROUP_VALUE_MAX).contains(&version) {
        return Err(BadRecord::Version(version));
    }
    let flexible = version == GROUP_VALUE_MAX;
    let protocol_type = text_as(&mut reader, flexible)?;
    let generation = reader.i32()?;
    let (protocol, leader) = (nullable_text(&mut reader, flexible)?, nullable_text(&mut reader, flexible)?);
    let state_ms = if version >= 2 { reader.i64()? } else { -1 };
    let mut members = Vec::new();
    for _ in 0..reader.array_len(flexible)? {
        members.push(decode_member(&mut reader, version, flexible)?);
    }
    if flexible {
        reader.skip_tags()?;
    }
    Ok(GroupMetadata { protocol_type, generation, protocol, leader, state_ms, members })
}

fn decode_member(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<MemberMetadata, BadRecord> {
    let member_id = text_as(reader, flexible)?;
    let instance_id = if version >= 3 { nullable_text(reader, flexible)? } else { None };
    let (client_id, client_host) = (text_as(reader, flexible)?, text_as(reader, flexible)?);
    let rebalance_timeout_ms = if version >= 1 { reader.i32()? } else { -1 };
    let session_timeout_ms = reader.i32()?;
    // Version 0 knew one timeout.
    let rebalance_timeout_ms = if rebalance_timeout_ms == -1 { session_timeout_ms } else { rebalance_timeout_ms };
    let mut bytes = || reader.bytes(flexible)?.map(Bytes::copy_from_slice).ok_or(WireError::Malformed("null bytes"));
    let (subscription, assignment) = (bytes()?, bytes()?);
    if flexible {
        reader.skip_tags()?;
    }
    Ok(MemberMetadata {
        member_id,
        instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms,
        session_timeout_ms,
        subscription,
        assignment,
    })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_text_as(out, false, text);
}

/// Texts come from requests, whose strings are no longer than this format's; the flexible form of those is bounded where they are taken.
fn put_text_as(out: &mut Vec<u8>, flexible: bool, text: &str) {
    if flexible {
        put_unsigned_varint(out, text.len() as u64 + 1);
    } else {
        out.put_i16(text.len() as i16);
    }
    out.put_slice(text.as_bytes());
}

fn put_nullable_text(out: &mut Vec<u8>, text: Option<&Name>) {
    match text {
        Some(text) => put_text(out, text),
        None => out.put_i16(-1),
    }
}

fn text(reader: &mut Reader<'_>) -> Result<Name, BadRecord> {
    text_as(reader, false)
}

fn text_as(reader: &mut Reader<'_>, flexible: bool) -> Result<Name, BadRecord> {
    nullable_text(reader, flexible)?.ok_or(BadRecord::Field(WireError::Malformed("null text")))
}

fn nullable_text(reader: &mut Reader<'_>, flexible: bool) -> Result<Option<Name>, BadRecord> {
    let Some(bytes) = reader.string(flexible)? else { return Ok(None) };
    Ok(Some(std::str::from_utf8(bytes).map_err(|_| BadRecord::Text)?.into()))
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;

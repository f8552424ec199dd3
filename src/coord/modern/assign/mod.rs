//! The server-side assignors: who of a group is to have which partition. Deterministic: the same members, topics and former assignment
//! give the same assignment.

pub mod range;
pub mod uniform;

use std::collections::{BTreeMap, BTreeSet};

use super::member::Partitions;
use crate::base::ids::TopicId;

/// What an assignor knows of a member.
#[derive(Clone, Copy, Debug)]
pub struct MemberSpec<'a> {
    /// Its id.
    pub id: &'a str,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<&'a str>,
    /// What it subscribes to: topics of [`GroupSpec::topics`] only.
    pub topics: &'a BTreeSet<TopicId>,
    /// Its part of the former assignment. No partition is in two of them.
    pub previous: &'a Partitions,
}

/// What an assignor knows of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupSpec<'a> {
    /// The members, in the order of their ids. There may be tens of thousands: an assignor goes by
    /// their places here, and looks for no id.
    pub members: Vec<MemberSpec<'a>>,
    /// The topics that any of them subscribes to, with their numbers of partitions.
    pub topics: BTreeMap<TopicId, i32>,
}

/// Every member's part, in the order of [`GroupSpec::members`]; every partition that anybody subscribes
/// to is in exactly one.
pub type Assignment = Vec<Partitions>;

/// The assignors that Kafka has built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Balanced over all topics together, moving as little as possible.
    Uniform,
    /// Of every topic a contiguous range each: the same partitions of topics with equally many go to the same member.
    Range,
}

impl Assignor {
    /// The assignor that a client or the configuration calls so.
    pub fn by_name(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    /// See [`Assignor::by_name`].
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// Makes an assignment.
    pub fn assign(self, group: &GroupSpec<'_>) -> Assignment {
        match self {
            Assignor::Uniform => uniform::assign(group),
            Assignor::Range => range::assign(group),
        }
    }
}

#[cfg(test)]
mod tests;

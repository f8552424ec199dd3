//! Groups that commit offsets: of each topic name one that commits often and one that commits seldom,
//! so that what a start has found is looked at before another commit takes its place.

use std::io;
use std::time::Duration;

use super::super::client::{self, Client};
use super::requests;
use super::world::{Ack, Known, Topic, World};
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::wire::codec::OffsetCommitResponse;

/// How long an answer may take. A request that was given up may be carried out later, so it is long.
const PATIENCE: Duration = Duration::from_secs(900);
/// Of so many steps of a group that commits seldom one commits.
const SELDOM: u64 = 8;

/// One group's commits for one topic name.
pub struct Commits<'a> {
    world: &'a World,
    name: String,
    group: String,
    /// Of so many steps one commits; all of them look.
    commits_one_in: u64,
    /// The topic id that the offsets are of.
    id: TopicId,
    /// The last offset that a commit was sent of, and the last one that was acknowledged.
    sent: i64,
    acked: i64,
    /// The last offset that a commit was sent of by the topic's name: it is one in whichever topic has
    /// that name when it arrives.
    by_name: i64,
    /// Commits by name for earlier topic ids, which may have become ones for a later topic.
    loose: Vec<String>,
}

impl<'a> Commits<'a> {
    /// Those of a topic name.
    pub fn of<'w>(world: &'w World, name: &str) -> [Commits<'w>; 2] {
        [("group", 1), ("seldom", SELDOM)].map(|(group, commits_one_in)| Commits {
            world,
            name: name.to_owned(),
            group: format!("{group}-{name}"),
            commits_one_in,
            id: TopicId::ZERO,
            sent: 0,
            acked: 0,
            by_name: 0,
            loose: Vec::new(),
        })
    }

    /// Commits until the life is over.
    pub async fn run(&mut self) {
        while !self.world.over.get() {
            let client = self.world.connect().await;
            let _ = self.go_on(&client).await;
        }
    }

    async fn go_on(&mut self, client: &Client<'_>) -> io::Result<()> {
        let world = self.world;
        if world.within(PATIENCE, requests::find_coordinator(client, &self.group)).await? != 0 {
            return Ok(());
        }
        while !world.over.get() {
            self.look(client).await?;
            world.pause().await;
            if world.one_in(self.commits_one_in) {
                for _ in 0..1 + world.sim().below(6) {
                    self.commit(client).await?;
                }
            }
        }
        Ok(())
    }

    fn follow(&mut self, topic: &Topic) {
        if self.id != topic.id {
            if self.by_name > self.acked {
                self.loose.push(self.id.to_string());
            }
            (self.id, self.sent, self.acked, self.by_name) = (topic.id, 0, 0, 0);
        }
    }

    /// Commits a few offsets without waiting in between.
    async fn commit(&mut self, client: &Client<'_>) -> io::Result<()> {
        let world = self.world;
        let Some(topic) = world.topic(&self.name) else { return Ok(()) };
        self.follow(&topic);
        let text = topic.id.to_string();
        let mut due = Vec::new();
        for _ in 0..1 + world.sim().below(5) {
            self.sent = self.sent.max(self.acked) + 1;
            let by_name = world.one_in(2);
            let (version, named) = if by_name {
                self.by_name = self.sent;
                (8, client::Topic::Name(&self.name))
            } else {
                (10, client::Topic::Id(topic.id))
            };
            let request = requests::commit(&self.group, named, 0, self.sent, &text);
            due.push((self.sent, by_name, client.send(version, &request).await?));
        }
        for (sent, by_name, due) in due {
            let answer: OffsetCommitResponse = world.within(PATIENCE, client.receive(due)).await?;
            self.committed(&topic, sent, by_name, answer.topics[0].partitions[0].error_code);
        }
        Ok(())
    }

    fn committed(&mut self, topic: &Topic, sent: i64, by_name: bool, code: i16) {
        let text = topic.id.to_string();
        // A topic that was created before the answer came may have it.
        let still = match &self.world.topics.borrow()[&self.name] {
            Known::There(now) => now.id == topic.id,
            Known::Gone => true,
            Known::Unknown => false,
        };
        if by_name && !still && !self.loose.contains(&text) {
            self.loose.push(text);
        }
        match ErrorCode::from_code(code) {
            ErrorCode::None => {
                self.acked = sent;
                self.world.count("commits");
                self.world.acknowledged(Ack::Commit);
            }
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::NotCoordinator => {}
            _ if self.world.disks_ail.get() || self.world.commits_lost.get() => {}
            _ => self.world.finding(&format!("{}: a commit is refused with {code}", self.group)),
        }
    }

    /// What is committed was acknowledged last, or sent behind it, and is of the present topic. The
    /// error code if it is refused.
    pub async fn look(&mut self, client: &Client<'_>) -> io::Result<i16> {
        let world = self.world;
        let Some(before) = world.topic(&self.name) else { return Ok(0) };
        self.follow(&before);
        let (version, named) = match world.one_in(2) {
            true => (8, client::Topic::Name(&self.name)),
            false => (10, client::Topic::Id(before.id)),
        };
        let ask = requests::committed(client, version, &self.group, named, 0);
        let found = world.within(PATIENCE, ask).await?;
        // It may have gone, or come back, meanwhile.
        let still = world.topic(&self.name).is_some_and(|topic| topic.id == before.id);
        if !still || world.commits_lost.get() {
            return Ok(0);
        }
        let (offset, text) = match found {
            Ok(found) => found,
            Err(code) => return Ok(code),
        };
        if offset >= 0 && text != self.id.to_string() && !self.loose.contains(&text) {
            world.finding(&format!("{}: offset {offset} of topic {text} is committed for topic {}", self.group, self.id));
        }
        let (acked, sent) = (self.acked, self.sent);
        let mine = offset < 0 || text == self.id.to_string();
        if mine && !(acked..=sent).contains(&offset.max(0)) {
            world.finding(&format!("{}: {offset} is committed, {acked} was acknowledged, {sent} sent", self.group));
        }
        Ok(0)
    }
}

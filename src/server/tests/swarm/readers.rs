//! Consumers: one follows the tail, and now and then the whole log is read and held against the history.

use std::io;
use std::time::Duration;

use super::super::client::Client;
use super::history::Found;
use super::requests::{self, Fetched};
use super::world::{Topic, World};
use crate::base::error::ErrorCode;
use crate::base::ids::{Offset, TopicId};
use crate::wire::batch::{Batches, crc_ok};
use crate::wire::record::Records;

/// Bytes of a batch before its records.
const HEADER: usize = 61;
/// How long an answer may take before a consumer gives the connection up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one fetch gave.
pub enum Step {
    /// The error code.
    Refused(i16),
    /// Records with their offsets, where the next fetch begins, and the log's ends.
    Read(Vec<(Offset, usize)>, Offset, (Offset, Offset)),
}

/// Fetches once and has the checker look at all of it.
pub async fn step(world: &World, client: &Client<'_>, name: &str, id: TopicId, partition: i32, from: Offset) -> io::Result<Step> {
    let sim = world.sim();
    let bytes = world.choose(&[1, 3000, 1 << 20]);
    let asked = world.history.borrow_mut().partition(id, partition).view();
    let fetch = requests::fetch(client, id, partition, from, bytes, 20 + sim.below(500) as i32);
    let Fetched { code, start, end, records } = world.within(PATIENCE, fetch).await?;
    if code != 0 {
        return Ok(Step::Refused(code));
    }
    let where_ = |e: String| format!("{name} {id}: {e}");
    world.tick();
    let now = sim.now();
    let mut history = world.history.borrow_mut();
    if start >= 0 {
        world.demand(history.start(id, partition, start, now.mono, &asked).map_err(where_));
    }
    world.demand(history.end(id, partition, end, &asked).map_err(where_));
    let mut next = from;
    let mut found = Vec::new();
    for batch in Batches::new(&records) {
        let Ok((header, bytes)) = batch else { break };
        if !crc_ok(bytes) {
            world.finding(&format!("{name} partition {partition}: a batch with a bad CRC is served at {}", header.base_offset));
        }
        if header.next_offset() <= next && !found.is_empty() {
            world.finding(&format!("{name} partition {partition}: batches out of order at {}", header.base_offset));
        }
        for record in Records::new(&bytes[HEADER..], header.records_count) {
            let Ok(record) = record else { world.finding(&format!("{name} partition {partition}: a bad record is served")) };
            let offset = header.base_offset + i64::from(record.offset_delta);
            if offset < from {
                continue;
            }
            let timestamp_ms = header.base_timestamp + record.timestamp_delta;
            let read = Found { offset, key: record.key, value: record.value, timestamp_ms };
            let number = world.demand(history.observe(id, partition, &read, &asked).map_err(where_));
            found.push((offset, number));
        }
        next = next.max(header.next_offset());
    }
    Ok(Step::Read(found, next, (start, end)))
}

/// Reads a partition from its start to its end and holds it against the history. `rest`: nobody produces. False if it is refused.
pub async fn whole(world: &World, client: &Client<'_>, name: &str, id: TopicId, partition: i32, rest: bool) -> io::Result<Result<(), i16>> {
    let (mut all, mut next, mut stuck) = (Vec::new(), 0, 0);
    loop {
        match step(world, client, name, id, partition, next).await? {
            Step::Refused(code) if code == ErrorCode::OffsetOutOfRange.code() => {
                let (code, start, _) = world.within(PATIENCE, requests::list_offsets(client, name, partition, -2)).await?;
                if code != 0 {
                    return Ok(Err(code));
                }
                if start <= next && !world.history.borrow_mut().partition(id, partition).lenient() {
                    stuck += 1;
                }
                // The topic of this name may be another one by now.
                if stuck > 3 || world.topic(name).is_none_or(|topic| topic.id != id) {
                    return Ok(Err(ErrorCode::OffsetOutOfRange.code()));
                }
                (all, next) = (Vec::new(), start);
            }
            Step::Refused(code) => return Ok(Err(code)),
            Step::Read(found, after, ends) => {
                all.extend(found);
                if after >= ends.1 {
                    let verdict = world.history.borrow_mut().whole(id, partition, &all, ends, rest);
                    world.demand(verdict.map_err(|e| format!("{name} {id}: {e}")));
                    world.count("whole reads");
                    return Ok(Ok(()));
                }
                stuck = if after == next { stuck + 1 } else { 0 };
                if stuck > 100 {
                    let lenient = world.history.borrow_mut().partition(id, partition).lenient();
                    if !lenient {
                        world.finding(&format!("{name} partition {partition}: nothing comes at {next}, the log reaches to {}", ends.1));
                    }
                    return Ok(Err(ErrorCode::UnknownServerError.code()));
                }
                next = after;
            }
        }
    }
}

/// Consumes a topic name until the life is over.
pub async fn run(world: &World, name: &str) {
    while !world.over.get() {
        let client = world.connect().await;
        let _ = follow(world, &client, name).await;
    }
}

async fn follow(world: &World, client: &Client<'_>, name: &str) -> io::Result<()> {
    while !world.over.get() {
        world.pause().await;
        let Some(topic) = world.topic(name) else { continue };
        let partition = world.sim().below(topic.partitions as u64) as i32;
        if world.one_in(3) {
            // Refusals are judged when everything is healed.
            let _ = whole(world, client, name, topic.id, partition, false).await?;
        } else {
            tail(world, client, name, &topic, partition).await?;
        }
    }
    Ok(())
}

async fn tail(world: &World, client: &Client<'_>, name: &str, topic: &Topic, partition: i32) -> io::Result<()> {
    let mut next = world.history.borrow_mut().partition(topic.id, partition).last_seen();
    for _ in 0..8 {
        match step(world, client, name, topic.id, partition, next).await? {
            Step::Refused(_) => break,
            Step::Read(_, after, _) => next = after,
        }
    }
    Ok(())
}

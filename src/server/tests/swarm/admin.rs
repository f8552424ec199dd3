//! Topics that come, go, grow and change.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::super::client::{Client, TIMEOUT_MS};
use super::plan::Feature;
use super::requests;
use super::world::{Ack, Known, Topic, World};
use crate::base::error::ErrorCode;
use crate::base::ids::TopicId;
use crate::wire::codec::{CreateTopicsResponse, DeleteTopicsResponse};

/// How long an answer may take. A request that was given up may be carried out later, so it is long.
const PATIENCE: Duration = Duration::from_secs(900);
/// Most partitions of a topic.
const PARTITIONS_MAX: i32 = 4;

/// Settings of a new topic.
fn draw(world: &World) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut set = |name: &str, value: &str| settings.insert(name.to_owned(), value.to_owned());
    let (retention, compaction) = (world.plan.does(Feature::Retention), world.plan.does(Feature::Compaction));
    if compaction && world.one_in(2) {
        set("cleanup.policy", world.choose(&["compact", "compact", "compact,delete"]));
        set("min.cleanable.dirty.ratio", world.choose(&["0.0", "0.3"]));
        set("delete.retention.ms", world.choose(&["0", "5000", "86400000"]));
    } else {
        set("cleanup.policy", "delete");
    }
    set("retention.ms", if retention && world.one_in(2) { world.choose(&["3000", "20000", "120000"]) } else { "-1" });
    set("retention.bytes", if retention && world.one_in(3) { world.choose(&["1", "20000", "200000"]) } else { "-1" });
    set("segment.ms", world.choose(&["100", "1000", "10000", "604800000"]));
    settings
}

/// What a topic may be told to change to.
fn change(world: &World) -> (&'static str, &'static str) {
    let mut choices = vec![("segment.ms", "200"), ("segment.ms", "20000"), ("flush.messages", "1"), ("max.message.bytes", "900000")];
    if world.plan.does(Feature::Retention) {
        choices.extend([("retention.ms", "5000"), ("retention.ms", "-1"), ("retention.bytes", "50000"), ("retention.bytes", "-1")]);
    }
    if world.plan.does(Feature::Compaction) {
        choices.extend([("cleanup.policy", "compact"), ("cleanup.policy", "delete"), ("cleanup.policy", "compact,delete")]);
    }
    world.choose(&choices)
}

/// Looks after one topic name until the life is over.
pub async fn run(world: &World, name: &str) {
    while !world.over.get() {
        let client = world.connect().await;
        let _ = manage(world, &client, name).await;
    }
}

async fn manage(world: &World, client: &Client<'_>, name: &str) -> io::Result<()> {
    look(world, client, name).await?;
    let mut at_once = world.one_in(2);
    while !world.over.get() {
        // While the broker may not have read all that it was left with.
        let churn = at_once && world.plan.does(Feature::Churn) && world.one_in(2);
        if !std::mem::take(&mut at_once) {
            world.pause().await;
        }
        let known = world.topics.borrow()[name].clone();
        match known {
            Known::Gone => create(world, client, name).await?,
            Known::Unknown => {
                // The connection ended before the answer: until the request's deadline the change may
                // still be made.
                world.sim().sleep(Duration::from_millis(TIMEOUT_MS as u64)).await;
                look(world, client, name).await?;
            }
            Known::There(topic) => match if churn { 0 } else { world.sim().below(8) } {
                0 if world.plan.does(Feature::Churn) => {
                    if world.one_in(2) {
                        replace(world, client, name).await?;
                    } else {
                        delete(world, client, name).await?;
                    }
                }
                1 | 2 if world.plan.does(Feature::DeleteRecords) => delete_records(world, client, name, &topic).await?,
                3 if world.plan.does(Feature::Alter) => alter(world, client, name, &topic).await?,
                4 if world.plan.does(Feature::Grow) && topic.partitions < PARTITIONS_MAX => grow(world, client, name, &topic).await?,
                5 => look_up(world, client, name, &topic).await?,
                6 => look(world, client, name).await?,
                7 if world.plan.does(Feature::OwnNames) => own_name(world, client).await?,
                _ => {}
            },
        }
    }
    Ok(())
}

/// A code that leaves open whether a change was made, or ends the life.
fn undecided(world: &World, what: &str, code: i16) {
    world.count(format!("{what}: {:?}", ErrorCode::from_code(code)));
    if code != ErrorCode::RequestTimedOut.code() || !world.disks_ail.get() {
        world.finding(&format!("{what} is refused with {code}"));
    }
}

async fn create(world: &World, client: &Client<'_>, name: &str) -> io::Result<()> {
    if *world.topics.borrow().get(name).expect("a name in use") != Known::Gone {
        return Ok(());
    }
    let (settings, partitions) = (draw(world), 1 + world.sim().below(3) as i32);
    world.know(name, Known::Unknown);
    world.count("create");
    let (code, id) = world.within(PATIENCE, requests::create(client, name, partitions, &settings)).await?;
    if code != 0 {
        undecided(world, "a creation", code);
        return Ok(());
    }
    created(world, name, id, partitions, settings);
    Ok(())
}

fn created(world: &World, name: &str, id: TopicId, partitions: i32, settings: BTreeMap<String, String>) {
    world.acknowledged(Ack::Change);
    let settings = settings.into_iter().map(|(name, value)| (name, vec![value])).collect();
    there(world, name, Topic { id, partitions, settings });
}

/// Asks for a topic that only the broker may have.
async fn own_name(world: &World, client: &Client<'_>) -> io::Result<()> {
    // Kafka has a code of its own for the name of its metadata log.
    let (name, refusal) = world.choose(&[
        ("__corelane_metadata", ErrorCode::InvalidTopicException),
        ("__cluster_metadata", ErrorCode::InvalidRequest),
        ("__corelane_anything", ErrorCode::InvalidTopicException),
    ]);
    let (code, _) = world.within(PATIENCE, requests::create(client, name, 1, &BTreeMap::new())).await?;
    world.count("own name");
    if code != refusal.code() {
        world.finding(&format!("a topic {name} is asked for, the answer is {code}"));
    }
    Ok(())
}

fn there(world: &World, name: &str, topic: Topic) {
    world.tell(format!("{name} is {}, {} partitions, {:?}", topic.id, topic.partitions, topic.settings));
    world.history.borrow_mut().created(topic.id, name, topic.partitions, topic.rules());
    world.know(name, Known::There(topic));
}

async fn delete(world: &World, client: &Client<'_>, name: &str) -> io::Result<()> {
    world.know(name, Known::Unknown);
    world.count("delete");
    match world.within(PATIENCE, requests::delete(client, name)).await? {
        0 => {
            world.acknowledged(Ack::Change);
            world.tell(format!("{name} is deleted"));
            world.know(name, Known::Gone);
        }
        code => undecided(world, "a deletion", code),
    }
    Ok(())
}

/// Deletes a topic and creates another one of its name, without a pause.
async fn replace(world: &World, client: &Client<'_>, name: &str) -> io::Result<()> {
    let (settings, partitions) = (draw(world), 1 + world.sim().below(3) as i32);
    world.know(name, Known::Unknown);
    world.count("replace");
    let deletion = client.send(6, &requests::deletion(name)).await?;
    let creation = client.send(7, &requests::creation(name, partitions, &settings)).await?;
    let deleted: DeleteTopicsResponse = world.within(PATIENCE, client.receive(deletion)).await?;
    let made: CreateTopicsResponse = world.within(PATIENCE, client.receive(creation)).await?;
    match (deleted.responses[0].error_code, made.topics[0].error_code) {
        (0, 0) => created(world, name, made.topics[0].topic_id.into(), partitions, settings),
        (0, code) => undecided(world, "a creation behind a deletion", code),
        (code, _) => undecided(world, "a deletion", code),
    }
    Ok(())
}

/// Holds the metadata and the settings of a name against what is known.
pub async fn look(world: &World, client: &Client<'_>, name: &str) -> io::Result<()> {
    let known = world.topics.borrow()[name].clone();
    let (code, id, partitions) = world.within(PATIENCE, requests::metadata(client, name)).await?;
    let found = match ErrorCode::from_code(code) {
        ErrorCode::None => Some(id),
        ErrorCode::UnknownTopicOrPartition => None,
        _ => world.finding(&format!("{name}: its metadata is refused with {code}")),
    };
    match (&known, found) {
        (Known::Unknown, None) => world.know(name, Known::Gone),
        (Known::Unknown, Some(id)) => return adopt(world, client, name, id, partitions).await,
        (Known::Gone, None) => {}
        (Known::There(topic), Some(id)) if topic.id == id => {
            if partitions < topic.partitions {
                world.finding(&format!("{name} has {partitions} partitions, {} were acknowledged", topic.partitions));
            }
            world.learn(name, id, |topic| topic.partitions = partitions);
            return look_at_settings(world, client, name, id).await;
        }
        (known, found) => world.finding(&format!("{name} should be {known:?}, it is {found:?}")),
    }
    Ok(())
}

/// A topic whose creation, or whose deletion, was not answered.
async fn adopt(world: &World, client: &Client<'_>, name: &str, id: TopicId, partitions: i32) -> io::Result<()> {
    let Ok(all) = world.within(PATIENCE, requests::settings(client, name)).await? else { return Ok(()) };
    let names = ["cleanup.policy", "retention.ms", "retention.bytes", "segment.ms"];
    let settings = names.iter().filter_map(|name| Some(((*name).to_owned(), vec![all.get(*name)?.clone()]))).collect();
    there(world, name, Topic { id, partitions, settings });
    Ok(())
}

async fn look_at_settings(world: &World, client: &Client<'_>, name: &str, id: TopicId) -> io::Result<()> {
    let Ok(all) = world.within(PATIENCE, requests::settings(client, name)).await? else { return Ok(()) };
    let Some(topic) = world.topic(name).filter(|topic| topic.id == id) else { return Ok(()) };
    for (setting, values) in &topic.settings {
        let now = all.get(setting).cloned().unwrap_or_default();
        if !values.contains(&now) {
            world.finding(&format!("{name}: {setting} is {now}, it should be one of {values:?}"));
        }
        world.learn(name, id, |topic| {
            topic.settings.insert(setting.clone(), vec![now]);
        });
    }
    Ok(())
}

async fn alter(world: &World, client: &Client<'_>, name: &str, topic: &Topic) -> io::Result<()> {
    let (setting, value) = change(world);
    let before = match topic.settings.get(setting) {
        Some(values) => values.clone(),
        None => {
            let Ok(all) = world.within(PATIENCE, requests::settings(client, name)).await? else { return Ok(()) };
            vec![all.get(setting).cloned().unwrap_or_default()]
        }
    };
    // Until it is answered it has the one or the other.
    world.learn(name, topic.id, |topic| {
        let values = topic.settings.entry(setting.to_owned()).or_insert(before);
        if !values.iter().any(|v| v == value) {
            values.push(value.to_owned());
        }
    });
    world.count("alter");
    match world.within(PATIENCE, requests::alter(client, name, setting, value)).await? {
        0 => {
            world.acknowledged(Ack::Change);
            world.tell(format!("{name}: {setting}={value}"));
            world.learn(name, topic.id, |topic| {
                topic.settings.insert(setting.to_owned(), vec![value.to_owned()]);
            });
        }
        code => undecided(world, "an alteration", code),
    }
    Ok(())
}

async fn grow(world: &World, client: &Client<'_>, name: &str, topic: &Topic) -> io::Result<()> {
    world.count("grow");
    match world.within(PATIENCE, requests::grow(client, name, topic.partitions + 1)).await? {
        0 => {
            world.acknowledged(Ack::Change);
            world.learn(name, topic.id, |topic| topic.partitions += 1);
        }
        // A growth that was not answered has happened.
        code if code == ErrorCode::InvalidPartitions.code() => look(world, client, name).await?,
        code => undecided(world, "a growth", code),
    }
    Ok(())
}

async fn delete_records(world: &World, client: &Client<'_>, name: &str, topic: &Topic) -> io::Result<()> {
    let partition = world.sim().below(topic.partitions as u64) as i32;
    let asked = world.history.borrow_mut().partition(topic.id, partition).view();
    let end = world.history.borrow_mut().partition(topic.id, partition).last_seen();
    let offset = world.sim().below(end as u64 + 1) as i64;
    world.history.borrow_mut().delete_records(topic.id, partition, offset);
    let (code, low) = world.within(PATIENCE, requests::delete_records(client, name, partition, offset)).await?;
    if code == 0 {
        world.count("delete records");
        world.tell(format!("{name} partition {partition}: records below {offset} are deleted"));
        world.tick();
        let now = world.sim().now().mono;
        let mut history = world.history.borrow_mut();
        if low < offset && !history.partition(topic.id, partition).stale(&asked) {
            world.finding(&format!("{name} partition {partition}: deleted below {offset}, the low watermark is {low}"));
        }
        world.demand(history.start(topic.id, partition, low, now, &asked).map_err(|e| format!("{name}: {e}")));
        history.records_deleted(topic.id, partition, low, &asked);
        world.acknowledged(Ack::Change);
    }
    Ok(())
}

async fn look_up(world: &World, client: &Client<'_>, name: &str, topic: &Topic) -> io::Result<()> {
    let partition = world.sim().below(topic.partitions as u64) as i32;
    let Some(wanted_ms) = world.history.borrow_mut().partition(topic.id, partition).some_timestamp(world.sim().below(1 << 20)) else {
        return Ok(());
    };
    let asked = world.history.borrow_mut().partition(topic.id, partition).view();
    let (code, offset, timestamp_ms) = world.within(PATIENCE, requests::list_offsets(client, name, partition, wanted_ms)).await?;
    let (second, start, _) = world.within(PATIENCE, requests::list_offsets(client, name, partition, -2)).await?;
    if (code, second) != (0, 0) {
        return Ok(());
    }
    world.count("look up");
    world.tick();
    let mut history = world.history.borrow_mut();
    let answer = (offset >= 0).then_some((offset, timestamp_ms));
    world.demand(history.looked_up(topic.id, partition, wanted_ms, answer, start, &asked).map_err(|e| format!("{name}: {e}")));
    world.demand(history.start(topic.id, partition, start, world.sim().now().mono, &asked).map_err(|e| format!("{name}: {e}")));
    Ok(())
}

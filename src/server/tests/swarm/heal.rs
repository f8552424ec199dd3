//! The end of a life: all faults are over, the broker runs, and within a bound everything answers again and agrees with the history.

use std::io;
use std::time::Duration;

use super::super::Down;
use super::super::client::{self, Client};
use super::admin;
use super::commits::Commits;
use super::history::Promise;
use super::plan::Feature;
use super::world::{Known, World};
use super::{nemesis, readers};
use crate::base::error::ErrorCode;
use crate::wire::batch::{BatchSpec, build_batch};
use crate::wire::codec::ProduceResponse;

/// Virtual time after which everything has to answer.
const BOUND: Duration = Duration::from_secs(300);
/// Requests that were given up may be carried out for so long.
const SETTLE: Duration = Duration::from_secs(30);
/// The producer of the healing.
const HEALER: u32 = 0;

/// Heals the machine, holds everything against the history, and once more after another end of the process.
pub async fn heal(world: &World, commits: &mut [Commits<'_>]) {
    world.tell("healing");
    world.sim().clear_faults();
    world.sim().set_free_space(None);
    world.look_at_hits();
    world.attended.set(false);
    world.ailing.set(world.out.borrow().is_some());
    if world.running.get() && world.has_ended().is_none() {
        world.down(world.choose(&[Down::Stop, Down::Kill, Down::PowerLoss])).await;
    } else {
        world.bury();
    }
    // Not in the match: it would stay borrowed.
    let out = world.out.borrow().is_some();
    match out {
        true => nemesis::disk_returns(world, world.plan.dirs.clone()).await,
        false => world.start(),
    }
    check(world, commits).await;
    world.down(world.choose(&[Down::Stop, Down::Kill, Down::PowerLoss])).await;
    world.start();
    check(world, commits).await;
}

/// Checks everything, within the bound.
async fn check(world: &World, commits: &mut [Commits<'_>]) {
    let begun = world.sim().now().mono;
    let mut why = String::from("no connection");
    let late = async {
        world.sim().sleep(BOUND).await;
    };
    let whole = async {
        world.sim().sleep(SETTLE).await;
        loop {
            if world.has_ended().is_some() {
                world.finding("the broker ends after the healing");
            }
            let client = world.within(Duration::from_secs(10), async { Ok(world.connect().await) }).await;
            if let Ok(client) = client {
                match everything(world, &client, commits).await {
                    Ok(None) => return,
                    Ok(Some(reason)) => why = reason,
                    Err(e) => why = e.to_string(),
                }
            }
            world.sim().sleep(Duration::from_millis(500)).await;
        }
    };
    let mut done = false;
    let whole = async {
        whole.await;
        done = true;
    };
    futures_lite::future::or(whole, late).await;
    if !done {
        world.finding(&format!("not healed within {} s: {why}, the broker says {:?}", BOUND.as_secs(), world.machine.said()));
    }
    world.tell(format!("all is well after {:.3} s", (world.sim().now().mono - begun).as_secs_f64()));
}

/// Looks at everything; why it has to be looked at again, if it has.
async fn everything(world: &World, client: &Client<'_>, commits: &mut [Commits<'_>]) -> io::Result<Option<String>> {
    world.no_two_copies();
    let names: Vec<String> = world.topics.borrow().keys().cloned().collect();
    for name in &names {
        admin::look(world, client, name).await?;
        let Known::There(topic) = world.topics.borrow()[name].clone() else { continue };
        for partition in 0..topic.partitions {
            // A directory of the same name that cannot be read may be in the way of its successor.
            let damaged = world.history.borrow_mut().of_name(name, partition).find_map(|life| life.damaged.clone());
            let (own, holes) = {
                let mut history = world.history.borrow_mut();
                let life = history.partition(topic.id, partition);
                (life.damaged.is_some(), life.holes)
            };
            if let Some(code) = append(world, client, name, partition).await? {
                match damaged.or(holes.then(|| "dropped writes".to_owned())) {
                    Some(how) if code == ErrorCode::KafkaStorageError => {
                        world.count(format!("offline: {how}"));
                        continue;
                    }
                    _ => return Ok(Some(format!("{name}-{partition}: a batch is refused with {code:?}"))),
                }
            }
            if let Err(code) = readers::whole(world, client, name, topic.id, partition, true).await? {
                if own || (holes && code == ErrorCode::KafkaStorageError.code()) {
                    world.count("unreadable in places".to_owned());
                    continue;
                }
                return Ok(Some(format!("{name}-{partition}: reading is refused with {code}")));
            }
        }
    }
    if world.plan.does(Feature::Commits) {
        for commits in commits {
            let code = commits.look(client).await?;
            if code != 0 {
                return Ok(Some(format!("committed offsets are refused with {code}")));
            }
        }
    }
    Ok(None)
}

/// Appends a record with acks=all; the error code, if it is refused.
async fn append(world: &World, client: &Client<'_>, name: &str, partition: i32) -> io::Result<Option<ErrorCode>> {
    let Some(topic) = world.topic(name) else { return Ok(None) };
    let now_ms = world.sim().now().wall_ms;
    let (number, timestamp) = world.history.borrow_mut().partition(topic.id, partition).send(HEALER, 0, Some(10), Promise::Flushed, now_ms);
    let value = super::history::value(topic.id, partition, number, 10);
    let batch = build_batch(&BatchSpec::default(), &[(Some(&super::history::key(0)), Some(&value), timestamp)]);
    let due = client.send(13, &client::produce(client::Topic::Id(topic.id), -1, [(partition, batch)])).await?;
    let answer: ProduceResponse = client.receive(due).await?;
    let found = &answer.responses[0].partition_responses[0];
    if found.error_code != 0 {
        return Ok(Some(ErrorCode::from_code(found.error_code)));
    }
    let verdict = world.history.borrow_mut().partition(topic.id, partition).ack(number, found.base_offset);
    world.demand(verdict.map_err(|e| format!("{name} partition {partition}: {e}")));
    Ok(None)
}

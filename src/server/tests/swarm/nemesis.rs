//! What goes wrong, and when.

use std::path::Path;
use std::time::Duration;

use super::super::Down;
use super::plan::Trouble;
use super::world::{Ack, Out, World};
use crate::rt::Rt;
use crate::sim::{Fault, FaultOp};

/// How long a process that has ended by itself stays away.
const AWAY_MS: u64 = 3000;
/// How long a fault waits for its moment.
const ARMED: Duration = Duration::from_secs(5);
/// How long the wall clock jumps at most: eight days.
const JUMP_MS: u64 = 8 * 86_400_000;

/// Has things go wrong, until the life is over.
pub async fn run(world: &World) {
    let step = world.plan.length.as_micros() as u64 / (world.plan.mishaps + 1);
    let troubles: Vec<Trouble> = world.plan.troubles.iter().copied().filter(|t| *t != Trouble::InRecovery).collect();
    loop {
        // Half of them while clients are at work in a burst, most likely: soon after the one before.
        let wait = if world.one_in(2) { world.sim().below(2_000_000.min(step)) } else { step / 2 + world.sim().below(step) };
        world.sim().sleep(Duration::from_micros(wait)).await;
        if !troubles.is_empty() {
            strike(world, world.choose(&troubles)).await;
        }
    }
}

/// Starts the broker again when it has ended by itself, for as long as it is meant to run.
pub async fn supervise(world: &World) {
    loop {
        world.sim().sleep(Duration::from_millis(20)).await;
        world.look_at_hits();
        if !world.attended.get() && world.has_ended().is_some() {
            world.sim().sleep(Duration::from_millis(world.sim().below(AWAY_MS))).await;
            // Somebody may have come first, and two processes would share the disks.
            if !world.running.get() && !world.attended.get() {
                world.start();
            }
        }
    }
}

async fn strike(world: &World, trouble: Trouble) {
    world.count(format!("{trouble:?}"));
    match trouble {
        Trouble::PowerLoss => restart(world, Down::PowerLoss).await,
        Trouble::Kill => restart(world, Down::Kill).await,
        Trouble::Stop => restart(world, Down::Stop).await,
        Trouble::InRecovery => {}
        Trouble::MidStep => mid_step(world).await,
        Trouble::LostFiles => {
            let how = world.choose(&[Down::Stop, Down::Kill]);
            if take_down(world, how).await {
                lose_files(world);
                world.start();
            }
        }
        Trouble::Full => {
            world.ail();
            world.history.borrow_mut().no_room();
            world.sim().set_free_space(Some(world.sim().below(400_000)));
            linger(world).await;
            world.sim().set_free_space(None);
            world.history.borrow_mut().no_room();
            world.ailing.set(false);
        }
        Trouble::BadReads => fail(world, &[FaultOp::Read]).await,
        Trouble::BadWrites => fail(world, &[FaultOp::Write, FaultOp::Allocate, FaultOp::Truncate]).await,
        Trouble::BadFlushes => fail(world, &[FaultOp::Sync]).await,
        Trouble::BadNames => fail(world, &[FaultOp::Open, FaultOp::Names]).await,
        Trouble::Stall => stall(world).await,
        Trouble::Flip => flip(world),
        Trouble::Misdirected => silent(world, FaultOp::Write, Fault::Misdirected).await,
        Trouble::LostWrite => silent(world, FaultOp::Write, Fault::Lost).await,
        Trouble::LostFlush => silent(world, FaultOp::Sync, Fault::Lie).await,
        Trouble::Order => {
            let how = world.choose(&[Down::Stop, Down::Kill]);
            if !take_down(world, how).await {
                return;
            }
            let turns = world.sim().below(3) as usize;
            let mut dirs = world.dirs.borrow().clone();
            dirs.rotate_left(turns % world.dirs.borrow().len());
            *world.dirs.borrow_mut() = dirs;
            world.start();
        }
        Trouble::DiskLeaves => disk_leaves(world).await,
        Trouble::Clock => {
            let ms = world.sim().below(2 * JUMP_MS) as i64 - JUMP_MS as i64;
            let ms = if world.one_in(2) { ms / 1000 } else { ms };
            world.tell(format!("the wall clock jumps by {ms} ms"));
            world.tick();
            world.sim().jump_wall(ms);
            world.tick();
        }
    }
}

/// Waits, for milliseconds or for much of the life.
async fn linger(world: &World) {
    let length = world.plan.length.as_millis() as u64;
    let bound = world.choose(&[100, 3000, length / 6]);
    world.sim().sleep(Duration::from_millis(world.sim().below(bound + 1))).await;
}

/// Ends the broker if it runs; false if it does not.
async fn take_down(world: &World, how: Down) -> bool {
    if !world.running.get() || world.has_ended().is_some() {
        // The supervisor starts it.
        return world.running.get();
    }
    world.down(how).await;
    true
}

/// The process, or the power, ends instead of one of the next operations on the disks. The supervisor
/// starts the broker again.
async fn mid_step(world: &World) {
    arm(world);
    let (ends, begun) = (world.ends.get(), world.sim().now().mono);
    while world.ends.get() == ends && world.sim().now().mono - begun < ARMED {
        world.sim().sleep(Duration::from_millis(20)).await;
    }
    world.sim().clear_faults();
}

/// Plans the end of the process at one of the next operations on the disks.
fn arm(world: &World) {
    let op = world.choose(&[FaultOp::Sync, FaultOp::Sync, FaultOp::Names, FaultOp::Names, FaultOp::Write, FaultOp::Truncate]);
    let fault = world.choose(&[Fault::PowerLoss, Fault::PowerLoss, Fault::Kill]);
    let skip = world.sim().below(world.choose(&[3, 20, 100]));
    world.sim().inject(op, "/", skip, fault);
}

/// Waits for something to be acknowledged, and now and then a while longer.
async fn after_an_ack(world: &World) {
    let late = async {
        world.sim().sleep(ARMED).await;
    };
    let what = world.choose(&[Ack::Batch, Ack::Commit, Ack::Change]);
    futures_lite::future::or(world.next_ack(what), late).await;
    if world.one_in(3) {
        world.sim().sleep(Duration::from_micros(world.sim().below(1_000_000))).await;
    }
}

/// Indexes and producer snapshots are no evidence of anything: some are gone.
fn lose_files(world: &World) {
    let derived = ["index", "timeindex", "snapshot"];
    let one_in = world.choose(&[1, 3]);
    for (path, _) in world.sim().files() {
        let lost = path.extension().is_some_and(|e| derived.iter().any(|name| *name == e));
        if lost && world.one_in(one_in) && world.sim().rt(0).remove_file(&path).is_ok() {
            world.file_lost(&path);
        }
    }
}

/// Ends the broker and starts it again, now and then several times before it is there.
pub async fn restart(world: &World, how: Down) {
    if how != Down::Stop && world.one_in(2) {
        after_an_ack(world).await;
    }
    if !take_down(world, how).await {
        return;
    }
    if world.one_in(3) {
        linger(world).await;
    }
    match world.plan.has(Trouble::Stall) && world.one_in(2) {
        true => start_with_slow_groups(world).await,
        false => world.start(),
    }
    while world.plan.has(Trouble::InRecovery) && world.one_in(2) {
        world.sim().sleep(Duration::from_micros(world.sim().below(60_000))).await;
        let how = world.choose(&[Down::PowerLoss, Down::Kill]);
        world.count("in recovery");
        if !take_down(world, how).await {
            return;
        }
        world.start();
    }
}

/// Starts the broker; its groups take long to load, and others have their topics before.
async fn start_with_slow_groups(world: &World) {
    let ms = world.choose(&[100, 1000]);
    world.tell(format!("reads of groups take {ms} ms"));
    world.start();
    world.ail();
    world.sim().set_slow(Some(("/__consumer_offsets-", Duration::from_millis(ms))));
    world.sim().sleep(Duration::from_millis(world.sim().below(5000))).await;
    world.sim().set_slow(None);
    world.ailing.set(false);
}

/// A part of a path: one partition's directory, or one disk.
fn somewhere(world: &World) -> String {
    let dir = world.choose(&world.dirs.borrow());
    let partitions = world.partitions_in(&dir);
    match world.one_in(4) || partitions.is_empty() {
        true => format!("{dir}/"),
        false => {
            let (topic, partition) = world.choose(&partitions);
            format!("/{topic}-{partition}/")
        }
    }
}

/// Operations fail for a while.
async fn fail(world: &World, ops: &[FaultOp]) {
    let (place, one_in) = (somewhere(world), world.choose(&[1, 5, 50]));
    let code = world.choose(&[libc::EIO, libc::EIO, libc::EROFS]);
    world.tell(format!("{ops:?} of {place} fail, one in {one_in}"));
    world.ail();
    ops.iter().for_each(|op| world.sim().add_fault(*op, &place, one_in, Fault::Errno(code)));
    linger(world).await;
    // What the process does afterwards is due to it as well.
    world.sim().clear_faults();
    world.ailing.set(false);
    world.tell("the disk works again");
}

async fn stall(world: &World) {
    let (place, ms) = (somewhere(world), world.choose(&[10, 100, 1000, 10_000]));
    world.tell(format!("{place} stalls for {ms} ms"));
    world.ail();
    world.sim().set_slow(Some((&place, Duration::from_millis(ms))));
    linger(world).await;
    world.sim().set_slow(None);
    world.ailing.set(false);
}

/// One operation on a partition does not do what it says.
async fn silent(world: &World, op: FaultOp, fault: Fault) {
    let dir = world.choose(&world.dirs.borrow());
    let mut partitions = world.partitions_in(&dir);
    partitions.retain(|(topic, _)| topic != "__corelane_metadata");
    if partitions.is_empty() {
        return;
    }
    let (topic, partition) = world.choose(&partitions);
    let one_in = world.choose(&[1, 4]);
    world.tell(format!("{fault:?} on {topic}-{partition}"));
    world.ail();
    world.sim().add_fault(op, &format!("/{topic}-{partition}/"), one_in, fault);
    linger(world).await;
    world.sim().clear_faults();
    world.ailing.set(false);
}

/// A bit flips in a file of a partition.
fn flip(world: &World) {
    let mut files = world.sim().files();
    files.retain(|(path, len)| *len > 0 && !path.to_string_lossy().contains("__corelane_metadata") && path.components().count() == 4);
    if files.is_empty() {
        return;
    }
    let (path, len) = world.choose(&files);
    // Logs have space behind their records.
    let byte = world.sim().below(if world.one_in(2) { len.min(20_000) } else { len });
    if world.sim().flip_bit(&path, byte, world.sim().below(8) as u32) {
        world.tell(format!("a bit flips in byte {byte} of {}", path.display()));
        world.count(format!("flip {}", path.extension().unwrap_or(path.file_name().unwrap_or_default()).to_string_lossy()));
        world.flipped(&path);
        world.ail();
        world.ailing.set(false);
    }
}

/// A disk leaves; the broker runs without it, or with an empty one in its place; it returns.
async fn disk_leaves(world: &World) {
    let how = world.choose(&[Down::Stop, Down::Kill]);
    let dir = world.choose(&world.dirs.borrow());
    let elsewhere = world.dirs.borrow().iter().any(|other| *other != dir && !world.partitions_in(other).is_empty());
    // Without a partition elsewhere nothing would tell the broker that it is not a new one.
    if !elsewhere || world.out.borrow().is_some() || !take_down(world, how).await {
        return;
    }
    let partitions = world.partitions_in(&dir);
    world.tell(format!("{dir} leaves with {partitions:?}"));
    world.ail();
    let mut names = Vec::new();
    for (topic, partition) in partitions {
        world.history.borrow_mut().away(&topic, partition, true);
        world.commits_lost.set(world.commits_lost.get() || topic.starts_with("__consumer"));
        let id = world.topic(&topic).map(|topic| topic.id);
        names.push(((topic, partition), id));
    }
    let order = world.dirs.borrow().clone();
    if world.one_in(2) {
        // Given up: its partitions begin anew, and there are two copies when it returns after all.
        let id = world.directory_id(&dir);
        world.tell(format!("{dir} is given up: {id:?}"));
        world.lost.borrow_mut().extend(id);
    }
    world.sim().take_out(Path::new(&dir));
    *world.out.borrow_mut() = Some(Out { dir: dir.clone(), partitions: names });
    if world.one_in(2) {
        world.dirs.borrow_mut().retain(|other| *other != dir);
    } else {
        let rt = world.sim().rt(0);
        rt.create_dir(Path::new(&dir)).expect("nothing fails");
        rt.sync_dir(Path::new("/")).await.expect("nothing fails");
    }
    world.start();
    linger(world).await;
    disk_returns(world, order).await;
}

/// The disk that is out returns. Where partitions were made anew meanwhile the broker may refuse to start; then the new copies go, and
/// all that was acknowledged for them.
pub async fn disk_returns(world: &World, order: Vec<String>) {
    let Some(Out { dir, partitions }) = world.out.borrow().clone() else { return };
    world.attended.set(true);
    if world.running.get() && world.has_ended().is_none() {
        world.down(world.choose(&[Down::Stop, Down::Kill])).await;
    }
    // What was made on an empty disk in its place goes with that one, and stays offline.
    for (topic, partition) in world.partitions_in(&dir) {
        world.history.borrow_mut().damage(&topic, partition, "on the disk that took the place of another");
        world.commits_lost.set(world.commits_lost.get() || topic.starts_with("__consumer"));
    }
    world.tell(format!("{dir} returns"));
    // The one that took its place does not come back.
    world.lost.borrow_mut().extend(world.directory_id(&dir));
    world.sim().put_back(Path::new(&dir));
    let back = world.directory_id(&dir);
    world.lost.borrow_mut().retain(|id| Some(*id) != back);
    *world.dirs.borrow_mut() = order;
    *world.out.borrow_mut() = None;
    world.start();
    for _ in 0..200 {
        world.sim().sleep(Duration::from_millis(50)).await;
        if let Some(reason) = world.has_ended() {
            world.tell(format!("refused with two copies: {reason}"));
            world.count("two copies refused");
            for ((topic, partition), id) in &partitions {
                // Of a topic that has taken the name meanwhile there is one copy.
                for other in world.dirs.borrow().iter().filter(|other| **other != dir && world.topic(topic).map(|t| t.id) == *id) {
                    world.sim().take_out(Path::new(&format!("{other}/{topic}-{partition}")));
                }
            }
            break;
        }
    }
    for ((topic, partition), _) in &partitions {
        world.history.borrow_mut().away(topic, *partition, false);
    }
    world.ailing.set(false);
    if !world.running.get() {
        world.start();
    }
    world.attended.set(false);
}

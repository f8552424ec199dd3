//! Tests of what a start makes of its log directories: identity by id, checkpoints, copies, the metadata log.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::cluster::record::MetadataRecord;
use crate::cluster::settings::{BrokerSettings, Configs};
use crate::shard::takeover::clear_strays;
use crate::sim::{Fault, FaultOp, Sim, SimRt};

const NODE: i32 = 1;

fn id(number: u8) -> Uuid {
    Uuid::from_random([number; 16])
}

/// An image with topics of these names, ids and numbers of partitions.
fn image(topics: &[(&str, u8, usize)]) -> Image {
    let record = |&(name, number, partitions): &(&str, u8, usize)| MetadataRecord::Topic {
        id: id(number).0,
        name: name.into(),
        leader_epochs: vec![0; partitions],
        configs: Vec::new(),
        created_ms: 0,
    };
    let records: Vec<_> = topics.iter().map(record).collect();
    Image::of(BrokerSettings::new(NODE, Arc::new(Configs::new())), &records)
}

struct Machine {
    sim: Sim,
    rt: SimRt,
}

impl Machine {
    fn new(dirs: &[&str]) -> Machine {
        let sim = Sim::new(1, 1);
        let rt = sim.rt(0);
        dirs.iter().for_each(|dir| rt.create_dir(Path::new(dir)).unwrap());
        Machine { sim, rt }
    }

    fn open(&self, dirs: &[&str], lost: Option<&str>) -> LogDirs {
        let paths: Vec<PathBuf> = dirs.iter().map(PathBuf::from).collect();
        let opened = self.sim.run_until(open_dirs(&self.rt, &paths, None, NODE, lost));
        opened.unwrap().1
    }

    /// A partition's directory.
    fn partition(&self, dir: &str, name: &str, topic_id: Uuid) {
        let path = Path::new(dir).join(name);
        self.rt.create_dir(&path).unwrap();
        let text = format!("version: 0\ntopic_id: {topic_id}");
        self.sim.run_until(self.rt.write_file(&path.join("partition.metadata"), text.into_bytes())).unwrap();
    }

    /// Starts: the places of the partitions of `image`, and how each is opened.
    fn start(&self, dirs: &[&str], lost: Option<&str>, image: &Image) -> Places {
        let mut found = self.open(dirs, lost);
        let home = found.metadata(&self.rt, None).unwrap().unwrap_or(0);
        self.partition(dirs[home], "__corelane_metadata-0", METADATA_ID);
        self.sim.run_until(found.store_known(&self.rt, home)).unwrap();
        found.refuse_copies(image).unwrap();
        self.sim.run_until(found.markers().take(&self.rt)).unwrap();
        Places::new(found, home, image)
    }

    fn write(&self, places: &mut Places, positions: &[Position], image: &Image) {
        for checkpoint in places.checkpoints(positions, image) {
            self.sim.run_until(checkpoint.write(&self.rt)).unwrap();
        }
    }

    /// A clean stop with these positions.
    fn stop(&self, mut places: Places, positions: &[Position], image: &Image) {
        self.write(&mut places, positions, image);
        let mark = CleanMark::of_this_stop(&self.rt, 0);
        for path in places.paths() {
            self.sim.run_until(dir::mark_clean(&self.rt, &path, &mark)).unwrap();
        }
    }

    fn text(&self, path: &str) -> String {
        String::from_utf8(self.rt.read_file(Path::new(path)).unwrap()).unwrap()
    }
}

fn opening(recovery_point: Offset, log_start: Offset, cleaned: Offset) -> Opening {
    Opening { recovery_point, clean: true, log_start, cleaned }
}

fn position(number: u8, partition: i32, opening: Opening) -> Position {
    Position { key: (id(number), partition), opening, high_watermark: opening.recovery_point }
}

fn opened_as(places: &mut Places, number: u8, partition: i32) -> Opening {
    places.place((id(number), partition), "t").unwrap().1
}

#[test]
fn nothing_known_of_a_deleted_topic_acts_on_its_successor() {
    let machine = Machine::new(&["/a"]);
    let (old, new) = (image(&[("t", 1, 1)]), image(&[("t", 2, 1)]));
    let places = machine.start(&["/a"], None, &old);
    machine.partition("/a", "t-0", id(1));
    let known = opening(20, 15, 12);
    let mut places = places;
    places.place((id(1), 0), "t").unwrap();
    machine.stop(places, &[position(1, 0, known)], &old);
    assert_eq!(opened_as(&mut machine.start(&["/a"], None, &old), 1, 0), known);
    // Deleted and created again, then killed before a checkpoint.
    machine.partition("/a", "t-0", id(2));
    assert_eq!(opened_as(&mut machine.start(&["/a"], None, &new), 2, 0), Opening::default());
    // Nor does the clean stop of another directory's life.
    let places = machine.start(&["/a"], None, &new);
    machine.stop(places, &[], &new);
    machine.partition("/a", "t-0", id(3));
    assert_eq!(opened_as(&mut machine.start(&["/a"], None, &image(&[("t", 3, 1)])), 3, 0), Opening::default());
}

#[test]
fn an_entry_whose_directory_is_gone_is_not_that_of_a_new_one() {
    let machine = Machine::new(&["/a"]);
    let image = image(&[("t", 1, 1)]);
    let mut places = machine.start(&["/a"], None, &image);
    machine.partition("/a", "t-0", id(1));
    places.place((id(1), 0), "t").unwrap();
    machine.write(&mut places, &[position(1, 0, opening(20, 15, 0))], &image);
    machine.rt.remove_dir_all(Path::new("/a/t-0")).unwrap();
    let mut places = machine.start(&["/a"], None, &image);
    assert!(places.checkpoints_are_stale(&image));
    assert_eq!(places.made_from_stale(&image), Some("/a".to_owned()));
    machine.write(&mut places, &[], &image);
    machine.partition("/a", "t-0", id(1));
    let mut places = machine.start(&["/a"], None, &image);
    assert!(!places.checkpoints_are_stale(&image));
    assert_eq!(opened_as(&mut places, 1, 0), Opening::default());
}

#[test]
fn what_is_known_of_logs_that_are_not_open_is_carried_over() {
    let machine = Machine::new(&["/a"]);
    let image = image(&[("t", 1, 2)]);
    let mut places = machine.start(&["/a"], None, &image);
    for p in 0..2 {
        machine.partition("/a", &format!("t-{p}"), id(1));
        places.place((id(1), p), "t").unwrap();
    }
    let known = opening(10, 7, 5);
    machine.stop(places, &[position(1, 0, known), position(1, 1, known)], &image);
    // Partition 0 cannot be opened in the next two lives.
    for _ in 0..2 {
        let mut places = machine.start(&["/a"], None, &image);
        opened_as(&mut places, 1, 0);
        machine.stop(places, &[position(1, 1, opening(30, 9, 5))], &image);
    }
    let mut places = machine.start(&["/a"], None, &image);
    // Whether an attempt to open it has changed it nobody knows.
    assert_eq!(opened_as(&mut places, 1, 0), Opening { clean: false, ..known });
    assert_eq!(opened_as(&mut places, 1, 1), opening(30, 9, 5));
    // The same when it does not tell its topic's id: then the log is not opened by what is known.
    machine.partition("/a", "t-0", Uuid::ZERO);
    for _ in 0..2 {
        let mut places = machine.start(&["/a"], None, &image);
        assert!(!places.checkpoints_are_stale(&image));
        assert_eq!(opened_as(&mut places, 1, 0), Opening::default());
        assert_eq!(places.made_from_stale(&image), None);
        machine.stop(places, &[position(1, 1, opening(30, 9, 5))], &image);
    }
    machine.partition("/a", "t-0", id(1));
    assert_eq!(opened_as(&mut machine.start(&["/a"], None, &image), 1, 0), Opening { clean: false, ..known });
    let kafkas = machine.text("/a/log-start-offset-checkpoint");
    assert!(kafkas.contains("t 0 7\n") && kafkas.contains("t 1 9\n"), "{kafkas}");
    assert!(machine.text("/a/recovery-point-offset-checkpoint").contains("t 0 10\n"));
}

#[test]
fn kafkas_checkpoints_count_until_there_is_our_own() {
    let machine = Machine::new(&["/a"]);
    let image = image(&[("t", 1, 1)]);
    machine.partition("/a", "t-0", id(1));
    for (name, offset) in [(checkpoint::RECOVERY_POINTS, 20), (checkpoint::LOG_STARTS, 15), (checkpoint::CLEANED, 3)] {
        let offsets = Offsets::from([(("t".to_owned(), 0), offset), (("u".to_owned(), 0), 9)]);
        machine.sim.run_until(checkpoint::write(&machine.rt, Path::new("/a"), name, &offsets)).unwrap();
    }
    machine.sim.run_until(dir::mark_clean(&machine.rt, Path::new("/a"), &CleanMark::new(0, None))).unwrap();
    let mut places = machine.start(&["/a"], None, &image);
    assert_eq!(opened_as(&mut places, 1, 0), opening(20, 15, 3));
    assert!(places.checkpoints_are_stale(&image));
    machine.write(&mut places, &[], &image);
    // From now on entries go by topic id.
    machine.partition("/a", "t-0", id(2));
    let image = self::image(&[("t", 2, 1)]);
    assert_eq!(opened_as(&mut machine.start(&["/a"], None, &image), 2, 0), Opening::default());
}

#[test]
fn two_copies_are_refused_and_both_named() {
    let machine = Machine::new(&["/a", "/b"]);
    let image = image(&[("t", 1, 1), ("u", 2, 1)]);
    machine.partition("/a", "t-0", id(1));
    machine.partition("/b", "t-0", id(1));
    let refusal = machine.open(&["/a", "/b"], None).refuse_copies(&image).unwrap_err();
    assert!(refusal.contains("/a/t-0") && refusal.contains("/b/t-0"), "{refusal}");
    // One that does not say whose it is may be a copy as well.
    machine.partition("/b", "t-0", Uuid::ZERO);
    assert!(machine.open(&["/a", "/b"], None).refuse_copies(&image).is_err());
    // What is left of an earlier topic of that name is none.
    machine.partition("/b", "t-0", id(7));
    assert_eq!(machine.open(&["/a", "/b"], None).refuse_copies(&image), Ok(()));
}

/// Its topic was deleted while the directory could not be read, and the next one of that name is in
/// another log directory.
#[test]
fn a_directory_that_tells_no_id_is_no_copy_of_a_partition_that_its_checkpoint_does_not_name() {
    let machine = Machine::new(&["/a", "/b"]);
    let (old, new) = (image(&[("t", 1, 1)]), image(&[("t", 2, 1)]));
    let mut places = machine.start(&["/a", "/b"], None, &old);
    machine.partition("/b", "t-0", id(1));
    places.place((id(1), 0), "t").unwrap();
    machine.stop(places, &[], &old);
    machine.partition("/b", "t-0", Uuid::ZERO);
    machine.partition("/a", "t-0", id(2));
    let mut found = machine.open(&["/a", "/b"], None);
    assert_eq!(found.refuse_copies(&new), Ok(()));
    let none = HashSet::new();
    let clear = clear_strays(&machine.rt, &mut found, &new, &none);
    machine.sim.run_until(clear).unwrap();
    let names = |dir: &str| machine.rt.list(Path::new(dir)).unwrap().into_iter().map(|entry| entry.name);
    assert!(names("/a").any(|name| name == "t-0"));
    assert!(!names("/b").any(|name| name == "t-0"));
    assert!(names("/b").any(|name| name.starts_with("t-0.") && name.ends_with("-stray")));
    // The checkpoint of a copy names the partition.
    let (other, both) = (image(&[("u", 3, 1)]), ["/a", "/b"]);
    let mut places = machine.start(&both, None, &other);
    machine.partition("/b", "u-0", id(3));
    machine.partition("/a", "u-0", id(3));
    let dir = places.place((id(3), 0), "u").unwrap().0;
    machine.stop(places, &[position(3, 0, opening(20, 0, 0))], &other);
    let with_the_entry = if dir.starts_with("/a") { "/a" } else { "/b" };
    machine.partition(with_the_entry, "u-0", Uuid::ZERO);
    assert!(machine.open(&both, None).refuse_copies(&other).is_err());
}

#[test]
fn partitions_of_an_absent_directory_are_offline_until_it_is_back_or_given_up() {
    let machine = Machine::new(&["/a", "/b"]);
    let image = image(&[("t", 1, 2)]);
    let mut places = machine.start(&["/a", "/b"], None, &image);
    assert!((0..2).all(|p| places.place((id(1), p), "t").is_some()), "a new topic");
    machine.partition("/a", "t-0", id(1));
    machine.partition("/b", "t-1", id(1));
    let absent = machine.open(&["/b"], None).dirs[0].id.to_string();
    let start = |dirs: &[&str], lost: Option<&str>| {
        let mut places = machine.start(dirs, lost, &image);
        [0, 1].map(|p| places.place((id(1), p), "t").map(|(dir, _)| dir.display().to_string()))
    };
    let both = [Some("/a/t-0".to_owned()), Some("/b/t-1".to_owned())];
    assert_eq!(start(&["/a"], None), [both[0].clone(), None]);
    // An empty disk at the same path is another one.
    machine.rt.create_dir(Path::new("/empty")).unwrap();
    assert_eq!(start(&["/a", "/empty"], None), [both[0].clone(), None]);
    assert_eq!(start(&["/b", "/empty", "/a"], None), both);
    assert_eq!(start(&["/a", "/b", "/empty"], None), both);
    let given_up = start(&["/a", "/empty"], Some(&absent));
    assert_eq!(given_up, [both[0].clone(), Some("/empty/t-1".to_owned())]);
    // From then on it is forgotten.
    assert_eq!(start(&["/a", "/empty"], None), given_up);
    assert!(parse_lost("x").is_err() && parse_lost(&format!(" {absent},{absent}")).is_ok());
}

#[test]
fn the_metadata_log_is_found_wherever_it_is_or_the_start_is_refused() {
    let machine = Machine::new(&["/a", "/b", "/c", "/elsewhere"]);
    let image = image(&[]);
    machine.start(&["/a", "/b"], None, &image);
    let home = |dirs: &[&str], elsewhere: Option<&str>| machine.open(dirs, None).metadata(&machine.rt, elsewhere.map(Path::new));
    assert_eq!(home(&["/a", "/b"], None), Ok(Some(0)));
    assert_eq!(home(&["/c", "/b", "/a"], None), Ok(Some(2)));
    assert_eq!(home(&["/c", "/a"], Some("/a")), Ok(Some(1)));
    assert!(home(&["/b"], None).unwrap_err().contains("last seen at /a"));
    machine.partition("/elsewhere", "__corelane_metadata-0", METADATA_ID);
    assert!(home(&["/a"], Some("/elsewhere")).unwrap_err().contains("two copies"));
    machine.partition("/c", "__corelane_metadata-0", METADATA_ID);
    let refusal = home(&["/c", "/a"], None).unwrap_err();
    assert!(refusal.contains("/a/__corelane_metadata-0") && refusal.contains("/c/__corelane"), "{refusal}");
    machine.partition("/c", "__corelane_metadata-0", id(5));
    assert!(home(&["/c", "/a"], None).unwrap_err().contains("no metadata log"));
    machine.rt.remove_dir_all(Path::new("/c/__corelane_metadata-0")).unwrap();
    // It is missing though the checkpoint knows it.
    let mut places = machine.start(&["/a"], None, &image);
    let flushed = Position { key: METADATA_KEY, opening: opening(5, 0, 0), high_watermark: 5 };
    machine.write(&mut places, &[flushed], &image);
    machine.rt.remove_dir_all(Path::new("/a/__corelane_metadata-0")).unwrap();
    assert!(home(&["/a"], None).unwrap_err().contains("is missing from /a"));
}

#[test]
fn identities_are_checked_before_any_is_made() {
    let machine = Machine::new(&["/a", "/new", "/copy"]);
    machine.open(&["/a"], None);
    let open = |dirs: &[&str], cluster: Option<&str>| {
        let paths: Vec<PathBuf> = dirs.iter().map(PathBuf::from).collect();
        machine.sim.run_until(open_dirs(&machine.rt, &paths, cluster.map(str::to_owned), NODE, None)).map(|(id, _)| id)
    };
    assert!(open(&["/new", "/a"], Some("other")).is_err());
    assert!(machine.rt.read_file(Path::new("/new/meta.properties")).is_err(), "still new");
    let cluster = open(&["/a"], None).unwrap();
    assert_eq!(open(&["/new", "/a"], None), Ok(cluster));
    let meta = machine.rt.read_file(Path::new("/a/meta.properties")).unwrap();
    machine.sim.run_until(machine.rt.write_file(Path::new("/copy/meta.properties"), meta)).unwrap();
    let refusal = open(&["/a", "/copy"], None).unwrap_err();
    assert!(refusal.contains("/a") && refusal.contains("/copy") && refusal.contains("copy"), "{refusal}");
}

#[test]
fn a_directory_that_cannot_be_read_leaves_the_clean_markers_of_all() {
    let machine = Machine::new(&["/a", "/b"]);
    let image = image(&[]);
    let places = machine.start(&["/a", "/b"], None, &image);
    machine.stop(places, &[], &image);
    let paths = ["/a", "/b"].map(PathBuf::from);
    machine.sim.inject(FaultOp::Read, "/b/corelane-checkpoint", 0, Fault::Errno(libc::EIO));
    assert!(machine.sim.run_until(open_dirs(&machine.rt, &paths, None, NODE, None)).is_err());
    let found = machine.open(&["/a", "/b"], None);
    assert!(found.clean());
    // The same where the second cannot be taken.
    machine.sim.inject(FaultOp::Names, "/b/.kafka_cleanshutdown", 0, Fault::Errno(libc::EIO));
    assert!(machine.sim.run_until(found.markers().take(&machine.rt)).is_err());
    assert!(machine.open(&["/a", "/b"], None).clean());
}

#[test]
fn a_list_of_log_directories_that_lacked_room_is_still_to_be_stored() {
    let machine = Machine::new(&["/a", "/b"]);
    let image = image(&[]);
    let mut found = machine.open(&["/a", "/b"], None);
    machine.sim.inject(FaultOp::Write, "/b/corelane-log-dirs", 0, Fault::Errno(libc::ENOSPC));
    let stored = machine.sim.run_until(found.store_known(&machine.rt, 0));
    assert!(matches!(stored, Err(LogError::Exhausted(_))), "{stored:?}");
    let mut places = Places::new(found, 0, &image);
    let Lists { known, dirs } = places.unstored().unwrap();
    assert_eq!((known.paths.len(), dirs.len()), (2, 2));
    places.set_stored();
    assert!(places.unstored().is_none());
}

#[test]
fn a_directory_that_the_last_stop_has_not_closed_counts_as_unclean() {
    let machine = Machine::new(&["/a", "/b"]);
    let image = image(&[("t", 1, 2)]);
    machine.start(&["/a", "/b"], None, &image);
    machine.partition("/a", "t-0", id(1));
    machine.partition("/b", "t-1", id(1));
    let positions = [0, 1].map(|p| position(1, p, opening(10, 0, 0)));
    let stop = |dirs: &[&str]| {
        let mut places = machine.start(dirs, None, &image);
        let cleans = [0, 1].map(|p| places.place((id(1), p), "t").map(|(_, opening)| opening.clean));
        machine.stop(places, &positions, &image);
        cleans
    };
    stop(&["/a", "/b"]);
    assert_eq!(stop(&["/a", "/b"]), [Some(true); 2]);
    // Absent for a run, or a copy from before one.
    assert_eq!(stop(&["/a"]), [Some(true), None]);
    let old = machine.text("/b/.kafka_cleanshutdown");
    let found = machine.open(&["/a", "/b"], None);
    assert!(!found.clean());
    // A start that is refused leaves the marks as they were.
    machine.sim.run_until(found.markers().take(&machine.rt)).unwrap();
    machine.sim.run_until(found.markers().put_back(&machine.rt)).unwrap();
    assert_eq!(machine.text("/b/.kafka_cleanshutdown"), old);
    let places = machine.start(&["/b", "/a"], None, &image);
    let grown = vec![MetadataRecord::NewLeaderEpochsOf { id: id(1).0, partitions: vec![1] }];
    assert_eq!(places.new_epochs(&image), grown);
    machine.stop(places, &positions, &image);
    assert_eq!(stop(&["/a", "/b"]), [Some(true); 2]);
    // The metadata log is the one that is older.
    machine.sim.run_until(machine.rt.write_file(Path::new("/a/.kafka_cleanshutdown"), old.into_bytes())).unwrap();
    assert_eq!(stop(&["/a", "/b"]), [Some(true), Some(false)]);
    // Marks of Kafka's, and of versions before the id.
    for dir in ["/a", "/b"] {
        let mark = CleanMark::new(7, None);
        machine.sim.run_until(dir::mark_clean(&machine.rt, Path::new(dir), &mark)).unwrap();
    }
    assert_eq!(stop(&["/a", "/b"]), [Some(true); 2]);
}

#[test]
fn a_directory_that_has_its_id_alone_keeps_its_partitions_offline_until_it_is_given_up() {
    let machine = Machine::new(&["/a", "/b"]);
    let image = image(&[("t", 1, 2)]);
    machine.start(&["/a", "/b"], None, &image);
    machine.partition("/a", "t-0", id(1));
    machine.partition("/b", "t-1", id(1));
    let lost = machine.open(&["/b"], None).dirs[0].id.to_string();
    let meta = machine.rt.read_file(Path::new("/b/meta.properties")).unwrap();
    machine.rt.remove_dir_all(Path::new("/b")).unwrap();
    machine.rt.create_dir(Path::new("/b")).unwrap();
    machine.sim.run_until(machine.rt.write_file(Path::new("/b/meta.properties"), meta)).unwrap();
    let start = |lost: Option<&str>| {
        let mut places = machine.start(&["/a", "/b"], lost, &image);
        assert_eq!(places.paths().len(), if lost.is_some() { 2 } else { 1 });
        [0, 1].map(|p| places.place((id(1), p), "t").map(|(dir, _)| dir.display().to_string()))
    };
    for _ in 0..2 {
        assert_eq!(start(None), [Some("/a/t-0".to_owned()), None]);
    }
    assert_eq!(start(Some(&lost)), [Some("/a/t-0".to_owned()), Some("/b/t-1".to_owned())]);
    // From then on it is as any other.
    let paths = ["/a", "/b"].map(PathBuf::from);
    let opened = machine.sim.run_until(open_dirs(&machine.rt, &paths, None, NODE, None)).unwrap().1;
    assert_eq!((opened.dirs.len(), opened.absent.len()), (2, 0));
    // With the metadata log in it nothing starts.
    machine.rt.remove_file(Path::new("/a/corelane-log-dirs")).unwrap();
    let refusal = machine.open(&["/a", "/b"], None).metadata(&machine.rt, None).unwrap_err();
    assert!(refusal.contains("/a") && refusal.contains("lost its content"), "{refusal}");
}

/// Whatever write is the last one before a crash, no directory of a first start passes for one that
/// has lost its content.
#[test]
fn a_first_start_that_is_cut_short_leaves_no_directory_behind() {
    for fail in 0..8 {
        let machine = Machine::new(&["/a", "/b", "/c"]);
        machine.sim.run_until(machine.rt.sync_dir(Path::new("/"))).unwrap();
        let all = ["/a", "/b", "/c"];
        let mut found = machine.open(&all, None);
        machine.sim.inject(FaultOp::Write, "corelane-log-dirs", fail, Fault::Errno(libc::EIO));
        let stored = machine.sim.run_until(found.store_known(&machine.rt, 0));
        assert_eq!(stored.is_err(), fail < 6, "{fail}");
        machine.sim.crash();
        let machine = Machine { rt: machine.sim.rt(0), sim: machine.sim };
        let found = machine.open(&all, None);
        assert_eq!((found.dirs.len(), found.absent.len(), found.damaged.len()), (3, 0, 0), "{fail}");
    }
}

#[test]
fn damaged_lists_leave_what_is_missing_offline_unless_there_is_a_whole_one() {
    let image = image(&[("t", 1, 2)]);
    let set_up = || {
        let machine = Machine::new(&["/a", "/b"]);
        machine.start(&["/a", "/b"], None, &image);
        machine.partition("/a", "t-0", id(1));
        machine.partition("/b", "t-1", id(1));
        machine
    };
    let damage = |machine: &Machine, dir: &str| {
        let path = Path::new(dir).join("corelane-log-dirs");
        let mut text = machine.rt.read_file(&path).unwrap();
        let at = text.iter().position(|byte| byte.is_ascii_digit()).unwrap();
        text[at] ^= 2;
        machine.sim.run_until(machine.rt.write_file(&path, text)).unwrap();
    };
    let start = |machine: &Machine, dirs: &[&str]| {
        let mut places = machine.start(dirs, None, &image);
        if let Some(lists) = places.unstored() {
            machine.sim.run_until(lists.write(&machine.rt)).unwrap();
        }
        [0, 1].map(|p| places.place((id(1), p), "t").is_some())
    };
    let machine = set_up();
    damage(&machine, "/a");
    assert_eq!(start(&machine, &["/a", "/b"]), [true, true]);
    assert_eq!(start(&machine, &["/a"]), [true, false], "the other one's was written");
    // None is whole, and one is not there: at each start, until the file is removed.
    damage(&machine, "/a");
    for _ in 0..2 {
        assert_eq!(start(&machine, &["/a"]), [true, false]);
    }
    assert!(machine.open(&["/b"], None).metadata(&machine.rt, None).is_err());
    damage(&machine, "/b");
    let refusal = machine.open(&["/b"], None).metadata(&machine.rt, None).unwrap_err();
    assert!(refusal.contains("/b/corelane-log-dirs"), "{refusal}");
    assert_eq!(start(&machine, &["/a", "/b"]), [true, true], "all are there");
    assert_eq!(start(&machine, &["/a"]), [true, false]);
    let machine = set_up();
    damage(&machine, "/a");
    machine.rt.remove_file(Path::new("/a/corelane-log-dirs")).unwrap();
    assert_eq!(start(&machine, &["/a"]), [true, true]);
}

#[test]
fn a_partition_whose_directory_tells_the_id_of_no_topic_stays_offline() {
    let machine = Machine::new(&["/a"]);
    let image = image(&[("t", 1, 1), ("u", 2, 1)]);
    let start = || {
        let mut found = machine.open(&["/a"], None);
        machine.partition("/a", "__corelane_metadata-0", METADATA_ID);
        machine.sim.run_until(found.store_known(&machine.rt, 0)).unwrap();
        let removed = [id(8)].into();
        machine.sim.run_until(crate::shard::takeover::clear_strays(&machine.rt, &mut found, &image, &removed)).unwrap();
        Places::new(found, 0, &image)
    };
    machine.partition("/a", "t-0", id(1));
    let known = opening(20, 15, 0);
    machine.stop(start(), &[position(1, 0, known)], &image);
    machine.partition("/a", "t-0", id(9));
    machine.partition("/a", "u-0", id(9));
    for _ in 0..2 {
        let mut places = start();
        assert!(places.place((id(1), 0), "t").is_none());
        assert!(!places.checkpoints_are_stale(&image) && places.made_from_stale(&image).is_none());
        assert!(machine.rt.list(Path::new("/a/u-0")).is_err(), "nothing tells that this one was u's");
        assert_eq!(places.new_epochs(&image).len(), 1);
        machine.stop(places, &[], &image);
    }
    machine.partition("/a", "t-0", id(1));
    assert_eq!(opened_as(&mut start(), 1, 0), known);
    // What is left of a deleted topic goes.
    machine.partition("/a", "t-0", id(8));
    start();
    assert!(machine.rt.list(Path::new("/a/t-0")).is_err());
}

/// The checkpoint does not name it yet: it was made a moment before the crash.
#[test]
fn a_partition_whose_id_has_a_flipped_bit_stays_offline() {
    let machine = Machine::new(&["/a"]);
    let image = image(&[("t", 1, 1), ("u", 2, 1)]);
    let mut damaged = id(1);
    damaged.0[15] ^= 0x10;
    machine.partition("/a", "t-0", damaged);
    damaged.0[3] ^= 0x10;
    machine.partition("/a", "u-0", damaged);
    let mut found = machine.open(&["/a"], None);
    machine.sim.run_until(clear_strays(&machine.rt, &mut found, &image, &HashSet::new())).unwrap();
    let mut places = Places::new(found, 0, &image);
    assert!(places.place((id(1), 0), "t").is_none());
    assert!(machine.rt.list(Path::new("/a/t-0")).is_ok());
    assert!(places.place((id(2), 0), "u").is_some(), "another topic's is set aside");
}

#[test]
fn a_topic_that_a_damaged_metadata_log_has_lost_refuses_the_start() {
    let machine = Machine::new(&["/a"]);
    let image = image(&[("t", 1, 1)]);
    let clear = |removed: &[u8]| {
        let mut found = machine.open(&["/a"], None);
        let removed = removed.iter().map(|number| id(*number)).collect();
        machine.sim.run_until(clear_strays(&machine.rt, &mut found, &image, &removed)).map_err(|e| e.to_string())
    };
    let there = |name: &str| machine.rt.list(&Path::new("/a").join(name)).is_ok();
    let metadata = PathBuf::from("/a/__corelane_metadata-0");
    machine.partition("/a", "__corelane_metadata-0", METADATA_ID);
    for (name, number) in [("t-0", 1), ("u-0", 2), ("v-0", 3)] {
        machine.partition("/a", name, id(number));
    }
    for end in ["corrupt", "torn"] {
        let cut = metadata.join(format!("00000000000000000000.log.0000004096.01234567.{end}"));
        let content = [&[9; 100][..], &id(2).0, &[9; 4000]].concat();
        machine.sim.run_until(machine.rt.write_file(&cut, content)).unwrap();
        let refused = clear(&[]).unwrap_err();
        assert!(refused.contains("/a/u-0") && refused.contains(&*cut.to_string_lossy()), "{refused}");
        assert!(there("t-0") && there("u-0"));
        machine.rt.remove_file(&cut).unwrap();
    }
    let whole = metadata.join("00000000000000000000.log.0000004096.01234567.log");
    machine.sim.run_until(machine.rt.write_file(&whole, id(3).0.to_vec())).unwrap();
    assert_eq!(clear(&[2]), Ok(()));
    assert!(there("t-0") && !there("u-0") && !there("v-0"), "one was deleted, of the other nothing is known");
}

/// Else the partition would lie below the mount point of a disk that has gone, and be in its way.
#[test]
fn a_new_partition_goes_to_no_directory_that_has_gone() {
    let machine = Machine::new(&["/a", "/b"]);
    let image = image(&[("t", 1, 4)]);
    let mut places = machine.start(&["/a", "/b"], None, &image);
    machine.rt.remove_file(Path::new("/b/meta.properties")).unwrap();
    places.look_for_usable(&machine.rt);
    let dirs: Vec<PathBuf> = (0..4).map(|p| places.place((id(1), p), "t").unwrap().0).collect();
    assert!(dirs.iter().all(|dir| dir.starts_with("/a")), "{dirs:?}");
}

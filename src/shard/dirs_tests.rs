//! Tests of what a start makes of its log directories: identity by id, checkpoints, copies, the metadata log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::cluster::record::MetadataRecord;
use crate::cluster::settings::{BrokerSettings, Configs};
use crate::sim::{Sim, SimRt};

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
        dirs.iter().for_each(|dir| rt.create_dir_all(Path::new(dir)).unwrap());
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
        self.rt.create_dir_all(&path).unwrap();
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
        for path in places.paths() {
            self.sim.run_until(dir::mark_clean(&self.rt, &path, 0)).unwrap();
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
        let places = machine.start(&["/a"], None, &image);
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
    machine.sim.run_until(dir::mark_clean(&machine.rt, Path::new("/a"), 0)).unwrap();
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
    machine.rt.create_dir_all(Path::new("/empty")).unwrap();
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

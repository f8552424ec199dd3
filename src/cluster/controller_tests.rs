//! The controller's rules and texts, and that a replay of its records gives the image it decided on.

use proptest::prelude::*;

use super::*;
use crate::base::prng::Prng;

fn create(image: &mut Image, wanted: &[NewTopic]) -> Vec<Result<CreatedTopic, Refusal>> {
    let mut prng = Prng::new(image.offset() as u64);
    let mut random = || {
        let mut bytes = [0; 16];
        prng.fill(&mut bytes);
        bytes
    };
    let decided = create_topics(image, &BrokerView::example(), Now::default(), wanted, &mut random);
    for topic in decided.iter().flatten() {
        image.apply(image.offset() + 1, &topic.record);
        image.check();
    }
    decided
}

fn refused(topic: NewTopic) -> (ErrorCode, String) {
    let mut image = Image::new(BrokerSettings::default());
    create(&mut image, &[NewTopic::with_defaults("a.b")]);
    let refusal = create(&mut image, &[topic]).pop().unwrap().unwrap_err();
    (refusal.code, refusal.message)
}

fn named(name: &str) -> NewTopic<'_> {
    NewTopic::with_defaults(name)
}

/// With topics that exist, and with others of the same request.
#[test]
fn collisions_are_found_among_many_names() {
    let names: Vec<String> = (0..100).map(|n| format!("a_{n}.b")).collect();
    let all: Vec<NewTopic> = names.iter().map(|name| NewTopic { partitions: 1, ..named(name) }).collect();
    let mut image = Image::new(BrokerSettings::default());
    let refusal = |decided: &Result<CreatedTopic, Refusal>| decided.as_ref().err().map(|refusal| refusal.message.clone());
    assert!(create(&mut image, &all[..50]).iter().all(Result::is_ok));
    let more: Vec<NewTopic> = all[50..].iter().cloned().chain([named("a.3_b"), named("a.70_b"), named("a-3-b")]).collect();
    let decided = create(&mut image, &more);
    assert!(decided[..50].iter().all(Result::is_ok) && decided[52].is_ok());
    let collides = |name, other| Some(format!("Topic '{name}' collides with existing topic: {other}"));
    assert_eq!([refusal(&decided[50]), refusal(&decided[51])], [collides("a.3_b", "a_3.b"), collides("a.70_b", "a_70.b")]);
}

/// Each text as a real Kafka 4.3.1 gives it.
#[test]
fn kafkas_refusals() {
    use ErrorCode::{
        InvalidConfig, InvalidPartitions, InvalidReplicationFactor, InvalidRequest, InvalidTopicException, PolicyViolation,
        TopicAlreadyExists,
    };
    let text = |code, message: &str| (code, message.to_owned());
    assert_eq!(refused(named(".")), text(InvalidTopicException, "Topic name is invalid: '.' is not allowed"));
    assert_eq!(refused(named("a_b")), text(InvalidTopicException, "Topic 'a_b' collides with existing topic: a.b"));
    assert_eq!(refused(named("a.b")), text(TopicAlreadyExists, "Topic 'a.b' already exists."));
    let none = text(InvalidPartitions, "Number of partitions was set to an invalid non-positive value.");
    assert_eq!(refused(NewTopic { partitions: 0, ..named("t") }), none);
    assert_eq!(refused(NewTopic { partitions: -2, ..named("t") }), none);
    let low = text(InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value.");
    assert_eq!(refused(NewTopic { replication_factor: 0, ..named("t") }), low);
    assert_eq!(refused(NewTopic { replication_factor: -2, ..named("t") }), low);
    let high = "Unable to replicate the partition 2 time(s): The target replication factor of 2 cannot be reached because only 1 broker(s) are registered or some brokers have all their log directories cordoned.";
    assert_eq!(refused(NewTopic { replication_factor: 2, ..named("t") }), text(InvalidReplicationFactor, high));
    let many = text(PolicyViolation, "Excessively large number of partitions per request.");
    assert_eq!(refused(NewTopic { partitions: 10_001, ..named("t") }), many);
    assert_eq!(refused(NewTopic { partitions: i32::MAX, ..named("t") }), many);
    let configs = vec![("delete.retention.ms", None)];
    let null = text(InvalidConfig, "Null value not supported for topic configs: delete.retention.ms");
    assert_eq!(refused(NewTopic { configs, ..named("t") }), null);
    let configs = vec![("retention.ms", Some("5")), ("nope", Some("1"))];
    assert_eq!(refused(NewTopic { configs, ..named("t") }), text(InvalidConfig, "Unknown topic config name: nope"));
    assert_eq!(refused(named("__cluster_metadata")).0, InvalidRequest);
}

#[test]
fn kafkas_refusals_of_assignments() {
    let manual = |assignments: &[(i32, &'static [i32])]| refused(NewTopic { assignments: assignments.to_vec(), ..named("t") });
    let text = |message: &str| (ErrorCode::InvalidReplicaAssignment, message.to_owned());
    assert_eq!(manual(&[(0, &[9])]), text("The manual partition assignment includes broker 9, but no such broker is registered."));
    assert_eq!(
        manual(&[(0, &[1]), (1, &[1, 2])]).1,
        "The manual partition assignment includes broker 2, but no such broker is registered."
    );
    assert_eq!(manual(&[(0, &[1, 1])]), text("The manual partition assignment includes the broker 1 more than once."));
    assert_eq!(manual(&[(0, &[])]), text("The manual partition assignment includes an empty replica list."));
    let gap = text("partitions should be a consecutive 0-based integer sequence");
    assert_eq!(manual(&[(0, &[1]), (2, &[1])]), gap);
    assert_eq!(manual(&[(-1, &[1])]), gap);
    assert_eq!(manual(&[(0, &[1]), (0, &[1])]), text("Found multiple manual partition assignments for partition 0"));
    let both = NewTopic { partitions: 1, assignments: vec![(0, &[1])], ..named("t") };
    assert_eq!(refused(both).0, ErrorCode::InvalidRequest);
}

#[test]
fn what_is_created() {
    let mut image = Image::new(BrokerSettings::default());
    let assigned = NewTopic { assignments: vec![(1, &[1]), (0, &[1])], ..named("assigned") };
    let configured = NewTopic { partitions: 1, configs: vec![("cleanup.policy", Some("compact"))], ..named("configured") };
    let made = create(&mut image, &[named("default"), named("!"), assigned, configured, named("default")]);
    let partitions: Vec<_> = made.iter().map(|topic| topic.as_ref().map_or(-1, |topic| topic.partitions)).collect();
    assert_eq!(partitions, [3, -1, 2, 1, -1]);
    assert_eq!(made[4].as_ref().unwrap_err().code, ErrorCode::TopicAlreadyExists);
    assert!(image.topic("configured").unwrap().config.compact);
    let id = image.topic("assigned").unwrap().id;
    assert_eq!(delete_topic(&image, &BrokerView::example(), TopicKey::Id(id)), Ok(id));
    assert_eq!(delete_topic(&image, &BrokerView::example(), TopicKey::Name("assigned")), Ok(id));
    assert_eq!(delete_topic(&image, &BrokerView::example(), TopicKey::Name("..")).unwrap_err().code, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(delete_topic(&image, &BrokerView::example(), TopicKey::Id(Uuid([3; 16]))).unwrap_err().code, ErrorCode::UnknownTopicId);
    let fixed = BrokerView { delete_topic_enable: false, ..BrokerView::example() };
    assert_eq!(delete_topic(&image, &fixed, TopicKey::Id(id)).unwrap_err().code, ErrorCode::TopicDeletionDisabled);
}

#[test]
fn topics_made_by_asking_for_them() {
    let image = Image::new(BrokerSettings::default());
    let wanted = ["ok", "__consumer_offsets", "not ok", "x.y", "x_y"].map(str::to_owned);
    let mut n = 0u8;
    let mut random = || {
        n += 1;
        [n; 16]
    };
    let names: Vec<String> = auto_create(&image, &BrokerView::example(), Now::default(), &wanted, &mut random)
        .into_iter()
        .map(|record| match record {
            MetadataRecord::Topic { name, .. } => name,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["ok", "x.y"]);
}

#[test]
fn ids_are_fresh_and_no_option_of_a_tool() {
    let mut image = Image::new(BrokerSettings::default());
    let mut given = vec![[9; 16], [7; 16], [0xff; 16], [7; 16]];
    let first =
        create_topics(&image, &BrokerView::example(), Now::default(), &[named("a")], &mut || given.pop().unwrap()).pop().unwrap().unwrap();
    image.apply(0, &first.record);
    // 0xfb.. begins with '-' in base64.
    let mut given = vec![[9; 16], [0xfb; 16], [7; 16]];
    let second =
        create_topics(&image, &BrokerView::example(), Now::default(), &[named("b")], &mut || given.pop().unwrap()).pop().unwrap().unwrap();
    assert_eq!((first.id, second.id), (Uuid::from_random([7; 16]), Uuid::from_random([9; 16])));
}

#[test]
fn producer_ids_come_once() {
    let mut image = Image::new(BrokerSettings::default());
    let mut cores = [ProducerIds::default(), ProducerIds::default()];
    let mut seen = BTreeSet::new();
    for turn in 0..50 {
        let ids = &mut cores[turn % 2];
        let id = ids.take().unwrap_or_else(|| {
            let (first, record) = allocate_producer_ids(&image, 10);
            image.apply(image.offset() + 1, &record);
            ids.refill(first, 10);
            ids.take().unwrap()
        });
        assert!(seen.insert(id), "{id}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Create(Vec<(String, i32)>),
    Delete(String),
    Restart,
    ProducerIds,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec(("[ab][._]?[ab ]", -1..4i32), 1..4).prop_map(Op::Create),
        2 => "[ab][._]?[ab]".prop_map(Op::Delete),
        1 => Just(Op::Restart),
        1 => Just(Op::ProducerIds),
    ]
}

proptest! {
    #[test]
    fn a_replay_gives_the_live_image(ops in prop::collection::vec(any_op(), 0..30)) {
        let mut live = Image::new(BrokerSettings::default());
        let mut log: Vec<Vec<u8>> = Vec::new();
        let mut prng = Prng::new(7);
        let mut random = || { let mut bytes = [0; 16]; prng.fill(&mut bytes); bytes };
        for op in ops {
            let records: Vec<MetadataRecord> = match &op {
                Op::Create(topics) => {
                    let wanted: Vec<NewTopic> = topics.iter().map(|(name, partitions)| NewTopic { partitions: *partitions, ..named(name) }).collect();
                    create_topics(&live, &BrokerView::example(), Now::default(), &wanted, &mut random).into_iter().flatten().map(|t| t.record).collect()
                }
                Op::Delete(name) => delete_topic(&live, &BrokerView::example(), TopicKey::Name(name)).ok().map(|id| MetadataRecord::RemoveTopic { id: id.0 }).into_iter().collect(),
                Op::Restart => vec![MetadataRecord::NewLeaderEpochs],
                Op::ProducerIds => vec![allocate_producer_ids(&live, 1000).1],
            };
            for record in records {
                live.apply(log.len() as i64, &record);
                live.check();
                log.push(record.encode());
            }
        }
        let mut replayed = Image::new(BrokerSettings::default());
        for (at, bytes) in log.iter().enumerate() {
            replayed.apply(at as i64, &MetadataRecord::decode(bytes).unwrap());
        }
        prop_assert_eq!(replayed, live);
    }
}

/// Where a group is found depends on it.
#[test]
fn internal_topics_keep_their_number_of_partitions() {
    let mut image = Image::new(BrokerSettings::default());
    for topic in create(&mut image, &[named("__consumer_offsets"), named("t")]) {
        topic.unwrap();
    }
    let more = |name| {
        let wanted = MorePartitions { name, count: 9, assignments: None };
        Additions::default().topic(&image, &BrokerView::example(), &wanted)
    };
    assert_eq!(more("__consumer_offsets").unwrap_err().code, ErrorCode::InvalidRequest);
    assert!(more("t").is_ok());
}

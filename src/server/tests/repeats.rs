//! The last batches of an idempotent producer are known after compaction has taken them and the power
//! was lost: repeats are answered with the offsets of the first copies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::{self, Client};
use super::swarm::requests;
use super::{Down, Machine};
use crate::base::ids::TopicId;
use crate::wire::batch::{BatchSpec, Batches, build_batch};
use crate::wire::codec::ProduceResponse;

const TOPIC: &str = "compacted";
/// Batches that a producer may have under way.
const WINDOW: i32 = 5;

/// A broker whose checkpoints are old when the power is lost.
fn machine(seed: u64) -> Machine {
    let settings = [
        "log.dirs=/data",
        "log.cleaner.backoff.ms=50",
        "log.retention.check.interval.ms=100",
        "log.flush.offset.checkpoint.interval.ms=600000",
    ];
    Machine::with(seed, 2, &["/data".to_owned()], settings.map(str::to_owned).to_vec())
}

async fn produce(machine: &Machine, client: &Client<'_>, topic: TopicId, spec: &BatchSpec) -> (i16, i64) {
    let now_ms = machine.sim.now().wall_ms;
    let batch = build_batch(spec, &[(Some(b"key"), Some(&[7; 500]), now_ms)]);
    let request = client::produce(client::Topic::Id(topic), -1, [(0, batch)]);
    let answer: ProduceResponse = client.ask(13, &request).await.unwrap();
    let partition = &answer.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

/// The producer's batches from the first sequence on: the codes and offsets of the answers.
async fn send(machine: &Machine, client: &Client<'_>, topic: TopicId, producer_id: i64) -> Vec<(i16, i64)> {
    let mut answers = Vec::new();
    for base_sequence in 0..WINDOW {
        let spec = BatchSpec { producer_id, producer_epoch: 0, base_sequence, ..BatchSpec::default() };
        answers.push(produce(machine, client, topic, &spec).await);
    }
    answers
}

/// Has the segment with the producer's batches followed by others, until compaction has emptied all
/// batches below the last segment but the header of the producer's last one.
async fn compact(machine: &Machine, client: &Client<'_>, topic: TopicId) {
    for _ in 0..100 {
        machine.sim.sleep(Duration::from_millis(150)).await;
        assert_eq!(produce(machine, client, topic, &BatchSpec::default()).await.0, 0);
        let all = requests::fetch(client, topic, 0, 0, 1 << 20, 0).await.unwrap().records;
        let of_producer = Batches::new(&all).filter(|batch| batch.as_ref().unwrap().0.producer_id >= 0);
        if of_producer.count() <= 1 {
            return;
        }
    }
    panic!("nothing is compacted");
}

#[test]
fn repeats_are_known_after_compaction_and_a_power_loss() {
    for seed in 0..8 {
        let machine = machine(seed);
        machine.start();
        machine.sim.run_until(async {
            let client = Client::connect(&machine).await;
            let settings = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), ("segment.ms", "100")];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let (code, topic) = requests::create(&client, TOPIC, 1, &BTreeMap::from(settings)).await.unwrap();
            assert_eq!(code, 0);
            let producer_id = requests::producer_id(&client).await.unwrap().unwrap();
            let first = send(&machine, &client, topic, producer_id).await;
            assert_eq!(first, (0..5).map(|offset| (0, offset)).collect::<Vec<_>>());
            compact(&machine, &client, topic).await;
            for how in [Down::PowerLoss, Down::Kill, Down::PowerLoss, Down::Stop] {
                machine.down(how).await;
                machine.start();
                let client = Client::connect(&machine).await;
                assert_eq!(send(&machine, &client, topic, producer_id).await, first, "seed {seed}, {how:?}");
            }
        });
    }
}

//! A disk that stalls for a while: the partitions on it wait and lose nothing, all others go on.

use std::cell::Cell;
use std::time::Duration;

use super::Machine;
use super::client::{self, Client, Due};
use crate::wire::codec::ProduceResponse;

const TOPIC: &str = "slow";
/// How long each write of the stalled partition takes.
const STALL: Duration = Duration::from_secs(2);
/// Bytes of each of its records.
const RECORD: usize = 400_000;
/// Batches that the others get done meanwhile.
const OTHERS: usize = 100;

async fn offset(client: &Client<'_>, due: Due) -> i64 {
    let answer: ProduceResponse = client.receive(due).await.unwrap();
    let partition = &answer.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, 0);
    partition.base_offset
}

/// Sends so many batches to the slow partition and waits for their answers, whose offsets rise; counts them in `answered`.
async fn pour(machine: &Machine, requests: usize, answered: &Cell<usize>) {
    let client = Client::connect(machine).await;
    let value = vec![7; RECORD];
    let mut due = Vec::new();
    for _ in 0..requests {
        due.push(client.send(9, &client::produce_record(TOPIC, 0, &value)).await.unwrap());
    }
    let mut last = -1;
    for due in due {
        let next = offset(&client, due).await;
        assert!(next > last);
        last = next;
        answered.set(answered.get() + 1);
    }
}

/// A machine whose first partition of [`TOPIC`] is on the slow disk.
async fn slow_machine(machine: &Machine) {
    let client = Client::connect(machine).await;
    client.auto_create(TOPIC).await;
    let first = client.send(9, &client::produce_record(TOPIC, 0, b"before")).await.unwrap();
    assert_eq!(offset(&client, first).await, 0);
    machine.sim.set_slow(Some((&format!("{TOPIC}-0/"), STALL)));
}

#[test]
fn a_slow_disk_holds_up_only_its_own_partitions() {
    for seed in 0..10 {
        let machine = Machine::new(seed);
        machine.start();
        let answered = Cell::new(0);
        let slow = pour(&machine, 10, &answered);
        let others = async {
            let client = Client::connect(&machine).await;
            for n in 0..OTHERS {
                let due = client.send(9, &client::produce_record(TOPIC, 1 + n as i32 % 2, b"quick")).await.unwrap();
                assert_eq!(offset(&client, due).await, n as i64 / 2);
            }
            assert_eq!(answered.get(), 0, "the others had to wait");
        };
        machine.sim.run_until(async {
            slow_machine(&machine).await;
            futures_lite::future::zip(slow, others).await;
        });
        assert_eq!(answered.get(), 10);
    }
}

//! A disk on which nothing moves: it costs its own partitions, and a bounded piece of memory.

use std::time::Duration;

use super::client::{self, Client, Due};
use super::{CORES, Machine};
use crate::base::error::ErrorCode;
use crate::rt::Rt;
use crate::wire::codec::{ApiVersionsRequest, ApiVersionsResponse, ProduceRequest, ProduceResponse};

const TOPIC: &str = "frozen";
/// Bytes of memory that each core has.
const MEMORY: usize = 4 << 20;
const FROZEN: Duration = Duration::from_secs(600);

fn produce(acks: i16, partition: i32, record: usize) -> ProduceRequest {
    let mut request = client::produce_record(TOPIC, partition, &vec![7; record]);
    (request.acks, request.timeout_ms) = (acks, 5_000);
    request
}

async fn answer(client: &Client<'_>, due: Due) -> ErrorCode {
    let answer: ProduceResponse = client.receive(due).await.unwrap();
    ErrorCode::from_code(answer.responses[0].partition_responses[0].error_code)
}

/// Both partitions have had a batch; then the first one's disk stands still.
async fn freeze(machine: &Machine) {
    let client = Client::connect(machine).await;
    client.auto_create(TOPIC).await;
    for partition in 0..3 {
        let due = client.send(9, &produce(-1, partition, 10)).await.unwrap();
        assert_eq!(answer(&client, due).await, ErrorCode::None);
    }
    machine.sim.set_slow(Some((&format!("{TOPIC}-0/"), FROZEN)));
}

/// Produces to the other partitions, and asks for what needs no disk.
async fn others_go_on(machine: &Machine) {
    let client = Client::connect(machine).await;
    for n in 0..40 {
        let begun = machine.sim.now().mono;
        let due = client.send(9, &produce(-1, 1 + n % 2, 1000)).await.unwrap();
        assert_eq!(answer(&client, due).await, ErrorCode::None);
        let _: ApiVersionsResponse = client.ask(3, &ApiVersionsRequest::default()).await.unwrap();
        assert!(machine.sim.now().mono - begun < Duration::from_secs(1), "held up by the frozen disk");
    }
}

#[test]
fn many_requests_to_a_frozen_disk_hold_up_nobody_else() {
    for seed in 0..4 {
        let machine = Machine::with_memory(seed, MEMORY);
        machine.start();
        machine.sim.run_until(async {
            freeze(&machine).await;
            let mut clients = Vec::new();
            for _ in 0..20 {
                let client = Client::connect(&machine).await;
                let mut due = Vec::new();
                for _ in 0..40 {
                    due.push(client.send(9, &produce(-1, 0, 3000)).await.unwrap());
                }
                clients.push((client, due));
            }
            others_go_on(&machine).await;
            // Those whose requests had no room hear of it in time; nobody is closed.
            machine.sim.sleep(Duration::from_secs(7)).await;
            others_go_on(&machine).await;
        });
    }
}

#[test]
fn requests_that_are_not_answered_are_bounded_too() {
    for seed in 0..4 {
        let machine = Machine::with_memory(seed, MEMORY);
        machine.start();
        machine.sim.run_until(async {
            freeze(&machine).await;
            let budget = machine.sim.rt(0).memory().budget();
            let flood = async {
                let client = Client::connect(&machine).await;
                for _ in 0..4 * budget / 12_000 {
                    // It ends when the broker reads no more.
                    if client.send(9, &produce(0, 0, 12_000)).await.is_err() {
                        break;
                    }
                }
            };
            let others = async {
                machine.sim.sleep(Duration::from_secs(3)).await;
                let used: usize = (0..CORES).map(|core| machine.sim.rt(core).memory().used()).sum();
                assert!(used < budget, "{used} bytes in use of {CORES} times {budget}");
                others_go_on(&machine).await;
                machine.sim.set_slow(None);
            };
            futures_lite::future::or(flood, others).await;
        });
    }
}

#[test]
fn a_stop_does_not_wait_for_requests_of_a_connection_that_has_ended() {
    for seed in 0..4 {
        let machine = Machine::with_memory(seed, MEMORY);
        machine.settings.borrow_mut().push("connections.max.idle.ms=3000".into());
        machine.start();
        machine.sim.run_until(async {
            let client = Client::connect(&machine).await;
            client.auto_create(TOPIC).await;
            machine.sim.set_slow(Some((&format!("{TOPIC}-0/"), Duration::from_secs(8))));
            // The last of these requests waits for room when the connection is closed as idle.
            let flood = async { while client.send(9, &produce(-1, 0, 12_000)).await.is_ok() {} };
            futures_lite::future::or(flood, machine.sim.sleep(Duration::from_secs(5))).await;
            machine.sim.set_slow(None);
            machine.sim.sleep(Duration::from_secs(30)).await;
            machine.stop(Duration::from_secs(5)).await.unwrap();
        });
    }
}

//! Tests of a whole partition.

use proptest::prelude::*;

use super::*;
use crate::base::ids::Uuid;
use crate::base::limits::DUPLICATE_WINDOW;
use crate::base::prng::Prng;

fn batch(producer_id: i64, producer_epoch: i16, base_sequence: i32, count: i32) -> BatchHeader {
    BatchHeader {
        base_offset: 0,
        batch_length: 100,
        partition_leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id,
        producer_epoch,
        base_sequence,
        records_count: count,
    }
}

fn partition() -> Partition<u32, u32> {
    Partition::new(Uuid([1; 16]), 0, 0, Recovered::default())
}

fn append(partition: &mut Partition<u32, u32>, count: i32, bytes: usize) {
    let header = batch(-1, -1, -1, count);
    assert_eq!(partition.produce(&header), ProduceDecision::Append { base_offset: partition.log_end });
    partition.appended(&header, partition.log_end, bytes);
    partition.check();
}

#[test]
fn acks_and_fetches_follow_the_log() {
    let mut p = partition();
    assert!(matches!(p.await_data(0, 1, 7), Waiting::Parked(_)));
    assert!(matches!(p.await_data(0, 0, 8), Waiting::Parked(_)));
    append(&mut p, 10, 500);
    assert_eq!(p.await_ack(10, Level::Written, 1), Waiting::Parked(()));
    assert_eq!(p.await_ack(10, Level::Flushed, 2), Waiting::Parked(()));
    assert_eq!(p.progress(10, 0), Released { acks: vec![1], waits: vec![7, 8] });
    p.check();
    assert_eq!(p.await_ack(10, Level::Written, 3), Waiting::Ready(3), "a repeat of what is written");
    assert_eq!(p.await_data(5, 0, 9), Waiting::Ready(9));
    assert_eq!(p.progress(4, 3), Released { acks: vec![], waits: vec![] }, "progress does not go back");
    assert_eq!((p.high_watermark, p.flushed), (10, 3));
    assert_eq!(p.progress(10, 10), Released { acks: vec![2], waits: vec![] });
    p.check();
}

#[test]
fn only_written_bytes_wake_a_fetch() {
    let mut p = partition();
    let Waiting::Parked(_) = p.await_data(0, 150, 1) else { panic!("not parked") };
    append(&mut p, 1, 100);
    append(&mut p, 1, 100);
    assert!(p.progress(1, 0).waits.is_empty());
    assert_eq!(p.progress(2, 0).waits, [1]);
    let Waiting::Parked(id) = p.await_data(2, 1, 2) else { panic!("not parked") };
    assert_eq!(p.cancel_wait(id), Some(2));
    append(&mut p, 1, 100);
    assert!(p.progress(3, 3).waits.is_empty());
}

#[test]
fn a_fenced_partition_fails_everything() {
    let mut p = partition();
    append(&mut p, 1, 100);
    let _ = p.await_ack(1, Level::Flushed, 1);
    let _ = p.await_data(1, 1, 2);
    assert_eq!(p.fence("write failed: EIO".into()), Released { acks: vec![1], waits: vec![2] });
    assert_eq!(p.fenced(), Some("write failed: EIO"));
    assert_eq!(p.produce(&batch(-1, -1, -1, 1)), ProduceDecision::Reject(ErrorCode::KafkaStorageError));
    assert_eq!(p.await_ack(1, Level::Written, 3), Waiting::Fenced(3));
    assert_eq!(p.await_data(0, 1, 3), Waiting::Fenced(3));
    p.progress(1, 1);
    assert_eq!(p.high_watermark, 0, "a late completion changes nothing");
    p.fence("again".into());
    assert_eq!(p.fenced(), Some("write failed: EIO"), "the first reason stays");
    p.check();
}

#[test]
fn offsets_out_of_order_fence() {
    for (written, flushed) in [(11, 0), (10, 11), (5, 6), (i64::MAX, i64::MAX)] {
        let mut p = partition();
        append(&mut p, 10, 100);
        let _ = p.await_ack(10, Level::Flushed, 1);
        assert_eq!(p.progress(written, flushed), Released { acks: vec![1], waits: vec![] });
        assert!(p.fenced().is_some_and(|reason| reason.contains("out of order")));
        assert_eq!((p.high_watermark, p.flushed), (0, 0));
        p.check();
    }
}

#[test]
fn epochs_of_clients() {
    let mut p = partition();
    append(&mut p, 10, 100);
    p.progress(10, 10);
    assert!(p.lead(3));
    append(&mut p, 5, 100);
    assert_eq!(
        [-1, 3, 2, 4].map(|e| p.check_epoch(e).err()),
        [None, None, Some(ErrorCode::FencedLeaderEpoch), Some(ErrorCode::UnknownLeaderEpoch)]
    );
    assert_eq!([0, 1, 3, 4].map(|e| p.end_offset_for(e)), [(0, 10), (0, 10), (3, 15), UNDEFINED]);
    assert_eq!(p.divergence(-1, 99), Ok(None));
    assert_eq!(p.divergence(0, 10), Ok(None));
    assert_eq!(p.divergence(0, 12), Ok(Some((0, 10))));
    assert_eq!(p.divergence(2, 10), Ok(Some((0, 10))));
    assert_eq!(p.divergence(4, 10), Err(ErrorCode::OffsetOutOfRange));
    assert!(p.start_moved(11));
    assert!(!p.start_moved(11));
    p.check();
}

#[test]
fn records_are_deleted_up_to_the_high_watermark() {
    let mut p = partition();
    append(&mut p, 10, 100);
    append(&mut p, 5, 100);
    p.progress(10, 10);
    assert_eq!([-1, 0, 10].map(|offset| p.deletion(offset)), [Ok(10), Ok(0), Ok(10)]);
    assert_eq!([-2, 11, 15].map(|offset| p.deletion(offset)), [Err(ErrorCode::OffsetOutOfRange); 3]);
    p.start_moved(4);
    assert_eq!([-1, 2, 7].map(|offset| p.deletion(offset)), [Ok(10), Ok(4), Ok(7)]);
    p.fence("write failed: EIO".into());
    assert_eq!(p.deletion(-1), Err(ErrorCode::KafkaStorageError));
}

#[test]
fn a_batch_that_ends_where_others_are_taken_back_stays() {
    let mut p = partition();
    let Waiting::Parked(_) = p.await_data(0, 100, 1) else { panic!("not parked") };
    for (sequence, count) in [(0, 10), (10, 5)] {
        let header = batch(1, 0, sequence, count);
        let ProduceDecision::Append { base_offset } = p.produce(&header) else { panic!("refused") };
        p.appended(&header, base_offset, 100);
    }
    let _ = p.await_ack(10, Level::Written, 2);
    let _ = p.await_ack(15, Level::Written, 3);
    assert_eq!(p.take_back(10), Released { acks: vec![3], waits: vec![] });
    p.check();
    assert!(matches!(p.produce(&batch(1, 0, 0, 10)), ProduceDecision::Duplicate { base_offset: 0, .. }));
    assert_eq!(p.produce(&batch(1, 0, 10, 5)), ProduceDecision::Append { base_offset: 10 });
    assert_eq!(p.progress(10, 0), Released { acks: vec![2], waits: vec![1] });
}

/// What a correct broker remembers of one producer, in the plainest form.
#[derive(Default)]
struct Model {
    epoch: i16,
    /// (sequence, count, offset) of every batch of the epoch.
    sent: Vec<(i32, i32, Offset)>,
    next: i32,
}

/// A log and its partition, driven by random producers.
struct World {
    rng: Prng,
    log: Vec<BatchHeader>,
    partition: Partition<u32, u32>,
    models: Vec<Model>,
    token: u32,
    /// Tokens that must come back exactly once.
    waiting: std::collections::BTreeSet<u32>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Prng::new(seed);
        // Some begin just below the wrap.
        let models = (0..3).map(|i| Model { next: if i == 0 { 0 } else { i32::MAX - rng.below(40) as i32 }, ..Model::default() }).collect();
        World { rng, log: vec![], partition: partition(), models, token: 0, waiting: Default::default() }
    }

    fn step(&mut self) {
        let id = self.rng.below(self.models.len() as u64) as usize;
        match self.rng.below(13) {
            0..5 => self.send_next(id),
            5..7 => self.send_again(id),
            7 => self.send_wrong(id),
            8 => {
                let model = &mut self.models[id];
                *model = Model { epoch: model.epoch + 1, ..Model::default() };
                self.send_next(id);
            }
            9 => {
                self.partition.lead(self.partition.leader_epoch + 1);
            }
            10 => self.park(),
            11 => self.take_back(),
            _ => self.progress(),
        }
        self.partition.check();
    }

    fn send_next(&mut self, id: usize) {
        let (epoch, sequence) = (self.models[id].epoch, self.models[id].next);
        let count = 1 + self.rng.below(20) as i32;
        let mut header = batch(id as i64, epoch, sequence, count);
        header.max_timestamp = self.rng.below(1000) as i64;
        let ProduceDecision::Append { base_offset } = self.partition.produce(&header) else { panic!("refused {header:?}") };
        header.base_offset = base_offset;
        header.partition_leader_epoch = self.partition.leader_epoch;
        self.partition.appended(&header, base_offset, 100);
        self.log.push(header);
        self.models[id].sent.push((sequence, count, base_offset));
        self.models[id].next = ((i64::from(sequence) + i64::from(count)) % (1 << 31)) as i32;
        self.await_ack(base_offset + i64::from(count));
    }

    fn send_again(&mut self, id: usize) {
        let model = &self.models[id];
        if model.sent.is_empty() {
            return;
        }
        let back = self.rng.below(model.sent.len().min(8) as u64) as usize;
        let (sequence, count, offset) = model.sent[model.sent.len() - 1 - back];
        match self.partition.produce(&batch(id as i64, model.epoch, sequence, count)) {
            ProduceDecision::Duplicate { base_offset, .. } => {
                assert!(back < DUPLICATE_WINDOW);
                assert_eq!(base_offset, offset);
                self.await_ack(base_offset + i64::from(count));
            }
            decision => {
                assert!(back >= DUPLICATE_WINDOW);
                assert_eq!(decision, ProduceDecision::Reject(ErrorCode::OutOfOrderSequenceNumber));
            }
        }
    }

    fn send_wrong(&mut self, id: usize) {
        let model = &self.models[id];
        if model.sent.is_empty() {
            return;
        }
        let gap = model.next.wrapping_add(1 + self.rng.below(5) as i32) & i32::MAX;
        let cases = [
            (batch(id as i64, model.epoch, gap, 1), ErrorCode::OutOfOrderSequenceNumber),
            (batch(id as i64, model.epoch + 1, 1, 1), ErrorCode::OutOfOrderSequenceNumber),
            (
                batch(id as i64, model.epoch - 1, 0, 1),
                if model.epoch == 0 { ErrorCode::InvalidRecord } else { ErrorCode::InvalidProducerEpoch },
            ),
        ];
        for (header, code) in cases {
            assert_eq!(self.partition.produce(&header), ProduceDecision::Reject(code), "{header:?}");
        }
    }

    fn await_ack(&mut self, end_offset: Offset) {
        self.token += 1;
        let level = if self.rng.chance(1, 2) { Level::Written } else { Level::Flushed };
        if let Waiting::Parked(()) = self.partition.await_ack(end_offset, level, self.token) {
            self.waiting.insert(self.token);
        }
    }

    /// The disk is full: what is not written is gone, and its producers go on from there.
    fn take_back(&mut self) {
        let end = self.partition.high_watermark;
        let released = self.partition.take_back(end);
        self.released(released);
        assert_eq!(self.partition.log_end, end);
        self.log.retain(|header| header.next_offset() <= end);
        for model in &mut self.models {
            if let Some(first) = model.sent.iter().position(|(.., offset)| *offset >= end) {
                model.next = model.sent[first].0;
                model.sent.truncate(first);
            }
        }
    }

    /// Where a producer has to begin again is known to the live state alone.
    fn begin_again(&mut self) {
        (0..self.models.len())
            .filter(|id| self.models[*id].sent.is_empty())
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|id| self.send_next(id));
    }

    fn park(&mut self) {
        self.token += 1;
        let need = self.rng.below(400) as usize;
        let offset = self.partition.high_watermark - self.rng.below(2) as i64;
        if let Waiting::Parked(id) = self.partition.await_data(offset, need, self.token) {
            if self.rng.chance(1, 4) {
                assert_eq!(self.partition.cancel_wait(id), Some(self.token));
            } else {
                self.waiting.insert(self.token);
            }
        }
    }

    fn progress(&mut self) {
        let ends = self.log.iter().map(BatchHeader::next_offset).filter(|end| *end > self.partition.high_watermark);
        let ends: Vec<_> = ends.collect();
        let written = if ends.is_empty() { self.partition.high_watermark } else { ends[self.rng.below(ends.len() as u64) as usize] };
        let flushed = self.partition.flushed + self.rng.below((written - self.partition.flushed) as u64 + 1) as i64;
        let released = self.partition.progress(written, flushed);
        self.released(released);
    }

    fn released(&mut self, released: Released<u32, u32>) {
        for token in released.acks.into_iter().chain(released.waits) {
            assert!(self.waiting.remove(&token), "{token} released twice");
        }
    }
}

/// Compaction takes the first batches of an epoch away, and the checkpoint still knows where it began; what a crash took is not believed.
#[test]
fn epochs_of_a_compacted_log() {
    let mut epochs = Epochs::default();
    for (epoch, start) in [(4, 0), (5, 100), (7, 300)] {
        epochs.assign(epoch, start);
    }
    let replay = |batches: &[(LeaderEpoch, Offset)]| {
        let mut recovered = Recovered { epochs: epochs.clone(), ..Recovered::default() };
        for (partition_leader_epoch, base_offset) in batches {
            recovered.replay(&BatchHeader {
                partition_leader_epoch: *partition_leader_epoch,
                base_offset: *base_offset,
                ..batch(-1, -1, -1, 1)
            });
        }
        recovered.epochs
    };
    assert_eq!(replay(&[(4, 90), (5, 150), (7, 310)]), epochs);
    let other = replay(&[(4, 90), (6, 95), (8, 310)]);
    assert_eq!(
        (other.epoch_of(94), other.epoch_of(149), other.latest()),
        (4, 6, Some((8, 310))),
        "it was cut and went on with other epochs"
    );
}

proptest! {
    #[test]
    fn live_state_equals_replayed_state(seed in any::<u64>(), steps in 0..250usize) {
        let mut world = World::new(seed);
        for _ in 0..steps {
            world.step();
        }
        world.begin_again();
        let mut replayed = Recovered { epochs: world.partition.epochs.clone(), ..Recovered::default() };
        world.log.iter().for_each(|header| replayed.replay(header));
        prop_assert_eq!(&replayed.producers, &world.partition.producers);
        prop_assert_eq!(replayed.log_end, world.partition.log_end);

        // Without the checkpoint, the epochs that wrote something.
        let mut from_log = Recovered::default();
        world.log.iter().for_each(|header| from_log.replay(header));
        for header in &world.log {
            prop_assert_eq!(from_log.epochs.epoch_of(header.base_offset), header.partition_leader_epoch);
            prop_assert_eq!(world.partition.epochs.epoch_of(header.base_offset), header.partition_leader_epoch);
        }

        let end = world.partition.log_end;
        let released = world.partition.progress(end, end);
        world.released(released);
        let released = world.partition.fence("the end".into());
        prop_assert!(released.acks.is_empty(), "everything is flushed");
        world.released(released);
        prop_assert!(world.waiting.is_empty(), "never released: {:?}", world.waiting);
    }

    #[test]
    fn a_snapshot_and_the_rest_of_the_log_continue_where_live_state_does(seed in any::<u64>(), cut in 0..80usize) {
        let mut world = World::new(seed);
        let mut snapshot = None;
        for step in 0..80 {
            if step == cut {
                snapshot = Some((world.partition.producers.encode_snapshot(), world.log.len()));
            }
            world.step();
            if snapshot.as_ref().is_some_and(|(_, at)| *at > world.log.len()) {
                // Of batches that were taken back; the log would not have written it either.
                snapshot = Some((world.partition.producers.encode_snapshot(), world.log.len()));
            }
        }
        world.begin_again();
        let (bytes, at) = snapshot.unwrap();
        let mut recovered = Recovered { producers: Producers::decode_snapshot(&bytes).unwrap(), ..Recovered::default() };
        world.log[at..].iter().for_each(|header| recovered.replay(header));
        recovered.producers.check_invariants();
        prop_assert_eq!(recovered.producers.encode_snapshot(), world.partition.producers.encode_snapshot());
        for (id, model) in world.models.iter().enumerate().filter(|(_, model)| !model.sent.is_empty()) {
            let (sequence, count, offset) = *model.sent.last().unwrap();
            for (sequence, count) in [(sequence, count), (model.next, 1), (model.next.wrapping_add(1) & i32::MAX, 1)] {
                let header = batch(id as i64, model.epoch, sequence, count);
                prop_assert_eq!(recovered.producers.check(&header), world.partition.producers.check(&header));
            }
            let last = batch(id as i64, model.epoch, sequence, count);
            let is_repeat = matches!(recovered.producers.check(&last), Ok(SequenceCheck::Duplicate { base_offset, .. }) if base_offset == offset);
            prop_assert!(is_repeat);
        }
    }
}

//! Where leader epochs begin, read from the batches: for a `leader-epoch-checkpoint` that is missing or damaged.

use super::walk::{Bounds, End, HEADER, Trust, Walk};
use super::{Log, LogError, files};
use crate::base::ids::{LeaderEpoch, Offset};
use crate::rt::{Open, Rt};
use crate::wire::batch::BatchHeader;

impl<R: Rt> Log<R> {
    /// Each leader epoch that a batch of the log has, with the offset of its first batch, oldest first.
    /// Reads the first batch of every segment, and those segments whole within which the epoch changes
    /// and the last one. Batches older than leader epochs are left out.
    pub async fn leader_epochs(&self) -> Result<Vec<(LeaderEpoch, Offset)>, LogError> {
        let segments: Vec<(Offset, u64)> = self.0.state.borrow().segments.iter().filter(|s| s.size > 0).map(|s| (s.base, s.size)).collect();
        let mut starts = Vec::new();
        let mut first = None;
        for (at, (base, size)) in segments.iter().enumerate() {
            let begins_with = match first.take() {
                Some(known) => known,
                None => self.first_epoch(*base, *size).await?,
            };
            if let Some((base, size)) = segments.get(at + 1) {
                first = Some(self.first_epoch(*base, *size).await?);
            }
            match begins_with {
                Some((epoch, offset)) if first.flatten().is_some_and(|next| next.0 == epoch) => note(&mut starts, epoch, offset),
                _ => self.epochs_within(*base, *size, &mut starts).await?,
            }
        }
        Ok(starts)
    }

    /// The leader epoch and the base offset of a segment's first batch, if there is a sound header.
    async fn first_epoch(&self, base: Offset, size: u64) -> Result<Option<(LeaderEpoch, Offset)>, LogError> {
        let (rt, path) = (&self.0.rt, files::name(&self.0.dir, base, "log"));
        let file = rt.open(&path, Open::Read).await.map_err(LogError::io_or_exhausted("open", &path))?;
        let mut walk = Walk::<R>::new(rt, &file, &path, size, Bounds::complete(base, Offset::MAX)).briefly();
        let header = BatchHeader::parse(walk.at(0, HEADER).await?);
        Ok(header.ok().map(|header| (header.partition_leader_epoch, header.base_offset)))
    }

    async fn epochs_within(&self, base: Offset, size: u64, starts: &mut Vec<(LeaderEpoch, Offset)>) -> Result<(), LogError> {
        let (rt, path) = (&self.0.rt, files::name(&self.0.dir, base, "log"));
        let file = rt.open(&path, Open::Read).await.map_err(LogError::io_or_exhausted("open", &path))?;
        let mut walk = Walk::<R>::new(rt, &file, &path, size, Bounds::complete(base, Offset::MAX));
        let mut each = |header: &BatchHeader, _| note(starts, header.partition_leader_epoch, header.base_offset);
        // What is not sound there was told when the log was opened, or will be told to its readers.
        walk.batches(End::start(base), Trust::Flushed, &mut each).await.map(|_| ())
    }
}

fn note(starts: &mut Vec<(LeaderEpoch, Offset)>, epoch: LeaderEpoch, offset: Offset) {
    if epoch >= 0 && starts.last().is_none_or(|last| last.0 < epoch) {
        starts.push((epoch, offset));
    }
}

#[cfg(test)]
mod tests {
    use crate::base::prng::Prng;
    use crate::log::Opening;
    use crate::log::tests::{CONFIG, batch_of, create, reopen};
    use crate::sim::Sim;

    #[test]
    fn the_batches_tell_where_leader_epochs_begin() {
        let sim = Sim::new(3, 1);
        let rt = sim.rt(0);
        let batches = 120;
        // Of segments of 26 batches: 1 and 7 change within one, 4 and 9 with one.
        let starts = [(1, 0), (2, 30), (4, 52), (7, 60), (8, 61), (9, 104)];
        sim.run_until(async {
            let log = create(&rt, CONFIG).await;
            assert_eq!(log.leader_epochs().await.unwrap(), vec![]);
            let mut random = Prng::new(1);
            for offset in 0..batches {
                let epoch = starts.iter().rfind(|(_, start)| *start <= offset).unwrap().0;
                log.append(&batch_of(&mut random, 1, 10_000, 5), offset, epoch, None).unwrap();
            }
            log.close(Vec::new()).await.unwrap();
            let log = reopen(&rt, CONFIG, Opening { recovery_point: batches, clean: true, ..Opening::default() }).await.unwrap();
            let bases: Vec<_> = log.0.state.borrow().segments.iter().map(|segment| segment.base).collect();
            assert_eq!(bases, [0, 26, 52, 78, 104]);
            assert_eq!(log.leader_epochs().await.unwrap(), starts);
        });
    }
}

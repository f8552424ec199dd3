//! A topic of the run: made or found, and filled, before the first connection.

use std::{io, sync::Arc};

use crate::{
    admin::{self, Client, EARLIEST, LATEST, Target},
    args::{Args, Mode},
    batch::Template,
    produce::Producer,
    stats::{Clock, Stats},
};

pub struct Topic {
    pub name: String,
    pub targets: Vec<Target>,
    /// Where reading begins, per target.
    pub starts: Vec<i64>,
}

impl Topic {
    /// Finds or makes the topic, and for a fetch what it reads.
    pub fn prepare(args: &Args, name: String, template: &Arc<Template>, run: u32) -> io::Result<Self> {
        let targets = Client::connect(&args.bootstrap_server)?.ensure(&name, args.partitions, &args.topic_config)?;
        let mut topic = Self { name, targets, starts: Vec::new() };
        if args.mode == Mode::Fetch {
            topic.fill(args.fill, template, run)?;
            topic.starts = topic.offsets(EARLIEST)?;
        } else {
            topic.starts = topic.offsets(LATEST)?;
        }
        Ok(topic)
    }

    /// An offset of each partition.
    pub fn offsets(&self, which: i64) -> io::Result<Vec<i64>> {
        let one = |target: &Target| Ok(Client::connect(&target.leader)?.offsets(&self.name, &[target.partition], which)?[0]);
        self.targets.iter().map(one).collect()
    }

    /// Produces until each partition holds `bytes`.
    fn fill(&self, bytes: usize, template: &Arc<Template>, run: u32) -> io::Result<()> {
        let (starts, ends) = (self.offsets(EARLIEST)?, self.offsets(LATEST)?);
        let wanted = bytes.div_ceil(template.batch_len()) as u64;
        for ((target, start), end) in self.targets.iter().zip(starts).zip(ends) {
            let present = (end - start) as u64 / template.records;
            let mut client = Client::connect(&target.leader)?;
            let mut producer = Producer::new(Arc::clone(template), &self.name, -1, run, u32::MAX, &[target.partition], 0);
            let mut stats = Stats::new(Clock::idle());
            for _ in present..wanted {
                let mut frame = Vec::new();
                producer.put_request(&mut frame, 0, 0, template.records);
                frame.extend(template.tail());
                producer.answer(&client.call(frame)?, 0, template.records, 0, &mut stats)?;
            }
            if let Some(code) = stats.errors.keys().next() {
                return Err(io::Error::other(format!("filling partition {}: {}", target.partition, admin::error_name(*code))));
            }
        }
        if self.offsets(EARLIEST)? == self.offsets(LATEST)? {
            return Err(io::Error::other(format!("topic {} is empty: produce to it first, or use --fill", self.name)));
        }
        Ok(())
    }
}

//! The load generator: wrk for Kafka brokers. `cargo bench --bench load -- produce -c 64 -d 30s`; `--help` lists the rest.
//!
//! Requests are built once and patched per send, fetched records are dropped in the kernel: the generator must not be the limit.
//! Its own CPU is printed, and the modes `ceiling` and `ceiling-fetch` show what it can do at most.

mod admin;
mod args;
mod batch;
mod connection;
mod echo;
mod fetch;
mod keys;
mod null;
mod process;
mod produce;
mod report;
mod stats;
mod sys;
mod topic;
mod verify;
mod wire;
mod worker;

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Write},
    net::TcpStream,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;

use crate::{
    admin::{Client, LATEST, Target},
    args::{Args, Mode},
    batch::Template,
    connection::{Connection, Role},
    fetch::{AtEnd, Cursor, Fetcher},
    produce::{Ledger, Producer},
    report::{Report, Server},
    stats::{Clock, Progress, Stats},
    topic::Topic,
    verify::{Expected, Findings},
    worker::{Schedule, Worker},
};

fn main() -> ExitCode {
    let args = Args::parse();
    match args.check().map_err(io::Error::other).and_then(|()| start(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the mode; false if the broker has failed the run.
fn start(mut args: Args) -> io::Result<bool> {
    if let Some(id) = args.cpu.filter(|_| args.mode != Mode::Null)
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(io::Error::other(format!("--cpu {id}: not a core that this process may use")));
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_millis() as i64;
    let template = Template::new(args.shape(now_ms));
    match args.mode {
        Mode::Null => {
            null::serve(&args.bootstrap_server, args.cpu, args.bare, &template)?;
            Ok(true)
        }
        Mode::Ceiling | Mode::CeilingFetch => {
            let server = NullServer::start(&mut args)?;
            let leader = args.bootstrap_server.clone();
            let targets = (0..args.partitions as i32).map(|partition| Target { partition, leader: leader.clone() }).collect();
            let topic = Topic { name: args.topic(), targets, starts: vec![0; args.partitions] };
            let setup = Setup { args: &args, topics: vec![topic], run: now_ms as u32, template };
            let good = setup.run();
            drop(server);
            good
        }
        Mode::Produce | Mode::Fetch | Mode::E2e => {
            let run = now_ms as u32;
            let topics =
                args.topic_names().into_iter().map(|name| Topic::prepare(&args, name, &template, run)).collect::<io::Result<_>>()?;
            let setup = Setup { args: &args, topics, run, template };
            let good = setup.run()?;
            if args.delete_topic {
                let mut client = Client::connect(&args.bootstrap_server)?;
                setup.topics.iter().try_for_each(|topic| client.delete(&topic.name))?;
            }
            Ok(good)
        }
    }
}

/// This program once more, as the null responder.
struct NullServer(Child);

impl NullServer {
    /// Starts it on a free port, which it tells, and which goes into `args` with its process id.
    fn start(args: &mut Args) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["null", "--bootstrap-server", "127.0.0.1:0"]);
        command.args(["--record-size", &args.record_size.to_string(), "--batch-bytes", &args.batch_bytes.to_string()]);
        if args.bare {
            command.arg("--bare");
        }
        if let Some(cpu) = args.server_cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let mut server = Self(command.stdout(Stdio::piped()).spawn()?);
        args.server_pid = Some(server.0.id());
        let mut address = String::new();
        if let Some(output) = server.0.stdout.take() {
            BufReader::new(output).read_line(&mut address)?;
        }
        if address.is_empty() {
            return Err(io::Error::other("the null responder does not start"));
        }
        args.bootstrap_server = address.trim().to_string();
        Ok(server)
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that is known before the first connection.
struct Setup<'a> {
    args: &'a Args,
    /// Connections take them in turn.
    topics: Vec<Topic>,
    run: u32,
    template: Arc<Template>,
}

impl<'a> Setup<'a> {
    fn producer(&self, index: usize) -> io::Result<Connection> {
        let (topic, turn) = self.topic(index);
        // A connection goes to one broker and so serves the partitions that this one leads.
        let leader = &topic.targets[turn % topic.targets.len()].leader;
        let partitions: Vec<i32> = topic.targets.iter().filter(|t| t.leader == *leader).map(|t| t.partition).collect();
        let template = Arc::clone(&self.template);
        let mut producer = Producer::new(template, &topic.name, self.args.acks, self.run, index as u32, &partitions, turn);
        if self.args.keys > 0 {
            let shares = keys::shares(self.args.keys, self.args.key_skew, topic.targets.len());
            producer.draw_by(partitions.iter().map(|partition| shares[*partition as usize]), index as u64);
        }
        Connection::new(TcpStream::connect(leader)?, Role::Produce(producer), self.args.inflight)
    }

    /// The topic of a connection, and its number among the topic's connections.
    fn topic(&self, index: usize) -> (&Topic, usize) {
        (&self.topics[index % self.topics.len()], index / self.topics.len())
    }

    fn consumer(&self, topic: &Topic, first: usize, count: usize, at_end: AtEnd) -> io::Result<Connection> {
        let leader = &topic.targets[first % topic.targets.len()].leader;
        let led: Vec<usize> = (0..topic.targets.len()).filter(|&i| topic.targets[i].leader == *leader).collect();
        let cursor = |i: usize| {
            let target = led[(first + i) % led.len()];
            Cursor { partition: topic.targets[target].partition, start: topic.starts[target], offset: topic.starts[target] }
        };
        let fetcher = Fetcher::new(&topic.name, (0..count).map(cursor).collect(), self.args.fetch_bytes, at_end);
        Connection::new(TcpStream::connect(leader)?, Role::Fetch(fetcher), count)
    }

    fn connections(&self) -> io::Result<Vec<Connection>> {
        let all = 0..self.args.connections;
        match self.args.mode {
            Mode::Produce | Mode::Ceiling | Mode::Null => all.map(|i| self.producer(i)).collect(),
            Mode::Fetch | Mode::CeilingFetch => {
                let one = |i| {
                    let (topic, turn) = self.topic(i);
                    self.consumer(topic, turn * self.args.inflight, self.args.inflight, AtEnd::Wrap)
                };
                all.map(one).collect()
            }
            Mode::E2e => {
                let follow = AtEnd::Follow { run: self.run, stamp_at: self.template.stamp_at() };
                let mut connections: Vec<Connection> = all.map(|i| self.producer(i)).collect::<io::Result<_>>()?;
                for topic in &self.topics {
                    for i in 0..topic.targets.len() {
                        connections.push(self.consumer(topic, i, 1, follow)?);
                    }
                }
                Ok(connections)
            }
        }
    }

    /// The threads' connections and schedules.
    fn workers(&self, connections: Vec<Connection>, clock: Clock) -> io::Result<Vec<Worker>> {
        let threads = self.args.threads;
        let mut shares: Vec<Vec<Connection>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, connection) in connections.into_iter().enumerate() {
            shares[index % threads].push(connection);
        }
        let schedule = |thread: usize| {
            let between = 1e9 / self.args.rate?;
            Some(Schedule { interval: between * threads as f64, first: between * thread as f64 })
        };
        let linger = self.args.linger.as_nanos() as u64;
        let worker = |(thread, share)| Worker::new(share, schedule(thread), linger, Stats::new(clock));
        shares.into_iter().enumerate().map(worker).collect()
    }

    /// Runs, measures, prints; false if there were errors.
    fn run(&self) -> io::Result<bool> {
        let connections = self.connections()?;
        let clock = Clock::new(self.args.warmup, self.args.duration);
        let workers = self.workers(connections, clock)?;
        let progress = Progress::default();
        let (results, (own_cpu_seconds, server)) = thread::scope(|scope| {
            let progress = &progress;
            let handles: Vec<_> = workers.into_iter().map(|worker| scope.spawn(move || worker.run(progress))).collect();
            let processes = self.watch(&clock, progress);
            let join = |handle: thread::ScopedJoinHandle<'_, io::Result<(Stats, Vec<Ledger>)>>| {
                handle.join().map_err(|_| io::Error::other("a thread of the generator failed"))?
            };
            io::Result::Ok((handles.into_iter().map(join).collect::<io::Result<Vec<_>>>()?, processes?))
        })?;
        let mut stats = Stats::new(clock);
        let mut ledgers = Vec::new();
        for (of_thread, of_connections) in results {
            stats.add(&of_thread);
            ledgers.extend(of_connections);
        }
        let report = Report {
            args: self.args,
            topic: self.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>().join(", "),
            partitions: self.topics[0].targets.len(),
            records_per_batch: self.template.records,
            batch_len: self.template.batch_len(),
            seconds: self.args.duration.as_secs_f64(),
            stats: &stats,
            own_cpu_seconds,
            server,
            findings: self.verify(&ledgers)?,
        };
        if let Some(path) = &self.args.histogram {
            std::fs::write(path, report.percentile_table())?;
        }
        print!("{}", if self.args.json { report.json() + "\n" } else { report.text() });
        Ok(stats.broken == 0 && stats.errors.is_empty() && report.findings.as_ref().is_none_or(Findings::good))
    }

    /// Shows progress and reads the clocks of the processes at both ends of the measured time.
    fn watch(&self, clock: &Clock, progress: &Progress) -> io::Result<(f64, Option<Server>)> {
        let own = std::process::id();
        let server_cpu = || self.args.server_pid.map(process::cpu).transpose();
        clock.sleep_until(clock.measure_from);
        let before = (process::cpu(own)?, server_cpu()?);
        let shows = !self.args.quiet && io::stderr().is_terminal();
        let (mut last, mut at) = ((0, 0), clock.measure_from);
        while at < clock.measure_to {
            at = (at + 1_000_000_000).min(clock.measure_to);
            clock.sleep_until(at);
            let now = progress.get();
            if shows {
                let line = format!("{:4} s: {} requests/s, {:.1} MB/s", at / 1_000_000_000, now.0 - last.0, (now.1 - last.1) as f64 / 1e6);
                // Progress that nobody can see is no reason to fail.
                let _ = writeln!(io::stderr(), "{line}");
            }
            last = now;
        }
        let own_seconds = (process::cpu(own)? - before.0).as_secs_f64();
        let server = match (self.args.server_pid, before.1, server_cpu()?) {
            (Some(pid), Some(before), Some(after)) => {
                let (peak_bytes, resident_bytes) = process::memory(pid)?;
                Some(Server { cpu_seconds: (after - before).as_secs_f64(), peak_bytes, resident_bytes })
            }
            _ => None,
        };
        Ok((own_seconds, server))
    }

    fn verify(&self, ledgers: &[Ledger]) -> io::Result<Option<Findings>> {
        if !self.args.verify || !matches!(self.args.mode, Mode::Produce | Mode::E2e) {
            return Ok(None);
        }
        if self.args.acks == 0 {
            self.settle()?;
        }
        let expected = Expected { run: self.run, stamp_at: self.template.stamp_at(), records: self.template.records };
        let mut findings = Findings::default();
        for (number, topic) in self.topics.iter().enumerate() {
            let of_topic: Vec<&Ledger> = ledgers.iter().filter(|l| l.connection as usize % self.topics.len() == number).collect();
            verify::verify(topic, &of_topic, &expected, &mut findings)?;
        }
        Ok(Some(findings))
    }

    /// Waits until the partitions grow no more: what was sent without asking for answers may still be on its way.
    fn settle(&self) -> io::Result<()> {
        let offsets = || self.topics.iter().map(|topic| topic.offsets(LATEST)).collect::<io::Result<Vec<_>>>();
        let mut ends = offsets()?;
        loop {
            thread::sleep(Duration::from_secs(1));
            let now = offsets()?;
            if now == ends {
                return Ok(());
            }
            ends = now;
        }
    }
}

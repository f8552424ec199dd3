//! Blocking requests around a run: metadata, making the topic, offsets, reading back.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use corelane::base::error::ErrorCode;

use crate::wire::{CORRELATION_ID, Put, Take, request, seal};

const TIMEOUT: Duration = Duration::from_secs(30);

/// ListOffsets: the offset after the last record, and that of the first.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// A partition and the address of its leader.
#[derive(Clone, Debug)]
pub struct Target {
    pub partition: i32,
    pub leader: String,
}

pub struct Client {
    socket: TcpStream,
}

/// Errors that a load may well meet.
const NAMED: [ErrorCode; 15] = [
    ErrorCode::UnknownServerError,
    ErrorCode::OffsetOutOfRange,
    ErrorCode::CorruptMessage,
    ErrorCode::UnknownTopicOrPartition,
    ErrorCode::LeaderNotAvailable,
    ErrorCode::NotLeaderOrFollower,
    ErrorCode::RequestTimedOut,
    ErrorCode::MessageTooLarge,
    ErrorCode::InvalidTopicException,
    ErrorCode::RecordListTooLarge,
    ErrorCode::InvalidTimestamp,
    ErrorCode::UnsupportedVersion,
    ErrorCode::InvalidPartitions,
    ErrorCode::KafkaStorageError,
    ErrorCode::InvalidRecord,
];

/// Kafka's name of an error code, or its number.
pub fn error_name(code: i16) -> String {
    match NAMED.iter().find(|known| known.code() == code) {
        Some(known) => format!("{known:?}"),
        None => format!("error {code}"),
    }
}

fn refused(what: &str, code: i16, message: &str) -> io::Error {
    let colon = if message.is_empty() { "" } else { ": " };
    io::Error::other(format!("{what}: {}{colon}{message}", error_name(code)))
}

impl Client {
    pub fn connect(address: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address).map_err(|e| io::Error::new(e.kind(), format!("cannot connect to {address}: {e}")))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_nodelay(true)?;
        Ok(Self { socket })
    }

    /// Sends a request; its answer after the correlation id.
    pub fn call(&mut self, mut frame: Vec<u8>) -> io::Result<Vec<u8>> {
        seal(&mut frame, 0);
        let id = frame[CORRELATION_ID..][..4].to_vec();
        self.socket.write_all(&frame)?;
        let mut size = [0; 4];
        self.socket.read_exact(&mut size)?;
        let mut answer = Vec::new();
        let size = u64::from(u32::from_be_bytes(size));
        (&self.socket).take(size).read_to_end(&mut answer)?;
        if answer.len() as u64 != size || !answer.starts_with(&id) {
            return Err(crate::wire::malformed("frame"));
        }
        answer.drain(..4);
        Ok(answer)
    }

    /// The partitions of a topic; None if it does not exist.
    pub fn partitions(&mut self, topic: &str) -> io::Result<Option<Vec<Target>>> {
        let mut frame = request(3, 4, false);
        frame.i32(1);
        frame.string(topic);
        frame.i8(0); // no automatic creation
        let answer = self.call(frame)?;
        let mut take = Take::new(&answer);
        take.i32()?;
        let mut brokers = Vec::new();
        for _ in 0..take.length()? {
            let (id, host, port) = (take.i32()?, take.string()?, take.i32()?);
            take.string()?; // rack
            brokers.push((id, format!("{host}:{port}")));
        }
        take.string()?; // cluster id
        take.i32()?; // controller
        take.length()?; // topics: one
        let error = take.i16()?;
        if error == ErrorCode::UnknownTopicOrPartition.code() {
            return Ok(None);
        }
        take.string()?;
        take.i8()?;
        let mut targets = Vec::new();
        for _ in 0..take.length()? {
            let (_, partition, leader) = (take.i16()?, take.i32()?, take.i32()?);
            for _ in 0..2 {
                let replicas = take.length()?;
                take.slice(replicas.saturating_mul(4))?;
            }
            if let Some((_, leader)) = brokers.iter().find(|(id, _)| *id == leader) {
                targets.push(Target { partition, leader: leader.clone() });
            }
        }
        targets.sort_by_key(|target| target.partition);
        if error != 0 { Err(refused(topic, error, "")) } else { Ok(Some(targets)) }
    }

    pub fn create(&mut self, topic: &str, partitions: usize, configs: &[String]) -> io::Result<()> {
        let mut frame = request(19, 4, false);
        frame.i32(1);
        frame.string(topic);
        frame.i32(partitions as i32);
        frame.i16(-1); // the broker's replication factor
        frame.i32(0); // no assignments
        frame.i32(configs.len() as i32);
        for config in configs {
            let (key, value) =
                config.split_once('=').ok_or_else(|| io::Error::other(format!("--topic-config {config} is not KEY=VALUE")))?;
            frame.string(key);
            frame.string(value);
        }
        frame.i32(TIMEOUT.as_millis() as i32);
        frame.i8(0);
        let answer = self.call(frame)?;
        let mut take = Take::new(&answer);
        take.i32()?;
        take.length()?;
        take.string()?;
        match (take.i16()?, take.string()?) {
            (0, _) => Ok(()),
            (code, _) if code == ErrorCode::TopicAlreadyExists.code() => Ok(()),
            (code, message) => Err(refused(&format!("creating topic {topic}"), code, &message)),
        }
    }

    pub fn delete(&mut self, topic: &str) -> io::Result<()> {
        let mut frame = request(20, 3, false);
        frame.i32(1);
        frame.string(topic);
        frame.i32(TIMEOUT.as_millis() as i32);
        let answer = self.call(frame)?;
        let mut take = Take::new(&answer);
        take.i32()?;
        take.length()?;
        take.string()?;
        match take.i16()? {
            0 => Ok(()),
            code => Err(refused(&format!("deleting topic {topic}"), code, "")),
        }
    }

    /// The partitions of a topic that is made if need be, once all of them have leaders.
    pub fn ensure(&mut self, topic: &str, partitions: usize, configs: &[String]) -> io::Result<Vec<Target>> {
        let existing = self.partitions(topic)?;
        let wanted = match existing {
            Some(targets) => targets.len().max(1),
            None => {
                self.create(topic, partitions, configs)?;
                partitions
            }
        };
        let start = Instant::now();
        loop {
            // Errors of a topic being made are part of making it.
            if let Ok(Some(targets)) = self.partitions(topic)
                && targets.len() == wanted
            {
                return Ok(targets);
            }
            if start.elapsed() > TIMEOUT {
                return Err(io::Error::other(format!("topic {topic} has no leaders for all its {wanted} partitions")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// An offset of each partition; all are led by this broker, if need be a moment later.
    pub fn offsets(&mut self, topic: &str, partitions: &[i32], which: i64) -> io::Result<Vec<i64>> {
        let start = Instant::now();
        loop {
            let code = match self.try_offsets(topic, partitions, which)? {
                Ok(offsets) => return Ok(offsets),
                Err(code) => code,
            };
            let settling = [ErrorCode::NotLeaderOrFollower, ErrorCode::UnknownTopicOrPartition, ErrorCode::LeaderNotAvailable];
            if start.elapsed() > TIMEOUT || !settling.iter().any(|error| error.code() == code) {
                return Err(refused("listing offsets", code, ""));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The offsets, or the first partition's error.
    fn try_offsets(&mut self, topic: &str, partitions: &[i32], which: i64) -> io::Result<Result<Vec<i64>, i16>> {
        let mut frame = request(2, 1, false);
        frame.i32(-1);
        frame.i32(1);
        frame.string(topic);
        frame.i32(partitions.len() as i32);
        for partition in partitions {
            frame.i32(*partition);
            frame.i64(which);
        }
        let answer = self.call(frame)?;
        let mut take = Take::new(&answer);
        take.length()?;
        take.string()?;
        let mut offsets = vec![0; partitions.len()];
        for _ in 0..take.length()? {
            let (partition, error) = (take.i32()?, take.i16()?);
            take.i64()?;
            let offset = take.i64()?;
            if error != 0 {
                return Ok(Err(error));
            }
            if let Some(at) = partitions.iter().position(|p| *p == partition) {
                offsets[at] = offset;
            }
        }
        Ok(Ok(offsets))
    }
}

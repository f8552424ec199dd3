//! Corelane: a Kafka-compatible message broker, one thread per core, io_uring from socket to disk.
//!
//! The modules form layers: each imports only those below it (ARCHITECTURE.md has the table, `tests/tidy.rs` enforces it).

pub mod api;
pub mod base;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod coord;
pub mod log;
pub mod partition;
pub mod rt;
pub mod server;
pub mod shard;
#[cfg(any(test, debug_assertions))]
pub mod sim;
pub mod wire;

//! The `corelane` binary: arguments to `serve` or a tool.

use std::process::ExitCode;

/// Reserves lazily, so that a large claimed length costs nothing, and gives memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    corelane::cli::run(corelane::server::run)
}

//! CPU time and memory of a process, from /proc (proc_pid_stat(5), proc_pid_status(5)).

use std::{fs, io, time::Duration};

/// CPU time of a process so far, user and system.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| io::Error::new(e.kind(), format!("process {pid}: {e}")))?;
    // The name, in parentheses, may hold anything; the fields after it are numbers.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(stat.as_str(), |(_, rest)| rest).split_ascii_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux that Rust's std runs on.
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory in bytes: highest ever, and now.
pub fn memory(pid: u32) -> io::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Ok((field("VmHWM:").unwrap_or(0), field("VmRSS:").unwrap_or(0)))
}

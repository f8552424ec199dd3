//! Who may connect: totals, per address, and which core is given the next connection. The accept path only; no request passes here.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

struct State {
    per_core: Vec<AtomicUsize>,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// How many may connect.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all (`max.connections`).
    pub total: usize,
    /// From one address (`max.connections.per.ip`).
    pub per_ip: usize,
    /// In all, for the process may not open more files.
    pub files: usize,
}

/// The seats of all cores.
#[derive(Clone)]
pub struct Admission(Arc<State>);

/// One connection's place; given back when dropped.
pub struct Seat {
    state: Arc<State>,
    core: usize,
    ip: IpAddr,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `max.connections` is reached.
    Total,
    /// `max.connections.per.ip` is reached.
    PerIp,
    /// The process's limit of open files is nearly reached.
    Files,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Full::Total => "as many connections as max.connections allows",
            Full::PerIp => "as many connections from this address as max.connections.per.ip allows",
            Full::Files => "the limit of open files leaves no more for connections (ulimit -Hn)",
        })
    }
}

impl Admission {
    /// For `cores` cores.
    pub fn new(cores: usize) -> Admission {
        let per_core = (0..cores).map(|_| AtomicUsize::new(0)).collect();
        Admission(Arc::new(State { per_core, per_ip: Mutex::default() }))
    }

    /// A seat on the core with the fewest connections. Those who sit already stay, whatever the limits are now.
    pub fn admit(&self, ip: IpAddr, limits: Limits) -> Result<Seat, Full> {
        let counts: Vec<usize> = self.0.per_core.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        let open = counts.iter().sum::<usize>();
        if open >= limits.total || open >= limits.files {
            return Err(if open >= limits.total { Full::Total } else { Full::Files });
        }
        let mut per_ip = self.0.per_ip.lock().expect("nothing panics while it is held");
        let held = per_ip.entry(ip).or_insert(0);
        if *held >= limits.per_ip {
            return Err(Full::PerIp);
        }
        *held += 1;
        let core = (0..counts.len()).min_by_key(|c| counts[*c]).unwrap_or(0);
        self.0.per_core[core].fetch_add(1, Ordering::Relaxed);
        Ok(Seat { state: self.0.clone(), core, ip })
    }
}

impl Seat {
    /// The core to serve the connection.
    pub fn core(&self) -> usize {
        self.core
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.state.per_core[self.core].fetch_sub(1, Ordering::Relaxed);
        let mut per_ip = self.state.per_ip.lock().expect("nothing panics while it is held");
        if let Some(held) = per_ip.get_mut(&self.ip) {
            *held -= 1;
            if *held == 0 {
                per_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_cores_fill_evenly() {
        let admission = Admission::new(2);
        let limits = Limits { total: 5, per_ip: 3, files: 9 };
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut seats: Vec<Seat> = (0..3).map(|_| admission.admit(a, limits).unwrap()).collect();
        assert_eq!(seats.iter().filter(|s| s.core() == 0).count(), 2);
        assert_eq!(admission.admit(a, limits).err(), Some(Full::PerIp));
        seats.extend((0..2).map(|_| admission.admit(b, limits).unwrap()));
        assert_eq!(admission.admit(b, limits).err(), Some(Full::Total));
        seats.remove(0);
        assert!(admission.admit(a, limits).is_ok());
        assert_eq!(admission.admit(b, Limits { total: 2, ..limits }).err(), Some(Full::Total));
        assert_eq!(admission.admit(b, Limits { total: 9, files: 4, ..limits }).err(), Some(Full::Files));
    }
}

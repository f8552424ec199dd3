//! Faults of the simulated disk: planned for one operation, or drawn with a rate while a rule lasts.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exec::Exec;

/// Which operation a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOp {
    /// Opening a file.
    Open,
    /// `read_at` and `read_file`.
    Read,
    /// `write_at`, and the content of `replace_file`. A failed write leaves any subset of its blocks.
    Write,
    /// `sync`, a durable `write_at`'s flush, `sync_dir`. What a failed sync covered is never made durable by a later one.
    Sync,
    /// `allocate`.
    Allocate,
    /// `truncate`.
    Truncate,
    /// `rename`, `remove_file`, `remove_dir_all`, `create_dir_all`.
    Names,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with this error number, such as `libc::EIO`.
    Errno(i32),
    /// A `read_at` returns fewer blocks than the file has, as if it had been cut by somebody else.
    Short,
    /// A write succeeds and can be read back, but no flush makes it durable.
    Lost,
    /// A write succeeds and lands on other blocks of the same file.
    Misdirected,
    /// A sync succeeds and makes nothing durable.
    Lie,
    /// The power is lost before the operation. Not for operations of futures outside of the machine.
    PowerLoss,
    /// The process is killed before the operation. As [`Fault::PowerLoss`].
    Kill,
}

/// A fault that has hit.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The operation.
    pub op: FaultOp,
    /// Its file or directory.
    pub path: PathBuf,
    /// The fault.
    pub fault: Fault,
}

struct Planned {
    op: FaultOp,
    path: String,
    skip: u64,
    fault: Fault,
}

struct Rule {
    op: FaultOp,
    path: String,
    one_in: u64,
    fault: Fault,
}

/// All faults of one disk.
#[derive(Default)]
pub struct Faults {
    planned: RefCell<Vec<Planned>>,
    rules: RefCell<Vec<Rule>>,
    slow: RefCell<Vec<(String, Duration)>>,
    hits: RefCell<Vec<Hit>>,
}

fn within(path: &Path, part: &str) -> bool {
    path.to_string_lossy().contains(part)
}

impl Faults {
    /// Plans one fault.
    pub fn plan(&self, op: FaultOp, path: &str, skip: u64, fault: Fault) {
        self.planned.borrow_mut().push(Planned { op, path: path.to_owned(), skip, fault });
    }

    /// Adds a rule: one of so many operations is hit.
    pub fn add(&self, op: FaultOp, path: &str, one_in: u64, fault: Fault) {
        self.rules.borrow_mut().push(Rule { op, path: path.to_owned(), one_in, fault });
    }

    /// Makes the files whose path contains `path` slower by `stall`.
    pub fn slow(&self, path: String, stall: Duration) {
        self.slow.borrow_mut().push((path, stall));
    }

    /// Ends all stalls.
    pub fn quick(&self) {
        self.slow.borrow_mut().clear();
    }

    /// Ends all rules and stalls, and forgets the plans.
    pub fn clear(&self) {
        self.planned.borrow_mut().clear();
        self.rules.borrow_mut().clear();
        self.quick();
    }

    /// The hits since the last call.
    pub fn hits(&self) -> Vec<Hit> {
        self.hits.take()
    }

    /// How much longer than others an operation on this file takes.
    pub fn stall(&self, path: &Path) -> Duration {
        let slow = self.slow.borrow();
        slow.iter().filter(|(part, _)| within(path, part)).map(|(_, stall)| *stall).max().unwrap_or_default()
    }

    /// The fault of this operation, if any.
    pub fn pick(&self, exec: &Exec, op: FaultOp, path: &Path) -> Option<Fault> {
        let fault = self.planned(op, path).or_else(|| self.ruled(exec, op, path))?;
        self.hits.borrow_mut().push(Hit { op, path: path.to_owned(), fault });
        Some(fault)
    }

    fn planned(&self, op: FaultOp, path: &Path) -> Option<Fault> {
        let mut planned = self.planned.borrow_mut();
        let at = planned.iter_mut().position(|planned| {
            if planned.op != op || !within(path, &planned.path) {
                return false;
            }
            let now = planned.skip == 0;
            planned.skip = planned.skip.saturating_sub(1);
            now
        })?;
        Some(planned.remove(at).fault)
    }

    fn ruled(&self, exec: &Exec, op: FaultOp, path: &Path) -> Option<Fault> {
        let rules = self.rules.borrow();
        let hit = rules.iter().find(|r| r.op == op && within(path, &r.path) && exec.chance(1, r.one_in))?;
        Some(hit.fault)
    }
}

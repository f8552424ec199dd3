//! The deterministic runtime: the real code in one thread, in virtual time, on a disk that can lose what was not flushed.
//!
//! All choices (which task runs next, how long an operation takes, where a stream is cut, what a crash leaves behind) come from one
//! seeded generator, so a failing seed fails again; [`Sim::trace`] proves it.

mod disk;
mod exec;
mod faults;
mod net;
pub mod rt;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::fatal;
use crate::base::time::Now;
use crate::rt::{Class, Rt};
use exec::{Exec, Next};

pub use faults::{Fault, FaultOp, Hit};
pub use net::SimClient;
pub use rt::SimRt;

/// Budget of a simulated core's pool unless told otherwise.
const MEMORY_PER_CORE: usize = 64 << 20;
/// Steps of one run after which it is taken for an endless loop.
const STEPS_MAX: u64 = 100_000_000;

/// One simulated machine: its cores, disk and network, and the clients outside of it.
pub struct Sim {
    exec: Rc<Exec>,
    disk: Rc<disk::Disk>,
    net: Rc<net::Net>,
    cores: RefCell<Vec<SimRt>>,
    memory_per_core: usize,
    exits: RefCell<Vec<String>>,
    cut: Cell<Option<Fault>>,
}

/// Unwinds to [`Sim::run_until`]: the process ends, the machine does not.
struct Exit(String);

impl Sim {
    /// A machine of `cores` cores with an empty disk.
    pub fn new(seed: u64, cores: usize) -> Sim {
        Sim::with_memory(seed, cores, MEMORY_PER_CORE)
    }

    /// As [`Sim::new`], with a memory budget per core in bytes.
    pub fn with_memory(seed: u64, cores: usize, memory_per_core: usize) -> Sim {
        let exec = Rc::new(Exec::new(seed, cores));
        let (disk, net) = (Rc::new(disk::Disk::new(exec.clone())), Rc::new(net::Net::default()));
        let sim = Sim { exec, disk, net, cores: RefCell::default(), memory_per_core, exits: RefCell::default(), cut: Cell::default() };
        fatal::instead(|reason| resume_unwind(Box::new(Exit(reason.to_owned()))));
        sim.boot(cores);
        sim
    }

    fn boot(&self, cores: usize) {
        let core = |index| SimRt::new(index, cores, self.exec.clone(), self.disk.clone(), self.net.clone(), self.memory_per_core);
        *self.cores.borrow_mut() = (0..cores).map(core).collect();
    }

    /// The runtime of one core; after a crash the one of the restarted machine.
    pub fn rt(&self, core: usize) -> SimRt {
        self.cores.borrow()[core].clone()
    }

    /// Starts a task on a core.
    pub fn spawn(&self, core: usize, task: impl Future<Output = ()> + 'static) {
        self.rt(core).spawn(Class::Foreground, task);
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        self.exec.now()
    }

    /// Resolves after `duration` of virtual time, across crashes.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.exec.sleep(duration)
    }

    /// A hash of everything that happened so far: equal for equal seeds.
    pub fn trace(&self) -> u64 {
        self.exec.trace()
    }

    /// A uniform choice in `0..bound` from the simulation's seed.
    pub fn below(&self, bound: u64) -> u64 {
        self.exec.below(bound)
    }

    /// Runs everything until `future`, which runs outside of the machine, is done. Panics when nothing can ever happen again.
    pub fn run_until<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let waker: Waker = self.exec.main_waker();
        waker.wake_by_ref();
        for _ in 0..STEPS_MAX {
            match self.exec.next() {
                Next::Main => {
                    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return value;
                    }
                    // Tests call the code of a core from outside, and wait for its turn.
                    let cores = self.cores.borrow();
                    cores.iter().filter(|core| core.slices().has_line()).for_each(|core| self.exec.turn_soon(core.core()));
                }
                Next::Task(task) => self.unless_it_exits(|| self.exec.run(task)),
                Next::Turn(core) => self.unless_it_exits(|| {
                    if self.rt(core).turn() {
                        self.exec.turn_soon(core);
                    }
                }),
                Next::Idle => panic!("deadlock at {:?}: no task is runnable and no timer is set", self.exec.now().mono),
            }
        }
        panic!("{STEPS_MAX} steps without an end, at {:?}", self.exec.now().mono);
    }

    /// Runs a step of the process. If it ends the process, that is killed.
    fn unless_it_exits(&self, step: impl FnOnce()) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(step)) else { return };
        let panic = match panic.downcast::<Exit>() {
            Ok(exit) => {
                self.exits.borrow_mut().push(exit.0);
                return self.kill();
            }
            Err(panic) => panic,
        };
        match panic.downcast::<disk::Cut>() {
            Ok(cut) if cut.0 => {
                self.crash();
                self.cut.set(Some(Fault::PowerLoss));
            }
            Ok(_) => {
                self.kill();
                self.cut.set(Some(Fault::Kill));
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Power loss and restart: tasks, memory and connections are gone; the disk keeps what was durable and, of the rest, any part.
    pub fn crash(&self) {
        self.kill();
        self.disk.crash();
    }

    /// The process is killed and may be started again: tasks, memory and connections are gone, the disk keeps all that was written.
    pub fn kill(&self) {
        let cores = std::mem::take(&mut *self.cores.borrow_mut());
        cores.iter().for_each(SimRt::stop);
        self.exec.clear();
        self.net.sever();
        cores.iter().for_each(|core| core.memory().trim());
        self.boot(cores.len());
    }

    /// Plans a fault of the disk: it hits the operation `op` on a path that contains `path`, once, after `skip` such operations.
    pub fn inject(&self, op: FaultOp, path: &str, skip: u64, fault: Fault) {
        self.disk.faults.plan(op, path, skip, fault);
    }

    /// From now on one of `one_in` operations `op` on paths that contain `path` is hit.
    pub fn add_fault(&self, op: FaultOp, path: &str, one_in: u64, fault: Fault) {
        self.disk.faults.add(op, path, one_in, fault);
    }

    /// Ends all faults of the disk and all its stalls.
    pub fn clear_faults(&self) {
        self.disk.faults.clear();
    }

    /// The faults that have hit since the last call.
    pub fn hits(&self) -> Vec<Hit> {
        self.disk.faults.hits()
    }

    /// All files with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.disk.files()
    }

    /// All directories.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.disk.dirs()
    }

    /// Flips a bit of a file where it lies; false when there is no such byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u32) -> bool {
        self.disk.flip(path, byte, bit)
    }

    /// Takes a directory out of the machine with all that is in it, while no process runs.
    pub fn take_out(&self, dir: &Path) {
        self.disk.take_out(dir);
    }

    /// Puts a directory back that was taken out, in the place of whatever is there.
    pub fn put_back(&self, dir: &Path) {
        self.disk.put_back(dir);
    }

    /// Sets the wall clock forwards or back.
    pub fn jump_wall(&self, ms: i64) {
        self.exec.jump_wall(ms);
    }

    /// Stops the process for a while, as a debugger or a pause of the whole machine does. Clients go on.
    pub fn freeze(&self, duration: Duration) {
        self.exec.freeze(duration);
    }

    /// Why processes of this machine have ended by themselves, since the last call.
    pub fn exits(&self) -> Vec<String> {
        self.exits.take()
    }

    /// [`Fault::PowerLoss`] or [`Fault::Kill`], if one has ended the process since the last call.
    pub fn cut(&self) -> Option<Fault> {
        self.cut.take()
    }

    /// Leaves `bytes` free on the disk (rounded down to blocks); `None`: no limit, the state at the start.
    pub fn set_free_space(&self, bytes: Option<u64>) {
        self.disk.set_free_space(bytes);
    }

    /// Reads, writes and flushes of files whose path contains the text take so much longer; `None`: none do, the state at the start.
    pub fn set_slow(&self, slow: Option<(&str, Duration)>) {
        match slow {
            Some((path, stall)) => self.disk.faults.slow(path.to_owned(), stall),
            None => self.disk.faults.quick(),
        }
    }

    /// Connects to a listener from outside of the machine.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<SimClient> {
        SimClient::connect(&self.net, self.exec.clone(), address).await
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Tasks and hooks own runtimes, which would keep each other alive.
        self.cores.borrow().iter().for_each(SimRt::stop);
        self.exec.clear();
        self.cores.borrow().iter().for_each(|core| core.memory().trim());
    }
}

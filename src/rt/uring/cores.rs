//! Start of the cores: all of them, or none.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use glommio::{ExecutorJoinHandle, GlommioError, Latency, LocalExecutorBuilder, Placement, Shares};

use super::preflight::explain;
use super::pump::{self, Pump};
use super::receive::Receives;
use super::ring::Ring;
use super::turns::Turns;
use super::{Core, Peer, Remote, Settings, Uring};
use crate::base::fatal;
use crate::rt::mem::Memory;
use crate::rt::slices::Slices;

/// Tries of setting up a part of a core while the kernel has no memory for it, besides the last.
const SET_UP_TRIES: u32 = 20;
/// Pause between two tries.
const SET_UP_PAUSE: Duration = Duration::from_millis(100);

type Handle = ExecutorJoinHandle<Result<(), String>>;

/// Runs `main` on every core, on threads of their own, until all have returned and nothing is in
/// flight. No `main` runs before every core is set up; where one cannot be, the others end and the
/// error says why. `ready` is called once before, with a handle that wakes cores.
pub fn run<F, M>(settings: Settings, ready: impl FnOnce(Remote) -> Result<(), String>, main: F) -> Result<(), String>
where
    F: Fn(Uring) -> M + Clone + Send + 'static,
    M: Future<Output = ()> + 'static,
{
    let peers = settings.cpus.iter().map(|_| doorbell()).collect::<Result<Arc<[Peer]>, _>>();
    let peers = peers.map_err(|e| format!("cannot start the cores: {}", explain(&e)))?;
    ready(Remote(peers.clone()))?;
    fatal::starting(true);
    let (reports, reported) = channel();
    let go = Arc::new(OnceLock::new());
    let mut handles = Vec::new();
    let mut refused = None;
    for index in 0..peers.len() {
        let start = Start { report: Report(Some(reports.clone())), go: go.clone() };
        match spawn(index, peers.clone(), settings.clone(), start, main.clone()) {
            Ok(handle) => handles.push(handle),
            Err(e) => {
                refused = Some(cannot_start(index, &e));
                break;
            }
        }
    }
    drop(reports);
    // Ends when every core has reported, or is gone.
    let up = reported.iter().filter(|up| *up).count();
    fatal::starting(false);
    let _ = go.set(up == peers.len());
    for (index, handle) in handles.into_iter().enumerate() {
        let ended = handle.join().unwrap_or_else(|e| Err(cannot_start(index, &e.into())));
        refused = refused.or(ended.err());
    }
    refused.map_or(Ok(()), Err)
}

fn cannot_start(index: usize, error: &io::Error) -> String {
    format!("cannot start core {index}: {}", explain(error))
}

fn doorbell() -> io::Result<Peer> {
    // SAFETY: a plain call; the descriptor is fresh and owned from here on.
    let doorbell = unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    Ok(Peer { doorbell, parked: AtomicBool::new(false) })
}

/// Says whether a core is set up; dropped without a word, that it is not.
struct Report(Option<Sender<bool>>);

impl Report {
    fn send(&mut self, up: bool) {
        if let Some(to) = self.0.take() {
            let _ = to.send(up);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.send(false);
    }
}

/// The common start of all cores.
struct Start {
    report: Report,
    /// Set once: whether all cores are set up.
    go: Arc<OnceLock<bool>>,
}

fn spawn<F, M>(index: usize, peers: Arc<[Peer]>, settings: Settings, mut start: Start, main: F) -> io::Result<Handle>
where
    F: Fn(Uring) -> M + Send + 'static,
    M: Future<Output = ()> + 'static,
{
    let builder = LocalExecutorBuilder::new(Placement::Fixed(settings.cpus[index]))
        .name(&format!("core-{index}"))
        .io_memory(64 << 10)
        .ring_depth(128)
        .preempt_timer(pump::PREEMPT);
    let run = move || async move {
        let (rt, pump) = start_core(index, peers, &settings).map_err(|e| cannot_start(index, &e))?;
        start.report.send(true);
        // Nothing else runs on this thread yet.
        if !*start.go.wait() {
            return Ok(());
        }
        let pump = glommio::spawn_local_into(pump.run(), rt.0.foreground).expect("the queue exists");
        rt.counted(main(rt.clone())).await;
        rt.counted(rt.drain()).await;
        pump.await;
        Ok(())
    };
    builder.spawn(run).map_err(GlommioError::into)
}

/// Sets up a part of a core, again for a while where the kernel has no memory for it: the rings of
/// processes that were killed a moment ago are given back late.
fn patient<T>(mut set_up: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..SET_UP_TRIES {
        match set_up() {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => std::thread::sleep(SET_UP_PAUSE),
            done => return done,
        }
    }
    set_up()
}

fn start_core(index: usize, peers: Arc<[Peer]>, settings: &Settings) -> io::Result<(Uring, Pump)> {
    let executor = glommio::executor();
    let foreground = executor.create_task_queue(Shares::Static(1000), Latency::NotImportant, "foreground");
    let background = executor.create_task_queue(Shares::Static(100), Latency::NotImportant, "background");
    let ring = Rc::new(patient(|| Ring::new(&peers[index].doorbell))?);
    let memory = Memory::new(settings.memory_per_core);
    memory.set_registrar(Some(ring.clone()));
    let home = peers.clone();
    memory.set_notify(Box::new(move || home[index].unpark()));
    let receives = patient(|| Receives::new(ring.clone()))?;
    if index == 0 {
        tracing::info!("io_uring: {}", ring.features());
    }
    let send_zc_bytes = if ring.features().send_zc { settings.send_zc_bytes } else { 0 };
    let core = Rc::new(Core {
        index,
        peers,
        ring,
        timers: Rc::default(),
        turns: Turns::default(),
        slices: Slices::default(),
        receives,
        memory,
        polls: Cell::new(0),
        turn: RefCell::default(),
        foreground,
        background,
        start: Instant::now(),
        send_zc_bytes,
        spin: settings.spin,
        stopping: Cell::new(false),
    });
    Ok((Uring(core.clone()), Pump::new(core)))
}

//! One suite for the runtime seam, run on the real cores and on the simulated ones alike.
//!
//! A scenario is a function over a [`World`] that runs on every core; the world gives it a directory, a client outside of the cores, and
//! what the cores share.

mod cores;
mod files;
mod sockets;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_queue::SegQueue;

use super::Rt;
use super::uring::{self, Settings, Uring};
use crate::sim::{Sim, SimClient, SimRt};

/// Memory of one core, bytes.
const MEMORY: usize = 16 << 20;
/// Sends without a copy from here on.
const ZERO_COPY: usize = 32 << 10;
/// Longest a scenario may take on the real cores.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seeds of each scenario on the simulated ones.
const SEEDS: u64 = 20;

/// What the cores of a scenario share.
#[derive(Default)]
struct Shared {
    /// A mailbox for each of two cores.
    mail: [SegQueue<u64>; 2],
    /// Slices that another core gives back.
    slices: SegQueue<Bytes>,
    counter: AtomicU64,
    /// Cores that are done.
    done: AtomicUsize,
}

/// The other end of a connection, outside of the cores.
trait Client {
    async fn write_all(&self, bytes: &[u8]);
    /// Exactly `n` bytes.
    async fn read_exact(&self, n: usize) -> Vec<u8>;
    /// The next bytes, at most `max`; none at the end of the stream.
    async fn read(&self, max: usize) -> io::Result<Vec<u8>>;
}

/// One core in a scenario.
trait World: 'static {
    type R: Rt;
    type C: Client + 'static;
    fn rt(&self) -> &Self::R;
    fn dir(&self) -> PathBuf;
    fn shared(&self) -> &Arc<Shared>;
    async fn connect(&self, address: SocketAddr) -> Self::C;

    /// A connection: this core's end and the client's.
    async fn pair(&self) -> (<Self::R as Rt>::Socket, Self::C) {
        let listener = self.rt().listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = self.rt().local_addr(&listener).unwrap();
        let client = self.connect(address).await;
        let (accepted, _) = self.rt().accept(&listener).await.unwrap();
        (self.rt().adopt(accepted).unwrap(), client)
    }
}

struct Simulated {
    rt: SimRt,
    sim: Rc<Sim>,
    shared: Arc<Shared>,
}

impl World for Simulated {
    type R = SimRt;
    type C = SimClient;

    fn rt(&self) -> &SimRt {
        &self.rt
    }

    fn dir(&self) -> PathBuf {
        "/suite".into()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn connect(&self, address: SocketAddr) -> SimClient {
        self.sim.connect(address).await.unwrap()
    }
}

impl Client for SimClient {
    async fn write_all(&self, bytes: &[u8]) {
        SimClient::write_all(self, bytes).await.unwrap();
    }

    async fn read_exact(&self, n: usize) -> Vec<u8> {
        SimClient::read_exact(self, n).await.unwrap()
    }

    async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        SimClient::read(self, max).await
    }
}

struct Real {
    rt: Uring,
    dir: PathBuf,
    shared: Arc<Shared>,
}

/// A plain socket that is asked again and again: it must not block the core that it shares.
struct Plain {
    rt: Uring,
    stream: TcpStream,
}

impl Plain {
    async fn patiently<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        loop {
            match attempt() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    assert!(begun.elapsed() < PATIENCE, "the core does not answer its client");
                    self.rt.sleep(Duration::from_micros(200)).await;
                }
                other => return other,
            }
        }
    }
}

impl Client for Plain {
    async fn write_all(&self, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.patiently(|| io::Write::write(&mut &self.stream, &bytes[sent..])).await.unwrap();
        }
    }

    async fn read_exact(&self, n: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < n {
            let more = self.read(n - all.len()).await.unwrap();
            assert!(!more.is_empty(), "the stream ends after {} of {n} bytes", all.len());
            all.extend(more);
        }
        all
    }

    async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; max.min(256 << 10)];
        let n = self.patiently(|| io::Read::read(&mut &self.stream, &mut bytes)).await?;
        bytes.truncate(n);
        Ok(bytes)
    }
}

impl World for Real {
    type R = Uring;
    type C = Plain;

    fn rt(&self) -> &Uring {
        &self.rt
    }

    fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn connect(&self, address: SocketAddr) -> Plain {
        // The kernel completes the connection by itself: nobody has to accept it for that.
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        Plain { rt: self.rt.clone(), stream }
    }
}

fn on_simulated_cores<M: Future<Output = ()> + 'static>(cores: usize, scenario: impl Fn(Rc<Simulated>) -> M) {
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        let sim = Rc::new(Sim::with_memory(seed, cores, MEMORY));
        let shared = Arc::new(Shared::default());
        for core in 0..cores {
            let world = Rc::new(Simulated { rt: sim.rt(core), sim: sim.clone(), shared: shared.clone() });
            let (task, shared) = (scenario(world), shared.clone());
            sim.spawn(core, async move {
                task.await;
                shared.done.fetch_add(1, Ordering::Relaxed);
            });
        }
        sim.run_until(async {
            while shared.done.load(Ordering::Relaxed) < cores {
                sim.sleep(Duration::from_millis(1)).await;
            }
        });
        // The tasks' worlds hold the machine.
        sim.kill();
    }
}

/// Runs a scenario on real cores; more cores than this process may use share CPUs.
fn on_real_cores<M: Future<Output = ()> + 'static>(cores: usize, scenario: impl Fn(Rc<Real>) -> M + Clone + Send + 'static) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").unwrap();
    let allowed = uring::allowed_cpus();
    let settings = Settings {
        cpus: (0..cores).map(|core| allowed[core % allowed.len()]).collect(),
        memory_per_core: MEMORY,
        send_zc_bytes: ZERO_COPY,
        spin: Duration::from_micros(20),
    };
    let (path, shared, begun) = (dir.path().to_owned(), Arc::new(Shared::default()), Instant::now());
    uring::run(settings, |_| Ok(()), move |rt| scenario(Rc::new(Real { rt, dir: path.clone(), shared: shared.clone() }))).unwrap();
    assert!(begun.elapsed() < PATIENCE);
}

/// Each scenario as two tests.
macro_rules! on_both {
    ($($scenario:ident on $cores:literal,)*) => {$(
        mod $scenario {
            #[test]
            fn real() {
                crate::rt::tests::on_real_cores($cores, super::$scenario);
            }

            #[test]
            fn simulated() {
                crate::rt::tests::on_simulated_cores($cores, super::$scenario);
            }
        }
    )*};
}
use on_both;

/// Bytes that tell where they belong.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

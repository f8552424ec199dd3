//! Stress test of wake-ups: a request/response server on one core, several connections, and how late the latest answer was.
//!
//! glommio 0.9.0 can park although tasks are runnable; the runtime's tick bounds what that costs. `cargo bench --bench wakeup -- --seconds
//! 600` fails when an answer was more than 5 ms late for no reason that the scheduler knows of; `--no-tick` takes the bound away, to see
//! the stall: until the next event, which with one connection that waits for its answer never comes (a helper connection ends it then).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use clap::Parser;
use corelane::base::prng::Prng;
use corelane::rt::notify::Notify;
use corelane::rt::uring::{self, Settings, Uring};
use corelane::rt::{Class, Rt};
use hdrhistogram::Histogram;

/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// An answer that takes longer is late.
const LATE: Duration = Duration::from_millis(5);
/// Round trips of a connection that are not counted: the first of all wait for the core to start.
const WARM_UP: usize = 100;
/// After so long a client calls for help.
const LOST: Duration = Duration::from_millis(500);

#[derive(Parser)]
#[command(name = "wakeup", about = "How late the latest answer of a request/response server was")]
struct Args {
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Longest pause of a client before its next request, microseconds; chosen anew each time.
    #[arg(long, default_value_t = 200)]
    pause_us: u64,
    /// Without the tick that bounds the stall.
    #[arg(long)]
    no_tick: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where the server is, and its thread as the scheduler knows it.
struct Server {
    address: SocketAddr,
    waited: Waited,
}

/// How long a thread has waited for a CPU although it could run.
struct Waited(Option<File>);

impl Waited {
    fn of_this_thread() -> Waited {
        let path = std::fs::read_link("/proc/thread-self").map(|path| format!("/proc/{}/schedstat", path.display()));
        Waited(path.and_then(File::open).ok())
    }

    fn so_far(&self) -> Duration {
        let mut text = [0; 96];
        let n = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let waited = std::str::from_utf8(&text[..n]).ok().and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
        Duration::from_nanos(waited.unwrap_or(0))
    }
}

/// What one client saw.
struct Seen {
    round_trips: Histogram<u64>,
    /// Late, whatever for.
    late: u64,
    /// Late by more than the time that client and server waited for a CPU.
    stalls: u64,
    worst_stall: Duration,
    lost: u64,
}

impl Seen {
    fn new() -> Seen {
        let round_trips = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds are in order");
        Seen { round_trips, late: 0, stalls: 0, worst_stall: Duration::ZERO, lost: 0 }
    }

    fn add(&mut self, other: &Seen) {
        self.round_trips.add(&other.round_trips).expect("equal bounds");
        self.late += other.late;
        self.stalls += other.stalls;
        self.worst_stall = self.worst_stall.max(other.worst_stall);
        self.lost += other.lost;
    }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let cpus = uring::allowed_cpus();
    let server_cpu = *cpus.first().ok_or_else(|| io::Error::other("no CPU is allowed"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, server) = mpsc::channel();
    let (remote_to, remote) = mpsc::channel();
    let settings = Settings { cpus: vec![server_cpu], memory_per_core: 16 << 20, send_zc_bytes: 0, tick: !args.no_tick };
    let asked = stop.clone();
    let core = std::thread::spawn(move || {
        let run = move |rt| serve(rt, ready.clone(), asked.clone());
        uring::run(settings, |remote| drop(remote_to.send(remote)), run)
    });
    let remote = remote.recv().map_err(io::Error::other)?;
    let server = Arc::new(server.recv().map_err(io::Error::other)?);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let clients: Vec<_> = (0..args.connections)
        .map(|number| {
            let (server, cpu) = (server.clone(), cpus.get(1 + number % cpus.len().saturating_sub(1).max(1)).copied());
            let pause = args.pause_us;
            std::thread::spawn(move || client(&server, number as u64, cpu, pause, until))
        })
        .collect();
    let mut seen = Seen::new();
    for client in clients {
        seen.add(&client.join().map_err(|_| io::Error::other("a client has panicked"))??);
    }
    stop.store(true, Ordering::Relaxed);
    remote.unpark(0);
    // Should that wake-up be lost as well.
    drop(TcpStream::connect(server.address));
    core.join().map_err(|_| io::Error::other("the core has panicked"))??;
    report(&args, &seen);
    if seen.stalls > 0 && !args.no_tick { Err(io::Error::other("answers came late without a reason")) } else { Ok(()) }
}

/// Echoes. Nothing here may use a timer: that would bound the stall too.
async fn serve(rt: Uring, ready: mpsc::Sender<Server>, stop: Arc<AtomicBool>) {
    let listener = rt.listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = rt.local_addr(&listener).expect("it is bound");
    let stopped = Rc::new(Notify::default());
    let asked = stopped.clone();
    rt.on_turn(Box::new(move || {
        if stop.load(Ordering::Relaxed) {
            asked.notify();
        }
        false
    }));
    let accepting = rt.clone();
    rt.spawn(Class::Foreground, async move {
        while let Ok((accepted, _)) = accepting.accept(&listener).await {
            let (rt, socket) = (accepting.clone(), accepting.adopt(accepted).expect("a connection"));
            accepting.spawn(Class::Foreground, async move {
                while let Ok(bytes) = rt.recv_some(&socket).await {
                    if bytes.is_empty() || rt.send(&socket, vec![bytes]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let _ = ready.send(Server { address, waited: Waited::of_this_thread() });
    stopped.notified().await;
}

fn client(server: &Server, seed: u64, cpu: Option<usize>, pause_us: u64, until: Instant) -> io::Result<Seen> {
    if let Some(id) = cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    let (mut seen, mut random, waited) = (Seen::new(), Prng::new(seed), Waited::of_this_thread());
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOST))?;
    let mut message = [0; MESSAGE];
    for _ in 0..WARM_UP {
        stream.write_all(&message)?;
        read_answer(&mut stream, &mut message, server.address)?;
    }
    while Instant::now() < until {
        if pause_us > 0 {
            pause(Duration::from_micros(random.below(pause_us + 1)));
        }
        let before = waited.so_far() + server.waited.so_far();
        let sent = Instant::now();
        stream.write_all(&message)?;
        seen.lost += u64::from(read_answer(&mut stream, &mut message, server.address)?);
        let round_trip = sent.elapsed();
        seen.round_trips.saturating_record(round_trip.as_nanos() as u64);
        if round_trip > LATE {
            let excused = (waited.so_far() + server.waited.so_far()).saturating_sub(before);
            let stall = round_trip.saturating_sub(excused);
            seen.late += 1;
            if stall > LATE {
                seen.stalls += 1;
                seen.worst_stall = seen.worst_stall.max(stall);
            }
        }
    }
    Ok(seen)
}

/// Short pauses by turning round: a sleep would always take a good part of 100 us.
fn pause(duration: Duration) {
    if duration > Duration::from_micros(100) {
        return std::thread::sleep(duration - Duration::from_micros(60));
    }
    let until = Instant::now() + duration;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Reads a whole answer; true when it came only after help.
fn read_answer(stream: &mut TcpStream, message: &mut [u8], address: SocketAddr) -> io::Result<bool> {
    let (mut got, mut helped) = (0, false);
    while got < message.len() {
        match stream.read(&mut message[got..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                helped = true;
                drop(TcpStream::connect(address)?);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(helped)
}

fn report(args: &Args, seen: &Seen) {
    let at = |quantile: f64| seen.round_trips.value_at_quantile(quantile) as f64 / 1000.0;
    let tick = if args.no_tick { "no tick" } else { "with the tick" };
    println!("{} connections, {} s, {tick}: {} round trips", args.connections, args.seconds, seen.round_trips.len());
    println!(
        "round trip us: median {:.0}, 99 % {:.0}, 99.99 % {:.0}, worst {:.0}",
        at(0.5),
        at(0.99),
        at(0.9999),
        seen.round_trips.max() as f64 / 1000.0
    );
    println!(
        "later than {} ms: {}; of these not for want of a CPU: {} (worst {:.1} ms), only after help: {}",
        LATE.as_millis(),
        seen.late,
        seen.stalls,
        seen.worst_stall.as_secs_f64() * 1000.0,
        seen.lost
    );
}

//! Stress test of wake-ups: a request/response server on one core, several clients, and how late the latest answer was.
//!
//! glommio 0.9.0 can park although tasks are runnable. The runtime never lets it park: each core waits in its data ring. `cargo bench --bench
//! wakeup -- --seconds 600` counts the answers that were more than 5 ms late for no reason that the scheduler knows of, and fails when one
//! came only after the client had called for help (500 ms). `--server bare` serves the same clients on a bare glommio executor that waits as its
//! users do, in a read of an eventfd, to see the stall: until the next event, which may never come. `--server threads` shows how late the
//! machine itself makes answers: time that the hypervisor or softirqs take is no wait that the scheduler knows of.

mod bare;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bare::Bells;
use clap::{Parser, ValueEnum};
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

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// The broker's runtime.
    Runtime,
    /// A bare glommio executor that parks.
    Bare,
    /// A blocking thread per client: what the machine itself does to answers.
    Threads,
}

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
    /// Who answers.
    #[arg(long, value_enum, default_value = "runtime")]
    server: Kind,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where the server is, and its thread as the scheduler knows it: one for all clients, or one for each.
struct Server {
    lines: Lines,
    waited: Vec<Waited>,
}

/// How clients reach the server.
enum Lines {
    Socket(SocketAddr),
    Sockets(Vec<TcpStream>),
    Bells(Arc<Bells>),
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
    let (asked, connections, kind) = (stop.clone(), args.connections, args.server);
    let (remote_to, remote) = mpsc::channel();
    let core = std::thread::spawn(move || {
        match kind {
            Kind::Runtime => {}
            Kind::Threads => return serve_threads(server_cpu, connections, &ready),
            Kind::Bare => {
                let bells = Bells::new(connections)?;
                let lines = Lines::Bells(bells.clone());
                let started = move || drop(ready.send(Server { lines, waited: vec![Waited::of_this_thread()] }));
                return bare::serve(server_cpu, bells, started);
            }
        }
        let settings = Settings { cpus: vec![server_cpu], memory_per_core: 16 << 20, send_zc_bytes: 0, spin: Duration::ZERO };
        let run = move |rt| serve(rt, ready.clone(), asked.clone());
        uring::run(settings, |remote| remote_to.send(remote).map_err(|e| e.to_string()), run).map_err(io::Error::other)
    });
    let server = Arc::new(server.recv().map_err(io::Error::other)?);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let clients: Vec<_> = (0..args.connections)
        .map(|number| {
            let (server, cpu) = (server.clone(), cpus.get(1 + number % cpus.len().saturating_sub(1).max(1)).copied());
            let pause = args.pause_us;
            std::thread::spawn(move || client(&server, number, cpu, pause, until))
        })
        .collect();
    let mut seen = Seen::new();
    for client in clients {
        seen.add(&client.join().map_err(|_| io::Error::other("a client has panicked"))??);
    }
    report(&args, &seen);
    if args.server != Kind::Runtime {
        // These end with the process; an executor may be past waking.
        return Ok(());
    }
    stop.store(true, Ordering::Relaxed);
    remote.recv().map_err(io::Error::other)?.unpark(0);
    core.join().map_err(|_| io::Error::other("the core has panicked"))??;
    if seen.lost > 0 { Err(io::Error::other("answers came only after help")) } else { Ok(()) }
}

/// Echoes. Nothing here may use a timer: that would bound a stall too.
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
    let _ = ready.send(Server { lines: Lines::Socket(address), waited: vec![Waited::of_this_thread()] });
    stopped.notified().await;
}

/// One client's way to the server.
enum Line {
    Socket(TcpStream, SocketAddr),
    Bells(Arc<Bells>, usize),
}

impl Line {
    fn open(server: &Server, number: usize) -> io::Result<Line> {
        let stream = match &server.lines {
            Lines::Socket(address) => TcpStream::connect(address)?,
            Lines::Sockets(streams) => streams[number].try_clone()?,
            Lines::Bells(bells) => return Ok(Line::Bells(bells.clone(), number)),
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOST))?;
        let address = stream.peer_addr()?;
        Ok(Line::Socket(stream, address))
    }

    /// A request and its answer; true when it came only after help.
    fn call(&mut self) -> io::Result<bool> {
        match self {
            Line::Socket(stream, address) => {
                let mut message = [0; MESSAGE];
                stream.write_all(&message)?;
                read_answer(stream, &mut message, *address)
            }
            Line::Bells(bells, number) => {
                let [to_server, to_client] = &bells.clients[*number];
                let mut helped = false;
                to_server.ring();
                while !to_client.wait(LOST)? {
                    helped = true;
                    bells.help.ring();
                }
                Ok(helped)
            }
        }
    }
}

/// Echoes, on a thread for each client. The kernel queues connections in their order, so thread and client have the same number.
fn serve_threads(cpu: usize, clients: usize, ready: &mpsc::Sender<Server>) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (started, waited) = mpsc::channel();
    let mut sockets = Vec::new();
    for _ in 0..clients {
        sockets.push(TcpStream::connect(address)?);
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let started = started.clone();
        std::thread::spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
            let _ = started.send(Waited::of_this_thread());
            let mut message = [0; MESSAGE];
            while socket.read_exact(&mut message).and_then(|()| socket.write_all(&message)).is_ok() {}
        });
    }
    let waited = waited.iter().take(clients).collect();
    ready.send(Server { lines: Lines::Sockets(sockets), waited }).map_err(io::Error::other)
}

fn client(server: &Server, number: usize, cpu: Option<usize>, pause_us: u64, until: Instant) -> io::Result<Seen> {
    if let Some(id) = cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    let (mut seen, mut random, waited) = (Seen::new(), Prng::new(number as u64), Waited::of_this_thread());
    let servers = &server.waited[number % server.waited.len()];
    let mut line = Line::open(server, number)?;
    for _ in 0..WARM_UP {
        line.call()?;
    }
    while Instant::now() < until {
        if pause_us > 0 {
            pause(Duration::from_micros(random.below(pause_us + 1)));
        }
        let before = waited.so_far() + servers.so_far();
        let sent = Instant::now();
        seen.lost += u64::from(line.call()?);
        let round_trip = sent.elapsed();
        seen.round_trips.saturating_record(round_trip.as_nanos() as u64);
        if round_trip > LATE {
            let excused = (waited.so_far() + servers.so_far()).saturating_sub(before);
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
    let server = match args.server {
        Kind::Runtime => "the runtime",
        Kind::Bare => "bare glommio",
        Kind::Threads => "blocking threads",
    };
    println!("{} clients, {} s, {server}: {} round trips", args.connections, args.seconds, seen.round_trips.len());
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

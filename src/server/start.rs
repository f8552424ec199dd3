//! From a configuration to a serving broker, and back: locks, cores, metadata, listeners; the stop in reverse order.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Server;
use super::admission::{Admission, Limits};
use crate::api::{BrokerView, Endpoint, OffsetsTopic};
use crate::base::config::{Config, Listener, host_port};
use crate::base::fatal;
use crate::base::limits::SETTINGS_SHARE;
use crate::rt::uring::{self, Remote, Settings, Uring};
use crate::rt::{Class, Rt};
use crate::shard::control::Control;
use crate::shard::dirs;
use crate::shard::message::Connection;
use crate::shard::{Post, Shard};

/// Signals that come within this time of the first one mean nothing more.
const SAME_REQUEST: Duration = Duration::from_secs(1);
/// Share of `corelane.memory` that the cores' pools may use; the rest is for everything that is not a buffer.
const POOL_SHARE: (usize, usize) = (3, 4);
/// A stop that takes longer ends the process without its clean marker.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Open files that are neither connections nor logs, with some to spare.
const FILES_BESIDE: usize = 64;

/// How long a port in use is waited for.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(1);

/// What the cores share while they start and stop.
pub(super) struct Process {
    config: Arc<Config>,
    broker: Arc<OnceLock<BrokerView>>,
    /// Of each core whether its memory is scarce.
    scarce: Arc<[AtomicBool]>,
    admission: Admission,
    /// Asks the first core, once it is unparked, to stop.
    pub(super) stop_asked: Arc<AtomicBool>,
    /// How it went, once the cores have ended.
    pub(super) result: Mutex<Result<(), String>>,
    started: Instant,
    /// How many files and connections may be open.
    files: usize,
}

impl Process {
    pub(super) fn new(config: Config, cores: usize, started: Instant, files: usize) -> Process {
        Process {
            admission: Admission::new(cores),
            config: Arc::new(config),
            broker: Arc::default(),
            scarce: (0..cores).map(|_| AtomicBool::new(false)).collect(),
            stop_asked: Arc::default(),
            result: Mutex::new(Ok(())),
            started,
            files,
        }
    }
}

/// Runs a broker until a signal stops it. The error says what went wrong, where, and what to do.
pub fn run(config: Config) -> Result<(), String> {
    let started = Instant::now();
    fatal::abort_on_panic();
    let allowed = uring::allowed_cpus();
    let cores = config.cores.unwrap_or(allowed.len());
    if cores == 0 || cores > allowed.len() {
        return Err(format!("corelane.cores={cores}: this process may use {} CPUs (affinity mask): 1 to {}", allowed.len(), allowed.len()));
    }
    let limits = uring::raise_limits().map_err(|e| format!("cannot read the limits of this process: {e}"))?;
    uring::check(cores, limits)?;
    let _locks = dirs::lock_all(&config.log_dirs)?;
    let settings = Settings {
        cpus: allowed[..cores].to_vec(),
        memory_per_core: config.memory / POOL_SHARE.1 * POOL_SHARE.0 / cores,
        send_zc_bytes: config.send_zc_bytes,
        spin: config.spin,
    };
    let files = usize::try_from(limits.files).unwrap_or(usize::MAX);
    let process = Arc::new(Process::new(config, cores, started, files));
    let stop_asked = process.stop_asked.clone();
    let post: Post<<Uring as Rt>::Accepted> = crate::shard::post(cores);
    let main = process.clone();
    uring::run(settings, |remote| watch_signals(remote, stop_asked), move |rt| core_main(rt, post.clone(), main.clone()))?;
    process.result.lock().map_err(|_| "a core has panicked".to_owned())?.clone()
}

/// SIGTERM, SIGINT, SIGQUIT and SIGHUP (the terminal was closed) ask the first core to stop. Another one but SIGHUP ends the process at
/// once, unless it follows so closely that it is the same request: wrappers signal the process and its group. SIGHUP and SIGQUIT stay
/// ignored where the process was started so, by nohup say. SIGXFSZ is caught so that a write above `ulimit -f` fails instead of ending
/// the process.
fn watch_signals(remote: Remote, stop_asked: Arc<AtomicBool>) -> Result<(), String> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
    let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_signals(&status));
    let unless_ignored = [SIGHUP, SIGQUIT].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let cannot = |e: std::io::Error| format!("cannot watch signals: {e}");
    let watched = [SIGINT, SIGTERM, SIGXFSZ].into_iter().chain(unless_ignored);
    let mut signals = signal_hook::iterator::Signals::new(watched).map_err(cannot)?;
    let watch = move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            if signal == SIGXFSZ {
                continue;
            }
            if first.get_or_insert_with(Instant::now).elapsed() > SAME_REQUEST && signal != SIGHUP {
                fatal::fatal("stopped by a second signal");
            }
            stop_asked.store(true, Ordering::SeqCst);
            remote.unpark(crate::shard::CONTROLLER_CORE);
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
    thread.map(drop).map_err(|e| format!("cannot start the thread that watches signals: {e}"))
}

/// The mask of ignored signals in the text of `/proc/self/status`.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A core from start to stop.
pub(super) async fn core_main<R: Rt>(rt: R, post: Post<R::Accepted>, process: Arc<Process>) {
    let shard = Shard::start(rt.clone(), post, process.stop_asked.clone(), &process.config);
    let _server = Server::start(&shard, process.config.clone(), process.broker.clone(), process.scarce.clone());
    let (resting, idle) = (shard.clone(), process.config.log_idle);
    // A task has the name of its code: the log names it where a turn takes long.
    rt.spawn(Class::Background, resting.rest_idle_logs(idle));
    let (retaining, interval) = (shard.clone(), process.config.retention_check_interval);
    rt.spawn(Class::Background, retaining.retain_logs(interval));
    rt.spawn(Class::Background, shard.clone().reopen_replicas());
    if process.config.cleaner_enable {
        rt.spawn(Class::Background, shard.clone().clean_logs());
    }
    if rt.core() == crate::shard::CONTROLLER_CORE {
        let result = lead(&shard, &process).await;
        if let Ok(mut slot) = process.result.lock() {
            *slot = result;
        }
    }
    shard.stopped().await;
}

/// The first core's part: metadata, listeners, stop. What was opened is closed again, also when the listeners cannot be had.
async fn lead<R: Rt>(shard: &Shard<R>, process: &Arc<Process>) -> Result<(), String> {
    let opened = open(shard, process).await;
    let serving = match &opened {
        Ok((control, cluster_id)) => serve(shard, process, control, cluster_id).await,
        Err(reason) => Err(reason.clone()),
    };
    if serving.is_ok() {
        shard.asked_to_stop().await;
        tracing::info!("stopping");
    }
    let mut stop = pin!(stop(shard, opened.ok().map(|(control, _)| control)));
    let mut late = pin!(shard.rt().sleep(STOP_WITHIN));
    let stopped = poll_fn(|cx| match stop.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        // A core waits for its disk, say: the others would wait for that core.
        Poll::Pending => late.as_mut().poll(cx).map(|()| {
            let before = serving.as_ref().err().map_or(String::new(), |reason| format!("{reason}; then "));
            fatal::fatal(&format!("{before}the stop took more than {} s", STOP_WITHIN.as_secs()))
        }),
    });
    let stopped = stopped.await;
    serving?;
    stopped.inspect(|()| tracing::info!("stopped"))
}

/// Data directories and metadata: the controller shard, and the cluster's id.
async fn open<R: Rt>(shard: &Shard<R>, process: &Arc<Process>) -> Result<(Rc<Control<R>>, String), String> {
    let config = &process.config;
    let lost = config.raw.get("corelane.lost.log.dirs").map(String::as_str);
    let opened = dirs::open_dirs(shard.rt(), &config.log_dirs, config.cluster_id.clone(), config.node_id, lost).await;
    let (cluster_id, dirs) = opened?;
    let control = Control::start(shard.clone(), config.node_id, Arc::new(config.raw.clone()), dirs).await?;
    Ok((control, cluster_id))
}

/// From there to the open port.
async fn serve<R: Rt>(shard: &Shard<R>, process: &Arc<Process>, control: &Rc<Control<R>>, cluster_id: &str) -> Result<(), String> {
    let config = &process.config;
    let rt = shard.rt();
    let mut endpoints = Vec::new();
    let mut listeners = Vec::new();
    for (listener, advertised) in config.listeners.iter().zip(&config.advertised) {
        let mut port = listener.port;
        for bound in bind(rt, listener).await? {
            port = rt.local_addr(&bound).map_err(|e| e.to_string())?.port();
            listeners.push((endpoints.len(), bound));
        }
        let port = if advertised.port == 0 { port } else { advertised.port };
        endpoints.push(Endpoint { listener: advertised.name.clone(), host: advertised.host.clone(), port });
    }
    let shown: Vec<String> = endpoints.iter().map(|e| format!("{}://{}", e.listener, host_port(&e.host, e.port))).collect();
    let view = BrokerView {
        node_id: config.node_id,
        cluster_id: cluster_id.to_owned(),
        rack: config.broker_rack.clone(),
        endpoints,
        settings: Arc::new(config.raw.clone()),
        num_partitions: config.num_partitions,
        default_replication_factor: config.default_replication_factor,
        auto_create_topics: config.auto_create_topics,
        delete_topic_enable: config.delete_topic_enable,
        consumer_protocol: config.groups.consumer.enabled,
        offsets_topic: OffsetsTopic {
            partitions: config.groups.topic_partitions,
            replication_factor: config.groups.topic_replication_factor,
            segment_bytes: config.groups.topic_segment_bytes,
        },
        settings_max: config.memory / SETTINGS_SHARE,
    };
    if process.broker.set(view).is_err() {
        return Err("started twice".into());
    }
    for (index, listener) in listeners {
        let accepting = accept(shard.clone(), process.clone(), index, listener);
        rt.spawn(Class::Foreground, accepting);
    }
    let (checkpointing, every) = (control.clone(), config.flush_checkpoint_interval);
    rt.spawn(Class::Background, checkpointing.checkpoint_every(every));
    tracing::info!(
        "ready after {} ms: node {}, cluster {cluster_id}, {}, {} cores, {} topics, data in {}",
        process.started.elapsed().as_millis(),
        config.node_id,
        shown.join(", "),
        rt.cores(),
        shard.image().topics().len(),
        config.log_dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "),
    );
    Ok(())
}

/// Listens on every address of a listener's host; one of several (IPv6 of localhost, say) may be missing on this machine.
async fn bind<R: Rt>(rt: &R, listener: &Listener) -> Result<Vec<R::Listener>, String> {
    let name = format!("{}://{}", listener.name, host_port(&listener.host, listener.port));
    let resolved = (listener.host.as_str(), listener.port).to_socket_addrs();
    let mut addresses: Vec<SocketAddr> = resolved.map_err(|e| format!("listeners: {name}: {e}"))?.collect();
    if addresses.iter().any(|address| address.ip().is_unspecified()) {
        // As Java does, whichever of the two it was.
        addresses = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()].map(|ip| (ip, listener.port).into()).into();
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    let (mut bound, mut refused) = (Vec::new(), None);
    let mut port = listener.port;
    for mut address in addresses {
        address.set_port(port);
        match listen(rt, address).await {
            Ok(socket) => {
                port = rt.local_addr(&socket).map_or(port, |a| a.port());
                bound.push(socket);
            }
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                return Err(format!("listeners: {name}: {address} is in use by another process"));
            }
            Err(e) => refused = Some(format!("listeners: {name}: cannot listen on {address}: {e}")),
        }
    }
    if bound.is_empty() { Err(refused.unwrap_or_else(|| format!("listeners: {name}: has no address"))) } else { Ok(bound) }
}

/// Listens, with some patience: the kernel gives up the port of a killed broker only after it has ended its io_uring requests, a moment after
/// the process itself is gone.
async fn listen<R: Rt>(rt: &R, address: SocketAddr) -> std::io::Result<R::Listener> {
    let deadline = rt.now().mono + PORT_FREE_WITHIN;
    loop {
        match rt.listen(address) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && rt.now().mono < deadline => rt.sleep(Duration::from_millis(10)).await,
            other => return other,
        }
    }
}

/// True for errors of accept(2) that tell of the connection, or of its network, and not of this
/// process: the next one can be accepted at once.
fn of_one_connection(error: &std::io::Error) -> bool {
    use libc::{ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH};
    use libc::{ENONET, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP, EPROTO, ETIMEDOUT};
    #[rustfmt::skip]
    let all = [
        ECONNABORTED, ENOTCONN, EPROTO, ETIMEDOUT, EINTR, ENETDOWN, ENETUNREACH, EHOSTDOWN,
        EHOSTUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP,
    ];
    error.raw_os_error().is_some_and(|errno| all.contains(&errno))
}

/// Accepts connections and gives each to the core with the fewest.
async fn accept<R: Rt>(shard: Shard<R>, process: Arc<Process>, index: usize, listener: R::Listener) {
    let rt = shard.rt().clone();
    let mut told = false;
    while !process.stop_asked.load(Ordering::Relaxed) {
        let (accepted, peer) = match rt.accept(&listener).await {
            Ok(new) => new,
            Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => return,
            Err(e) if of_one_connection(&e) => {
                tracing::debug!("a connection was gone before it was accepted: {e}");
                continue;
            }
            Err(e) => {
                // Out of descriptors, say: those that are open go on.
                tracing::warn!("cannot accept a connection: {e}");
                rt.sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match process.admission.admit(peer.ip(), limits(&shard, process.files)) {
            Ok(seat) => {
                told = false;
                shard.hand_over(seat.core(), Connection { accepted, peer, listener: index, seat: Box::new(seat) });
            }
            Err(full) if told => tracing::debug!("{peer}: refused: {full}"),
            Err(full) => {
                told = true;
                tracing::warn!("{peer}: refused, and so will be others: {full}");
            }
        }
    }
}

/// What the settings say now, for they can be changed at run time, and what the limit of open files leaves: each partition may need a
/// file, and a quarter is for connections whatever happens.
fn limits<R: Rt>(shard: &Shard<R>, files: usize) -> Limits {
    let image = shard.image();
    let number = |name| usize::try_from(image.settings().number(name)).unwrap_or(0);
    let partitions: usize = image.topics().map(|topic| topic.partitions.len()).sum();
    let files = files.saturating_sub(partitions + FILES_BESIDE).max(files / 4);
    Limits { total: number("max.connections"), per_ip: number("max.connections.per.ip"), files }
}

/// Connections, logs, checkpoints, marker: in this order.
async fn stop<R: Rt>(shard: &Shard<R>, control: Option<Rc<Control<R>>>) -> Result<(), String> {
    let disconnects: Vec<_> = (0..shard.rt().cores()).map(|core| shard.disconnect_core(core)).collect();
    for disconnect in disconnects {
        disconnect.await;
    }
    let stops: Vec<_> = (0..shard.rt().cores()).map(|core| shard.stop_core(core)).collect();
    let mut positions = Vec::new();
    for stop in stops {
        positions.extend(stop.await);
    }
    match control {
        Some(control) => control.close(positions).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ignored_signals_are_read() {
        assert_eq!(super::ignored_signals("Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(super::ignored_signals("SigIgn:\tx\n"), 0);
    }
}

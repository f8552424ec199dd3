//! The ways out when going on would be wrong.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::logs;

/// How long an exit waits for a reader of the last log lines. Other cores go on meanwhile.
const LAST_LINES: Duration = Duration::from_secs(1);

thread_local! {
    static INSTEAD: Cell<Option<fn(&str) -> !>> = const { Cell::new(None) };
}

/// The cores are being started: see [`starting`].
static STARTING: AtomicBool = AtomicBool::new(false);

/// A core has panicked at its start, and ends the process.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Ends the process at once, with a reason: a panic would stop one core and leave its siblings serving.
pub fn fatal(reason: &str) -> ! {
    tracing::error!("fatal: {reason}");
    if let Some(exit) = INSTEAD.get() {
        exit(reason);
    }
    logs::say(&format!("corelane: fatal: {reason}"));
    logs::flush(LAST_LINES);
    std::process::exit(2)
}

/// Gives this thread another way out: the process of a simulated machine is not that of the test.
pub fn instead(exit: fn(&str) -> !) {
    INSTEAD.set(Some(exit));
}

/// Makes every panic end the process: a core that panics must not leave its siblings serving.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if STARTING.load(Ordering::SeqCst) {
            // Several cores lack the same: one line is enough.
            while REFUSED.swap(true, Ordering::SeqCst) {
                std::thread::park();
            }
            let remedy = "raise the limits of threads (ulimit -u, systemd TasksMax=) and of open files";
            logs::say(&format!("corelane: cannot start the cores: {}: {remedy}", message(panic)));
            logs::flush(LAST_LINES);
            std::process::exit(1);
        }
        let thread = std::thread::current();
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        let name = thread.name().unwrap_or("unnamed");
        logs::say(&format!("corelane: thread {name} panicked{place}: {}", message(panic)));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            logs::say(&trace.to_string());
        }
        logs::flush(LAST_LINES);
        std::process::abort();
    }));
}

/// While this is true a panic is a refused start: the runtime library panics where it lacks
/// threads or descriptors.
pub fn starting(now: bool) {
    STARTING.store(now, Ordering::SeqCst);
}

fn message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("no message")
}

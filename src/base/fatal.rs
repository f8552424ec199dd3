//! The way out when going on would be wrong.

use std::cell::Cell;
use std::io::Write;

thread_local! {
    static INSTEAD: Cell<Option<fn(&str) -> !>> = const { Cell::new(None) };
}

/// Ends the process at once, with a reason: a panic would stop one core and leave its siblings serving.
pub fn fatal(reason: &str) -> ! {
    tracing::error!("fatal: {reason}");
    if let Some(exit) = INSTEAD.get() {
        exit(reason);
    }
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "corelane: fatal: {reason}");
    std::process::exit(2)
}

/// Gives this thread another way out: the process of a simulated machine is not that of the test.
pub fn instead(exit: fn(&str) -> !) {
    INSTEAD.set(Some(exit));
}

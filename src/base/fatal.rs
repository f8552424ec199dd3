//! The way out when going on would be wrong.

use std::io::Write;

/// Ends the process at once, with a reason: a panic would stop one core and leave its siblings serving.
pub fn fatal(reason: &str) -> ! {
    tracing::error!("fatal: {reason}");
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "corelane: fatal: {reason}");
    std::process::exit(2)
}

//! The way out when going on would be wrong.

/// Ends the process at once, with a reason: a panic would stop one core and leave its siblings serving.
pub fn fatal(reason: &str) -> ! {
    tracing::error!("fatal: {reason}");
    eprintln!("corelane: fatal: {reason}");
    std::process::exit(2)
}

//! Time as a value: state machines are told what time it is, they never ask.

use std::time::Duration;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic time since an arbitrary start.
    pub mono: Duration,
    /// Milliseconds since 1970-01-01 UTC, Kafka's record timestamp.
    pub wall_ms: i64,
}

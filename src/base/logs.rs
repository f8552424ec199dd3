//! Log lines on their way to standard error: a bounded queue, and a thread that writes.
//!
//! Nobody but that thread writes to standard error while the broker runs, so a reader that does
//! not read (a full pipe) blocks no core. Lines beyond the queue are dropped and counted; the
//! count is written in their place.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that may wait to be written.
const QUEUED_BYTES: usize = 1 << 20;
/// Pause before another attempt where standard error is in non-blocking mode and full.
const RETRY: Duration = Duration::from_millis(10);

/// The queue of this process, once [`start`] was called.
static QUEUE: OnceLock<Queue> = OnceLock::new();

enum Entry {
    Line(Box<[u8]>),
    /// So many lines are missing here.
    Dropped(u64),
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Bytes of the lines in `entries`.
    bytes: usize,
    /// The thread has taken an entry that is not written yet.
    writing: bool,
}

/// A bounded queue of lines with one writer. Adding a line never waits for the writer.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    added: Condvar,
    emptied: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is sound between any two statements of its users.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        // Lines are taken again once half of the queue is free: not one by one as the writer goes.
        let dropping = matches!(state.entries.back(), Some(Entry::Dropped(_)));
        let limit = if dropping { QUEUED_BYTES / 2 } else { QUEUED_BYTES };
        if state.bytes + line.len() <= limit {
            state.bytes += line.len();
            state.entries.push_back(Entry::Line(line.into()));
        } else if let Some(Entry::Dropped(count)) = state.entries.back_mut() {
            *count += 1;
        } else {
            state.entries.push_back(Entry::Dropped(1));
        }
        drop(state);
        self.added.notify_one();
    }

    /// Writes what comes, for good. Lines that `out` does not take are lost: their disk is full.
    fn write_to(&self, out: &mut dyn Write) -> ! {
        loop {
            match self.next() {
                Entry::Line(line) => write_patiently(out, &line),
                Entry::Dropped(count) => {
                    let why = "standard error was not read fast enough";
                    let note = format!("corelane: {count} log lines were dropped: {why}\n");
                    write_patiently(out, note.as_bytes());
                }
            }
        }
    }

    /// Waits for an entry and takes it; the one before is written.
    fn next(&self) -> Entry {
        let mut state = self.lock();
        state.writing = false;
        loop {
            if let Some(entry) = state.entries.pop_front() {
                if let Entry::Line(line) = &entry {
                    state.bytes -= line.len();
                }
                state.writing = true;
                return entry;
            }
            self.emptied.notify_all();
            state = self.added.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all is written, for `longest` at most. True when it is.
    fn flush(&self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        let mut state = self.lock();
        while state.writing || !state.entries.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

fn write_patiently(out: &mut dyn Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(_) => return,
        }
    }
}

/// Starts the thread that writes to standard error. From here on lines are queued.
pub fn start() -> io::Result<()> {
    let write = || QUEUE.get_or_init(Queue::default).write_to(&mut io::stderr());
    std::thread::Builder::new().name("logs".to_owned()).spawn(write)?;
    QUEUE.get_or_init(Queue::default);
    Ok(())
}

/// Writes a line to standard error, through the queue where there is one.
pub fn say(line: &str) {
    // One piece, so that no other process's line comes between it and its end.
    let line = format!("{line}\n");
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes()),
        // Nobody may be there to read it.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits until all lines are written, for `longest` at most.
pub fn flush(longest: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(longest);
    }
}

/// A writer that queues: each call of `write` is one line.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.push(line),
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// A reader that has to ask for each line.
    struct Reluctant(SyncSender<String>);

    impl Write for Reluctant {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(line).into_owned();
            self.0.send(text).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Arc<Queue>, Receiver<String>) {
        let (sender, receiver) = sync_channel(0);
        let queue = Arc::new(Queue::default());
        let writing = queue.clone();
        std::thread::spawn(move || writing.write_to(&mut Reluctant(sender)));
        (queue, receiver)
    }

    #[test]
    fn lines_beyond_the_queue_are_counted_in_their_place() {
        let (queue, reader) = queue();
        let long = |n: usize| format!("{n:06}{}\n", "-".repeat(1 << 10));
        let (size, many) = (long(0).len(), 3000);
        (0..many).for_each(|n| queue.push(long(n).as_bytes()));
        assert!(!queue.flush(Duration::from_millis(10)), "nobody has read");
        // One line is with the writer, or still in the queue.
        let kept = QUEUED_BYTES / size;
        let read: Vec<String> = (0..kept).map(|_| reader.recv().unwrap()).collect();
        assert!(read.iter().enumerate().all(|(n, line)| *line == long(n)));
        let note = match reader.recv().unwrap() {
            line if line.starts_with("corelane: ") => line,
            line => {
                assert_eq!(line, long(kept));
                reader.recv().unwrap()
            }
        };
        let count: usize = note.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(count == many - kept || count == many - kept - 1, "{note}");
        queue.push(b"last\n");
        assert_eq!(reader.recv().unwrap(), "last\n");
        assert!(queue.flush(Duration::from_secs(60)));
    }

    #[test]
    fn who_drops_lines_goes_on_until_half_of_the_queue_is_free() {
        let queue = Queue::default();
        let line = vec![b'x'; QUEUED_BYTES / 8];
        (0..10).for_each(|_| queue.push(&line));
        let dropped = |queue: &Queue| match queue.lock().entries.back() {
            Some(Entry::Dropped(count)) => *count,
            _ => 0,
        };
        assert_eq!(dropped(&queue), 2);
        (0..4).for_each(|_| drop(queue.next()));
        queue.push(&line);
        assert_eq!(dropped(&queue), 3, "half of it is still full");
        drop(queue.next());
        queue.push(&line);
        assert_eq!(dropped(&queue), 0);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (queue, reader) = queue();
        drop(reader);
        queue.push(b"x\n");
        assert!(queue.flush(Duration::from_secs(60)));
    }
}

//! What waits for the controller: bounded, each with a deadline, what gives room back apart from
//! what takes some.

use std::collections::VecDeque;
use std::time::Duration;

/// Requests that may wait in one lane.
pub const WAITING: usize = 1000;
/// Bytes of requests that may wait in one lane, if more than one waits.
pub const WAITING_BYTES: usize = 16 << 20;

/// Which of the two lanes a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Deletions: a full disk is no reason to wait, they make room.
    Frees,
    /// All others.
    Takes,
}

/// One request that waits.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// What is asked.
    pub item: T,
    /// Where it waits.
    pub lane: Lane,
    /// Bytes of the request.
    pub bytes: usize,
    /// When whoever asked has given up.
    pub until: Duration,
    number: u64,
}

struct Waiting<T> {
    entries: VecDeque<Entry<T>>,
    bytes: usize,
    /// Nothing is taken from the lane before: there was no room.
    held: Duration,
}

/// The queue of the controller.
pub struct Queue<T> {
    lanes: [Waiting<T>; 2],
    next: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let lane = || Waiting { entries: VecDeque::new(), bytes: 0, held: Duration::ZERO };
        Queue { lanes: [lane(), lane()], next: 0 }
    }
}

impl<T> Queue<T> {
    /// Takes a request in, behind all others of its lane; gives it back where too many wait.
    pub fn push(&mut self, lane: Lane, bytes: usize, until: Duration, item: T) -> Result<(), T> {
        let waiting = &mut self.lanes[lane as usize];
        let full = waiting.entries.len() >= WAITING || waiting.bytes + bytes > WAITING_BYTES;
        if full && !waiting.entries.is_empty() {
            return Err(item);
        }
        waiting.bytes += bytes;
        waiting.entries.push_back(Entry { item, lane, bytes, until, number: self.next });
        self.next += 1;
        Ok(())
    }

    /// The oldest request of the lanes that are not held at `now`.
    pub fn pop(&mut self, now: Duration) -> Option<Entry<T>> {
        let due = self.lanes.iter_mut().filter(|lane| lane.held <= now);
        let oldest = due.filter(|lane| !lane.entries.is_empty()).min_by_key(|lane| lane.entries.front().map(|entry| entry.number))?;
        let entry = oldest.entries.pop_front()?;
        oldest.bytes -= entry.bytes;
        Some(entry)
    }

    /// There was no room for `entry`: it is the first of its lane again, which is held until then.
    pub fn put_back(&mut self, entry: Entry<T>, held: Duration) {
        let lane = &mut self.lanes[entry.lane as usize];
        lane.held = held;
        lane.bytes += entry.bytes;
        lane.entries.push_front(entry);
    }

    /// There may be room again.
    pub fn release(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.held = Duration::ZERO);
    }

    /// When a lane in which somebody waits is not held any more.
    pub fn next_try(&self) -> Option<Duration> {
        let waiting = self.lanes.iter().filter(|lane| !lane.entries.is_empty());
        waiting.map(|lane| lane.held).min()
    }

    /// The first deadline.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.lanes.iter().flat_map(|lane| &lane.entries).map(|entry| entry.until).min()
    }

    /// Takes out whose deadline has come, in no order.
    pub fn expire(&mut self, now: Duration) -> Vec<T> {
        let mut expired = Vec::new();
        for lane in &mut self.lanes {
            for _ in 0..lane.entries.len() {
                match lane.entries.pop_front() {
                    Some(entry) if entry.until <= now => {
                        lane.bytes -= entry.bytes;
                        expired.push(entry.item);
                    }
                    other => lane.entries.extend(other),
                }
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(9);

    fn items<T>(queue: &mut Queue<T>, now: Duration) -> Vec<T> {
        std::iter::from_fn(|| queue.pop(now)).map(|entry| entry.item).collect()
    }

    #[test]
    fn in_the_order_of_arrival_over_both_lanes() {
        let mut queue = Queue::default();
        for (n, lane) in [Lane::Takes, Lane::Frees, Lane::Takes, Lane::Frees].into_iter().enumerate() {
            queue.push(lane, 1, LATE, n).unwrap();
        }
        assert_eq!(items(&mut queue, SOON), [0, 1, 2, 3]);
        assert_eq!((queue.next_try(), queue.next_deadline()), (None, None));
    }

    #[test]
    fn a_held_lane_lets_the_other_pass() {
        let mut queue = Queue::default();
        queue.push(Lane::Takes, 7, LATE, "create").unwrap();
        queue.push(Lane::Takes, 7, LATE, "alter").unwrap();
        queue.push(Lane::Frees, 7, LATE, "delete").unwrap();
        let first = queue.pop(SOON).unwrap();
        assert_eq!(first.item, "create");
        queue.put_back(first, LATE);
        assert_eq!(items(&mut queue, SOON), ["delete"]);
        assert_eq!(queue.next_try(), Some(LATE));
        queue.release();
        assert_eq!(items(&mut queue, SOON), ["create", "alter"]);
    }

    #[test]
    fn what_is_late_is_taken_out() {
        let mut queue = Queue::default();
        queue.push(Lane::Takes, 7, LATE, 0).unwrap();
        queue.push(Lane::Takes, 7, SOON, 1).unwrap();
        queue.push(Lane::Frees, 7, SOON, 2).unwrap();
        queue.push(Lane::Takes, 7, LATE, 3).unwrap();
        assert_eq!(queue.next_deadline(), Some(SOON));
        assert_eq!(queue.expire(SOON), [2, 1]);
        assert_eq!(queue.expire(SOON), [0; 0]);
        assert_eq!(items(&mut queue, SOON), [0, 3]);
    }

    #[test]
    fn no_more_than_a_number_and_no_more_than_some_bytes() {
        let mut queue = Queue::default();
        assert!((0..WAITING).all(|n| queue.push(Lane::Takes, 1, LATE, n).is_ok()));
        assert_eq!(queue.push(Lane::Takes, 1, LATE, 7), Err(7));
        assert_eq!(queue.push(Lane::Frees, WAITING_BYTES, LATE, 8), Ok(()));
        assert_eq!(queue.push(Lane::Frees, 1, LATE, 9), Err(9));
        assert_eq!(queue.pop(SOON).unwrap().item, 0);
        assert_eq!(queue.push(Lane::Takes, 1, LATE, 7), Ok(()));
        assert_eq!(queue.expire(LATE).len(), WAITING + 1);
        // What is taken out makes room.
        assert_eq!(queue.push(Lane::Frees, WAITING_BYTES, LATE, 1), Ok(()));
        assert_eq!(items(&mut queue, SOON), [1]);
        assert_eq!(queue.push(Lane::Frees, 1, LATE, 2), Ok(()));
        assert_eq!(queue.push(Lane::Frees, WAITING_BYTES - 1, LATE, 3), Ok(()));
        assert_eq!(queue.expire(LATE).len(), 2);
        // A single request is taken whatever its size.
        assert_eq!(queue.push(Lane::Frees, WAITING_BYTES + 1, LATE, 9), Ok(()));
    }
}

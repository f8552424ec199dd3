//! The responses of one connection, in the order of its requests, whichever was ready first.

use std::collections::VecDeque;

use bytes::Bytes;

/// Slots for the requests in work. A response waits until all before it have left.
#[derive(Default)]
pub struct Replies {
    slots: VecDeque<Option<Vec<Bytes>>>,
    /// Sequence number of the first slot.
    first: u64,
    queued_bytes: usize,
    /// See [`Replies::forget`].
    forgetting: bool,
}

impl Replies {
    /// Takes the next place in the order.
    pub fn reserve(&mut self) -> u64 {
        self.slots.push_back(None);
        self.first + self.slots.len() as u64 - 1
    }

    /// Fills a place: the pieces of a response, or none for a request that is not answered (acks=0). True when the head is ready.
    pub fn put(&mut self, place: u64, pieces: Vec<Bytes>) -> bool {
        let index = (place - self.first) as usize;
        debug_assert!(self.slots[index].is_none(), "one response per request");
        let pieces = if self.forgetting { Vec::new() } else { pieces };
        self.queued_bytes += pieces.iter().map(Bytes::len).sum::<usize>();
        self.slots[index] = Some(pieces);
        index == 0
    }

    /// Forgets the responses: nobody takes them any more. Later ones are forgotten as they come.
    pub fn forget(&mut self) {
        self.slots.iter_mut().flatten().for_each(Vec::clear);
        (self.queued_bytes, self.forgetting) = (0, true);
    }

    /// All pieces that may be sent now.
    pub fn take_ready(&mut self) -> Vec<Bytes> {
        let mut ready = Vec::new();
        while let Some(Some(_)) = self.slots.front() {
            let pieces = self.slots.pop_front().flatten().unwrap_or_default();
            self.first += 1;
            self.queued_bytes -= pieces.iter().map(Bytes::len).sum::<usize>();
            if ready.is_empty() { ready = pieces } else { ready.extend(pieces) }
        }
        ready
    }

    /// True when all requests before the one that took `place` are answered, and their answers taken.
    pub fn is_first(&self, place: u64) -> bool {
        place == self.first
    }

    /// Requests that are not answered yet.
    pub fn outstanding(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of responses that wait for their turn.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn order_is_kept_whatever_finishes_first() {
        let mut random = Prng::new(7);
        let mut replies = Replies::default();
        let (mut open, mut sent, mut expected) = (Vec::new(), Vec::new(), 0u32);
        for _ in 0..10_000 {
            if open.len() < 20 && random.chance(1, 2) {
                open.push(replies.reserve());
            } else if !open.is_empty() {
                let place = open.swap_remove(random.below(open.len() as u64) as usize);
                replies.put(place, vec![Bytes::copy_from_slice(&(place as u32).to_be_bytes())]);
                sent.extend(replies.take_ready());
            }
        }
        for piece in sent {
            assert_eq!(u32::from_be_bytes(piece[..].try_into().unwrap()), expected);
            expected += 1;
        }
        assert!(expected > 1000);
        assert_eq!(replies.outstanding() as u64 + expected as u64, replies.first + replies.slots.len() as u64);
    }
}

//! The responses of one connection, in the order of its requests, whichever was ready first.

use std::collections::VecDeque;

use bytes::Bytes;

/// Room for one response.
#[derive(Default)]
struct Slot {
    pieces: Vec<Bytes>,
    /// Nothing more of it comes.
    whole: bool,
}

/// Slots for the requests in work. A response waits until all before it have left.
#[derive(Default)]
pub struct Replies {
    slots: VecDeque<Slot>,
    /// Sequence number of the first slot.
    first: u64,
    queued_bytes: usize,
    /// See [`Replies::forget`].
    forgetting: bool,
}

impl Replies {
    /// Takes the next place in the order.
    pub fn reserve(&mut self) -> u64 {
        self.slots.push_back(Slot::default());
        self.first + self.slots.len() as u64 - 1
    }

    /// Fills a place: the pieces of a response, or none for a request that is not answered (acks=0). True when the head is ready.
    pub fn put(&mut self, place: u64, pieces: Vec<Bytes>) -> bool {
        let first = self.put_part(place, pieces);
        let slot = &mut self.slots[(place - self.first) as usize];
        debug_assert!(!slot.whole, "one response per request");
        slot.whole = true;
        first
    }

    /// Pieces of a response of which more will follow. True when they are at the head.
    pub fn put_part(&mut self, place: u64, pieces: Vec<Bytes>) -> bool {
        let index = (place - self.first) as usize;
        if !self.forgetting {
            self.queued_bytes += pieces.iter().map(Bytes::len).sum::<usize>();
            let slot = &mut self.slots[index];
            if slot.pieces.is_empty() { slot.pieces = pieces } else { slot.pieces.extend(pieces) }
        }
        index == 0
    }

    /// Forgets the responses: nobody takes them any more. Later ones are forgotten as they come.
    pub fn forget(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.pieces.clear());
        (self.queued_bytes, self.forgetting) = (0, true);
    }

    /// All pieces that may be sent now.
    pub fn take_ready(&mut self) -> Vec<Bytes> {
        let mut ready = Vec::new();
        while let Some(slot) = self.slots.front_mut() {
            let (pieces, whole) = (std::mem::take(&mut slot.pieces), slot.whole);
            self.queued_bytes -= pieces.iter().map(Bytes::len).sum::<usize>();
            if ready.is_empty() {
                ready = pieces
            } else {
                ready.extend(pieces)
            }
            if !whole {
                break;
            }
            self.slots.pop_front();
            self.first += 1;
        }
        ready
    }

    /// True when nothing of the response at the head waits to be taken.
    pub fn head_is_taken(&self) -> bool {
        self.slots.front().is_none_or(|slot| slot.pieces.is_empty())
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

    #[test]
    fn parts_leave_at_the_head_only_and_their_place_is_kept() {
        let mut replies = Replies::default();
        let (first, second, third) = (replies.reserve(), replies.reserve(), replies.reserve());
        let piece = |text: &'static str| vec![Bytes::from_static(text.as_bytes())];
        assert!(!replies.put(third, piece("e")));
        assert!(!replies.put_part(second, piece("c")));
        assert!(replies.put_part(first, piece("a")) && !replies.head_is_taken());
        assert_eq!((replies.take_ready(), replies.queued_bytes()), (piece("a"), 2));
        assert!(replies.head_is_taken() && replies.is_first(first) && replies.outstanding() == 3);
        assert!(replies.put(first, piece("b")));
        assert_eq!((replies.take_ready().concat(), replies.outstanding()), (b"bc".to_vec(), 2));
        replies.forget();
        assert!(replies.put(second, piece("d")) && replies.take_ready().is_empty() && replies.outstanding() == 0);
    }
}

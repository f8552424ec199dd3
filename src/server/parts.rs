//! Long answers, made as the client takes them: of one that is made no more than a part is held.

use std::io;

use bytes::BytesMut;

use super::dispatch::{Work, malformed};
use crate::rt::Rt;
use crate::wire::codec::Encode;
use crate::wire::parts::Parts;

/// Bytes of a part, about.
const PART: usize = 64 << 10;
/// Bytes of the heap that an element takes from the beginning to the end, about: that of the request, and
/// the length.
const ELEMENT_BYTES: usize = 128;

/// Answers with a list of `count` elements, of which `single` makes a response that has it alone. `cost`:
/// of one element to a turn's budget, in inflated bytes.
///
/// A frame begins with its length: all elements are made once for that, and where they do not fit in a
/// part, once more to be sent. An element that has another length by then ends the connection, and the
/// client asks again.
pub(super) async fn reply<R: Rt, M: Encode + Default>(
    work: &mut Work<R>,
    count: usize,
    cost: usize,
    single: impl Fn(usize) -> M,
) -> io::Result<()> {
    let conn = work.conn.clone();
    let rt = &conn.server.rt;
    let parts = Parts::new(work.api, work.version, work.correlation_id, &M::default()).map_err(malformed)?;
    let held = rt.memory().account();
    held.set(count * ELEMENT_BYTES);
    let (mut first, mut lengths, mut bytes) = (BytesMut::new(), Vec::with_capacity(count), 0);
    for n in 0..count {
        rt.slices().pass(cost).await;
        if bytes > PART {
            first = BytesMut::new();
        }
        let len = parts.put(&single(n), 1, &mut first).map_err(malformed)?;
        lengths.push(len);
        bytes += len;
    }
    let mut part = parts.begin(count, bytes).map_err(malformed)?;
    if bytes <= PART {
        part.extend_from_slice(&first);
        parts.end(&mut part);
        conn.reply(work.place, vec![part.freeze()]);
        return Ok(());
    }
    drop(first);
    for (n, len) in lengths.into_iter().enumerate() {
        rt.slices().pass(cost).await;
        if parts.put(&single(n), 1, &mut part).map_err(malformed)? != len {
            tracing::info!("{}: closed: what it asked about has changed while the answer was being sent", conn.peer);
            conn.close();
            return Ok(());
        }
        if part.len() >= PART {
            // Others have their turn while the client takes it.
            work.give_back();
            conn.reply_part(work.place, rt.memory().charged(std::mem::take(&mut part).freeze())).await;
            work.take_turn(PART).await;
        }
    }
    parts.end(&mut part);
    conn.reply(work.place, vec![rt.memory().charged(part.freeze())]);
    Ok(())
}

//! A produce request on its way: appended in the order in which it was read, answered when the last partition is as safe as asked for.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::conn::Conn;
use crate::api::produce::{self, Plan};
use crate::rt::Rt;
use crate::shard::op::Produced;
use crate::shard::owner::Sink;
use crate::wire;
use crate::wire::frame::RequestHeader;

struct Pending<R: Rt> {
    conn: Rc<Conn<R>>,
    place: u64,
    version: i16,
    correlation_id: i32,
    acks: i16,
    plan: RefCell<Plan>,
    remaining: Cell<usize>,
}

/// Starts a produce request; the response follows by itself.
pub fn handle<R: Rt>(conn: &Rc<Conn<R>>, place: u64, header: &RequestHeader, body: Bytes) -> io::Result<()> {
    let server = &conn.server;
    let version = header.api_version;
    let request = wire::produce::decode(body, version).map_err(super::dispatch::malformed)?;
    let mut plan = produce::plan(&request, version, &server.shard.image(), server.rt.now().wall_ms);
    let items = std::mem::take(&mut plan.items);
    let pending = Pending {
        conn: conn.clone(),
        place,
        version,
        correlation_id: header.correlation_id,
        acks: request.acks,
        remaining: Cell::new(items.len()),
        plan: RefCell::new(plan),
    };
    server.producing.set(server.producing.get() + 1);
    if items.is_empty() {
        pending.finish();
    } else {
        // The request's memory is given back as soon as its batches are copied.
        drop(request);
        server.shard.produce(items, Rc::new(pending));
    }
    Ok(())
}

impl<R: Rt> Pending<R> {
    fn finish(&self) {
        let server = &self.conn.server;
        server.producing.set(server.producing.get() - 1);
        let plan = self.plan.borrow();
        if self.acks == 0 {
            self.conn.reply(self.place, Vec::new());
            if plan.refused() {
                tracing::info!("{}: closed: a batch sent with acks=0 was refused", self.conn.peer);
                self.conn.close();
            }
            return;
        }
        let response = wire::produce::encode_response(self.version, self.correlation_id, &plan.topics, 0);
        self.conn.reply(self.place, vec![response]);
    }
}

impl<R: Rt> Sink for Pending<R> {
    fn produced(&self, index: u32, produced: Produced) {
        self.plan.borrow_mut().answer(index as usize, &produced);
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0 {
            self.finish();
        }
    }
}

//! A fetch request on its way: answered at once from memory where that is enough, else by a task that reads, waits for growth, reads again.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::conn::Conn;
use super::long::Holding;
use crate::api::fetch;
use crate::api::fetch_session::SessionContext;
use crate::base::error::ErrorCode;
use crate::rt::notify::Notify;
use crate::rt::{Class, Rt};
use crate::shard::message::Watched;
use crate::shard::op::{ReadItem, ReadResult};
use crate::shard::owner::Watcher;
use crate::wire;
use crate::wire::codec::FetchRequest;
use crate::wire::frame::RequestHeader;

/// How often a long request that waits for records looks whether others wait for the memory that it
/// holds: then it is answered.
const ROOM_LOOK: Duration = Duration::from_secs(1);

/// Reads of one owner core, with the targets' places.
struct Group {
    owner: usize,
    places: Vec<usize>,
    items: Vec<ReadItem>,
}

struct Fetch<R: Rt> {
    conn: Rc<Conn<R>>,
    place: u64,
    version: i16,
    correlation_id: i32,
    context: SessionContext,
    groups: Vec<Group>,
    results: Vec<ReadResult>,
    min_bytes: usize,
    max_bytes: usize,
    deadline: Duration,
    /// Memory for all this.
    holding: Holding<R>,
}

/// Bytes of the heap that one partition takes while a fetch is under way: what is to be read, what was
/// read, and what is answered.
const TARGET_BYTES: usize = 512;

/// Bytes of the heap that a fetch takes for the partitions that its session remembers.
pub fn remembered<R: Rt>(conn: &Conn<R>, version: i16, body: &[u8]) -> usize {
    match wire::fetch::session_id(version, body) {
        0 => 0,
        id => conn.server.sessions.borrow().partitions_of(id) * TARGET_BYTES,
    }
}

/// Starts a fetch; the response follows by itself.
pub fn handle<R: Rt>(conn: &Rc<Conn<R>>, place: u64, header: &RequestHeader, body: Bytes, holding: Holding<R>) -> io::Result<()> {
    let server = &conn.server;
    let version = header.api_version;
    let request: FetchRequest = wire::codec::decode(body, version).map_err(super::dispatch::malformed)?;
    let now = server.rt.now();
    let (min_bytes, max_bytes) = (request.min_bytes.max(0) as usize, request.max_bytes.max(0) as usize);
    let deadline = now.mono + Duration::from_millis(request.max_wait_ms.max(0) as u64);
    let asked = fetch::session_request(&request, version);
    drop(request);
    let begun = server.with_sessions(|sessions| sessions.begin(asked, now));
    let context = match begun {
        Ok(context) => context,
        Err(code) => {
            conn.reply(place, wire::fetch::encode(version, header.correlation_id, fetch::refuse(code), |text| text));
            return Ok(());
        }
    };
    let mut groups: Vec<Group> = Vec::new();
    let mut results = Vec::with_capacity(context.targets.len());
    let image = server.shard.image();
    for (index, planned) in fetch::plan(&context.targets, version, &image).enumerate() {
        results.push(ReadResult::refused(planned.as_ref().err().copied().unwrap_or(ErrorCode::None)));
        if let Ok(item) = planned {
            let owner = server.shard.owner_of(&item.key);
            let at = groups.iter().position(|g| g.owner == owner).unwrap_or_else(|| {
                groups.push(Group { owner, places: Vec::new(), items: Vec::new() });
                groups.len() - 1
            });
            groups[at].places.push(index);
            groups[at].items.push(item);
        }
    }
    let mut fetch = Fetch {
        conn: conn.clone(),
        place,
        version,
        correlation_id: header.correlation_id,
        context,
        groups,
        results,
        min_bytes,
        max_bytes,
        deadline,
        holding,
    };
    if conn.may_answer(place) && fetch.read_now() && fetch.is_due() {
        fetch.finish();
    } else {
        server.rt.spawn(Class::Foreground, async move { fetch.run().await });
    }
    Ok(())
}

impl<R: Rt> Fetch<R> {
    /// Reads from this core's memory; false when other cores or the disk are needed.
    fn read_now(&mut self) -> bool {
        let most = self.max_bytes();
        let mut left = most;
        for Group { owner, places, items } in &self.groups {
            // With one owner its order is the request's, and so the first batch may be a large one at once.
            let first = self.groups.len() == 1;
            let Some(read) = self.conn.server.shard.read_now(*owner, items, left, first) else { return false };
            left = left.saturating_sub(place_results(&mut self.results, places, read));
        }
        self.groups.len() == 1 || (left < most && self.first_has_its_batch())
    }

    /// Whether the first partition of the request that has records has given some.
    fn first_has_its_batch(&self) -> bool {
        let of_group = |Group { places, items, .. }: &Group| {
            places.iter().zip(items).filter(|(place, item)| self.has_records(**place, item)).map(|(place, _)| *place).min()
        };
        let first = self.groups.iter().filter_map(of_group).min();
        first.is_none_or(|place| self.results[place].bytes() > 0)
    }

    fn has_records(&self, place: usize, item: &ReadItem) -> bool {
        let result = &self.results[place];
        let readable = result.code == ErrorCode::None && result.diverging.is_none() && result.high_watermark > item.offset;
        result.bytes() > 0 || readable
    }

    /// Most bytes of records that the answer may have.
    fn max_bytes(&self) -> usize {
        self.max_bytes.min(self.conn.server.fetch_max())
    }

    async fn read(&mut self) {
        self.conn.room_for_answer(self.place).await;
        let most = self.max_bytes();
        let mut left = most;
        for Group { owner, places, items } in &self.groups {
            let read =
                self.conn.server.shard.read(*owner, items, left, self.groups.len() == 1, left < most || self.holding.is_room()).await;
            left = left.saturating_sub(place_results(&mut self.results, places, read));
        }
        if self.groups.len() > 1 && !self.first_has_its_batch() {
            self.read_first_batch().await;
        }
    }

    /// The first partition of the request that has a batch gives it whole, however large it is, and what
    /// others have given stays as far as it fits then (KIP-74). Else a partition whose next batch is
    /// larger than its limit would give nothing as long as those of other cores have records.
    async fn read_first_batch(&mut self) {
        let shard = self.conn.server.shard.clone();
        let mut targets: Vec<(usize, usize, ReadItem)> = Vec::new();
        for Group { owner, places, items } in &self.groups {
            targets.extend(places.iter().zip(items).map(|(place, item)| (*place, *owner, item.clone())));
        }
        targets.sort_unstable_by_key(|(place, ..)| *place);
        let most = self.max_bytes();
        for (place, owner, item) in targets {
            if self.results[place].bytes() > 0 {
                return;
            }
            if !self.has_records(place, &item) {
                continue;
            }
            let items = [item];
            let read = shard.read(owner, &items, most, true, true).await;
            let mut bytes = place_results(&mut self.results, &[place], read);
            if bytes == 0 {
                // Who waits for memory holds none.
                self.results.iter_mut().for_each(|result| result.records.clear());
                let read = shard.read(owner, &items, most, true, self.holding.is_room()).await;
                bytes = place_results(&mut self.results, &[place], read);
            }
            if bytes > 0 {
                let mut left = most.saturating_sub(bytes);
                for result in &mut self.results[place + 1..] {
                    match left.checked_sub(result.bytes()) {
                        Some(rest) => left = rest,
                        None => result.records.clear(),
                    }
                }
                return;
            }
        }
    }

    fn bytes(&self) -> usize {
        self.results.iter().map(ReadResult::bytes).sum()
    }

    /// Enough is read, or something has to be said, or time is up.
    fn is_due(&self) -> bool {
        self.bytes() >= self.min_bytes.min(self.max_bytes())
            || self.results.iter().any(|r| r.code != ErrorCode::None || r.diverging.is_some())
            || self.conn.server.stopping()
            || self.conn.has_ended()
            || self.holding.is_wanted()
            || self.groups.is_empty()
            || self.conn.server.rt.now().mono >= self.deadline
    }

    async fn run(mut self) {
        loop {
            self.read().await;
            if self.is_due() {
                return self.finish();
            }
            self.wait().await;
        }
    }

    /// Until a partition grows or time is up. What was read so far is let go: it will be read again.
    async fn wait(&mut self) {
        let rt = self.conn.server.rt.clone();
        // When there is enough in all, one of them has grown by its share at least.
        let missing = self.min_bytes.min(self.max_bytes()).saturating_sub(self.bytes());
        let need_bytes = missing.div_ceil(self.results.len().max(1)).max(1);
        let grown = Rc::new(Grown::default());
        let watcher: Rc<dyn Watcher> = grown.clone();
        let mut watches = Vec::with_capacity(self.groups.len());
        for Group { owner, places, items } in &self.groups {
            let watched = |(place, item): (&usize, &ReadItem)| {
                let high_watermark = self.results[*place].high_watermark;
                Watched { key: item.key, high_watermark, need_bytes }
            };
            watches.push(self.conn.server.shard.watch(*owner, places.iter().zip(items).map(watched).collect(), watcher.clone()));
        }
        self.results.iter_mut().for_each(|r| r.records.clear());
        let mut left = self.deadline.saturating_sub(rt.now().mono);
        if self.holding.is_room() {
            left = left.min(ROOM_LOOK);
        }
        futures_lite::future::or(self.conn.wait_for(&grown.0), rt.sleep(left)).await;
    }

    fn finish(mut self) {
        let server = &self.conn.server;
        let mut random = || {
            let mut bytes = [0; 4];
            server.rt.random(&mut bytes);
            i32::from_ne_bytes(bytes)
        };
        let now = server.rt.now();
        let finished = {
            let outcomes: Vec<_> = self.results.iter().map(fetch::outcome).collect();
            server.with_sessions(|sessions| sessions.finish(&self.context, &outcomes, now, &mut random))
        };
        let (targets, mut results) = (std::mem::take(&mut self.context.targets), std::mem::take(&mut self.results));
        let response = match finished {
            Ok(finished) => fetch::respond(finished.session_id, &targets, &mut results, &finished.include),
            Err(code) => fetch::refuse(code),
        };
        // Of a request that names much, all this is much too.
        drop((targets, results));
        let pieces = wire::fetch::encode(self.version, self.correlation_id, response, |text| server.on_heap(text));
        self.conn.reply(self.place, pieces);
    }
}

/// Puts results where they belong; their bytes of records.
fn place_results(results: &mut [ReadResult], places: &[usize], read: Vec<ReadResult>) -> usize {
    let bytes = read.iter().map(ReadResult::bytes).sum();
    for (place, result) in places.iter().zip(read) {
        results[*place] = result;
    }
    bytes
}

#[derive(Default)]
struct Grown(Rc<Notify>);

impl Watcher for Grown {
    fn grown(&self) {
        self.0.notify();
    }
}

//! From a frame to the API that answers it. What needs only this core's image is answered here and now; the rest by a task.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::conn::Conn;
use super::long::{Holding, Turn};
use crate::api;
use crate::api::alter_configs::Altering;
use crate::base::error::ErrorCode;
use crate::rt::{Class, Rt};
use crate::shard::message::{Ids, Terms};
use crate::shard::op::DirSpace;
use crate::shard::{Image, Lane, MetadataRecord};
use crate::wire::WireError;
use crate::wire::codec::describe_configs_request::DescribeConfigsResource;
use crate::wire::codec::{
    AlterConfigsRequest, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeConfigsResponse, DescribeLogDirsRequest, DescribeTopicPartitionsRequest,
    Encode, IncrementalAlterConfigsRequest, InitProducerIdRequest, ListConfigResourcesRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, Request, decode,
};
use crate::wire::frame::{RequestHeader, parse_request, response_frame};
use crate::wire::versions::ApiKey;

/// How long a change of the metadata is waited for where the request does not say: less than clients wait for an answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Likewise where settings are changed, of a thousand topics perhaps.
const SETTINGS_WITHIN: Duration = Duration::from_secs(25);

/// The terms of a request that says how long (ms) its client waits. With 0 or less it is too late already, as in Kafka.
fn terms(timeout_ms: i32, bytes: usize) -> Terms {
    Terms { within: Duration::from_millis(timeout_ms.max(0) as u64), ..own_terms(bytes) }
}

/// The terms of one that does not.
pub(super) fn own_terms(bytes: usize) -> Terms {
    Terms { within: WITHIN, lane: Lane::Takes, bytes }
}

/// A longer answer is made in turn with the long requests, when there is memory for it.
pub(super) const LONG_ANSWER: usize = 64 << 10;

/// What the description of a resource costs of a turn's budget, in inflated bytes.
const RESOURCE_COST: usize = 32 << 10;

/// One request and the place of its response.
pub(super) struct Work<R: Rt> {
    pub(super) conn: Rc<Conn<R>>,
    pub(super) place: u64,
    /// Memory for what becomes of the request, and for the answer until that is made and charged.
    holding: Option<Holding<R>>,
    /// The turn of a long one.
    turn: Option<Turn<R>>,
    pub(super) api: ApiKey,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
}

/// A request that cannot be understood ends its connection, as Kafka does.
pub fn malformed(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Starts work on a frame (without its size). Its response takes the next place in the connection's order.
pub fn handle<R: Rt>(conn: &Rc<Conn<R>>, frame: Bytes) -> io::Result<()> {
    let (header, body) = parse_request(frame).map_err(malformed)?;
    let place = conn.reserve();
    if header.api_key == ApiKey::Produce.code() {
        return super::produce::handle(conn, place, &header, body).inspect_err(|_| conn.reply(place, Vec::new()));
    }
    let besides = if header.api_key == ApiKey::Fetch.code() { super::fetch::remembered(conn, header.api_version, &body) } else { 0 };
    let Some(holding) = conn.server.long.begin(body.len(), besides) else {
        start_in_turn(conn, place, header, body, besides);
        return Ok(());
    };
    // What cannot be decoded is not answered, but its place is not waited for either.
    start(conn, place, header, body, holding, None).inspect_err(|_| conn.reply(place, Vec::new()))
}

/// Starts a long request when its answer is the next to be sent, it is its turn, and there is memory
/// for it and for `besides` bytes more. Until then nothing more is read from its connection.
fn start_in_turn<R: Rt>(conn: &Rc<Conn<R>>, place: u64, header: RequestHeader, body: Bytes, besides: usize) {
    let unstarted = conn.unstarted();
    let conn = conn.clone();
    conn.server.rt.clone().spawn(Class::Foreground, async move {
        let begun = async {
            conn.room_for_answer(place).await;
            let turn = conn.server.long.turn().await;
            (turn, conn.server.long.room(body.len(), besides).await)
        };
        let Some((turn, room)) = conn.unless_closed(begun).await else { return };
        if let Err(e) = start(&conn, place, header, body, room, Some(turn)) {
            tracing::info!("{}: closed: {e}", conn.peer);
            conn.close();
        }
        drop(unstarted);
    });
}

/// `holding`: what becomes of the request, until it is answered. `turn`: that of a long one.
fn start<R: Rt>(
    conn: &Rc<Conn<R>>,
    place: u64,
    header: RequestHeader,
    body: Bytes,
    holding: Holding<R>,
    turn: Option<Turn<R>>,
) -> io::Result<()> {
    let Some(api) = ApiKey::from_code(header.api_key) else { return Err(malformed(WireError::UnknownApi(header.api_key))) };
    conn.server.rt.doing(api.name());
    if api == ApiKey::Fetch {
        return super::fetch::handle(conn, place, &header, body, holding);
    }
    let RequestHeader { api_version: version, correlation_id, client_id, .. } = header;
    let work = Work { conn: conn.clone(), place, holding: Some(holding), turn, api, version, correlation_id };
    let server = &conn.server;
    let (image, broker) = (server.shard.image(), server.broker());
    match api {
        ApiKey::Produce | ApiKey::Fetch => unreachable!("handled above"),
        ApiKey::ApiVersions if !api.accepted().contains(&version) => {
            // Told in the form of version 0, which every client can read (KIP-511).
            Work { version: 0, ..work }.reply(&api::api_versions::unsupported_version())
        }
        ApiKey::ApiVersions => {
            let request: ApiVersionsRequest = work.decode(body)?;
            work.reply(&api::api_versions::respond(&request, version))
        }
        ApiKey::DescribeCluster => {
            let request: DescribeClusterRequest = work.decode(body)?;
            work.reply(&api::describe_cluster::respond(&request, broker, work.listener()))
        }
        ApiKey::DescribeConfigs => describe_configs(work, body),
        ApiKey::DescribeTopicPartitions => {
            let request: DescribeTopicPartitionsRequest = work.decode(body)?;
            work.reply(&api::describe_topic_partitions::respond(&request, &image, broker))
        }
        ApiKey::ListConfigResources => {
            let request: ListConfigResourcesRequest = work.decode(body)?;
            work.reply(&api::list_config_resources::respond(&request, version, &image, broker))
        }
        ApiKey::FindCoordinator
        | ApiKey::JoinGroup
        | ApiKey::SyncGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::OffsetDelete
        | ApiKey::ListGroups
        | ApiKey::DescribeGroups
        | ApiKey::DeleteGroups
        | ApiKey::ConsumerGroupHeartbeat
        | ApiKey::ConsumerGroupDescribe => super::groups::handle(work, client_id.as_deref().unwrap_or_default(), body),
        ApiKey::Metadata => metadata(work, body),
        ApiKey::AlterConfigs => alter_configs::<R, AlterConfigsRequest>(work, body),
        ApiKey::IncrementalAlterConfigs => alter_configs::<R, IncrementalAlterConfigsRequest>(work, body),
        ApiKey::CreatePartitions => create_partitions(work, body),
        ApiKey::CreateTopics => create_topics(work, body),
        ApiKey::DeleteRecords => delete_records(work, body),
        ApiKey::DeleteTopics => delete_topics(work, body),
        ApiKey::DescribeLogDirs => describe_log_dirs(work, body),
        ApiKey::InitProducerId => init_producer_id(work, body),
        ApiKey::ListOffsets => list_offsets(work, body),
        ApiKey::OffsetForLeaderEpoch => offset_for_leader_epoch(work, body),
    }
}

impl<R: Rt> Work<R> {
    pub(super) fn decode<M: Request>(&self, body: Bytes) -> io::Result<M> {
        decode(body, self.version).map_err(malformed)
    }

    pub(super) fn listener(&self) -> &str {
        &self.conn.server.config.listeners[self.conn.listener].name
    }

    pub(super) fn reply(&self, response: &impl Encode) -> io::Result<()> {
        let frame = response_frame(self.api, self.version, self.correlation_id, response).map_err(malformed)?;
        self.conn.reply(self.place, vec![self.conn.server.on_heap(frame)]);
        Ok(())
    }

    /// Gives back what it holds, before it waits for others without end.
    pub(super) fn let_go(mut self) -> Work<R> {
        self.give_back();
        self
    }

    /// Likewise, until [`Work::take_turn`].
    pub(super) fn give_back(&mut self) {
        (self.holding, self.turn) = (None, None);
    }

    /// Answers when it is its turn, there is memory for an answer of about so many bytes, and the
    /// client has taken those before it.
    pub(super) fn at_length<F>(mut self, bytes: usize, task: F) -> io::Result<()>
    where
        F: AsyncFnOnce(&mut Work<R>) -> io::Result<()> + 'static,
    {
        let conn = self.conn.clone();
        conn.server.rt.clone().spawn(Class::Foreground, async move {
            let in_turn = async {
                conn.room_for_answer(self.place).await;
                self.take_turn(bytes).await;
                let done = task(&mut self).await;
                self.finish(|_| done);
            };
            conn.unless_closed(in_turn).await;
        });
        Ok(())
    }

    /// Waits for the turn of a long request, and for memory for an answer of so many bytes.
    pub(super) async fn take_turn(&mut self, bytes: usize) {
        // Who has both already holds enough for the answer. Without the turn nobody may hold what
        // those before it may wait for.
        if self.turn.is_none() || !self.holding.as_ref().is_some_and(Holding::is_room) {
            let long = &self.conn.server.long;
            self.holding = None;
            let turn = match self.turn.take() {
                Some(turn) => turn,
                None => long.turn().await,
            };
            self.holding = Some(long.room_of(bytes).await);
            self.turn = Some(turn);
        }
    }

    /// Answers when a task is done.
    pub(super) fn later<F>(mut self, task: F) -> io::Result<()>
    where
        F: AsyncFnOnce(&Work<R>) -> io::Result<()> + 'static,
    {
        self.turn = None;
        let rt = self.conn.server.rt.clone();
        rt.spawn(Class::Foreground, async move {
            let done = task(&self).await;
            self.finish(|_| done);
        });
        Ok(())
    }

    /// Has the controller shard decide on a change in steps, once the requests before it on its connection are answered: a client that does
    /// not wait for the deletion of a topic may create it anew. `failed` is the answer when that was not to be had in time.
    fn change<M: Encode + Send + 'static>(
        self,
        terms: Terms,
        decide: impl FnMut(&Image, &mut Ids, &mut usize) -> Option<(Vec<MetadataRecord>, M)> + Send + 'static,
        failed: impl FnOnce(ErrorCode) -> M + 'static,
    ) -> io::Result<()> {
        self.later(async move |work| {
            work.conn.room_for_answer(work.place).await;
            let answer = work.conn.server.shard.control_in_steps(terms, decide).await;
            work.reply(&answer.unwrap_or_else(failed))
        })
    }

    /// Answers when somebody else has come to a result, however long that takes: a connection that ends meanwhile is not kept.
    pub(super) fn when<T>(
        self,
        result: impl Future<Output = T> + 'static,
        answer: impl FnOnce(&Work<R>, T) -> io::Result<()> + 'static,
    ) -> io::Result<()> {
        let Work { conn, place, api, version, correlation_id, holding, turn } = self;
        drop(turn);
        let (rt, conn) = (conn.server.rt.clone(), Rc::downgrade(&conn));
        rt.spawn(Class::Foreground, async move {
            let result = result.await;
            let Some(conn) = conn.upgrade() else { return };
            Work { conn, place, holding, turn: None, api, version, correlation_id }.finish(|work| answer(work, result));
        });
        Ok(())
    }

    /// What cannot be answered ends the connection.
    fn finish(&self, answer: impl FnOnce(&Work<R>) -> io::Result<()>) {
        if let Err(e) = answer(self) {
            tracing::error!("{}: {:?} version {}: {e}", self.conn.peer, self.api, self.version);
            self.conn.close();
        }
    }
}

fn metadata<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let terms = own_terms(body.len());
    let request: MetadataRequest = work.decode(body)?;
    let server = work.conn.server.clone();
    let missing = api::metadata::plan(&request, work.version, &server.shard.image(), server.broker());
    let bytes = api::metadata::answer_bytes(&request, &server.shard.image());
    if missing.is_empty() && bytes < LONG_ANSWER {
        let (image, broker) = (server.shard.image(), server.broker());
        return work.reply(&api::metadata::respond(&request, work.version, &image, broker, work.listener()));
    }
    if missing.is_empty() {
        return work.at_length(bytes, async move |work| respond_metadata(work, &request).await);
    }
    work.later(async move |work| {
        work.conn.room_for_answer(work.place).await;
        let broker = server.broker().clone();
        let create = move |image: &_, ids: &mut Ids| (api::metadata::auto_create(image, &broker, ids.now, &missing, ids.random), ());
        // What could not be created is not there, and clients ask again.
        let _ = server.shard.control(terms, create).await;
        respond_metadata(work, &request).await
    })
}

/// Answers in slices: all topics may be asked for.
async fn respond_metadata<R: Rt>(work: &Work<R>, request: &MetadataRequest) -> io::Result<()> {
    let server = &work.conn.server;
    let (image, broker) = (server.shard.image(), server.broker());
    let mut answering = api::metadata::Answering::new(request, broker, work.listener());
    let step = |budget: &mut usize| answering.step(request, work.version, &image, broker, budget);
    work.reply(&server.rt.slices().run(step).await)
}

fn describe_configs<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let mut request: DescribeConfigsRequest = work.decode(body)?;
    api::describe_configs::distinct(&mut request);
    work.at_length(api::describe_configs::RESOURCE_BYTES, async move |work| {
        let server = work.conn.server.clone();
        let single = |n: usize| {
            let mut response = DescribeConfigsResponse::default();
            let resource: &DescribeConfigsResource = &request.resources[n];
            response.results.push(api::describe_configs::describe(resource, &request, &server.shard.image(), server.broker()));
            response
        };
        super::parts::reply(work, request.resources.len(), RESOURCE_COST, single).await
    })
}

fn create_topics<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let bytes = body.len();
    let request: Arc<CreateTopicsRequest> = Arc::new(work.decode(body)?);
    let (terms, asked) = (terms(request.timeout_ms, bytes), request.clone());
    let broker = work.conn.server.broker().clone();
    let mut deciding = api::create_topics::Deciding::default();
    let create =
        move |image: &_, ids: &mut Ids, budget: &mut usize| deciding.step(&request, image, &broker, (ids.now, &mut *ids.random), budget);
    work.change(terms, create, move |code| api::create_topics::failed(&asked, code))
}

fn create_partitions<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let bytes = body.len();
    let request: Arc<CreatePartitionsRequest> = Arc::new(work.decode(body)?);
    let (terms, asked) = (terms(request.timeout_ms, bytes), request.clone());
    let broker = work.conn.server.broker().clone();
    let mut deciding = api::create_partitions::Deciding::default();
    let create = move |image: &_, _: &mut Ids, budget: &mut usize| deciding.step(&request, image, &broker, budget);
    work.change(terms, create, move |code| api::create_partitions::failed(&asked, code))
}

fn delete_topics<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let (bytes, version) = (body.len(), work.version);
    let request: Arc<DeleteTopicsRequest> = Arc::new(work.decode(body)?);
    let (terms, asked) = (Terms { lane: Lane::Frees, ..terms(request.timeout_ms, bytes) }, request.clone());
    let broker = work.conn.server.broker().clone();
    let mut deciding = api::delete_topics::Deciding::default();
    let delete = move |image: &_, _: &mut Ids, budget: &mut usize| deciding.step(&request, version, image, &broker, budget);
    work.change(terms, delete, move |code| api::delete_topics::failed(&asked, version, code))
}

fn alter_configs<R: Rt, A>(work: Work<R>, body: Bytes) -> io::Result<()>
where
    A: Request + Altering<Response: Encode + Send + 'static> + Send + Sync + 'static,
{
    let terms = Terms { within: SETTINGS_WITHIN, ..own_terms(body.len()) };
    let request: Arc<A> = Arc::new(work.decode(body)?);
    let (broker, asked) = (work.conn.server.broker().clone(), request.clone());
    let mut deciding = api::alter_configs::Deciding::<A>::default();
    let alter = move |image: &_, _: &mut Ids, budget: &mut usize| deciding.step(&request, image, &broker, budget);
    work.change(terms, alter, move |code| api::alter_configs::failed(&*asked, code))
}

fn init_producer_id<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let terms = own_terms(body.len());
    let request: InitProducerIdRequest = work.decode(body)?;
    if let Err(code) = api::init_producer_id::check(&request) {
        return work.reply(&api::init_producer_id::respond(Err(code)));
    }
    if let Some(id) = work.conn.server.producer_ids.borrow_mut().take() {
        return work.reply(&api::init_producer_id::respond(Ok(id)));
    }
    work.later(async move |work| {
        use api::init_producer_id::{NO_BLOCK, PRODUCER_ID_BLOCK, allocate_producer_ids};
        let server = &work.conn.server;
        let allocate = |image: &_, _: &mut Ids| {
            let (first, record) = allocate_producer_ids(image, PRODUCER_ID_BLOCK);
            (vec![record], first)
        };
        let Ok(first) = server.shard.control(terms, allocate).await else {
            return work.reply(&api::init_producer_id::respond(Err(NO_BLOCK)));
        };
        let id = {
            let mut ids = server.producer_ids.borrow_mut();
            ids.refill(first, PRODUCER_ID_BLOCK);
            ids.take()
        };
        work.reply(&api::init_producer_id::respond(id.ok_or(ErrorCode::UnknownServerError)))
    })
}

fn list_offsets<R: Rt>(mut work: Work<R>, body: Bytes) -> io::Result<()> {
    // Look-ups wait for memory, and nobody who does so may hold some.
    work.holding = None;
    let request: ListOffsetsRequest = work.decode(body)?;
    let items = api::list_offsets::plan(&request, work.version, &work.conn.server.shard.image());
    work.later(async move |work| {
        let shard = &work.conn.server.shard;
        let results = ask_owners(items, |item| shard.owner_of(&item.key), async |owner, items| shard.offsets(owner, items).await).await;
        work.reply(&api::list_offsets::respond(&request, work.version, &shard.image(), results))
    })
}

fn delete_records<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let request: DeleteRecordsRequest = work.decode(body)?;
    let items = api::delete_records::plan(&request, &work.conn.server.shard.image());
    work.later(async move |work| {
        let shard = &work.conn.server.shard;
        let ask = async |owner, items| shard.delete_records(owner, items).await;
        let results = ask_owners(items, |item| shard.owner_of(&item.key), ask).await;
        work.reply(&api::delete_records::respond(&request, &shard.image(), results))
    })
}

fn describe_log_dirs<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let request: DescribeLogDirsRequest = work.decode(body)?;
    work.later(async move |work| {
        let server = &work.conn.server;
        let sizes = server.shard.sizes().await;
        let space = |dir: &PathBuf| DirSpace {
            log_dir: dir.display().to_string(),
            shown: std::path::absolute(dir).unwrap_or_else(|_| dir.clone()).display().to_string(),
            bytes: server.rt.space(dir).ok(),
        };
        let dirs: Vec<DirSpace> = server.config.log_dirs.iter().map(space).collect();
        work.reply(&api::describe_log_dirs::respond(&request, &dirs, &sizes))
    })
}

fn offset_for_leader_epoch<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let request: OffsetForLeaderEpochRequest = work.decode(body)?;
    let items = api::offset_for_leader_epoch::plan(&request, &work.conn.server.shard.image());
    work.later(async move |work| {
        let shard = &work.conn.server.shard;
        let results = ask_owners(items, |item| shard.owner_of(&item.key), async |owner, items| shard.epochs(owner, items).await).await;
        work.reply(&api::offset_for_leader_epoch::respond(&request, results))
    })
}

/// Asks the cores that own the items' partitions, one call each; the answers with the items' places in the request.
async fn ask_owners<T, A>(
    items: Vec<(usize, T)>,
    owner: impl Fn(&T) -> usize,
    ask: impl AsyncFn(usize, Vec<T>) -> Vec<A>,
) -> Vec<(usize, A)> {
    let mut groups: BTreeMap<usize, (Vec<usize>, Vec<T>)> = BTreeMap::new();
    for (place, item) in items {
        let (places, items) = groups.entry(owner(&item)).or_default();
        places.push(place);
        items.push(item);
    }
    let mut answers = Vec::new();
    for (owner, (places, items)) in groups {
        answers.extend(places.into_iter().zip(ask(owner, items).await));
    }
    answers
}

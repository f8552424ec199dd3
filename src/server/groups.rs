//! Requests that concern groups: sent to the core whose coordinator looks after the group, answered when that replies.

use std::io;

use bytes::{Bytes, BytesMut};

use super::dispatch::Work;
use crate::api;
use crate::base::error::ErrorCode;
use crate::base::limits::GROUPS_PER_REQUEST;
use crate::rt::Rt;
use crate::shard::group_op::{Answer, Op, Reply};
use crate::wire::WireError;
use crate::wire::codec::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, DeleteGroupsRequest, DescribeGroupsRequest, Encode,
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, StrBytes, SyncGroupRequest,
};
use crate::wire::parts::Parts;
use crate::wire::versions::ApiKey;

/// Groups of one request that are asked about at a time; keys of FindCoordinator that are answered at once.
const AT_ONCE: usize = 256;
/// Bytes of the heap that the answer for one key of FindCoordinator takes, about.
const COORDINATOR_BYTES: usize = 256;
/// Memory for a list of all groups: that of some thousands.
const LIST_BYTES: usize = 1 << 20;

/// Starts work on a request of one of these APIs.
pub(super) fn handle<R: Rt>(work: Work<R>, client_id: &str, body: Bytes) -> io::Result<()> {
    let version = work.version;
    match work.api {
        ApiKey::FindCoordinator => find_coordinator(work, body),
        ApiKey::JoinGroup => {
            let request: JoinGroupRequest = work.decode(body)?;
            let op = api::join_group::plan(&request, version, client_id, work.conn.peer.ip());
            let JoinGroupRequest { group_id, member_id, .. } = request;
            // It may wait for other members for long, and nothing of it is kept here.
            ask(work.let_go(), &group_id, op, move |reply| api::join_group::respond(reply, version, &member_id))
        }
        ApiKey::SyncGroup => {
            let request: SyncGroupRequest = work.decode(body)?;
            ask(work.let_go(), &request.group_id, api::sync_group::plan(&request, version), api::sync_group::respond)
        }
        ApiKey::Heartbeat => {
            let request: HeartbeatRequest = work.decode(body)?;
            ask(work, &request.group_id, api::heartbeat::plan(&request), api::heartbeat::respond)
        }
        ApiKey::LeaveGroup => {
            let request: LeaveGroupRequest = work.decode(body)?;
            let op = api::leave_group::plan(&request, version);
            let group = request.group_id.clone();
            ask(work, &group, op, move |reply| api::leave_group::respond(reply, &request, version))
        }
        ApiKey::OffsetCommit => {
            let request: OffsetCommitRequest = work.decode(body)?;
            let mut plan = api::offset_commit::plan(&request, version, &work.conn.server.shard.image());
            // Without anything to commit nobody is asked, and the code is not looked at.
            let op = plan.op.take().ok_or(ErrorCode::None);
            let group = request.group_id.clone();
            ask(work, &group, op, move |reply| api::offset_commit::respond(&request, &plan, reply))
        }
        ApiKey::OffsetDelete => {
            let request: OffsetDeleteRequest = work.decode(body)?;
            let image = work.conn.server.shard.image();
            let op = api::offset_delete::plan(&request, &image);
            let group = request.group_id.clone();
            ask(work, &group, op, move |reply| api::offset_delete::respond(&request, &image, reply))
        }
        ApiKey::OffsetFetch => {
            let mut request: OffsetFetchRequest = work.decode(body)?;
            api::groups::distinct(&mut request.groups, |group| &group.group_id);
            let image = work.conn.server.shard.image();
            let groups = std::mem::take(&mut request.groups);
            let batches = in_batches(&request, groups, |request, groups| request.groups = groups);
            let plan = {
                let image = image.clone();
                move |request: &_| api::offset_fetch::plan(request, version, &image)
            };
            ask_all(work, batches, plan, move |request, replies| api::offset_fetch::respond(request, version, &image, replies))
        }
        ApiKey::DescribeGroups => {
            let mut request: DescribeGroupsRequest = work.decode(body)?;
            api::groups::distinct(&mut request.groups, |group| group);
            let groups = std::mem::take(&mut request.groups);
            let batches = in_batches(&request, groups, |request, groups| request.groups = groups);
            let plan = |request: &DescribeGroupsRequest| each(&request.groups, Op::Describe);
            ask_all(work, batches, plan, move |request, replies| api::describe_groups::respond(request, version, replies))
        }
        ApiKey::DeleteGroups => {
            let mut request: DeleteGroupsRequest = work.decode(body)?;
            api::groups::distinct(&mut request.groups_names, |group| group);
            let groups = std::mem::take(&mut request.groups_names);
            let batches = in_batches(&request, groups, |request, groups| request.groups_names = groups);
            let plan = |request: &DeleteGroupsRequest| each(&request.groups_names, Op::Delete);
            ask_all(work, batches, plan, api::delete_groups::respond)
        }
        ApiKey::ConsumerGroupHeartbeat => {
            let request: ConsumerGroupHeartbeatRequest = work.decode(body)?;
            let respond = api::consumer_group_heartbeat::respond;
            if !work.conn.server.broker().consumer_protocol {
                return work.reply(&respond(Err(ErrorCode::UnsupportedVersion)));
            }
            match api::consumer_group_heartbeat::plan(&request, version, client_id, work.conn.peer.ip()) {
                Ok(op) => ask(work, &request.group_id, Ok(op), respond),
                Err(refusal) => work.reply(&respond(Ok(Answer::Heard(Err(refusal))))),
            }
        }
        ApiKey::ConsumerGroupDescribe => {
            let mut request: ConsumerGroupDescribeRequest = work.decode(body)?;
            api::groups::distinct(&mut request.group_ids, |group| group);
            let image = work.conn.server.shard.image();
            let enabled = work.conn.server.broker().consumer_protocol;
            let groups = std::mem::take(&mut request.group_ids);
            let batches = in_batches(&request, groups, |request, groups| request.group_ids = groups);
            let plan = move |request: &_| api::consumer_group_describe::plan(request, enabled);
            let respond = move |request: &_, replies| api::consumer_group_describe::respond(request, version, &image, enabled, replies);
            ask_all(work, batches, plan, respond)
        }
        ApiKey::ListGroups => {
            let request: ListGroupsRequest = work.decode(body)?;
            let (states, types) = api::list_groups::filters(&request);
            // It may be a short request with a long answer, in which all groups stand.
            work.at_length(LIST_BYTES, async move |work| {
                let listed = work.conn.server.shard.list_groups(states, types).await;
                work.reply(&api::list_groups::respond(listed))
            })
        }
        other => unreachable!("{} is handled elsewhere", other.name()),
    }
}

/// The topic of the coordinators is created when the first one is looked for.
fn find_coordinator<R: Rt>(work: Work<R>, body: Bytes) -> io::Result<()> {
    let terms = super::dispatch::own_terms(body.len());
    let request: FindCoordinatorRequest = work.decode(body)?;
    let server = work.conn.server.clone();
    let respond = move |work: &Work<R>, request: &FindCoordinatorRequest| {
        let server = &work.conn.server;
        work.reply(&api::find_coordinator::respond(request, work.version, &server.shard.image(), server.broker(), work.listener()))
    };
    let keys = request.coordinator_keys.len();
    if keys > AT_ONCE && !api::find_coordinator::needs_topic(&request, &server.shard.image()) {
        return work.at_length(keys * COORDINATOR_BYTES, async move |work| respond(work, &request));
    }
    if !api::find_coordinator::needs_topic(&request, &server.shard.image()) {
        return respond(&work, &request);
    }
    work.later(async move |work| {
        let broker = server.broker().clone();
        let create = move |image: &_, ids: &mut crate::shard::message::Ids| {
            (api::groups::create_offsets_topic(image, &broker, ids.now, ids.random), ())
        };
        // Without the topic no coordinator is available, which clients ask again after.
        let _ = server.shard.control(terms, create).await;
        respond(work, &request)
    })
}

/// Asks a group's coordinator, unless the request is refused before.
fn ask<R: Rt, M: Encode>(
    work: Work<R>,
    group: &StrBytes,
    op: Result<Op, ErrorCode>,
    respond: impl FnOnce(Reply) -> M + 'static,
) -> io::Result<()> {
    match op {
        Err(code) => work.reply(&respond(Err(code))),
        Ok(op) => {
            // Sent now: what one connection asks keeps its order.
            let reply = work.conn.server.shard.group(group, op);
            work.when(reply, |work, reply| work.reply(&respond(reply)))
        }
    }
}

/// A request, without its groups, as several with a part of the groups each; as one if they are few or none.
fn in_batches<T, Q: Clone>(request: &Q, groups: Vec<T>, set: impl Fn(&mut Q, Vec<T>)) -> Vec<(usize, Q)> {
    let (mut batches, mut groups) = (Vec::new(), groups.into_iter());
    loop {
        let some: Vec<T> = groups.by_ref().take(AT_ONCE).collect();
        if some.is_empty() && !batches.is_empty() {
            return batches;
        }
        let (count, mut one) = (some.len(), request.clone());
        set(&mut one, some);
        batches.push((count, one));
    }
}

/// Asks the coordinators of several groups, of one batch after the other.
fn ask_all<R: Rt, M: Encode + Default, N: AsRef<str> + 'static, Q: 'static>(
    work: Work<R>,
    mut batches: Vec<(usize, Q)>,
    plan: impl Fn(&Q) -> Vec<(N, Op)> + 'static,
    respond: impl Fn(&Q, Vec<Reply>) -> M + 'static,
) -> io::Result<()> {
    let count = batches.iter().map(|(groups, _)| groups).sum::<usize>();
    if count > GROUPS_PER_REQUEST {
        return Err(super::dispatch::malformed(WireError::TooLarge("number of groups")));
    }
    let shard = work.conn.server.shard.clone();
    // Sent now: what one connection asks keeps its order.
    let ask = move |request: &Q| -> Vec<_> { plan(request).into_iter().map(|(group, op)| shard.group(group.as_ref(), op)).collect() };
    if let [(_, request)] = &batches[..] {
        let replies = ask(request);
        let request = batches.remove(0).1;
        return work.when(all(replies), move |work, replies| work.reply(&respond(&request, replies)));
    }
    work.later(async move |work| {
        work.conn.room_for_answer(work.place).await;
        // What is told of many takes much memory: one such request at a time, each part in its final form.
        let _turn = work.conn.server.many_groups.turn().await;
        let memory = work.conn.server.rt.memory();
        let parts = Parts::new(work.api, work.version, work.correlation_id, &M::default()).map_err(super::dispatch::malformed)?;
        let (mut pieces, mut bytes) = (vec![Bytes::new()], 0);
        for (groups, request) in batches {
            let replies = all(ask(&request)).await;
            let mut piece = BytesMut::new();
            bytes += parts.put(&respond(&request, replies), groups, &mut piece).map_err(super::dispatch::malformed)?;
            pieces.push(memory.charged(piece.freeze()));
        }
        pieces[0] = parts.begin(count, bytes).map_err(super::dispatch::malformed)?.freeze();
        let mut end = BytesMut::new();
        parts.end(&mut end);
        pieces.push(end.freeze());
        work.conn.reply(work.place, pieces);
        Ok(())
    })
}

async fn all(replies: Vec<impl Future<Output = Reply>>) -> Vec<Reply> {
    let mut all = Vec::with_capacity(replies.len());
    for reply in replies {
        all.push(reply.await);
    }
    all
}

fn each(groups: &[StrBytes], op: Op) -> Vec<(String, Op)> {
    groups.iter().map(|group| (group.as_str().to_owned(), op.clone())).collect()
}

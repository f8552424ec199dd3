"""Consumer groups: Kafka's Java consumer and tools, librdkafka and kafka-python, over restarts and kill -9; then requests one by one."""

import contextlib
import glob
import os
import re
import struct
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from harness import KAFKA, Broker, eventually, in_threads, java
from member import Java, Member
from raw import Closed, Connection

OVERRIDES = {"group.initial.rebalance.delay.ms": 300}
GROUPS, CONSUMER, OFFSETS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "org.apache.kafka.tools.consumer.ConsoleConsumer", "org.apache.kafka.tools.GetOffsetShell"
NO_TOPIC = uuid.UUID(int=1)
COOPERATIVE = {"librdkafka": {"partition_assignment_strategy": "cooperative-sticky"}, "java": ["--assignment-strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"]}


def fill(broker, topic, partitions, records, **config):
    """A topic with `records` records, numbered, round robin."""
    with Connection(broker.address) as c:
        c.create_topic(topic, partitions, **config)
    more(broker, topic, partitions, 0, records)


def more(broker, topic, partitions, start, records):
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for n in range(start, start + records):
        producer.produce(topic, b"%d" % n, partition=n % partitions)
    assert producer.flush(60) == 0


def groups(broker, *args):
    code, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, *args)
    assert code == 0, (args, code, out, err)
    return out, err


def table(out):
    """Rows of a tool's table as lists."""
    return [line.split() for line in out.splitlines() if line.strip()]


def shared(members, partitions):
    """Whether every partition has one member, and each member its fair part."""
    owned = [p for m in members for p in m.assigned]
    return sorted(owned) == list(range(partitions)) and max(len(m.assigned) for m in members) - min(len(m.assigned) for m in members) <= 1


def settled(members, partitions):
    eventually(lambda: shared(members, partitions), 60)


def values_read(members):
    return {int(value) for m in members for _, _, value in m.reads}


def finish(members):
    for member in members:
        member.kill()


def walk_through(broker, topic, make):
    """Three members on three partitions; one leaves, one is killed; every record is read, commits never go back."""
    fill(broker, topic, 3, 300)
    members = [make() for _ in range(3)]
    try:
        settled(members, 3)
        eventually(lambda: values_read(members) >= set(range(300)))
        members[0].leave()
        settled(members[1:], 3)
        more(broker, topic, 3, 300, 300)
        members[1].kill()
        settled(members[2:], 3)
        eventually(lambda: values_read(members) >= set(range(600)))
        commits = [c for m in members for c in m.commits]
        assert commits, "nothing was committed"
        eventually(lambda: committed(broker, topic, f"{topic}-group", 3) == [200, 200, 200])
    finally:
        finish(members)


def committed(broker, topic, group, partitions):
    """Offsets by partition, as a client sees them; Kafka's coordinators take a moment after a restart."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "log_level": 2})

    def once():
        with contextlib.suppress(KafkaException):
            return [p.offset for p in consumer.committed([TopicPartition(topic, p) for p in range(partitions)], timeout=30)]

    try:
        return eventually(once)
    finally:
        consumer.close()


def test_librdkafka(broker):
    walk_through(broker, "lr", lambda: Member("librdkafka", broker, "lr-group", "lr", session_timeout_ms=6000, heartbeat_interval_ms=500))


def test_librdkafka_cooperative(broker):
    more_settings = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 500, **COOPERATIVE["librdkafka"]}
    walk_through(broker, "lc", lambda: Member("librdkafka", broker, "lc-group", "lc", **more_settings))


def test_kafka_python(broker):
    walk_through(broker, "kp", lambda: Member("kafka-python", broker, "kp-group", "kp", session_timeout_ms=6000, heartbeat_interval_ms=500))


def test_java(broker):
    walk_through(broker, "jv", lambda: Java(broker, "jv-group", "jv", "--session-timeout", "6000"))


def test_java_cooperative(broker):
    walk_through(broker, "jc", lambda: Java(broker, "jc-group", "jc", "--session-timeout", "6000", *COOPERATIVE["java"]))


def test_clients_of_all_kinds_in_one_group(broker):
    """They agree on the range assignor."""
    fill(broker, "mixed", 6, 60)
    members = [
        Member("librdkafka", broker, "mixed-group", "mixed", partition_assignment_strategy="range"), Member("kafka-python", broker, "mixed-group", "mixed"),
        Java(broker, "mixed-group", "mixed", "--assignment-strategy", "org.apache.kafka.clients.consumer.RangeAssignor"),
    ]
    try:
        settled(members, 6)
        eventually(lambda: values_read(members) >= set(range(60)))
    finally:
        finish(members)


def test_static_members_restart_without_a_rebalance(broker):
    fill(broker, "static", 2, 10)
    settings = {"session_timeout_ms": 30000, "heartbeat_interval_ms": 500}
    members = [Member("librdkafka", broker, "static-group", "static", group_instance_id=f"i{n}", **settings) for n in range(2)]
    try:
        settled(members, 2)
        before, kept = members[0].assigned, members[1].rebalances
        members[0].kill()
        members[0] = Member("librdkafka", broker, "static-group", "static", group_instance_id="i0", **settings)
        eventually(lambda: members[0].assigned == before)
        assert members[1].rebalances == kept, "the other one noticed"
        out, _ = groups(broker, "--describe", "--group", "static-group", "--members")
        assert sorted(row[2] for row in table(out)[1:]) == ["i0", "i1"] or "i0" in out, out
    finally:
        finish(members)


def offsets_survive(stop):
    with Broker(group_initial_rebalance_delay_ms=100) as broker:
        fill(broker, "kept", 3, 30)
        member = Member("librdkafka", broker, "kept-group", "kept", session_timeout_ms=6000, heartbeat_interval_ms=500)
        try:
            eventually(lambda: len(member.reads) == 30 and member.commits)
            eventually(lambda: committed(broker, "kept", "kept-group", 3) == [10, 10, 10])
            stop(broker)
            broker.start()
            assert committed(broker, "kept", "kept-group", 3) == [10, 10, 10]
            more(broker, "kept", 3, 30, 30)
            eventually(lambda: len(member.reads) >= 60)
            assert len(member.reads) == 60, "nothing is read twice, as the member and its offsets are remembered"
        finally:
            member.kill()


def test_offsets_survive_a_restart():
    offsets_survive(Broker.terminate)


def test_offsets_survive_a_kill():
    offsets_survive(Broker.kill)


def test_the_silent_lose_their_partitions_and_not_before(broker):
    fill(broker, "silent", 2, 2)
    first, second = (Member("librdkafka", broker, "silent-group", "silent", session_timeout_ms=8000, heartbeat_interval_ms=500) for _ in range(2))
    try:
        settled([first, second], 2)
        killed = time.monotonic()
        first.kill()
        settled([second], 2)
        assert time.monotonic() - killed > 7, "before its session was over"
    finally:
        finish([first, second])


def test_groups_tool(broker):
    fill(broker, "tool", 3, 30)
    member = Member("librdkafka", broker, "tool-group", "tool", client_id="me")
    try:
        eventually(lambda: committed(broker, "tool", "tool-group", 3) == [10, 10, 10])
        out, _ = groups(broker, "--list")
        assert "tool-group" in out.splitlines(), out
        out, _ = groups(broker, "--list", "--state", "stable")
        assert ["tool-group", "Stable"] in table(out), out
        out, _ = groups(broker, "--list", "--type", "classic")
        assert ["tool-group", "Classic"] in table(out), out

        out, _ = groups(broker, "--describe", "--group", "tool-group")
        rows = table(out)
        assert rows[0] == "GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID".split(), out
        assert sorted(r[:6] for r in rows[1:]) == [["tool-group", "tool", str(p), "10", "10", "0"] for p in range(3)], out
        assert {r[8] for r in rows[1:]} == {"me"} and {r[7] for r in rows[1:]} == {"/127.0.0.1"}, out
        out, _ = groups(broker, "--describe", "--group", "tool-group", "--members", "--verbose")
        assert len(table(out)) == 2 and "tool:0,1,2" in out.replace(" ", ""), out
        out, _ = groups(broker, "--describe", "--group", "tool-group", "--state")
        row = table(out)[1]
        assert row[0] == "tool-group" and "range" in row and "Stable" in row and row[-1] == "1", out

        out, err = groups(broker, "--reset-offsets", "--group", "tool-group", "--to-earliest", "--topic", "tool", "--execute")
        assert "Assignments can only be reset if the group 'tool-group' is inactive, but the current state is Stable." in out + err, (out, err)
        out, err = groups(broker, "--delete", "--group", "tool-group")
        assert "Group 'tool-group' could not be deleted due to:" in out + err and "The group is not empty." in out + err, (out, err)
        _, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, "--delete-offsets", "--group", "tool-group", "--topic", "tool")
        assert "while the consumer group is actively subscribed to it" in out + err, (out, err)
        member.leave()

        _, err = groups(broker, "--describe", "--group", "tool-group")
        assert "Consumer group 'tool-group' has no active members." in err, err
        out, _ = groups(broker, "--reset-offsets", "--group", "tool-group", "--shift-by", "-3", "--topic", "tool:1", "--execute")
        assert table(out) == [["GROUP", "TOPIC", "PARTITION", "NEW-OFFSET"], ["tool-group", "tool", "1", "7"]], out
        out, _ = groups(broker, "--reset-offsets", "--group", "tool-group", "--to-earliest", "--all-topics", "--dry-run")
        assert [r[-1] for r in table(out)[1:]] == ["0", "0", "0"], out
        assert committed(broker, "tool", "tool-group", 3) == [10, 7, 10]
        out, err = groups(broker, "--delete-offsets", "--group", "tool-group", "--topic", "tool:1")
        assert "Successful" in out, (out, err)
        assert committed(broker, "tool", "tool-group", 3)[1] == -1001
        out, _ = groups(broker, "--delete", "--group", "tool-group")
        assert out.strip() == "Deletion of requested consumer groups ('tool-group') was successful.", out
        out, err = groups(broker, "--delete", "--group", "tool-group")
        assert "The group id does not exist." in out + err, (out, err)
        assert "tool-group" not in groups(broker, "--list")[0]
    finally:
        member.kill()


def test_console_consumer_and_get_offsets(broker):
    fill(broker, "console", 3, 30)

    def consume(*args):
        code, out, err = java(CONSUMER, "--bootstrap-server", broker.bootstrap, "--topic", "console", "--group", "console-group", "--timeout-ms", "15000", *args)
        return sorted(map(int, out.split())), err

    first, err = consume("--from-beginning", "--max-messages", "30")
    assert first == list(range(30)), (first, err)
    more(broker, "console", 3, 30, 6)
    second, err = consume("--from-beginning", "--max-messages", "6")
    assert second == list(range(30, 36)), (second, err)
    code, out, err = java(OFFSETS, "--bootstrap-server", broker.bootstrap, "--topic", "console")
    assert (code, out) == (0, "console:0:12\nconsole:1:12\nconsole:2:12\n"), (code, out, err)


def test_dump_log_decodes_the_records():
    with Broker(group_initial_rebalance_delay_ms=100, offsets_topic_num_partitions=4) as broker:
        fill(broker, "dumped", 1, 5)
        member = Member("librdkafka", broker, "dumped-group", "dumped", client_id="me")
        eventually(lambda: committed(broker, "dumped", "dumped-group", 1) == [5])
        member.leave()
        broker.terminate()
        logs = [f for f in sorted(glob.glob(f"{broker.data}/__consumer_offsets-*/*.log")) if os.path.getsize(f)]
        assert len(glob.glob(f"{broker.data}/__consumer_offsets-*")) == 4 and len(logs) == 1, logs
        code, out, err = java("org.apache.kafka.tools.DumpLogSegments", "--files", logs[0], "--offsets-decoder")
        assert code == 0 and "isvalid: false" not in out, (code, out, err)
        assert re.search(r'key: {"type":"1","data":{"group":"dumped-group","topic":"dumped","partition":0}} payload: {"version":"4","data":{"offset":5,"leaderEpoch":0,', out), out
        assert re.search(r'"protocolType":"consumer","generation":1,"protocol":"range","leader":"me-[0-9a-f-]{36}".*"clientHost":"/127.0.0.1"', out), out
        assert re.search(r'"generation":2,"protocol":null,"leader":null,"currentStateTimestamp":\d+,"members":\[\]', out), out


# Requests one by one.


def find(c, group):
    """Until the coordinator is there: Kafka creates its topic in the background."""
    return eventually(lambda: c.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": [group]}).Coordinators[0].ErrorCode == 0)


def subscription(topic):
    return struct.pack(">hih", 0, 1, len(topic)) + topic.encode() + struct.pack(">i", -1)


def join_body(group, topic, member_id="", instance=None, session_ms=10000, protocol_type="consumer", strategies=("range",)):
    protocols = [{"Name": s, "Metadata": subscription(topic)} for s in strategies]
    return {"GroupId": group, "SessionTimeoutMs": session_ms, "RebalanceTimeoutMs": 10000, "MemberId": member_id, "GroupInstanceId": instance, "ProtocolType": protocol_type, "Protocols": protocols}


def call_until(c, name, version, body, code_of=lambda a: a.ErrorCode):
    """Repeats what the coordinator refuses because it has only just begun (Kafka's)."""
    return eventually(lambda: [a for a in [c.call(name, version, body)] if code_of(a) not in (14, 15, 16)])[0]


def join(c, group, topic, version=9, **more):
    """Joins as a client does; the answer to the second request."""
    first = call_until(c, "JoinGroup", version, join_body(group, topic, **more))
    if first.ErrorCode != 79:
        return first
    return c.call("JoinGroup", version, join_body(group, topic, **{**more, "member_id": first.MemberId}))


def sync(c, group, joined, version=5):
    body = {"GroupId": group, "GenerationId": joined.GenerationId, "MemberId": joined.MemberId, "ProtocolType": "consumer", "ProtocolName": joined.ProtocolName}
    body["Assignments"] = [{"MemberId": m.MemberId, "Assignment": b"for " + m.MemberId.encode()} for m in joined.Members]
    return c.call("SyncGroup", version, body)


def commit_body(group, topic, offset, member="", generation=-1, metadata="", partitions=(0,), topic_id=None):
    name = {"TopicId": topic_id} if topic_id else {"Name": topic}
    parts = [{"PartitionIndex": p, "CommittedOffset": offset, "CommittedLeaderEpoch": 0, "CommittedMetadata": metadata} for p in partitions]
    return {"GroupId": group, "GenerationIdOrMemberEpoch": generation, "MemberId": member, "Topics": [{**name, "Partitions": parts}]}


def commit(c, group, topic, offset, version=8, **more):
    """The partitions' error codes, by partition."""
    answer = call_until(c, "OffsetCommit", version, commit_body(group, topic, offset, **more), lambda a: max((p.ErrorCode for p in a.Topics[0].Partitions if p.ErrorCode in (14, 15, 16)), default=0))
    return [p.ErrorCode for p in sorted(answer.Topics[0].Partitions, key=lambda p: p.PartitionIndex)]


def fetch(c, group, topics, version=8):
    groups = [{"GroupId": group, "Topics": topics, "MemberEpoch": -1}]
    return call_until(c, "OffsetFetch", version, {"Groups": groups}, lambda a: a.Groups[0].ErrorCode).Groups[0]


def test_find_coordinator(broker):
    with Connection(broker.address) as c:
        find(c, "g")
        answer = c.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": ["g", "h"]})
        assert [(a.Key, a.ErrorCode, a.Port) for a in answer.Coordinators] == [("g", 0, broker.port), ("h", 0, broker.port)], answer
        for version in range(4):
            answer = c.call("FindCoordinator", version, {"Key": "g"})
            assert (answer.ErrorCode, answer.Port) == (0, broker.port), (version, answer)
        topic = c.call("Metadata", 12, {"Topics": [{"Name": "__consumer_offsets"}]}).Topics[0]
        assert (topic.ErrorCode, topic.IsInternal, len(topic.Partitions)) == (0, True, 50), topic


def test_joining_and_syncing(broker):
    with Connection(broker.address) as c, Connection(broker.address) as d:
        c.create_topic("raw-join", 2)
        find(c, "rj")
        for version in (4, 6, 9):
            first = call_until(c, "JoinGroup", version, join_body("rj", "raw-join"))
            assert first.ErrorCode == 79 and re.fullmatch(r"raw-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first.MemberId), first
            assert (first.GenerationId, first.Leader, first.Members) == (-1, "", []), first
            c.call("LeaveGroup", 3, {"GroupId": "rj", "Members": [{"MemberId": first.MemberId}]})
        joined = join(c, "rj", "raw-join")
        assert (joined.ErrorCode, joined.GenerationId, joined.ProtocolType, joined.ProtocolName) == (0, 1, "consumer", "range"), joined
        assert (joined.Leader, [m.MemberId for m in joined.Members], joined.SkipAssignment) == (joined.MemberId, [joined.MemberId], False), joined
        assert joined.Members[0].Metadata == subscription("raw-join"), joined
        me = {"GroupId": "rj", "GenerationId": 1, "MemberId": joined.MemberId}
        assert commit(c, "rj", "raw-join", 1, member=joined.MemberId, generation=1) == [27], "REBALANCE_IN_PROGRESS before the assignments"
        answer = sync(c, "rj", joined)
        assert (answer.ErrorCode, answer.Assignment, answer.ProtocolName) == (0, b"for " + joined.MemberId.encode(), "range"), answer
        assert c.call("Heartbeat", 4, me).ErrorCode == 0
        assert c.call("Heartbeat", 4, {**me, "GenerationId": 2}).ErrorCode == 22
        assert c.call("Heartbeat", 4, {**me, "MemberId": "x"}).ErrorCode == 25
        assert c.call("Heartbeat", 4, {**me, "GroupId": "unknown"}).ErrorCode == 25
        assert c.call("Heartbeat", 4, {**me, "GroupId": ""}).ErrorCode == 24
        assert c.call("SyncGroup", 5, {**me, "GenerationId": 7, "ProtocolType": "consumer", "ProtocolName": "range", "Assignments": []}).ErrorCode == 22
        assert c.call("SyncGroup", 5, {**me, "ProtocolType": "connect", "ProtocolName": "range", "Assignments": []}).ErrorCode == 23
        assert c.call("SyncGroup", 5, {**me, "ProtocolType": None, "ProtocolName": None, "Assignments": []}).ErrorCode == 23

        # A second one makes the first join again.
        second = call_until(d, "JoinGroup", 9, join_body("rj", "raw-join"))
        d.send("JoinGroup", 9, join_body("rj", "raw-join", second.MemberId))
        eventually(lambda: c.call("Heartbeat", 4, me).ErrorCode == 27)
        again = c.call("JoinGroup", 9, join_body("rj", "raw-join", joined.MemberId))
        other = d.receive()
        assert (again.GenerationId, other.GenerationId, len(again.Members), len(other.Members)) == (2, 2, 2, 0), (again, other)
        d.send("SyncGroup", 5, {"GroupId": "rj", "GenerationId": 2, "MemberId": other.MemberId, "ProtocolType": "consumer", "ProtocolName": "range", "Assignments": []})
        time.sleep(0.1)
        sync(c, "rj", again)
        assert d.receive().Assignment == b"for " + other.MemberId.encode()

        members = [{"MemberId": other.MemberId}, {"MemberId": "x"}]
        answer = c.call("LeaveGroup", 5, {"GroupId": "rj", "Members": members})
        assert (answer.ErrorCode, [(m.MemberId, m.ErrorCode) for m in answer.Members]) == (0, [(other.MemberId, 0), ("x", 25)]), answer
        assert c.call("LeaveGroup", 1, {"GroupId": "rj", "MemberId": "x"}).ErrorCode == 25
        assert c.call("LeaveGroup", 1, {"GroupId": "rj", "MemberId": joined.MemberId}).ErrorCode == 0
        unknown = c.call("LeaveGroup", 3, {"GroupId": "nobody", "Members": [{"MemberId": "x"}]})
        assert (unknown.ErrorCode, unknown.Members[0].ErrorCode) == (0, 25), unknown


def test_refused_joins(broker):
    with Connection(broker.address) as c:
        find(c, "refused")
        refused = lambda **more: call_until(c, "JoinGroup", 9, join_body("refused", "t", **more)).ErrorCode  # noqa: E731
        assert refused(session_ms=5999) == 26 and refused(session_ms=1800001) == 26
        assert refused(member_id="never-given") == 25
        assert refused(protocol_type="") == 23 and refused(strategies=()) == 23
        assert c.call("JoinGroup", 9, join_body("", "t")).ErrorCode == 24
        joined = join(c, "refused", "t")
        sync(c, "refused", joined)
        assert refused(protocol_type="connect") == 23 and refused(strategies=("sticky",)) == 23


def test_static_members(broker):
    with Connection(broker.address) as c, Connection(broker.address) as d:
        find(c, "raw-static")
        first = join(c, "raw-static", "t", instance="one")
        assert first.ErrorCode == 0 and first.MemberId.startswith("one-"), first
        assert sync(c, "raw-static", first).ErrorCode == 0
        second = join(d, "raw-static", "t", instance="one")
        assert (second.ErrorCode, second.GenerationId, second.SkipAssignment, len(second.Members)) == (0, first.GenerationId, True, 1), second
        assert second.MemberId != first.MemberId and second.Leader == second.MemberId, second
        fenced = {"GroupId": "raw-static", "GenerationId": 1, "MemberId": first.MemberId, "GroupInstanceId": "one"}
        assert c.call("Heartbeat", 4, fenced).ErrorCode == 82
        body = commit_body("raw-static", "t", 1, first.MemberId, 1)
        c.call("Metadata", 9, {"Topics": [{"Name": "t"}], "AllowAutoTopicCreation": True})
        eventually(lambda: c.call("OffsetCommit", 8, {**body, "GroupInstanceId": "one"}).Topics[0].Partitions[0].ErrorCode == 82)
        assert c.call("JoinGroup", 9, join_body("raw-static", "t", first.MemberId, "one")).ErrorCode == 82
        answer = c.call("LeaveGroup", 5, {"GroupId": "raw-static", "Members": [{"MemberId": "", "GroupInstanceId": "one"}, {"MemberId": "", "GroupInstanceId": "two"}]})
        assert [m.ErrorCode for m in answer.Members] == [0, 25], answer


def test_commit_and_fetch(broker):
    with Connection(broker.address) as c:
        topic_id = c.create_topic("raw-offsets", 2)
        find(c, "ro")
        codes = commit(c, "ro", "raw-offsets", 7, partitions=(0, 5))
        assert codes == [0, 3], codes
        assert commit(c, "ro", "no-such-topic", 7) == [3]
        assert commit(c, "ro", "raw-offsets", 8, partitions=(1,), metadata="x" * 4097) == [12]
        assert commit(c, "ro", "raw-offsets", 8, partitions=(1,), metadata="é" * 4096) == [0]
        assert commit(c, "never", "raw-offsets", 8, member="m", generation=3) == [22], "ILLEGAL_GENERATION"
        assert commit(c, "never", "raw-offsets", 8, version=9, member="m", generation=3) == [69], "GROUP_ID_NOT_FOUND"
        assert commit(c, "ro", "", 9, version=10, topic_id=topic_id) == [0]
        assert commit(c, "ro", "", 9, version=10, topic_id=NO_TOPIC) == [100]

        wanted = [{"Name": "raw-offsets", "PartitionIndexes": [0, 1, 9]}]
        for version in (1, 5, 7):
            answer = c.call("OffsetFetch", version, {"GroupId": "ro", "Topics": wanted})
            found = sorted((p.PartitionIndex, p.CommittedOffset, p.Metadata, p.ErrorCode) for p in answer.Topics[0].Partitions)
            assert found == [(0, 9, "", 0), (1, 8, "é" * 4096, 0), (9, -1, "", 0)], (version, answer)
        everything = fetch(c, "ro", None)
        assert [(t.Name, sorted((p.PartitionIndex, p.CommittedOffset, p.CommittedLeaderEpoch) for p in t.Partitions)) for t in everything.Topics] == [("raw-offsets", [(0, 9, 0), (1, 8, 0)])], everything
        by_id = fetch(c, "ro", [{"TopicId": topic_id, "PartitionIndexes": [0]}, {"TopicId": NO_TOPIC, "PartitionIndexes": [0]}], 10)
        found = {t.TopicId: [(p.CommittedOffset, p.ErrorCode) for p in t.Partitions] for t in by_id.Topics}
        assert found == {topic_id: [(9, 0)], NO_TOPIC: [(-1, 100)]}, by_id
        assert fetch(c, "ro", None, 10).Topics[0].TopicId == topic_id
        nobody = fetch(c, "nobody-at-all", [{"Name": "raw-offsets", "PartitionIndexes": [0]}])
        assert (nobody.ErrorCode, nobody.Topics[0].Partitions[0].CommittedOffset) == (0, -1), nobody
        answer = c.call("OffsetFetch", 8, {"Groups": [{"GroupId": "ro", "Topics": wanted}, {"GroupId": "nobody-at-all", "Topics": None}]})
        assert [(g.GroupId, len(g.Topics)) for g in answer.Groups] == [("ro", 1), ("nobody-at-all", 0)], answer


def test_commits_beside_members(broker):
    with Connection(broker.address) as c:
        c.create_topic("beside")
        find(c, "beside")
        joined = join(c, "beside", "beside")
        sync(c, "beside", joined)
        assert commit(c, "beside", "beside", 1) == [25]
        assert commit(c, "beside", "beside", 1, member="x", generation=1) == [25]
        assert commit(c, "beside", "beside", 1, member=joined.MemberId, generation=2) == [22]
        assert commit(c, "beside", "beside", 1, member=joined.MemberId, generation=1) == [0]
        wanted = {"GroupId": "beside", "Topics": [{"Name": "beside", "Partitions": [{"PartitionIndex": 0}, {"PartitionIndex": 9}]}]}
        answer = c.call("OffsetDelete", 0, wanted)
        assert (answer.ErrorCode, {p.PartitionIndex: p.ErrorCode for p in answer.Topics[0].Partitions}) == (0, {0: 86, 9: 3}), answer
        assert c.call("DeleteGroups", 2, {"GroupsNames": ["beside", "unknown"]}).Results[0].ErrorCode == 68
        c.call("LeaveGroup", 3, {"GroupId": "beside", "Members": [{"MemberId": joined.MemberId}]})
        answer = c.call("OffsetDelete", 0, wanted)
        assert {p.PartitionIndex: p.ErrorCode for p in answer.Topics[0].Partitions} == {0: 0, 9: 3}, answer
        assert c.call("OffsetDelete", 0, {**wanted, "GroupId": "unknown"}).ErrorCode == 69
        answer = c.call("DeleteGroups", 2, {"GroupsNames": ["beside", "unknown"]})
        assert [(r.GroupId, r.ErrorCode) for r in answer.Results] == [("beside", 0), ("unknown", 69)], answer


def test_lists_and_descriptions(broker):
    with Connection(broker.address) as c:
        c.create_topic("listed")
        find(c, "listed")
        commit(c, "listed-simple", "listed", 1)
        joined = join(c, "listed", "listed")
        sync(c, "listed", joined)

        def listed(version, **filters):
            answer = call_until(c, "ListGroups", version, filters)
            return sorted((g.GroupId, g.ProtocolType, *((g.GroupState,) if version >= 4 else ()), *((g.GroupType,) if version >= 5 else ())) for g in answer.Groups if g.GroupId.startswith("listed"))

        assert listed(0) == [("listed", "consumer"), ("listed-simple", "")], listed(0)
        assert listed(5) == [("listed", "consumer", "Stable", "classic"), ("listed-simple", "", "Empty", "classic")], listed(5)
        assert listed(4, StatesFilter=["stable"]) == [("listed", "consumer", "Stable")]
        assert listed(5, TypesFilter=["consumer"]) == []
        assert listed(5, StatesFilter=["EMPTY"], TypesFilter=["Classic"]) == [("listed-simple", "", "Empty", "classic")]

        for version in (0, 4, 5, 6):
            answer = c.call("DescribeGroups", version, {"Groups": ["listed", "listed-simple", "nope"], "IncludeAuthorizedOperations": True})
            stable, simple, nope = sorted(answer.Groups, key=lambda g: g.GroupId)
            assert (stable.ErrorCode, stable.GroupState, stable.ProtocolType, stable.ProtocolData) == (0, "Stable", "consumer", "range"), stable
            (member,) = stable.Members
            assert (member.MemberId, member.ClientId, member.ClientHost, member.MemberMetadata, member.MemberAssignment) == (joined.MemberId, "raw", "/127.0.0.1", subscription("listed"), b"for " + joined.MemberId.encode()), member
            assert (simple.ErrorCode, simple.GroupState, simple.ProtocolType, simple.Members) == (0, "Empty", "", []), simple
            assert (nope.ErrorCode, nope.GroupState) == (69 if version >= 6 else 0, "Dead"), nope
            if version >= 6:
                assert nope.ErrorMessage == "Group nope not found.", nope
            if version >= 3:
                assert stable.AuthorizedOperations == 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11, stable


def test_a_group_without_offsets_can_be_deleted(broker):
    with Connection(broker.address) as c:
        find(c, "emptied")
        for gone in ("offsets", "topic"):
            c.create_topic("emptied", 1)
            call_until(c, "OffsetCommit", 8, commit_body("emptied", "emptied", 5), lambda a: a.Topics[0].Partitions[0].ErrorCode)
            if gone == "topic":
                c.call("DeleteTopics", 5, {"TopicNames": ["emptied"], "TimeoutMs": 30000})
                old = {"GroupId": "emptied", "Topics": [{"Name": "emptied", "PartitionIndexes": [0]}]}
                eventually(lambda: c.call("OffsetFetch", 7, old).Topics[0].Partitions[0].CommittedOffset == -1)
            else:
                answer = c.call("OffsetDelete", 0, {"GroupId": "emptied", "Topics": [{"Name": "emptied", "Partitions": [{"PartitionIndex": 0}]}]})
                assert (answer.ErrorCode, answer.Topics[0].Partitions[0].ErrorCode) == (0, 0), answer
                c.call("DeleteTopics", 5, {"TopicNames": ["emptied"], "TimeoutMs": 30000})
            assert [g.GroupState for g in c.call("DescribeGroups", 5, {"Groups": ["emptied"]}).Groups] == ["Empty"]
            deleted = [c.call("DeleteGroups", 2, {"GroupsNames": ["emptied"]}).Results[0].ErrorCode for _ in range(2)]
            assert deleted == [0, 69], deleted


def test_offsets_go_with_their_topic(broker):
    with Connection(broker.address) as c:
        c.create_topic("gone")
        find(c, "gone-group")
        assert commit(c, "gone-group", "gone", 5) == [0]
        c.call("DeleteTopics", 4, {"TopicNames": ["gone"], "TimeoutMs": 30000})
        eventually(lambda: not fetch(c, "gone-group", None).Topics)


def test_the_offsets_topic_is_deleted_and_comes_back_empty():
    with Broker() as broker, Connection(broker.address) as c:
        c.create_topic("t", 1)
        find(c, "g")

        def commits(offset):
            call_until(c, "OffsetCommit", 8, commit_body("g", "t", offset), lambda a: a.Topics[0].Partitions[0].ErrorCode)

        commits(5)
        c.call("DeleteTopics", 5, {"TopicNames": ["__consumer_offsets"], "TimeoutMs": 30000})
        find(c, "g")
        committed = fetch(c, "g", [{"Name": "t", "PartitionIndexes": [0]}]).Topics[0].Partitions[0].CommittedOffset
        assert committed == -1, committed
        assert "g" not in [g.GroupId for g in c.call("ListGroups", 4, {}).Groups]
        commits(6)
        assert fetch(c, "g", [{"Name": "t", "PartitionIndexes": [0]}]).Topics[0].Partitions[0].CommittedOffset == 6


def test_nobody_produces_to_the_offsets_topic(broker):
    from raw import batch

    with Connection(broker.address) as c:
        find(c, "g")
        assert c.produce("__consumer_offsets", 0, batch([(b"k", b"v")])).ErrorCode == 17


def test_a_flood_of_members_stays_in_memory():
    """Endless ids, and members with a megabyte of metadata each: refused in time, and others are served."""
    if KAFKA:
        return
    with Broker(corelane_memory="64m", group_initial_rebalance_delay_ms=100) as broker:
        with Connection(broker.address) as c:
            c.create_topic("flood")
            find(c, "other")
            sync(c, "other", join(c, "other", "flood"))
        refused = []

        def flood(n):
            with Connection(broker.address) as c:
                for i in range(200):
                    body = join_body(f"flood-{n}-{i % 7}", "flood", session_ms=1800000)
                    body["Protocols"][0]["Metadata"] = b"x" * (1 << 20)
                    answer = c.call("JoinGroup", 9, body)
                    if answer.ErrorCode == 79 and i % 7 != 6:
                        c.send("JoinGroup", 9, {**body, "MemberId": answer.MemberId})
                        c.receive()
                    refused.append(answer.ErrorCode)

        in_threads([lambda n=n: flood(n) for n in range(4)])
        assert set(refused) <= {79, 15} and 15 in refused, set(refused)
        rss, peak = broker.memory()
        assert peak < 160 << 20, (rss, peak)
        with Connection(broker.address) as c:
            assert fetch(c, "other", None).ErrorCode == 0


def test_a_flood_of_long_group_ids_stays_in_memory():
    """Ids of 32 kB are lawful, and what is remembered of a group has its id: refused in time, and others are served."""
    if KAFKA:
        return
    with Broker(corelane_memory="32m") as broker:
        with Connection(broker.address) as c:
            c.create_topic("flood")
            find(c, "other")
            commit(c, "other", "flood", 7)
        codes = []

        def flood(n):
            with Connection(broker.address) as c:
                for i in range(2500):
                    answer = c.call("OffsetCommit", 8, commit_body(f"{n}-{i}-" + "g" * 32_000, "flood", 5))
                    codes.append(answer.Topics[0].Partitions[0].ErrorCode)

        in_threads([lambda n=n: flood(n) for n in range(4)])
        assert set(codes) == {0, 15}, set(codes)
        rss, peak = broker.memory()
        assert peak < (32 + 64) << 20, (rss, peak)
        with Connection(broker.address) as c:
            assert fetch(c, "other", None).ErrorCode == 0


def test_a_group_asked_for_again_and_again(broker):
    """What is said of a large group takes memory: once in an answer has to do. Too many groups end the connection."""
    if KAFKA:
        return
    with Connection(broker.address) as c:
        find(c, "again")
        sync(c, "again", join(c, "again", "t"))
        answer = c.call("DescribeGroups", 5, {"Groups": ["again"] * 100_000})
        assert [g.GroupId for g in answer.Groups] == ["again"], len(answer.Groups)
        try:
            c.call("DescribeGroups", 5, {"Groups": [f"{n}" for n in range(60_000)]})
            raise AssertionError("answered")
        except Closed:
            pass


def test_what_waits_hears_of_the_stop():
    with Broker(group_initial_rebalance_delay_ms=60000) as broker:
        with Connection(broker.address) as c:
            find(c, "g")
            first = call_until(c, "JoinGroup", 9, join_body("g", "t"))
            c.send("JoinGroup", 9, join_body("g", "t", first.MemberId))
            time.sleep(0.2)
            assert broker.terminate() in (0, 143)
            try:
                assert c.receive().ErrorCode in (15, 16)
            except Closed:
                pass

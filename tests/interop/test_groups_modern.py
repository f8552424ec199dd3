"""Consumer groups of the new protocol (KIP-848): step by step with raw requests, and with real clients that join, leave and are killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness import Broker, eventually, java
from raw import Connection

# Short, so that a killed member's partitions are soon given to others.
OVERRIDES = {
    "group.consumer.heartbeat.interval.ms": 500, "group.consumer.min.heartbeat.interval.ms": 500, "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.session.timeout.ms": 6000, "group.consumer.assignment.interval.ms": 0, "offsets.topic.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
}
CONSUMER, GROUPS, DUMP = "org.apache.kafka.tools.consumer.ConsoleConsumer", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "org.apache.kafka.tools.DumpLogSegments"
INVALID_GROUP_ID, UNSUPPORTED_VERSION, UNKNOWN_TOPIC_ID = 24, 35, 100
OK, UNKNOWN_MEMBER, NOT_FOUND, FENCED, UNRELEASED, UNSUPPORTED_ASSIGNOR, STALE, INVALID_REQUEST, FENCED_INSTANCE, INVALID_REGEX = 0, 25, 69, 110, 111, 112, 113, 42, 82, 128


def coordinator(c, group):
    def found():
        answer = c.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": [group]}).Coordinators[0]
        return answer.ErrorCode == OK

    eventually(found)


class Member:
    """A member that sends what it is told to."""

    def __init__(self, c, group, topics=None, instance=None, member_id=None, **more):
        self.c, self.group, self.instance = c, group, instance
        self.id, self.epoch, self.owned = member_id or str(uuid.uuid4()), 0, {}
        self.first = {"RebalanceTimeoutMs": 5000, "SubscribedTopicNames": topics, "TopicPartitions": [], **more}

    def beat(self, version=1, **more):
        """One heartbeat; takes over epoch and assignment of a good answer."""
        body = {"GroupId": self.group, "MemberId": self.id, "MemberEpoch": self.epoch, "InstanceId": self.instance, "RebalanceTimeoutMs": -1,
                "SubscribedTopicNames": None, "TopicPartitions": None, **(self.first if self.epoch == 0 else {}), **more}

        def loaded():
            answer = self.c.call("ConsumerGroupHeartbeat", version, body)
            return None if answer.ErrorCode in (14, 15, 16) else answer

        answer = eventually(loaded)
        if answer.ErrorCode == OK:
            self.epoch = answer.MemberEpoch
        return answer

    def report(self, **more):
        """A heartbeat that says what the member owns."""
        owned = [{"TopicId": t, "Partitions": sorted(p)} for t, p in self.owned.items() if p]
        return self.beat(TopicPartitions=owned, **more)

    def take(self, answer):
        """Owns what the answer says."""
        assert answer.ErrorCode == OK, answer
        if answer.Assignment is not None:
            self.owned = {t.TopicId: set(t.Partitions) for t in answer.Assignment.TopicPartitions}
        return sorted(p for partitions in self.owned.values() for p in partitions)


def settle(*members):
    """Heartbeats of all until nobody hears anything new."""
    def quiet():
        answers = [m.report() for m in members]
        for m, answer in zip(members, answers):
            m.take(answer)
        return all(a.Assignment is None for a in answers)

    eventually(quiet, pause=0.02)
    return [sorted(p for partitions in m.owned.values() for p in partitions) for m in members]


def group_of(test):
    return f"{test}-{uuid.uuid4()}"


def test_join_share_and_leave(broker):
    """The epochs and partitions of each answer, as KIP-848 has them."""
    with Connection(broker.address) as c:
        topic = c.create_topic(f"steps-{uuid.uuid4()}", 6)
        name = next(t.Name for t in c.call("Metadata", 12, {"Topics": [{"TopicId": topic, "Name": None}]}).Topics)
        group = group_of("steps")
        coordinator(c, group)
        a, b, third = (Member(c, group, [name]) for _ in range(3))
        answer = a.beat()
        assert (answer.MemberEpoch, answer.MemberId, answer.HeartbeatIntervalMs, a.take(answer)) == (2, a.id, 500, [0, 1, 2, 3, 4, 5])
        answer = b.beat()
        assert (answer.MemberEpoch, b.take(answer)) == (3, []), answer
        answer = a.beat()
        assert (answer.MemberEpoch, a.take(answer)) == (2, [0, 1, 2]), answer
        assert b.beat().Assignment is None
        assert a.report().MemberEpoch == 3
        assert b.take(b.report()) == [3, 4, 5]
        assert third.take(third.beat()) == []
        shares = settle(a, b, third)
        assert sorted(sum(shares, [])) == [0, 1, 2, 3, 4, 5] and [len(s) for s in shares] == [2, 2, 2], shares
        assert set(shares[0]) < {0, 1, 2} and set(shares[1]) < {3, 4, 5}, shares

        answer = third.beat(MemberEpoch=-1)
        assert (answer.ErrorCode, answer.MemberEpoch, answer.MemberId) == (OK, -1, third.id)
        assert sorted(sum(settle(a, b), [])) == [0, 1, 2, 3, 4, 5]
        groups = c.call("ListGroups", 5, {"TypesFilter": ["consumer"]}).Groups
        listed = [(g.ProtocolType, g.GroupState, g.GroupType) for g in groups if g.GroupId == group]
        assert listed == [("consumer", "Stable", "consumer")], listed
        assert group not in [g.GroupId for g in c.call("ListGroups", 5, {"TypesFilter": ["classic"]}).Groups]


def test_feature(broker):
    """The finalized feature that clients look at."""
    with Connection(broker.address) as c:
        for version in (3, 4):
            answer = c.call("ApiVersions", version, {"ClientSoftwareName": "a", "ClientSoftwareVersion": "1"})
            supported = {f.Name: (f.MinVersion, f.MaxVersion) for f in answer.SupportedFeatures}
            finalized = {f.Name: (f.MinVersionLevel, f.MaxVersionLevel) for f in answer.FinalizedFeatures}
            assert finalized["group.version"] == (1, 1) and answer.FinalizedFeaturesEpoch >= 0, answer
            assert supported.get("group.version") == (None if version == 3 else (0, 1)), supported


def test_errors(broker):
    """Codes and texts, which clients log and people search for."""
    with Connection(broker.address) as c:
        name = f"errors-{uuid.uuid4()}"
        c.create_topic(name, 2)
        group = group_of("errors")
        coordinator(c, group)
        m = Member(c, group, [name])

        def refused(code, text, version=1, **more):
            answer = m.beat(version, **more)
            assert (answer.ErrorCode, answer.ErrorMessage) == (code, text), (answer.ErrorCode, answer.ErrorMessage)

        refused(NOT_FOUND, f"Consumer group {group} not found.", MemberEpoch=1)
        refused(INVALID_REQUEST, "MemberId can't be empty.", MemberId="")
        refused(INVALID_REQUEST, "GroupId can't be empty.", GroupId="")
        refused(INVALID_REQUEST, "InstanceId can't be empty.", InstanceId="")
        refused(INVALID_REQUEST, "RackId can't be empty.", RackId=" ")
        refused(INVALID_REQUEST, "RebalanceTimeoutMs must be provided in first request.", RebalanceTimeoutMs=-1)
        refused(INVALID_REQUEST, "TopicPartitions must be empty when (re-)joining.", TopicPartitions=None)
        refused(INVALID_REQUEST, "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.", SubscribedTopicNames=None)
        refused(INVALID_REQUEST, "InstanceId can't be null.", MemberEpoch=-2)
        refused(INVALID_REQUEST, "MemberEpoch is invalid.", MemberEpoch=-3)
        refused(UNSUPPORTED_ASSIGNOR, "ServerAssignor sticky is not supported. Supported assignors: uniform, range.", ServerAssignor="sticky")
        answer = m.beat(SubscribedTopicNames=None, SubscribedTopicRegex="(")
        assert answer.ErrorCode == INVALID_REGEX and answer.ErrorMessage.startswith("SubscribedTopicRegex `(` is not a valid regular expression: "), answer
        assert m.take(m.beat()) == [0, 1]
        refused(FENCED, "The consumer group member has a greater member epoch (9) than the one known by the group coordinator (2). "
                "The member must abandon all its partitions and rejoin.", MemberEpoch=9)
        refused(UNKNOWN_MEMBER, f"Member nobody is not a member of group {group}.", MemberId="nobody")
        refused(UNKNOWN_MEMBER, f"Member nobody is not a member of group {group}.", MemberId="nobody", MemberEpoch=-1)
        refused(UNKNOWN_MEMBER, "Instance id i is unknown.", InstanceId="i")
        second = Member(c, group, [name])
        second.beat()
        settle(m, second)
        refused(FENCED, f"The consumer group member has a smaller member epoch (2) than the one known by the group coordinator ({m.epoch}). "
                "The member must abandon all its partitions and rejoin.", MemberEpoch=2)
        # Version 0: the coordinator makes the id.
        old = Member(c, group, [name], member_id="-")
        answer = old.beat(0, MemberId="")
        assert answer.ErrorCode == OK and re.fullmatch(r"[\w-]{22}", answer.MemberId), answer


def test_static_members(broker):
    with Connection(broker.address) as c:
        name = f"static-{uuid.uuid4()}"
        c.create_topic(name, 4)
        group = group_of("static")
        coordinator(c, group)
        a, b = Member(c, group, [name], instance="ia"), Member(c, group, [name], instance="ib")
        a.take(a.beat()), b.take(b.beat())
        shares = settle(a, b)
        again = Member(c, group, [name], instance="ia")
        answer = again.beat()
        assert (answer.ErrorCode, answer.ErrorMessage) == (UNRELEASED, f"Static member {again.id} with instance id ia cannot join the group because the instance id is owned by {a.id} member."), answer
        epoch = a.epoch
        answer = a.beat(MemberEpoch=-2)
        assert (answer.ErrorCode, answer.MemberEpoch) == (OK, -2), answer
        answer = again.beat()
        assert (answer.MemberEpoch, again.take(answer)) == (epoch, shares[0]), answer
        assert b.beat().Assignment is None, "nobody else notices"
        a.epoch = epoch
        answer = a.beat()
        assert (answer.ErrorCode, answer.ErrorMessage) == (FENCED_INSTANCE, f"Static member {a.id} with instance id ia was fenced by member {again.id}."), answer


def test_describe(broker):
    """ConsumerGroupDescribe, and what DescribeGroups and DeleteGroups say of such a group."""
    with Connection(broker.address) as c:
        name = f"describe-{uuid.uuid4()}"
        topic = c.create_topic(name, 3)
        group = group_of("describe")
        coordinator(c, group)
        m = Member(c, group, [name], ServerAssignor="range")
        m.take(m.beat())
        for version in (0, 1):
            found, missing = c.call("ConsumerGroupDescribe", version, {"GroupIds": [group, "nope"], "IncludeAuthorizedOperations": False}).Groups
            assert (found.ErrorCode, found.GroupState, found.GroupEpoch, found.AssignmentEpoch, found.AssignorName) == (OK, "Stable", 2, 2, "range"), found
            (member,) = found.Members
            assert (member.MemberId, member.InstanceId, member.RackId, member.MemberEpoch, member.ClientId) == (m.id, None, None, 2, "raw"), member
            assert member.ClientHost == "/127.0.0.1" and member.SubscribedTopicNames == [name] and not member.SubscribedTopicRegex, member
            for assignment in (member.Assignment, member.TargetAssignment):
                assert [(t.TopicId, t.TopicName, sorted(t.Partitions)) for t in assignment.TopicPartitions] == [(topic, name, [0, 1, 2])], assignment
            assert version == 0 or member.MemberType == 1, member
            assert (missing.ErrorCode, missing.ErrorMessage) == (NOT_FOUND, "Group nope not found."), missing
        (classic,) = c.call("DescribeGroups", 6, {"Groups": [group]}).Groups
        assert (classic.ErrorCode, classic.ErrorMessage, classic.GroupState) == (NOT_FOUND, f"Group {group} is not a classic group.", "Dead"), classic
        (classic,) = c.call("DescribeGroups", 5, {"Groups": [group]}).Groups
        assert (classic.ErrorCode, classic.GroupState) == (OK, "Dead"), classic
        assert c.call("DeleteGroups", 2, {"GroupsNames": [group]}).Results[0].ErrorCode == 68
        m.beat(MemberEpoch=-1)
        (found,) = c.call("ConsumerGroupDescribe", 1, {"GroupIds": [group], "IncludeAuthorizedOperations": False}).Groups
        assert (found.GroupState, found.GroupEpoch, found.Members) == ("Empty", 3, []), found
        assert c.call("DeleteGroups", 2, {"GroupsNames": [group]}).Results[0].ErrorCode == OK
        (found,) = c.call("ConsumerGroupDescribe", 1, {"GroupIds": [group], "IncludeAuthorizedOperations": False}).Groups
        assert found.ErrorCode == NOT_FOUND, found


def commit(c, group, member, epoch, topic, topic_id, offset, version=9, partition=0):
    topics = [{"Name": topic, "TopicId": topic_id, "Partitions": [{"PartitionIndex": partition, "CommittedOffset": offset, "CommittedLeaderEpoch": -1, "CommittedMetadata": ""}]}]
    body = {"GroupId": group, "GenerationIdOrMemberEpoch": epoch, "MemberId": member, "GroupInstanceId": None, "RetentionTimeMs": -1, "Topics": topics}
    return c.call("OffsetCommit", version, body).Topics[0].Partitions[0].ErrorCode


def test_offsets(broker):
    """Commits carry the member's epoch; older ones are taken for partitions that the member has had since."""
    with Connection(broker.address) as c:
        name = f"offsets-{uuid.uuid4()}"
        topic = c.create_topic(name, 2)
        group = group_of("offsets")
        coordinator(c, group)
        a = Member(c, group, [name])
        a.take(a.beat())
        assert commit(c, group, a.id, 2, name, topic, 5) == OK
        assert commit(c, group, a.id, 3, name, topic, 6) == STALE
        assert commit(c, group, "nobody", 2, name, topic, 6) == UNKNOWN_MEMBER
        assert commit(c, group, "", -1, name, topic, 6) == UNKNOWN_MEMBER
        assert commit(c, group, a.id, 2, name, topic, 6, version=8) == 35
        b = Member(c, group, [name])
        b.take(b.beat())
        settle(a, b)
        kept, lost = (0, 1) if 0 in next(iter(a.owned.values())) else (1, 0)
        assert commit(c, group, a.id, 2, name, topic, 7, partition=kept) == OK
        assert commit(c, group, a.id, 2, name, topic, 7, partition=lost) == STALE

        def fetch(member, epoch):
            groups = [{"GroupId": group, "MemberId": member, "MemberEpoch": epoch, "Topics": [{"Name": name, "PartitionIndexes": [kept]}]}]
            answer = c.call("OffsetFetch", 9, {"Groups": groups, "RequireStable": True}).Groups[0]
            return answer.ErrorCode, [p.CommittedOffset for t in answer.Topics for p in t.Partitions]

        assert fetch(a.id, a.epoch) == (OK, [7])
        assert fetch(None, -1) == (OK, [7])
        assert fetch(a.id, a.epoch + 1)[0] == STALE
        assert fetch("nobody", 1)[0] == UNKNOWN_MEMBER


def test_describe_what_a_member_has_to_give_up(broker):
    with Connection(broker.address) as c:
        group, topic = group_of("pending"), f"pending{uuid.uuid4().hex}"
        c.create_topic(topic, 4)
        coordinator(c, group)
        a, b = Member(c, group, [topic]), Member(c, group, [topic])
        a.take(a.beat())
        eventually(lambda: a.take(a.report()) == [0, 1, 2, 3])
        b.take(b.beat())
        # It hears what it has to give up, and says nothing of what it has.
        eventually(lambda: a.take(a.beat()) == [0, 1])
        described = {g.GroupId: g for g in c.call("ConsumerGroupDescribe", 1, {"GroupIds": [group, ""]}).Groups}
        members = described[group].Members
        of = {m.MemberId: [p for t in m.Assignment.TopicPartitions for p in sorted(t.Partitions)] for m in members}
        assert of == {a.id: [0, 1, 2, 3], b.id: []}, members
        assert (described[""].ErrorCode, described[""].ErrorMessage) == (INVALID_GROUP_ID, None), described


def test_first_epoch_of_a_pattern(broker):
    with Connection(broker.address) as c:
        prefix = f"epoch{uuid.uuid4().hex}"
        c.create_topic(f"{prefix}-a", 1)
        for pattern, then in ((f"{prefix}-.*", (2, [0])), (f"{prefix}none", (1, []))):
            group = group_of("epoch")
            coordinator(c, group)
            m = Member(c, group, None, SubscribedTopicRegex=pattern)
            assert (m.take(m.beat()), m.epoch) == ([], 1)
            eventually(lambda: (m.take(m.report()), m.epoch) == (then[1], then[0]))


def test_protocol_switched_off():
    with Broker(**{"group.coordinator.rebalance.protocols": "classic"}) as broker, Connection(broker.address) as c:
        answer = c.call("ConsumerGroupHeartbeat", 1, {"GroupId": "g", "MemberId": "m", "TopicPartitions": None, "SubscribedTopicNames": ["t"]})
        assert (answer.ErrorCode, answer.ErrorMessage) == (UNSUPPORTED_VERSION, None), answer
        described = c.call("ConsumerGroupDescribe", 1, {"GroupIds": ["g", ""]}).Groups
        assert [(g.ErrorCode, g.ErrorMessage) for g in described] == [(UNSUPPORTED_VERSION, None)] * 2, described


def test_offsets_of_old_clients_and_unknown_topics(broker):
    with Connection(broker.address) as c:
        group, topic = group_of("oldfetch"), f"oldfetch{uuid.uuid4().hex}"
        topic_id = c.create_topic(topic, 1)
        coordinator(c, group)
        m = Member(c, group, [topic])
        m.take(m.beat())
        assert commit(c, group, m.id, m.epoch, topic, topic_id, 7) == OK
        for version in range(1, 8):
            answer = c.call("OffsetFetch", version, {"GroupId": group, "Topics": [{"Name": "nope", "PartitionIndexes": [0]}, {"Name": topic, "PartitionIndexes": [0]}]})
            found = [(t.Name, p.CommittedOffset, p.ErrorCode) for t in answer.Topics for p in t.Partitions]
            assert (answer.ErrorCode, found) == (OK, [("nope", -1, OK), (topic, 7, OK)]), (version, answer)
        unknown = uuid.UUID(bytes=b"\1" * 16)
        asked = [{"TopicId": t, "PartitionIndexes": [0]} for t in (unknown, topic_id)]

        def fetch(**more):
            return c.call("OffsetFetch", 10, {"Groups": [{"GroupId": group, "Topics": asked, **more}]}).Groups[0]

        answer = fetch(MemberId=None, MemberEpoch=-1)
        found = [(t.TopicId, p.CommittedOffset, p.ErrorCode) for t in answer.Topics for p in t.Partitions]
        assert (answer.ErrorCode, found) == (OK, [(topic_id, 7, OK), (unknown, -1, UNKNOWN_TOPIC_ID)]), answer
        assert fetch(MemberId="", MemberEpoch=-1).ErrorCode == UNKNOWN_MEMBER, "a member without a name"


def test_patterns_and_new_topics(broker):
    with Connection(broker.address) as c:
        prefix = f"pattern{uuid.uuid4().hex}"
        first = c.create_topic(f"{prefix}-a", 1)
        group = group_of("pattern")
        coordinator(c, group)
        m = Member(c, group, None, SubscribedTopicRegex=f"{prefix}-.*")
        m.take(m.beat())
        eventually(lambda: m.take(m.report()) == [0])
        assert list(m.owned) == [first]
        # One that grows is noticed with the next heartbeats, one that is new within ten seconds or so.
        second = c.create_topic(f"{prefix}-b", 2)
        eventually(lambda: m.take(m.report()) == [0, 0, 1], pause=0.3)
        assert set(m.owned) == {first, second}
        c.call("DeleteTopics", 5, {"TopicNames": [f"{prefix}-a"], "TimeoutMs": 30000})
        eventually(lambda: m.take(m.report()) == [0, 1], pause=0.3)


def test_groups_and_members_outlive_a_restart():
    with Broker(**OVERRIDES) as broker:
        with Connection(broker.address) as c:
            topic = c.create_topic("kept", 4)
            coordinator(c, "kept")
            a, b = Member(c, "kept", ["kept"]), Member(c, "kept", ["kept"], instance="i")
            a.take(a.beat()), b.take(b.beat())
            before = settle(a, b)
            assert commit(c, "kept", a.id, a.epoch, "kept", topic, 11) == OK
        broker.kill()
        broker.start()
        with Connection(broker.address) as c:
            coordinator(c, "kept")
            a.c = b.c = c
            for m, share in zip((a, b), before):
                answer = m.report()
                assert (answer.ErrorCode, answer.Assignment) == (OK, None), answer
                assert m.take(m.report(RebalanceTimeoutMs=5000, SubscribedTopicNames=["kept"])) == share
            (group,) = c.call("ConsumerGroupDescribe", 1, {"GroupIds": ["kept"], "IncludeAuthorizedOperations": False}).Groups
            assert (group.GroupState, len(group.Members)) == ("Stable", 2), group
        segments = [os.path.join(d, f) for d, _, files in os.walk(broker.data) for f in files if "__consumer_offsets-" in d and f.endswith(".log")]
        broker.terminate()
        code, out, err = java(DUMP, "--offsets-decoder", "--files", ",".join(segments))
        assert code == 0, (code, out, err)
        # Group, member, target assignment with its epoch, current assignment.
        assert {3, 5, 6, 7, 8} <= {int(kind) for kind in re.findall(r'"type":"?(\d+)', out)}, out[:2000]


def create(broker, topic, partitions):
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(60)


def config(broker, group, **more):
    return {"bootstrap.servers": broker.bootstrap, "group.id": group, "group.protocol": "consumer", "auto.offset.reset": "earliest", "enable.auto.commit": False, **more}


class Reader(threading.Thread):
    """A librdkafka consumer that notes what it reads and commits it."""

    def __init__(self, broker, group, topic, seen, **more):
        super().__init__(daemon=True)
        self.consumer = Consumer(config(broker, group, **more))
        self.consumer.subscribe([topic])
        self.seen, self.stop, self.error, self.partitions = seen, threading.Event(), None, []
        self.start()

    def run(self):
        try:
            while not self.stop.is_set():
                got = self.consumer.consume(500, 0.1)
                # Only this thread may ask: librdkafka answers while it is polled.
                self.partitions = sorted(p.partition for p in self.consumer.assignment())
                for message in got:
                    if message.error() is None:
                        self.seen.append((message.partition(), message.offset()))
                if got:
                    try:
                        self.consumer.commit(asynchronous=False)
                    except KafkaException as error:
                        # A partition was taken away meanwhile, or the broker is starting: read again by whoever has it then.
                        if error.args[0].fatal():
                            raise
            self.consumer.close()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def assigned(self):
        return self.partitions

    def end(self):
        self.stop.set()
        self.join(60)
        assert not self.is_alive() and self.error is None, self.error


def produce(broker, topic, count, partitions):
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5})
    for n in range(count):
        producer.produce(topic, b"%d" % n, partition=n % partitions)
        if n % 100 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0


def everything(count, partitions):
    return {(p, offset) for p in range(partitions) for offset in range(count // partitions)}


def test_librdkafka_members_come_and_go(broker):
    topic, group = f"go-{uuid.uuid4()}", group_of("go")
    create(broker, topic, 6)
    seen = []
    produce(broker, topic, 600, 6)
    first = Reader(broker, group, topic, seen)
    eventually(lambda: first.assigned() == [0, 1, 2, 3, 4, 5])
    second = Reader(broker, group, topic, seen)
    eventually(lambda: len(first.assigned()) == 3 and len(second.assigned()) == 3 and not set(first.assigned()) & set(second.assigned()))
    third = Reader(broker, group, topic, seen)
    eventually(lambda: sorted(first.assigned() + second.assigned() + third.assigned()) == [0, 1, 2, 3, 4, 5] and len(third.assigned()) == 2)
    produce(broker, topic, 600, 6)
    second.end()
    eventually(lambda: sorted(first.assigned() + third.assigned()) == [0, 1, 2, 3, 4, 5])
    produce(broker, topic, 600, 6)
    eventually(lambda: set(seen) == everything(1800, 6))
    first.end(), third.end()
    check = Consumer(config(broker, group))
    committed = check.committed([TopicPartition(topic, p) for p in range(6)], 30)
    assert [p.offset for p in committed] == [300] * 6, committed
    check.close()


KILLED = """
import sys
from confluent_kafka import Consumer
c = Consumer({"bootstrap.servers": sys.argv[1], "group.id": sys.argv[2], "group.protocol": "consumer", "auto.offset.reset": "earliest"})
c.subscribe([sys.argv[3]])
while True:
    c.consume(100, 0.1)
    print(sorted(p.partition for p in c.assignment()), flush=True)
"""


def test_killed_member(broker):
    """A member that is killed loses its partitions when its session is over, and nothing is skipped."""
    topic, group = f"kill-{uuid.uuid4()}", group_of("kill")
    create(broker, topic, 4)
    seen = []
    reader = Reader(broker, group, topic, seen)
    eventually(lambda: reader.assigned() == [0, 1, 2, 3])
    victim = subprocess.Popen([sys.executable, "-c", KILLED, broker.bootstrap, group, topic], stdout=subprocess.PIPE, text=True)
    for line in victim.stdout:
        if line.count(",") == 1:
            break
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    produce(broker, topic, 400, 4)
    eventually(lambda: set(seen) == everything(400, 4))
    assert reader.assigned() == [0, 1, 2, 3]
    reader.end()


def test_broker_killed_under_load():
    """Consumers go on after kill -9 of the broker: everything is read, committed offsets never go back."""
    with Broker(**OVERRIDES) as broker:
        create(broker, "load", 4)
        seen, groups = [], "load"
        readers = [Reader(broker, groups, "load", seen) for _ in range(2)]
        committed = [-1] * 4
        for round in range(1, 4):
            produce(broker, "load", 400, 4)
            if round == 2:
                readers.append(Reader(broker, groups, "load", seen))
            broker.kill()
            broker.start()
            eventually(lambda: set(seen) == everything(400 * round, 4), seconds=90)
            check = Consumer(config(broker, groups))
            now = [p.offset for p in check.committed([TopicPartition("load", p) for p in range(4)], 30)]
            check.close()
            assert all(a <= b for a, b in zip(committed, now)), (committed, now)
            committed = now
        eventually(lambda: sorted(sum((r.assigned() for r in readers), [])) == [0, 1, 2, 3], seconds=60)
        for reader in readers:
            reader.end()


def test_java_tools(broker):
    """Kafka's console consumer with the new protocol, and what kafka-consumer-groups shows of its group."""
    topic, group = f"java-{uuid.uuid4()}", group_of("java")
    create(broker, topic, 3)
    produce(broker, topic, 300, 3)
    code, out, err = java(
        CONSUMER, "--bootstrap-server", broker.bootstrap, "--topic", topic, "--group", group, "--from-beginning", "--max-messages", "300",
        "--timeout-ms", "60000", "--command-property", "group.protocol=consumer",
    )
    assert code == 0 and sorted(map(int, out.split())) == sorted(range(300)), (code, out[-500:], err[-2000:])
    reader = Reader(broker, group, topic, [])
    eventually(lambda: reader.assigned() == [0, 1, 2])
    code, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, "--describe", "--group", group, "--members", "--verbose")
    assert code == 0 and re.search(r"CURRENT-EPOCH\s+CURRENT-ASSIGNMENT\s+TARGET-EPOCH\s+TARGET-ASSIGNMENT", out) and f"{topic}:0,1,2" in out, (code, out, err)
    code, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, "--describe", "--group", group, "--state", "--verbose")
    assert code == 0 and re.search(rf"{group}\s+\S+\s+\(1\)\s+uniform\s+Stable\s+\d+\s+\d+\s+1", out), (code, out, err)
    code, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, "--list", "--type", "consumer")
    assert code == 0 and group in out, (code, out, err)
    reader.end()
    code, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, "--describe", "--group", group)
    rows = re.findall(rf"{group}\s+{topic}\s+(\d)\s+(\d+)\s+(\d+)\s+(\d+)\s", out)
    assert code == 0 and rows == [(str(p), "100", "100", "0") for p in range(3)], (code, out, err)
    code, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, "--delete", "--group", group)
    assert code == 0 and "successful" in out, (code, out, err)


def test_upgrade_and_downgrade(broker):
    """Clients of both protocols in one group, which changes its type when the first of the new ones comes and when the last one goes."""
    topic, group = f"mixed-{uuid.uuid4()}", group_of("mixed")
    create(broker, topic, 6)
    seen, produced = [], 0
    classic = {"group.protocol": "classic", "session.timeout.ms": 6000, "heartbeat.interval.ms": 500}

    def share(*readers):
        """Waits until the readers have all partitions, evenly, and have read everything."""
        nonlocal produced
        produce(broker, topic, 60, 6)
        produced += 60
        fair = 6 // len(readers)
        eventually(lambda: sorted(sum((r.assigned() for r in readers), [])) == [0, 1, 2, 3, 4, 5] and all(len(r.assigned()) == fair for r in readers), seconds=60)
        eventually(lambda: set(seen) == everything(produced, 6))

    def kind():
        with Connection(broker.address) as c:
            return [g.GroupType for g in c.call("ListGroups", 5).Groups if g.GroupId == group]

    first, second = (Reader(broker, group, topic, seen, **classic) for _ in range(2))
    share(first, second)
    assert kind() == ["classic"]
    modern = Reader(broker, group, topic, seen)
    share(first, second, modern)
    assert kind() == ["consumer"]
    with Connection(broker.address) as c:
        (found,) = c.call("ConsumerGroupDescribe", 1, {"GroupIds": [group], "IncludeAuthorizedOperations": False}).Groups
        assert sorted(m.MemberType for m in found.Members) == [0, 0, 1], found
    second.end()
    first.end()
    share(modern)
    assert kind() == ["consumer"]
    first, second = (Reader(broker, group, topic, seen, **classic) for _ in range(2))
    share(first, second, modern)
    modern.end()
    share(first, second)
    assert kind() == ["classic"]
    first.end(), second.end()
    assert len(seen) >= produced

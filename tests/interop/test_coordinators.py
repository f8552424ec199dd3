"""Group coordinators beside what happens to their partitions, topics and records. These tests start their own brokers."""

import glob
import os
import resource
import socket
import struct
import threading
import time

from harness import KAFKA, Broker, eventually, java
from raw import Connection, batch, parse_batches
from test_groups import OVERRIDES, GROUPS, commit, commit_body, fetch, find, join, sync

UNKNOWN_TOPIC_OR_PARTITION, NOT_AVAILABLE, NOT_COORDINATOR, STORAGE_ERROR = 3, 15, 16, 56
UNKNOWN_TOPIC_ID = 100
OFFSETS = "__consumer_offsets"


def committed(c, group, topic):
    return fetch(c, group, [{"Name": topic, "PartitionIndexes": [0]}]).Topics[0].Partitions[0].CommittedOffset


def delete(c, topic):
    answer = c.call("DeleteTopics", 5, {"TopicNames": [topic], "TimeoutMs": 30000}).Responses[0].ErrorCode
    assert answer == 0, answer


def listed(c):
    answer = c.call("ListGroups", 4, {"StatesFilter": []})
    return answer.ErrorCode, {g.GroupId: g.GroupState for g in answer.Groups}


def test_partitions_that_open_later():
    """A coordinator comes with its replica, also when that could not be opened at first; until then no list of groups hides it."""
    if KAFKA:
        return  # stops
    with Broker(**{"offsets.topic.num.partitions": 20}) as broker, Connection(broker.address) as c:
        c.create_topic("t")
        pid, limits = broker.process.pid, resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
        names = [f"group-{n}" for n in range(60)]
        try:
            used = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")) + 1
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
            # Numbers below the limit may be free.
            idle = [socket.create_connection(broker.address) for _ in range(used)]
            time.sleep(0.5)
            find(c, names[0])
            refused = {n for n in names if c.call("OffsetCommit", 8, commit_body(n, "t", 5)).Topics[0].Partitions[0].ErrorCode}
            assert refused, "all partitions were opened"
            assert listed(c)[0] == NOT_COORDINATOR
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            for one in idle:
                one.close()
        eventually(lambda: listed(c)[0] == 0)
        for name in names:
            assert commit(c, name, "t", 7) == [0], name
        assert listed(c)[1].keys() == set(names)
        assert all(committed(c, name, "t") == 7 for name in names)


def test_offsets_end_with_their_topic():
    """Commits beside deletions, on two cores: nothing of a deleted topic is an offset in the next one of its name, also after kill -9."""
    with Broker(**{"offsets.topic.num.partitions": 8, **OVERRIDES}) as broker, Connection(broker.address) as c:
        for n in range(8):
            find(c, f"g{n}")
        for turn in range(12):
            c.create_topic("t")
            ended, errors = threading.Event(), []

            def committing(group):
                with Connection(broker.address) as mine:
                    while not ended.is_set():
                        code = mine.call("OffsetCommit", 8, commit_body(group, "t", 777)).Topics[0].Partitions[0].ErrorCode
                        if code not in (0, UNKNOWN_TOPIC_OR_PARTITION, NOT_AVAILABLE, NOT_COORDINATOR):
                            errors.append(code)

            threads = [threading.Thread(target=committing, args=(f"g{n}",)) for n in range(8)]
            [t.start() for t in threads]
            eventually(lambda: committed(c, "g0", "t") == 777)
            delete(c, "t")
            ended.set()
            [t.join() for t in threads]
            assert not errors, errors
            if turn % 4 == 3 and not KAFKA:
                broker.kill()
                broker.start()
                c.close()
                c.__init__(broker.address)
            c.create_topic("t")
            found = {n: committed(c, f"g{n}", "t") for n in range(8)}
            assert set(found.values()) == {-1}, f"turn {turn}: {found}"
            delete(c, "t")


def test_ids_of_topics_that_are_gone():
    """A commit by the id of a deleted topic is refused, and one of the next topic stays when the id of the former is asked about."""
    with Broker(**OVERRIDES) as broker, Connection(broker.address) as c:
        find(c, "g")
        former = c.create_topic("t")
        assert commit(c, "g", None, 5, version=10, topic_id=former) == [0]
        delete(c, "t")
        now = c.create_topic("t")
        assert commit(c, "g", None, 6, version=10, topic_id=former) == [UNKNOWN_TOPIC_ID]
        assert commit(c, "g", None, 7, version=10, topic_id=now) == [0]

        def of(topic_id):
            answer = fetch(c, "g", [{"TopicId": topic_id, "PartitionIndexes": [0]}], version=10).Topics[0].Partitions[0]
            return answer.ErrorCode, answer.CommittedOffset

        assert of(now) == (0, 7) and of(former) == (UNKNOWN_TOPIC_ID, -1)
        everything = fetch(c, "g", None, version=10).Topics
        assert [(t.TopicId, t.Partitions[0].CommittedOffset) for t in everything] == [(now, 7)]


def heartbeat(c, group, member, epoch, owned, topic):
    body = {
        "GroupId": group, "MemberId": member, "MemberEpoch": epoch, "RebalanceTimeoutMs": 60000, "SubscribedTopicNames": [topic],
        "TopicPartitions": owned,
    }
    return c.call("ConsumerGroupHeartbeat", 1, body)


def test_members_over_the_deletion_of_their_topic():
    """A modern and a classic group whose topic is created anew: the modern one is assigned the new one, and neither has an offset in it."""
    if KAFKA:
        return
    with Broker(**OVERRIDES) as broker, Connection(broker.address) as c:
        find(c, "modern")
        c.create_topic("t")
        joined = join(c, "classic", "t")
        sync(c, "classic", joined)
        member = {"member": joined.MemberId, "generation": joined.GenerationId}
        assert commit(c, "classic", "t", 777, **member) == [0]
        said = heartbeat(c, "modern", "m", 0, [], "t")
        assert said.ErrorCode == 0 and len(said.Assignment.TopicPartitions) == 1, said
        for turn in range(3):
            epoch = said.MemberEpoch
            assert commit(c, "modern", "t", 777, version=9, member="m", generation=epoch) == [0]
            delete(c, "t")
            if turn == 1:
                broker.kill()
                broker.start()
                c.close()
                c.__init__(broker.address)
            new = c.create_topic("t")

            def assigned():
                nonlocal said
                owned = said.Assignment.TopicPartitions if said.Assignment else []
                answer = heartbeat(c, "modern", "m", said.MemberEpoch, [{"TopicId": t.TopicId, "Partitions": list(t.Partitions)} for t in owned], "t")
                said = answer if answer.ErrorCode == 0 else said
                return answer.ErrorCode == 0 and answer.Assignment and [t.TopicId for t in answer.Assignment.TopicPartitions] == [new]

            eventually(assigned)
            every = lambda group, **who: c.call("OffsetFetch", 9, {"Groups": [{"GroupId": group, "Topics": None, "MemberEpoch": -1, **who}]}).Groups[0]
            for group in ("modern", "classic"):
                answer = every(group)
                assert (answer.ErrorCode, answer.Topics) == (0, []), (turn, group, answer)
        assert commit(c, "classic", "t", 1, **member) == [0]


def offsets_log(broker):
    """The log of the only partition of __consumer_offsets."""
    return sorted(glob.glob(os.path.join(broker.data, f"{OFFSETS}-0", "*.log")))[-1]


def batches_of(path):
    """Positions, offsets and lengths of a log's batches."""
    with open(path, "rb") as log:
        data, at = log.read(), 0
    while at + 61 <= len(data) and data[at + 16] == 2:
        base, length = struct.unpack(">qi", data[at : at + 12])
        yield at, base, length + 12
        at += length + 12


def offset_key(group, topic, partition=0):
    return struct.pack(">hh", 1, len(group)) + group.encode() + struct.pack(">h", len(topic)) + topic.encode() + struct.pack(">i", partition)


def append(broker, records):
    """Puts records into the log of __consumer_offsets, as another broker may have, while ours is down."""
    path = offsets_log(broker)
    *_, (at, base, length) = batches_of(path)
    *_, end = [b.offset for b in parse(path)]
    with open(path, "r+b") as log:
        log.seek(at + length)
        log.write(batch(records, base_offset=end + 1, leader_epoch=0))
    os.remove(os.path.join(broker.data, ".kafka_cleanshutdown"))


def parse(path):
    with open(path, "rb") as log:
        data = log.read()
    return [r for b in parse_batches(data[: sum(n for *_, n in batches_of(path))]) for r in b.records]


def test_records_that_cannot_be_read():
    """A value costs its group, which a tool can delete; a key costs its record; types of other brokers cost nothing. Each is told with its place."""
    if KAFKA:
        return  # loads nothing of the partition
    with Broker(**{"offsets.topic.num.partitions": 1, **OVERRIDES}) as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
            for group in ("damaged", "healthy"):
                find(c, group)
                assert commit(c, group, "t", 5) == [0]
        assert broker.terminate() == 0
        share = struct.pack(">hh", 11, 1) + b"s"
        append(broker, [(offset_key("damaged", "t"), b"\x00\x63?"), (b"\x00\x01\x00\xff", b"?"), (share, b"\x00\x00"), (offset_key("new", "t"), None)])
        broker.start()
        for _ in range(2):
            with Connection(broker.address) as c:
                find(c, "healthy")
                assert committed(c, "healthy", "t") == 5
                assert commit(c, "healthy", "t", 5) == [0]
                answer = c.call("OffsetFetch", 8, {"Groups": [{"GroupId": "damaged", "Topics": None, "MemberEpoch": -1}]}).Groups[0]
                assert answer.ErrorCode == NOT_AVAILABLE, answer
                assert listed(c) == (0, {"damaged": "Unknown", "healthy": "Empty"})
            broker.kill()
            broker.start()
        with open(broker.log) as log:
            told = log.read()
        assert "ERROR" in told and f"{OFFSETS}-0: the record at offset 2 with the key {offset_key('damaged', 't').hex()} cannot be read" in told, told[-2000:]
        assert "the record at offset 3 is passed over, its key 000100ff cannot be read" in told, told[-2000:]
        assert f"{OFFSETS}-0: records of the unknown type 11 are passed over" in told, told[-2000:]
        code, out, err = java(GROUPS, "--bootstrap-server", broker.bootstrap, "--delete", "--group", "damaged")
        assert code == 0 and "Deletion of requested consumer groups ('damaged') was successful" in out, (out, err)
        broker.kill()
        broker.start()
        with Connection(broker.address) as c:
            find(c, "damaged")
            assert committed(c, "damaged", "t") == -1
            assert listed(c)[1].keys() == {"healthy"}
            assert commit(c, "damaged", "t", 1) == [0]


def test_a_damaged_batch():
    """Bytes that have changed on the disk cost the groups of their batch."""
    if KAFKA:
        return
    with Broker(**{"offsets.topic.num.partitions": 1, **OVERRIDES}) as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
            for group in ("first", "damaged", "last"):
                find(c, group)
                assert commit(c, group, "t", 5) == [0]
            assert commit(c, "damaged", "t", 6) == [0]
            assert commit(c, "last", "t", 6) == [0]
        assert broker.terminate() == 0
        path = offsets_log(broker)
        at, base, length = list(batches_of(path))[3]
        assert base == 3
        with open(path, "r+b") as log:
            log.seek(at + length - 2)
            byte = log.read(1)[0]
            log.seek(at + length - 2)
            log.write(bytes([byte ^ 0x10]))
        broker.start()
        with Connection(broker.address) as c:
            find(c, "first")
            assert (committed(c, "first", "t"), committed(c, "last", "t")) == (5, 6)
            answer = c.call("OffsetFetch", 8, {"Groups": [{"GroupId": "damaged", "Topics": None, "MemberEpoch": -1}]}).Groups[0]
            assert answer.ErrorCode == NOT_AVAILABLE, "not back to 5"
            assert c.call("DeleteGroups", 2, {"GroupsNames": ["damaged"]}).Results[0].ErrorCode == 0
            assert commit(c, "damaged", "t", 9) == [0]
        with open(broker.log) as log:
            told = log.read()
        assert f"{OFFSETS}-0: the batch of offsets 3 to 3 cannot be read" in told and "group damaged" in told, told[-2000:]

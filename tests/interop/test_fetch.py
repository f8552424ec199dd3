"""Fetch: what comes back, when it comes back, sessions. All with the raw client."""

import socket
import threading
import time
import uuid

from harness import KAFKA, eventually
from raw import Connection, batch, fetch_body, parse_batches, values

OVERRIDES = {"auto.create.topics.enable": "false"}

OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID = 1, 3, 100
FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, UNKNOWN_LEADER_EPOCH = 70, 71, 75


def fill(c, topic, batches, records=10, size=10, partition=0):
    """Produces `batches` batches of `records` records whose values tell their offset."""
    for n in range(batches):
        c.produce_ok(topic, partition, batch([b"%0*d" % (size, n * records + i) for i in range(records)]))


class Waiting:
    """A fetch under way on a connection of its own."""

    def __init__(self, address, topic, offsets, **more):
        self.connection = Connection(address)
        version = more.get("version", 11)
        self.connection.send("Fetch", version, fetch_body(topic, offsets, **more))
        self.started, self.answer = time.monotonic(), None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        self.answer = self.connection.receive()
        self.seconds = time.monotonic() - self.started

    def get(self, timeout=60):
        self.thread.join(timeout)
        assert self.answer is not None, "the fetch is not answered"
        self.connection.close()
        return {p.PartitionIndex: p for t in self.answer.Responses for p in t.Partitions}


def test_every_version(broker):
    with Connection(broker.address) as c:
        topic_id = c.create_topic("versions", 2)
        fill(c, "versions", 2)
        for version in range(4, 19):
            topic = topic_id if version >= 13 else "versions"
            answer = c.call("Fetch", version, fetch_body(topic, {0: 0, 1: 0}, version=version))
            assert answer.ErrorCode == 0 and len(answer.Responses) == 1, (version, answer)
            assert answer.Responses[0].TopicId == topic_id if version >= 13 else answer.Responses[0].Topic == "versions"
            parts = {p.PartitionIndex: p for p in answer.Responses[0].Partitions}
            assert set(parts) == {0, 1}, (version, parts)
            got = values(parse_batches(parts[0].Records))
            assert got == [b"%010d" % n for n in range(20)], (version, got)
            assert parts[0].HighWatermark == parts[0].LastStableOffset == 20, (version, parts[0])
            assert parts[1].HighWatermark == 0 and parts[1].Records == b"", (version, parts[1])
            for p in parts.values():
                assert p.ErrorCode == 0 and not p.AbortedTransactions and p.PreferredReadReplica == -1, (version, p)
                assert version < 5 or p.LogStartOffset == 0
                assert p.DivergingEpoch in ({}, {"Epoch": -1, "EndOffset": -1}), (version, p)


def test_mid_batch(broker):
    """An offset inside a batch returns that batch whole."""
    with Connection(broker.address) as c:
        c.create_topic("mid")
        fill(c, "mid", 3)
        for offset in range(30):
            got = parse_batches(c.fetch("mid", {0: offset})[0].Records)
            assert got[0].base_offset == offset // 10 * 10 and got[-1].next_offset == 30, (offset, got)


def test_first_batch_whole(broker):
    """KIP-74: limits smaller than the first batch do not stop the consumer."""
    with Connection(broker.address) as c:
        c.create_topic("first", 3)
        for partition in range(3):
            fill(c, "first", 2, size=1000, partition=partition)
        for more in ({"partition_max": 12}, {"max_bytes": 12}, {"partition_max": 0}, {"max_bytes": 12, "partition_max": 12}, {"max_bytes": 1}):
            answer = c.fetch("first", {0: 0}, **more)[0]
            got = parse_batches(answer.Records, partial=True)
            assert got and got[0].base_offset == 0 and len(got[0].records) == 10, (more, answer)
        # The exception is for the first partition with data only: the rest get nothing then.
        answers = c.fetch("first", {0: 0, 1: 0, 2: 0}, max_bytes=12)
        whole = [p for p, a in answers.items() if parse_batches(a.Records, partial=True)]
        assert len(answers) == 3 and whole == [0], {p: len(a.Records) for p, a in answers.items()}
        answers = c.fetch("first", {2: 20, 1: 0, 0: 0}, max_bytes=12)
        whole = [p for p, a in answers.items() if parse_batches(a.Records, partial=True)]
        assert whole == [1], {p: len(a.Records) for p, a in answers.items()}


def test_first_batch_whole_beside_others(broker):
    """A batch larger than its partition's limit comes when its partition is the first that has records, whatever others have."""
    with Connection(broker.address) as c:
        c.create_topic("beside", 4)
        large = batch([b"x" * 1000] * 100)
        for partition in range(4):
            c.produce_ok("beside", partition, large)
            fill(c, "beside", 2, partition=partition)
        for first in range(4):
            # Behind the large batch, but in the first partition.
            rest = {p: 100 for p in range(4) if p != first}
            answers = c.fetch("beside", {first: 0, **rest}, partition_max=10_000)
            got = {p: parse_batches(a.Records, partial=True) for p, a in answers.items()}
            assert got[first][0].base_offset == 0 and len(got[first][0].records) == 100, (first, {p: len(b) for p, b in got.items()})
            assert all(got[p] for p in rest), "there is room for the others"
            answers = c.fetch("beside", {**rest, first: 0}, partition_max=10_000)
            whole = {p for p, a in answers.items() if parse_batches(a.Records, partial=True)}
            assert whole == set(rest), (first, whole)
            # Of the whole answer no more is left than one small batch.
            answers = c.fetch("beside", {first: 0, **rest}, partition_max=10_000, max_bytes=len(large) + 10)
            whole = {p for p, a in answers.items() if parse_batches(a.Records, partial=True)}
            assert whole == {first}, (first, whole)


def test_limits_hold(broker):
    with Connection(broker.address) as c:
        c.create_topic("limits", 4)
        for partition in range(4):
            fill(c, "limits", 30, size=100, partition=partition)
        one = len(batch([b"%0100d" % 0] * 10))
        for limit in (one, one + 1, 3 * one, 10 * one - 1):
            got = c.fetch("limits", {0: 0}, partition_max=limit)[0].Records
            assert one <= len(got) <= limit, (limit, len(got))
        for limit in (one, 5 * one, 50 * one, 110 * one):
            answers = c.fetch("limits", {p: 0 for p in range(4)}, max_bytes=limit)
            total = sum(len(a.Records) for a in answers.values())
            assert len(answers) == 4 and 0 < total <= limit, (limit, total)


def test_read_in_steps(broker):
    """Small steps through many batches give every record once, whatever the limit."""
    with Connection(broker.address) as c:
        c.create_topic("steps")
        fill(c, "steps", 100, records=7, size=50)
        for limit in (1, 700, 5000):
            offset, seen = 0, []
            while offset < 700:
                got = parse_batches(c.fetch("steps", {0: offset}, partition_max=limit)[0].Records, partial=True)
                seen += values(got)
                offset = got[-1].next_offset
            assert seen == [b"%050d" % n for n in range(700)], limit


def test_out_of_range(broker):
    with Connection(broker.address) as c:
        c.create_topic("range")
        fill(c, "range", 1)
        for offset in (-10, -1, 11, 1 << 40, 2**63 - 1):
            started = time.monotonic()
            answer = c.fetch("range", {0: offset}, max_wait=30000)[0]
            assert answer.ErrorCode == OFFSET_OUT_OF_RANGE and not answer.Records, (offset, answer)
            assert (answer.HighWatermark, answer.LogStartOffset) in ((-1, -1), (10, 0)), answer
            assert time.monotonic() - started < 20, "an error is answered at once"
        at_end = c.fetch("range", {0: 10}, max_wait=0)[0]
        assert at_end.ErrorCode == 0 and at_end.Records == b"" and at_end.HighWatermark == 10, at_end


def test_unknown_topics(broker):
    with Connection(broker.address) as c:
        topic_id = c.create_topic("known")
        fill(c, "known", 1)
        answer = c.fetch("unknown", {0: 0}, max_wait=30000)[0]
        assert answer.ErrorCode == UNKNOWN_TOPIC_OR_PARTITION and not answer.Records, answer
        answers = c.fetch("known", {0: 0, 7: 0, -1: 0}, max_wait=30000)
        assert {p: a.ErrorCode for p, a in answers.items()} == {0: 0, 7: UNKNOWN_TOPIC_OR_PARTITION, -1: UNKNOWN_TOPIC_OR_PARTITION}
        assert c.fetch(uuid.uuid4(), {0: 0}, version=13)[0].ErrorCode == UNKNOWN_TOPIC_ID
        assert c.fetch(topic_id, {0: 0}, version=13)[0].ErrorCode == 0


def test_leader_epoch(broker):
    with Connection(broker.address) as c:
        c.create_topic("epoch")
        fill(c, "epoch", 1)
        assert c.fetch("epoch", {0: 0}, epoch=0)[0].ErrorCode == 0
        assert c.fetch("epoch", {0: 0}, epoch=-1)[0].ErrorCode == 0
        assert c.fetch("epoch", {0: 0}, epoch=5)[0].ErrorCode == UNKNOWN_LEADER_EPOCH


def test_read_committed(broker):
    """Without transactions both isolation levels see the same."""
    with Connection(broker.address) as c:
        c.create_topic("committed")
        fill(c, "committed", 2)
        answer = c.fetch("committed", {0: 0}, isolation=1)[0]
        assert len(values(parse_batches(answer.Records))) == 20 and answer.LastStableOffset == 20, answer


# When the answer comes.


def test_long_poll_sees_record_at_once(broker):
    with Connection(broker.address) as c:
        c.create_topic("poll", 4)
        waiting = [Waiting(broker.address, "poll", {p: 0}, max_wait=100000) for p in (0, 1, 2, 3)]
        everything = Waiting(broker.address, "poll", {p: 0 for p in range(4)}, max_wait=100000)
        time.sleep(0.5)
        assert all(w.answer is None for w in waiting) and everything.answer is None
        c.produce_ok("poll", 2, batch([b"now"]))
        assert values(parse_batches(waiting[2].get()[2].Records)) == [b"now"]
        assert values(parse_batches(everything.get()[2].Records)) == [b"now"]
        assert all(waiting[p].answer is None for p in (0, 1, 3)), "only partition 2 has news"
        for p in (0, 1, 3):
            c.produce_ok("poll", p, batch([b"too"]), acks=1)
            assert values(parse_batches(waiting[p].get()[p].Records)) == [b"too"]


def test_long_poll_many_waiters(broker):
    """A hundred consumers wait for the same record."""
    with Connection(broker.address) as c:
        c.create_topic("fan-out")
        waiting = [Waiting(broker.address, "fan-out", {0: 0}, max_wait=100000) for _ in range(100)]
        time.sleep(0.5)
        c.produce_ok("fan-out", 0, batch([b"one for all"]))
        assert all(values(parse_batches(w.get()[0].Records)) == [b"one for all"] for w in waiting)


def test_min_bytes_waits_max_wait(broker):
    with Connection(broker.address) as c:
        c.create_topic("patient", 2)
        fill(c, "patient", 1)
        for offsets in ({0: 0}, {0: 10}, {0: 0, 1: 0}):
            waiting = Waiting(broker.address, "patient", offsets, max_wait=1500, min_bytes=1 << 20)
            answer = waiting.get()
            assert waiting.seconds > 1.3, f"answered after {waiting.seconds} s"
            assert len(values(parse_batches(answer[0].Records))) == 10 - offsets[0], answer
        waiting = Waiting(broker.address, "patient", {0: 0}, max_wait=100000, min_bytes=1)
        assert waiting.get()[0].Records, "one byte is there already"
        waiting = Waiting(broker.address, "patient", {0: 10}, max_wait=100000, min_bytes=0)
        assert waiting.get()[0].Records == b"", "nothing asked for, nothing waited for"


def test_min_bytes_released_when_reached(broker):
    with Connection(broker.address) as c:
        c.create_topic("reach", 2)
        waiting = Waiting(broker.address, "reach", {0: 0, 1: 0}, max_wait=100000, min_bytes=5000)
        time.sleep(0.3)
        for n in range(4):
            c.produce_ok("reach", n % 2, batch([b"x" * 1000]))
        time.sleep(0.5)
        assert waiting.answer is None, "4 of 5 thousand bytes are there"
        c.produce_ok("reach", 0, batch([b"x" * 1000]))
        assert sum(len(p.Records) for p in waiting.get().values()) >= 5000


def test_waiting_fetch_of_closed_connection(broker):
    """A consumer that goes away while it waits leaves nothing behind that matters."""
    with Connection(broker.address) as c:
        c.create_topic("gone")
        for _ in range(50):
            with Connection(broker.address) as gone:
                gone.send("Fetch", 11, fetch_body("gone", {0: 0}, max_wait=100000))
        fill(c, "gone", 1)
        assert len(values(c.fetch_all("gone", 0))) == 10


def test_waiting_fetch_of_client_that_ended(broker):
    """A client that has ended its side asks for nothing more: what it waits for is answered at once, not kept for days."""
    if KAFKA:
        return  # it closes such a connection without the answer
    with Connection(broker.address, timeout=20) as c:
        c.create_topic("ended")
        c.send("Fetch", 11, fetch_body("ended", {0: 0}, max_wait=(1 << 31) - 1))
        time.sleep(0.2)
        c.socket.shutdown(socket.SHUT_WR)
        assert c.receive().Responses[0].Partitions[0].ErrorCode == 0


def test_topic_deleted_under_waiting_fetch(broker):
    with Connection(broker.address) as c:
        c.create_topic("vanish")
        waiting = Waiting(broker.address, "vanish", {0: 0}, max_wait=20000)
        time.sleep(0.3)
        assert c.call("DeleteTopics", 5, {"TopicNames": ["vanish"], "TimeoutMs": 30000}).Responses[0].ErrorCode == 0
        answer = waiting.get()
        assert answer[0].Records in (b"", None), answer
        eventually(lambda: c.fetch("vanish", {0: 0})[0].ErrorCode == UNKNOWN_TOPIC_OR_PARTITION)


# Sessions (KIP-227).


def open_session(c, topic, offsets):
    answer = c.call("Fetch", 11, fetch_body(topic, offsets, session=(0, 0)))
    assert answer.ErrorCode == 0 and answer.SessionId > 0, answer
    assert {p.PartitionIndex for p in answer.Responses[0].Partitions} == set(offsets)
    return answer.SessionId


def news(answer):
    return {p.PartitionIndex: values(parse_batches(p.Records)) for t in answer.Responses for p in t.Partitions}


def test_session(broker):
    with Connection(broker.address) as c:
        c.create_topic("session", 4)
        fill(c, "session", 1, records=2, partition=1)
        session = open_session(c, "session", {p: 0 for p in range(4)})

        def step(epoch, offsets=None, **more):
            answer = c.call("Fetch", 11, fetch_body("session", offsets or {}, session=(session, epoch), **more))
            assert answer.ErrorCode == 0 and answer.SessionId == session, answer
            return answer

        assert news(step(1, {1: 2})) == {}, "nothing new: no partition is named"
        c.produce_ok("session", 3, batch([b"c"]))
        assert news(step(2)) == {3: [b"c"]}
        assert news(step(3, {3: 1})) == {}
        # Forgotten partitions are not reported any more, added ones are.
        c.produce_ok("session", 0, batch([b"a"]))
        c.produce_ok("session", 2, batch([b"b"]))
        assert news(step(4, forgotten=[0])) == {2: [b"b"]}
        assert news(step(5, {2: 1})) == {}
        assert news(step(6, {0: 0})) == {0: [b"a"]}
        started = time.monotonic()
        assert news(step(7, {0: 1}, max_wait=1500)) == {}
        assert time.monotonic() - started > 1.3, "an empty incremental fetch waits like any other"


def test_session_waits_for_record(broker):
    with Connection(broker.address) as c, Connection(broker.address) as producer:
        c.create_topic("session-poll", 3)
        session = open_session(c, "session-poll", {p: 0 for p in range(3)})
        c.send("Fetch", 11, fetch_body("session-poll", {}, session=(session, 1), max_wait=100000))
        time.sleep(0.3)
        producer.produce_ok("session-poll", 1, batch([b"news"]))
        assert news(c.receive()) == {1: [b"news"]}


def test_session_errors(broker):
    with Connection(broker.address) as c:
        c.create_topic("session-errors", 1)
        session = open_session(c, "session-errors", {0: 0})
        unknown = session ^ 0x2AAAAAAA or 1
        assert c.call("Fetch", 11, fetch_body("session-errors", {}, session=(unknown, 1))).ErrorCode == FETCH_SESSION_ID_NOT_FOUND
        assert c.call("Fetch", 11, fetch_body("session-errors", {}, session=(session, 7))).ErrorCode == INVALID_FETCH_SESSION_EPOCH
        assert c.call("Fetch", 11, fetch_body("session-errors", {}, session=(session, 1))).ErrorCode == 0
        assert c.call("Fetch", 11, fetch_body("session-errors", {}, session=(session, 1))).ErrorCode == INVALID_FETCH_SESSION_EPOCH
        # Epoch -1 ends the session; the answer is a full one.
        closed = c.call("Fetch", 11, fetch_body("session-errors", {0: 0}, session=(session, -1)))
        assert (closed.ErrorCode, closed.SessionId) == (0, 0) and len(closed.Responses) == 1, closed
        assert c.call("Fetch", 11, fetch_body("session-errors", {}, session=(session, 2))).ErrorCode == FETCH_SESSION_ID_NOT_FOUND


def test_session_with_ids(broker):
    with Connection(broker.address) as c:
        topic_id = c.create_topic("session-ids", 2)
        answer = c.call("Fetch", 17, fetch_body(topic_id, {0: 0, 1: 0}, session=(0, 0)))
        assert answer.ErrorCode == 0 and answer.SessionId > 0, answer
        c.produce_ok("session-ids", 1, batch([b"x"]))
        answer = c.call("Fetch", 17, fetch_body(topic_id, {}, session=(answer.SessionId, 1)))
        assert [t.TopicId for t in answer.Responses] == [topic_id] and news(answer) == {1: [b"x"]}, answer


def test_many_sessions(broker):
    """More sessions than there are slots: the broker may refuse a session, never an answer."""
    with Connection(broker.address) as c:
        c.create_topic("slots", 1)
        fill(c, "slots", 1)
        for _ in range(3000):
            c.send("Fetch", 11, fetch_body("slots", {0: 0}, session=(0, 0)))
        for _ in range(3000):
            answer = c.receive()
            assert answer.ErrorCode == 0 and len(answer.Responses) == 1 and answer.Responses[0].Partitions[0].Records, answer

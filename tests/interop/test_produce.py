"""Produce: acks, the checks of a batch, idempotence. All with the raw client."""

import time
import uuid

from raw import CONTROL, GZIP, KAFKA, LOG_APPEND_TIME, TRANSACTIONAL, Closed, Connection, batch, old_message, parse_batches, produce_body, values

OVERRIDES = {"auto.create.topics.enable": "false"}

CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION, MESSAGE_TOO_LARGE, INVALID_REQUIRED_ACKS = 2, 3, 10, 21
INVALID_TIMESTAMP, OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH = 32, 45, 47
UNSUPPORTED_FOR_MESSAGE_FORMAT, INVALID_RECORD, UNKNOWN_TOPIC_ID = 43, 87, 100
INVALID_REQUEST, COORDINATOR_LOAD_IN_PROGRESS = 42, 14


def producer_id(c):
    body = {"TransactionalId": None, "TransactionTimeoutMs": 60000}
    answer = c.call("InitProducerId", 4, body)
    while KAFKA and answer.ErrorCode == COORDINATOR_LOAD_IN_PROGRESS:
        answer = c.call("InitProducerId", 4, body)
    assert answer.ErrorCode == 0 and answer.ProducerEpoch == 0, answer
    return answer.ProducerId


def test_every_version(broker):
    with Connection(broker.address) as c:
        topic_id = c.create_topic("versions")
        for n, version in enumerate(range(3, 14)):
            topic = topic_id if version >= 13 else "versions"
            answer = c.call("Produce", version, produce_body(topic, {0: batch([b"v%d" % version])}))
            part = answer.Responses[0].PartitionResponses[0]
            assert part.ErrorCode == 0 and part.BaseOffset == n and part.LogAppendTimeMs == -1, (version, part)
            assert version < 5 or part.LogStartOffset == 0, (version, part)
            assert answer.Responses[0].TopicId == topic_id if version >= 13 else answer.Responses[0].Name == "versions"
            assert not part.RecordErrors and part.ErrorMessage is None, (version, part)
        assert values(c.fetch_all("versions", 0)) == [b"v%d" % v for v in range(3, 14)]


def test_refused_versions_close(broker):
    for version in (0, 1, 2, 14):
        with Connection(broker.address) as c:
            frame, expected = c.frame("Produce", 3, produce_body("versions", {0: batch([b"x"])}))
            c.socket.sendall(frame[:6] + version.to_bytes(2, "big") + frame[8:])
            c.sent.append(expected)
            try:
                c.receive()
                raise AssertionError(f"version {version} was answered")
            except Closed:
                pass


def test_acks(broker):
    with Connection(broker.address) as c:
        c.create_topic("acks", 2)
        c.produce("acks", 0, batch([b"none"]), acks=0)
        assert c.produce_ok("acks", 0, batch([b"one"]), acks=1) == 1
        assert c.produce_ok("acks", 0, batch([b"all"]), acks=-1) == 2
        for acks in (2, -2, 7):
            answer = c.produce("acks", 0, batch([b"bad"]), acks=acks)
            assert (answer.ErrorCode, answer.BaseOffset) == (INVALID_REQUIRED_ACKS, -1), (acks, answer)
        assert values(c.fetch_all("acks", 0)) == [b"none", b"one", b"all"]


def test_acks_zero_error_closes(broker):
    """A failed produce without acks can only be told by closing the connection."""
    with Connection(broker.address) as c:
        c.send("Produce", 9, produce_body("no-such-topic", {0: batch([b"x"])}, acks=0), answered=False)
        c.send("Metadata", 9, {"Topics": []})
        try:
            c.receive()
            raise AssertionError("the connection stayed open")
        except Closed:
            pass


def test_unknown_topics(broker):
    with Connection(broker.address) as c:
        c.create_topic("known", 2)
        good = batch([b"x"])
        answer = c.produce("no-such-topic", 0, good)
        assert (answer.ErrorCode, answer.BaseOffset) == (UNKNOWN_TOPIC_OR_PARTITION, -1), answer
        for partition in (2, 100000, -1):
            assert c.produce("known", partition, good).ErrorCode == UNKNOWN_TOPIC_OR_PARTITION
        assert c.produce(uuid.uuid4(), 0, good, version=13).ErrorCode == UNKNOWN_TOPIC_ID
        body = produce_body("known", {0: good, 5: good, 1: good})
        answers = {p.Index: p.ErrorCode for p in c.call("Produce", 9, body).Responses[0].PartitionResponses}
        assert answers == {0: 0, 5: UNKNOWN_TOPIC_OR_PARTITION, 1: 0}, answers


def test_bad_batches_beside_good(broker):
    """Every kind of bad batch in one request: each partition has its own answer, and the good ones are stored."""
    good, two = batch([b"a", b"b"]), [b"x", b"y"]
    cases = {
        "good": (good, 0),
        "crc": (batch(two, crc=12345), CORRUPT_MESSAGE),
        "count high": (batch(two, count=3), INVALID_RECORD),
        "count low": (batch(two, count=1), INVALID_RECORD),
        "count zero": (batch(two, count=0), INVALID_RECORD),
        "count negative": (batch(two, count=-5), INVALID_RECORD),
        "delta lies": (batch(two, last_offset_delta=7), INVALID_RECORD),
        "control": (batch(two, attributes=CONTROL), INVALID_RECORD),
        "two batches": (good + good, INVALID_RECORD),
        "payload of another count": (batch(two, payload=b"\x0e\0\0\0\1\2x\0"), INVALID_RECORD),
        "length long": (batch(two, length=500), INVALID_RECORD),
        "length short": (batch(two, length=20), CORRUPT_MESSAGE),
        "length negative": (batch(two, length=-1), CORRUPT_MESSAGE),
        "garbage": (b"\0" * 61, CORRUPT_MESSAGE),
        "cut": (good[:-3], INVALID_RECORD),
        "five bytes": (b"\1\2\3\4\5", INVALID_RECORD),
        "magic 3": (batch(two, magic=3), CORRUPT_MESSAGE),
        "magic negative": (batch(two, magic=-1), CORRUPT_MESSAGE),
        "empty": (b"", INVALID_RECORD),
        "base offset": (batch(two, base_offset=777), INVALID_RECORD),
        "good too": (good, 0),
    }
    # Kafka fails the whole request when it cannot even walk over the batches of one partition.
    apart = {"length short", "length negative", "garbage", "magic 3", "magic negative"}
    with Connection(broker.address) as c:
        c.create_topic("bad", 2 * len(cases))
        body = produce_body("bad", {n: records for n, (name, (records, _)) in enumerate(cases.items()) if name not in apart})
        together = {p.Index: p for p in c.call("Produce", 9, body).Responses[0].PartitionResponses}
        wrong = {}
        for n, (name, (records, wanted)) in enumerate(cases.items()):
            alone = c.produce("bad", len(cases) + n, records)
            beside = together.get(n, alone)
            if beside.ErrorCode != wanted or alone.ErrorCode != wanted:
                wrong[name] = (beside.ErrorCode, alone.ErrorCode, wanted, beside.ErrorMessage)
            stored = c.list_offset("bad", n, -1).Offset
            assert stored == (0 if wanted else 2) or name in wrong, f"{name}: {stored} records stored"
        assert not wrong, f"name: (together, alone, wanted, message): {wrong}"


def test_too_large(broker):
    with Connection(broker.address) as c:
        c.create_topic("large", 3, max_message_bytes=2000)
        fits = batch([b"x" * (2000 - len(batch([b""])) - 2)])
        assert len(fits) <= 2000
        over = batch([b"x" * 2000])
        packed = batch([b"x" * 5000], attributes=GZIP)
        answers = {p.Index: p.ErrorCode for p in c.call("Produce", 9, produce_body("large", {0: fits, 1: over, 2: packed})).Responses[0].PartitionResponses}
        assert answers == {0: 0, 1: MESSAGE_TOO_LARGE, 2: 0}, answers
        c.create_topic("default-limit", 1)
        answer = c.produce("default-limit", 0, batch([b"x" * 1048588]))
        assert answer.ErrorCode == MESSAGE_TOO_LARGE, answer
        c.produce_ok("default-limit", 0, batch([b"x" * 1048000]))


def test_old_formats(broker):
    with Connection(broker.address) as c:
        c.create_topic("old", 4)
        answers = {}
        for n, (magic, version) in enumerate(((0, 3), (1, 3), (0, 9), (1, 9))):
            answers[magic, version] = c.produce("old", n, old_message(magic, b"hello"), version=version).ErrorCode
        assert set(answers.values()) == {INVALID_RECORD}, answers


def test_compressed_versions(broker):
    """zstd came with Produce 7; the batch is otherwise only looked at by its header."""
    with Connection(broker.address) as c:
        c.create_topic("codecs", 4)
        assert c.produce_ok("codecs", 0, batch([b"a", b"b", b"c"], attributes=GZIP)) == 0
        assert c.produce_ok("codecs", 0, batch([b"d"])) == 3
        assert values(c.fetch_all("codecs", 0)) == [b"a", b"b", b"c", b"d"]


def test_log_append_time(broker):
    with Connection(broker.address) as c:
        c.create_topic("append-time", 1, message_timestamp_type="LogAppendTime")
        before = int(time.time() * 1000)
        answer = c.produce("append-time", 0, batch([b"a", b"b"], timestamps=[1000, 2000]))
        assert answer.ErrorCode == 0 and before - 1000 <= answer.LogAppendTimeMs <= before + 60000, answer
        packed = c.produce("append-time", 0, batch([b"c", b"d"], timestamps=[3000, 4000], attributes=GZIP))
        found = c.fetch_all("append-time", 0)
        assert all(b.attributes & LOG_APPEND_TIME for b in found)
        times = [r.timestamp for b in found for r in b.records]
        assert times == [answer.LogAppendTimeMs] * 2 + [packed.LogAppendTimeMs] * 2, (times, answer)
        assert c.list_offset("append-time", 0, answer.LogAppendTimeMs).Offset == 0
        claims = batch([b"e"], attributes=LOG_APPEND_TIME)
        c.create_topic("create-time", 1)
        answer = c.produce("create-time", 0, claims)
        assert answer.ErrorCode in (0, INVALID_TIMESTAMP), answer
        assert not any(b.attributes & LOG_APPEND_TIME for b in c.fetch_all("create-time", 0)), "the topic's type is CreateTime"
        answer = c.produce("append-time", 0, claims)
        assert answer.ErrorCode in (0, INVALID_TIMESTAMP), answer


def test_timestamp_bounds(broker):
    now, day = int(time.time() * 1000), 86400000
    with Connection(broker.address) as c:
        c.create_topic("bounds", 1, message_timestamp_before_max_ms=day, message_timestamp_after_max_ms=day)
        for offset, wanted in ((0, 0), (-2 * day, INVALID_TIMESTAMP), (2 * day, INVALID_TIMESTAMP), (-day // 2, 0)):
            answer = c.produce("bounds", 0, batch([b"x"], timestamps=[now + offset]))
            assert answer.ErrorCode == wanted, (offset, answer)
        mixed = c.produce("bounds", 0, batch([b"x", b"y", b"z"], timestamps=[now, now - 2 * day, now]))
        assert mixed.ErrorCode == INVALID_TIMESTAMP and [e.BatchIndex for e in mixed.RecordErrors] == [1], mixed
        c.create_topic("no-bounds", 1)
        c.produce_ok("no-bounds", 0, batch([b"x"], timestamps=[0]))


def test_compacted_needs_keys(broker):
    with Connection(broker.address) as c:
        c.create_topic("compacted", 1, cleanup_policy="compact")
        answer = c.produce("compacted", 0, batch([(b"k", b"v"), (None, b"v"), (b"k", None), (None, None)]))
        assert answer.ErrorCode == INVALID_RECORD and [e.BatchIndex for e in answer.RecordErrors] == [1, 3], answer
        assert answer.ErrorMessage and all(e.BatchIndexErrorMessage for e in answer.RecordErrors), answer
        assert c.produce_ok("compacted", 0, batch([(b"k", b"v"), (b"k", None)])) == 0


def test_headers_and_nulls(broker):
    from raw import record

    with Connection(broker.address) as c:
        c.create_topic("headers", 1)
        payload = record(0, None, None) + record(1, b"", b"") + record(2, b"k", b"v", headers=[(b"a", b"1"), (b"a", None), (b"", b"")])
        c.produce_ok("headers", 0, batch([b""] * 3, payload=payload))
        got = c.fetch_all("headers", 0)[0].records
        assert [(r.key, r.value, r.headers) for r in got] == [(None, None, []), (b"", b"", []), (b"k", b"v", [(b"a", b"1"), (b"a", None), (b"", b"")])]


def test_broken_records(broker):
    """Batches whose header is right but whose records are not."""
    from raw import record, zigzag

    good = record(0, b"k", b"v")
    cases = {
        "record longer than batch": zigzag(100) + good[1:],
        "record shorter": zigzag(3) + good[1:],
        "negative length": zigzag(-1) + good[1:],
        "huge length": zigzag(2**31 - 1) + good[1:],
        "key longer than record": zigzag(7) + b"\0\0\0" + zigzag(1000) + b"kvx",
        "key of minus five": zigzag(6) + b"\0\0\0" + zigzag(-5) + b"\0\0",
        "value longer than record": zigzag(7) + b"\0\0\0\0" + zigzag(1000) + b"vx",
        "headers without end": zigzag(7) + b"\0\0\0\1\1" + zigzag(2**31 - 1)[:2],
        "negative headers": zigzag(6) + b"\0\0\0\1\1" + zigzag(-1),
        "null header key": zigzag(8) + b"\0\0\0\1\1" + zigzag(1) + zigzag(-1) + zigzag(-1),
        "wrong offset delta": record(5, b"k", b"v"),
        "trailing bytes": good + b"\0\0\0",
        "overlong varint": b"\xff" * 11,
        "nothing": b"",
    }
    with Connection(broker.address) as c:
        c.create_topic("broken", len(cases))
        answers = {}
        for n, (name, payload) in enumerate(cases.items()):
            answers[name] = c.produce("broken", n, batch([b"x"], payload=payload)).ErrorCode
        # Kafka lets two of these through, and has no word for a third.
        lenient = {"key of minus five": 0, "wrong offset delta": 0, "overlong varint": -1}
        wrong = {name: code for name, code in answers.items() if code not in (INVALID_RECORD, CORRUPT_MESSAGE, lenient.get(name))}
        assert not wrong, wrong
        assert c.produce_ok("broken", 0, batch([b"still works"])) == 0


# Idempotent producers.


def test_duplicates(broker):
    """An exact repeat of one of the last five batches is answered with its offset and not stored again."""
    with Connection(broker.address) as c:
        c.create_topic("dup", 1)
        pid = producer_id(c)
        sent = [batch([b"%d-%d" % (n, i) for i in range(3)], producer=(pid, 0, 3 * n)) for n in range(7)]
        offsets = [c.produce_ok("dup", 0, b) for b in sent]
        assert offsets == [0, 3, 6, 9, 12, 15, 18]
        for n in (6, 5, 4, 3, 2, 6, 2):
            assert c.produce_ok("dup", 0, sent[n]) == offsets[n], n
        assert c.list_offset("dup", 0, -1).Offset == 21
        # Older than the window: Kafka cannot tell any more, and calls it out of order.
        assert c.produce("dup", 0, sent[1]).ErrorCode == OUT_OF_ORDER_SEQUENCE_NUMBER
        assert c.produce_ok("dup", 0, batch([b"next"], producer=(pid, 0, 21))) == 21


def test_gaps_and_overlaps(broker):
    with Connection(broker.address) as c:
        c.create_topic("gap", 1)
        pid = producer_id(c)
        c.produce_ok("gap", 0, batch([b"a", b"b", b"c"], producer=(pid, 0, 0)))
        for first, count in ((4, 1), (100, 1), (2, 2), (1, 1), (0, 2), (0, 4)):
            answer = c.produce("gap", 0, batch([b"x"] * count, producer=(pid, 0, first)))
            assert answer.ErrorCode == OUT_OF_ORDER_SEQUENCE_NUMBER, (first, count, answer)
        c.produce_ok("gap", 0, batch([b"d"], producer=(pid, 0, 3)))
        assert values(c.fetch_all("gap", 0)) == [b"a", b"b", b"c", b"d"]


def test_first_sequence_is_free(broker):
    """A producer the partition knows nothing of may start anywhere: its state may have expired."""
    with Connection(broker.address) as c:
        c.create_topic("free", 1)
        pid = producer_id(c)
        c.produce_ok("free", 0, batch([b"a"], producer=(pid, 0, 41)))
        c.produce_ok("free", 0, batch([b"b"], producer=(pid, 0, 42)))


def test_epochs(broker):
    with Connection(broker.address) as c:
        c.create_topic("epochs", 1)
        pid = producer_id(c)
        c.produce_ok("epochs", 0, batch([b"a"], producer=(pid, 0, 0)))
        assert c.produce("epochs", 0, batch([b"x"], producer=(pid, 1, 1))).ErrorCode == OUT_OF_ORDER_SEQUENCE_NUMBER
        c.produce_ok("epochs", 0, batch([b"b"], producer=(pid, 1, 0)))
        assert c.produce("epochs", 0, batch([b"x"], producer=(pid, 0, 1))).ErrorCode == INVALID_PRODUCER_EPOCH
        c.produce_ok("epochs", 0, batch([b"c"], producer=(pid, 1, 1)))
        assert values(c.fetch_all("epochs", 0)) == [b"a", b"b", b"c"]


def test_sequence_wraps(broker):
    with Connection(broker.address) as c:
        c.create_topic("wrap", 1)
        pid, top = producer_id(c), 2**31 - 1
        c.produce_ok("wrap", 0, batch([b"a", b"b"], producer=(pid, 0, top - 1)))
        c.produce_ok("wrap", 0, batch([b"c"], producer=(pid, 0, 0)))
        answer = batch([b"d", b"e", b"f"], producer=(pid, 0, 1))
        c.produce_ok("wrap", 0, answer)
        assert c.produce_ok("wrap", 0, answer) == 3


def test_nonsense_producers(broker):
    """Producer fields that contradict each other; what Kafka accepts must not upset the broker."""
    with Connection(broker.address) as c:
        c.create_topic("nonsense", 8)
        pid = producer_id(c)
        answers = {}
        for n, fields in enumerate(((pid, 0, -1), (pid, -1, 0), (-1, 0, 0), (-1, -1, 5), (-7, 0, 0), (pid, 0, -2))):
            answers[n, fields[1:]] = c.produce("nonsense", n, batch([b"x"], producer=fields)).ErrorCode
        refused = {k: v for k, v in answers.items() if v}
        assert set(refused.values()) <= {INVALID_RECORD}, answers
        assert (0, (0, -1)) in refused and (5, (0, -2)) in refused, answers


def test_per_partition_state(broker):
    with Connection(broker.address) as c:
        c.create_topic("per-partition", 3)
        pid = producer_id(c)
        same = batch([b"x"], producer=(pid, 0, 0))
        answers = c.call("Produce", 9, produce_body("per-partition", {0: same, 1: same, 2: same})).Responses[0].PartitionResponses
        assert {p.Index: (p.ErrorCode, p.BaseOffset) for p in answers} == {n: (0, 0) for n in range(3)}
        body = produce_body("per-partition", {0: batch([b"y"], producer=(pid, 0, 1)), 1: batch([b"y"], producer=(pid, 0, 9)), 2: same})
        answers = c.call("Produce", 9, body).Responses[0].PartitionResponses
        assert {p.Index: (p.ErrorCode, p.BaseOffset) for p in answers} == {0: (0, 1), 1: (OUT_OF_ORDER_SEQUENCE_NUMBER, -1), 2: (0, 0)}, answers


def test_producer_ids_differ(broker):
    with Connection(broker.address) as a, Connection(broker.address) as b:
        ids = [producer_id(c) for c in (a, b) * 50]
        assert len(set(ids)) == 100
        for version in range(0, 6):
            answer = a.call("InitProducerId", version, {"TransactionalId": None, "TransactionTimeoutMs": 60000})
            assert answer.ErrorCode == 0 and answer.ProducerId >= 0 and answer.ProducerEpoch == 0, (version, answer)
        assert a.call("InitProducerId", 4, {"TransactionalId": "", "TransactionTimeoutMs": 60000}).ErrorCode == INVALID_REQUEST


def test_pipelined_idempotent(broker):
    """Five batches in flight on one connection, as real producers have; then all of them again."""
    with Connection(broker.address) as c:
        c.create_topic("in-flight", 1)
        pid = producer_id(c)
        bodies = [produce_body("in-flight", {0: batch([b"%d" % n], producer=(pid, 0, n))}) for n in range(5)]
        for _ in range(2):
            for body in bodies:
                c.send("Produce", 9, body)
            got = [c.receive().Responses[0].PartitionResponses[0] for _ in bodies]
            assert [(p.ErrorCode, p.BaseOffset) for p in got] == [(0, n) for n in range(5)], got


def test_stored_fields(broker):
    """Base offset and leader epoch are the broker's; all else stays as sent."""
    with Connection(broker.address) as c:
        c.create_topic("fields", 1)
        pid = producer_id(c)
        c.produce_ok("fields", 0, batch([b"a"]))
        sent = batch([b"b", b"c"], producer=(pid, 0, 0), leader_epoch=99)
        assert c.produce_ok("fields", 0, sent) == 1
        raw = c.fetch("fields", {0: 1})[0].Records
        stored = parse_batches(raw)[-1]
        assert (stored.base_offset, stored.leader_epoch, stored.producer) == (1, 0, (pid, 0, 0)), stored
        assert raw[-len(sent) :][16:] == sent[16:], "more than base offset and epoch changed"


def test_transactional_batch_without_transaction(broker):
    """A batch that says it is part of a transaction nobody began."""
    with Connection(broker.address) as c:
        c.create_topic("no-transaction", 2)
        pid = producer_id(c)
        sent = batch([b"x"], producer=(pid, 0, 0), attributes=TRANSACTIONAL)
        answer = c.produce("no-transaction", 0, sent)
        assert answer.ErrorCode != 0, answer
        without_id = c.produce("no-transaction", 1, batch([b"x"], attributes=TRANSACTIONAL))
        assert without_id.ErrorCode != 0, without_id
        assert [c.list_offset("no-transaction", p, -1, isolation=1).Offset for p in range(2)] == [0, 0]


def test_more_replicas_asked_for_than_there_are(broker):
    """Kafka 4.3 asks for no more replicas in sync than a topic has, whatever `min.insync.replicas` says."""
    with Connection(broker.address) as c:
        c.create_topic("insync", min_insync_replicas=2)
        for acks in (-1, 1):
            assert c.produce("insync", 0, batch([b"x"]), acks=acks).ErrorCode == 0

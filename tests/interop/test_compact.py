"""Compaction, with small segments: the same workload and the same expectations for Kafka and for Corelane."""

import glob
import os
import re
import time

from confluent_kafka import Consumer, Producer, TopicPartition

from harness import KAFKA, Broker, eventually, java
from raw import GZIP, Connection, batch, parse_batches

INVALID_RECORD = 87
SEGMENT = 1 << 20
OVERRIDES = {"log.cleaner.backoff.ms": 200, "log.cleaner.dedupe.buffer.size": 4 << 20}
SMALL = {"cleanup_policy": "compact", "segment_bytes": SEGMENT, "min_cleanable_dirty_ratio": 0.01, "file_delete_delay_ms": 1000}
KEYS = 50


def wait_ready(c, topic):
    while KAFKA and c.list_offset(topic, 0, -1).ErrorCode:
        time.sleep(0.05)


def produce(broker, topic, count, compression="none"):
    """`count` records over KEYS keys with values of 4 KB that compress to half of that; what was written, by offset."""
    written, producer = {}, Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "compression.type": compression, "linger.ms": 5})

    def delivered(error, message):
        assert error is None, error
        written[message.offset()] = (message.key(), message.value())

    for n in range(count):
        producer.produce(topic, b"%d " % n + os.urandom(2000).hex().encode(), key=b"key-%d" % (n % KEYS), partition=0, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(60) == 0
    return written


def fill(c, topic, tag, count):
    """`count` batches of 8 KB under a few keys of their own: 130 fill a segment."""
    for n in range(count):
        c.produce_ok(topic, 0, batch([(b"fill-%s-%d" % (tag, n % 3), os.urandom(8000))]))


def read(c, topic):
    """What is there: offset, key and value of every record (uncompressed)."""
    start = c.list_offset(topic, 0, -2).Offset
    return [(r.offset, r.key, r.value) for b in c.fetch_all(topic, 0, start) for r in b.records]


def consume(broker, topic):
    """What a real consumer reads from the beginning."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "enable.auto.commit": False, "check.crcs": True, "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while True:
        message = consumer.poll(10)
        assert message is not None, "nothing came"
        if message.error():
            consumer.close()
            return found
        found.append((message.offset(), message.key(), message.value()))


def latest(records):
    """Key to value, tombstones left out."""
    state = {}
    for _, key, value in sorted(records):
        state[key] = value
        if value is None:
            del state[key]
    return state


def compacted(reading, most):
    """Waits until `reading` gives at most `most` records, and returns them."""
    def few():
        found = reading()
        return found if len(found) <= most else None

    return eventually(few, 60, 0.3)


def written_records(written):
    return [(offset, key, value) for offset, (key, value) in written.items()]


def test_last_values_stay(broker):
    """The last value of each key stays, at its offset and in its order; what is older goes, but in the last segment."""
    with Connection(broker.address) as c:
        c.create_topic("last", **SMALL)
        written = produce(broker, "last", 1500)
        # Four records to a batch or so, and the last segment keeps all of its.
        left = compacted(lambda: read(c, "last"), KEYS + SEGMENT // 4000 + 20)
        assert all(written[offset] == (key, value) for offset, key, value in left)
        assert [r[0] for r in left] == sorted({r[0] for r in left})
        assert latest(left) == latest(written_records(written)) and len(latest(left)) == KEYS


def test_compressed_batches_stay_compressed(broker):
    """In each codec of the clients; a real consumer reads what is left."""
    for codec, bits in (("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)):
        topic = f"in-{codec}"
        with Connection(broker.address) as c:
            c.create_topic(topic, **SMALL)
            written = produce(broker, topic, 1500, codec)
            end = c.list_offset(topic, 0, -1).Offset
            found = compacted(lambda t=topic: consume(broker, t), KEYS + SEGMENT // 2000 + 40)
            assert all(written[offset] == (key, value) for offset, key, value in found)
            assert latest(found) == latest(written_records(written)), codec
            kinds = {b.attributes & 7 for b in c.fetch_all(topic, 0) if b.count}
            assert kinds == {bits}, (codec, kinds)
            assert c.list_offset(topic, 0, -1).Offset == end


def test_the_codec_of_the_topic_does_not_matter(broker):
    """A batch that is written anew keeps its own, whatever `compression.type` has become meanwhile."""
    with Connection(broker.address) as c:
        c.create_topic("own", compression_type="gzip", **SMALL)
        c.produce_ok("own", 0, batch([(b"stays", b"a"), (b"goes", b"b"), (b"stays too", b"c")]))
        resource = {"ResourceType": 2, "ResourceName": "own", "Configs": [{"Name": "compression.type", "ConfigOperation": 0, "Value": "uncompressed"}]}
        assert c.call("IncrementalAlterConfigs", 1, {"Resources": [resource]}).Responses[0].ErrorCode == 0
        c.produce_ok("own", 0, batch([(b"goes", b"d")]))
        fill(c, "own", b"more", 300)

        def first():
            return c.fetch_all("own", 0)[0]

        eventually(lambda: [r.key for r in first().records] == [b"stays", b"stays too"], 60, 0.3)
        assert first().attributes & 7 == GZIP
        assert first().base_offset == 0 and first().next_offset == 3


def test_offsets_that_are_gone(broker):
    """Whoever asks for an offset that was compacted away gets the next one; look-ups by time find what is left."""
    with Connection(broker.address) as c:
        c.create_topic("gaps", **SMALL)
        now = int(time.time() * 1000) - 100_000
        for n in range(400):
            c.produce_ok("gaps", 0, batch([(b"k%d" % (n % 7), os.urandom(5000)), (b"same", b"%d" % n)], timestamps=[now + n * 10] * 2))
        left = compacted(lambda: read(c, "gaps"), 2 * SEGMENT // 5000 + 20)
        there = [r[0] for r in left]
        assert there[0] > 0
        for offset in sorted({0, 1, there[0] - 1, there[0], there[1] - 1, there[-1]}):
            answer = c.fetch("gaps", {0: offset})[0]
            assert answer.ErrorCode == 0
            first = next(r for b in parse_batches(answer.Records, partial=True) for r in b.records if r.offset >= offset)
            assert first.offset == next(o for o in there if o >= offset), offset
        for n in (0, 5, 399):
            found = c.list_offset("gaps", 0, now + n * 10)
            assert found.ErrorCode == 0 and found.Offset == next(o for o in there if o // 2 >= n), (n, found)
        assert c.list_offset("gaps", 0, -2).Offset == 0, "the start of the log does not move"


def test_tombstones_go(broker):
    """A deleted key is gone for good once delete.retention.ms has passed since the cleaning that it survived."""
    with Connection(broker.address) as c:
        c.create_topic("tombs", **SMALL, delete_retention_ms=1500)
        for n in range(20):
            c.produce_ok("tombs", 0, batch([(b"gone-%d" % n, b"value"), (b"kept-%d" % n, b"value")]))
        c.produce_ok("tombs", 0, batch([(b"gone-%d" % n, None) for n in range(20)]))
        fill(c, "tombs", b"a", 260)

        def of_gone():
            return {key: value for _, key, value in read(c, "tombs") if key.startswith(b"gone")}

        # The values go at the first cleaning; the tombstones are then still there, with their time in the batch.
        first = eventually(lambda: (lambda g: g if not any(g.values()) else None)(of_gone()), 30)
        assert not first or set(first.values()) == {None}

        def vanished():
            fill(c, "tombs", b"c", 140)
            return not of_gone()

        eventually(vanished, 60, 0.3)
        assert {key for _, key, _ in read(c, "tombs") if key.startswith(b"kept")} == {b"kept-%d" % n for n in range(20)}


def test_lag(broker):
    """Nothing younger than min.compaction.lag.ms is touched."""
    with Connection(broker.address) as c:
        c.create_topic("lag", **SMALL, min_compaction_lag_ms=3600_000)
        c.create_topic("no-lag", **SMALL)
        for topic in ("lag", "no-lag"):
            produce(broker, topic, 700)
        compacted(lambda: read(c, "no-lag"), KEYS + SEGMENT // 4000 + 20)
        time.sleep(1)
        assert len(read(c, "lag")) == 700


def test_what_has_waited_too_long_is_compacted():
    """max.compaction.lag.ms: however little there is to gain, and from the last segment too, which ends for it when the next record comes."""
    with Broker(**OVERRIDES) as broker, Connection(broker.address) as c:
        clean = {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": 1.0}
        c.create_topic("overdue", **clean, max_compaction_lag_ms=1500)
        c.create_topic("waiting", **clean)
        for topic in ("overdue", "waiting"):
            for n in range(10):
                c.produce_ok(topic, 0, batch([(b"k", b"%d" % n)]))
        time.sleep(2)
        for topic in ("overdue", "waiting"):
            c.produce_ok(topic, 0, batch([(b"k", b"last")]))
        left = compacted(lambda: read(c, "overdue"), 2)
        assert left == [(9, b"k", b"9"), (10, b"k", b"last")]
        assert len(read(c, "waiting")) == 11


def test_compacted_and_deleted():
    """cleanup.policy=compact,delete: the last value of each key stays, until its segment is too old or the log too large."""
    eager = {**OVERRIDES, "log.retention.check.interval.ms": 100, "log.initial.task.delay.ms": 100}
    with Broker(**eager) as broker, Connection(broker.address) as c:
        both = {**SMALL, "cleanup_policy": "compact,delete", "message_timestamp_type": "CreateTime"}
        hour = 3600_000
        now = int(time.time() * 1000)
        c.create_topic("by-age", **both, retention_ms=hour)
        c.create_topic("by-size", **both, retention_ms=-1, retention_bytes=2 * SEGMENT)
        # Too old, and of a key that nothing newer replaces.
        for n in range(140):
            c.produce_ok("by-age", 0, batch([(b"old-%d" % n, os.urandom(8000))], timestamps=[now - 2 * hour]))
        for n in range(280):
            c.produce_ok("by-age", 0, batch([(b"new-%d" % (n % 5), os.urandom(8000))], timestamps=[now]))
        left = compacted(lambda: read(c, "by-age"), 140 + 5)
        start = eventually(lambda: c.list_offset("by-age", 0, -2).Offset)
        left = read(c, "by-age")
        assert start >= 120 and {key for _, key, _ in left} >= {b"new-%d" % n for n in range(5)}
        assert not [key for offset, key, _ in left if key.startswith(b"old") and offset < 120], "deleted by age"
        for n in range(600):
            c.produce_ok("by-size", 0, batch([(b"%d" % n, os.urandom(8000))]))
        eventually(lambda: c.list_offset("by-size", 0, -2).Offset > 0)
        sizes = eventually(lambda: (lambda total: total <= 3 * SEGMENT and total)(sum(len(v) for _, _, v in read(c, "by-size"))))
        assert sizes >= SEGMENT
        end = c.list_offset("by-age", 0, -1).Offset
        broker.kill()
        broker.start()
        with Connection(broker.address) as again:
            wait_ready(again, "by-age")
            assert again.list_offset("by-age", 0, -1).Offset == end
            found, before = latest(read(again, "by-age")), latest(left)
            # Those that are too old may have gone meanwhile, with the rest of their segment.
            assert found.items() <= before.items(), found.items() - before.items()
            assert {key for key in before if key.startswith(b"new")} <= found.keys()


def test_keyless_records_are_refused(broker):
    """Only the records to blame are named, in compressed batches too; the others of the batch are not appended either."""
    with Connection(broker.address) as c:
        c.create_topic("keyed", **SMALL)
        for attributes in (0, GZIP):
            answer = c.produce("keyed", 0, batch([(b"k", b"v"), (None, b"v"), (b"k", None), (None, None)], attributes=attributes))
            assert answer.ErrorCode == INVALID_RECORD, answer
            assert [e.BatchIndex for e in answer.RecordErrors] == [1, 3], answer
        assert c.produce_ok("keyed", 0, batch([(b"k", b"v")], attributes=GZIP)) == 0


def segments(broker, topic):
    return sorted(glob.glob(os.path.join(broker.data, f"{topic}-0", "*.log")))


def test_restarts_and_files():
    """After a stop and a kill the same records are there; Kafka's own tool reads the files, and the checkpoint says how far it was."""
    with Broker(**OVERRIDES) as broker:
        with Connection(broker.address) as c:
            c.create_topic("again", **SMALL)
            written = produce(broker, "again", 2000, "lz4")
            expected = latest(written_records(written))
            ends = c.list_offset("again", 0, -1).Offset
            compacted(lambda: consume(broker, "again"), KEYS + SEGMENT // 2000 + 40)
        for stop in (broker.terminate, broker.kill, broker.terminate):
            stop()
            if stop == broker.terminate:
                with open(os.path.join(broker.data, "cleaner-offset-checkpoint")) as checkpoint:
                    version, count, *lines = checkpoint.read().splitlines()
                cleaned = [int(line.split()[2]) for line in lines if line.startswith("again 0 ")]
                assert version == "0" and int(count) == len(lines) and len(cleaned) == 1 and 0 < cleaned[0] <= ends, lines
                dump(broker)
            broker.start()
            with Connection(broker.address) as c:
                wait_ready(c, "again")
                assert c.list_offset("again", 0, -1).Offset == ends
            found = consume(broker, "again")
            assert all(written[offset] == (key, value) for offset, key, value in found)
            assert latest(found) == expected


def dump(broker):
    directory = os.path.join(broker.data, "again-0")
    names = sorted(os.listdir(directory))
    assert not [n for n in names if n.endswith((".cleaned", ".swap"))], names
    for log in segments(broker, "again"):
        code, out, err = java("org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--files", log)
        assert code == 0 and "isvalid: false" not in out and "rror" not in out, (out[-500:], err)
        positions = [int(p) for p in re.findall(r"baseOffset: \d+ .*? position: (\d+)", out)]
        sizes = [int(s) for s in re.findall(r"baseOffset: \d+ .*? size: (\d+)", out)]
        assert not positions or positions[-1] + sizes[-1] == os.path.getsize(log), (positions[-3:], sizes[-3:], os.path.getsize(log))
        for kind in ("index", "timeindex"):
            path = log[:-3] + kind
            if os.path.exists(path) and os.path.getsize(path):
                code, out, err = java("org.apache.kafka.tools.DumpLogSegments", "--index-sanity-check", "--files", path)
                assert code == 0 and "passed sanity check" in out, (path, out, err)
                code, out, err = java("org.apache.kafka.tools.DumpLogSegments", "--files", path)
                assert code == 0 and "ismatch" not in out and "ound" not in out, (path, out[-500:], err)

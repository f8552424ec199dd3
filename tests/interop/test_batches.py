"""Batches whose header or records are not what they say: sent by clients, or on the disk already."""

import gzip
import os
import select
import struct
import time

from harness import KAFKA, Broker, eventually
from raw import GZIP, ZSTD, Connection, batch, crc32c, produce_body, record, values, zigzag
from test_logs import QUICK, earliest, files

INVALID_RECORD = 87
LATEST, MAX_TIMESTAMP = -1, -3
DAY_MS = 86_400_000
CODECS = (0, GZIP)


def now_ms():
    return int(time.time() * 1000)


def found(c, topic, timestamp):
    answer = c.list_offset(topic, 0, timestamp)
    assert answer.ErrorCode == 0, answer
    return answer.Offset, answer.Timestamp


def test_the_largest_timestamp_is_that_of_the_records(broker):
    """Some clients leave the header's largest timestamp at -1, others tell a wrong one."""
    with Connection(broker.address) as c:
        for attributes in CODECS:
            for told in (-1, 0, 1500, 10**15):
                topic = f"largest-{attributes}-{told}"
                c.create_topic(topic, message_timestamp_after_max_ms=2**63 - 1)
                c.produce_ok(topic, 0, batch([b"a", b"b", b"c"], timestamps=[1000, 3000, 2000], attributes=attributes, max_timestamp=told))
                assert found(c, topic, 2500) == (1, 3000), (attributes, told)
                assert found(c, topic, 3001) == (-1, -1), (attributes, told)
                assert found(c, topic, MAX_TIMESTAMP) == (1, 3000), (attributes, told)
                assert [b.max_timestamp for b in c.fetch_all(topic, 0)] == [3000], (attributes, told)


def wait_for_retention(c, name):
    """Until retention has looked at all logs: it has taken an old record away."""
    c.create_topic(name, message_timestamp_type="CreateTime", retention_ms=DAY_MS)
    c.produce_ok(name, 0, batch([b"old"], timestamps=[now_ms() - 10 * DAY_MS]))
    eventually(lambda: earliest(c, name) == 1)


def test_retention_does_not_go_by_a_part_of_the_records():
    """One old record in a segment of fresh ones whose headers tell no time."""
    with Broker(**QUICK) as broker, Connection(broker.address) as c:
        c.create_topic("t", retention_ms=DAY_MS)
        for n in range(200):
            c.produce_ok("t", 0, batch([b"%d" % n], max_timestamp=-1))
            if n == 0:
                c.produce_ok("t", 0, batch([b"old"], timestamps=[now_ms() - 10 * DAY_MS]))
        for canary in ("first", "second"):
            wait_for_retention(c, canary)
        assert earliest(c, "t") == 0
        assert len(values(c.fetch_all("t", 0))) == 201


def without_times(path, old):
    """Makes the segment and its time index what a broker stores that believes headers: all batches not `old` say -1."""
    with open(path, "rb") as f:
        data = bytearray(f.read())
    at, entry, base = 0, None, int(os.path.basename(path)[:20])
    # A killed broker leaves zeros behind the last batch.
    while at < len(data) and any(data[at + 8 : at + 12]):
        offset, size = struct.unpack(">qi", data[at : at + 12])
        size += 12
        last = offset - base + struct.unpack(">i", data[at + 23 : at + 27])[0]
        time_ms = struct.unpack(">q", data[at + 35 : at + 43])[0]
        if time_ms <= old:
            entry = struct.pack(">qi", time_ms, last)
        else:
            entry = entry or struct.pack(">qi", -1, last)
            data[at + 35 : at + 43] = struct.pack(">q", -1)
            data[at + 17 : at + 21] = struct.pack(">I", crc32c(bytes(data[at + 21 : at + size])))
        at += size
    with open(path, "r+b") as f:
        f.write(data)
    with open(path.removesuffix(".log") + ".timeindex", "wb") as f:
        f.write(entry)


def test_stored_batches_without_times():
    """They are found by time and kept as long as their records say, whatever the stored index says."""
    if KAFKA:
        return
    for ending in ("terminate", "kill"):
        with Broker(**QUICK) as broker:
            fresh = now_ms()
            with Connection(broker.address) as c:
                c.create_topic("t", retention_ms=DAY_MS, segment_bytes=1 << 20)
                for n in range(260):
                    times = [fresh + n, fresh + n - 5]
                    c.produce_ok("t", 0, batch([b"x" * 5000] * 2, timestamps=times, attributes=GZIP if n % 2 else 0))
                    if n == 0:
                        c.produce_ok("t", 0, batch([b"old"], timestamps=[fresh - 10 * DAY_MS]))
            getattr(broker, ending)()
            for log in files(broker, "t-0", ".log"):
                without_times(os.path.join(broker.data, "t-0", log), fresh - DAY_MS)
            broker.start()
            with Connection(broker.address) as c:
                eventually(lambda: c.list_offset("t", 0, LATEST).Offset == 521)
                for canary in ("first", "second"):
                    wait_for_retention(c, canary)
                assert earliest(c, "t") == 0, ending
                for n in (1, 100, 258, 259):
                    assert found(c, "t", fresh + n) == (1 + 2 * n, fresh + n), (ending, n)
                assert found(c, "t", MAX_TIMESTAMP) == (519, fresh + 259), ending
                c.produce_ok("t", 0, batch([b"new"], timestamps=[fresh + 1000]))
                assert found(c, "t", MAX_TIMESTAMP) == (521, fresh + 1000), ending


def test_records_that_contradict_themselves_are_refused(broker):
    """The same verdict for a batch, packed or not; what a cleaner could not read never gets to it."""
    good = record(0, b"k", b"v")
    seven_headers = zigzag(8) + b"\0\0\0" + zigzag(1) + b"k" + zigzag(1) + b"v" + zigzag(7)
    with Connection(broker.address) as c:
        c.create_topic("plain")
        c.create_topic("compacted", cleanup_policy="compact")
        for topic in ("plain", "compacted"):
            for attributes in CODECS:
                pack = gzip.compress if attributes else bytes
                for what, payload, count in (
                    ("seven headers, none there", seven_headers, 1), ("a record too few", good, 2), ("a record too many", good + record(1, b"k", b"v"), 1),
                    ("2^31 - 1 records", good, 2**31 - 1), ("bytes behind", good + b"\0" * 7, 1), ("offsets with a gap", record(1, b"k", b"v"), 1),
                ):
                    if KAFKA and "gap" in what:
                        continue  # Kafka stores it, or makes it anew with other offsets
                    bad = batch([(b"k", b"v")], attributes=attributes, payload=pack(payload), count=count, last_offset_delta=count - 1)
                    answer = c.produce(topic, 0, bad)
                    assert answer.ErrorCode == INVALID_RECORD, (topic, attributes, what, answer)
            assert c.produce_ok(topic, 0, batch([(b"k", b"v")], attributes=GZIP)) == 0


def zstd_record(key, zeros):
    """A zstd frame of a few bytes with a whole record: `key` and a value of so many times 128 KiB of zeros."""
    size = zeros << 17
    front = b"\0\0\0" + (zigzag(-1) if key is None else zigzag(len(key)) + key) + zigzag(size)
    front = zigzag(len(front) + size + 1) + front
    block = lambda kind, length, last=0: struct.pack("<I", length << 3 | kind << 1 | last)[:3]
    return b"\x28\xb5\x2f\xfd\0\x38" + block(0, len(front)) + front + (block(1, 1 << 17) + b"\0") * zeros + block(0, 1, 1) + b"\0"


def bomb(key):
    return batch([(b"k", b"v")], attributes=ZSTD, payload=zstd_record(key, 480))


def test_bombs_do_not_hold_others_up():
    """A request that inflates to half a gigabyte: other connections of its core are answered before it is."""
    one_core = {} if KAFKA else {"corelane.cores": 1}
    with Broker(**one_core) as broker, Connection(broker.address) as heavy, Connection(broker.address) as light:
        heavy.create_topic("bombs", 8, cleanup_policy="compact")
        light.call("ApiVersions", 3, {"ClientSoftwareName": "raw", "ClientSoftwareVersion": "1"})
        heavy.send("Produce", 9, produce_body("bombs", {p: bomb(None) for p in range(8)}))
        before = 0
        while not select.select([heavy.socket], [], [], 0)[0]:
            light.call("ApiVersions", 3, {"ClientSoftwareName": "raw", "ClientSoftwareVersion": "1"})
            before += not select.select([heavy.socket], [], [], 0)[0]
        parts = heavy.receive().Responses[0].PartitionResponses
        assert [p.ErrorCode for p in parts] == [INVALID_RECORD] * 8, parts
        assert before > 8, before


def test_a_long_check_does_not_change_the_order(broker):
    """What one connection sends to a partition is appended in that order, however long each batch takes to check."""
    with Connection(broker.address) as c:
        c.create_topic("order", cleanup_policy="compact")
        for n in range(12):
            c.send("Produce", 9, produce_body("order", {0: bomb(b"k") if n % 4 == 0 else batch([(b"k", b"%d" % n)])}))
        answers = [c.receive().Responses[0].PartitionResponses[0] for _ in range(12)]
        assert [(a.ErrorCode, a.BaseOffset) for a in answers] == [(0, n) for n in range(12)], answers


def test_frames_of_trusted_producers():
    """`corelane.verify.compressed=frame`: what a header says must be possible, and times are right where it tells none."""
    if KAFKA:
        return
    with Broker(**{"corelane.verify.compressed": "frame"}) as broker, Connection(broker.address) as c:
        c.create_topic("t")
        lie = batch([b"x"], attributes=GZIP, count=2**31 - 1, last_offset_delta=2**31 - 2)
        assert c.produce("t", 0, lie).ErrorCode == INVALID_RECORD
        c.produce_ok("t", 0, batch([b"a", b"b"], timestamps=[1000, 3000], attributes=GZIP, max_timestamp=-1))
        assert found(c, "t", 2500) == (1, 3000) and found(c, "t", MAX_TIMESTAMP) == (1, 3000)

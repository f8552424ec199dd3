"""Hostile input: the broker stays up, keeps within its memory, and goes on serving others."""

import contextlib
import gzip
import os
import random
import socket
import struct
import threading
import time

import attack
from harness import KAFKA, Broker, eventually
from raw import PROTOCOL, Closed, Connection, batch, fetch_body, produce_body, record, values, zigzag

MIB = 1 << 20
BUDGET = 256 * MIB
OVERRIDES = {"corelane.memory": "256m", "max.connections": 8000, "max.connections.per.ip": 8000}
LIMIT = 100 * MIB  # socket.request.max.bytes
# Kafka takes memory for a request when it is announced: with 1 GiB it stands a handful of them.
STALLED = 3 if KAFKA else 200


def check(broker, large=True):
    """The broker lives, answers, stores and reads, small and large, and has not outgrown its memory."""
    broker.check_alive()
    with Connection(broker.address) as c:
        with contextlib.suppress(AssertionError):
            c.create_topic("alive")
        offset = c.produce_ok("alive", 0, batch([b"still here"]))
        assert values(c.fetch_all("alive", 0, offset)) == [b"still here"]
        for _ in range(3 if large else 0):
            assert c.produce_ok("alive", 0, batch([b"x" * 900000])) > offset
    check_memory(broker)


def check_memory(broker):
    now, highest = broker.memory()
    assert KAFKA or highest <= BUDGET + 64 * MIB, f"memory rose to {highest // MIB} MiB (now {now // MIB})"


def expect_close(broker, data, timeout=60):
    """Sends bytes that are no request; the broker must hang up."""
    with socket.create_connection(broker.address, timeout=timeout) as s:
        s.sendall(data)
        try:
            assert s.recv(1 << 16) == b"", "it was answered"
        except ConnectionResetError:
            pass


def test_frame_sizes(broker):
    for size in (2**31 - 1, LIMIT + 1, -1, -(2**31), 0, 1 << 30):
        expect_close(broker, struct.pack(">i", size) + b"\0" * 32)
    check(broker)


def test_tiny_frames(broker):
    for size in range(1, 10):
        expect_close(broker, struct.pack(">i", size) + b"\0\3\0\11\0\0\0\1\0"[:size])
    check(broker)


def test_other_protocols(broker):
    expect_close(broker, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    expect_close(broker, b"POST /topics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
    hello = b"\1\0\0\x2f\3\3" + os.urandom(32) + b"\0\0\4\x13\1\x13\2\1\0\0\2\0\0"
    expect_close(broker, b"\x16\3\1" + struct.pack(">h", len(hello)) + hello)
    expect_close(broker, b"SSH-2.0-OpenSSH_9.2\r\n")
    check(broker)


def test_truncated_then_silent(broker):
    """A hundred connections stop in the middle of a size, a header, a body; others go on."""
    whole = attack.frame(PROTOCOL.request_header(3, 9, 1) + PROTOCOL.requests[3].encode(9, {"Topics": None}))
    silent = []
    for n in range(100):
        s = socket.create_connection(broker.address)
        s.sendall(whole[: n % (len(whole) - 1) + 1] if n % (len(whole) - 1) else b"\0\0")
        silent.append(s)
    check(broker)
    for s in silent:
        s.close()


def test_every_api_every_length(broker):
    """A lie in every array, string and varint length of every API key 0 to 94, in versions known and unknown."""
    totals = [0, 0, 0]
    for key in attack.KEYS:
        if KAFKA and key == 64:
            continue  # UnregisterBroker does as it is told
        counts = attack.volley(broker.address, attack.frames(key))
        totals = [a + b for a, b in zip(totals, counts)]
        broker.check_alive()
        assert KAFKA or counts[2] == 0, f"key {key}: {counts[2]} requests were neither answered nor closed"
    assert totals[0] + totals[1] > 10000, totals
    check(broker)


def test_nested_lengths(broker):
    """Arrays in arrays whose counts multiply, each of them just possible."""
    header = PROTOCOL.request_header(1, 11, 1)
    body = struct.pack(">iiiibii", -1, 0, 0, 1 << 30, 0, 0, -1)
    some = struct.pack(">i", 40000) + (b"\0\1a" + struct.pack(">i", INT_MAX := 2**31 - 1)) * 1000
    attack.volley(broker.address, [attack.frame(header + body + some)] * 20)
    many = PROTOCOL.requests[1].encode(11, fetch_body("no-such-topic", {n: 0 for n in range(100000)}))
    answered = attack.volley(broker.address, [attack.frame(header + many)] * 5)
    assert INT_MAX and answered[2] == 0, answered
    check(broker)


def test_garbage(broker):
    """Random bytes in well-sized frames, and requests with a random byte changed."""
    dice = random.Random(1)
    frames = [attack.frame(dice.randbytes(dice.randrange(1, 200))) for _ in range(1000)]
    good = [
        ("Metadata", 12, {"Topics": [{"Name": "alive"}], "AllowAutoTopicCreation": False}),
        ("Produce", 9, produce_body("alive", {0: batch([b"x"])}, acks=1)),
        ("Fetch", 12, fetch_body("alive", {0: 0}, version=12)),
        ("ListOffsets", 7, {"Topics": [{"Name": "alive", "Partitions": [{"PartitionIndex": 0, "Timestamp": -1}]}]}),
        ("CreateTopics", 7, {"Topics": [{"Name": "a/b", "Configs": [{"Name": "x", "Value": "y"}]}]}),
    ]
    for name, version, body in good:
        key = PROTOCOL.keys[name]
        head, tail = PROTOCOL.request_header(key, version, 1), PROTOCOL.requests[key].encode(version, body)
        for _ in range(600):
            spoilt = bytearray(tail)
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
            frames.append(attack.frame(head + bytes(spoilt)))
    attack.volley(broker.address, frames, patience=5)
    check(broker)


def test_idle_connections(broker):
    """Five thousand connections that say nothing."""
    idle = [socket.create_connection(broker.address, timeout=60) for _ in range(5000)]
    try:
        check(broker)
        with Connection(broker.address) as c:
            c.create_topic("beside-idle", 4)
            for n in range(200):
                c.produce_ok("beside-idle", n % 4, batch([b"x" * 1000]))
        check_memory(broker)
    finally:
        for s in idle:
            s.close()
    check(broker)


class Others:
    """Clients that produce and fetch while something hostile goes on, and count their answers."""

    def __init__(self, broker, topic, clients=3):
        with Connection(broker.address) as c:
            c.create_topic(topic, clients)
        self.answers, self.errors, self.stopped = [0] * clients, [], False
        self.threads = [threading.Thread(target=self._run, args=(broker, topic, n), daemon=True) for n in range(clients)]
        for t in self.threads:
            t.start()

    def _run(self, broker, topic, n):
        try:
            while not self.stopped:
                with Connection(broker.address) as c:
                    for _ in range(20):
                        value = b"%d" % self.answers[n] + b"x" * 500
                        offset = c.produce_ok(topic, n, batch([value]))
                        assert values(c.fetch_all(topic, n, offset)) == [value]
                        self.answers[n] += 1
                        time.sleep(0.002)
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)

    def check(self, at_least=10):
        """Each client has got that many more answers since."""
        goal = [n + at_least for n in self.answers]
        eventually(lambda: self.errors or all(a >= g for a, g in zip(self.answers, goal)), 60)
        assert not self.errors, self.errors

    def stop(self):
        self.stopped = True
        for t in self.threads:
            t.join(60)
        assert not self.errors, self.errors


def announce(broker, name="Produce", size=LIMIT):
    """A connection that announces a request of `size` bytes and has sent its header."""
    s = socket.create_connection(broker.address, timeout=60)
    s.sendall(struct.pack(">i", size) + PROTOCOL.request_header(PROTOCOL.keys[name], 9, 1))
    return s


def drip(connections, seconds):
    """One byte a second on each connection."""
    for _ in range(seconds):
        for s in connections:
            with contextlib.suppress(OSError):
                s.send(b"\0")
        time.sleep(1)


def test_announced_and_dripped(broker):
    """200 connections announce 100 MiB each and send a byte a second: everybody else is served."""
    others = Others(broker, "beside-drip")
    connections = [announce(broker) for _ in range(STALLED)]
    try:
        drip(connections, 5)
        others.check()
        drip(connections, 5)
        others.check()
        check(broker)
    finally:
        for s in connections:
            s.close()
    others.stop()
    check(broker)


def test_announced_and_stalled(broker):
    """As before, but each sends as much as it can get rid of, then stalls: memory holds, small requests are served."""
    others = Others(broker, "beside-stall")
    connections = [announce(broker) for _ in range(STALLED)]
    try:
        for s in connections:
            s.setblocking(False)
        piece = bytes(MIB)
        for _ in range(16):
            for s in connections:
                with contextlib.suppress(OSError):
                    s.send(piece)
        others.check()
        check(broker, large=False)
    finally:
        for s in connections:
            s.close()
    others.stop()
    check(broker)


def test_readers_that_do_not_read(broker):
    """200 connections ask for a hundred megabytes each and read nothing of it."""
    with Connection(broker.address) as c:
        c.create_topic("unread", 4)
        for partition in range(4):
            for _ in range(5):
                c.produce_ok("unread", partition, batch([b"x" * 1000000]))
    others = Others(broker, "beside-unread")
    deaf = []
    try:
        for n in range(200):
            c = Connection(broker.address)
            if n:
                c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            for _ in range(20):
                c.send("Fetch", 11, fetch_body("unread", {p: 0 for p in range(4)}, max_bytes=5 * MIB))
            deaf.append(c)
        others.check()
        check(broker)
        # One that was slow only gets what it asked for, in smaller pieces.
        for _ in range(10):
            parts = deaf[0].receive().Responses[0].Partitions
            assert sum(len(p.Records) for p in parts) > 1_000_000
    finally:
        for c in deaf:
            c.close()
    others.stop()
    check(broker)


def test_requests_without_reading(broker):
    """Ten connections send requests as fast as they can and never read an answer."""
    body = attack.frame(PROTOCOL.request_header(3, 9, 1) + PROTOCOL.requests[3].encode(9, {"Topics": None}))
    others = Others(broker, "beside-flood")
    flood = [socket.create_connection(broker.address) for _ in range(10)]
    try:
        for s in flood:
            s.setblocking(False)
        for _ in range(300):
            for s in flood:
                with contextlib.suppress(OSError):
                    s.send(body * 100)
        others.check()
        check(broker)
    finally:
        for s in flood:
            s.close()
    others.stop()
    check(broker)


def bombs():
    """Compressed payloads that claim or unpack to far more than they are. (name, compression, payload)."""
    zeros = gzip.compress(zigzag(2**31 - 1) + bytes(300 * MIB), 1)
    yield "gzip of zeros", 1, zeros
    yield "gzip cut", 1, zeros[: len(zeros) // 2]
    yield "gzip of nothing", 1, gzip.compress(b"")
    yield "gzip noise", 1, os.urandom(500)
    yield "snappy claims 2 GiB", 2, b"\xff\xff\xff\xff\x07" + b"\0x" * 100
    yield "xerial chunk of 2 GiB", 2, b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, 2**31 - 1) + b"x" * 100
    yield "xerial negative chunk", 2, b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, -5) + b"x" * 100
    yield "lz4 block of 2 GiB", 3, b"\x04\x22\x4d\x18\x60\x70\x73" + struct.pack("<I", 0x7FFFFFFF) + b"x" * 100
    yield "lz4 content size", 3, b"\x04\x22\x4d\x18\x68\x70" + struct.pack("<Q", 2**62) + b"\0" + b"x" * 100
    yield "zstd window of 2^41", 4, b"\x28\xb5\x2f\xfd\0\xff" + b"\0" * 50
    yield "zstd content size", 4, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + b"\1\0\0" + b"x" * 50
    yield "zstd noise", 4, os.urandom(300)
    yield "unknown codec", 5, b"x" * 100
    yield "unknown codec 7", 7, b"x" * 100
    yield "gzip with a lying record", 1, gzip.compress(zigzag(2**31 - 1) + record(0, b"k", b"v"))


def test_bombs(broker):
    """Batches whose packed records are poison: stored or refused, searched by time, read; nobody dies of it."""
    with Connection(broker.address) as c:
        for n, (name, codec, payload) in enumerate(bombs()):
            topic = f"bomb-{n}"
            c.create_topic(topic)
            answer = c.produce(topic, 0, batch([b"x"] * 3, payload=payload, attributes=codec, timestamps=[1000, 2000, 3000]))
            for timestamp in (1500, -3):
                try:
                    c.list_offset(topic, 0, timestamp)
                except Closed:
                    c = Connection(broker.address)
            part = c.fetch(topic, {0: 0})[0]
            assert part.ErrorCode == 0 and bool(part.Records) == (answer.ErrorCode == 0), (name, answer, part.ErrorCode)
            broker.check_alive()
    check(broker)


def test_strange_names(broker):
    """Names that would be paths, or break something that prints them."""
    names = ["../../etc/passwd", "..", ".", "a\0b", "\n", "\x1b[31m", "x" * 32000, "ä" * 300, "$(reboot)", "%s%n", "a\\b", " "]
    with Connection(broker.address) as c:
        for name in names:
            assert c.call("Metadata", 9, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": True}).Topics[0].ErrorCode == 17, name
            assert c.call("CreateTopics", 7, {"Topics": [{"Name": name, "NumPartitions": 1, "ReplicationFactor": 1}], "timeoutMs": 1000}).Topics[0].ErrorCode == 17, name
            assert c.produce(name, 0, batch([b"x"])).ErrorCode in (3, 17), name
            assert c.call("DeleteTopics", 5, {"TopicNames": [name], "TimeoutMs": 1000}).Responses[0].ErrorCode in (3, 17), name
    with Connection(broker.address, client_id="\x1b]0;evil\7" * 1000) as c:
        assert c.call("ApiVersions", 0).ErrorCode == 0
    check(broker)


def test_fetch_as_a_follower(broker):
    """A client that says it is a replica moves no high watermark and truncates nothing."""
    with Connection(broker.address) as c:
        c.create_topic("followed")
        for n in range(3):
            c.produce_ok("followed", 0, batch([b"%d" % n]))
        for replica in (0, 1, 2, 1000, -2):
            body = {**fetch_body("followed", {0: 3}), "ReplicaId": replica}
            with contextlib.suppress(Closed), Connection(broker.address) as liar:
                liar.call("Fetch", 11, body)
        assert values(c.fetch_all("followed", 0)) == [b"0", b"1", b"2"]
    check(broker)


def test_many_producer_ids(broker):
    """Twenty thousand producers, one record each."""
    with Connection(broker.address) as c:
        c.create_topic("producers")
        # Ids are taken as they come: nobody checks that they were given out.
        for n in range(20000):
            c.send("Produce", 9, produce_body("producers", {0: batch([b"x"], producer=(10**6 + n, 0, 0))}))
            if n % 500 == 499:
                for _ in range(500):
                    answer = c.receive().Responses[0].PartitionResponses[0]
                    assert answer.ErrorCode in (0, 87), answer
    check(broker)


def test_zz_stops_in_good_order():
    """After an attack a broker still stops as it should."""
    with Broker(**OVERRIDES) as broker:
        stalled = [announce(broker) for _ in range(STALLED)]
        stalled += [socket.create_connection(broker.address) for _ in range(500)]
        check(broker)
        assert broker.terminate() == (143 if KAFKA else 0), broker.log_tail()
        for s in stalled:
            s.close()

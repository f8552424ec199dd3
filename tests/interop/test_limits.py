"""Configured limits: connections, idle time, sizes."""

import concurrent.futures
import contextlib
import os
import socket
import struct
import time

from confine import confined, some_user
from harness import KAFKA, Broker, eventually
from raw import Closed, Connection, batch, fetch_body, produce_body

MESSAGE_TOO_LARGE, TOPIC_DELETION_DISABLED = 10, 73


def is_open(c):
    """Whether the broker still answers on this connection."""
    with contextlib.suppress(OSError, Closed):
        return c.call("ApiVersions", 0).ErrorCode == 0
    return False


def test_sizes():
    with Broker(socket_request_max_bytes=1 << 20, message_max_bytes=20000) as broker, Connection(broker.address) as c:
        c.create_topic("small")
        c.produce_ok("small", 0, batch([b"x" * 19000]))
        assert c.produce("small", 0, batch([b"x" * 20000])).ErrorCode == MESSAGE_TOO_LARGE
        with Connection(broker.address) as big:
            with contextlib.suppress(Closed, OSError):
                big.produce("small", 0, batch([b"x" * (1 << 20)]))
                raise AssertionError("a request over socket.request.max.bytes was answered")
        with socket.create_connection(broker.address, timeout=60) as s:
            s.sendall(struct.pack(">i", (1 << 20) + 1))
            with contextlib.suppress(ConnectionResetError):
                assert s.recv(1) == b""
        assert is_open(c)


def test_many_hot_partitions_in_little_memory():
    """Append buffers of many partitions must not take all the memory that requests need to come in."""
    with Broker(cores=1, corelane_memory="32m") as broker:
        with Connection(broker.address) as c:
            c.create_topic("few", 8)
            c.create_topic("many", 120)

        def fill(topic, partitions, rounds):
            with Connection(broker.address, timeout=30) as c:
                for _ in range(rounds):
                    for partition in partitions:
                        c.send("Produce", 9, produce_body(topic, {partition: batch([b"x" * 300000])}, 1))
                    for partition in partitions:
                        assert c.receive().Responses[0].PartitionResponses[0].ErrorCode == 0

        in_threads([lambda: fill("few", range(8), 10) for _ in range(4)])
        in_threads([lambda n=n: fill("many", range(n, 120, 6), 4) for n in range(6)])


def in_threads(functions):
    """Runs all at once; the first failure is raised."""
    with concurrent.futures.ThreadPoolExecutor(len(functions)) as pool:
        for done in [pool.submit(function) for function in functions]:
            done.result()


def test_idle_connections_are_closed():
    with Broker(connections_max_idle_ms=3000) as broker:
        with Connection(broker.address) as idle, Connection(broker.address) as busy, socket.create_connection(broker.address) as silent:
            assert is_open(idle)
            silent.settimeout(60)
            idle.socket.settimeout(60)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                assert is_open(busy), "it is not idle"
                idle.socket.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    with contextlib.suppress(ConnectionResetError):
                        assert idle.socket.recv(1) == b""
                    break
                time.sleep(0.5)
            else:
                raise AssertionError("not closed")
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""


def test_connections_per_address():
    with Broker(max_connections_per_ip=10) as broker:
        kept = []

        def fill():
            """Connects until one more is refused."""
            while len(kept) < 10:
                c = Connection(broker.address)
                if not is_open(c):
                    return False
                kept.append(c)
            return True

        eventually(fill)
        with Connection(broker.address) as one_more:
            assert not is_open(one_more), "an eleventh connection"
        assert all(is_open(c) for c in kept)
        kept.pop().close()

        def again():
            c = Connection(broker.address)
            if is_open(c):
                kept.append(c)
                return True
            return False

        eventually(again)
        for c in kept:
            c.close()


def test_deletion_switched_off():
    with Broker(delete_topic_enable="false") as broker, Connection(broker.address) as c:
        c.create_topic("kept")
        answer = c.call("DeleteTopics", 5, {"TopicNames": ["kept"], "TimeoutMs": 30000}).Responses[0]
        assert answer.ErrorCode == TOPIC_DELETION_DISABLED, answer
        c.produce_ok("kept", 0, batch([b"x"]))


def fill_topic(c, topic, batches, partitions=1):
    """Stores so many batches of 900 kB in each partition of a new topic."""
    c.create_topic(topic, partitions)
    for n in range(batches):
        for partition in range(partitions):
            c.produce_ok(topic, partition, batch([b"%03d" % n + b"x" * 900_000]))


def test_responses_larger_than_the_lockable_memory():
    """Sends without a copy pin pages, which an unprivileged user may do to 8 MiB only; answers beyond that arrive all the same.

    With two cores half of the partitions lie in the memory of the core that does not send them.
    """
    user = some_user()
    if KAFKA or user is None:
        return print("not root: nothing tested")
    with Broker(start=False) as broker:
        broker.confine = confined(broker.directory, user, MEMLOCK=8 << 20)
        broker.start()
        with Connection(broker.address) as c:
            fill_topic(c, "large", 4, partitions=4)

        def fetch(n):
            with Connection(broker.address, timeout=30) as c:
                c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                c.send("Fetch", 11, fetch_body("large", {n % 4: 0}, max_bytes=8 << 20, partition_max=8 << 20))
                # All are asked before any is read.
                time.sleep(0.5)
                for part in c.receive().Responses[0].Partitions:
                    assert part.ErrorCode == 0 and len(part.Records) > 3_600_000, len(part.Records)

        for _ in range(2):
            in_threads([lambda n=n: fetch(n) for n in range(8)])


def test_large_batches_at_once_in_little_memory():
    """Several that each have a part of the memory that they need do not wait for each other until they are closed."""
    with Broker(corelane_memory="32m", message_max_bytes=10 << 20) as broker:
        with Connection(broker.address) as c:
            c.create_topic("large", 3)

        def produce(partition):
            with Connection(broker.address, timeout=60) as c:
                for _ in range(10):
                    c.produce_ok("large", partition, batch([b"x" * 5_000_000]))

        in_threads([lambda n=n: produce(n) for n in range(3)])


def test_segments_of_a_busy_log_do_not_stay_open():
    """One look-up in each of many segments takes neither descriptors nor memory; few descriptors are enough."""
    if KAFKA:
        return
    user = some_user()
    with Broker(start=False, cores=1, corelane_memory="32m") as broker:
        if user is not None:
            broker.confine = confined(broker.directory, user, NOFILE=64)
        broker.start()
        with Connection(broker.address) as c:
            c.create_topic("segments", segment_ms=1)
            # Each batch begins a segment.
            for n in range(300):
                c.produce_ok("segments", 0, batch([b"x", b"y"], timestamps=[10 * n, 10 * n + 1]))
            for n in range(300):
                at = {"Topics": [{"Name": "segments", "Partitions": [{"PartitionIndex": 0, "Timestamp": 10 * n + 1}]}], "ReplicaId": -1}
                found = c.call("ListOffsets", 5, at).Topics[0].Partitions[0]
                assert (found.ErrorCode, found.Offset) == (0, 2 * n + 1), (n, found)
                c.produce_ok("segments", 0, batch([b"z"], timestamps=[2991]))
        if user is not None:
            return
        # Without a limit from outside there is one from inside.
        files = os.listdir(f"/proc/{broker.process.pid}/fd")
        assert len(files) < 200, len(files)


def test_a_slow_reader_is_not_idle():
    """Who reads all the time, however slowly, has his answer whole; who stops is closed."""
    with Broker(connections_max_idle_ms=3000, corelane_memory="1g") as broker:
        with Connection(broker.address) as c:
            fill_topic(c, "large", 24)
        ask = fetch_body("large", {0: 0}, max_bytes=50 << 20, partition_max=50 << 20)
        with Connection(broker.address) as slow, Connection(broker.address) as deaf:
            for c in (slow, deaf):
                c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                c.send("Fetch", 11, ask)
            left = struct.unpack(">i", slow.exactly(4))[0]
            assert left > 20_000_000, left
            started = time.monotonic()
            while left:
                left -= len(slow.exactly(min(left, 100_000)))
                time.sleep(0.05)
            assert time.monotonic() - started > 6, "it was not slow"
            deaf.socket.settimeout(60)
            with contextlib.suppress(ConnectionResetError, Closed):
                deaf.receive()
                raise AssertionError("one that does not read was not closed")

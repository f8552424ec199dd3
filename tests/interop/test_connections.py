"""A thousand clients at once."""

import socket
import struct

from harness import Broker, eventually
from raw import Connection, batch, fetch_body, parse_batches, produce_body, values

CLIENTS, PARTITIONS = 1000, 12
OVERRIDES = {"max.connections": 3000, "max.connections.per.ip": 3000}


def test_thousand_connections(broker):
    """Each connection produces and fetches what it wrote, all at the same time, three times."""
    with Connection(broker.address) as c:
        c.create_topic("crowd", PARTITIONS)
    crowd = [Connection(broker.address, client_id=f"client-{n}") for n in range(CLIENTS)]
    try:
        for turn in range(3):
            for n, c in enumerate(crowd):
                c.send("Produce", 9, produce_body("crowd", {n % PARTITIONS: batch([b"%d-%d" % (turn, n)])}))
            offsets = []
            for n, c in enumerate(crowd):
                part = c.receive().Responses[0].PartitionResponses[0]
                assert part.ErrorCode == 0, part
                offsets.append(part.BaseOffset)
            for n, c in enumerate(crowd):
                c.send("Fetch", 11, fetch_body("crowd", {n % PARTITIONS: offsets[n]}, partition_max=1))
            for n, c in enumerate(crowd):
                part = c.receive().Responses[0].Partitions[0]
                assert values(parse_batches(part.Records))[0] == b"%d-%d" % (turn, n), part
        with Connection(broker.address) as c:
            stored = [v for p in range(PARTITIONS) for v in values(c.fetch_all("crowd", p))]
        assert sorted(stored) == sorted(b"%d-%d" % (t, n) for t in range(3) for n in range(CLIENTS))
    finally:
        for c in crowd:
            c.close()


def test_thousand_waiting_fetches(broker):
    """Each connection waits for a record; one record wakes them all."""
    with Connection(broker.address) as producer:
        producer.create_topic("wake", 1)
        crowd = [Connection(broker.address) for _ in range(CLIENTS)]
        for c in crowd:
            c.send("Fetch", 11, fetch_body("wake", {0: 0}, max_wait=100000))
        producer.produce_ok("wake", 0, batch([b"wake up"]))
        for c in crowd:
            assert values(parse_batches(c.receive().Responses[0].Partitions[0].Records)) == [b"wake up"]
            c.close()


def test_connections_come_and_go(broker):
    for n in range(2000):
        with Connection(broker.address) as c:
            if n % 2:
                c.send("Metadata", 9, {"Topics": None})  # gone before the answer
            else:
                assert c.call("ApiVersions", 0).ErrorCode == 0


def test_connections_that_are_reset_at_once(broker):
    """As health checks do: each is gone before it is accepted, and holds up nobody."""
    for _ in range(600):
        with socket.create_connection(broker.address) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with Connection(broker.address, timeout=20) as c:
        assert c.call("ApiVersions", 0).ErrorCode == 0
    with open(broker.log) as log:
        assert "cannot accept" not in log.read()


def open_sockets(broker):
    """How many files the broker has open."""
    import os

    return len(os.listdir(f"/proc/{broker.process.pid}/fd"))


def test_no_socket_leaks(broker):
    before = open_sockets(broker)
    crowd = [Connection(broker.address) for _ in range(300)]
    for c in crowd:
        assert c.call("ApiVersions", 0).ErrorCode == 0
    assert open_sockets(broker) >= before + 250
    for c in crowd:
        c.close()
    eventually(lambda: open_sockets(broker) <= before + 5)


def test_all_interfaces_are_those_of_ipv6_too():
    """A listener without a host, and one of 0.0.0.0, are reached over both; a client id that is not UTF-8 is taken."""
    for host in ("", "0.0.0.0"):
        with Broker(start=False) as broker:
            broker.overrides["listeners"] = f"PLAINTEXT://{host}:{broker.port}"
            broker.overrides["advertised.listeners"] = f"PLAINTEXT://127.0.0.1:{broker.port}"
            broker.start()
            for address in ("127.0.0.1", "::1"):
                with socket.create_connection((address, broker.port), timeout=30) as s:
                    request = struct.pack(">hhih", 18, 0, 5, 3) + b"a\xff\xfe"
                    s.sendall(struct.pack(">i", len(request)) + request)
                    size, correlation, code = struct.unpack(">iih", s.recv(10))
                    assert (correlation, code) == (5, 0), (size, correlation, code)

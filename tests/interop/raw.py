"""A small Kafka client that sends exactly what it is told to, for what real clients do not do."""

import gzip
import itertools
import os
import socket
import struct
import time

from schema import Message, Protocol, varint

PROTOCOL = Protocol(os.environ.get("KAFKA_LIBS", "libs"))
KAFKA = os.environ.get("TARGET") == "kafka"
NO_PRODUCER = (-1, -1, -1)
GZIP = 1
ZSTD = 4
LOG_APPEND_TIME = 8
TRANSACTIONAL = 16
CONTROL = 32

CRC_TABLE = []
for _n in range(256):
    for _ in range(8):
        _n = _n >> 1 ^ 0x82F63B78 if _n & 1 else _n >> 1
    CRC_TABLE.append(_n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class Closed(Exception):
    """The broker closed the connection."""


class Connection:
    """One connection. Requests may be pipelined; `receive` hands responses out in the order of the requests."""

    def __init__(self, address, timeout=60, client_id="raw"):
        self.socket = socket.create_connection(address, timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client_id = client_id
        self.correlations = itertools.count(1)
        self.sent = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def frame(self, name, version, body):
        """A request's frame and what `receive` has to know of it."""
        key = PROTOCOL.keys[name]
        correlation = next(self.correlations)
        payload = PROTOCOL.request_header(key, version, correlation, self.client_id)
        payload += PROTOCOL.requests[key].encode(version, body)
        return struct.pack(">i", len(payload)) + payload, (key, version, correlation)

    def send(self, name, version, body=None, answered=True):
        """Sends a request without waiting. `answered=False`: acks=0, no response will come."""
        frame, expected = self.frame(name, version, body or {})
        # Before the bytes leave: another thread may receive the answer before this one goes on.
        if answered:
            self.sent.append(expected)
        self.socket.sendall(frame)

    def receive(self):
        """The next response, which must belong to the oldest request that has none yet."""
        data = self.receive_frame()
        key, version, correlation = self.sent.pop(0)
        got = struct.unpack(">i", data[:4])[0]
        assert got == correlation, f"response {got} came where {correlation} was due"
        skip = PROTOCOL.response_header_size(key, version)
        return PROTOCOL.responses[key].decode(version, data[skip:])

    def receive_frame(self):
        size = struct.unpack(">i", self.exactly(4))[0]
        assert 4 <= size < 1 << 30, f"response of {size} bytes"
        return self.exactly(size)

    def exactly(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                piece = self.socket.recv(min(count - len(data), 1 << 20))
            except (ConnectionResetError, BrokenPipeError) as error:
                raise Closed(str(error)) from error
            if not piece:
                raise Closed(f"closed after {len(data)} of {count} bytes")
            data += piece
        return bytes(data)

    def call(self, name, version, body=None):
        self.send(name, version, body)
        return self.receive()

    # Shorthands of what nearly every test does.

    def create_topic(self, name, partitions=1, **configs):
        topic = {
            "Name": name, "NumPartitions": partitions, "ReplicationFactor": 1,
            "Configs": [{"Name": k.replace("_", "."), "Value": str(v)} for k, v in configs.items()],
        }
        answer = self.call("CreateTopics", 7, {"Topics": [topic], "timeoutMs": 30000}).Topics[0]
        assert answer.ErrorCode == 0, f"create {name}: {answer}"
        while KAFKA and any(self.list_offset(name, p, -2).ErrorCode for p in range(partitions)):
            time.sleep(0.02)  # Kafka answers a little before a topic can be used
        return answer.TopicId

    def topic_id(self, name):
        topic = self.call("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False}).Topics[0]
        assert topic.ErrorCode == 0, f"metadata of {name}: {topic}"
        return topic.TopicId

    def produce(self, topic, partition, records, acks=-1, version=9):
        """Produces the bytes `records` to one partition and returns its part of the answer."""
        self.send("Produce", version, produce_body(topic, {partition: records}, acks), answered=acks != 0)
        return self.receive().Responses[0].PartitionResponses[0] if acks != 0 else None

    def produce_ok(self, topic, partition, records, acks=-1):
        """As `produce`, but must succeed; returns the base offset."""
        answer = self.produce(topic, partition, records, acks)
        assert answer.ErrorCode == 0, f"produce: {answer}"
        return answer.BaseOffset

    def fetch(self, topic, offsets, version=11, **more):
        """Fetches from `offsets` (partition to offset); returns the partitions' answers by partition."""
        answer = self.call("Fetch", version, fetch_body(topic, offsets, version=version, **more))
        assert answer.ErrorCode == 0, f"fetch: error {answer.ErrorCode}"
        return {p.PartitionIndex: p for t in answer.Responses for p in t.Partitions}

    def fetch_all(self, topic, partition, start=0):
        """Every batch of a partition from `start` to its end."""
        found, offset = [], start
        while True:
            answer = self.fetch(topic, {partition: offset}, max_wait=0)[partition]
            assert answer.ErrorCode == 0, f"fetch at {offset}: {answer}"
            batches = parse_batches(answer.Records, partial=True)
            if not batches:
                assert offset == answer.HighWatermark, f"nothing at {offset}, high watermark {answer.HighWatermark}"
                return found
            found += batches
            offset = batches[-1].next_offset

    def list_offset(self, topic, partition, timestamp, version=8, isolation=0):
        body = {"IsolationLevel": isolation, "Topics": [{"Name": topic, "Partitions": [{"PartitionIndex": partition, "Timestamp": timestamp}]}]}
        return self.call("ListOffsets", version, body).Topics[0].Partitions[0]


def produce_body(topic, records_by_partition, acks=-1, timeout_ms=30000):
    """A Produce request's body. `topic`: its name, or its id for version 13 and later."""
    name = {"Name": topic} if isinstance(topic, str) else {"TopicId": topic}
    partitions = [{"Index": p, "Records": r} for p, r in records_by_partition.items()]
    return {"Acks": acks, "TimeoutMs": timeout_ms, "TopicData": [{**name, "PartitionData": partitions}]}


def fetch_body(topic, offsets, max_wait=0, min_bytes=1, max_bytes=50 << 20, partition_max=1 << 20, session=(0, -1), epoch=-1, forgotten=(), isolation=0, version=11):
    """A Fetch request's body. `topic`: its name, or its id for version 13 and later."""
    name = {"Topic": topic} if isinstance(topic, str) else {"TopicId": topic}
    partitions = [{"Partition": p, "FetchOffset": o, "PartitionMaxBytes": partition_max, "CurrentLeaderEpoch": epoch} for p, o in offsets.items()]
    return {
        "MaxWaitMs": max_wait, "MinBytes": min_bytes, "MaxBytes": max_bytes, "IsolationLevel": isolation,
        "SessionId": session[0], "SessionEpoch": session[1],
        "Topics": [{**name, "Partitions": partitions}] if partitions else [],
        "ForgottenTopicsData": [{**name, "Partitions": list(forgotten)}] if forgotten else [],
    }


def zigzag(value):
    return varint((value << 1) ^ (value >> 63))


def record(delta, key, value, timestamp_delta=0, headers=()):
    """One record of a v2 batch."""
    body = b"\0" + zigzag(timestamp_delta) + zigzag(delta)
    for data in (key, value):
        body += zigzag(-1) if data is None else zigzag(len(data)) + data
    body += zigzag(len(headers))
    for name, data in headers:
        body += zigzag(len(name)) + name + (zigzag(-1) if data is None else zigzag(len(data)) + data)
    return zigzag(len(body)) + body


def batch(records, producer=NO_PRODUCER, attributes=0, base_offset=0, timestamps=None, **lies):
    """A v2 batch of `records`: values, or (key, value) pairs. `producer`: (id, epoch, first sequence).

    `lies` overwrite what would be right: count, last_offset_delta, crc, magic, length, payload, leader_epoch, max_timestamp.
    """
    records = [r if isinstance(r, tuple) else (None, r) for r in records]
    timestamps = timestamps or [int(time.time() * 1000)] * len(records)
    first = timestamps[0] if timestamps else 0
    payload = b"".join(record(i, k, v, t - first) for i, ((k, v), t) in enumerate(zip(records, timestamps)))
    if attributes & 7 == GZIP:
        payload = gzip.compress(payload)
    payload = lies.get("payload", payload)
    body = struct.pack(
        ">hiqqqhii", attributes, lies.get("last_offset_delta", len(records) - 1), first,
        lies.get("max_timestamp", max(timestamps, default=0)), *producer, lies.get("count", len(records)),
    ) + payload
    crc = lies.get("crc", crc32c(body))
    head = struct.pack(">qiibI", base_offset, lies.get("length", len(body) + 9), lies.get("leader_epoch", -1), lies.get("magic", 2), crc)
    return head + body


def old_message(magic, value):
    """A message set of one message in the formats before Kafka 0.11."""
    import zlib

    body = struct.pack(">bb", magic, 0) + (struct.pack(">q", 1000) if magic else b"") + struct.pack(">i", -1) + struct.pack(">i", len(value)) + value
    return struct.pack(">qiI", 0, len(body) + 4, zlib.crc32(body)) + body


class Varints:
    """Reads the varint-coded records of a batch."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def int(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value >> 1 ^ -(value & 1)

    def bytes(self):
        size = self.int()
        if size < 0:
            return None
        self.at += size
        return self.data[self.at - size : self.at]


def parse_batches(data, partial=False):
    """The batches in a fetch response, each CRC checked. `partial`: a cut batch at the end is left out."""
    found, at = [], 0
    while at < len(data):
        size = struct.unpack(">i", data[at + 8 : at + 12])[0] + 12 if at + 12 <= len(data) else 1 << 30
        if at + size > len(data):
            assert partial, f"a batch of {size} bytes at {at} of {len(data)}"
            break
        found.append(parse_batch(data[at : at + size]))
        at += size
    return found


def parse_batch(data):
    base, _, leader_epoch, magic, crc = struct.unpack(">qiibI", data[:21])
    attributes, last_delta, first_time, max_time, pid, epoch, sequence, count = struct.unpack(">hiqqqhii", data[21:61])
    assert magic == 2, f"magic {magic}"
    assert crc == crc32c(data[21:]), f"CRC of the batch at offset {base} is wrong"
    payload = gzip.decompress(data[61:]) if attributes & 7 == GZIP else data[61:]
    reader, records = Varints(payload), []
    for _ in range(count if attributes & 7 in (0, GZIP) else 0):
        reader.int()
        reader.at += 1
        timestamp, delta = first_time + reader.int(), reader.int()
        key, value = reader.bytes(), reader.bytes()
        headers = [(reader.bytes(), reader.bytes()) for _ in range(reader.int())]
        if attributes & LOG_APPEND_TIME:
            timestamp = max_time
        records.append(Message(offset=base + delta, timestamp=timestamp, key=key, value=value, headers=headers))
    return Message(
        base_offset=base, next_offset=base + last_delta + 1, leader_epoch=leader_epoch, attributes=attributes, max_timestamp=max_time,
        producer=(pid, epoch, sequence), count=count, records=records, size=len(data),
    )


def values(batches):
    return [r.value for b in batches for r in b.records]

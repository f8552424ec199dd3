"""Another client, while something hostile goes on: it produces, fetches, reports to its group, and asks for versions.

Each kind of request has a connection of its own, and its latencies are collected; `connect` opens a new connection
and asks there. Each answer must be right. Runs in a process of its own: `Bystander`.
"""

import contextlib
import json
import os
import selectors
import socket
import struct
import time

from raw import PROTOCOL, Connection, batch, fetch_body, parse_batches, produce_body, values

KINDS = ("produce", "fetch", "heartbeat", "versions", "connect")
# Pause between an answer and the next request of a kind.
PAUSE = 0.01
HEARTBEAT_PAUSE = 0.05
CONNECT_PAUSE = 0.1
SESSION_MS = 6000
COORDINATOR_NOT_AVAILABLE = 15
# An answer that has not come by then does not come.
PATIENCE = 60


def partition_for(group, partitions=50):
    """The partition of `__consumer_offsets` that looks after a group: Java's hash of its name."""
    code = 0
    for unit in group:
        code = (31 * code + ord(unit)) & 0xFFFFFFFF
    return (code & 0x7FFFFFFF) % partitions


class Channel:
    """One kind of request: at most one at a time, on one connection."""

    def __init__(self, kind, bystander, pause=PAUSE):
        self.kind, self.bystander, self.pause = kind, bystander, pause
        self.latencies, self.sent_at, self.due, self.got = [], None, 0.0, b""
        self.socket = None
        if kind != "connect":
            self.open()

    def open(self):
        self.socket = socket.create_connection(self.bystander.address, timeout=PATIENCE)
        self.begin()

    def begin(self):
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.bystander.selector.register(self.socket, selectors.EVENT_READ, self)

    def send(self):
        name, version, body = self.bystander.request(self.kind)
        self.sent_at = time.monotonic()
        if self.kind == "connect":
            # The kernel accepts for a listener with room: this does not wait.
            self.socket = socket.create_connection(self.bystander.address, timeout=PATIENCE)
            self.begin()
        key = PROTOCOL.keys[name]
        payload = PROTOCOL.request_header(key, version, 7) + PROTOCOL.requests[key].encode(version, body)
        self.expected = (key, version)
        self.socket.sendall(struct.pack(">i", len(payload)) + payload)

    def receive(self):
        piece = self.socket.recv(1 << 20)
        assert piece, f"{self.kind}: the connection was closed"
        self.got += piece
        if len(self.got) < 4 or len(self.got) < 4 + struct.unpack(">i", self.got[:4])[0]:
            return
        now = time.monotonic()
        self.latencies.append(now - self.sent_at)
        self.sent_at, self.due = None, now + self.pause
        key, version = self.expected
        answer = PROTOCOL.responses[key].decode(version, self.got[4 + PROTOCOL.response_header_size(key, version) :])
        self.got = b""
        self.bystander.answered(self.kind, answer)
        if self.kind == "connect":
            self.bystander.selector.unregister(self.socket)
            self.socket.close()


class Requests:
    """What a bystander asks, and what it has to hear."""

    def __init__(self, address, topic, partitions, group):
        self.address, self.topic, self.partitions, self.group = address, topic, partitions, group
        self.selector = selectors.DefaultSelector()
        self.count, self.at, self.last = 0, partitions[0], {}
        with Connection(address) as c:
            self.ends = {p: c.list_offset(topic, p, -1).Offset for p in partitions}
            self.join(c)

    def join(self, c):
        """Becomes the only member of its group."""
        body = {
            "GroupId": self.group, "SessionTimeoutMs": SESSION_MS, "RebalanceTimeoutMs": SESSION_MS, "MemberId": "",
            "ProtocolType": "consumer", "Protocols": [{"Name": "range", "Metadata": b"\0\0\0\0"}],
        }
        deadline = time.monotonic() + PATIENCE
        while True:
            joined = c.call("JoinGroup", 3, body)
            if joined.ErrorCode == 0:
                break
            # Its coordinator is being loaded.
            assert joined.ErrorCode in (14, 15, 16) and time.monotonic() < deadline, joined
            time.sleep(0.02)
        self.member, self.generation = joined.MemberId, joined.GenerationId
        mine = {"GroupId": self.group, "GenerationId": self.generation, "MemberId": self.member}
        assigned = c.call("SyncGroup", 3, {**mine, "Assignments": [{"MemberId": self.member, "Assignment": b"all"}]})
        assert assigned.ErrorCode == 0 and assigned.Assignment == b"all", assigned
        self.heard = time.monotonic()

    def request(self, kind):
        if kind == "produce":
            self.count += 1
            self.at = self.partitions[self.count % len(self.partitions)]
            self.value = b"%d of %d" % (self.count, os.getpid()) + b"." * 500
            return "Produce", 9, produce_body(self.topic, {self.at: batch([self.value])})
        if kind == "fetch":
            # The newest record, or nothing where there is none yet.
            partition = self.at if self.at in self.last else self.partitions[0]
            self.wanted = self.last.get(partition, (self.ends[partition], None))
            return "Fetch", 11, fetch_body(self.topic, {partition: self.wanted[0]}, partition_max=1 << 16)
        if kind == "heartbeat":
            return "Heartbeat", 3, {"GroupId": self.group, "GenerationId": self.generation, "MemberId": self.member}
        return "ApiVersions", 3, {"ClientSoftwareName": "bystander", "ClientSoftwareVersion": "1"}

    def answered(self, kind, answer):
        if kind == "produce":
            part = answer.Responses[0].PartitionResponses[0]
            assert part.ErrorCode == 0, f"produce: {part}"
            before = self.last.get(self.at, (self.ends[self.at] - 1,))[0]
            assert part.BaseOffset == before + 1, f"offset {part.BaseOffset} after {before}"
            self.last[self.at] = (part.BaseOffset, self.value)
        elif kind == "fetch":
            part = answer.Responses[0].Partitions[0]
            assert answer.ErrorCode == 0 and part.ErrorCode == 0, f"fetch: {answer.ErrorCode} {part.ErrorCode}"
            self.check(part)
        else:
            assert answer.ErrorCode == 0, f"{kind}: {answer.ErrorCode}"
            if kind == "heartbeat":
                self.heard = time.monotonic()

    def check(self, part):
        """The record is the one that was produced."""
        offset, value = self.wanted
        if value is not None:
            found = {r.offset: r.value for b in parse_batches(part.Records, partial=True) for r in b.records}
            assert found.get(offset) == value, f"fetch: {sorted(found)} at {offset}"

    def finish(self):
        """Whether it is in its group, and all that was acknowledged is there."""
        with Connection(self.address) as c:
            commit = {
                "GroupId": self.group, "GenerationIdOrMemberEpoch": self.generation, "MemberId": self.member,
                "Topics": [{"Name": self.topic, "Partitions": [{"PartitionIndex": self.partitions[0], "CommittedOffset": 7}]}],
            }
            code = c.call("Heartbeat", 3, self.request("heartbeat")[2]).ErrorCode
            assert code == 0, f"it is no member any more: {code}, {time.monotonic() - self.heard:.1f} s after it was one"
            # Where groups have taken all that they may, commits are refused for a while.
            code = c.call("OffsetCommit", 7, commit).Topics[0].Partitions[0].ErrorCode
            assert code in (0, COORDINATOR_NOT_AVAILABLE), f"commit: {code}"
            for partition, (offset, value) in self.last.items():
                assert values(c.fetch_all(self.topic, partition, offset))[0] == value, f"{partition} at {offset}"
            # The next one does not wait for the end of its session.
            assert c.call("LeaveGroup", 1, {"GroupId": self.group, "MemberId": self.member}).ErrorCode == 0


def watch(requests, channels, late, stopped):
    """Asks on all channels until `stopped`. `late`: how late this process itself is woken."""
    requests.selector.register(stopped, selectors.EVENT_READ)
    asked = True
    while asked or any(c.sent_at for c in channels if c.kind != "heartbeat"):
        now = time.monotonic()
        assert all(c.sent_at is None or now - c.sent_at < PATIENCE for c in channels), "no answer: " + " ".join(
            c.kind for c in channels if c.sent_at is not None)
        # While the last answers are awaited it stays in its group.
        wanting = [c for c in channels if asked or c.kind == "heartbeat"]
        for channel in wanting:
            if channel.sent_at is None and channel.due <= now:
                channel.send()
        due = min((c.due for c in wanting if c.sent_at is None), default=now + 1)
        wanted = max(0.0, due - time.monotonic())
        began = time.monotonic()
        events = requests.selector.select(wanted)
        if not events and asked:
            late.append(time.monotonic() - began - wanted)
        for key, _ in events:
            if key.data is None:
                asked = False
                requests.selector.unregister(stopped)
            else:
                key.data.receive()


def summary(latencies):
    """Median, p99, the worst in milliseconds, and how many."""
    ordered = sorted(latencies)
    if not ordered:
        return [0.0, 0.0, 0.0, 0]
    place = [ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1]]
    return [round(1000 * one, 2) for one in place] + [len(ordered)]


class Bystander:
    """A bystander in a process of its own, from its construction to `finish`."""

    def __init__(self, address, topic, partitions, group, prepare=lambda: None, kinds=KINDS):
        self.kinds = kinds
        reading, writing = os.pipe()
        said, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(writing), os.close(said)
            prepare()
            self.live(address, topic, partitions, group, reading, say)
        os.close(reading), os.close(say)
        self.stop, self.said = writing, os.fdopen(said)
        first = self.said.readline()
        assert first == "ready\n", f"the bystander does not start: {first}"

    def live(self, address, topic, partitions, group, stop, say):
        out = os.fdopen(say, "w")
        report, channels, late = {"error": None}, [], []
        try:
            requests = Requests(address, topic, partitions, group)
            pauses = {"heartbeat": HEARTBEAT_PAUSE, "connect": CONNECT_PAUSE}
            channels += [Channel(kind, requests, pauses.get(kind, PAUSE)) for kind in self.kinds]
            print("ready", file=out, flush=True)
            watch(requests, channels, late, stop)
            requests.finish()
        except BaseException as error:  # noqa: BLE001 - reported
            report["error"] = f"{type(error).__name__}: {error}"
        report.update({c.kind: summary(c.latencies) for c in channels}, late=summary(late))
        with contextlib.suppress(OSError):
            print(json.dumps(report), file=out, flush=True)
        os._exit(0)

    def finish(self):
        """Ends it: a dict from kind to (p50, p99, worst in ms, count), `late` likewise, and `error`."""
        os.close(self.stop)
        line = self.said.readline()
        self.said.close()
        os.waitpid(self.pid, 0)
        return json.loads(line) if line else {"error": "it died"}

"""The table of attacks, and what an attacker needs.

An attack is a function that takes a `Target` and sends, until `Target.until`, what it has to send. It runs in a
process of its own (see siege.py), which is killed at the end with all of its connections. Where the broker's answers
are of interest it raises `AssertionError`; what it returns is shown. `@attack(GROUP, ...)` puts it into `TABLE`.
"""

import contextlib
import errno
import functools
import random
import selectors
import socket
import struct
import time

from raw import PROTOCOL, Connection, batch
from schema import varint

TABLE = []
# Names of topics that are there before an attack.
COLD, FROZEN, OPEN = "cold", "frozen", "open"
IP_BIND_ADDRESS_NO_PORT = 24
NO_TAGS = b"\0"


class Attack:
    """One line of the table."""

    def __init__(self, function, group, name, settings, frozen, unread, limits):
        self.function, self.group, self.name = function, group, name
        # Settings of the broker that this attack is about.
        self.settings = settings or {}
        # The second disk stands still meanwhile.
        self.frozen = frozen
        # Nobody reads the broker's log.
        self.unread = unread
        # Limits of the broker's process.
        self.limits = limits or {}
        self.what = " ".join(function.__doc__.split())


def attack(group, name=None, settings=None, frozen=False, unread=False, limits=None, arguments=()):
    """Puts a function into the table, more than once with different `name` and `arguments`."""

    def register(function):
        bound = functools.partial(function, *arguments) if arguments else function
        bound.__doc__ = function.__doc__
        called = name or function.__name__.replace("_", "-")
        assert called not in [a.name for a in TABLE], called
        TABLE.append(Attack(bound, group, called, settings, frozen, unread, limits))
        return function

    return register


class Target:
    """The broker as an attacker sees it."""

    def __init__(self, address, memory, seconds, full=True, cold=(48, 1), frozen=()):
        self.address, self.memory, self.seconds, self.full = address, memory, seconds, full
        self.until = time.monotonic() + seconds
        # Partitions of the topic `cold`, and batches of 900 kB in each.
        self.partitions, self.batches = cold
        # Partitions of the topic `frozen` whose disk stands still.
        self.frozen = list(frozen)

    def left(self):
        """Seconds until the end."""
        return max(0.0, self.until - time.monotonic())

    def over(self):
        return time.monotonic() >= self.until

    def many(self, full, few):
        """`full`, or `few` where the attack is to be short."""
        return full if self.full else few

    def socket(self, receive=None, blocking=True):
        """A connection from some address of the loopback network other than that of everybody else."""
        s = socket.socket()
        s.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Who is closed leaves no port behind.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if receive:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        s.bind((f"127.0.0.{random.randrange(2, 250)}", 0))
        s.setblocking(blocking)
        if blocking:
            s.settimeout(max(self.left(), 1))
            s.connect(self.address)
        else:
            code = s.connect_ex(self.address)
            if code not in (0, errno.EINPROGRESS):
                s.close()
                raise OSError(code, "connect")
        return s

    def connection(self, receive=None, client_id="evil"):
        return Hostile(self, receive, client_id)


class Hostile(Connection):
    """A `Connection` from an attacker's address."""

    def __init__(self, target, receive, client_id):  # noqa: super().__init__ would connect from elsewhere
        self.socket = target.socket(receive)
        self.client_id, self.correlations, self.sent = client_id, iter(range(1, 1 << 31)), []

    def patient(self, name, version, body, target):
        """An answer, or `None` if it has not come by the end."""
        self.socket.settimeout(max(target.left(), 0.01))
        with contextlib.suppress(OSError):
            return self.call(name, version, body)
        return None


# Requests as bytes. Large arrays are written by hand: the encoder takes microseconds for each field.


def text(value):
    """A compact string or bytes."""
    data = value.encode() if isinstance(value, str) else value
    return varint(len(data) + 1) + data


def array(count, elements):
    """A compact array of `count` elements, one after the other in `elements`."""
    return varint(count + 1) + elements


def request(name, version, body, client_id="evil"):
    """A frame; `body` is a message, or its bytes."""
    key = PROTOCOL.keys[name]
    data = body if isinstance(body, bytes) else PROTOCOL.requests[key].encode(version, body)
    payload = PROTOCOL.request_header(key, version, 1, client_id) + data
    return struct.pack(">i", len(payload)) + payload


def produce(topics, acks=1):
    """A Produce request (9) of `topics`: (name, [(partition, records)])."""
    body = NO_TAGS + struct.pack(">hi", acks, 30000) + varint(len(topics) + 1)
    for name, partitions in topics:
        body += text(name) + varint(len(partitions) + 1)
        body += b"".join(struct.pack(">i", p) + text(r) + NO_TAGS for p, r in partitions) + NO_TAGS
    return request("Produce", 9, body + NO_TAGS)


def fetch(topic, offsets, max_wait=0, min_bytes=1, max_bytes=50 << 20, partition_max=1 << 20, session=(0, -1)):
    """A Fetch request (12) of `offsets`: (partition, offset)."""
    parts = b"".join(struct.pack(">iiqiqi", p, -1, o, -1, -1, partition_max) + NO_TAGS for p, o in offsets)
    body = struct.pack(">iiiibii", -1, max_wait, min_bytes, max_bytes, 0, *session)
    topics = array(1, text(topic) + array(len(offsets), parts) + NO_TAGS) if offsets else array(0, b"")
    return request("Fetch", 12, body + topics + array(0, b"") + text("") + NO_TAGS)


@functools.cache
def noise(size):
    """A batch of one record of `size` bytes."""
    return batch([random.Random(size).randbytes(size)])


def metadata_of_all():
    return request("Metadata", 9, {"Topics": None})


def flood(target, clients, payload, read=True, receive=None, pause=0.0):
    """`clients` connections send `payload` again and again until the time is up; who is closed comes again.

    `payload`: bytes, or a function of the connection's number that returns them, asked whenever all before is sent.
    With `read=False` nobody reads. `pause`: seconds after each that is sent. Returns what happened, for people.
    """
    crowd = Flood(target, payload, read, receive, pause)
    for n in range(clients):
        crowd.open(n)
    crowd.run()
    return f"{crowd.sent} sent, {crowd.received >> 10} KiB read, {crowd.closed} closed"


class Flood:
    """See `flood`."""

    def __init__(self, target, payload, read, receive, pause):
        self.target, self.payload, self.read, self.receive, self.pause = target, payload, read, receive, pause
        self.selector = selectors.DefaultSelector()
        self.sent = self.received = self.closed = 0
        # Number and time of those who come again, or go on, later.
        self.later = []

    def open(self, number):
        try:
            s = self.target.socket(self.receive, blocking=False)
        except OSError:
            return self.later.append((time.monotonic() + 0.1, number, None))
        self.watch(s, [number, None], True)

    def watch(self, s, state, sending):
        with contextlib.suppress(KeyError):
            self.selector.unregister(s)
        events = (selectors.EVENT_READ if self.read else 0) | (selectors.EVENT_WRITE if sending else 0)
        if events:
            self.selector.register(s, events, state)

    def run(self):
        while not self.target.over():
            for key, events in self.selector.select(min(0.05, self.target.left())):
                try:
                    if events & selectors.EVENT_READ:
                        self.take(key.fileobj)
                    if events & selectors.EVENT_WRITE:
                        self.give(key.fileobj, key.data)
                except BlockingIOError:
                    pass
                except OSError:
                    self.drop(key)
            self.go_on()

    def take(self, s):
        data = s.recv(1 << 18)
        self.received += len(data)
        if not data:
            raise ConnectionResetError

    def give(self, s, state):
        if not state[1]:
            data = self.payload(state[0]) if callable(self.payload) else self.payload
            state[1] = memoryview(data)
        count = s.send(state[1])
        state[1] = state[1][count:]
        if not state[1]:
            self.sent += 1
            if self.pause:
                self.watch(s, state, False)
                self.later.append((time.monotonic() + self.pause, state[0], s))

    def drop(self, key):
        self.closed += 1
        self.selector.unregister(key.fileobj)
        key.fileobj.close()
        self.later.append((time.monotonic() + 0.02, key.data[0], None))

    def go_on(self):
        now = time.monotonic()
        due = [entry for entry in self.later if entry[0] <= now]
        if due:
            self.later = [entry for entry in self.later if entry[0] > now]
        for _, number, s in due:
            if s is None:
                self.open(number)
            elif s.fileno() >= 0:
                self.watch(s, [number, None], True)


def hold(target, sockets):
    """Keeps connections until the end."""
    time.sleep(target.left())
    return f"{len(sockets)} connections"


# Each fills the table.
from . import connections, framing, groups, metadata, producers, readers  # noqa: E402,F401

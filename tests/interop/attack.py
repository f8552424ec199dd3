"""Makes hostile requests: for every API and version, a body in which one length or count is a lie."""

import contextlib
import os
import selectors
import socket
import struct

from raw import PROTOCOL, batch
from schema import NUMBERS, Writer

INT_MAX = 2**31 - 1
KEYS = range(0, 95)
# What stands where a length should: as 16 or 32 bit numbers, and as unsigned varints.
WIDE = [INT_MAX, -1, -2, -(2**31), 1 << 20]
NARROW = [32767, -1, -2, -32768]
VARINTS = [b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x07", b"\x80\x80\x80\x80\x08", b"\x00", b"\xff" * 10, b"\x80\x80\x80\x00", b"\xff"]


class Liar(Writer):
    """A writer whose length number `target` is replaced by lie number `lie`."""

    def __init__(self, target, lie, shared=None):
        super().__init__()
        self.target, self.lie = target, lie
        self.shared = shared if shared is not None else {"at": 0, "lies": 0}

    def hostile(self, lies):
        """The lie to tell here, if this is the place."""
        here = self.shared["at"] == self.target
        self.shared["at"] += 1
        if here:
            self.shared["lies"] = len(lies)
        return lies[self.lie] if here and self.lie < len(lies) else None

    def length(self, value, compact, wide):
        lie = self.hostile(VARINTS if compact else WIDE if wide else NARROW)
        if lie is None:
            super().length(value, compact, wide)
        elif compact:
            self.out += lie
        else:
            self.number("int32" if wide else "int16", lie)

    def tag_length(self, value):
        lie = self.hostile(VARINTS)
        if lie is None:
            super().tag_length(value)
        else:
            self.out += lie

    def inner(self):
        return Liar(self.target, self.lie, self.shared)


def sample(fields, version, name=""):
    """A message with something in every array, string and struct, so that every length is written once."""
    message = {}
    for field in fields:
        if version not in field.versions:
            continue
        if field.element:
            message[field.name] = [sample_value(field, field.element, version)]
        elif field.name == "Acks":
            message[field.name] = 1
        else:
            message[field.name] = sample_value(field, field.type, version)
    return message


def sample_value(field, kind, version):
    if kind in NUMBERS:
        return field.default if isinstance(field.default, (int, float, bool)) else 0
    if kind == "uuid":
        return None
    if kind == "string":
        return "attacked"
    if kind == "records":
        return batch([b"x"])
    if kind == "bytes":
        return b"\0\0\0\1x"
    return sample(field.struct, version)


def lies(key, version):
    """Bodies of one API and version, each with one lie in it."""
    schema = PROTOCOL.requests[key]
    message = sample(schema.fields, version)
    target = 0
    while True:
        lie, found = 0, False
        while True:
            writer = Liar(target, lie)
            body = schema.encode(version, message, writer)
            found = found or bool(writer.shared["lies"])
            if not writer.shared["lies"] or lie >= writer.shared["lies"]:
                break
            yield body
            lie += 1
        if not found:
            return
        target += 1


def blind(repeat=6):
    """Bodies for what there is no definition of."""
    for piece in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\x7f\xff", b"\xff\xff", b"\xff\xff\xff\xff\x0f", b"\0"):
        yield piece * repeat
        yield b"\0\0\0\1" + piece * repeat
    yield b""
    yield os.urandom(64)


def versions(key):
    """Those that are defined, and those just outside and far outside."""
    schema = PROTOCOL.requests.get(key)
    low, high = (schema.versions.low, schema.versions.high) if schema else (0, -1)
    inside = list(range(low, high + 1))
    return inside, sorted({low - 1, high + 1, 0, 99, 32767, -1} - set(inside))


def header(key, version, lie=None):
    """A request header, or one whose client id or tagged fields lie."""
    good = PROTOCOL.request_header(key, version, 1, "evil")
    if lie is None:
        return good
    return good[:8] + lie


def frames(key):
    """Every hostile frame for one API key, its size told right."""
    inside, outside = versions(key)
    for version in inside:
        for body in lies(key, version):
            yield frame(header(key, version) + body)
    for version in outside:
        nearest = min(inside, key=lambda v: abs(v - version), default=None)
        bodies = list(lies(key, nearest)) if nearest is not None else list(blind())
        for body in bodies[::3]:
            yield frame(header(key, version) + body)
    for version in (inside[:1] + inside[-1:]) or [0]:
        for lie in (b"\x7f\xff", b"\x80\0", b"\xff\xfe", b"\x7f\xffabc", b"\0\4evil\xff\xff\xff\xff\x0f", b"\0\4evil\1\0\xff\xff\xff\xff\x0f", b"\xff\xff" + b"\xff" * 12):
            yield frame(header(key, version, lie))


def frame(payload):
    return struct.pack(">i", len(payload)) + payload


def volley(address, frames_, at_once=64, patience=20):
    """Sends each frame on a connection of its own; returns how many were (answered, closed, left without a word)."""
    selector, waiting, counts, source = selectors.DefaultSelector(), {}, [0, 0, 0], iter(frames_)
    exhausted = False
    while True:
        while not exhausted and len(waiting) < at_once:
            data = next(source, None)
            if data is None:
                exhausted = True
                break
            connection = socket.create_connection(address, timeout=30)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                connection.sendall(data)
            except OSError:
                counts[1] += 1
                connection.close()
                continue
            selector.register(connection, selectors.EVENT_READ)
            waiting[connection] = data
        if not waiting:
            return tuple(counts)
        ready = selector.select(patience)
        if not ready:
            counts[2] += len(waiting)
            for connection in waiting:
                selector.unregister(connection)
                connection.close()
            waiting.clear()
        for key, _ in ready:
            connection = key.fileobj
            got = b""
            with contextlib.suppress(OSError):
                got = connection.recv(65536)
            counts[0 if got else 1] += 1
            selector.unregister(connection)
            connection.close()
            del waiting[connection]

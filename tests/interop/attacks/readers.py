"""Attacks of readers."""

import contextlib
import random
import struct
import time

from raw import batch, fetch_body

from . import (COLD, FROZEN, NO_TAGS, OPEN, array, attack, fetch, flood, hold, noise, produce, request, text)
from .producers import ZSTD, bomb, crumbs

FETCH = "fetch"
INT_MAX = 2**31 - 1
BATCH = 900_000  # of the cold topic, about


def from_anywhere(t, dice, partitions=48):
    """A place in each partition of the cold topic."""
    return [(p, dice.randrange(t.batches)) for p in range(min(partitions, t.partitions))]


@attack(FETCH)
def readers_that_stop(t):
    """Clients ask for 50 MB from all partitions, each from other places, and read nothing of it."""
    dice, crowd = random.Random(1), []
    for _ in range(t.many(60, 12)):
        s = t.socket(receive=8192)
        s.sendall(fetch(COLD, from_anywhere(t, dice)))
        crowd.append(s)
    return hold(t, crowd)


@attack(FETCH)
def readers_that_stop_midway(t):
    """Clients read a part of a large answer and then nothing, while others come."""
    dice, crowd = random.Random(2), []
    while not t.over():
        s = t.socket(receive=32768)
        s.sendall(fetch(COLD, from_anywhere(t, dice)))
        with contextlib.suppress(OSError):
            s.recv(100_000)
        crowd.append(s)
        time.sleep(0.02)
    return f"{len(crowd)} connections"


@attack(FETCH)
def readers_that_reset(t):
    """Clients read a part of a large answer and reset the connection."""
    dice, count = random.Random(3), 0
    while not t.over():
        crowd = [t.socket(receive=65536) for _ in range(8)]
        for s in crowd:
            s.sendall(fetch(COLD, from_anywhere(t, dice)))
        for s in crowd:
            with contextlib.suppress(OSError):
                s.settimeout(0.2)
                s.recv(60_000)
            s.close()
        count += len(crowd)
    return f"{count} answers begun"


@attack(FETCH)
def readers_that_are_slow(t):
    """Forty clients read large answers at a hundred kilobytes a second each."""
    dice, crowd = random.Random(4), []
    for _ in range(t.many(40, 12)):
        s = t.socket(receive=65536, blocking=True)
        s.sendall(fetch(COLD, from_anywhere(t, dice)) * 20)
        s.setblocking(False)
        crowd.append(s)
    got = 0
    while not t.over():
        for s in crowd:
            with contextlib.suppress(OSError):
                got += len(s.recv(10_000))
        time.sleep(min(0.1, t.left()))
    return f"{got >> 10} KiB read"


@attack(FETCH)
def pipelined_and_unread(t):
    """Sixty large fetches on each of many connections, none of which is read."""
    dice = random.Random(5)
    return flood(t, t.many(100, 20), lambda n: fetch(COLD, from_anywhere(t, dice)) * 60, read=False, receive=8192)


@attack(FETCH)
def everything_at_once(t):
    """Sixteen clients read the whole cold topic as fast as they can, from places of their own."""
    dice = random.Random(6)
    return flood(t, t.many(16, 8), lambda n: fetch(COLD, from_anywhere(t, dice)), pause=0.01)


@attack(FETCH)
def a_byte_from_anywhere(t):
    """Fetches of one batch each at random places: what one reads the next does not need."""
    dice = random.Random(7)

    def some(_):
        return fetch(COLD, from_anywhere(t, dice, 1 + dice.randrange(4)), partition_max=1, max_bytes=1)

    return flood(t, t.many(64, 24), some)


@attack(FETCH)
def the_same_partition_many_times(t):
    """Requests that name one partition 20,000 times, at offsets of their own."""
    dice = random.Random(8)
    frame = fetch(COLD, [(0, dice.randrange(t.batches)) for _ in range(20_000)], partition_max=1000)
    return flood(t, t.many(8, 4), frame, pause=0.05)


def session_of(topic, offsets):
    """Asks for a session."""
    return fetch(topic, offsets, session=(0, 0))


@attack(FETCH)
def many_sessions(t):
    """Fetch sessions are asked for en masse, of 48 partitions each."""
    frame = session_of(OPEN, [(p, 1 << 40) for p in range(48)])
    return flood(t, 16, frame)


@attack(FETCH)
def giant_sessions(t):
    """Fetch sessions of 50,000 partitions each, and of names of 249 characters."""
    absent = session_of("no-such-topic", [(p, 0) for p in range(50_000)])
    names = [text(f"{n:05}" + "x" * 244) + array(1, struct.pack(">iiqiqi", 0, -1, 0, -1, -1, 1) + NO_TAGS) + NO_TAGS for n in range(5000)]
    body = struct.pack(">iiiibii", -1, 0, 1, 1 << 20, 0, 0, 0) + array(len(names), b"".join(names)) + array(0, b"") + text("") + NO_TAGS
    named = request("Fetch", 12, body)
    return flood(t, t.many(12, 6), lambda n: (absent, named)[n % 2], pause=0.01)


@attack(FETCH)
def min_bytes_games(t):
    """Fetches that want more bytes than they take, or none, or wait for two billion milliseconds."""
    offsets = [(p, 0) for p in range(48)]
    choice = [
        fetch(COLD, offsets, max_wait=INT_MAX, min_bytes=INT_MAX, max_bytes=1), fetch(COLD, offsets, max_wait=INT_MAX, min_bytes=INT_MAX),
        fetch(OPEN, offsets, max_wait=INT_MAX, min_bytes=-1, max_bytes=-1), fetch(OPEN, offsets, max_wait=-1, min_bytes=INT_MAX, partition_max=-1),
        fetch(COLD, offsets, max_wait=1, min_bytes=INT_MAX, max_bytes=INT_MAX, partition_max=INT_MAX),
    ]
    return flood(t, t.many(60, 20), lambda n: choice[n % len(choice)], pause=0.02)


@attack(FETCH)
def long_polls(t):
    """Two thousand connections wait for a partition, to which something is appended all the time."""
    waiting = fetch(OPEN, [(5, 1 << 40)], max_wait=600_000)
    with t.connection() as c:
        end = c.list_offset(OPEN, 5, -1).Offset
        waiting = fetch(OPEN, [(5, end)], max_wait=600_000, min_bytes=50_000_000)
        crowd = []
        for _ in range(t.many(2000, 400)):
            s = t.socket()
            s.sendall(waiting)
            crowd.append(s)
        one, count = batch([b"x"]), 0
        while not t.over():
            c.produce(OPEN, 5, one, acks=1)
            count += 1
            time.sleep(0.005)
    return f"{len(crowd)} wait, {count} batches"


@attack(FETCH)
def long_polls_of_all_partitions(t):
    """Hundreds of connections wait for 48 partitions each; appends wake them all, and they ask again."""
    frame = fetch(OPEN, [(p, 1 << 40) for p in range(48)], max_wait=60_000)
    with t.connection() as c:
        ends = [(p, c.list_offset(OPEN, p, -1).Offset) for p in range(48)]
        frame = fetch(OPEN, ends, max_wait=60_000, min_bytes=40_000_000)
        crowd = []
        for _ in range(t.many(400, 100)):
            s = t.socket()
            s.sendall(frame)
            crowd.append(s)
        body, count = produce([(OPEN, [(p, batch([b"x"])) for p in range(48)])]), 0
        while not t.over():
            c.socket.sendall(body)
            c.receive_frame()
            count += 1
            time.sleep(0.02)
    return f"{len(crowd)} wait, {count} times 48 batches"


@attack(FETCH, settings={"message.max.bytes": 10 << 20})
def answers_larger_than_their_share(t):
    """Batches of 8 MB are fetched, which come whole, by clients that do not read."""
    with t.connection() as c:
        for n in range(4):
            c.socket.settimeout(30)
            c.produce(OPEN, n, noise(8_000_000), acks=1)
    crowd = []
    for n in range(t.many(40, 12)):
        s = t.socket(receive=8192)
        s.sendall(fetch(OPEN, [(n % 4, 0)]) * 4)
        crowd.append(s)
    return hold(t, crowd)


@attack(FETCH)
def times_in_bombs(t):
    """ListOffsets by time, answered by inflating batches of 60 MB."""
    with t.connection() as c:
        c.create_topic("timed", 8)
        for partition in range(8):
            for codec_bomb in (bomb(ZSTD, 60 << 20), crumbs(ZSTD, 200_000)):
                c.produce("timed", partition, codec_bomb, acks=1)
    parts = b"".join(struct.pack(">iiq", n % 8, -1, 1) + NO_TAGS for n in range(2000))
    body = struct.pack(">ib", -1, 0) + array(1, text("timed") + array(2000, parts) + NO_TAGS) + NO_TAGS
    return flood(t, t.many(16, 8), request("ListOffsets", 7, body))


@attack(FETCH)
def times_of_cold_data(t):
    """ListOffsets by time, of 20,000 places in cold partitions at a time."""
    dice, now = random.Random(9), int(time.time() * 1000)
    places = [struct.pack(">iiq", n % 48, -1, now - dice.randrange(100_000)) + NO_TAGS for n in range(20_000)]
    body = struct.pack(">ib", -1, 0) + array(1, text(COLD) + array(len(places), b"".join(places)) + NO_TAGS) + NO_TAGS
    return flood(t, t.many(16, 8), request("ListOffsets", 7, body))


@attack(FETCH)
def epochs_en_masse(t):
    """OffsetForLeaderEpoch with 50,000 entries at a time."""
    parts = b"".join(struct.pack(">iii", n % 48, -1, n % 7) + NO_TAGS for n in range(50_000))
    body = struct.pack(">i", -2) + array(1, text(COLD) + array(50_000, parts) + NO_TAGS) + NO_TAGS
    return flood(t, t.many(16, 8), request("OffsetForLeaderEpoch", 4, body))


@attack(FETCH, frozen=True)
def readers_of_a_frozen_disk(t):
    """Clients read cold data, and look up times, on a disk that stands still."""
    dice = random.Random(10)
    frames = [fetch(FROZEN, [(p, 0) for p in t.frozen]), fetch(FROZEN, [(t.frozen[0], 0)])]
    parts = b"".join(struct.pack(">iiq", p, -1, dice.randrange(1 << 40)) + NO_TAGS for p in t.frozen)
    body = struct.pack(">ib", -1, 0) + array(1, text(FROZEN) + array(len(t.frozen), parts) + NO_TAGS) + NO_TAGS
    frames.append(request("ListOffsets", 7, body))
    return flood(t, t.many(60, 20), lambda n: frames[n % 3] * 8)


@attack(FETCH)
def followers_that_are_none(t):
    """Fetches as replicas of this and other brokers, also as ones that are not there."""
    frames = []
    for replica in (0, 1, 2, INT_MAX, -2):
        frames.append(request("Fetch", 11, {**fetch_body(OPEN, {p: 0 for p in range(48)}), "ReplicaId": replica}))
    return flood(t, t.many(20, 10), lambda n: frames[n % len(frames)])

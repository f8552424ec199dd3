"""Attacks of producers."""

import functools
import gzip
import itertools
import struct
import time

from raw import LOG_APPEND_TIME, batch, record

from . import FROZEN, OPEN, attack, flood, noise, produce

PRODUCE = "produce"
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4


def packed(codec, data):
    """`data`, compressed as Kafka's clients would."""
    if codec == GZIP:
        return gzip.compress(data, 9)
    if codec == SNAPPY:
        import snappy

        block = snappy.compress(data)
        return b"\x82SNAPPY\0" + struct.pack(">iii", 1, 1, len(block)) + block
    if codec == LZ4:
        import lz4.frame

        return lz4.frame.compress(data, content_checksum=False)
    import zstandard

    return zstandard.ZstdCompressor(level=3, write_content_size=False).compress(data)


@functools.cache
def bomb(codec, size):
    """A batch whose one record is `size` zeros."""
    return batch([b""], attributes=codec, payload=packed(codec, record(0, None, bytes(size))))


@functools.cache
def crumbs(codec, count):
    """A batch of so many records of one byte."""
    payload = b"".join(record(n, None, b"x") for n in range(count))
    return batch([b""], attributes=codec, payload=packed(codec, payload), count=count, last_offset_delta=count - 1)


def many(t, one, bytes_):
    """A request with `one` batch for each of the open topic's partitions, over and over, up to so many bytes."""
    count = max(1, min(20_000, bytes_ // (len(one) + 8)))
    return produce([(OPEN, [(n % 48, one) for n in range(count)])])


@attack(PRODUCE, "zstd-bombs", arguments=(ZSTD, 60 << 20))
@attack(PRODUCE, "gzip-bombs", arguments=(GZIP, 60 << 20))
@attack(PRODUCE, "lz4-bombs", arguments=(LZ4, 60 << 20))
@attack(PRODUCE, "snappy-bombs", arguments=(SNAPPY, 16 << 20))
def bombs(codec, size, t):
    """Requests full of small batches that inflate to much."""
    frame = many(t, bomb(codec, size), 2 << 20)
    return flood(t, 8, frame)


@attack(PRODUCE)
def crumbs_in_batches(t):
    """Compressed batches of 200,000 records each."""
    return flood(t, 8, many(t, crumbs(ZSTD, t.many(200_000, 50_000)), 1 << 20))


@attack(PRODUCE)
def bad_records(t):
    """Requests of 20,000 batches with fifty bad records each: every one of them deserves an error text."""
    one = batch([(None, None)] * 50, timestamps=[1 << 50] * 50)
    return flood(t, 4, many(t, one, 8 << 20))


@attack(PRODUCE)
def bad_batches(t):
    """Batches with wrong checksums, lengths, counts, versions, sequences and attributes en masse."""
    spoilt = [
        batch([b"x"], crc=1), batch([b"x"], length=1 << 20), batch([b"x"], length=-1), batch([b"x"], magic=1), batch([b"x"], magic=9),
        batch([b"x"], count=-1), batch([b"x"], last_offset_delta=99), batch([b"x"], attributes=32), batch([b"x"], attributes=5),
        batch([b"x"], producer=(-5, -5, -5)), batch([b"x"], attributes=LOG_APPEND_TIME), b"", b"\0" * 61,
    ]
    frames = [many(t, one, 1 << 20) if one else produce([(OPEN, [(0, b"")] * 20_000)]) for one in spoilt]
    return flood(t, t.many(13, 6), lambda n: frames[n % len(frames)])


@attack(PRODUCE)
def counts_that_lie(t):
    """Compressed batches that claim two billion records."""
    lie = batch([b"x"], attributes=ZSTD, payload=packed(ZSTD, record(0, None, b"x")), count=2**31 - 1, last_offset_delta=2**31 - 2)
    return flood(t, 8, many(t, lie, 1 << 20))


@attack(PRODUCE)
def not_waited_for(t):
    """acks=0: batches of 900 kB as fast as they are taken, by twenty connections."""
    frames = [produce([(OPEN, [(n, noise(900_000))])], acks=0) for n in range(48)]
    return flood(t, t.many(20, 10), lambda n: frames[n % 48])


@attack(PRODUCE)
def small_and_not_waited_for(t):
    """acks=0: batches of 16 KiB, which end where a receive buffer ends."""
    frame = produce([(OPEN, [(7, noise(16_000))])], acks=0)
    return flood(t, t.many(20, 10), frame * 16)


@attack(PRODUCE)
def large_requests(t):
    """Requests of up to 90 MB, each batch as large as `message.max.bytes` allows."""
    count = min(96, (t.memory + (32 << 20)) // 1_000_000)
    frame = produce([(OPEN, [(n % 48, noise(1_000_000)) for n in range(count)])])
    return flood(t, 4, frame)


@attack(PRODUCE, settings={"message.max.bytes": 10 << 20})
def large_batches(t):
    """Batches of 8 MB, by six producers."""
    frames = [produce([(OPEN, [(n, noise(8_000_000))])]) for n in range(48)]
    return flood(t, 6, lambda n: frames[n % 48])


@attack(PRODUCE, settings={"message.max.bytes": 100 << 20})
def largest_batches(t):
    """Batches as large as a request may be: half of the memory, 90 MB at most."""
    frame = produce([(OPEN, [(3, noise(min(90_000_000, t.memory // 2)))])])
    return flood(t, 3, frame)


@attack(PRODUCE)
def many_entries(t):
    """Requests with 20,000 entries: the same partition again and again, and topics that are not there."""
    one = batch([b"x"])
    same = produce([(OPEN, [(0, one)] * 20_000)])
    absent = produce([("no-such-topic", [(n, one) for n in range(20_000)])])
    names = produce([(f"no-such-{n:05}", [(0, one)]) for n in range(20_000)])
    return flood(t, 6, lambda n: (same, absent, names)[n % 3])


@attack(PRODUCE)
def every_partition_hot(t):
    """Batches of 300 kB to each of 300 partitions: append buffers are not all of the memory."""
    with t.connection() as c:
        c.create_topic("hot", 300)
    turn = itertools.count()
    frames = [produce([("hot", [(n, noise(300_000))])]) for n in range(300)]
    return flood(t, t.many(12, 6), lambda _: frames[next(turn) * 7 % 300])


@attack(PRODUCE)
def many_producers(t):
    """Each batch has a producer id of its own."""
    turn = itertools.count(10**6)

    def next_batches(_):
        one = [(n, batch([b"x"], producer=(next(turn), 0, 0))) for n in range(48)]
        return produce([(OPEN, one)])

    return flood(t, 8, next_batches)


@attack(PRODUCE, frozen=True)
def flood_to_a_frozen_disk(t):
    """acks=0, to partitions whose disk stands still."""
    frames = [produce([(FROZEN, [(p, noise(16_000))])], acks=0) * 16 for p in t.frozen]
    frames += [produce([(FROZEN, [(p, noise(900_000))])], acks=0) for p in t.frozen]
    return flood(t, t.many(24, 10), lambda n: frames[n % len(frames)])


@attack(PRODUCE, frozen=True)
def requests_to_a_frozen_disk(t):
    """Nine connections with sixty small requests each, and more, all to one partition whose disk stands still."""
    frame = produce([(FROZEN, [(t.frozen[0], batch([b"x"]))])], acks=-1)
    crowd = [t.socket() for _ in range(t.many(40, 12))]
    for s in crowd:
        s.sendall(frame * 60)
    time.sleep(t.left())
    return f"{len(crowd) * 60} requests"



"""Attacks on topics and their settings."""

import itertools
import random
import struct

from . import NO_TAGS, OPEN, array, attack, flood, metadata_of_all, request, text

METADATA = "metadata"


def create(names, partitions=1, validate=False, timeout=10_000):
    """A CreateTopics request."""
    one = [text(n) + struct.pack(">ih", partitions, 1) + array(0, b"") * 2 + NO_TAGS for n in names]
    return request("CreateTopics", 7, array(len(one), b"".join(one)) + struct.pack(">ib", timeout, validate) + NO_TAGS)


def made(t, names, partitions=1):
    """Creates these topics."""
    with t.connection() as c:
        c.socket.settimeout(max(t.left(), 5))
        for at in range(0, len(names), 200):
            c.socket.sendall(create(names[at : at + 200], partitions))
            c.receive_frame()
    return names


@attack(METADATA)
def deletions_of_two_million_names(t):
    """DeleteTopics of two million names that are not there, and the same one again and again."""
    names = b"".join(text(f"{n:06x}") for n in range(500_000))
    frames = [
        request("DeleteTopics", 5, array(2_000_000, text("x") * 2_000_000) + struct.pack(">i", 5000) + NO_TAGS),
        request("DeleteTopics", 5, array(500_000, names) + struct.pack(">i", 5000) + NO_TAGS),
    ]
    return flood(t, t.many(6, 4), lambda n: frames[n % 2])


@attack(METADATA)
def topics_of_a_hundred_thousand_partitions(t):
    """CreateTopics and CreatePartitions of far too many partitions."""
    more = text(OPEN) + struct.pack(">i", 100_000) + b"\0" + NO_TAGS
    frames = [
        create(["wide"], 100_000), create(["wider"], 2**31 - 1), create([f"w{n}" for n in range(1000)], 10_000, validate=True),
        request("CreatePartitions", 3, array(1, more) + struct.pack(">ib", 5000, 1) + NO_TAGS),
    ]
    return flood(t, 8, lambda n: frames[n % 4], pause=0.05)


@attack(METADATA)
def topics_that_differ_in_one_byte(t):
    """Topics are created by the hundred, with names of 249 characters that differ in the last ones, then deleted."""
    turn = itertools.count()

    def some(n):
        at = next(turn) // 2 % 10 * 50
        names = ["n" * 243 + f"{at + k:06}" for k in range(50)]
        deletion = array(50, b"".join(text(name) for name in names)) + struct.pack(">i", 10_000) + NO_TAGS
        return create(names) + request("DeleteTopics", 5, deletion)

    return flood(t, 2, some)


@attack(METADATA)
def names_that_are_created_by_asking(t):
    """Metadata of thousands of names that are not there, which creates them where names are legal."""
    turn = itertools.count()

    def some(n):
        at = next(turn) * 100
        names = [bytes(16) + text("m" * 200 + f"{k:09}" if n % 2 else "../" * 80 + f"{k}") + NO_TAGS for k in range(at, at + 100)]
        return request("Metadata", 12, array(100, b"".join(names)) + b"\1\0" + NO_TAGS)

    return flood(t, t.many(4, 2), some, pause=0.2)


@attack(METADATA)
def all_topics_a_thousand_times(t):
    """Metadata of all topics, of which there are hundreds, a thousand times in a row on each of twenty connections, unread."""
    made(t, ["m" * 240 + f"{n:06}" for n in range(t.many(1000, 200))])
    return flood(t, t.many(20, 10), metadata_of_all() * 1000, read=False, receive=8192)


@attack(METADATA)
def all_topics_read(t):
    """The same, read."""
    made(t, [f"m{n:06}" for n in range(t.many(1000, 200))])
    return flood(t, t.many(20, 10), metadata_of_all() * 10)


def described(count, names):
    """A DescribeConfigs request of so many resources."""
    one = [b"\2" + text(next(names)) + b"\0" + NO_TAGS for _ in range(count)]
    return request("DescribeConfigs", 4, array(count, b"".join(one)) + b"\1\1" + NO_TAGS)


@attack(METADATA)
def settings_described(t):
    """DescribeConfigs of one topic twenty thousand times, with all texts; and of hundreds of topics."""
    same = described(20_000, itertools.repeat(OPEN))
    names = made(t, [f"d{n}" for n in range(t.many(500, 100))])
    different = described(len(names), iter(names))
    keys = [b"\2" + text(OPEN) + array(2, text(f"k{n}") + text("segment.bytes")) + NO_TAGS for n in range(20_000)]
    strange = request("DescribeConfigs", 4, array(20_000, b"".join(keys)) + b"\1\1" + NO_TAGS)
    return flood(t, t.many(8, 6), lambda n: (same, different, strange)[n % 3])


@attack(METADATA)
def settings_of_32_kb(t):
    """IncrementalAlterConfigs of 1,100 topics, each with two lists of 32 KB; then of all of them at once."""
    names = made(t, [f"c{n:05}" for n in range(t.many(1100, 150))])
    value = ",".join(f"{n}:{n}" for n in range(3200))[:32000].rsplit(",", 1)[0]
    keys = ("leader.replication.throttled.replicas", "follower.replication.throttled.replicas")
    settings = array(2, b"".join(text(key) + b"\0" + text(value) + NO_TAGS for key in keys))
    small = array(1, text("segment.ms") + b"\0" + text("86400000") + NO_TAGS)

    def alter(some, values):
        one = [b"\2" + text(name) + values + NO_TAGS for name in some]
        return request("IncrementalAlterConfigs", 1, array(len(one), b"".join(one)) + b"\0" + NO_TAGS)

    steps = [alter(names[at : at + 20], settings) for at in range(0, len(names), 20)] + [alter(names, small)]
    turn = itertools.count()
    return flood(t, 2, lambda _: steps[next(turn) % len(steps)])


@attack(METADATA)
def cursors(t):
    """DescribeTopicPartitions from every place, and of 50,000 names."""
    names = array(50_000, b"".join(text(f"t{n}") + NO_TAGS for n in range(50_000)))
    many = request("DescribeTopicPartitions", 0, names + struct.pack(">i", 2000) + b"\xff" + NO_TAGS)

    def at(topic, partition, limit):
        cursor = b"\1" + text(topic) + struct.pack(">i", partition) + NO_TAGS
        return request("DescribeTopicPartitions", 0, array(0, b"") + struct.pack(">i", limit) + cursor + NO_TAGS)

    frames = [many, at("", 0, 2**31 - 1), at(OPEN, 2**31 - 1, 1), at("zzz" * 80, -1, -1), at(OPEN, 3, 10)]
    return flood(t, t.many(20, 10), lambda n: frames[n % 5])


@attack(METADATA)
def deletions_of_records(t):
    """DeleteRecords of 20,000 entries at a time, at places of their own."""
    dice = random.Random(11)
    parts = b"".join(struct.pack(">iq", n % 48, dice.choice((0, -1, 1 << 40, 0))) + NO_TAGS for n in range(20_000))
    body = array(1, text(OPEN) + array(20_000, parts) + NO_TAGS) + struct.pack(">i", 10_000) + NO_TAGS
    return flood(t, 8, request("DeleteRecords", 2, body))


@attack(METADATA)
def producer_ids(t):
    """InitProducerId as fast as possible: each is an id that was never given before."""
    frame = request("InitProducerId", 4, {"TransactionTimeoutMs": 60_000})
    return flood(t, t.many(24, 12), frame * 64)


@attack(METADATA)
def topics_asked_for_by_name(t):
    """Metadata of 100,000 names at a time, none of which may be created."""
    names = array(100_000, b"".join(bytes(16) + text(f"none-{n}") + NO_TAGS for n in range(100_000)))
    same = array(100_000, (bytes(16) + text(OPEN) + NO_TAGS) * 100_000)
    frames = [request("Metadata", 12, some + b"\0\0" + NO_TAGS) for some in (names, same)]
    return flood(t, t.many(8, 4), lambda n: frames[n % 2])


@attack(METADATA)
def sizes_of_directories(t):
    """DescribeLogDirs of everything and of 50,000 names."""
    one = text(OPEN) + array(1, struct.pack(">i", 1)) + NO_TAGS
    frames = [request("DescribeLogDirs", 4, b"\0" + NO_TAGS), request("DescribeLogDirs", 4, array(50_000, one * 50_000) + NO_TAGS)]
    return flood(t, t.many(16, 8), lambda n: frames[n % 2])


@attack(METADATA)
def lists_of_resources(t):
    """ListConfigResources and ListGroups of all, thousands of times, unread."""
    made(t, ["l" * 240 + f"{n:06}" for n in range(t.many(500, 100))])
    frames = [request("ListConfigResources", 1, {"ResourceTypes": []}), request("ListGroups", 4, {"StatesFilter": []})]
    return flood(t, t.many(20, 10), lambda n: frames[n % 2] * 500, read=False, receive=8192)

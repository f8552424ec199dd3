"""What a broker was told and has acknowledged, by topic id, and the comparison with what it holds.

A topic's `Life` is one creation under a name; it ends with its deletion. A `Part` is one partition
of a life: the records that were sent, the offsets that were acknowledged or read, the log start
that must not go back. `Commits` holds the offsets that groups have committed, with the times.
"""

import itertools
import threading
import time

from raw import batch

PARTITIONS = 3
BY_ID = 1  # the partition of each topic that is written by topic id, by a thread of its own
KEYS = 6
RETAINED_BYTES = 20_000
LOST_BYTES = 6_000  # of a batch that retention has counted, but a crash has taken before its answer
KINDS = {
    "plain": {"segment_ms": 200},
    "retained": {"segment_ms": 50, "retention_bytes": RETAINED_BYTES, "file_delete_delay_ms": 50},
    "compacted": {
        "cleanup_policy": "compact",
        "segment_ms": 50,
        "min_cleanable_dirty_ratio": 0.0,
        "delete_retention_ms": 50,
        "file_delete_delay_ms": 50,
    },
    "both": {
        "cleanup_policy": "compact,delete",
        "segment_ms": 50,
        "min_cleanable_dirty_ratio": 0.0,
    },
}
DELETABLE = ("plain", "retained", "both")
tags = itertools.count(1)


class Part:
    """A partition of one life. Written by one thread."""

    def __init__(self, life, number, dice):
        self.life, self.number, self.dice = life, number, dice
        self.name = f"{life.name}-{number}"
        self.keyed = life.kind in ("compacted", "both")
        self.idempotent = number == 0
        self.producer = None
        self.sent = []  # (key, value) of record n
        self.at = {}  # record by offset: acknowledged, or read after a start
        self.pending = None  # of an idempotent producer: number and bytes of the batch to repeat
        self.floor, self.asked = 0, 0
        self.acknowledged = 0

    def __str__(self):
        return f"{self.name} of {self.life.id} (life {self.life.tag}, {self.life.kind})"

    def next_batch(self):
        """Number of the first record, and the batch: the pending one of an idempotent producer."""
        if self.pending:
            return self.pending
        first = len(self.sent)
        for n in range(first, first + self.dice.randrange(1, 6)):
            key = b"%d" % self.dice.randrange(KEYS) if self.keyed else None
            filler = b"x" * self.dice.choice((0, 10, 100, 900))
            value = b"%d/%d/%d %s" % (self.life.tag, self.number, n, filler)
            if self.keyed and self.dice.random() < 0.1:
                value = None
            self.sent.append((key, value))
        producer = (self.producer, 0, first) if self.idempotent else (-1, -1, -1)
        sent = first, batch(self.sent[first:], producer=producer)
        self.pending = sent if self.idempotent else None
        return sent

    def acked(self, first, count, base):
        self.pending = None
        self.acknowledged += count
        for n in range(first, first + count):
            offset = base + n - first
            before = self.at.setdefault(offset, n)
            assert before == n, (
                f"LOST: {self}: record {n} is acknowledged at offset {offset}, as was {before}"
            )

    def deleted(self, low):
        self.floor = max(self.floor, low)

    def check(self, start, end, batches):
        """Compares with the log: its start and end, and its batches from there on."""
        floor, last = self.floor, max(self.at, default=-1)
        assert start >= floor, (
            f"RETURNED: {self} starts at {start}, everything below {floor} was deleted"
        )
        assert end > last, f"LOST: {self} ends at {end}, offset {last} was acknowledged"
        found = [r for b in batches for r in b.records if start <= r.offset < end]
        if start > self.asked:
            size = sum(b.size for b in batches)
            assert self.life.kind == "retained" and size >= RETAINED_BYTES - LOST_BYTES, (
                f"LOST: {self} starts at {start} with {size} bytes, deleted was up to {self.asked}"
            )
        self.match(found)
        if self.keyed:
            self.check_keys(start, found)
        else:
            self.check_dense(start, end, found)
        self.floor = start

    def match(self, found):
        """Every record was sent to this life, once, in this order; known offsets stay."""
        last = -1
        for r in found:
            known = self.at.get(r.offset)
            n = known if known is not None else self.number_of(r, last)
            assert n is not None and n < len(self.sent) and self.sent[n] == (r.key, r.value), (
                f"WRONG: {self} offset {r.offset} is {shown(r)}, expected {self.expected(known)}"
            )
            assert n > last, (
                f"WRONG: {self} offset {r.offset} is record {n}, which came after {last}"
            )
            self.at[r.offset] = last = n

    def number_of(self, r, last):
        """The number of a record that was not acknowledged. A tombstone is the next that fits."""
        if r.value is None:
            fits = (n for n in range(last + 1, len(self.sent)) if self.sent[n] == (r.key, None))
            return next(fits, None)
        tag, number, n = r.value.split(b" ")[0].split(b"/")
        here = (int(tag), int(number)) == (self.life.tag, self.number)
        return int(n) if here else None

    def expected(self, n):
        return "a record of this life" if n is None else f"record {n}: {self.sent[n][1]!r:.40}"

    def check_dense(self, start, end, found):
        offsets = [r.offset for r in found]
        if offsets != list(range(start, end)):
            missing = sorted(set(range(start, end)) - set(offsets))
            raise AssertionError(f"LOST: {self} from {start} to {end} lacks {missing[:5]}")

    def check_keys(self, start, found):
        """Of each key the latest record is there, unless it is a tombstone or was deleted."""
        latest = {}
        for offset, n in self.at.items():
            latest[self.sent[n][0]] = max(latest.get(self.sent[n][0], (-1, -1)), (n, offset))
        there = {r.key: self.at[r.offset] for r in found}
        for key, (n, offset) in latest.items():
            gone = key not in there and (self.sent[n][1] is None or offset < start)
            assert there.get(key) == n or gone, (
                f"LOST: {self}: the latest of key {key} is record {there.get(key)}, {n} was written"
            )


def shown(r):
    return f"{r.key}: {r.value!r:.60}"


class Life:
    """One topic id under a name: `absent`, `creating`, `alive`, `deleting` or `dead`."""

    def __init__(self, name, kind, dice):
        self.name, self.kind, self.tag = name, kind, next(tags)
        self.id, self.state = None, "creating"
        self.created = [time.monotonic(), None]  # CreateTopics was sent, answered
        self.deletion = [None, None]  # DeleteTopics was sent, answered
        self.parts = [Part(self, p, dice) for p in range(PARTITIONS)]

    def born(self, topic_id):
        self.id, self.state = topic_id, "alive"
        self.created[1] = time.monotonic()

    def begin_deletion(self):
        self.state = "deleting"
        self.deletion[0] = time.monotonic()

    def died(self):
        self.state = "dead"
        self.deletion[1] = time.monotonic()

    def size(self):
        return sum(len(part.sent) for part in self.parts)

    def fits(self, commit):
        """Whether the broker may have applied this commit to this life."""
        if commit.topic_id is not None:
            return commit.topic_id == self.id
        ended = self.deletion[1] is not None and commit.sent > self.deletion[1]
        return not ended and (commit.over is None or commit.over >= self.created[0])

    def surely(self, commit):
        """Whether an acknowledged commit is this life's, and no other's."""
        if commit.topic_id is not None:
            return commit.topic_id == self.id
        begun = self.created[1] is not None and commit.sent >= self.created[1]
        return begun and (self.deletion[0] is None or commit.over < self.deletion[0])


class Commit:
    """One commit of a group. Its offset is given to no other."""

    def __init__(self, offset, topic_id):
        self.offset, self.topic_id, self.sent = offset, topic_id, time.monotonic()
        self.over, self.acknowledged = None, False

    def done(self, acknowledged):
        self.over, self.acknowledged = time.monotonic(), acknowledged


class Commits:
    """The commits of all groups, by group and topic name."""

    def __init__(self):
        self.lock, self.made, self.offsets = threading.Lock(), {}, itertools.count(1)

    def begin(self, group, name, topic_id):
        with self.lock:
            commit = Commit(next(self.offsets), topic_id)
            self.made.setdefault((group, name), []).append(commit)
            return commit

    def acknowledged(self):
        return sum(c.acknowledged for commits in self.made.values() for c in commits)

    def check(self, group, life, offset, since=None):
        """`offset` is what OffsetFetch tells; commits sent after `since` may not be in it."""
        made = list(self.made.get((group, life.name), ()))
        sure = [c for c in made if c.acknowledged and life.surely(c)]
        least = max((c.offset for c in sure if since is None or c.over < since), default=-1)
        of = f"{group} for {life.name} of {life.id} (life {life.tag})"
        assert offset >= least, f"LOST: {of}: {least} was committed, {offset} is told"
        if offset == -1:
            return
        commit = next((c for c in made if c.offset == offset), None)
        assert commit is not None, f"WRONG: {of}: {offset} is told, which was never committed"
        assert life.fits(commit), (
            f"RETURNED: {of}: {offset} is told, committed to {commit.topic_id or 'the name'} "
            f"{life.created[0] - commit.sent:.3f} s before this life was created"
        )


def group_partition(group, partitions):
    """The partition of `__consumer_offsets` that a group belongs to."""
    code = 0
    for char in group:
        code = (code * 31 + ord(char)) & 0xFFFFFFFF
    return (code & 0x7FFFFFFF) % partitions

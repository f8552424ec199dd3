"""Data directories that Kafka has written are served as Kafka served them.

One Kafka with two log.dirs is filled with everything, and copied twice: while it is stopped by
SIGSTOP, which is what a SIGKILL leaves, with open transactions and living members; and after a
clean stop. The tests take such copies over.
"""

import contextlib
import functools
import glob
import itertools
import os
import re
import shutil
import signal
import subprocess
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

import fill
from harness import CORELANE, KAFKA, Broker, Kafka, eventually, in_threads, temp_dir
from member import Member
from raw import Connection, batch
from test_groups import find, join, sync
from test_groups_modern import Member as RawMember

# Segments and snapshots that small need little data.
EAGER = {
    **fill.EAGER_CLEANER,
    "metadata.log.max.record.bytes.between.snapshots": 500,
    "log.flush.offset.checkpoint.interval.ms": 500,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
}
# Nothing is deleted or compacted while records are compared; members of the new protocol that do
# not return are soon removed.
SUCCESSOR = {
    "log.initial.task.delay.ms": 600_000,
    "log.cleaner.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    "group.consumer.session.timeout.ms": 10_000,
    "group.consumer.min.session.timeout.ms": 10_000,
    "group.consumer.heartbeat.interval.ms": 300,
    "group.consumer.min.heartbeat.interval.ms": 300,
    "group.consumer.assignment.interval.ms": 0,
    "transaction.state.log.num.partitions": 4,
    "offsets.topic.num.partitions": 4,
}
OFFSETS = "__consumer_offsets"
GROUPED = 40  # records in each partition of the topic that groups read
CLASSIC = {"session_timeout_ms": 10_000, "heartbeat_interval_ms": 300}
# Groups with living members of librdkafka, and what a new member of them is given.
GROUPS = {
    "classic": CLASSIC,
    "classic-static": {**CLASSIC, "group_instance_id": "one"},
    "cooperative": {**CLASSIC, "partition_assignment_strategy": "cooperative-sticky"},
    "modern": {"group_protocol": "consumer"},
    "modern-static": {"group_protocol": "consumer", "group_instance_id": "one"},
}
OTHERS = ("left", "left-modern", "by-hand", "txn", "raw-classic", "raw-modern", "raw-pattern")
KEPT = (
    "codecs",
    "stamped",
    "segments",
    "dotted.name-x_y",
    "compacted",
    "transactional",
    "changed",
    "again",
    "grouped",
)


def described(broker):
    """Ids, partitions and own settings of all topics."""
    with Connection(broker.address) as c:
        topics = {
            t.Name: (t.TopicId, sorted(p.PartitionIndex for p in t.Partitions))
            for t in c.call("Metadata", 12, {"Topics": None}).Topics
        }
        wanted = [{"ResourceType": 2, "ResourceName": name} for name in sorted(topics)]
        found = c.call("DescribeConfigs", 4, {"Resources": wanted}).Results
        own = {
            r.ResourceName: {e.Name: e.Value for e in r.Configs if e.ConfigSource == 1}
            for r in found
        }
    return topics, own


def epochs(broker, topic, partitions):
    with Connection(broker.address) as c:
        metadata = c.call("Metadata", 9, {"Topics": [{"Name": topic}]}).Topics[0]
        assert len(metadata.Partitions) == partitions
        return [p.LeaderEpoch for p in sorted(metadata.Partitions, key=lambda p: p.PartitionIndex)]


def producer_id(broker):
    with Connection(broker.address) as c:
        return eventually(
            lambda: (lambda a: a.ErrorCode == 0 and a)(
                c.call(
                    "InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000}
                )
            )
        ).ProducerId


def committed(broker):
    """All offsets of all groups; every group is loaded."""
    found = {}
    with Connection(broker.address) as c:
        for group in (*GROUPS, *OTHERS):
            asked = {"Groups": [{"GroupId": group, "Topics": None, "MemberEpoch": -1}]}
            answer = c.call("OffsetFetch", 8, asked).Groups[0]
            deadline = time.monotonic() + 20
            while answer.ErrorCode:
                assert answer.ErrorCode in (14, 15, 16) and time.monotonic() < deadline, (
                    f"the group {group} cannot be loaded: error {answer.ErrorCode}"
                )
                time.sleep(0.1)
                answer = c.call("OffsetFetch", 8, asked).Groups[0]
            found[group] = {
                (t.Name, p.PartitionIndex): p.CommittedOffset
                for t in answer.Topics
                for p in t.Partitions
            }
    return found


def group_types(broker):
    """Type of every group."""
    with Connection(broker.address) as c:
        answer = c.call("ListGroups", 5, {"StatesFilter": [], "TypesFilter": []})
        assert answer.ErrorCode == 0
        return {g.GroupId: g.GroupType for g in answer.Groups}


def quietly(check, *arguments):
    """`None` while Kafka does not serve all of its partitions: it accepts connections before."""
    with contextlib.suppress(KafkaException):
        return check(*arguments)


def settled(check):
    if KAFKA:
        eventually(lambda: quietly(check), 60)


def read_all(broker):
    """All records but those of group coordinators, which go on writing.

    Where Kafka is its own successor, also without those that it writes by itself.
    """
    found = fill.read_all(broker)
    return {
        where: records
        for where, records in found.items()
        if where[0] != OFFSETS and not (KAFKA and where[0].startswith(("__", "transactional")))
    }


class Groups:
    """The groups of the Kafka: clients that live while it is copied."""

    def __init__(self, kafka):
        self.kafka, self.connection = kafka, Connection(kafka.address)
        counts = {"classic": 2, "cooperative": 2, "modern": 2}
        self.members = {
            group: [self.member(group) for _ in range(counts.get(group, 1))] for group in GROUPS
        }
        self.leave("left")
        self.leave("left-modern", **{"group.protocol": "consumer"})
        c = self.connection
        for group in OTHERS:
            find(c, group)
        body = {
            "GroupId": "by-hand",
            "GenerationIdOrMemberEpoch": -1,
            "MemberId": "",
            "Topics": [
                {
                    "Name": topic,
                    "Partitions": [
                        {
                            "PartitionIndex": 0,
                            "CommittedOffset": 7,
                            "CommittedLeaderEpoch": -1,
                            "CommittedMetadata": "here",
                        }
                    ],
                }
                for topic in ("codecs", "again", "segments")
            ],
        }
        assert not any(
            p.ErrorCode for t in c.call("OffsetCommit", 8, body).Topics for p in t.Partitions
        )
        self.classic = join(c, "raw-classic", "grouped", session_ms=60000)
        assert sync(c, "raw-classic", self.classic).ErrorCode == 0
        self.modern = RawMember(c, "raw-modern", ["codecs", "segments"])
        self.pattern = RawMember(c, "raw-pattern", None, SubscribedTopicRegex="co.*|again")
        self.beat()

    def member(self, group):
        """A new member of the group."""
        return Member("librdkafka", self.kafka, group, "grouped", **GROUPS[group])

    def again(self, group):
        """Other members in the place of those of a group, whose sessions end."""
        for member in self.members[group]:
            member.kill()
        self.members[group] = [self.member(group) for _ in self.members[group]]

    def leave(self, group, **more):
        """A member that reads, commits and leaves."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                **more,
            }
        )
        consumer.subscribe(["grouped"])
        last = eventually(lambda: [m for m in consumer.consume(100, 1.0) if not m.error()], 60)[-1]
        consumer.commit(message=last, asynchronous=False)
        consumer.close()

    def beat(self):
        for member in (self.modern, self.pattern):
            answer = member.beat()
            assert answer.ErrorCode == 0, answer
            if answer.Assignment is not None:
                member.owned = {p.TopicId: p.Partitions for p in answer.Assignment.TopicPartitions}
                member.report()

    def settle(self):
        """Waits until all is read and committed, and raw members have their partitions."""
        total, deadline = 3 * GROUPED, time.monotonic() + 180
        # Now and then a member of librdkafka does not come out of a rebalance of its group at Kafka.
        patience = time.monotonic() + 30
        while True:
            self.beat()
            read = {
                group: sum(offsets.values()) for group, offsets in committed(self.kafka).items()
            }
            if (
                all(read[group] >= total for group in GROUPS)
                and self.modern.owned
                and self.pattern.owned
            ):
                return
            assert time.monotonic() < deadline, (read, self.modern.owned, self.pattern.owned)
            if time.monotonic() > patience:
                patience += 30
                for group in [group for group in GROUPS if read[group] < total]:
                    self.again(group)
            time.sleep(0.2)

    def kill(self):
        for member in itertools.chain(*self.members.values()):
            member.kill()
        self.connection.close()


class Source:
    """A Kafka with everything in it, what it told, and the two copies of its directories."""

    def __init__(self):
        self.directory = temp_dir()
        first, second = (os.path.join(self.directory, name) for name in ("data", "more"))
        kafka = Kafka(directory=self.directory, **{**EAGER, "log.dirs": f"{first},{second}"})
        try:
            self.fill(kafka, first)
        finally:
            kafka.kill()

    def fill(self, kafka, first):
        self.locked = start_fails(first)
        fill.fill(kafka)
        admin = fill.create(
            kafka,
            {
                "changed": (1, {"retention.ms": "1234567", "max.message.bytes": "99999"}),
                "again": (3, {}),
                "grouped": (3, {}),
            },
        )
        with Connection(kafka.address) as c:
            for p in range(3):
                eventually(
                    lambda p=p: (
                        c.produce(
                            "grouped", p, batch([b"%d" % n for n in range(GROUPED)])
                        ).ErrorCode
                        == 0
                    )
                )
        self.groups = Groups(kafka)
        in_threads([lambda: self.compact(kafka), lambda: self.more(kafka, admin)])
        self.groups.settle()
        self.described, self.epochs = described(kafka), epochs(kafka, "codecs", 3)
        self.types = group_types(kafka)
        self.committed, self.records = committed(kafka), read_all(kafka)
        self.next_id = producer_id(kafka)
        self.groups.beat()
        kafka.process.send_signal(signal.SIGSTOP)
        self.copy("killed")
        self.groups.kill()
        kafka.process.send_signal(signal.SIGCONT)
        kafka.terminate()
        self.copy("clean")
        del self.transactions

    def compact(self, kafka):
        def gone():
            paths = [
                os.path.join(d, "cleaner-offset-checkpoint")
                for d in (kafka.data, os.path.join(self.directory, "more"))
            ]
            return any("compacted" in open(p).read() for p in paths if os.path.exists(p))

        fill.compact(kafka, gone)

    def more(self, kafka, admin):
        """Transactions, topics grown, recreated and deleted, a raw idempotent producer."""
        group = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "txn"})
        p = fill.producer(kafka, **{"transactional.id": "offsets"})
        p.init_transactions(60)
        for partition, end in enumerate((p.commit_transaction, p.abort_transaction, None)):
            p.begin_transaction()
            p.send_offsets_to_transaction(
                [TopicPartition("codecs", partition, 11)], group.consumer_group_metadata(), 60
            )
            end and end(60)
        group.close()
        self.transactions = [p, fill.transactions(kafka)]
        with Connection(kafka.address) as c:
            c.produce_ok("again", 2, batch([b"of an earlier life"] * 20))
            admin.delete_topics(["again"])["again"].result(60)
            fill.create(kafka, {"again": (2, {})})
            eventually(lambda: c.produce("again", 1, batch([b"of this life"])).ErrorCode == 0)
            self.pid = producer_id(kafka)
            self.repeated = batch([b"once"], producer=(self.pid, 0, 0))
            self.repeated_at = c.produce_ok("again", 1, self.repeated)
        fill.change(admin)

    def copy(self, name):
        for d in ("data", "more"):
            os.makedirs(os.path.join(self.directory, name), exist_ok=True)
            shutil.copytree(os.path.join(self.directory, d), os.path.join(self.directory, name, d))


@functools.cache
def made():
    """The source, or why there is none: it is tried once."""
    try:
        return Source()
    except Exception as error:  # noqa: BLE001 - raised by every test
        return error


def source():
    if isinstance(made(), Exception):
        raise made()
    return made()


def tear_down():
    if made.cache_info().currsize:
        shutil.rmtree(made().directory, ignore_errors=True)


class Successor(Broker):
    """Corelane on a copy of Kafka's directories (or Kafka, to see that the test is right)."""

    def __init__(self, copy, order=("data", "more"), **more):
        directory = temp_dir()
        for name in ("data", "more"):
            shutil.copytree(
                os.path.join(source().directory, copy, name), os.path.join(directory, name)
            )
        super().__init__(directory=directory, start=False, **{**SUCCESSOR, **more})
        self.order(*order)

    def order(self, *names):
        """Other directories from the next start on."""
        self.overrides["log.dirs"] = ",".join(os.path.join(self.directory, name) for name in names)

    def again(self, crash):
        self.kill() if crash else self.terminate()
        self.start()

    def refuses(self, **more):
        """What a Corelane says that does not start here."""
        return start_fails(
            self.overrides["log.dirs"], *(f"{k.replace('_', '.')}={v}" for k, v in more.items())
        )


def state(broker):
    return described(broker), committed(broker), read_all(broker)


def same(broker, expected):
    """Topics, settings, committed offsets and records."""
    settled(lambda: state(broker) == expected)
    now = described(broker), committed(broker)
    assert now[0] == expected[0], (now[0], expected[0])
    for group, offsets in expected[1].items():
        assert now[1][group] == offsets, (group, now[1][group], offsets)
    got = read_all(broker)
    assert got.keys() == expected[2].keys(), got.keys() ^ expected[2].keys()
    for where, (low, high, records) in expected[2].items():
        assert (low, high) == got[where][:2], (where, low, high, got[where][:2])
        assert records == got[where][2], (where, len(records), len(got[where][2]))


def taken_over(broker):
    """All that Kafka had is there; returns the state."""
    s = source()
    assert (
        s.described[1]["codecs"]["retention.ms"] == "7200000"
        and "retention.ms" not in s.described[1]["dotted.name-x_y"]
    )
    same(broker, (s.described, s.committed, s.records))
    assert group_types(broker) == s.types, (group_types(broker), s.types)
    assert all(
        now >= before for now, before in zip(epochs(broker, "codecs", 3), s.epochs, strict=True)
    )


def stores(broker, topics, known):
    """New idempotent producers get ids of their own, and what they produce is there."""
    ids = {producer_id(broker) for _ in range(3)}
    assert len(ids) == 3 and min(ids) > max(known), (ids, known)
    with Connection(broker.address) as c:
        for pid, (topic, partition) in zip(sorted(ids), topics, strict=True):
            end = c.list_offset(topic, partition, -1).Offset
            value = b"of producer %d" % pid
            record = (b"k", value)
            assert c.produce_ok(topic, partition, batch([record], producer=(pid, 0, 0))) == end
            assert [r.value for b in c.fetch_all(topic, partition, end) for r in b.records] == [
                value
            ]
    known |= ids


def change(broker, known, n):
    """Changes that Kafka's metadata has not: a topic, a deletion, an offset, new producers."""
    fill.create(broker, {f"own-{n}": (4, {})})
    with Connection(broker.address) as c:
        for p in range(4):
            eventually(lambda p=p: c.produce(f"own-{n}", p, batch([b"%d" % p])).ErrorCode == 0)
        deleted = "changed" if n == 0 else f"own-{n - 1}"
        answer = c.call("DeleteTopics", 5, {"TopicNames": [deleted], "TimeoutMs": 30000}).Responses[
            0
        ]
        assert answer.ErrorCode == 0, answer
        body = {
            "GroupId": "by-hand",
            "GenerationIdOrMemberEpoch": -1,
            "MemberId": "",
            "Topics": [
                {
                    "Name": f"own-{n}",
                    "Partitions": [
                        {"PartitionIndex": 0, "CommittedOffset": 1, "CommittedLeaderEpoch": -1}
                    ],
                }
            ],
        }
        assert c.call("OffsetCommit", 8, body).Topics[0].Partitions[0].ErrorCode == 0
    # A hole that compaction has left is not written into.
    stores(broker, [("codecs", 1), ("compacted", 0), ("dotted.name-x_y", 4)], known)


def twice_in_a_row(copy, **more):
    """Takes over, then starts again after a stop and after a kill, with changes in between.

    Kafka's metadata is not looked at again.
    """
    known = {source().next_id, source().pid}
    with Successor(copy, **more) as broker:
        broker.start()
        taken_over(broker)
        with Connection(broker.address) as c:
            # A repeat of what Kafka has acknowledged is none anew.
            assert c.produce_ok("again", 1, source().repeated) == source().repeated_at
        for n, crash in enumerate((False, True)):
            change(broker, known, n)
            after = state(broker)
            broker.again(crash)
            same(broker, after)
        stores(broker, [("codecs", 0), ("segments", 0), ("again", 0)], known)
    assert not glob.glob(os.path.join(broker.directory, "*", "*-stray"))


def test_after_a_clean_stop():
    twice_in_a_row("clean")


def test_after_kill_9():
    twice_in_a_row("killed")


def test_members_go_on():
    """Members that live on keep their ids; new ones replace the dead, at the committed offsets."""
    s = source()
    with Successor("killed") as broker:
        broker.start()
        with Connection(broker.address) as c:
            find(c, "raw-classic")
            body = {
                "GroupId": "raw-classic",
                "GenerationId": s.groups.classic.GenerationId,
                "MemberId": s.groups.classic.MemberId,
            }
            eventually(lambda: c.call("Heartbeat", 4, body).ErrorCode == 0)
            for member in (s.groups.modern, s.groups.pattern):
                going_on = RawMember(c, member.group, member_id=member.id)
                going_on.epoch = member.epoch
                answer = going_on.beat()
                assert answer.ErrorCode == 0 and answer.MemberEpoch >= member.epoch, answer
            news = {p: b"new %d" % p for p in range(3)}
            for p, value in news.items():
                eventually(
                    lambda p=p, value=value: c.produce("grouped", p, batch([value])).ErrorCode == 0
                )
        # A static member of the new protocol that did not leave is in the way of its successor:
        # librdkafka gives up then.
        new = {group: more for group, more in GROUPS.items() if group != "modern-static"}
        members = {
            group: Member("librdkafka", broker, group, "grouped", **more)
            for group, more in new.items()
        }
        try:
            wanted = {(p, s.records["grouped", p][1], value.decode()) for p, value in news.items()}
            for group, member in members.items():
                deadline = time.monotonic() + 60
                while len(member.reads) < 3:
                    assert time.monotonic() < deadline and member.process.poll() is None, (
                        group,
                        member.assigned,
                        member.reads,
                        broker.log_tail(),
                    )
                    time.sleep(0.1)
                assert set(member.reads) == wanted, (group, sorted(member.reads)[:5], wanted)
                eventually(lambda m=member: m.commits)
        finally:
            for member in members.values():
                member.kill()
        now = committed(broker)
        assert all(
            now[group]["grouped", p] == s.committed[group]["grouped", p] + 1
            for group in new
            for p in news
        )


def places(broker):
    """Partitions in each directory."""
    listed = broker.overrides["log.dirs"].split(",")
    return {
        os.path.basename(d): {n for n in os.listdir(d) if re.fullmatch(r"(?!__)[\w.-]+-\d+", n)}
        for d in listed
    }


def test_several_directories():
    """Each partition stays in the directory where Kafka had it; new ones go to both."""
    with Successor("killed") as broker:
        before = places(broker)
        assert all(len(names) > 2 for names in before.values()), before
        broker.start()
        fill.create(broker, {"new": (6, {})})
        now = eventually(
            lambda: (
                lambda found: (
                    sum(map(len, found.values())) == sum(map(len, before.values())) + 6 and found
                )
            )(places(broker))
        )
        assert all(now[d] > names for d, names in before.items()), now
        for crash in (False, True):
            broker.again(crash)
            settled(lambda: places(broker) == now)
            assert places(broker) == now


def test_directories_in_another_order():
    """Also with an empty one in front: at the takeover, and when it is taken over already."""
    if KAFKA:
        return
    known = {source().next_id, source().pid}
    with Successor("clean", order=("new", "more", "data")) as broker:
        broker.start()
        taken_over(broker)
        for n, order in enumerate(
            (("data", "new", "more"), ("more", "data", "new"), ("newer", "more", "new", "data"))
        ):
            change(broker, known, n)
            after = state(broker)
            broker.kill() if n == 1 else broker.terminate()
            broker.order(*order)
            broker.start()
            same(broker, after)
        stores(broker, [("codecs", 0), ("segments", 0), ("again", 0)], known)
    assert not glob.glob(os.path.join(broker.directory, "*", "*-stray"))


def without(broker, copy, order, away):
    """Starts without a directory: its partitions are offline, or it is refused with the reason."""
    s = source()
    lost = {
        n
        for n in os.listdir(os.path.join(s.directory, copy, away))
        if re.fullmatch(r"(?!__cluster|__corelane).+-\d+", n)
    }
    broker.order(*[name for name in order if name != away])
    process = broker.spawn()
    eventually(lambda: broker.accepts() or process.poll() is not None)
    broker.process = process
    if process.poll() is None:
        with Connection(broker.address) as c:
            for name in lost:
                topic, _, partition = name.rpartition("-")
                if topic not in KEPT:
                    continue
                answer = c.list_offset(topic, int(partition), -1)
                refused = c.produce(topic, int(partition), batch([(b"k", b"lost")]))
                assert answer.ErrorCode and refused.ErrorCode, (
                    f"{name} is not there, but it answers {answer} and {refused}"
                )
            for topic, partition in sorted(s.records):
                if topic in KEPT and f"{topic}-{partition}" not in lost:
                    assert (
                        c.list_offset(topic, partition, -1).Offset == s.records[topic, partition][1]
                    ), (topic, partition)
        broker.kill()
        return None
    assert process.returncode == 1
    return broker.log_tail()


def test_directory_missing():
    """At the takeover and after it: no empty partitions, no second takeover; then all is there."""
    if KAFKA:
        return
    order = ("data", "more")
    for taken in (False, True):
        with Successor("clean") as broker:
            if taken:
                broker.start()
                broker.terminate()
            said = without(broker, "clean", order, "more")
            assert said is None or "not in log.dirs" in said, said
            broker.order("more")
            said = broker.refuses()
            assert "metadata" in said, said
            broker.order("empty", "more")
            said = broker.refuses()
            assert "metadata" in said, said
            broker.order(*reversed(order))
            broker.start()
            taken_over(broker)


def start_fails(data, *more):
    """What a Corelane says that does not start here."""
    overrides = [f"log.dirs={data}", "listeners=PLAINTEXT://127.0.0.1:0", *more]
    command = [CORELANE, "serve", *(part for o in overrides for part in ("--override", o))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, (done.returncode, done.stderr)
    return done.stderr


def tree(directory):
    """Every file below, but for the lock, and what Kafka was about to delete."""
    found = {}
    for path, _, names in os.walk(directory):
        for name in names:
            if name != ".lock" and not path.endswith("-delete"):
                with open(os.path.join(path, name), "rb") as content:
                    found[os.path.relpath(os.path.join(path, name), directory)] = content.read()
    return found


def test_refusals_change_nothing():
    """A Kafka that runs, another node's directory, damaged metadata: Kafka can start again.

    Directories of no topic are kept.
    """
    assert "locked by another process" in source().locked
    with Successor("clean") as broker:
        before = tree(broker.directory)
        assert "node.id 1" in broker.refuses(node_id=2)
        metadata = glob.glob(os.path.join(broker.directory, "*", "__cluster_metadata-0"))[0]
        log = sorted(glob.glob(os.path.join(metadata, "*.log")))[-1]
        damage = bytearray(before[os.path.relpath(log, broker.directory)])
        # The last byte of a batch: the leader epoch in its header is in no checksum.
        end = 0
        while end < len(damage) // 2:
            end += 12 + int.from_bytes(damage[end + 8 : end + 12], "big")
        damage[end - 1] ^= 1
        with open(log, "wb") as out:
            out.write(damage)
        said = broker.refuses()
        assert (
            "cannot take over the metadata of Kafka" in said
            and "at byte" in said
            and "Nothing was changed" in said
        ), said
        with open(log, "wb") as out:
            out.write(before[os.path.relpath(log, broker.directory)])
        away = os.path.join(broker.directory, "away")
        os.rename(metadata, away)
        said = broker.refuses()
        assert "is a partition, but there is no metadata" in said and "metadata.log.dir" in said, (
            said
        )
        os.rename(away, metadata)
        now, marker = tree(broker.directory), ".kafka_cleanshutdown"
        assert now.keys() == before.keys(), now.keys() ^ before.keys()
        assert all(now[k] == before[k] for k in before if os.path.basename(k) != marker)

        kept = glob.glob(os.path.join(broker.directory, "*", "again-0"))[0]
        stray = os.path.join(os.path.dirname(kept), "orphan-3")
        shutil.copytree(kept, stray)
        content = tree(stray)
        broker.start()
        eventually(lambda: not os.path.exists(stray))
        aside = glob.glob(f"{stray}.*-stray")
        assert len(aside) == 1 and re.search(r"\.[0-9a-f]{32}-stray$", aside[0]), aside
        assert KAFKA or tree(aside[0]) == content
        same(broker, (source().described, source().committed, source().records))

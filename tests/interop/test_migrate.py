"""A data directory that Kafka has written is served as Kafka served it."""

import contextlib
import glob
import os
import re
import shutil
import subprocess

from confluent_kafka import KafkaException

import fill
from harness import CORELANE, KAFKA, Broker, Kafka, eventually, temp_dir
from raw import Connection, batch

# Settings of one test's Kafka: segments and snapshots that small need little data.
EAGER = {**fill.EAGER_CLEANER, "metadata.log.max.record.bytes.between.snapshots": 500, "log.flush.offset.checkpoint.interval.ms": 500}


def described(broker):
    """Ids, partitions and own settings of all topics."""
    with Connection(broker.address) as c:
        topics = {t.Name: (t.TopicId, sorted(p.PartitionIndex for p in t.Partitions)) for t in c.call("Metadata", 12, {"Topics": None}).Topics}
        wanted = [{"ResourceType": 2, "ResourceName": name} for name in sorted(topics)]
        found = c.call("DescribeConfigs", 4, {"Resources": wanted}).Results
        own = {r.ResourceName: {e.Name: e.Value for e in r.Configs if e.ConfigSource == 1} for r in found}
    return topics, own


def epochs(broker, topic, partitions):
    with Connection(broker.address) as c:
        metadata = c.call("Metadata", 9, {"Topics": [{"Name": topic}]}).Topics[0]
        assert len(metadata.Partitions) == partitions
        return [p.LeaderEpoch for p in sorted(metadata.Partitions, key=lambda p: p.PartitionIndex)]


def producer_id(broker):
    with Connection(broker.address) as c:
        return eventually(lambda: (lambda a: a.ErrorCode == 0 and a)(c.call("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000}))).ProducerId


def filled(broker):
    """A Kafka with everything in it; returns what must be found again."""
    fill.fill(broker)
    fill.compact(broker, lambda: os.path.exists(os.path.join(broker.data, "cleaner-offset-checkpoint")) and "compacted" in open(os.path.join(broker.data, "cleaner-offset-checkpoint")).read())
    open_transaction = fill.transactions(broker)
    fill.change(fill.create(broker, {"changed": (1, {"retention.ms": "1234567", "max.message.bytes": "99999"})}))
    consumer = fill.Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe(["codecs"])
    last = eventually(lambda: [m for m in consumer.consume(100, 1.0) if not m.error()], 60)[-1]
    consumer.commit(message=last, asynchronous=False)
    consumer.close()
    return open_transaction, producer_id(broker)


def successor(kafka):
    """On Kafka's directory, Corelane (or, to see that the test is right, Kafka again). It deletes and compacts nothing meanwhile."""
    dirs = {"log.dirs": kafka.overrides["log.dirs"]} if "log.dirs" in kafka.overrides else {}
    broker = Broker(directory=kafka.directory, start=False, **{"log.initial.task.delay.ms": 600_000, "log.cleaner.enable": "false", **dirs})
    broker.start()
    return broker


def quietly(check, *arguments):
    """`None` while Kafka does not serve all of its partitions yet, which it may do after it accepts connections."""
    with contextlib.suppress(KafkaException):
        return check(*arguments)


def settled(check):
    if KAFKA:
        eventually(lambda: quietly(check), 60)


def read_all(broker):
    """Without what Kafka writes by itself, where it is its own successor: it ends the open transaction."""
    found = fill.read_all(broker)
    return {where: records for where, records in found.items() if not KAFKA or not where[0].startswith(("__", "transactional"))}


def same_records(broker, expected):
    settled(lambda: read_all(broker) == expected)
    got = read_all(broker)
    assert got.keys() == expected.keys(), got.keys() ^ expected.keys()
    for where, (low, high, records) in expected.items():
        assert (low, high) == got[where][:2], (where, low, high, got[where][:2])
        assert records == got[where][2], (where, len(records), len(got[where][2]))


def check(kafka, stop):
    transaction, next_id = filled(kafka)
    expected, described_before, epochs_before = read_all(kafka), described(kafka), epochs(kafka, "codecs", 3)
    assert described_before[1]["codecs"]["retention.ms"] == "7200000" and "retention.ms" not in described_before[1]["dotted.name-x_y"]
    stop()
    del transaction
    with contextlib.ExitStack() as stack:
        broker = successor(kafka)
        stack.callback(broker.kill)
        settled(lambda: described(broker) == described_before)
        assert described(broker) == described_before
        same_records(broker, expected)
        assert all(now >= before for now, before in zip(epochs(broker, "codecs", 3), epochs_before, strict=True))
        assert producer_id(broker) > next_id
        with Connection(broker.address) as c:
            for topic, partition in (("codecs", 1), ("segments", 0), ("dotted.name-x_y", 4)):
                assert c.produce_ok(topic, partition, batch([b"more"])) == expected[topic, partition][1]
            # A hole that compaction has left is not written into.
            assert c.produce_ok("compacted", 0, batch([(b"k", b"more")])) == expected["compacted", 0][1]
        after = read_all(broker)
        assert sum(len(records) for _, _, records in after.values()) == sum(len(records) for _, _, records in expected.values()) + 4
        for crash in (False, True):
            broker.kill() if crash else broker.terminate()
            broker.start()
            same_records(broker, after)
            assert described(broker) == described_before


def test_after_a_clean_stop():
    with Kafka(**EAGER) as kafka:
        check(kafka, kafka.terminate)
        assert not glob.glob(os.path.join(kafka.data, "*-stray"))


def test_after_kill_9():
    with Kafka(**EAGER) as kafka:
        check(kafka, kafka.kill)


def test_several_directories():
    """Each partition stays in the directory where Kafka had it, after a clean stop and after a kill; new ones go to both."""

    def own(broker):
        """Without what comes by itself, and what this test adds."""
        return {where: records for where, records in read_all(broker).items() if not where[0].startswith(("__", "new"))}

    for stop in ("terminate", "kill"):
        directory = temp_dir()
        dirs = [os.path.join(directory, name) for name in ("data", "more")]

        def partitions():
            return [sorted(n for n in os.listdir(d) if re.fullmatch(r"(?!__)[\w.-]+-\d+", n)) for d in dirs]

        with Kafka(directory=directory, **{"log.dirs": ",".join(dirs)}) as kafka:
            fill.fill(kafka)
            expected = eventually(lambda: quietly(own, kafka))
            getattr(kafka, stop)()
            before = partitions()
            assert all(before) and sum(map(len, before)) == 7, before
            with contextlib.ExitStack() as stack:
                broker = successor(kafka)
                stack.callback(broker.kill)
                settled(lambda: own(broker) == expected)
                assert own(broker) == expected and partitions() == before
                fill.create(broker, {"new": (6, {})})
                with Connection(broker.address) as c:
                    for p in range(6):
                        eventually(lambda p=p: c.produce("new", p, batch([b"x"])).ErrorCode == 0)
                now = partitions()
                assert all(len(a) > len(b) for a, b in zip(now, before, strict=True)), now
                for crash in (False, True):
                    broker.kill() if crash else broker.terminate()
                    broker.start()
                    settled(lambda: own(broker) == expected)
                    assert own(broker) == expected and partitions() == now


def start_fails(kafka, *more):
    """What a Corelane says that does not start here."""
    overrides = [f"listeners=PLAINTEXT://127.0.0.1:{kafka.port}", f"log.dirs={kafka.data}", *more]
    command = [CORELANE, "serve", *(part for o in overrides for part in ("--override", o))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, (done.returncode, done.stderr)
    return done.stderr


def tree(directory):
    """Every file below, but for the lock."""
    found = {}
    for path, _, names in os.walk(directory):
        for name in names:
            if name != ".lock":
                with open(os.path.join(path, name), "rb") as content:
                    found[os.path.relpath(os.path.join(path, name), directory)] = content.read()
    return found


def test_refusals_change_nothing():
    """A Kafka that runs, another node's directory, damaged metadata: told, and Kafka can start again. Directories of no topic are kept."""
    with Kafka() as kafka:
        fill.create(kafka, {"kept": (1, {})})
        with Connection(kafka.address) as c:
            eventually(lambda: c.produce("kept", 0, batch([b"1", b"2"])).ErrorCode == 0)
        assert "locked by another process" in start_fails(kafka)
        kafka.terminate()
        before = tree(kafka.data)
        assert "node.id 1" in start_fails(kafka, "node.id=2")
        log = glob.glob(os.path.join(kafka.data, "__cluster_metadata-0", "*.log"))[0]
        damage = bytearray(before[os.path.relpath(log, kafka.data)])
        damage[len(damage) // 2] ^= 1
        with open(log, "wb") as out:
            out.write(damage)
        said = start_fails(kafka)
        assert "cannot take over the metadata of Kafka" in said and "at byte" in said and "Nothing was changed" in said, said
        with open(log, "wb") as out:
            out.write(before[os.path.relpath(log, kafka.data)])
        metadata, away = os.path.join(kafka.data, "__cluster_metadata-0"), os.path.join(kafka.directory, "away")
        os.rename(metadata, away)
        said = start_fails(kafka)
        assert "kept-0 is a partition, but there is no metadata" in said and "metadata.log.dir" in said, said
        os.rename(away, metadata)
        now = tree(kafka.data)
        marker = ".kafka_cleanshutdown"
        assert now.keys() == before.keys() and {k: v for k, v in now.items() if k != marker} == {k: v for k, v in before.items() if k != marker}

        stray = os.path.join(kafka.data, "orphan-3")
        shutil.copytree(os.path.join(kafka.data, "kept-0"), stray)
        content = tree(stray)
        with contextlib.ExitStack() as stack:
            broker = successor(kafka)
            stack.callback(broker.kill)
            eventually(lambda: not os.path.exists(stray))
            aside = glob.glob(os.path.join(kafka.data, "orphan-3.*-stray"))
            assert len(aside) == 1 and re.search(r"\.[0-9a-f]{32}-stray$", aside[0]), aside
            kept = tree(aside[0])
            assert KAFKA or kept == content
            with Connection(broker.address) as c:
                assert {t.Name for t in c.call("Metadata", 9, {"Topics": None}).Topics} == {"kept"}
                assert KAFKA or [r.value for b in c.fetch_all("kept", 0) for r in b.records] == [b"1", b"2"]

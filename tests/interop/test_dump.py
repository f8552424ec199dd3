"""Files: Kafka's kafka-dump-log and ours print the same of files of either broker, and Kafka's tool finds nothing wrong with ours."""

import glob
import os
import re
import shutil
import subprocess

import fill
from harness import CORELANE, JAVA, Broker, Kafka, eventually, temp_dir

DUMP = "org.apache.kafka.tools.DumpLogSegments"
# Java's output is in the locale's encoding, ours in UTF-8.
os.environ["LC_ALL"] = "C.UTF-8"


def files(broker, *patterns):
    """Paths below the data directory, without those that say nothing."""
    found = [path for pattern in patterns for path in glob.glob(os.path.join(broker.data, "*-[0-9]*", pattern))]
    return sorted(path for path in found if not path.endswith("-delete") and not re.search(r"__(consumer|transaction)\S+/0+\.(time)?index", path))


def run(command):
    """As bytes: records hold carriage returns."""
    done = subprocess.run(command, capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def ours(paths, *flags):
    return run([CORELANE, "dump-log", "--files", ",".join(paths), *flags])


def kafkas(paths, *flags):
    return run([*JAVA, DUMP, "--files", ",".join(paths), *flags])


def compare(paths, *flags):
    """Runs both tools and returns what Kafka's says. Its findings come in no order, file by file."""
    assert paths
    expected, got = kafkas(paths, *flags), ours(paths, *flags)
    assert got[0] == expected[0], (flags, got[0], got[2], expected[0], expected[2])
    for line, (theirs, mine) in enumerate(zip(expected[1].split("\n"), got[1].split("\n"), strict=False)):
        assert mine == theirs, f"{flags} line {line + 1}: {mine!r} instead of {theirs!r}"
    assert len(got[1]) == len(expected[1]), (flags, len(got[1]), len(expected[1]))
    if expected[0] == 0:
        assert sorted(got[2].splitlines()) == sorted(expected[2].splitlines()), (flags, got[2], expected[2])
    else:
        # Java says more: the exception's name, and where it was thrown.
        assert got[2].strip() in expected[2], (flags, got[2], expected[2])
    return expected


def compare_all(broker):
    logs = files(broker, "*.log")
    for flags in ([], ["--deep-iteration"], ["--print-data-log"], ["--print-data-log", "--skip-record-metadata"], ["--deep-iteration", "--max-bytes", "5000"]):
        compare(logs, *flags)
    indexes = files(broker, "*.index", "*.timeindex")
    for flags in ([], ["--verify-index-only"], ["--index-sanity-check"]):
        compare(indexes, *flags)
    compare(files(broker, "*.snapshot", "*.txnindex", "*.checkpoint", "partition.metadata", "leader-epoch-checkpoint"))


def test_files_of_kafka():
    """Also control batches, transactions, compacted segments, Kafka's own topics, and its metadata log."""
    with Kafka(**fill.EAGER_CLEANER, **{"metadata.log.max.record.bytes.between.snapshots": 500}) as broker:
        fill.fill(broker)
        fill.compact(broker, lambda: glob.glob(os.path.join(broker.data, "compacted-0", "*.deleted")))
        open_transaction = fill.transactions(broker)
        metadata = os.path.join(broker.data, "__cluster_metadata-0")
        eventually(lambda: glob.glob(os.path.join(metadata, "*.checkpoint")))
        broker.terminate()
        del open_transaction
        compare_all(broker)
        compare([os.path.join(broker.data, "bootstrap.checkpoint"), *files(broker, "*.checkpoint")], "--cluster-metadata-decoder")
        out = compare(glob.glob(os.path.join(metadata, "*.log")), "--cluster-metadata-decoder")[1]
        assert '"type":"PARTITION_RECORD"' in out and " LeaderChange: {" in out, out[:1000]
        state = [path for path in files(broker, "*.log") if "__transaction_state" in path and os.path.getsize(path)]
        assert '"transactionalId":"t"' in compare(state, "--transaction-log-decoder")[1]
        indexes = files(broker, "*.txnindex")
        assert "lastStableOffset: " in compare(indexes)[1]


def test_groups_of_kafka():
    """What consumers commit, and what the members of a group send each other."""
    from confluent_kafka import Consumer

    with Kafka() as broker:
        fill.create(broker, {"read": (2, {})})
        p = fill.producer(broker)
        for n in range(10):
            p.produce("read", str(n), partition=n % 2)
        fill.flush(p)
        for group, protocol in (("old", "classic"), ("new", "consumer")):
            consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "group.protocol": protocol, "auto.offset.reset": "earliest", "enable.auto.commit": False})
            consumer.subscribe(["read"])
            last = eventually(lambda: [m for m in consumer.consume(10, 1.0) if not m.error()], 60)[-1]
            consumer.commit(message=last, asynchronous=False)
            if protocol == "classic":
                consumer.close()
        broker.terminate()
        logs = [path for path in files(broker, "*.log") if "__consumer_offsets" in path and os.path.getsize(path)]
        out = compare(logs, "--offsets-decoder")[1]
        assert '"group":"old","topic":"read"' in out and '"assignment":{"assignedPartitions":[{"topic":"read"' in out, out
        assert '"groupId":"new"' in out, out


def test_files_of_corelane():
    """Kafka's tool has nothing to complain of, in any file of a broker that was stopped."""
    with Broker() as broker:
        fill.fill(broker)
        # More batches than an index keeps entries: it thins itself out.
        fill.create(broker, {"thinned": (1, {"index.interval.bytes": "1"})})
        p = fill.producer(broker, **{"batch.num.messages": 1, "linger.ms": 0})
        for n in range(20_000):
            p.produce("thinned", str(n))
        fill.flush(p)
        assert broker.terminate() == 0
        compare_all(broker)
        logs = files(broker, "*.log")
        assert len([path for path in logs if "/segments-0/" in path]) > 2
        for flags in (["--deep-iteration"], ["--print-data-log"]):
            code, out, err = kafkas(logs, *flags)
            assert code == 0 and "isvalid: false" not in out and "invalid bytes" not in out, (code, err)
            # A segment's first offset follows -1 for this tool, whoever has written it.
            followed = [line for line in err.splitlines() if "is followed by" in line]
            assert all(line.startswith("  -1 is") for line in followed), err
        indexes = files(broker, "*.index", "*.timeindex")
        for flags in (["--verify-index-only"], ["--index-sanity-check"], []):
            code, out, err = kafkas(indexes, *flags)
            assert (code, err) == (0, ""), (flags, code, err)
        thinned = kafkas([path for path in indexes if path.endswith(".index") and "/thinned-0/" in path])[1].count("position:")
        assert 1000 < thinned <= 2048, thinned
        assert kafkas(files(broker, "*.snapshot"))[2] == ""


def test_a_running_broker():
    """What lies behind the last batch of a file in use is gone a moment after the last write."""
    with Broker(**{"corelane.log.idle.ms": 300}) as broker:
        fill.create(broker, {"running": (1, {})})
        p = fill.producer(broker)
        for turn in range(3):
            for n in range(100):
                p.produce("running", f"{turn}-{n}")
            fill.flush(p)
            log = os.path.join(broker.data, "running-0", "00000000000000000000.log")

            def readable():
                code, out, _ = ours([log], "--print-data-log")
                return code == 0 and "invalid bytes" not in out and out.count("payload:") == 100 * (turn + 1)

            eventually(readable)
        code, out, err = kafkas([log], "--print-data-log")
        assert (code, err) == (0, "") and out.count("payload:") == 300 and "invalid bytes" not in out, (code, out[-500:], err)


def test_damaged_and_missing_files():
    """The same findings and exit codes."""
    directory = temp_dir()
    with Broker() as broker:
        fill.fill(broker)
        assert broker.terminate() == 0
        part = os.path.join(broker.data, "segments-0")
        first = sorted(glob.glob(os.path.join(part, "*.log")))[0]
        content = {kind: bytearray(open(first.replace(".log", kind), "rb").read()) for kind in (".log", ".index", ".timeindex")}
        snapshot = bytearray(open(glob.glob(os.path.join(broker.data, "codecs-0", "*.snapshot"))[0], "rb").read())

    def case(number, log=None, index=None, timeindex=None):
        base = os.path.join(directory, f"{number:020}")
        for kind, change in ((".log", log), (".index", index), (".timeindex", timeindex)):
            data = bytearray(content[kind])
            data = (change(data) or data) if change else data
            with open(base + kind, "wb") as out:
                out.write(data)
        return base

    def flip(at, bits=1):
        def change(data):
            data[at] ^= bits

        return change

    damaged = case(0, log=flip(20_000))
    assert "isvalid: false" in compare([damaged + ".log"])[1]
    end = 0
    while end < 10_000:
        end += 12 + int.from_bytes(content[".log"][end + 8 : end + 12], "big")
    assert compare([case(1, log=lambda d: d[:end] + bytes(500)) + ".log"])[0] == 1
    assert "invalid bytes at the end" in compare([case(2, log=lambda d: d[: end - 1]) + ".log"], "--print-data-log")[1]
    wrong = case(0, index=flip(19, 4), timeindex=flip(7, 4))
    assert "Index offset: " in compare([wrong + ".index"])[2]
    assert "timestamp mismatch" in compare([wrong + ".timeindex"], "--verify-index-only")[2]
    for number, index, timeindex in ((0, lambda d: d[:21], lambda d: d[:31]), (5, lambda d: d + bytes(80), lambda d: d + bytes(120)), (6, flip(0, 0x80), flip(0, 0x80))):
        base = case(number, index=index, timeindex=timeindex)
        for kind in (".index", ".timeindex"):
            for flags in ([], ["--index-sanity-check"]):
                compare([base + kind], *flags)
    far = case(7, index=lambda d: b"\0\0\0\5\x7f\0\0\0")
    assert compare([far + ".index"])[0] == 1
    for name, change in (("0", flip(1, 2)), ("1", flip(len(snapshot) - 1)), ("2", lambda d: None)):
        path = os.path.join(directory, f"{name}.snapshot")
        data = bytearray(snapshot)
        change(data)
        with open(path, "wb") as out:
            out.write(data)
        compare([path])
    compare([os.path.join(directory, "unknown.txt"), os.path.join(directory, "9.txnindex")])
    assert compare([os.path.join(directory, "name.log")])[0] == 1
    for missing in ("77.log", "77.snapshot"):
        path = os.path.join(directory, missing)
        (code, _, err), theirs = ours([path]), kafkas([path])
        assert code == theirs[0] == 1 and path in err and path in theirs[2], (code, err, theirs)
    shutil.rmtree(directory, ignore_errors=True)


def test_arguments():
    code, out, err = ours([""], "--value-decoder-class", "no.such.Decoder")
    assert code == 1 and "Failed to load decoder class" in err, (code, out, err)
    done = subprocess.run([CORELANE, "dump-log"], capture_output=True, text=True)
    assert done.returncode == 1 and 'Missing required argument "[files]"' in done.stderr, done

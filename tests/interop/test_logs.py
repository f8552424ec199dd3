"""How logs end and shrink: segments, retention, DeleteRecords, DescribeLogDirs, a full disk. These tests start their own brokers."""

import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

from harness import KAFKA, Broker, eventually, free_port, java, temp_dir
from powercut import Machine
from raw import Connection, batch, parse_batches, produce_body, values
from test_groups import commit_body, fetch, find

OFFSET_OUT_OF_RANGE, UNKNOWN_TOPIC_OR_PARTITION, REQUEST_TIMED_OUT, INVALID_TOPIC, POLICY_VIOLATION, KAFKA_STORAGE_ERROR = 1, 3, 7, 17, 44, 56
LATEST, EARLIEST = -1, -2
# What a client of a group coordinator tries again after.
AGAIN = (14, 15, 16)
QUICK = {"log.retention.check.interval.ms": 100, "log.initial.task.delay.ms": 100, "log.segment.delete.delay.ms": 1000}


def quick(**more):
    return Broker(**{**QUICK, **more})


def earliest(c, topic, partition=0):
    return c.list_offset(topic, partition, EARLIEST).Offset


def files(broker, partition, end):
    return [f for f in os.listdir(os.path.join(broker.data, partition)) if f.endswith(end)]


def delete_records(c, offsets, version=2):
    """`offsets`: topic to partition to offset. (error, low watermark) by topic and partition."""
    topics = [{"Name": t, "Partitions": [{"PartitionIndex": p, "Offset": o} for p, o in ps.items()]} for t, ps in offsets.items()]
    answer = c.call("DeleteRecords", version, {"Topics": topics, "TimeoutMs": 30000})
    return {(t.Name, p.PartitionIndex): (p.ErrorCode, p.LowWatermark) for t in answer.Topics for p in t.Partitions}


def log_dirs(c, topics=None, version=4):
    return c.call("DescribeLogDirs", version, {"Topics": topics}).Results


def test_retention_by_size():
    """The oldest segments go, and with them their files; readers of what is left are not disturbed, those of what is gone are told."""
    with quick() as broker, Connection(broker.address) as c:
        c.create_topic("t", segment_bytes=1 << 20, retention_bytes=2 << 20)
        for n in range(60):
            c.produce_ok("t", 0, batch([b"%04d" % n + b"x" * 100_000]))
        start = eventually(lambda: earliest(c, "t"))
        start = eventually(lambda: (s := earliest(c, "t")) >= 30 and s)
        assert c.fetch("t", {0: 0})[0].ErrorCode == OFFSET_OUT_OF_RANGE
        assert c.fetch("t", {0: start})[0].LogStartOffset == start
        got = values(c.fetch_all("t", 0, start))
        assert [v[:4] for v in got] == [b"%04d" % n for n in range(start, 60)]
        size = sum(len(v) for v in got)
        assert 2 << 20 <= size <= 4 << 20, size
        assert c.list_offset("t", 0, 0).Offset == start
        eventually(lambda: not files(broker, "t-0", ".deleted"))
        assert min(files(broker, "t-0", ".log")) == f"{start:020}.log"
        for stop in (broker.terminate, broker.kill):
            stop()
            broker.start()
            with Connection(broker.address) as again:
                eventually(lambda: again.list_offset("t", 0, LATEST).Offset == 60)
                assert earliest(again, "t") == start
                assert values(again.fetch_all("t", 0, start)) == got


def test_retention_by_time():
    """By the records' timestamps: records of 1970 vanish, also from the last segment, and the offsets go on behind them."""
    with quick() as broker:
        with Connection(broker.address) as c:
            c.create_topic("t", message_timestamp_type="CreateTime")
            c.create_topic("kept", cleanup_policy="compact")
            c.create_topic("forever", retention_ms=-1)
            for topic in ("t", "kept", "forever"):
                for n in range(3):
                    c.produce_ok(topic, 0, batch([(b"k", b"old %d" % n)], timestamps=[1000 + n]))
            eventually(lambda: earliest(c, "t") == 3)
            assert (c.list_offset("t", 0, LATEST).Offset, c.list_offset("t", 0, 0).Offset) == (3, -1)
            assert c.fetch("t", {0: 0})[0].ErrorCode == OFFSET_OUT_OF_RANGE
            assert c.produce_ok("t", 0, batch([b"new"])) == 3
            assert values(c.fetch_all("t", 0, 3)) == [b"new"]
            time.sleep(0.5)
            assert [earliest(c, topic) for topic in ("t", "kept", "forever")] == [3, 0, 0]
        for stop in (broker.kill, broker.terminate):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                eventually(lambda: c.list_offset("t", 0, LATEST).Offset == 4)
                assert earliest(c, "t") == 3 and values(c.fetch_all("t", 0, 3)) == [b"new"]


def test_segment_ms():
    """A segment ends by the timestamps of its records."""
    with Broker() as broker, Connection(broker.address) as c:
        c.create_topic("t", segment_ms=1000, retention_ms=-1)
        for n, ts in enumerate((5000, 6000, 5500, 6001, 7001, 7002)):
            c.produce_ok("t", 0, batch([b"%d" % n], timestamps=[ts]))
        eventually(lambda: sorted(files(broker, "t-0", ".log")) == [f"{n:020}.log" for n in (0, 3, 5)])


def test_segment_ms_goes_on_after_a_restart():
    """The first write after a restart already ends a segment whose first record is too old."""
    with Broker(start=False) as broker:
        for stop in (broker.terminate, broker.kill):
            broker.start()
            topic = f"t-{stop.__name__}"
            with Connection(broker.address) as c:
                c.create_topic(topic, segment_ms=1000, retention_ms=-1)
                eventually(lambda: c.produce(topic, 0, batch([b"0"], timestamps=[5000])).ErrorCode == 0)
                c.produce_ok(topic, 0, batch([b"1"], timestamps=[5999]))
            stop()
            broker.start()
            with Connection(broker.address) as c:
                eventually(lambda: c.produce(topic, 0, batch([b"2"], timestamps=[6001])).ErrorCode == 0)
                eventually(lambda: sorted(files(broker, f"{topic}-0", ".log")) == [f"{n:020}.log" for n in (0, 2)])
                assert values(c.fetch_all(topic, 0)) == [b"0", b"1", b"2"]
            stop()


def test_records_without_timestamps():
    """The clock tells when their segments end, the files' times when they go."""
    with quick() as broker, Connection(broker.address) as c:
        c.create_topic("t", segment_ms=1000, retention_ms=3600_000)
        for n in range(2):
            c.produce_ok("t", 0, batch([b"%d" % n], timestamps=[-1]))
        time.sleep(1.5)
        c.produce_ok("t", 0, batch([b"2"], timestamps=[-1]))
        eventually(lambda: sorted(files(broker, "t-0", ".log")) == [f"{n:020}.log" for n in (0, 2)])
        time.sleep(0.5)
        assert earliest(c, "t") == 0

        def aged(base, start):
            path = os.path.join(broker.data, "t-0", f"{base:020}.log")
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (time.time() - 7200,) * 2)
            return earliest(c, "t") == start

        eventually(lambda: aged(0, 2))
        assert values(c.fetch_all("t", 0, 2)) == [b"2"]
        eventually(lambda: aged(2, 3))
        assert c.produce_ok("t", 0, batch([b"3"], timestamps=[-1])) == 3


def test_delete_records():
    with quick() as broker:
        with Connection(broker.address) as c:
            c.create_topic("t", 2, segment_bytes=1 << 20)
            c.create_topic("compacted", cleanup_policy="compact")
            c.create_topic("both", cleanup_policy="compact,delete")
            for n in range(20):
                c.produce_ok("t", 0, batch([b"%04d" % n + b"x" * 200_000]))
            for topic in ("compacted", "both"):
                c.produce_ok(topic, 0, batch([(b"k", b"v")]))
            for version in (0, 1, 2):
                asked = {"t": {0: 3 + version, 1: 1, 7: 0}, "compacted": {0: 1}, "none": {0: 0}}
                assert delete_records(c, asked, version) == {
                    ("t", 0): (0, 3 + version), ("t", 1): (OFFSET_OUT_OF_RANGE, -1), ("t", 7): (UNKNOWN_TOPIC_OR_PARTITION, -1),
                    ("compacted", 0): (POLICY_VIOLATION, -1), ("none", 0): (UNKNOWN_TOPIC_OR_PARTITION, -1),
                }
            assert delete_records(c, {"t": {0: 2}, "both": {0: 1}}) == {("t", 0): (0, 5), ("both", 0): (0, 1)}
            assert delete_records(c, {"t": {0: -2}})[("t", 0)] == (OFFSET_OUT_OF_RANGE, -1)
            assert delete_records(c, {"t": {0: 21}})[("t", 0)] == (OFFSET_OUT_OF_RANGE, -1)
            assert earliest(c, "t") == 5
            assert c.fetch("t", {0: 4})[0].ErrorCode == OFFSET_OUT_OF_RANGE
            assert [v[:4] for v in values(c.fetch_all("t", 0, 5))] == [b"%04d" % n for n in range(5, 20)]
            eventually(lambda: f"{0:020}.log" not in files(broker, "t-0", ".log"))
            assert delete_records(c, {"t": {0: 12}})[("t", 0)] == (0, 12)
        broker.terminate()
        broker.start()
        with Connection(broker.address) as c:
            eventually(lambda: c.list_offset("t", 0, LATEST).Offset == 20)
            assert earliest(c, "t") == 12, "it is checkpointed"
            assert delete_records(c, {"t": {0: -1}})[("t", 0)] == (0, 20)
            assert earliest(c, "t") == 20 and c.produce_ok("t", 0, batch([b"next"])) == 20


def test_delete_records_tools():
    with Broker() as broker, Connection(broker.address) as c:
        c.create_topic("t", 2)
        for p in (0, 1):
            c.produce_ok("t", p, batch([b"x"] * 10))
        path = os.path.join(broker.directory, "offsets.json")
        with open(path, "w") as out:
            json.dump({"partitions": [{"topic": "t", "partition": 0, "offset": 4}, {"topic": "t", "partition": 1, "offset": -1}], "version": 1}, out)
        code, out, err = java("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server", broker.bootstrap, "--offset-json-file", path)
        assert code == 0 and "partition: t-0\tlow_watermark: 4" in out and "partition: t-1\tlow_watermark: 10" in out, (code, out, err)

        from confluent_kafka import TopicPartition
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        (future,) = admin.delete_records([TopicPartition("t", 0, 7)]).values()
        assert future.result(30).low_watermark == 7
        assert [earliest(c, "t", p) for p in (0, 1)] == [7, 10]


def test_log_dirs():
    with Broker() as broker, Connection(broker.address) as c:
        c.create_topic("a", 2)
        c.create_topic("b")
        for n in range(1, 10):
            c.produce_ok("a", 1, batch([b"x" * 1000] * n))
        size = sum(b.size for b in parse_batches(c.fetch("a", {1: 0}, partition_max=1 << 20)[1].Records))
        for version in range(1, 6):
            (found,) = log_dirs(c, version=version)
            assert (found.ErrorCode, found.LogDir) == (0, broker.data)
            sizes = {(t.Name, p.PartitionIndex): (p.PartitionSize, p.OffsetLag, p.IsFutureKey) for t in found.Topics for p in t.Partitions}
            assert sizes == {("a", 0): (0, 0, False), ("a", 1): (size, 0, False), ("b", 0): (0, 0, False)}, sizes
            if version >= 4:
                disk = shutil.disk_usage(broker.data)
                assert found.TotalBytes == disk.total and abs(found.UsableBytes - disk.free) < 1 << 30
        (found,) = log_dirs(c, [{"Topic": "a", "Partitions": [0, 9]}, {"Topic": "none", "Partitions": [0]}])
        assert [(t.Name, [p.PartitionIndex for p in t.Partitions]) for t in found.Topics] == [("a", [0])]
        code, out, err = java("org.apache.kafka.tools.LogDirsCommand", "--bootstrap-server", broker.bootstrap, "--describe", "--topic-list", "a")
        assert code == 0, (code, out, err)
        shown = json.loads(out.splitlines()[-1])["brokers"][0]["logDirs"][0]
        assert shown["error"] is None and shown["logDir"] == broker.data
        assert {p["partition"]: p["size"] for p in shown["partitions"]} == {"a-0": 0, "a-1": size}, shown


def test_descriptors_run_out():
    """Below a limit that is reached, what is open goes on; partitions that need a file are refused and new connections wait, until there are some."""
    if KAFKA:
        return  # stops
    with Broker(**{"corelane.log.idle.ms": 600_000}) as broker, Connection(broker.address) as c:
        c.create_topic("open")
        c.create_topic("rolling", segment_bytes=1 << 20)
        for topic in ("open", "rolling"):
            c.produce_ok(topic, 0, batch([b"first"]))
        c.create_topic("closed")
        pid, limits = broker.process.pid, resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE)
        waiting = None
        try:
            used = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")) + 1
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
            # Numbers below the limit may be free.
            idle = [socket.create_connection(broker.address) for _ in range(used)]
            time.sleep(0.5)
            assert c.produce("closed", 0, batch([b"refused"])).ErrorCode == KAFKA_STORAGE_ERROR
            assert c.produce_ok("open", 0, batch([b"second"])) == 1
            told = [c.produce("rolling", 0, batch([b"%02d" % n + b"x" * 300_000])) for n in range(8)]
            codes = {answer.ErrorCode for answer in told}
            assert codes == {0, KAFKA_STORAGE_ERROR}, codes
            kept = [b"%02d" % n for n, answer in enumerate(told) if answer.ErrorCode == 0]
            assert values(c.fetch_all("open", 0)) == [b"first", b"second"]
            waiting = socket.create_connection(broker.address)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            for one in idle:
                one.close()
        eventually(lambda: c.produce("closed", 0, batch([b"taken"])).ErrorCode == 0)
        eventually(lambda: c.produce("rolling", 0, batch([b"99"])).ErrorCode == 0)
        assert values(c.fetch_all("closed", 0)) == [b"taken"]
        assert [v[:2] for v in values(c.fetch_all("rolling", 0))] == [b"fi", *kept, b"99"]
        waiting.close()
        with Connection(broker.address) as another:
            assert another.list_offset("open", 0, LATEST).Offset == 2


def test_stalled_disk():
    """One of two disks answers nothing for seconds: partitions on the other one go on, those on it wait, and lose nothing."""
    if KAFKA:
        return  # its threads wait for the disk
    directory = temp_dir()
    try:
        machine = Machine(directory)
    except (AssertionError, OSError) as error:
        print(f"not allowed to make a file system: nothing tested ({error})")
        return
    quick_dir, slow_dir = os.path.join(directory, "quick"), os.path.join(machine.mount, "slow")
    broker = Broker(directory=directory, start=False, **{"log.dirs": f"{quick_dir},{slow_dir}"})
    try:
        broker.start()
        with Connection(broker.address) as c, Connection(broker.address) as held:
            c.create_topic("t", 4)
            for p in range(4):
                c.produce_ok("t", p, batch([b"0"]))
            slow = [p for p in range(4) if os.path.exists(os.path.join(slow_dir, f"t-{p}"))]
            others = [p for p in range(4) if p not in slow]
            assert slow and others, "new partitions go to both disks"
            os.kill(machine.disk.pid, signal.SIGSTOP)
            try:
                answers = []
                waiter = threading.Thread(target=lambda: answers.append(held.produce("t", slow[0], batch([b"1"]))))
                waiter.start()
                for n in range(1, 300):
                    for p in others:
                        assert c.produce_ok("t", p, batch([b"%d" % n])) == n
                assert not answers, "the disk was not stalled"
            finally:
                os.kill(machine.disk.pid, signal.SIGCONT)
            waiter.join(60)
            assert [(a.ErrorCode, a.BaseOffset) for a in answers] == [(0, 1)]
            for p in slow:
                assert values(c.fetch_all("t", p)) == [b"0", b"1"][: 2 if p == slow[0] else 1]
        assert broker.terminate() == 0
    finally:
        broker.kill()
        machine.down()
    shutil.rmtree(directory, ignore_errors=True)


def test_stop_with_a_stalled_disk():
    """A stop waits for a disk that does not answer for 30 s; then the process ends, as soon as the kernel lets it, and says why."""
    if KAFKA:
        return  # its threads wait for the disk
    directory = temp_dir()
    try:
        machine = Machine(directory)
    except (AssertionError, OSError) as error:
        print(f"not allowed to make a file system: nothing tested ({error})")
        return
    broker = Broker(directory=directory, start=False, **{"log.dirs": os.path.join(machine.mount, "data")})
    try:
        broker.start()
        with Connection(broker.address) as c:
            c.create_topic("t", 2)
            for p in range(2):
                c.produce_ok("t", p, batch([b"0"]))
            os.kill(machine.disk.pid, signal.SIGSTOP)
            try:
                for p in range(2):
                    c.send("Produce", 9, produce_body("t", {p: batch([b"1"])}))
                broker.process.send_signal(signal.SIGTERM)
                eventually(lambda: "the stop took more than" in open(broker.log).read(), 60)
            finally:
                os.kill(machine.disk.pid, signal.SIGCONT)
        assert broker.process.wait(30) == 2, broker.log_tail()
        broker.start()
        with Connection(broker.address) as c:
            assert all(values(c.fetch_all("t", p))[:1] == [b"0"] for p in range(2))
        assert broker.terminate() == 0
    finally:
        broker.kill()
        machine.down()
    shutil.rmtree(directory, ignore_errors=True)


def on_a_small_disk(test):
    """Gives the test a directory on a file system of its own, of 64 MiB. Where that is not allowed nothing is tested."""

    @functools.wraps(test)
    def run():
        if KAFKA:
            return  # stops when its disk is full
        disk = temp_dir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], capture_output=True).returncode != 0:
            print("not allowed to mount a file system: nothing tested")
            return
        try:
            test(disk)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)

    return run


def fill(disk):
    """Takes all room; what has to be removed to give it back."""
    filler = os.path.join(disk, "filler")
    with open(filler, "wb") as out, contextlib.suppress(OSError):
        while True:
            out.write(b"z" * (1 << 20))
    return filler


@on_a_small_disk
def test_disk_full(disk):
    """Producers are refused with an error to try again after, reads go on, and all goes on by itself when there is room."""
    with Broker(directory=disk) as broker, Connection(broker.address) as c:
        c.create_topic("t", 2)
        value, acked = b"x" * 200_000, {0: [], 1: []}

        def produce(n, acks=-1):
            value_n = b"%06d" % n + value
            answer = c.produce("t", n % 2, batch([value_n]), acks=acks)
            assert answer.ErrorCode in (0, KAFKA_STORAGE_ERROR), answer
            if answer.ErrorCode == 0:
                assert answer.BaseOffset == len(acked[n % 2]), "offsets that were given up are used again"
                acked[n % 2].append(value_n)
            return answer.ErrorCode == 0

        def check():
            for p in (0, 1):
                assert values(c.fetch_all("t", p)) == acked[p]

        for turn in range(3):
            filler = fill(disk)
            refused = set()
            for n in range(400):
                if not produce(n, acks=-1 if n % 3 else 1):
                    refused.add(n % 2)
                if len(refused) == 2:
                    break
            assert len(refused) == 2, "it was never full"
            check()
            assert not produce(1) and not produce(2)
            c.call("CreateTopics", 7, {"Topics": [{"Name": f"new{turn}", "NumPartitions": 2, "ReplicationFactor": 1}], "timeoutMs": 30000})
            os.remove(filler)
            for p in (0, 1):
                eventually(lambda: produce(p))
            eventually(lambda: c.produce(f"new{turn}", 1, batch([b"y"])).ErrorCode == 0)
            check()
            # Room for the next turn.
            delete_records(c, {"t": {0: 0}})
        before = {p: list(v) for p, v in acked.items()}
        broker.kill()
        broker.start()
        with Connection(broker.address) as again:
            for p in (0, 1):
                assert values(again.fetch_all("t", p)) == before[p]
        assert broker.terminate() == 0


@on_a_small_disk
def test_metadata_on_a_full_disk(disk):
    """Changes of the metadata are refused in time, nothing of them appears later, and topics are deleted, which makes room."""
    if KAFKA:
        return  # its log directory goes offline
    with Broker(directory=disk) as broker, Connection(broker.address, timeout=20) as c:

        def create(name, filling=0):
            configs = [{"Name": "leader.replication.throttled.replicas", "Value": ",".join(["0:1"] * filling)}] if filling else []
            topic = {"Name": name, "NumPartitions": 1, "ReplicationFactor": 1, "Configs": configs}
            code = c.call("CreateTopics", 7, {"Topics": [topic], "timeoutMs": 500}).Topics[0].ErrorCode
            assert code in (0, REQUEST_TIMED_OUT), code
            return code == 0

        def names(c):
            return sorted(t.Name for t in c.call("Metadata", 9, {"Topics": None}).Topics)

        c.create_topic("data")
        c.produce("data", 0, batch([b"x" * 900_000]))
        c.produce("data", 0, batch([b"x" * 900_000]))
        fill(disk)
        # The room that is allocated ahead.
        made = [n for n in range(40) if create(f"large-{n}", 8000)]
        assert len(made) < 40, "the metadata's disk was never full"
        assert not any(create(f"late-{n}", 8000) for n in range(3))
        assert c.call("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000, "ProducerId": -1, "ProducerEpoch": -1}).ErrorCode in (0, 14)
        before = names(c)
        assert not any(n.startswith("late") for n in before), before

        # After an end that was not clean it listens, whatever the disk has room for.
        broker.kill()
        broker.start()
        with Connection(broker.address, timeout=20) as again:
            assert names(again) == before
            deleted = again.call("DeleteTopics", 5, {"TopicNames": ["data", "large-0"], "TimeoutMs": 5000}).Responses
            assert [d.ErrorCode for d in deleted] == [0, 0], deleted
            left = [n for n in before if n not in ("data", "large-0")]
            assert names(again) == left
            eventually(lambda: again.call("CreateTopics", 7, {"Topics": [{"Name": "after", "NumPartitions": 1, "ReplicationFactor": 1}], "timeoutMs": 500}).Topics[0].ErrorCode in (0, 36))
            eventually(lambda: again.produce("after", 0, batch([b"y"])).ErrorCode == 0)
            assert names(again) == sorted([*left, "after"])


def test_file_size_limit():
    """Files that may not grow (`ulimit -f`) are a full disk, not the end of the broker."""
    if KAFKA:
        return  # its whole log directory goes offline
    with Broker() as broker, Connection(broker.address) as c:
        c.create_topic("t")
        pid, acked = broker.process.pid, []

        def produce():
            value = b"%06d" % len(acked) + b"x" * 200_000
            answer = c.produce("t", 0, batch([value]))
            assert answer.ErrorCode in (0, KAFKA_STORAGE_ERROR), answer
            if answer.ErrorCode == 0:
                assert answer.BaseOffset == len(acked)
                acked.append(value)
            return answer.ErrorCode == 0

        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4 << 20, before[1]))
        assert any(not produce() for _ in range(100)), "no file came to the limit"
        broker.check_alive()
        assert values(c.fetch_all("t", 0)) == acked
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        eventually(produce)
        assert values(c.fetch_all("t", 0)) == acked
        assert broker.terminate() == 0


def test_lost_disk():
    """One of two disks comes back empty: its partitions are offline until it is given up by name, those of the other disk have everything."""
    directory = temp_dir()
    disks = [os.path.join(directory, name) for name in ("one", "two")]
    with Broker(directory=directory, **{"log.dirs": ",".join(disks)}) as broker:
        with Connection(broker.address) as c:
            topic = c.create_topic("t", 6)
            for p in range(6):
                c.produce_ok("t", p, batch([b"%d" % p]))
        assert broker.terminate() == 0
        lost = {p for p in range(6) if os.path.isdir(os.path.join(disks[1], f"t-{p}"))}
        assert 0 < len(lost) < 6, "both disks have partitions"
        with open(os.path.join(disks[1], "meta.properties")) as meta:
            identity = dict(line.strip().split("=", 1) for line in meta if "=" in line)["directory.id"]
        shutil.rmtree(disks[1])
        os.mkdir(disks[1])
        broker.start()
        with Connection(broker.address) as c:
            for p in range(6):
                assert c.list_offset("t", p, -1).ErrorCode == (KAFKA_STORAGE_ERROR if p in lost else 0)
        assert broker.terminate() == 0
        broker.overrides["corelane.lost.log.dirs"] = identity
        broker.start()
        with Connection(broker.address) as c:
            assert c.topic_id("t") == topic
            for p in range(6):
                assert values(c.fetch_all("t", p)) == ([] if p in lost else [b"%d" % p])
                assert c.produce_ok("t", p, batch([b"more"])) == (0 if p in lost else 1)


@on_a_small_disk
def test_groups_on_a_full_disk(disk):
    """A commit without room is refused with an error to try again after; what was acknowledged stays, and commits go on when there is room."""
    with Broker(directory=disk, **{"offsets.topic.num.partitions": 1}) as broker, Connection(broker.address) as c:
        c.create_topic("t", 1)
        find(c, "g")

        def commit(offset):
            body = commit_body("g", "t", offset, metadata="m" * 4000)
            code = c.call("OffsetCommit", 8, body).Topics[0].Partitions[0].ErrorCode
            assert code in (0, *AGAIN), code
            return code == 0

        def committed():
            return fetch(c, "g", [{"Name": "t", "PartitionIndexes": [0]}]).Topics[0].Partitions[0].CommittedOffset

        eventually(lambda: commit(1))
        filler = fill(disk)
        acknowledged = 1
        for offset in range(2, 5000):
            if not commit(offset):
                break
            acknowledged = offset
        else:
            raise AssertionError("it was never full")
        assert committed() == acknowledged
        os.remove(filler)
        eventually(lambda: commit(9000))
        assert committed() == 9000
        broker.kill()
        broker.start()
        with Connection(broker.address) as again:
            find(again, "g")
            assert fetch(again, "g", [{"Name": "t", "PartitionIndexes": [0]}]).Topics[0].Partitions[0].CommittedOffset == 9000

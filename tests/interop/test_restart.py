"""What survives a stop, a kill and a bad start. These tests start their own brokers."""

import contextlib
import fcntl
import glob
import itertools
import os
import pty
import shutil
import signal
import socket
import subprocess
import termios
import threading
import time

from harness import CORELANE, KAFKA, START_SECONDS, Broker, eventually, free_port, temp_dir, write_properties
from raw import GZIP, Closed, Connection, batch, fetch_body, parse_batches, produce_body, values

OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, UNKNOWN_TOPIC_OR_PARTITION, KAFKA_STORAGE_ERROR = 45, 47, 3, 56


def producer_id(c):
    while True:
        answer = c.call("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000})
        if answer.ErrorCode == 0:
            return answer.ProducerId
        assert KAFKA and answer.ErrorCode == 14, answer


def wait_ready(c, topic, partitions):
    """Kafka accepts connections before it has loaded its partitions."""
    while KAFKA and any(c.list_offset(topic, p, -1).ErrorCode for p in range(partitions)):
        time.sleep(0.05)


def survives(stop):
    """Fills a broker, stops it, and compares everything after the restart. Twice, so that the restarted one is stopped too."""
    with Broker() as broker:
        with Connection(broker.address) as c:
            ids = {name: c.create_topic(name, 4, max_message_bytes=70000) for name in ("kept", "other")}
            c.create_topic("deleted")
            c.produce_ok("deleted", 0, batch([b"x"]))
            assert c.call("DeleteTopics", 5, {"TopicNames": ["deleted"], "TimeoutMs": 30000}).Responses[0].ErrorCode == 0
            cluster = c.call("Metadata", 9, {"Topics": []}).ClusterId
            pid, sequence, written = producer_id(c), 0, []
            pids = {pid}
        for turn in range(3):
            with Connection(broker.address) as c:
                wait_ready(c, "kept", 4)
                for n in range(30):
                    got = [b"%d-%d-%d" % (turn, n, i) for i in range(5)]
                    sent = batch(got, producer=(pid, 0, sequence), attributes=GZIP if n % 3 == 0 else 0)
                    assert c.produce_ok("kept", 1, sent) == len(written)
                    written += got
                    sequence += 5
                    c.produce_ok("kept", 2, batch([b"%d-%d" % (turn, n)]), acks=1)
                offsets = {p: c.list_offset("kept", p, -1).Offset for p in range(4)}
            stop(broker)
            broker.start()
            with Connection(broker.address) as c:
                wait_ready(c, "kept", 4)
                assert c.call("Metadata", 9, {"Topics": []}).ClusterId == cluster
                assert {t.Name for t in c.call("Metadata", 9, {"Topics": None}).Topics} == {"kept", "other"}
                assert {name: c.topic_id(name) for name in ids} == ids, "topic ids stay"
                assert {p: c.list_offset("kept", p, -1).Offset for p in range(4)} == offsets
                assert values(c.fetch_all("kept", 1)) == written
                assert values(c.fetch_all("kept", 2)) == [b"%d-%d" % (t, n) for t in range(turn + 1) for n in range(30)]
                # The producer's state: the last batch is known, an old epoch and a gap are refused.
                assert c.produce_ok("kept", 1, sent) == len(written) - 5
                assert c.produce("kept", 1, batch([b"x"], producer=(pid, 0, sequence + 1))).ErrorCode == OUT_OF_ORDER_SEQUENCE_NUMBER
                assert c.list_offset("kept", 1, -1).Offset == len(written)
                fresh = producer_id(c)
                assert fresh not in pids, "producer ids are not given twice"
                pids.add(fresh)
                kept = {"ResourceType": 2, "ResourceName": "kept", "ConfigurationKeys": ["max.message.bytes"]}
                assert c.call("DescribeConfigs", 4, {"Resources": [kept]}).Results[0].Configs[0].Value == "70000"


def test_sigterm():
    def stop(broker):
        assert broker.terminate() in ((0, 143) if KAFKA else (0,)), broker.log_tail()

    survives(stop)


def test_kill():
    survives(Broker.kill)


def test_epochs_survive():
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
            pid = producer_id(c)
            c.produce_ok("t", 0, batch([b"a"], producer=(pid, 0, 0)))
            c.produce_ok("t", 0, batch([b"b"], producer=(pid, 3, 0)))
        for stop in (broker.terminate, broker.kill):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                wait_ready(c, "t", 1)
                assert c.produce("t", 0, batch([b"x"], producer=(pid, 2, 0))).ErrorCode == INVALID_PRODUCER_EPOCH
                assert c.produce_ok("t", 0, batch([b"b"], producer=(pid, 3, 0))) == 1, "a repeat"
                assert c.list_offset("t", 0, -1).Offset == 2


def test_leader_epochs_without_their_file():
    """Missing or damaged: what the batches tell is told, else a consumer takes the log for one that was cut."""
    if KAFKA:
        return
    with Broker(log_segment_bytes=1 << 20) as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
        for _ in range(4):
            with Connection(broker.address) as c:
                wait_ready(c, "t", 1)
                for _ in range(3):
                    c.produce_ok("t", 0, batch([os.urandom(300_000)]))
            broker.kill()
            broker.start()
        file = os.path.join(broker.data, "t-0", "leader-epoch-checkpoint")
        for damage in (None, b"", b"0\n3\n0 0\n1 3\n2 6\nx 9\n"):
            with Connection(broker.address) as c:
                wait_ready(c, "t", 1)
                before = [(e.LeaderEpoch, e.EndOffset) for e in ends_of_epochs(c, "t", 4)]
            assert before == [(0, 3), (1, 6), (2, 9), (3, 12)], before
            broker.terminate()
            if damage is None:
                os.remove(file)
            else:
                with open(file, "wb") as f:
                    f.write(damage)
            broker.start()


def ends_of_epochs(c, topic, count):
    asked = [{"Partition": 0, "CurrentLeaderEpoch": -1, "LeaderEpoch": epoch} for epoch in range(count)]
    answers = []
    for part in asked:
        body = {"ReplicaId": -1, "Topics": [{"Topic": topic, "Partitions": [part]}]}
        answers.append(c.call("OffsetForLeaderEpoch", 4, body).Topics[0].Partitions[0])
    return answers


def test_a_log_whose_files_have_gone_begins_anew_aloud():
    """Also one that no checkpoint knows of yet."""
    if KAFKA:
        return
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
            c.create_topic("unused")
            c.produce_ok("t", 0, batch([b"x"]))
        broker.kill()
        for path in glob.glob(os.path.join(broker.data, "t-0", "*.log")):
            os.remove(path)
        broker.start()
        with Connection(broker.address) as c:
            wait_ready(c, "t", 1)
            assert c.produce_ok("t", 0, batch([b"y"])) == 0
        with open(broker.log, errors="replace") as log:
            lines = [line for line in log if "is empty, though" in line]
        assert len(lines) == 1 and "t-0" in lines[0] and " WARN " in lines[0], broker.log_tail()


def test_several_segments():
    """Data over many segments, read after a stop and after a kill, from every offset."""
    with Broker(log_segment_bytes=1 << 20) as broker:
        value = b"x" * 50000
        with Connection(broker.address) as c:
            c.create_topic("long")
            for n in range(120):
                c.produce_ok("long", 0, batch([b"%06d" % n + value], timestamps=[1000 + n]))
        files = [f for f in os.listdir(os.path.join(broker.data, "long-0")) if f.endswith(".log")]
        assert len(files) >= 5, files
        for stop in (broker.terminate, broker.kill, broker.kill):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                wait_ready(c, "long", 1)
                got = values(c.fetch_all("long", 0))
                assert [v[:6] for v in got] == [b"%06d" % n for n in range(len(got))] and len(got) >= 120
                for offset in range(0, 120, 17):
                    part = c.fetch("long", {0: offset}, partition_max=1)[0]
                    assert part.Records[61:].find(b"%06d" % offset) >= 0, offset
                assert c.list_offset("long", 0, 1057).Offset == 57
                assert c.produce_ok("long", 0, batch([b"%06d" % len(got)], timestamps=[5000])) == len(got)


def test_sigterm_under_load():
    """SIGTERM while producers and waiting consumers are at work: it ends in time, and what was acknowledged is there."""
    with Broker() as broker:
        acknowledged, stop = [[] for _ in range(8)], threading.Event()
        with Connection(broker.address) as c:
            c.create_topic("load", 8)

        def produce(partition):
            with contextlib.suppress(Closed, OSError), Connection(broker.address) as c:
                for n in range(10**9):
                    answer = c.produce("load", partition, batch([b"%d" % n] * 10))
                    if answer.ErrorCode or stop.is_set():
                        return
                    acknowledged[partition].append((answer.BaseOffset, n))

        waiting = [Connection(broker.address) for _ in range(20)]
        for c in waiting:
            c.send("Fetch", 11, fetch_body("load", {7: 0}, max_wait=600000, min_bytes=1 << 30))
        threads = [threading.Thread(target=produce, args=(p,), daemon=True) for p in range(7)]
        for t in threads:
            t.start()
        time.sleep(1.5)
        code = broker.terminate()
        assert code == (143 if KAFKA else 0), (code, broker.log_tail())
        stop.set()
        for t in threads:
            t.join(30)
            assert not t.is_alive(), "the connection is not closed"
        broker.start()
        with Connection(broker.address) as c:
            wait_ready(c, "load", 8)
            for partition, sent in enumerate(acknowledged[:7]):
                assert sent
                got = values(c.fetch_all("load", partition))
                for offset, n in sent:
                    assert got[offset : offset + 10] == [b"%d" % n] * 10, (partition, offset, n)


def test_sigint():
    with Broker() as broker:
        broker.process.send_signal(signal.SIGINT)
        assert broker.process.wait(60) in ((0, 130) if KAFKA else (0,)), broker.process.returncode


def stopped_cleanly(broker):
    return os.path.exists(os.path.join(broker.data, ".kafka_cleanshutdown"))


def test_sighup_and_sigquit():
    """Both stop cleanly; to Kafka's JVM SIGQUIT means something else."""
    for number in (signal.SIGHUP,) if KAFKA else (signal.SIGHUP, signal.SIGQUIT):
        with Broker() as broker:
            broker.process.send_signal(number)
            assert broker.process.wait(60) in ((0, 129) if KAFKA else (0,)), broker.process.returncode
            assert stopped_cleanly(broker), number


def test_a_closed_terminal():
    """The broker runs in a terminal that is closed: a clean stop, although nobody is there to read what it says."""
    if KAFKA:
        return
    with Broker(start=False) as broker:
        terminal, end = pty.openpty()

        def in_terminal():
            os.setsid()
            fcntl.ioctl(end, termios.TIOCSCTTY, 0)

        with subprocess.Popen(broker.command(), stdin=end, stdout=end, stderr=end, preexec_fn=in_terminal) as process:
            os.close(end)
            said = b""
            while b"ready after" not in said:
                said += os.read(terminal, 4096)
            os.close(terminal)
            assert process.wait(60) == 0
        assert stopped_cleanly(broker)


def test_nohup():
    """A SIGHUP that was ignored when the broker was started stays so."""
    with Broker(start=False) as broker:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            broker.start()
        finally:
            signal.signal(signal.SIGHUP, before)
        broker.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        broker.check_alive()
        assert broker.terminate() in ((0, 143) if KAFKA else (0,))


def flip(path, position, bit):
    with open(path, "r+b") as f:
        f.seek(position)
        byte = f.read(1)[0]
        f.seek(position)
        f.write(bytes([byte ^ bit]))


def damaged_logs(broker, damage):
    """Fills a topic with five segments of batches of one length, kills the broker and damages the files. Their bases, and the batches' length."""
    with Connection(broker.address) as c:
        c.create_topic("t", segment_bytes=1 << 20)
        for n in range(100):
            c.produce_ok("t", 0, batch([b"%06d" % n + b"x" * 50_000]))
    broker.kill()
    directory = os.path.join(broker.data, "t-0")
    bases = sorted(int(f[:20]) for f in os.listdir(directory) if f.endswith(".log"))
    assert len(bases) >= 5, bases
    # As after a failure of the machine: nothing says how far it was flushed.
    for name in ("t-0/corelane-recovery-point", "recovery-point-offset-checkpoint"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(broker.data, name))
    size = os.path.getsize(os.path.join(directory, f"{bases[0]:020}.log"))
    length = size // bases[1]
    damage(directory, bases, length)
    return bases, length


def test_a_flipped_bit_in_a_complete_segment():
    """Base offset and leader epoch of a batch are covered by no checksum. No other batch is lost, and no file."""
    if KAFKA:
        return
    for byte in (0, 3, 7, 12, 15):
        with Broker() as broker:
            bases, _ = damaged_logs(broker, lambda d, bases, length: flip(os.path.join(d, f"{bases[1]:020}.log"), 3 * length + byte, 0x40))
            for stop in (broker.kill, broker.terminate):
                broker.start()
                with Connection(broker.address) as c:
                    assert c.list_offset("t", 0, -1).Offset >= 100
                    hit = bases[1] + 3
                    for offset in (hit - 1, hit + 1, bases[2], 99):
                        part = c.fetch("t", {0: offset}, partition_max=1)[0]
                        assert part.ErrorCode == 0 and part.Records[61:].find(b"%06d" % offset) >= 0, (byte, offset)
                kept = sorted(int(f[:20]) for f in os.listdir(os.path.join(broker.data, "t-0")) if f.endswith(".log"))
                assert kept[: len(bases)] == bases, (byte, kept)
                stop()


def flushed_log(broker, **settings):
    """Fills a topic with 40 batches of one length and kills the broker once the checkpoint has them. Path of the segment, its batches."""
    with Connection(broker.address) as c:
        c.create_topic("t", **settings)
        for n in range(40):
            c.produce_ok("t", 0, batch([b"%06d" % n + b"x" * 500], timestamps=[1_700_000_000_000 + n * 1000]))
    checkpoint = os.path.join(broker.data, "recovery-point-offset-checkpoint")
    eventually(lambda: os.path.exists(checkpoint) and "t 0 40\n" in open(checkpoint).read())
    broker.kill()
    path = os.path.join(broker.data, "t-0", "0" * 20 + ".log")
    with open(path, "rb") as f:
        data = f.read()
    length = 12 + int.from_bytes(data[8:12], "big")
    return path, [data[n * length : (n + 1) * length] for n in range(40)]


def test_a_damaged_length_costs_one_batch():
    """Below the recovery point: one that leads to the next batch but one, into the middle of another, behind the file."""
    if KAFKA:
        return
    for byte, bit in ((11, 1), (10, 2), (8, 0x40)):
        with Broker(log_flush_offset_checkpoint_interval_ms=100) as broker:
            path, batches = flushed_log(broker)
            flip(path, 5 * len(batches[0]) + byte, bit)
            for stop in (broker.kill, broker.terminate, broker.kill):
                broker.start()
                with Connection(broker.address) as c:
                    assert c.list_offset("t", 0, -1).Offset == 40
                    for offset in (*range(5), *range(6, 40)):
                        part = c.fetch("t", {0: offset}, partition_max=1)[0]
                        assert part.ErrorCode == 0 and part.Records == batches[offset], (byte, offset, part.ErrorCode)
                    assert c.fetch("t", {0: 5})[0].ErrorCode == 56
                stop()
            assert not [f for f in os.listdir(os.path.dirname(path)) if f.endswith((".corrupt", ".torn"))]


def test_a_flipped_bit_in_an_index():
    """No record is skipped, by offset or by time, and what was made anew is stored."""
    if KAFKA:
        return
    first = 1_700_000_000_000
    for name, size, at, up in ((".index", 8, 3, 0), (".index", 8, 6, 1), (".timeindex", 12, 6, 0), (".timeindex", 12, 11, 1)):
        with Broker() as broker:
            with Connection(broker.address) as c:
                c.create_topic("t")
                for n in range(60):
                    c.produce_ok("t", 0, batch([b"%06d" % n + b"x" * 1500], timestamps=[first + n * 1000]))
            broker.terminate()
            path = os.path.join(broker.data, "t-0", "0" * 20 + name)
            with open(path, "rb") as f:
                whole = f.read()
            entries = [whole[n : n + size] for n in range(0, len(whole), size)]
            # A bit that hides something, and leaves the entries ascending.
            for entry, bit in itertools.product(range(1, len(entries)), range(7, -1, -1)):
                flipped = bytearray(entries[entry])
                flipped[at] ^= 1 << bit
                changed = [*entries[:entry], bytes(flipped), *entries[entry + 1 :]]
                if changed == sorted(changed) and (flipped[at] >> bit) & 1 == up:
                    break
            else:
                raise AssertionError("no such bit")
            with open(path, "wb") as f:
                f.write(b"".join(changed))
            broker.start()
            with Connection(broker.address) as c:
                for offset in range(59, -1, -1):
                    part = c.fetch("t", {0: offset}, partition_max=1)[0]
                    assert part.ErrorCode == 0 and int(values(parse_batches(part.Records))[0][:6]) == offset, (name, at, offset)
                    assert c.list_offset("t", 0, first + offset * 1000).Offset == offset, (name, at)
            broker.terminate()
            with open(path, "rb") as f:
                assert f.read() == whole, (name, at)


def test_what_a_log_loses_is_set_aside():
    """Where no sound batch follows, the end of the last segment stays beside it, whatever starts next."""
    if KAFKA:
        return
    with Broker(log_flush_offset_checkpoint_interval_ms=100) as broker:
        path, batches = flushed_log(broker)
        directory, lost = os.path.dirname(path), b"\x7f" * len(b"".join(batches[20:]))
        with open(path, "r+b") as f:
            f.seek(len(b"".join(batches[:20])))
            f.write(lost)
        for stop in (broker.kill, broker.terminate, broker.terminate):
            broker.start()
            with Connection(broker.address) as c:
                eventually(lambda: c.list_offset("t", 0, -1).ErrorCode == 0)
                assert [int(v[:6]) for v in values(c.fetch_all("t", 0))] == [*range(20)]
            aside = [f for f in os.listdir(directory) if f.endswith(".corrupt")]
            assert len(aside) == 1, aside
            with open(os.path.join(directory, aside[0]), "rb") as f:
                assert f.read().rstrip(b"\0").endswith(lost)
            stop()
        assert os.path.getsize(path) == 20 * len(batches[0])
        with open(broker.log, errors="replace") as log:
            said = log.read()
        assert said.count("set aside in") == 1 and aside[0] in said, said[-2000:]
        broker.start()
        with Connection(broker.address) as c:
            assert c.call("DeleteTopics", 5, {"TopicNames": ["t"], "TimeoutMs": 30000}).Responses[0].ErrorCode == 0
            eventually(lambda: not [f for f in os.listdir(broker.data) if f.startswith("t-0")])


def test_second_process_is_refused():
    with Broker() as first:
        with Connection(first.address) as c:
            c.create_topic("mine")
        second = Broker(directory=first.directory if not KAFKA else None, start=False)
        second.data, second.log = first.data, os.path.join(first.directory, "second.log")
        process = second.spawn()
        code = process.wait(START_SECONDS)
        with open(second.log, errors="replace") as log:
            said = log.read()
        assert code == 1, (code, said[-500:])
        assert first.data in said and ("lock" in said.lower() or "in use" in said), said[-500:]
        first.check_alive()
        with Connection(first.address) as c:
            c.produce_ok("mine", 0, batch([b"still here"]))
        with contextlib.suppress(FileNotFoundError):
            if KAFKA:
                shutil.rmtree(second.directory)


def refused_start(says, *args, **overrides):
    """A start with a bad setting ends with 1, says what was wrong, and leaves nothing behind."""
    broker = Broker(start=False, **overrides)
    try:
        if KAFKA:
            path = os.path.join(broker.directory, "server.properties")
            write_properties(path, broker.port, broker.data, broker.overrides)
            command = ["java", "-cp", f"{os.environ['KAFKA_LIBS']}/*", "kafka.Kafka", path]
        else:
            command = broker.command() + list(args)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        said = done.stdout + done.stderr
        assert done.returncode == 1, (overrides, done.returncode, said[-500:])
        assert all(word in said for word in says), (says, said[-1500:])
        assert KAFKA or not os.path.exists(broker.data), "nothing is opened before the settings are read"
    finally:
        shutil.rmtree(broker.directory)


def test_bad_values():
    refused_start(["num.partitions", "many"], num_partitions="many")
    refused_start(["num.partitions", "0"], num_partitions=0)
    refused_start(["log.segment.bytes", "77"], log_segment_bytes=77)
    refused_start(["listeners", "nonsense"], listeners="nonsense")
    if not KAFKA:
        refused_start(["corelane.memory", "lots"], corelane_memory="lots")
        refused_start(["corelane.cores", "0"], corelane_cores=0)
        refused_start(["socket.request.max.bytes", "-1"], socket_request_max_bytes=-1)
        refused_start(["auto.create.topics.enable", "perhaps"], auto_create_topics_enable="perhaps")


def test_bad_arguments():
    if KAFKA:
        return
    for args in (["--config", "/nonexistent/server.properties"], ["--override", "no-equals-sign"]):
        refused_start(args[1:], *args)
    assert subprocess.run([CORELANE, "serve", "--no-such-flag"], capture_output=True, timeout=60).returncode != 0


def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        broker = Broker(port=taken.getsockname()[1], start=False)
        process = broker.spawn()
        assert process.wait(START_SECONDS) == 1, process.returncode
        with open(broker.log, errors="replace") as log:
            said = log.read()
        assert str(broker.port) in said and "in use" in said.lower(), said[-600:]
        shutil.rmtree(broker.directory)


def test_unknown_keys_are_accepted():
    """Settings of Kafka that mean nothing here, and of nobody."""
    with Broker(**{"log.cleaner.threads": 2, "num.io.threads": 8, "zookeeper.connect": "x:1", "no.such.setting": "1"}) as broker, Connection(broker.address) as c:
        assert c.call("Metadata", 9, {"Topics": []}).Brokers


def test_server_properties_file():
    """The file people write for one KRaft node starts us unchanged, without a format step."""
    if KAFKA:
        return  # every other test starts Kafka from such a file
    directory, port = temp_dir(), free_port()
    path, data = os.path.join(directory, "server.properties"), os.path.join(directory, "kafka-logs")
    write_properties(path, port, data, {
        "num.network.threads": 3, "num.io.threads": 8, "socket.send.buffer.bytes": 102400, "socket.receive.buffer.bytes": 102400,
        "socket.request.max.bytes": 104857600, "num.partitions": 7, "num.recovery.threads.per.data.dir": 1, "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1, "transaction.state.log.min.isr": 1, "log.retention.hours": 168,
        "log.segment.bytes": 1073741824, "log.retention.check.interval.ms": 300000, "inter.broker.listener.name": "PLAINTEXT",
    })
    for environment, partitions in (({}, 7), ({"KAFKA_NUM_PARTITIONS": "5"}, 5)):
        broker = Broker(directory=directory, port=port, start=False)
        broker.command = lambda: [CORELANE, "serve", "--config", path]
        os.environ.update(environment)
        try:
            broker.start()
        finally:
            for name in environment:
                del os.environ[name]
        with Connection(broker.address) as c:
            answer = c.call("Metadata", 9, {"Topics": [{"Name": f"made-{partitions}"}], "AllowAutoTopicCreation": True})
            assert [(b.NodeId, b.Port) for b in answer.Brokers] == [(1, port)]
            while c.call("Metadata", 9, {"Topics": [{"Name": f"made-{partitions}"}]}).Topics[0].ErrorCode:
                time.sleep(0.02)
            assert len(c.call("Metadata", 9, {"Topics": [{"Name": f"made-{partitions}"}]}).Topics[0].Partitions) == partitions
        assert broker.terminate() == 0
    assert os.path.exists(os.path.join(data, "meta.properties"))
    shutil.rmtree(directory)


def test_clean_stop_leaves_marker():
    with Broker() as broker:
        marker = os.path.join(broker.data, ".kafka_cleanshutdown")
        assert not os.path.exists(marker)
        broker.terminate()
        assert os.path.exists(marker)
        meta = dict(line.strip().split("=") for line in open(os.path.join(broker.data, "meta.properties")) if "=" in line)
        assert {"version", "cluster.id", "node.id", "directory.id"} <= set(meta), meta
        broker.start()
        assert not os.path.exists(marker)


def test_torn_tail():
    """What a crash may leave after the last batch - half a batch, zeros, noise - is cut off at the start."""
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("torn", 4)
        tails = (batch([b"y" * 500], base_offset=10)[:-7], bytes(5000), os.urandom(3000), batch([b"y"], base_offset=10, crc=1))
        for turn in range(2):
            with Connection(broker.address) as c:
                wait_ready(c, "torn", 4)
                for partition in range(4):
                    for n in range(5):
                        c.produce_ok("torn", partition, batch([b"%d-%d" % (turn, n), b"x"]))
            broker.kill()
            for partition, tail in enumerate(tails):
                spoil(os.path.join(broker.data, f"torn-{partition}", "0" * 20 + ".log"), tail)
            broker.start()
            with Connection(broker.address) as c:
                wait_ready(c, "torn", 4)
                for partition in range(4):
                    got = values(c.fetch_all("torn", partition))
                    assert got == [v for t in range(turn + 1) for n in range(5) for v in (b"%d-%d" % (t, n), b"x")], (turn, partition, got)


def spoil(path, tail):
    """Writes `tail` where the batches of a segment end."""
    with open(path, "r+b") as segment:
        data, at = segment.read(), 0
        while at + 61 <= len(data) and data[at + 16] == 2:
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "big")
        segment.seek(at)
        segment.write(tail)


def test_lost_indexes():
    """Indexes are derived: missing, empty and garbage ones are made again."""
    with Broker(log_segment_bytes=1 << 20) as broker:
        with Connection(broker.address) as c:
            c.create_topic("index")
            for n in range(60):
                c.produce_ok("index", 0, batch([b"%06d" % n + b"x" * 50000]))
        for spoiler in (os.remove, lambda p: open(p, "wb").close(), lambda p: open(p, "r+b").write(b"\xff" * 64)):
            broker.kill()
            directory = os.path.join(broker.data, "index-0")
            for name in os.listdir(directory):
                if name.endswith((".index", ".timeindex")):
                    spoiler(os.path.join(directory, name))
            broker.start()
            with Connection(broker.address) as c:
                wait_ready(c, "index", 1)
                assert [v[:6] for v in values(c.fetch_all("index", 0))] == [b"%06d" % n for n in range(60)]
                assert b"%06d" % 37 in c.fetch("index", {0: 37}, partition_max=1)[0].Records[61:80]


def test_produce_after_restart_of_many_partitions():
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("wide", 100)
            for partition in range(100):
                c.produce_ok("wide", partition, batch([b"a%d" % partition]))
        for stop in (broker.terminate, broker.kill):
            stop()
            broker.start()
        with Connection(broker.address) as c:
            wait_ready(c, "wide", 100)
            body = produce_body("wide", {p: batch([b"b%d" % p]) for p in range(100)})
            assert {p.Index: (p.ErrorCode, p.BaseOffset) for p in c.call("Produce", 9, body).Responses[0].PartitionResponses} == {p: (0, 1) for p in range(100)}
            for partition in range(0, 100, 9):
                assert values(c.fetch_all("wide", partition)) == [b"a%d" % partition, b"b%d" % partition]


def test_damaged_checkpoints():
    """Checkpoints only save work: damaged ones are warned of, and everything is checked."""
    names = ("recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "replication-offset-checkpoint")
    with Broker(num_partitions=2) as broker:
        with Connection(broker.address) as c:
            c.create_topic("checked", 2)
            for partition in range(2):
                c.produce_ok("checked", partition, batch([b"%d" % partition]))
        for stop, damage in ((broker.terminate, b"0\n7\nchecked 0"), (broker.kill, b"\xff\xfe\0garbage"), (broker.terminate, b"")):
            stop()
            for name in names:
                with open(os.path.join(broker.data, name), "wb") as file:
                    file.write(damage)
            broker.start()
            with Connection(broker.address) as c:
                wait_ready(c, "checked", 2)
                assert [values(c.fetch_all("checked", partition)) for partition in range(2)] == [[b"0"], [b"1"]]


def test_replica_that_cannot_be_opened():
    """One damaged partition is offline, with a storage error; the start and the others are not touched."""
    if KAFKA:
        return  # one failed log directory takes the whole of it offline there
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("broken", 2)
            for partition in range(2):
                c.produce_ok("broken", partition, batch([b"%d" % partition]))
        broker.terminate()
        with open(os.path.join(broker.data, "broken-0", "partition.metadata"), "w") as file:
            file.write("version: 0\ntopic_id: nonsense\n")
        broker.start()
        with Connection(broker.address) as c:
            assert c.produce("broken", 0, batch([b"more"])).ErrorCode == KAFKA_STORAGE_ERROR
            assert c.list_offset("broken", 0, -1).ErrorCode == KAFKA_STORAGE_ERROR
            assert c.fetch("broken", {0: 0})[0].ErrorCode == KAFKA_STORAGE_ERROR
            c.produce_ok("broken", 1, batch([b"more"]))
            assert values(c.fetch_all("broken", 1)) == [b"1", b"more"]

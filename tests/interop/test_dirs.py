"""Identity on disk: deleted topics and their successors, names of the broker's own, disks that leave and return."""

import glob
import os
import re
import shutil
import subprocess

from harness import CORELANE, KAFKA, Broker, Kafka, eventually, temp_dir
from raw import Connection, batch, values

OFFSET_OUT_OF_RANGE, INVALID_TOPIC, KAFKA_STORAGE_ERROR = 1, 17, 56
METADATA = "__corelane_metadata"


def delete_records(c, topic, partition, offset):
    """The partition's start after a DeleteRecords that has succeeded."""
    asked = {"Name": topic, "Partitions": [{"PartitionIndex": partition, "Offset": offset}]}
    answer = c.call("DeleteRecords", 2, {"Topics": [asked], "TimeoutMs": 30000}).Topics[0].Partitions[0]
    assert answer.ErrorCode == 0, answer
    return answer.LowWatermark


def delete_topic(c, name):
    answer = c.call("DeleteTopics", 5, {"TopicNames": [name], "TimeoutMs": 30000}).Responses[0]
    assert answer.ErrorCode == 0, answer


def ends(c, topic, partition=0):
    """First offset, and the one behind the last."""
    return tuple(c.list_offset(topic, partition, which).Offset for which in (-2, -1))


def said(broker):
    with open(broker.log, errors="replace") as log:
        return log.read()


def refused(broker):
    """The last words of a start that ends with an error."""
    process = broker.spawn()
    try:
        code = process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"it started: {broker.log_tail()}") from None
    assert code == 1, (code, broker.log_tail())
    return broker.log_tail()


def on(broker, *dirs, **more):
    """Other directories, or other settings, from the next start on."""
    broker.overrides.update({"log.dirs": ",".join(dirs), **{k.replace("_", "."): v for k, v in more.items()}})
    return broker


def successor_is_whole(make_start_move, **topic):
    """What is known of a deleted topic's log does not act on the next topic of that name, whatever way the process ends."""
    with Broker(log_retention_check_interval_ms=200, log_initial_task_delay_ms=0) as broker:
        with Connection(broker.address) as c:
            c.create_topic("t", **topic)
            make_start_move(c)
            start = ends(c, "t")[0]
            assert start > 0
        broker.terminate()
        broker.start()
        with Connection(broker.address) as c:
            assert ends(c, "t")[0] == start
            delete_topic(c, "t")
            c.create_topic("t")
            for n in range(10):
                c.produce_ok("t", 0, batch([b"%d" % n]))
        for stop in (broker.kill, broker.kill, broker.terminate):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                assert ends(c, "t") == (0, 10)
                assert values(c.fetch_all("t", 0)) == [b"%d" % n for n in range(10)]


def test_successor_after_delete_records():
    def fill(c):
        for _ in range(20):
            c.produce_ok("t", 0, batch([b"old"]))
        assert delete_records(c, "t", 0, 15) == 15

    successor_is_whole(fill)


def test_successor_after_retention():
    def fill(c):
        for _ in range(40):
            c.produce_ok("t", 0, batch([b"x" * 100_000]))
        eventually(lambda: ends(c, "t")[0] > 10)

    successor_is_whole(fill, segment_bytes=1 << 20, retention_bytes=1 << 20)


def test_deleted_records_stay_deleted():
    """A DeleteRecords that was answered survives kill -9 at once, and a clean stop after it."""
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("t", 2)
            for n in range(20):
                c.produce_ok("t", 0, batch([b"%d" % n]))
            for upto in (3, 15):
                assert delete_records(c, "t", 0, upto) == upto
            c.produce_ok("t", 1, batch([b"a", b"b"]), acks=1)
            assert delete_records(c, "t", 1, -1) == 2
        for stop in (broker.kill, broker.kill, broker.terminate, broker.kill):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                assert ends(c, "t") == (15, 20) and ends(c, "t", 1) == (2, 2)
                assert c.fetch("t", {0: 14})[0].ErrorCode == OFFSET_OUT_OF_RANGE
                assert values(c.fetch_all("t", 0, 15)) == [b"%d" % n for n in range(15, 20)]


def test_offline_partition_keeps_what_is_known_of_it():
    """A partition that cannot be opened for one run starts where it started before."""
    for first, second in (("terminate", "terminate"), ("kill", "terminate"), ("terminate", "kill")):
        with Broker() as broker:
            with Connection(broker.address) as c:
                c.create_topic("t", 2)
                for partition in range(2):
                    for n in range(10):
                        c.produce_ok("t", partition, batch([b"%d" % n]))
                    assert delete_records(c, "t", partition, 7) == 7
            getattr(broker, first)()
            metadata = os.path.join(broker.data, "t-0", "partition.metadata")
            with open(metadata) as file:
                right = file.read()
            with open(metadata, "w") as file:
                file.write("version: 0\ntopic_id: nonsense\n")
            broker.start()
            with Connection(broker.address) as c:
                assert c.list_offset("t", 0, -2).ErrorCode == KAFKA_STORAGE_ERROR and ends(c, "t", 1) == (7, 10)
            getattr(broker, second)()
            with open(os.path.join(broker.data, "log-start-offset-checkpoint")) as file:
                assert first == "kill" or second == "kill" or "t 0 7\n" in file.read(), "for Kafka's sake"
            with open(metadata, "w") as file:
                file.write(right)
            broker.start()
            with Connection(broker.address) as c:
                assert ends(c, "t") == (7, 10) and ends(c, "t", 1) == (7, 10)


def test_names_of_our_own():
    """Nobody creates a topic under the name of our metadata log, or any name that begins so."""
    with Broker() as broker:
        for name in (METADATA, "__corelane", "__corelane_other"):
            with Connection(broker.address) as c:
                wanted = {"Name": name, "NumPartitions": 1, "ReplicationFactor": 1}
                assert c.call("CreateTopics", 7, {"Topics": [wanted], "timeoutMs": 30000}).Topics[0].ErrorCode == INVALID_TOPIC
                assert c.call("Metadata", 9, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": True}).Topics[0].ErrorCode == INVALID_TOPIC
        with Connection(broker.address) as c:
            c.create_topic("t")
            c.produce_ok("t", 0, batch([b"1"]))
        for stop in (broker.kill, broker.terminate):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                assert {t.Name for t in c.call("Metadata", 9, {"Topics": None}).Topics} == {"t"}
                assert values(c.fetch_all("t", 0)) == [b"1"]
        assert not glob.glob(os.path.join(broker.data, "*-stray"))


def two_disks(broker, groups=4):
    """Topics on two directories, and committed offsets."""
    with Connection(broker.address) as c:
        c.create_topic("t", 6)
        for p in range(6):
            c.produce_ok("t", p, batch([b"%d" % p]))
        for n in range(groups):
            eventually(lambda n=n: commit(c, f"g{n}", 1))


def commit(c, group, offset):
    c.call("FindCoordinator", 1, {"Key": group, "KeyType": 0})
    topic = {"Name": "t", "Partitions": [{"PartitionIndex": 0, "CommittedOffset": offset, "CommittedLeaderEpoch": -1, "CommittedMetadata": ""}]}
    body = {"GroupId": group, "GenerationIdOrMemberEpoch": -1, "MemberId": "", "Topics": [topic]}
    return c.call("OffsetCommit", 8, body).Topics[0].Partitions[0].ErrorCode == 0


def committed(c, group):
    """The committed offset; `None` while no coordinator serves the group."""
    asked = {"GroupId": group, "Topics": [{"Name": "t", "PartitionIndexes": [0]}]}
    answer = c.call("OffsetFetch", 8, {"Groups": [asked], "RequireStable": False}).Groups[0]
    return answer.Topics[0].Partitions[0].CommittedOffset if answer.ErrorCode == 0 else None


def has_everything(c, more=()):
    for p in range(6):
        assert values(c.fetch_all("t", p)) == [b"%d" % p, *([b"more"] if p in more else [])], p
    for n in range(4):
        assert eventually(lambda n=n: committed(c, f"g{n}")) == 1


def directory_id(path):
    with open(os.path.join(path, "meta.properties")) as meta:
        return dict(line.strip().split("=", 1) for line in meta if "=" in line)["directory.id"]


def test_disk_leaves_and_returns():
    """While a disk is away its partitions are offline, not empty; when it returns, in whatever order, everything is there."""
    for orders in (("ab", "a", "ab"), ("ab", "a", "ba"), ("ba", "b", "ab")):
        directory = temp_dir()
        paths = {name: os.path.join(directory, name) for name in "ab"}
        disks = [[paths[name] for name in order] for order in orders]
        with Broker(directory=directory, offsets_topic_num_partitions=8, **{"log.dirs": ",".join(disks[0])}) as broker:
            two_disks(broker)
            away = [p for p in disks[0] if p not in disks[1]][0]
            lost = {p for p in range(6) if os.path.isdir(os.path.join(away, f"t-{p}"))}
            assert 0 < len(lost) < 6
            for stop in (broker.terminate, broker.kill):
                stop()
                on(broker, *disks[1]).start()
                with Connection(broker.address) as c:
                    for p in range(6):
                        assert (c.list_offset("t", p, -1).ErrorCode == KAFKA_STORAGE_ERROR) == (p in lost), p
                        assert p in lost or c.produce_ok("t", p, batch([b"more"])) >= 1
                    asked = {"Topics": [{"Name": f"new-{stop.__name__}", "NumPartitions": 2, "ReplicationFactor": 1}], "timeoutMs": 30000}
                    assert c.call("CreateTopics", 7, asked).Topics[0].ErrorCode == 0
            assert directory_id(away) in said(broker) and "t-" in said(broker).split(directory_id(away))[-1]
            broker.kill()
            on(broker, *disks[2]).start()
            with Connection(broker.address) as c:
                for p in range(6):
                    assert values(c.fetch_all("t", p)) == [b"%d" % p] + [b"more"] * (0 if p in lost else 2)
                for n in range(4):
                    assert eventually(lambda n=n: committed(c, f"g{n}")) == 1


def test_disk_that_will_not_return():
    """What lay on a disk begins anew only when that disk is given up by name; its old copies are refused when it returns after all."""
    directory = temp_dir()
    a, b = (os.path.join(directory, name) for name in "ab")
    with Broker(directory=directory, offsets_topic_num_partitions=8, **{"log.dirs": f"{a},{b}"}) as broker:
        two_disks(broker)
        lost = [p for p in range(6) if os.path.isdir(os.path.join(b, f"t-{p}"))]
        broker.terminate()
        on(broker, a, **{"corelane.lost.log.dirs": directory_id(b)}).start()
        assert f"t-{lost[0]}" in said(broker) and "anew" in said(broker)
        with Connection(broker.address) as c:
            for p in lost:
                for n in range(20):
                    assert c.produce_ok("t", p, batch([b"new"])) == n
        broker.kill()
        del broker.overrides["corelane.lost.log.dirs"]
        for order in ((a, b), (b, a)):
            words = refused(on(broker, *order))
            first, second = re.findall(rf"{directory}/([ab]/[\w-]+)", words.split("two copies")[1])[:2]
            assert {first[0], second[0]} == {"a", "b"} and first[1:] == second[1:], words
        on(broker, a).start()
        with Connection(broker.address) as c:
            assert all(values(c.fetch_all("t", p)) == [b"new"] * 20 for p in lost)


def test_new_disk_in_front():
    """The metadata log is used wherever it is; without its disk nothing starts, in two places it is refused."""
    directory = temp_dir()
    a, b, new = (os.path.join(directory, name) for name in ("a", "b", "new"))
    with Broker(directory=directory, offsets_topic_num_partitions=8, **{"log.dirs": f"{a},{b}"}) as broker:
        two_disks(broker)
        for order in ((b, a), (new, b, a), (new, a, b), (b, new, a)):
            broker.terminate()
            on(broker, *order).start()
            with Connection(broker.address) as c:
                has_everything(c)
        broker.terminate()
        for order in ((b,), (b, new)):
            words = refused(on(broker, *order))
            assert "metadata" in words and a in words, words
        shutil.copytree(os.path.join(a, f"{METADATA}-0"), os.path.join(b, f"{METADATA}-0"))
        words = refused(on(broker, a, b, new))
        assert f"{a}/{METADATA}-0" in words and f"{b}/{METADATA}-0" in words, words
        shutil.rmtree(os.path.join(b, f"{METADATA}-0"))
        on(broker, new, b, a).start()
        with Connection(broker.address) as c:
            has_everything(c)
        assert not glob.glob(os.path.join(directory, "*", "*-stray"))


def test_metadata_log_that_is_less_than_it_was():
    """A metadata log that is empty, or ends below its recovery point, ends the start. Nothing is changed by it."""
    with Broker(log_flush_offset_checkpoint_interval_ms=1000) as broker:
        with Connection(broker.address) as c:
            for n in range(5):
                c.create_topic(f"t{n}")
            c.produce_ok("t0", 0, batch([b"1"]))
        directory = os.path.join(broker.data, f"{METADATA}-0")
        log = os.path.join(directory, "0" * 20 + ".log")
        broker.terminate()
        with open(log, "rb") as file:
            content = file.read()
        for damage in (b"", content[: len(content) // 2]):
            with open(log, "wb") as file:
                file.write(damage)
            for name in ("index", "timeindex"):
                os.remove(log[: -len("log")] + name) if os.path.exists(log[: -len("log")] + name) else None
            for _ in range(2):
                words = refused(broker)
                reason = "nothing of it was changed" if damage else "flushed up to"
                assert directory in words and reason in words, words
        with open(log, "wb") as file:
            file.write(content)
        broker.start()
        with Connection(broker.address) as c:
            assert {t.Name for t in c.call("Metadata", 9, {"Topics": None}).Topics} == {f"t{n}" for n in range(5)}
            assert values(c.fetch_all("t0", 0)) == [b"1"]


def test_interrupted_move():
    """The copy that a move between directories had begun is set aside, and said to be."""
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
            c.produce_ok("t", 0, batch([b"1"]))
        broker.terminate()
        future = os.path.join(broker.data, f"t-0.{'a1' * 16}-future")
        shutil.copytree(os.path.join(broker.data, "t-0"), future)
        broker.start()
        assert future in said(broker)
        assert not os.path.exists(future) and len(glob.glob(os.path.join(broker.data, "t-0.*-stray"))) == 1
        with Connection(broker.address) as c:
            assert values(c.fetch_all("t", 0)) == [b"1"]


def test_directory_named_twice():
    """Through a link, say: it is not another process that has it."""
    with Broker() as broker:
        broker.terminate()
        link = os.path.join(broker.directory, "link")
        os.symlink(broker.data, link)
        words = refused(on(broker, broker.data, link))
        assert "twice" in words and link in words and "another process" not in words, words


def records_of(broker, topics):
    with Connection(broker.address) as c:
        return {(t, p): values(c.fetch_all(t, p)) for t in topics for p in range(3)}


def test_metadata_of_kafka_is_taken_over_once():
    """Whatever the order of the directories, and also without ours; with one missing it is not taken over at all."""
    if KAFKA:
        return
    directory = temp_dir()
    dirs = {name: os.path.join(directory, name) for name in ("data", "more", "new")}
    both = f"{dirs['data']},{dirs['more']}"
    with Kafka(directory=directory, **{"log.dirs": both}) as kafka:
        with Connection(kafka.address) as c:
            for name in ("kept", "gone"):
                c.create_topic(name, 3)
                for p in range(3):
                    eventually(lambda name=name, p=p: c.produce(name, p, batch([b"kafka's"])).ErrorCode == 0)
        kafka.terminate()
        broker = Broker(directory=directory, start=False)
        try:
            words = refused(on(broker, dirs["data"]))
            assert "cannot take over" in words and ("kept-" in words or "gone-" in words), words
            on(broker, dirs["data"], dirs["more"]).start()
            with Connection(broker.address) as c:
                delete_topic(c, "gone")
                c.create_topic("ours", 3)
                for p in range(3):
                    c.produce_ok("kept", p, batch([b"ours"]))
                    c.produce_ok("ours", p, batch([b"ours"]))
                ids = {name: c.topic_id(name) for name in ("kept", "ours")}
                pid = c.call("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000}).ProducerId
            expected = records_of(broker, ids)
            for order in (("more", "data"), ("new", "more", "data"), ("new", "data", "more"), ("data", "more", "new")):
                broker.terminate()
                on(broker, *(dirs[name] for name in order)).start()
                assert records_of(broker, ids) == expected, order
                with Connection(broker.address) as c:
                    assert {t.Name for t in c.call("Metadata", 9, {"Topics": None}).Topics} == set(ids), order
                    assert {name: c.topic_id(name) for name in ids} == ids, order
                    now = c.call("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000}).ProducerId
                    assert now > pid
                    pid = now
            assert not glob.glob(os.path.join(directory, "*", "*-stray"))
            broker.terminate()
            ours = glob.glob(os.path.join(directory, "*", f"{METADATA}-0"))
            assert len(ours) == 1
            shutil.move(ours[0], os.path.join(directory, "away"))
            words = refused(broker)
            assert "taken over before" in words, words
            shutil.move(os.path.join(directory, "away"), ours[0])
            broker.start()
            assert records_of(broker, ids) == expected
        finally:
            broker.kill()


def test_other_cluster_leaves_new_disks_alone():
    """A new disk in front does not get an identity of its own before the others were asked."""
    directory = temp_dir()
    old, new = (os.path.join(directory, name) for name in ("old", "new"))
    command = [CORELANE, "serve", "--override", "listeners=PLAINTEXT://127.0.0.1:0"]
    with Broker(directory=directory, **{"log.dirs": old}) as broker:
        broker.terminate()
        done = subprocess.run([*command, "--override", f"log.dirs={new},{old}", "--override", "corelane.cluster.id=other"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "cluster" in done.stderr, done
        assert not os.path.exists(os.path.join(new, "meta.properties"))
        on(broker, new, old).start()


def one_on(broker, directory):
    """A partition of a topic "t" that lies in this log directory, of those that are made, and two records in each."""
    with Connection(broker.address) as c:
        c.create_topic("t", 2)
        for p in range(2):
            assert [c.produce_ok("t", p, batch([b"old%d" % n])) for n in range(2)] == [0, 1]
    return next(p for p in range(2) if os.path.isdir(os.path.join(directory, f"t-{p}")))


def batches_of(c, partition):
    return [(b.base_offset, b.leader_epoch) for b in c.fetch_all("t", partition)]


def test_no_two_records_at_one_offset_and_leader_epoch():
    """A disk that was not there at the last stop, or is a copy from before, gets new leader epochs: what is written to it
    is told from what was written at these offsets meanwhile."""
    directory = temp_dir()
    a, b, old = (os.path.join(directory, name) for name in ("a", "b", "old"))
    with Broker(directory=directory, **{"log.dirs": f"{a},{b}"}) as broker:
        p = one_on(broker, b)
        broker.terminate()
        # Given up and begun anew; then the first one returns, and what was begun is moved away.
        on(broker, a, **{"corelane.lost.log.dirs": directory_id(b)}).start()
        with Connection(broker.address) as c:
            for n in range(4):
                c.produce_ok("t", p, batch([b"meanwhile%d" % n]))
            meanwhile = batches_of(c, p)
        broker.terminate()
        del broker.overrides["corelane.lost.log.dirs"]
        assert "two copies" in refused(on(broker, a, b))
        shutil.rmtree(os.path.join(a, f"t-{p}"))
        broker.start()
        with Connection(broker.address) as c:
            for n in range(2, 4):
                assert c.produce_ok("t", p, batch([b"after%d" % n])) == n
            after = batches_of(c, p)
        assert len(after) == 4 and not set(meanwhile[2:]) & set(after[2:]), (meanwhile, after)
        # A copy of the disk, with clean stops alone.
        broker.terminate()
        shutil.copytree(b, old)
        broker.start()
        with Connection(broker.address) as c:
            assert c.produce_ok("t", p, batch([b"meanwhile"])) == 4
            meanwhile = batches_of(c, p)
            assert meanwhile[3][1] == after[3][1], "clean stops cost no epoch"
        broker.terminate()
        shutil.rmtree(b)
        os.rename(old, b)
        broker.start()
        with Connection(broker.address) as c:
            assert c.produce_ok("t", p, batch([b"other"])) == 4
            assert batches_of(c, p)[4][1] > meanwhile[4][1]
            assert c.produce_ok("t", 1 - p, batch([b"kept"])) == 2
        assert f"{b}: was not closed by the last stop" in said(broker)


def test_disk_with_nothing_but_its_id():
    """An empty disk that was given the meta.properties of the one before is none of its own: its partitions are offline."""
    directory = temp_dir()
    a, b, real = (os.path.join(directory, name) for name in ("a", "b", "real"))
    with Broker(directory=directory, **{"log.dirs": f"{a},{b}"}) as broker:
        p = one_on(broker, b)
        for stop in (broker.terminate, broker.kill):
            stop()
            os.rename(b, real)
            os.mkdir(b)
            shutil.copy(os.path.join(real, "meta.properties"), b)
            for _ in range(2):
                broker.start()
                with Connection(broker.address) as c:
                    assert c.list_offset("t", p, -1).ErrorCode == KAFKA_STORAGE_ERROR
                    assert ends(c, "t", 1 - p) == (0, 2)
                broker.terminate()
            assert f"corelane.lost.log.dirs={directory_id(b)}" in said(broker)
            empty = os.path.join(directory, "empty")
            os.rename(b, empty)
            os.rename(real, b)
            broker.start()
            with Connection(broker.address) as c:
                assert values(c.fetch_all("t", p)) == [b"old0", b"old1"]
            broker.terminate()
            shutil.rmtree(empty)
            broker.start()
        # Given up, it begins anew, and is as any other from then on.
        broker.terminate()
        meta = os.path.join(b, "meta.properties")
        shutil.copy(meta, directory)
        shutil.rmtree(b)
        os.mkdir(b)
        shutil.copy(os.path.join(directory, "meta.properties"), b)
        broker.overrides["corelane.lost.log.dirs"] = directory_id(b)
        broker.start()
        with Connection(broker.address) as c:
            assert c.produce_ok("t", p, batch([b"new"])) == 0
        del broker.overrides["corelane.lost.log.dirs"]
        for stop in (broker.kill, broker.terminate):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                assert values(c.fetch_all("t", p)) == [b"new"]
                assert ends(c, "t", 1 - p) == (0, 2)
        # The disk of the metadata log.
        broker.terminate()
        for name in os.listdir(a):
            path = os.path.join(a, name)
            if name != "meta.properties":
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        words = refused(broker)
        assert "metadata log is missing" in words and a in words, words


def test_partition_behind_a_symbolic_link():
    """A partition that was moved to another disk; the disk may be away, and the topic may be deleted."""
    with Broker() as broker:
        with Connection(broker.address) as c:
            for topic in ("t", "u"):
                c.create_topic(topic)
                for n in range(5):
                    c.produce_ok(topic, 0, batch([b"%d" % n]))
        broker.terminate()
        other = os.path.join(broker.directory, "other")
        os.mkdir(other)
        for topic in ("t", "u"):
            shutil.move(os.path.join(broker.data, f"{topic}-0"), other)
            os.symlink(os.path.join(other, f"{topic}-0"), os.path.join(broker.data, f"{topic}-0"))

        def there(more):
            with Connection(broker.address) as c:
                eventually(lambda: c.list_offset("t", 0, -1).ErrorCode == 0)
                assert ends(c, "t") == (0, 5 + more)
                c.produce_ok("t", 0, batch([b"x"]))

        broker.start()
        there(0)
        broker.kill()
        broker.start()
        there(1)
        broker.terminate()
        os.rename(other, other + "-away")
        broker.start()
        with Connection(broker.address) as c:
            assert KAFKA or c.produce("t", 0, batch([b"y"])).ErrorCode == KAFKA_STORAGE_ERROR
        broker.terminate()
        os.rename(other + "-away", other)
        broker.start()
        there(2)
        with Connection(broker.address) as c:
            delete_topic(c, "u")
            eventually(lambda: not glob.glob(os.path.join(broker.data, "u-0*")))
            assert not glob.glob(os.path.join(other, "u-0", "*.log"))


def flip(path, pattern, by):
    """Changes what a pattern finds in a text file, as a damaged disk would: no length changes."""
    with open(path) as file:
        before = file.read()
    after = re.sub(pattern, by, before, count=1)
    assert after != before and len(after) == len(before), (before, after)
    with open(path, "w") as file:
        file.write(after)
    return before


def test_damaged_text_files():
    """A changed digit in a file of our own neither hides nor returns records, and ends no start."""
    with Broker() as broker:
        paths = {name: os.path.join(broker.data, name) for name in ("corelane-checkpoint", "corelane-log-dirs")}
        start, metadata = (os.path.join(broker.data, *place) for place in (("t-0", "corelane-log-start"), ("u-0", "partition.metadata")))
        with Connection(broker.address) as c:
            for topic in ("t", "u"):
                c.create_topic(topic)
                for n in range(20):
                    c.produce_ok(topic, 0, batch([b"%d" % n]))
            assert delete_records(c, "t", 0, 15) == 15

        def whole(*offline):
            with Connection(broker.address) as c:
                for topic, expected in (("t", (15, 20)), ("u", (0, 20))):
                    if topic in offline:
                        assert c.list_offset(topic, 0, -2).ErrorCode == KAFKA_STORAGE_ERROR
                    else:
                        assert ends(c, topic) == expected, (topic, ends(c, topic))
                        got = values(c.fetch_all(topic, 0, expected[0]))
                        assert got == [b"%d" % n for n in range(*expected)]

        # What the checkpoint tells of u's first offset, and of the metadata log's recovery point.
        for pattern, by in ((r"( 0 20 )0( 0 1\n)", r"\g<1>8\2"), (r"(AAAAAAQ 0 )\d", r"\g<1>9")):
            broker.terminate()
            flip(paths["corelane-checkpoint"], pattern, by)
            for _ in range(2):
                broker.start()
                whole()
                broker.terminate()
            assert "corelane-checkpoint: damaged" in said(broker)
            broker.start()
        broker.terminate()
        flip(paths["corelane-log-dirs"], r"directory\.(.)", lambda found: "directory." + ("B" if found[1] != "B" else "C"))
        for _ in range(2):
            broker.start()
            whole()
            broker.terminate()
        # After a clean stop the checkpoint tells the start, after a crash nobody does for certain.
        flip(start, "log_start: 15", "log_start: 05")
        for stop in (broker.kill, broker.terminate, broker.kill):
            broker.start()
            whole()
            stop()
        right = flip(start, "log_start: 15", "log_start: 19")
        broker.start()
        whole("t")
        assert "If it is removed" in said(broker)
        broker.terminate()
        with open(start, "w") as file:
            file.write(right)
        broker.start()
        whole()
        for stop in (broker.terminate, broker.kill):
            stop()
            right = flip(metadata, r"topic_id: (.)", lambda found: "topic_id: " + ("A" if found[1] != "A" else "B"))
            for _ in range(2):
                broker.start()
                whole("u")
                broker.terminate()
            assert f"{os.path.dirname(metadata)}: has the id" in said(broker)
            with open(metadata, "w") as file:
                file.write(right)
            broker.start()
            whole()


def test_damaged_end_of_the_metadata_log():
    """A flipped bit in the last batch of the metadata log, which after a crash may be a torn one, loses no topic that was used."""
    with Broker() as broker:
        with Connection(broker.address) as c:
            for topic in ("t", "u"):
                c.create_topic(topic)
                c.produce_ok(topic, 0, batch([b"kept"]))
        broker.kill()
        log = os.path.join(broker.data, "__corelane_metadata-0", "00000000000000000000.log")
        with open(log, "rb") as file:
            whole = file.read()
        at, last = 0, None
        while at + 12 < len(whole) and (length := int.from_bytes(whole[at + 8 : at + 12], "big")):
            last, at = at, at + 12 + length
        damaged = bytearray(whole)
        damaged[last + 62] ^= 0x10
        with open(log, "r+b") as file:
            file.write(damaged)
        for _ in range(2):
            words = refused(broker)
            assert "lost the topic u" in words and os.path.join(broker.data, "u-0") in words, words
        with open(log, "r+b") as file:
            file.write(whole)
        broker.start()
        with Connection(broker.address) as c:
            for topic in ("t", "u"):
                assert values(c.fetch_all(topic, 0)) == [b"kept"]
        broker.terminate()
        # The id of the directory with the metadata log.
        flip(os.path.join(broker.data, "meta.properties"), r"directory\.id=(.)", lambda f: "directory.id=" + ("B" if f[1] != "B" else "C"))
        words = refused(broker)
        assert "has the metadata log" in words and "put directory.id=" in words, words

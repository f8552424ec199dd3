"""The golden files: Kafka's classes write what is committed, and read what Corelane writes."""

import glob
import os
import re
import shutil
import subprocess

import raw
from harness import JAVA, ROOT, Broker, eventually, temp_dir

GOLDEN = os.path.join(ROOT, "tests/golden")
# The bytes of a compressed batch are those of the machine's libraries. What is in it is not.
COMPRESSED = re.compile(r"^(batch/(?:gzip|snappy|lz4|zstd|transactional) -) [0-9a-f]+", re.MULTILINE)


def golden(what, directory):
    command = [*JAVA, os.path.join(GOLDEN, "Golden.java"), what, directory]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def read(directory, name):
    with open(os.path.join(directory, name), encoding="utf-8") as file:
        return COMPRESSED.sub(r"\1", file.read())


def names(directory):
    return {os.path.basename(path) for path in glob.glob(os.path.join(directory, "*.txt"))}


def test_kafka_writes_what_is_committed():
    directory = temp_dir()
    done = golden("write", directory)
    assert done.returncode == 0, done.stderr
    committed = {name for name in names(GOLDEN) if not name.startswith("ours_")}
    assert committed == names(directory), committed ^ names(directory)
    for name in committed:
        theirs, ours = read(directory, name).splitlines(), read(GOLDEN, name).splitlines()
        assert len(theirs) == len(ours) > 5, (name, len(theirs), len(ours))
        for expected, line in zip(theirs, ours):
            assert line == expected, f"{name}: {line}\ninstead of\n{expected}"
    shutil.rmtree(directory)


def test_kafka_reads_ours():
    done = golden("read", GOLDEN)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = sum(read(GOLDEN, name).count("\n") for name in names(GOLDEN) if name.startswith("ours_"))
    assert done.stdout == f"{lines} read as they should be, 0 not\n", done.stdout


def test_a_difference_is_found():
    """A check that finds nothing must be able to."""
    directory = temp_dir()
    with open(os.path.join(GOLDEN, "ours_groups.txt"), encoding="utf-8") as file:
        line = file.readline()
    name, key, value = line.split()
    with open(os.path.join(directory, "ours_groups.txt"), "w", encoding="utf-8") as file:
        file.write(f"{name} {key} {value[:-8]}77{value[-6:]}\n")
    done = golden("read", directory)
    assert done.returncode == 1 and "instead of" in done.stdout, done.stdout + done.stderr
    shutil.rmtree(directory)


def record(name):
    """Key and value of a case, the value of a tombstone being none."""
    lines = (line.split(" ") for line in read(GOLDEN, "consumer_offsets.txt").splitlines())
    key, value = next(words[1:3] for words in lines if words[0] == name)
    return bytes.fromhex(key), None if value == "-" else bytes.fromhex(value)


def test_a_group_that_kafka_wrote_is_loaded():
    """A member of the new protocol among records of every kind that a group of it may have."""
    names = [
        "ConsumerGroupMemberMetadata/0/null", "ConsumerGroupMetadata/0/full",
        "ConsumerGroupTargetAssignmentMember/0/full", "ConsumerGroupTargetAssignmentMetadata/0/full",
        "ConsumerGroupCurrentMemberAssignment/0/full", "ConsumerGroupRegularExpression/0/full",
        "ConsumerGroupPartitionMetadata/0/full", "ConsumerGroupPartitionMetadata/tombstone",
        "ShareGroupMetadata/0/full", "StreamsGroupMemberMetadata/0/full", "OffsetCommit/4/full",
    ]
    with Broker(**{"offsets.topic.num.partitions": 1}) as broker:
        with raw.Connection(broker.address) as c:
            found = lambda: c.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": ["s101"]})
            eventually(lambda: found().Coordinators[0].ErrorCode == 0)
        assert broker.terminate() == 0
        # Without the sign of a proper end the start looks at what was added.
        os.remove(os.path.join(broker.data, ".kafka_cleanshutdown"))
        (log,) = glob.glob(os.path.join(broker.data, "__consumer_offsets-0", "*.log"))
        assert os.path.getsize(log) == 0
        with open(log, "wb") as file:
            file.write(raw.batch([record(name) for name in names], leader_epoch=0))
        broker.start()
        with raw.Connection(broker.address) as c:
            body = {"GroupIds": ["s101"], "IncludeAuthorizedOperations": False}
            describe = lambda: c.call("ConsumerGroupDescribe", 1, body).Groups[0]
            loading = 14
            group = eventually(lambda: (found := describe()).ErrorCode != loading and found)
            assert (group.ErrorCode, group.GroupEpoch) == (0, 100001), group
            (member,) = group.Members
            consumer = 1
            assert (member.MemberId, member.MemberType) == ("s102", consumer), member

"""kcat: every compression, written and read back by another program."""

import os
import shutil
import subprocess

from harness import temp_dir
from raw import Connection

RECORDS = 5000
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def kcat(broker, *args, timeout=120):
    done = subprocess.run(["kcat", "-b", broker.bootstrap, *args], capture_output=True, timeout=timeout)
    assert done.returncode == 0, f"kcat {args} ended with {done.returncode}: {done.stderr.decode()[-400:]}"
    return done.stdout


def round_trip(broker, codec):
    lines = [b"key-%d:%s %d" % (n, b"some text that packs well " * 4, n) for n in range(RECORDS)]
    topic, directory = f"kcat-{codec}", temp_dir()
    try:
        path = os.path.join(directory, "lines")
        with open(path, "wb") as out:
            out.write(b"\n".join(lines) + b"\n")
        with Connection(broker.address) as c:
            c.create_topic(topic)
        kcat(broker, "-P", "-t", topic, "-p", "0", "-K", ":", "-z", codec, "-l", path)
        got = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%o %k:%s\n")
        assert got.splitlines() == [b"%d %s" % (n, line) for n, line in enumerate(lines)]
        with Connection(broker.address) as c:
            batches = c.fetch_all(topic, 0)
            assert {b.attributes & 7 for b in batches} == {CODECS[codec]}, "stored as sent"
            assert sum(b.count for b in batches) == RECORDS
            middle = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", str(RECORDS // 2 + 3), "-c", "1", "-q", "-f", "%o")
            assert middle == b"%d" % (RECORDS // 2 + 3)
    finally:
        shutil.rmtree(directory)


def test_none(broker):
    round_trip(broker, "none")


def test_gzip(broker):
    round_trip(broker, "gzip")


def test_snappy(broker):
    round_trip(broker, "snappy")


def test_lz4(broker):
    round_trip(broker, "lz4")


def test_zstd(broker):
    round_trip(broker, "zstd")


def test_list_and_query(broker):
    with Connection(broker.address) as c:
        c.create_topic("kcat-list", 4)
    assert b'topic "kcat-list" with 4 partitions' in kcat(broker, "-L")
    done = subprocess.run(["kcat", "-b", broker.bootstrap, "-P", "-t", "kcat-list", "-p", "2"], input=b"a\nb\nc\n", capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"kcat-list [2] offset 3" in kcat(broker, "-Q", "-t", "kcat-list:2:-1")
    assert b"kcat-list [2] offset 0" in kcat(broker, "-Q", "-t", "kcat-list:2:1000")


def test_auto_create(broker):
    done = subprocess.run(["kcat", "-b", broker.bootstrap, "-P", "-t", "kcat-made"], input=b"first\n", capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert kcat(broker, "-C", "-t", "kcat-made", "-o", "beginning", "-e", "-q") == b"first\n"

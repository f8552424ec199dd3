"""Retention and compaction that begin under load: what a load in an open loop notices when a gigabyte of segments is deleted, and when half a
gigabyte is compacted, beside the same load without.

Within a round each kind of upkeep has a run without before it and one behind it, so that what drifts shows. The work is prepared before:
retention is told of by lowering `retention.bytes`, compaction by setting `cleanup.policy` on a topic with keys.
"""

import glob
import os
import re
import subprocess
import threading
import time

import brokers
from runs import SIDES, median, ratio, show, table

LOAD = "--connections 4 --inflight 64 --partitions 4 --record-size 1k --batch-bytes 16k --acks all --rate 2000"
SEGMENT = 16 << 20
COMMON = f"--topic-config segment.bytes={SEGMENT} --topic-config file.delete.delay.ms=100 --warmup 0s"
# Both brokers write about a gigabyte and half of one; the rate, so that it is the same for both.
EXPIRED = f"--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 64k --acks 1 --rate 4000 --duration 4s {COMMON}"
KEYED = f"--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 16k --keys 20000 --acks 1 --rate 8000 --duration 4s {COMMON}"
SETTINGS = ["log.retention.check.interval.ms=200", "log.initial.task.delay.ms=200", "log.cleaner.backoff.ms=100"]
UPKEEP = {
    "retention": (EXPIRED, "retention.bytes=1"),
    "compaction": (KEYED, "cleanup.policy=compact,min.cleanable.dirty.ratio=0.01"),
}
PERCENTILES = ("p50", "p99", "p99.9")


def run(session):
    for number in range(1, session.options.rounds + 1):
        for side in SIDES[:1] if session.options.alone else SIDES:
            with session.start(side, settings=SETTINGS) as broker:
                if side == "kafka":
                    session.run("produce", f"{LOAD} --duration 10s", broker, "load")
                for kind, (fill, change) in UPKEEP.items():
                    session.run("produce", fill, broker, kind)
                    time.sleep(4)
                    before = session.run("produce", LOAD, broker, "load")
                    size = stored(broker, kind)
                    begin = threading.Timer(1.5, alter, (broker, kind, change))
                    begin.start()
                    beside = session.run("produce", LOAD, broker, "load")
                    begin.join()
                    left = stored(broker, kind)
                    time.sleep(4)
                    after = session.run("produce", LOAD, broker, "load")
                    done = {"round": number, "side": side, "kind": kind, "before": before, "beside": beside, "after": after, "size": size, "left": left}
                    session.note(done)
                    said = [[show((r.get("response_us") or {}).get(p)) for p in PERCENTILES] for r in (before, beside, after)]
                    print(f"round {number} {side:9} {kind}: {size >> 20} -> {left >> 20} MiB, p50 p99 p99.9 {said}", flush=True)
    session.write(markdown([e for e in session.entries if "kind" in e]))


def alter(broker, topic, change):
    """With corelane's tool, on a core that neither broker nor load needs much of."""
    command = [os.path.join(brokers.ROOT, "target/release/corelane"), "configs", "--bootstrap-server", broker.address]
    subprocess.run([*command, "--alter", "--topic", topic, "--add-config", change], check=True, stdout=subprocess.DEVNULL)


def stored(broker, topic):
    """Bytes in the segments of a topic that are not about to go."""
    paths = glob.glob(os.path.join(broker.directory, "data", f"{topic}-*", "*.log"))
    return sum(os.path.getsize(path) for path in paths if re.search(r"/\d{20}\.log$", path) and os.path.exists(path))


def markdown(entries):
    rows = []
    for side in SIDES:
        for kind in UPKEEP:
            of = [e for e in entries if (e["side"], e["kind"]) == (side, kind)]
            if not of:
                continue
            work = f"{median(of, 'size') / (1 << 20):,.0f} -> {median(of, 'left') / (1 << 20):,.0f} MiB"
            figures = {when: [median(of, f"{when}/response_us/{p}") for p in PERCENTILES] for when in ("before", "beside", "after")}
            shown = [" / ".join(show(figure) for figure in figures[when]) for when in ("before", "beside", "after")]
            p99 = [figures[when][1] for when in ("before", "beside", "after")]
            rows.append([side, kind, work, *shown, ratio(p99[1], max(p99[0], p99[2])) if None not in p99 else "-"])
    head = ["broker", "upkeep", "the topic", "without, before: p50 / p99 / p99.9 us", "beside", "without, after", "p99 beside : the worse one without"]
    return table(head, rows)

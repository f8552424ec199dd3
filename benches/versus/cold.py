"""Fetches of what is in no memory: beside raw reads of the disk, beside Kafka, and what a load at the tail notices of them.

The topics are larger than corelane's cache (192 MiB of its 256), and are read once from their beginning. Kafka's live in the page cache:
they are taken out of it before each run.
"""

import json
import os
import subprocess
import time

from runs import SIDES, collect, median, ratio, show, table

# Produced per side before anything is read: more than any run reads, so that nothing is read twice.
FILL = "--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 64k --acks 1 --warmup 0s"
# Kafka takes half as much per second, and reads less.
FILL_SECONDS = {"corelane": 4, "kafka": 8}
COLD = {
    "1 consumer of 1 partition": "--connections 1 --inflight 1",
    "1 consumer of 4 partitions": "--connections 1 --inflight 4",
    "4 consumers of 1 partition each": "--connections 4 --inflight 1",
}
COLD_TIME = "--warmup 0s --duration 600ms"
TAIL = "--connections 4 --inflight 16 --partitions 4 --record-size 1k --batch-bytes 16k --acks all --rate 2000 --warmup 300ms --duration 1500ms"
RAW = ["1024 KiB QD1 read", "1024 KiB QD2 read", "1024 KiB QD4 read"]


def run(session):
    for number in range(1, session.options.rounds + 1):
        session.note({"round": number, "raw": raw(session)})
        for side in SIDES:
            with session.start(side) as broker:
                filled = session.run("produce", f"{FILL} --duration {FILL_SECONDS[side]}s", broker, "cold")
                size = filled["bytes"]
                if side == "kafka":
                    session.run("e2e", TAIL.replace("1500ms", "6s"), broker, "warm-up")
                time.sleep(3)
                results = {}
                for name, load in COLD.items():
                    forget(broker)
                    before = broker.read_bytes()
                    results[name] = session.run("fetch", f"{load} {COLD_TIME} --partitions 4", broker, "cold")
                    # Of what there was, and from the disk for each byte answered.
                    results[name]["share"] = results[name]["bytes"] / size
                    results[name]["from_disk"] = (broker.read_bytes() - before) / results[name]["bytes"]
                results["tail alone"] = session.run("e2e", TAIL, broker, "tail")
                forget(broker)
                reader = session.begin("fetch", "--connections 4 --inflight 1 --partitions 4 --warmup 300ms --duration 1500ms", broker, "cold")
                results["tail beside cold"] = session.run("e2e", TAIL, broker, "tail")
                results["cold beside tail"] = collect(reader)
                session.note({"round": number, "side": side, "results": results})
                for name, result in results.items():
                    print(f"round {number} {side:9} {name}: {result.get('mb_per_s')} MB/s, p99 {result.get('end_to_end_us', {}).get('p99')}", flush=True)
    session.write(markdown(session.entries))


def forget(broker):
    """Takes the segments of a broker's logs out of the page cache."""
    for directory, _, names in os.walk(broker.directory):
        for name in names:
            if name.endswith(".log"):
                with open(os.path.join(directory, name), "rb+") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def raw(session):
    command = ["taskset", "-c", session.options.server_cpu, session.limits, "--dir", session.directory, "--rounds", "1", "--json"]
    for cell in RAW:
        command += ["--only", cell]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {figure["cell"]: figure["mib_per_s"] * 1.048576 for figure in map(json.loads, output.splitlines())}


def markdown(entries):
    disks = [e["raw"] for e in entries if "raw" in e]
    cells = {cell: median(disks, cell) for cell in disks[0]}
    best = max(cells.values())
    of = {side: [e["results"] for e in entries if e.get("side") == side] for side in SIDES}
    rows = [[f"raw: {cell}", f"{figure:,.0f} MB/s", "", "", "", ""] for cell, figure in cells.items()]
    for name in (*COLD, "cold beside tail"):
        mine, theirs = (median(of[side], f"{name}/mb_per_s") for side in SIDES)
        gib = " / ".join(show(median(of[side], f"{name}/server_cpu_s_per_gib"), ".2f") for side in SIDES)
        disk = " / ".join(show(median(of[side], f"{name}/from_disk"), ".2f") for side in SIDES) if name in COLD else ""
        title = f"cold fetch, {name}" if name in COLD else "cold fetch, 4 consumers, beside the tail"
        rows.append([title, f"{show(mine)} MB/s", f"{show(theirs)} MB/s", ratio(mine, best), disk, gib])
    for name in ("tail alone", "tail beside cold"):
        latency = [" / ".join(show(median(of[side], f"{name}/{kind}_us/{label}")) for label in ("p50", "p99")) for kind in ("end_to_end",) for side in SIDES]
        acks = [" / ".join(show(median(of[side], f"{name}/response_us/{label}")) for label in ("p50", "p99")) for side in SIDES]
        rows.append([f"{name}: end to end, p50 / p99 us", *latency, "", "", ""])
        rows.append([f"{name}: acknowledgement, p50 / p99 us", *acks, "", "", ""])
    return table(["", "corelane", "Kafka", "corelane : best raw read", "bytes from the disk for each answered", "broker CPU s/GiB, corelane / Kafka"], rows)

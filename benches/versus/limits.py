"""What the broker does beside what can be done: the disk alone (raw O_DIRECT writes and reads), and a null responder on the same runtime.

The aim is 0.8 of the lower of the two for large batches, and three raw writes with a flush for each acknowledgement of a single record.
"""

import json
import subprocess

from runs import median, ratio, show, table

# Acknowledged when flushed: beside the fastest raw writes of blocks that were written before, as the log's are.
BATCHES = {
    "64 KiB batches": ("--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 64k --acks all", ("64 KiB QD4 write", "1024 KiB QD4 write", "1024 KiB QD1 write")),
    "1 MiB batches": ("--connections 4 --inflight 4 --partitions 4 --record-size 1k --batch-bytes 1m --acks all", ("1024 KiB QD4 write", "1024 KiB QD1 write")),
}
TAIL = "--connections 4 --inflight 4 --partitions 4 --record-size 1k --batch-bytes 64k"
SINGLE = "--connections 8 --inflight 1 --partitions 1 --record-size 100 --batch-bytes 0 --acks all"
OPEN = {rate: f"--connections 8 --inflight 64 --partitions 8 --record-size 100 --batch-bytes 0 --acks all --rate {rate}" for rate in (1000, 10_000)}
# The ways to make one small write durable.
DURABLE = ("4 KiB QD1 write RWF_DSYNC, written", "4 KiB QD1 write, then fdatasync by ring, written", "4 KiB QD1 write linked to fdatasync, written", "4 KiB QD1 write, then fdatasync by call, written")
WANTED = sorted({*(f"{cell}, written" for _, cells in BATCHES.values() for cell in cells), *DURABLE})


def run(session):
    cpu = f"--server-cpu {session.options.server_cpu}"
    for number in range(1, session.options.rounds + 1):
        entry = {"round": number, "raw": raw(session)}
        with session.start("corelane") as broker:
            for name, (load, _) in BATCHES.items():
                entry[name] = {"null": session.run("ceiling", f"{load} {cpu}"), "broker": session.run("produce", f"{load} --delete-topic", broker, name.replace(" ", "-"))}
            entry["tail"] = {"null": session.run("ceiling-fetch", f"{TAIL} {cpu}"), "broker": session.run("fetch", f"{TAIL} --fill 8m", broker, "tail")}
            entry["single"] = session.run("produce", SINGLE, broker, "single")
            entry["open"] = {str(rate): session.run("produce", load, broker, f"open-{rate}") for rate, load in OPEN.items()}
        session.note(entry)
        print(f"round {number} done", flush=True)
    session.write(markdown(session.entries[1:]))


def raw(session):
    command = ["taskset", "-c", session.options.server_cpu, session.limits, "--dir", session.directory, "--rounds", "1", "--json"]
    for cell in WANTED:
        command += ["--only", cell]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {figure["cell"]: figure for figure in map(json.loads, output.splitlines())}


def markdown(entries):
    def best(cells, figure):
        found = [median(entries, f"raw/{cell}, written blocks/{figure}") for cell in cells]
        return max(value for value in found if value is not None)

    rows = []
    for name, (_, cells) in BATCHES.items():
        disk = best(cells, "mib_per_s") * 1.048576
        rows.append(limited(entries, f"produce 1 KiB records, {name}, acks=all", name, disk))
    rows.append(limited(entries, "fetch 1 KiB records at the tail", "tail", None))
    text = table(["MB/s", "raw disk", "null responder", "corelane", "corelane : lower limit"], rows)
    device = best([cell.removesuffix(", written") for cell in DURABLE], "operations_per_s")
    single = median(entries, "single/requests_per_s")
    rows = [["raw, one write and flush at a time", f"{device:,.0f}/s", "-", *raw_latency(entries)]]
    rows.append(["one record a request, acks=all, 8 connections, 1 partition", f"{show(single)}/s", ratio(single, device), *latency(entries, "single")])
    for rate in OPEN:
        rows.append([f"one record a request, acks=all, open loop, {rate:,}/s", "", "", *latency(entries, f"open/{rate}")])
    return f"{text}\n\n{table(['made durable', 'rate', 'of raw', 'p50 us', 'p99 us', 'p99.9 us'], rows)}"


def limited(entries, title, name, disk):
    null, mine = (median(entries, f"{name}/{side}/mb_per_s") for side in ("null", "broker"))
    lower = min(limit for limit in (disk, null) if limit)
    return [title, f"{disk:,.0f}" if disk else "-", show(null), show(mine), ratio(mine, lower)]


def latency(entries, path):
    return [show(median(entries, f"{path}/response_us/{label}")) for label in ("p50", "p99", "p99.9")]


def raw_latency(entries):
    """Of the way with the best rate."""
    cell = max(DURABLE, key=lambda cell: median(entries, f"raw/{cell} blocks/operations_per_s") or 0)
    return [show(median(entries, f"raw/{cell} blocks/{figure}_us")) for figure in ("p50", "p99", "p99.9")]

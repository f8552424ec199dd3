"""Single records made durable: beside the disk alone, which makes one small write durable at a time, and beside Kafka.

The aim is three times the disk's rate with 8 connections, and in an open loop no more than 1 ms at p99.
"""

import json
import subprocess

from runs import SIDES, median, ratio, show, table

RECORD = "--record-size 100 --batch-bytes 0 --acks all"
LOADS = {
    "8 connections, 1 partition": f"{RECORD} --connections 8 --inflight 1 --partitions 1",
    "open loop, 1,000 a second": f"{RECORD} --connections 8 --inflight 64 --partitions 8 --rate 1000",
    "open loop, 10,000 a second": f"{RECORD} --connections 8 --inflight 64 --partitions 8 --rate 10000",
}
# The ways to make one small write durable.
RAW = ["4 KiB QD1 write RWF_DSYNC", "4 KiB QD1 write, then fdatasync by ring", "4 KiB QD1 write linked to fdatasync", "4 KiB QD1 write, then fdatasync by call"]
RAW = [f"{cell}, written blocks" for cell in RAW]
PERCENTILES = ("p50", "p99", "p99.9")


def run(session):
    for number in range(1, session.options.rounds + 1):
        session.note({"round": number, "raw": raw(session)})
        for side in SIDES:
            with session.start(side) as broker:
                if side == "kafka":
                    session.run("produce", f"{LOADS['8 connections, 1 partition']} --warmup 0s --duration 15s", broker, "warm-up")
                results = {name: session.run("produce", load, broker, f"single-{index}") for index, (name, load) in enumerate(LOADS.items())}
                session.note({"round": number, "side": side, "results": results})
                for name, result in results.items():
                    print(f"round {number} {side:9} {name}: {result.get('requests_per_s')}/s, p99 {result.get('response_us', {}).get('p99')}", flush=True)
    session.write(markdown(session.entries))


def raw(session):
    command = ["taskset", "-c", session.options.server_cpu, session.limits, "--dir", session.directory, "--rounds", "1", "--file-mib", "64", "--json"]
    for cell in RAW:
        command += ["--only", cell]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {figure["cell"]: figure for figure in map(json.loads, output.splitlines())}


def markdown(entries):
    disks = [e["raw"] for e in entries if "raw" in e]
    fastest = max(RAW, key=lambda cell: median(disks, f"{cell}/operations_per_s"))
    device = median(disks, f"{fastest}/operations_per_s")
    rows = [[f"raw: {fastest}", f"{show(device)}/s", "", *(show(median(disks, f"{fastest}/{label}_us")) for label in PERCENTILES)]]
    for name in LOADS:
        for side in SIDES:
            found = [e["results"] for e in entries if e.get("side") == side]
            rate = median(found, f"{name}/requests_per_s")
            latency = [show(median(found, f"{name}/response_us/{label}")) for label in PERCENTILES]
            rows.append([f"{name}: {side}", f"{show(rate)}/s", ratio(rate, device), *latency])
    return table(["one record a request, acks=all", "rate", "of raw", *(f"{label} us" for label in PERCENTILES)], rows)

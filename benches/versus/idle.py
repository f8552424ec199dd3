"""Thousands of idle connections: what they cost by themselves, and what a load beside them notices."""

import resource
import socket
import struct
import time

from runs import SIDES, median, ratio, show, table

CONNECTIONS = 5000
IDLE_SECONDS = 8
LOADS = {
    "1 KiB records, 64 KiB batches, acks=all": "--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 64k --acks all --delete-topic",
    "one record a request, 2,000 a second, open loop": "--connections 8 --inflight 64 --partitions 8 --record-size 100 --batch-bytes 0 --acks all --rate 2000",
}
# ApiVersions of version 0 with a null client id: every client begins with something like it.
GREETING = struct.pack(">ihhih", 10, 18, 0, 1, -1)


def run(session):
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    for number in range(1, session.options.rounds + 1):
        for side in SIDES:
            with session.start(side) as broker:
                for index, load in enumerate(LOADS.values()):
                    session.run("produce", f"{load} --warmup 0s --duration {6 if side == 'kafka' else 1}s", broker, f"warm-up-{index}")
                time.sleep(4)
                without = measure(session, broker, "before")
                before = broker.resident_mib()
                sockets = [greet(broker.port) for _ in range(CONNECTIONS)]
                # The first connections' garbage is collected, buffers are given back.
                time.sleep(3)
                kib = (broker.resident_mib() - before) * 1024 / CONNECTIONS
                beside = measure(session, broker, "beside")
                for idle in sockets:
                    idle.close()
                session.note({"round": number, "side": side, "without": without, "beside": beside, "kib": kib})
                print(f"round {number} {side:9} {kib:.1f} KiB each, idle {without['idle']:.4f} -> {beside['idle']:.4f} of a core", flush=True)
    session.write(markdown([e for e in session.entries if "kib" in e]))


def greet(port):
    """A connection that has asked one question."""
    opened = socket.create_connection(("127.0.0.1", port))
    opened.sendall(GREETING)
    size = struct.unpack(">i", opened.recv(4, socket.MSG_WAITALL))[0]
    opened.recv(size, socket.MSG_WAITALL)
    return opened


def measure(session, broker, label):
    before = broker.thread_seconds()
    time.sleep(IDLE_SECONDS)
    # A worker thread of the kernel that ends takes its time along.
    idle = sum(seconds - before.get(task, 0) for task, seconds in broker.thread_seconds().items()) / IDLE_SECONDS
    return {"idle": idle} | {name: session.run("produce", LOADS[name], broker, f"{label}-{index}") for index, name in enumerate(LOADS)}


def markdown(entries):
    rows = []
    of = {side: [e for e in entries if e["side"] == side] for side in SIDES}
    mine, theirs = (median(of[side], "kib") for side in SIDES)
    rows.append([f"memory of each of {CONNECTIONS:,} connections", f"{mine:.1f} KiB", f"{theirs:.1f} KiB", ratio(theirs, mine)])
    for when, text in (("without", "CPU when idle, no connections"), ("beside", f"CPU when idle, {CONNECTIONS:,} connections")):
        mine, theirs = (median(of[side], f"{when}/idle") for side in SIDES)
        rows.append([text, f"{mine * 100:.2f} %", f"{theirs * 100:.2f} %", ratio(theirs, mine)])
    for name in LOADS:
        for when, text in (("without", "no other connections"), ("beside", f"{CONNECTIONS:,} idle connections beside")):
            key, form, unit = ("mb_per_s", ",.0f", "MB/s") if "MiB" in name or "KiB" in name else ("response_us/p99", ",.0f", "us p99")
            mine, theirs = (median(of[side], f"{when}/{name}/{key}") for side in SIDES)
            quotient = ratio(mine, theirs) if unit == "MB/s" else ratio(theirs, mine)
            rows.append([f"{name}; {text}", f"{show(mine, form)} {unit}", f"{show(theirs, form)} {unit}", quotient])
    return table(["", "corelane", "Kafka", "better by"], rows)

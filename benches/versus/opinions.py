"""Neutral second opinions: Kafka's own performance tools and librdkafka as clients of both brokers.

These clients need more CPU than either broker, so that one core of theirs is the limit of many runs. What tells the brokers apart then is
the CPU time that they need for the same work.
"""

import json
import os
import re
import subprocess
import sys
import time

from confluent_kafka.admin import AdminClient, NewTopic

from runs import SIDES, median, ratio, show, table

RDKAFKA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rdkafka.py")
PARTITIONS = 4
MIB = 1 << 20
RECORDS = {100: 5_000_000, 1024: 1_000_000}
ROUND_TRIPS = 3000
BATCHING = {"batch.size": 65536, "linger.ms": 5, "acks": "all"}
WARM_UP = "--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 64k --acks all --duration 8s --warmup 0s --delete-topic"


def run(session):
    for number in range(1, session.options.rounds + 1):
        for side in SIDES:
            with session.start(side) as broker:
                session.run("produce", WARM_UP, broker, "warm-up")
                time.sleep(2)
                admin = AdminClient({"bootstrap.servers": broker.address})
                topics = [NewTopic(topic, PARTITIONS, 1) for topic in ("java-100", "java-1024", "rdkafka-100", "rdkafka-1024")]
                topics.append(NewTopic("round-trips", 1, 1))
                for created in admin.create_topics(topics).values():
                    created.result()
                del admin
                for name, client in clients(broker.address):
                    before = broker.cpu_seconds()
                    result = client(session.options.load_cpu)
                    if "failed" not in result:
                        result["broker_cpu"] = broker.cpu_seconds() - before
                    session.note({"round": number, "side": side, "client": name, "result": result})
                    print(f"round {number} {side:9} {name}: {result}", flush=True)
    session.write(markdown(session.entries))


def clients(address):
    """Names, and what runs each on a core."""
    for size, records in RECORDS.items():
        label = "100 B" if size == 100 else "1 KiB"
        for kind, run_java, run_rdkafka in (
            ("produce", producer_perf, "produce"),
            ("consume", consumer_perf, "consume"),
        ):
            tool = "kafka-producer-perf-test" if kind == "produce" else "kafka-consumer-perf-test"
            yield f"{tool}, {label}", lambda cpu, f=run_java, s=size, n=records: f(cpu, address, f"java-{s}", n, s)
            yield f"librdkafka {kind}, {label}", lambda cpu, k=run_rdkafka, s=size, n=records: rdkafka(cpu, k, address, f"rdkafka-{s}", n, s)
    yield "kafka-e2e-latency, 1 KiB, acks=all", lambda cpu: round_trips(cpu, address)


def java(cpu, tool, arguments):
    command = ["taskset", "-c", cpu, "java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{os.environ['KAFKA_LIBS']}/*"]
    done = subprocess.run([*command, f"org.apache.kafka.tools.{tool}", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    return done.stdout + done.stderr


def producer_perf(cpu, address, topic, records, size):
    arguments = ["--bootstrap-server", address, "--topic", topic, "--num-records", records, "--record-size", size, "--throughput", -1]
    output = java(cpu, "ProducerPerformance", [*arguments, "--command-property", *(f"{k}={v}" for k, v in BATCHING.items())])
    found = re.findall(r"(\d+) records sent, ([\d.]+) records/sec .*?, ([\d.]+) ms avg latency.*? ([\d.]+) ms 99th", output)
    if not found or int(found[-1][0]) != records:
        return {"failed": output.strip()[-300:]}
    return {"records": records, "bytes": records * size, "records_per_s": float(found[-1][1]), "p99_ms": float(found[-1][3])}


def consumer_perf(cpu, address, topic, records, size):
    arguments = ["--bootstrap-server", address, "--topic", topic, "--num-records", records, "--hide-header", "--timeout", 5000]
    output = java(cpu, "ConsumerPerformance", arguments)
    # Start, end, MB, MB/s, records, records/s, and more; the records per second leave out the joining of the group.
    found = re.findall(r"^\d{4}-[^,]*, [^,]*, [\d.]+, [\d.]+, (\d+), [\d.]+, -?\d+, \d+, [\d.]+, ([\d.]+)", output, re.MULTILINE)
    if not found or int(found[-1][0]) < records:
        return {"failed": output.strip()[-300:]}
    return {"records": records, "bytes": records * size, "records_per_s": float(found[-1][1])}


def round_trips(cpu, address):
    output = java(cpu, "EndToEndLatency", [address, "round-trips", ROUND_TRIPS, "all", 1024])
    found = re.search(r"Avg latency: ([\d.]+) ms", output), re.search(r"99th = (\d+), 99.9th = (\d+)", output)
    if None in found:
        return {"failed": output.strip()[-300:]}
    return {"records": ROUND_TRIPS, "mean_ms": float(found[0].group(1)), "p99_ms": float(found[1].group(1)), "p99.9_ms": float(found[1].group(2))}


def rdkafka(cpu, mode, address, topic, records, size):
    command = ["taskset", "-c", cpu, sys.executable, RDKAFKA, mode, address, topic, str(records), str(size), str(PARTITIONS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    if done.returncode != 0:
        return {"failed": done.stderr.strip()[-300:]}
    return json.loads(done.stdout)


def markdown(entries):
    head = ["client", "corelane", "Kafka", "ratio", "broker's CPU s/GiB: corelane", "Kafka", "Kafka : corelane", "p99 ms: corelane", "Kafka"]
    rows, names = [], dict.fromkeys(e["client"] for e in entries if "client" in e)
    for name in names:
        figures = []
        for side in SIDES:
            results = [e["result"] for e in entries if e.get("client") == name and e["side"] == side]
            cpu, size = median(results, "broker_cpu"), median(results, "bytes")
            rate = median(results, "records_per_s")
            mb = rate * size / median(results, "records") / 1e6 if rate and size else None
            figures.append({"mb": mb, "gib": cpu / size * MIB * 1024 if cpu and size else None, "mean": median(results, "mean_ms"), "p99": median(results, "p99_ms")})
        mine, theirs = figures
        if name.startswith("kafka-e2e"):
            rows.append([name, f"mean {show(mine['mean'], '.2f')} ms", f"{show(theirs['mean'], '.2f')} ms", "-", "-", "-", "-", show(mine["p99"]), show(theirs["p99"])])
            continue
        row = [name, f"{show(mine['mb'])} MB/s", show(theirs["mb"]), ratio(mine["mb"], theirs["mb"]), show(mine["gib"], ".2f"), show(theirs["gib"], ".2f")]
        rows.append([*row, ratio(theirs["gib"], mine["gib"]), *("-" if side["p99"] is None else show(side["p99"]) for side in figures)])
    return table(head, rows)

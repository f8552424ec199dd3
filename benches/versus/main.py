"""Corelane and Apache Kafka on the same core, under the same load, one after the other; a table, plots, and every run's result.

Each round starts corelane, runs all cells, stops it, and does the same with Kafka, which is warmed up first. A cell's figures are
the medians of its rounds. The load generator runs on another core.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import time

import brokers
import cells
import plots

WARM_UP = "--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 64k --acks all --duration 15s --warmup 0s"
IDLE_SECONDS = 10


def parse():
    parser = argparse.ArgumentParser(prog="scripts/versus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only cells whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", default="4s", help="measured time of each run (default: %(default)s)")
    parser.add_argument("--warmup", default="1s", help="time before it (default: %(default)s)")
    parser.add_argument("--server-cpu", default="0")
    parser.add_argument("--load-cpu", default="1")
    parser.add_argument("--port", type=int, default=19092)
    parser.add_argument("--heap", default="1g", help="Kafka's heap, its start script's default (default: %(default)s)")
    parser.add_argument("--dir", help="where data is written: on the disk to be measured (default: target/versus)")
    parser.add_argument("--out", default=os.path.join(brokers.ROOT, "benches", "results"), help="where results go (default: benches/results)")
    parser.add_argument("--name", default="versus", help="name of the results (default: %(default)s)")
    return parser.parse_args()


def load_program():
    command = ["cargo", "bench", "--bench", "load", "--no-run", "--quiet", "--locked", "--message-format=json"]
    output = subprocess.run(command, cwd=brokers.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return re.search(r'"executable":"([^"]*/load-[^"]*)"', output).group(1)


def start(side, options, directory):
    directory = os.path.join(directory, side)
    if side == "corelane":
        return brokers.corelane(directory, options.port, options.server_cpu)
    return brokers.kafka(directory, options.port, options.server_cpu, os.environ["KAFKA_LIBS"], options.heap)


def run_load(program, options, broker, mode, arguments, topic, more=()):
    """One run; its result, or what went wrong."""
    command = ["taskset", "-c", options.load_cpu, program, mode, *arguments, "--bootstrap-server", broker.address, "--server-pid", str(broker.pid)]
    command += ["--topic", topic, "--delete-topic", "--json", "--quiet", *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0 or not done.stdout.startswith("{"):
        return {"failed": (done.stderr or done.stdout).strip()[-300:]}
    return json.loads(done.stdout)


def run_side(side, program, options, directory, chosen, number, note):
    """All cells against one broker."""
    with start(side, options, directory) as broker:
        time.sleep(1)
        at_start = {"start_ms": broker.start_ms, "start_rss_mib": broker.resident_mib()}
        if side == "kafka":
            time.sleep(2)
            run_load(program, options, broker, "produce", WARM_UP.split(), "warm-up")
        for index, cell in enumerate(chosen):
            arguments = [*cell.load.split(), "--duration", options.duration, "--warmup", options.warmup]
            for setting in filter(None, [getattr(cell, side)]):
                arguments += ["--topic-config", setting]
            result = run_load(program, options, broker, cell.mode, arguments, f"cell-{index}")
            note({"round": number, "side": side, "cell": cell.name, "result": result})
            print(f"round {number} {side:9} {cell.name}: {summary(result)}", flush=True)
        before = broker.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        at_end = {"idle_cpu": (broker.cpu_seconds() - before) / IDLE_SECONDS, "end_rss_mib": broker.resident_mib()}
        note({"round": number, "side": side, "process": {**at_start, **at_end}})


def summary(result):
    if "failed" in result:
        return f"FAILED: {result['failed']}"
    latency = result.get("end_to_end_us") or result.get("response_us")
    return f"{result['mb_per_s']:.0f} MB/s, {result['requests_per_s']:.0f} requests/s, p99 {latency['p99']:.0f} us, {result['server_cpu_s_per_gib']:.2f} s/GiB"


def machine(options):
    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    with open("/proc/meminfo") as meminfo:
        memory = int(next(meminfo).split()[1]) / (1 << 20)
    java = subprocess.run(["java", "-version"], stderr=subprocess.PIPE, text=True).stderr.splitlines()[0]
    return (
        f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, Linux {platform.release()}, {java}; broker on core {options.server_cpu}, load on core "
        f"{options.load_cpu}; medians of {options.rounds} rounds of {options.duration}; Apache Kafka 4.3.1 with its defaults and {options.heap} of heap"
    )


def medians(entries, chosen):
    """For each cell and side the medians of what its runs reported; `None` where a run failed."""

    def value(result, path):
        for key in path.split("."):
            result = result.get(key, {}) if isinstance(result, dict) else {}
        return result if isinstance(result, (int, float)) else None

    table = {}
    for cell in chosen:
        for side in ("corelane", "kafka"):
            results = [e["result"] for e in entries if e.get("cell") == cell.name and e["side"] == side]
            latency = "end_to_end_us" if cell.mode == "e2e" else "response_us"
            figures = {"mb": "mb_per_s", "requests": "requests_per_s", "records": "records_per_s", "cpu": "server_cpu", "gib": "server_cpu_s_per_gib"}
            figures |= {"million": "server_cpu_s_per_million", "generator": "generator_cpu", "rss": "server_peak_rss"}
            figures |= {label: f"{latency}.{label}" for label in ("p50", "p99", "p99.9", "max")}
            row = {}
            for name, path in figures.items():
                # A latency's label has a dot of its own.
                found = [r[latency].get(path.split(".", 1)[1]) if path.startswith(latency) and latency in r else value(r, path) for r in results]
                found = [f for f in found if f is not None]
                row[name] = statistics.median(found) if found and len(found) == len(results) else None
            table[cell.name, side] = row
    return table


def ratio(mine, theirs):
    return f"{mine / theirs:.2f}" if mine and theirs else "-"


def markdown(table, chosen):
    """The result for people: throughput cells by MB/s, latency cells by their percentiles."""
    lines = [
        "| workload | promise (corelane / Kafka) | corelane | Kafka | ratio | CPU s/GiB: corelane | Kafka | Kafka : corelane | p99 us: corelane | Kafka | broker CPU | load CPU |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def show(value, form=",.0f"):
        return format(value, form) if value is not None else "failed"

    for cell in chosen:
        mine, theirs = table[cell.name, "corelane"], table[cell.name, "kafka"]
        small = "--batch-bytes 0" in cell.load
        key, unit = ("requests", "requests/s") if small else ("mb", "MB/s")
        full = " (load full)" if max(mine["generator"] or 0, theirs["generator"] or 0) > 0.95 else ""
        lines.append(
            f"| {cell.name} | {cell.promise or '-'} | {show(mine[key])} {unit} | {show(theirs[key])} | {ratio(mine[key], theirs[key])} "
            f"| {show(mine['gib'], '.2f')} | {show(theirs['gib'], '.2f')} | {ratio(theirs['gib'], mine['gib'])} "
            f"| {show(mine['p99'])} | {show(theirs['p99'])} | {show(mine['cpu'] and mine['cpu'] * 100)} / {show(theirs['cpu'] and theirs['cpu'] * 100)} % "
            f"| {show(mine['generator'] and mine['generator'] * 100)} / {show(theirs['generator'] and theirs['generator'] * 100)} %{full} |"
        )
    return "\n".join(lines)


def processes(entries):
    lines = ["| | start to port open | resident after start | resident at the end | CPU when idle, after the load |", "|---|---|---|---|---|"]
    for side in ("corelane", "kafka"):
        found = [e["process"] for e in entries if "process" in e and e["side"] == side]
        of = {key: statistics.median(p[key] for p in found) for key in found[0]}
        lines.append(f"| {side} | {of['start_ms']:,.0f} ms | {of['start_rss_mib']:.0f} MiB | {of['end_rss_mib']:.0f} MiB | {of['idle_cpu'] * 100:.1f} % of the core |")
    return "\n".join(lines)


def main():
    options = parse()
    chosen = [cell for cell in cells.CELLS if options.only in cell.name]
    if not chosen:
        raise SystemExit(f"scripts/versus: no cell's name contains {options.only!r}")
    program = load_program()
    parent = options.dir or os.path.join(brokers.ROOT, "target", "versus")
    os.makedirs(parent, exist_ok=True)
    os.makedirs(options.out, exist_ok=True)
    directory = tempfile.mkdtemp(dir=parent)
    results = os.path.join(options.out, options.name)
    entries = []
    try:
        with open(f"{results}.jsonl", "w") as file:

            def note(entry):
                entries.append(entry)
                file.write(json.dumps(entry) + "\n")
                file.flush()

            note({"machine": machine(options)})
            for number in range(1, options.rounds + 1):
                for side in ("corelane", "kafka"):
                    run_side(side, program, options, directory, chosen, number, note)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    table = medians(entries, chosen)
    text = f"{entries[0]['machine']}\n\n{markdown(table, chosen)}\n\n{processes(entries)}\n"
    with open(f"{results}.md", "w") as file:
        file.write(text)
    plots.draw(table, chosen, results)
    print(text)


if __name__ == "__main__":
    main()

"""The matrix: every workload of cells.py against both brokers.

Each round starts corelane, runs all cells, stops it, and does the same with Kafka, which is warmed up first. A cell's figures are
the medians of its rounds.
"""

import statistics
import time

import cells
import plots
from runs import SIDES, median, ratio, show, table, value

# With small and large batches and single records: what was not run before meets a JVM that is still compiling.
WARM_UPS = (
    "--connections 4 --inflight 16 --partitions 4 --record-size 100 --batch-bytes 16k --acks all --duration 7s --warmup 0s",
    "--connections 4 --inflight 8 --partitions 4 --record-size 1k --batch-bytes 64k --acks all --duration 7s --warmup 0s",
    "--connections 8 --inflight 1 --partitions 1 --record-size 100 --batch-bytes 0 --acks all --duration 7s --warmup 0s",
)
IDLE_SECONDS = 5
# After a topic was deleted, or a broker started: a file system that discards at once keeps the disk busy for a while.
PAUSE_SECONDS = 3
FIGURES = {"mb": "mb_per_s", "requests": "requests_per_s", "cpu": "server_cpu", "gib": "server_cpu_s_per_gib", "generator": "generator_cpu", "rss": "server_peak_rss"}


def run(session):
    options = session.options
    chosen = [cell for cell in cells.CELLS if (not options.only or any(text in cell.name for text in options.only)) and options.group in ("", cell.group)]
    if not chosen:
        raise SystemExit("scripts/versus: no cell is left")
    for number in range(1, options.rounds + 1):
        for side in SIDES:
            run_side(session, side, chosen, number)
    # With --add the table holds what earlier calls measured, too.
    measured = {entry.get("cell") for entry in session.entries}
    present = [cell for cell in cells.CELLS if cell.name in measured]
    results = medians(session.entries, present)
    session.write(f"{markdown(results, present)}\n\n{processes(session.entries)}")
    plots.draw(results, present, session.results)


def run_side(session, side, chosen, number):
    """All cells against one broker, those of latency first: before topics are deleted."""
    with session.start(side) as broker:
        time.sleep(1)
        at_start = {"start_ms": broker.start_ms, "start_rss_mib": broker.resident_mib()}
        if side == "kafka":
            time.sleep(2)
            for index, warm_up in enumerate(WARM_UPS):
                session.run("produce", warm_up, broker, f"warm-up-{index}")
        time.sleep(PAUSE_SECONDS)
        for index, cell in enumerate(sorted(chosen, key=lambda cell: cell.group != "latency")):
            arguments = cell.load
            for setting in filter(None, [getattr(cell, side)]):
                arguments += f" --topic-config {setting}"
            if cell.group != "latency":
                arguments += " --delete-topic"
            result = session.run(cell.mode, arguments, broker, f"cell-{index}")
            session.note({"round": number, "side": side, "cell": cell.name, "result": result})
            broker.await_removal()
            print(f"round {number} {side:9} {cell.name}: {summary(result)}", flush=True)
        before = broker.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        at_end = {"idle_cpu": (broker.cpu_seconds() - before) / IDLE_SECONDS, "end_rss_mib": broker.resident_mib()}
        session.note({"round": number, "side": side, "process": {**at_start, **at_end}})


def summary(result):
    if "failed" in result:
        return f"FAILED: {result['failed']}"
    latency = result.get("end_to_end_us") or result.get("response_us")
    return f"{result['mb_per_s']:.0f} MB/s, {result['requests_per_s']:.0f} requests/s, p99 {latency['p99']:.0f} us, {result['server_cpu_s_per_gib']:.2f} s/GiB"


def medians(entries, chosen):
    """For each cell and side the medians of what its runs reported; `None` where a run failed."""
    found = {}
    for cell in chosen:
        for side in SIDES:
            results = [e["result"] for e in entries if e.get("cell") == cell.name and e["side"] == side]
            latency = "end_to_end_us" if cell.mode == "e2e" else "response_us"
            figures = FIGURES | {label: f"{latency}/{label}" for label in ("p50", "p99", "p99.9", "max")}
            found[cell.name, side] = {name: median(results, path) for name, path in figures.items()}
    return found


def markdown(results, chosen):
    """The result for people: throughput cells by MB/s, latency cells by their percentiles."""
    head = ["workload", "promise (corelane / Kafka)", "corelane", "Kafka", "ratio", "CPU s/GiB: corelane", "Kafka", "Kafka : corelane"]
    head += ["p50 / p99 / p99.9 us: corelane", "Kafka", "broker CPU", "load CPU"]
    rows = []
    for cell in chosen:
        mine, theirs = results[cell.name, "corelane"], results[cell.name, "kafka"]
        small = "--batch-bytes 0" in cell.load
        key, unit = ("requests", "requests/s") if small else ("mb", "MB/s")
        full = " (load full)" if max(mine["generator"] or 0, theirs["generator"] or 0) > 0.95 else ""
        latency = [" / ".join(show(side[label]) for label in ("p50", "p99", "p99.9")) for side in (mine, theirs)]
        percent = [f"{show(mine[k] and mine[k] * 100)} / {show(theirs[k] and theirs[k] * 100)} %" for k in ("cpu", "generator")]
        row = [cell.name, cell.promise or "-", f"{show(mine[key])} {unit}", show(theirs[key]), ratio(mine[key], theirs[key])]
        rows.append(row + [show(mine["gib"], ".2f"), show(theirs["gib"], ".2f"), ratio(theirs["gib"], mine["gib"]), *latency, percent[0], percent[1] + full])
    return table(head, rows)


def processes(entries):
    head = ["", "start to port open", "resident after start", "resident at the end", "CPU when idle, after the load"]
    rows = []
    for side in SIDES:
        found = [e["process"] for e in entries if "process" in e and e["side"] == side]
        of = {key: statistics.median(value(p, key) for p in found) for key in found[0]}
        rows.append([side, f"{of['start_ms']:,.0f} ms", f"{of['start_rss_mib']:.0f} MiB", f"{of['end_rss_mib']:.0f} MiB", f"{of['idle_cpu'] * 100:.1f} % of the core"])
    return table(head, rows)

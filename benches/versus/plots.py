"""Plots of a comparison: throughput and CPU as ratios, latency over rate."""

import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLOURS = {"corelane": "#1f6f8b", "kafka": "#c06014"}


def draw(table, chosen, results):
    """Writes RESULTS-*.svg."""
    of_throughput = [cell for cell in chosen if cell.group in ("throughput", "spread", "fetch")]
    if of_throughput:
        bars(table, of_throughput, lambda mine, theirs: quotient(mine["mb"], theirs["mb"]), "MB/s, corelane : Kafka", f"{results}-throughput.svg")
        bars(table, of_throughput, lambda mine, theirs: quotient(theirs["gib"], mine["gib"]), "broker CPU per GiB, Kafka : corelane", f"{results}-cpu.svg")
        bars(table, of_throughput, lambda mine, theirs: quotient(theirs["rss"], mine["rss"]), "peak resident memory, Kafka : corelane", f"{results}-memory.svg")
    rates = sorted((float(found.group(1)), cell) for cell in chosen if cell.mode == "produce" and (found := re.search(r"--rate (\d+)", cell.load)))
    if rates:
        over_rate(table, rates, f"{results}-latency.svg")


def quotient(a, b):
    return a / b if a and b else 0


def bars(table, cells, value, label, path):
    values = [value(table[cell.name, "corelane"], table[cell.name, "kafka"]) for cell in cells]
    figure, axes = plt.subplots(figsize=(9, 0.28 * len(cells) + 1))
    axes.barh([cell.name for cell in cells], values, color=COLOURS["corelane"])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.bar_label(axes.containers[0], fmt="%.1f", padding=2, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.tick_params(labelsize=7)
    save(figure, path)


def over_rate(table, rates, path):
    figure, axes = plt.subplots(figsize=(7, 4))
    for side in ("corelane", "kafka"):
        for percentile, style in (("p50", ":"), ("p99", "-"), ("p99.9", "--")):
            points = [(rate, table[cell.name, side][percentile]) for rate, cell in rates if table[cell.name, side][percentile]]
            axes.plot(*zip(*points), style, marker="o", markersize=3, color=COLOURS[side], label=f"{side} {percentile}")
    axes.set(xscale="log", yscale="log", xlabel="requests per second, one record each, acks=all", ylabel="latency from the intended send, us")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    save(figure, path)


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)

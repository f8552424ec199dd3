"""Two cores beside one. On a machine with two CPUs the load runs on the broker's: on one core with everything on it, and on two with everything on both.

What can be reached is what null responders do: one on one core with its load, and two of them, each with its own load on its own core.
So much is outstanding that two cores have enough to do: with little, the disk's latency decides on both. Large batches are left out: one
core with its load fills the disk.
"""

from runs import SIDES, collect, median, ratio, show, table

LOADS = {
    "1 KiB records, 16 KiB batches, acks=all": "--record-size 1k --batch-bytes 16k --acks all",
    "one record a request, acks=1": "--record-size 100 --batch-bytes 0 --acks 1",
    "one record a request, acks=all": "--record-size 100 --batch-bytes 0 --acks all",
}
PARTITIONS = 16
CONNECTIONS = 128
INFLIGHT = 16


def run(session):
    one = session.options.server_cpu
    both = f"{one},{session.options.load_cpu}"
    for number in range(1, session.options.rounds + 1):
        for name, load in LOADS.items():
            session.note({"round": number, "side": "null", "load": name, "one": null(session, load, [one]), "two": null(session, load, both.split(","))})
        for side in SIDES:
            for cores, cpus, threads in (("one", one, 1), ("two", both, 2)):
                with session.start(side, cpus) as broker:
                    for index, (name, load) in enumerate(LOADS.items()):
                        load += f" --connections {CONNECTIONS} --inflight {INFLIGHT} --partitions {PARTITIONS} --threads {threads} --delete-topic"
                        if side == "kafka":
                            session.run("produce", f"{load} --warmup 0s --duration 6s", broker, f"warm-up-{index}", cpus)
                        result = session.run("produce", load, broker, f"cell-{index}", cpus)
                        session.note({"round": number, "side": side, "load": name, cores: result})
                        print(f"round {number} {side:9} {cores} {name}: {result.get('mb_per_s')} MB/s {result.get('requests_per_s')}/s", flush=True)
    session.write(markdown(session.entries))


def null(session, load, cpus):
    """Null responders, each on one core together with its load; the sum of what they do."""
    runs = [session.begin("ceiling", f"{load} --connections {CONNECTIONS // len(cpus)} --inflight {INFLIGHT} --server-cpu {cpu}", cpus=cpu) for cpu in cpus]
    results = [collect(run) for run in runs]
    return {"requests_per_s": sum(result["requests_per_s"] for result in results)}


def markdown(entries):
    rows = []
    for name in LOADS:
        row, scaling = [name], {}
        for side in ("null", *SIDES):
            found = [e for e in entries if e.get("load") == name and e["side"] == side]
            one, two = (median([e for e in found if cores in e], f"{cores}/requests_per_s") for cores in ("one", "two"))
            scaling[side] = two / one if one and two else None
            row.append(f"{show(one)} -> {show(two)}, {show(scaling[side], '.2f')} x")
        rows.append([*row, ratio(scaling["corelane"], scaling["null"])])
    return table(["requests/s on one -> on two cores", "null responders", "corelane", "Kafka", "corelane's scaling : null's"], rows)

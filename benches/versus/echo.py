"""Small requests: the broker beside a bare io_uring loop that answers the same requests without looking at them, and beside the null
responder, which does that on the broker's own runtime (glommio for the tasks, and the data ring)."""

from runs import median, ratio, show, table

SHAPES = {
    "1 connection, 1 outstanding": "--connections 1 --inflight 1",
    "1 connection, 32 outstanding": "--connections 1 --inflight 32",
    "64 connections, 1 outstanding each": "--connections 64 --inflight 1",
    "64 connections, 16 outstanding each": "--connections 64 --inflight 16",
}
SMALL = "--partitions 1 --record-size 100 --batch-bytes 0"


def run(session):
    cpu = f"--server-cpu {session.options.server_cpu}"
    for number in range(1, session.options.rounds + 1):
        with session.start("corelane") as broker:
            for name, shape in SHAPES.items():
                results = {
                    "bare": session.run("ceiling", f"{SMALL} {shape} --acks 1 --bare {cpu}"),
                    "null": session.run("ceiling", f"{SMALL} {shape} --acks 1 {cpu}"),
                    "written": session.run("produce", f"{SMALL} {shape} --acks 1", broker, "written"),
                    "flushed": session.run("produce", f"{SMALL} {shape} --acks all", broker, "flushed"),
                }
                session.note({"round": number, "shape": name, "results": results})
                print(f"round {number} {name}: " + ", ".join(f"{k} {v.get('requests_per_s', v)}" for k, v in results.items()), flush=True)
    session.write(markdown(session.entries))


def markdown(entries):
    rows = []
    for name in SHAPES:
        found = [e["results"] for e in entries if e.get("shape") == name]
        rate = {kind: median(found, f"{kind}/requests_per_s") for kind in ("bare", "null", "written", "flushed")}
        cost = {kind: median(found, f"{kind}/server_cpu") / rate[kind] * 1e6 for kind in rate}
        row = [name, *(f"{show(rate[kind])} ({cost[kind]:.2f})" for kind in rate)]
        rows.append([*row, ratio(rate["written"], rate["bare"]), ratio(cost["bare"], cost["written"]), f"{cost['null'] - cost['bare']:.2f} us"])
    head = ["requests/s (server's CPU, us each)", "bare ring", "null responder", "corelane, acks=1", "corelane, acks=all", "acks=1 : bare, rate"]
    return table([*head, "bare : acks=1, CPU", "the runtime costs, a request"], rows)

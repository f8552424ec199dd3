"""Corelane and Apache Kafka on the same core, under the same load, one after the other; tables, plots, and every run's result.

The load runs on another core. Sections: `matrix` is the workloads of cells.py; `opinions` has Kafka's own performance tools and
librdkafka as clients; `cold` reads what is in no memory, alone and beside other load; `idle` has thousands of connections open that do
nothing; `cores` compares two cores with one; `groups` has rebalances, commits and heartbeats; `single` and `echo` compare small requests
with the disk alone and with a bare io_uring loop; `upkeep` has retention and compaction begin under load.
"""

import argparse
import importlib
import os

import brokers
from runs import Session

SECTIONS = ("matrix", "opinions", "single", "cold", "idle", "cores", "groups", "echo", "upkeep")


def parse():
    parser = argparse.ArgumentParser(prog="scripts/versus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="?", default="matrix", choices=SECTIONS)
    parser.add_argument("--only", action="append", help="matrix: only cells whose name contains this; may be repeated")
    parser.add_argument("--group", default="", choices=("", "throughput", "spread", "fetch", "latency"), help="matrix: only cells of this group")
    parser.add_argument("--alone", action="store_true", help="upkeep: without Kafka")
    parser.add_argument("--add", action="store_true", help="add to the results that are there instead of replacing them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", default="4s", help="measured time of each run (default: %(default)s)")
    parser.add_argument("--warmup", default="1s", help="time before it (default: %(default)s)")
    parser.add_argument("--server-cpu", default="0")
    parser.add_argument("--load-cpu", default="1")
    parser.add_argument("--port", type=int, default=19092)
    parser.add_argument("--heap", default="1g", help="Kafka's heap, its start script's default (default: %(default)s)")
    parser.add_argument("--dir", help="where data is written: on the disk to be measured (default: target/versus)")
    parser.add_argument("--out", default=os.path.join(brokers.ROOT, "benches", "results"), help="where results go (default: benches/results)")
    parser.add_argument("--name", help="name of the results (default: versus, or versus-SECTION)")
    return parser.parse_args()


def main():
    options = parse()
    with Session(options, options.section) as session:
        # Imported when needed: only the matrix draws plots, only the opinions need librdkafka.
        importlib.import_module(options.section).run(session)


if __name__ == "__main__":
    main()

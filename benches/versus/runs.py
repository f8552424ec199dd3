"""What all sections share: the load generator's program, one run of it, the file of results."""

import functools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import tempfile

import brokers

SIDES = ("corelane", "kafka")


def programs(*benches):
    """Paths of the benches' programs, built first."""
    command = ["cargo", "bench", "--no-run", "--quiet", "--locked", "--message-format=json"]
    for bench in benches:
        command += ["--bench", bench]
    output = subprocess.run(command, cwd=brokers.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [re.search(rf'"executable":"([^"]*/{bench}-[^"]*)"', output).group(1) for bench in benches]


class Session:
    """One call of scripts/versus: its options, programs, scratch directory, and results."""

    def __init__(self, options, section):
        self.options = options
        parent = options.dir or os.path.join(brokers.ROOT, "target", "versus")
        os.makedirs(parent, exist_ok=True)
        os.makedirs(options.out, exist_ok=True)
        self.directory = tempfile.mkdtemp(dir=parent)
        self.results = os.path.join(options.out, options.name or ("versus" if section == "matrix" else f"versus-{section}"))
        self.entries = []
        if options.add and os.path.exists(f"{self.results}.jsonl"):
            with open(f"{self.results}.jsonl") as file:
                self.entries = [json.loads(line) for line in file]
        self.file = open(f"{self.results}.jsonl", "a" if self.entries else "w")
        if not self.entries:
            self.note({"machine": machine(options)})

    @functools.cached_property
    def programs(self):
        """The load generator and the disk's limits; built when a section needs them."""
        return programs("load", "limits")

    @property
    def load(self):
        return self.programs[0]

    @property
    def limits(self):
        return self.programs[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def note(self, entry):
        self.entries.append(entry)
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def start(self, side, cpus=None, settings=()):
        """A fresh broker; `settings` are further ones, as KEY=VALUE."""
        directory, cpus = os.path.join(self.directory, side), cpus or self.options.server_cpu
        if side == "corelane":
            return brokers.corelane(directory, self.options.port, cpus, settings)
        return brokers.kafka(directory, self.options.port, cpus, os.environ["KAFKA_LIBS"], self.options.heap, settings)

    def command(self, mode, arguments, broker=None, topic=None, cpus=None):
        """The command line of one run of the load generator."""
        command = ["taskset", "-c", cpus or self.options.load_cpu, self.load, mode, *arguments.split(), "--json", "--quiet"]
        if "--duration" not in arguments:
            command += ["--duration", self.options.duration, "--warmup", self.options.warmup]
        if broker:
            command += ["--bootstrap-server", broker.address, "--server-pid", str(broker.pid)]
        return command + (["--topic", topic] if topic else [])

    def run(self, *arguments, **named):
        """One run; its result, or what went wrong."""
        return collect(self.begin(*arguments, **named))

    def begin(self, *arguments, **named):
        return subprocess.Popen(self.command(*arguments, **named), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def write(self, text):
        """The table for people, below the description of the machine."""
        text = f"{self.entries[0]['machine']}\n\n{text}\n"
        with open(f"{self.results}.md", "w") as file:
            file.write(text)
        print(text)


def collect(process):
    """The result of a run that was begun."""
    output, errors = process.communicate()
    if process.returncode != 0 or not output.startswith("{"):
        return {"failed": (errors or output).strip()[-300:]}
    return json.loads(output)


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


def value(result, path):
    """A figure of a result by its path, such as `response_us/p99`; `None` if it is not there."""
    for key in path.split("/"):
        result = result.get(key) if isinstance(result, dict) else None
    return result if isinstance(result, (int, float)) else None


def median(results, path):
    """The median of a figure over results; `None` if one of them does not have it."""
    found = [value(result, path) for result in results]
    return statistics.median(found) if found and None not in found else None


def show(figure, form=",.0f"):
    return format(figure, form) if figure is not None else "failed"


def ratio(mine, theirs):
    return f"{mine / theirs:.2f}" if mine and theirs else "-"


def table(head, rows):
    """A Markdown table."""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)])

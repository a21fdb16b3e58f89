"""What Kodosumi's own spooler commits a second, of the events of `make bench-events`.

The spooler is Kodosumi's program, as it is installed, with its settings as they are. Runners are actors as the spooler
looks for them, each with a queue that is full before the spooler starts. So nothing is measured of what an agent takes to
emit its events. Needs Python 3.12 or later. Ray listens on all addresses, so give it a network of its own, as root:

    python3.12 -m venv V && V/bin/pip install kodosumi==1.1.0 ray==2.60.0
    unshare --net sh -c 'ip link set lo up; V/bin/python benches/events/kodosumi.py --events 40000 --runners 8'

`KODO_SPOOLER_BATCH_SIZE=1024` and Kodosumi's other settings apply. Prints a line, once all events are stored.
"""

import argparse
import contextlib
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import time

import ray
import ray.util.queue

LINE = "{:>8} what an agent prints is about as long as this is"


# The spooler asks for actors of a class of this name, and for these methods.
@ray.remote
class Runner:
    def __init__(self, events):
        self.queue = ray.util.queue.Queue()
        self.queue.put_nowait_batch(
            [{"timestamp": 1_800_000_000.5, "kind": "stdout", "payload": LINE.format(n)} for n in range(events)]
        )

    def filled(self):
        return self.queue.size()

    def get_username(self):
        return "bench"

    def get_queue(self):
        return self.queue

    def is_active(self):
        return True


def stored(folder):
    """How many events are committed, in all databases."""
    rows = 0
    for file in folder.glob("bench/*/sqlite3.db"):
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        with contextlib.closing(connection), contextlib.suppress(sqlite3.OperationalError):  # it has no table yet
            rows += connection.execute("SELECT coalesce(max(id), 0) FROM monitor").fetchone()[0]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--runners", type=int, default=8)
    arguments = parser.parse_args()
    each = arguments.events // arguments.runners
    total = each * arguments.runners
    # The spooler finds runners by the dashboard's API.
    ray.init(num_cpus=2, include_dashboard=True, log_to_driver=False, namespace="kodosumi")
    runners = [Runner.options(name=f"{n:024x}").remote(each) for n in range(arguments.runners)]
    ray.get([runner.filled.remote() for runner in runners])
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work, "execution")
        environment = dict(
            os.environ,
            KODO_EXEC_DIR=str(folder),
            KODO_UPLOAD_DIR=f"{work}/uploads",
            KODO_SPOOLER_LOG_FILE=f"{work}/spooler.log",
            KODO_YAML_BASE=f"{work}/serve.yaml",
            KODO_RAY_SERVER=ray.get_runtime_context().gcs_address,
        )
        with open(f"{work}/output", "wb") as output:
            spooler = subprocess.Popen(
                [sys.executable, "-m", "kodosumi.spooler"], cwd=work, env=environment, stdout=output, stderr=output
            )
        try:
            began = None
            while (rows := stored(folder)) < total:
                if began is None and rows:
                    began, first = time.monotonic(), rows
                if spooler.poll() is not None:
                    sys.exit(pathlib.Path(work, "output").read_text())
                time.sleep(0.05)
            took = time.monotonic() - began
        finally:
            spooler.kill()
            spooler.wait()
    batch = environment.get("KODO_SPOOLER_BATCH_SIZE", "its default of 10")
    print(
        f"Kodosumi's spooler, {arguments.runners} runners, batch size {batch}: "
        f"{total - first} events in {took:.1f} s, {(total - first) / took:.0f} events/s"
    )
    ray.shutdown()


if __name__ == "__main__":
    main()

"""The page under load: many clients that poll while a queue of jobs is computed on the same cores.

    python benchmarks/web_bench.py [--clients 200] [--jobs 20] [--steps 4]

A server of its own runs the shipped model on the bundled film. Each client keeps a connection and asks once a
second where one of the jobs stands, until all have ended; a listener counts the events. No figure is written when
a job was lost, a request failed, or the event of a job's end did not come.
"""

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import tyro
from harness import write_result

from unity.command import check_bounds, end, real, whole

ROOT = Path(__file__).parents[1]
QUANTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Options:
    clients: Annotated[int, whole(1, 10_000)] = 200
    jobs: Annotated[int, whole(1, 1000)] = 20
    # sampling steps of each job
    steps: Annotated[int, whole(1, 200)] = 4
    # seconds between two questions of a client
    pause: Annotated[float, real(0, 60)] = 1.0
    # most seconds that all of it may take
    patience: Annotated[int, whole(1)] = 1800
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


@dataclass
class Seen:
    """What the clients met."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    events: int = 0
    # megabytes of the server and of the process that computes
    memory: list[tuple[float, float]] = field(default_factory=list)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[int, bytes]:
    """One GET on a connection that stays open: status and body."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"content-length: (\d+)", head)
    return int(head.split()[1]), await reader.readexactly(int(length[1]) if length else 0)


async def poll(number: int, port: int, jobs: list[str], seen: Seen, options: Options) -> None:
    """One client, until its server has no job left that it does not know the end of."""
    await asyncio.sleep(options.pause * number / options.clients)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = number
    while len(seen.ended) < len(jobs):
        name = jobs[turn % len(jobs)]
        turn += 1
        start = time.perf_counter()
        status, body = await ask(reader, writer, f"/api/jobs/{name}")
        seen.seconds.append(time.perf_counter() - start)
        state = json.loads(body)
        if status != 200:
            seen.failed.append(f"{status}: {body[:200].decode()}")
        elif state["ended"]:
            seen.ended[name] = state["state"]
        await asyncio.sleep(options.pause)
    writer.close()


async def listen(port: int, jobs: list[str], seen: Seen) -> None:
    """Events, until the end of every job was told."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    left = set(jobs)
    while left:
        line = await reader.readline()
        if line.startswith(b"data: "):
            state = json.loads(line[6:])
            seen.events += 1
            if state["ended"]:
                left.discard(state["id"])
    writer.close()


async def watch(server: psutil.Process, seen: Seen) -> None:
    """Memory, every second."""
    while True:
        workers = sum(child.memory_info().rss for child in server.children(recursive=True))
        seen.memory.append((server.memory_info().rss / 1e6, workers / 1e6))
        await asyncio.sleep(1)


async def load(port: int, jobs: list[str], server: psutil.Process, options: Options) -> Seen:
    seen = Seen()
    watching = asyncio.create_task(watch(server, seen))
    clients = (poll(number, port, jobs, seen, options) for number in range(options.clients))
    await asyncio.wait_for(asyncio.gather(listen(port, jobs, seen), *clients), options.patience)
    watching.cancel()
    return seen


def submit(port: int, steps: int, seed: int) -> str:
    """Queue a job; its id."""
    body = {"task": "estimate", "modalities": ["depth"], "input": "people", "steps": steps, "seed": seed}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/jobs", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["id"]


def main(options: Options) -> None:
    check_bounds(options)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "unity.apps.web", "--port", "0", "--out", scratch]
        process = subprocess.Popen(
            [*command, "--queue", str(options.jobs)], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().partition("127.0.0.1:")[2].partition("/")[0])
            start = time.perf_counter()
            jobs = [submit(port, options.steps, seed) for seed in range(options.jobs)]
            seen = asyncio.run(load(port, jobs, psutil.Process(process.pid), options))
            spent = time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()
    lost = [name for name in jobs if seen.ended.get(name) != "done"]
    if lost or seen.failed:
        raise ValueError(
            f"{len(lost)} of {len(jobs)} jobs were lost, {len(seen.failed)} requests failed: {seen.failed[:1]}"
        )
    row = _row(options, seen, spent)
    print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(write_result("web_bench", [row], folder=options.out, load=os.getloadavg()[0]))


def _row(options: Options, seen: Seen, spent: float) -> dict:
    cuts = statistics.quantiles(seen.seconds, n=100)
    server, worker = zip(*seen.memory, strict=True)
    return {
        "clients": options.clients,
        "jobs": options.jobs,
        "steps": options.steps,
        "seconds": round(spent, 1),
        "requests": len(seen.seconds),
        "events": seen.events,
        "lost_jobs": 0,
        "failed_requests": 0,
        **{f"p{q}_ms": round(1e3 * cuts[q - 1], 1) for q in QUANTILES},
        "most_ms": round(1e3 * max(seen.seconds), 1),
        "server_mb": {"first": round(server[0]), "last": round(server[-1]), "most": round(max(server))},
        "worker_mb": {"most": round(max(worker))},
    }


if __name__ == "__main__":
    end("web_bench", lambda: main(tyro.cli(Options, description=__doc__)))

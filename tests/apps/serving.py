"""A server of a page in this process, and who speaks to one."""

import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI

from unity.apps.listening import Listening
from unity.apps.serving import listen


class Client:
    """Speaks HTTP to a server; what is no success raises HTTPError."""

    def __init__(self, address: str):
        self.address = address

    def open(self, path: str, body: bytes | None = None, method: str | None = None, **headers: str):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        return urllib.request.urlopen(request, timeout=60)

    def get(self, path: str):
        with self.open(path) as answer:
            return json.load(answer)

    def post(self, path: str, value: object = None):
        with self.open(path, json.dumps(value).encode(), "POST", content_type="application/json") as answer:
            return json.load(answer)

    def send(self, data: bytes, name: str = "film.mp4"):
        with self.open(f"/api/inputs?name={name}", data, "POST") as answer:
            return json.load(answer)

    def refused(self, *args, **kwargs) -> tuple[int, str]:
        """Status and sentence of what is refused."""
        with pytest.raises(urllib.error.HTTPError) as found:
            self.open(*args, **kwargs)
        return found.value.code, json.load(found.value)["detail"]

    def wait(self, job: dict, *states: str, seconds: float = 60) -> dict:
        """The job when it stands as one of the states, by default when it has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.get(f"/api/jobs/{job['id']}")
            if found["state"] in (states or ("done", "failed", "cancelled")):
                return found
            time.sleep(0.02)
        raise AssertionError(found)


@contextmanager
def serving(app: FastAPI):
    """A server in this process; its client."""
    listening = listen(Listening(port=0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()

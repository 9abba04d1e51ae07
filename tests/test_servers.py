"""Inside the servers that applications run under: workers forked after the first vector, and spawned ones."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from models import load

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn forks")

TEXT = "a text that is asked for"

APPLICATION = f"""
import json, os
from langchain_embprov import EmbProviderEmbeddings

embeddings = EmbProviderEmbeddings()  # from the environment
embeddings.embed_documents(["loaded", "and used before any worker is forked"] * 20)

def answer(vector):
    return json.dumps([os.getpid(), vector]).encode()

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer(embeddings.embed_query({TEXT!r}))]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    body = answer(await embeddings.aembed_query({TEXT!r}))
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": body}})
"""


@contextmanager
def serving(command: list[str], model: Path, engine: str) -> Iterator[str]:
    """A server with two workers on a socket that is open already: nobody waits for it to be ready."""
    Path("application.py").write_text(APPLICATION, encoding="utf-8")
    settings = {"EMB_PROVIDER_MODEL_PATH": str(model), "EMB_PROVIDER_ENGINE": engine}
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening, Path("log").open("w+") as log:
        fd = listening.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", *(part.format(fd=fd) for part in command)],
            env={**os.environ, **settings},
            pass_fds=[fd],
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.terminate()
            status = server.wait(60)
        log.seek(0)
        assert status in (0, -signal.SIGTERM), log.read()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize(
    "command",
    [
        ["gunicorn", "application:wsgi", "--preload", "--workers=2", "--threads=4", "--bind=fd://{fd}"],
        ["uvicorn", "application:asgi", "--workers=2", "--fd={fd}", "--log-level=warning"],
    ],
    ids=["gunicorn", "uvicorn"],
)
def test_every_worker_answers_with_the_vectors(command: list[str], engine: str, toy_model: Path) -> None:
    expected = load(toy_model, engine=engine).embed([TEXT], "query")[0]

    def ask(url: str) -> tuple[int, list[float]]:
        with urlopen(url, timeout=60) as response:
            pid, vector = json.load(response)
        return pid, vector

    workers: set[int] = set()
    with serving(command, toy_model, engine) as url, ThreadPoolExecutor(16) as users:
        while len(workers) < 2:  # the system deals the connections out
            for pid, vector in users.map(ask, [url] * 16):
                workers.add(pid)
                np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)

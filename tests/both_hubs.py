"""One of the two local hubs with what the package calls its things, so that one test runs on both."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hubs import HuggingFaceHub, ModelScopeHub

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.loaders.hub_loader import HubModelLoader
from emb_model_provider.core.loaders.huggingface import HuggingFaceModelLoader
from emb_model_provider.core.loaders.modelscope import ModelScopeModelLoader
from emb_model_provider.core.model_manager import ModelManager

ID = "org/toy.v1"  # with a dot, which old ModelScope layouts rewrite
WEIGHTS = "model.safetensors"
NAMES = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
SETTINGS: dict[str, Any] = {
    "engine": "torch",
    "device": "cpu",
    "connect_timeout": 2.0,
    "download_stall_timeout": 5.0,
}

# A bound is what the user is promised. The machine that runs the tests may be busy with others' work
# (a Python has to be started), which must not make a test fail.
BUSY_MACHINE = 5.0


@dataclass
class Side:
    """One hub.

    Attributes:
        source: `huggingface` or `modelscope`.
        hub: It serves the toy model as `org/toy.v1`.
        root: The machine's folders; see `isolated_environment`.
        commit: The toy model's.
    """

    source: str
    hub: HuggingFaceHub | ModelScopeHub
    root: Path
    commit: str = ""

    @property
    def name(self) -> str:
        """As it is printed."""
        return NAMES[self.source]

    @property
    def endpoint_variable(self) -> str:
        """Where its address is set."""
        return "HF_ENDPOINT" if self.source == "huggingface" else "MODELSCOPE_ENDPOINT"

    @property
    def token_variable(self) -> str:
        """Where its client finds a token."""
        return "HF_TOKEN" if self.source == "huggingface" else "MODELSCOPE_API_TOKEN"

    @property
    def token_setting(self) -> str:
        """The Config's field for a token."""
        return "hf_token" if self.source == "huggingface" else "modelscope_token"

    @property
    def list_path(self) -> str:
        """What is in the path of each request for a list of files, and of no other."""
        return "/api/models/" if self.source == "huggingface" else "/repo/files"

    @property
    def file_path(self) -> str:
        """What is in the path of each request for a file, and of no other."""
        return "/resolve/" if self.source == "huggingface" else "FilePath="

    @property
    def snapshot(self) -> Path:
        """Where a download of the toy model puts its files."""
        if self.source == "huggingface":
            return self.root / "hf_home" / "hub" / "models--org--toy.v1" / "snapshots" / self.commit
        return self.root / "modelscope_cache_dir" / "models" / "org--toy.v1" / "snapshots" / "master"

    @property
    def other(self) -> str:
        """The other source."""
        return "modelscope" if self.source == "huggingface" else "huggingface"

    def config(self, **settings: Any) -> Config:
        """Settings to load the toy model from here, with short waits."""
        return Config(**({"model_source": self.source, "model_name": ID} | SETTINGS | settings))

    def loader(self, **settings: Any) -> HubModelLoader:
        """A loader, which shares no model with another."""
        kind = HuggingFaceModelLoader if self.source == "huggingface" else ModelScopeModelLoader
        return kind(self.config(**settings))

    def load(self, **settings: Any) -> EmbeddingModel:
        """Load the toy model."""
        return self.loader(**settings).load_model()

    def manager(self, **settings: Any) -> ModelManager:
        """A manager that has loaded the toy model."""
        manager = ModelManager(self.config(**settings))
        manager.load_model()
        return manager

    def fetched(self) -> Counter[str]:
        """How often the body of each file was asked for."""
        paths = [r.path for r in list(self.hub.requests) if self.file_path in r.path and r.method == "GET"]
        if self.source == "huggingface":
            return Counter(path.split("/resolve/")[1].partition("/")[2] for path in paths)
        return Counter(path.split("FilePath=")[1].partition("&")[0] for path in paths)

    def lists(self) -> int:
        """Requests for the list of files."""
        return self.hub.count(self.list_path)


def same(model: EmbeddingModel, other: EmbeddingModel) -> bool:
    """Whether two models give equal vectors."""
    texts = ["hello world", "向量搜索把句子变成数字。"]
    return np.array_equal(model.embed(texts), other.embed(texts))


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails when what is inside takes longer, on a machine that is not busy."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + BUSY_MACHINE


@contextmanager
def blackhole() -> Iterator[str]:
    """An address whose packets are dropped: Linux does that for a listener with a full queue."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):  # the first two fill the queue
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"

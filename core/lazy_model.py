"""What both adapters are made of: settings whose model is loaded at the first use.

What embeds is imported then too: an import of an adapter costs its settings alone.
"""

import asyncio
import contextvars
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.micro_batching import MicroBatcher
from emb_model_provider.core.embedding.texts import check_texts
from emb_model_provider.core.embedding.turns import Turns

if TYPE_CHECKING:
    from typing_extensions import Self

    from emb_model_provider.core.embedding.description import Role
    from emb_model_provider.core.embedding.model import EmbeddingModel
    from emb_model_provider.core.model_manager import ModelManager


class LazyModel(Config):
    """Settings, and the model they name, loaded when it is first needed.

    Copies share the model; a pickle holds the settings only and loads the model again where it is used.
    """

    show_progress: bool = Field(default=False, description="true or false; a progress bar on stderr")

    _runtime: "_Runtime | None" = PrivateAttr(None)

    @property
    def model(self) -> "EmbeddingModel":
        """The model, loaded now if it is not yet.

        Raises:
            ModelLoadError: It cannot be loaded; the subclass says why. The next use tries again.
        """
        return self._running().lazy.loaded().model

    def get_model_info(self) -> dict[str, Any]:
        """What is loaded and where it came from; see `ModelManager.get_model_info`."""
        return self._running().lazy.loaded().get_model_info()

    def embed(self, texts: Sequence[str], role: "Role") -> list[list[float]]:
        """One list of floats for each text, in order; [] for none, without loading the model.

        Raises:
            EmbeddingInputError: Something among the texts cannot be embedded; names its index.
            ModelLoadError: The model cannot be loaded.
        """
        check_texts(texts)
        return self._embed(texts, role)

    def _embed(
        self, texts: Sequence[str], role: "Role", stop: threading.Event | None = None
    ) -> list[list[float]]:
        if not texts:
            return []
        shown = self.show_progress and len(texts) > 1
        vectors = self.model.embed(texts, role, show_progress=shown, stop=stop)
        # Row by row: one call for all would keep every other thread, and an event loop, waiting.
        return [vector.tolist() for vector in vectors]

    async def aembed(self, texts: Sequence[str], role: "Role") -> list[list[float]]:
        """Like `embed`, off the event loop.

        Single texts of concurrent calls share batches (see MicroBatcher). Lists run on one thread of our
        own, so that the loop's default pool stays free for others; cancelled, one ends with the forward pass
        that runs.
        """
        check_texts(texts)
        if len(texts) == 1:
            vector = await asyncio.wrap_future(self._running().single.submit(texts[0], role))
            return [vector.tolist()]
        if not texts:
            return []
        call, stop = contextvars.copy_context().run, threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._running().bulk, call, self._embed, texts, role, stop)
        finally:
            stop.set()

    def __copy__(self) -> "Self":
        copied = super().__copy__()
        copied._runtime = None  # model_copy(update=...) may ask for another model
        return copied

    def _running(self) -> "_Runtime":
        runtime = self._runtime
        if runtime is None:
            runtime = self._runtime = _Runtime(_LazyManager(self.core()))
        elif runtime.pid != os.getpid():  # a fork takes no threads along
            runtime = self._runtime = _Runtime(runtime.lazy)
        return runtime


class _LazyManager:
    """A manager, made and its model loaded when they are first needed.

    What a manager imports takes 0.1 s, which an event loop must not wait for: a thread asks first.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._manager: ModelManager | None = None

    def loaded(self) -> "ModelManager":
        """Raises `ModelLoadError` like `ModelManager.load_model`; the next call tries again."""
        manager = self._manager
        if manager is None:
            with Turns().turn():  # a fork waits for the import
                from emb_model_provider.core.model_manager import ModelManager
            # Two threads may make one each: equal managers share the model.
            manager = self._manager = ModelManager(self._config)
        if not manager.loaded:
            manager.load_model()
        return manager


class _Runtime:
    """What a LazyModel needs while it works. A copy or a pickle of it is None: each makes its own.

    It does not know its LazyModel: no cycle keeps the model after the last user let it go.
    """

    def __init__(self, lazy: _LazyManager) -> None:
        self.pid = os.getpid()
        self.lazy = lazy
        self.single = MicroBatcher(lambda texts, role: lazy.loaded().model.embed(texts, role))
        self.bulk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedding-documents")

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

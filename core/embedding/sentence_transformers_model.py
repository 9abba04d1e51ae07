"""A model served by sentence-transformers itself: for what our own reader refuses, when asked for by name."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.forward import check_components
from emb_model_provider.core.embedding.layers import Layer, Normalize, refusal
from emb_model_provider.core.embedding.model import EmbeddingModel, Role, in_windows
from emb_model_provider.core.embedding.pooling import Floats, normalize
from emb_model_provider.core.embedding.prompts import Prompts
from emb_model_provider.core.embedding.texts import check_texts, checked
from emb_model_provider.core.embedding.tokenization import check_room
from emb_model_provider.core.embedding.transformer_files import check_config, entries
from emb_model_provider.core.embedding.truncation import TruncationWatch
from emb_model_provider.core.errors import (
    ConfigError,
    MissingDependencyError,
    ModelFilesError,
    UnsupportedModelError,
)

_SETTINGS = "config_sentence_transformers.json"


class SentenceTransformersModel(EmbeddingModel):
    """What `EmbeddingModel` does, by sentence-transformers' own code. Thread-safe."""

    def __init__(
        self,
        model: Any,
        description: ModelDescription,
        config: Config,
        *,
        prompts: Prompts,
        fingerprint: str,
    ) -> None:
        self.description = description
        self.fingerprint = fingerprint
        self.prompts = prompts
        self.device = str(model.device)
        self.precision = "fp32"
        self.dimension = int(model.get_embedding_dimension())
        self._model = model
        self._max_batch_size = config.max_batch_size
        self._watch = TruncationWatch(config.on_truncation)
        self._computing = threading.Lock()

    @property
    def max_length(self) -> int | None:
        """Tokens kept of a text; None when there is no limit, or none is known."""
        length = getattr(self._model, "max_seq_length", None)
        return int(length) if isinstance(length, int) and length < 10**9 else None

    def count_tokens(self, texts: Sequence[str], role: Role = "document") -> list[int]:
        """Tokens of each text before it is cut, with the role's prompt and the special tokens.

        Raises:
            EmbeddingInputError: Something among the texts is not a text; names its index.
            UnsupportedModelError: The model's tokenizer does not count.
        """
        check_texts(texts)
        tokenizer = getattr(self._model, "tokenizer", None)
        if not callable(tokenizer):
            raise UnsupportedModelError(f"The tokenizer of {self.description.folder} does not count tokens.")
        prompt = self.prompt(role)
        encoded = tokenizer([prompt + text for text in texts], truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def embed(
        self,
        texts: Sequence[str],
        role: Role = "document",
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        stop: threading.Event | None = None,
    ) -> Floats:
        """Embed texts; see `EmbeddingModel.embed`. Nothing stops it."""
        check_texts(texts)
        return self._encode(texts, role, self._batch_size(batch_size), show_progress=show_progress)

    def embed_stream(
        self, texts: Iterable[str], role: Role = "document", *, batch_size: int | None = None
    ) -> Iterator[Floats]:
        """Embed any number of texts; see `EmbeddingModel.embed_stream`."""
        size, done = self._batch_size(batch_size), 0
        for window in in_windows(checked(texts)):
            yield self._encode(window, role, size, done)
            done += len(window)

    def _encode(
        self, texts: Sequence[str], role: Role, size: int, first: int = 0, *, show_progress: bool = False
    ) -> Floats:
        """The vectors of texts that are the `first`th and later ones of a call."""
        prompt = self.prompt(role)
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        limit = self.max_length
        if limit is not None and self._watch.policy != "ignore":
            lengths = enumerate(self.count_tokens(texts, role), first)
            self._watch.report({i: n for i, n in lengths if n > limit}, limit, first + len(texts))
        with self._computing:
            vectors: Floats = self._model.encode(
                list(texts),
                prompt=prompt,
                batch_size=size,
                show_progress_bar=show_progress,
                convert_to_numpy=True,
            ).astype(np.float32, copy=False)
        self._refuse_non_finite(vectors, first)
        truncated = self._model.truncate_dim is not None and self.description.normalized
        return normalize(vectors) if truncated else vectors


def describe_for_sentence_transformers(folder: ModelFolder, config: Config) -> ModelDescription:
    """What can be said of the model, if nothing in its folder can run code or set switches elsewhere.

    Raises:
        ModelFilesError: A file is missing or damaged.
        UnsupportedModelError: The folder asks for what stays closed here; names the file and the reason.
    """
    modules = folder.json_list("modules.json")
    types = [str(module.get("type", "")) for module in modules]
    for kind in types:
        if not kind.startswith("sentence_transformers.") and not config.trust_remote_code:
            raise refusal(folder, "modules.json", f"the module type {kind!r} is code of the model's own")
    for module in modules:
        folder.file(str(module.get("path", "")))  # no path out of the folder
    found = sorted(folder.path.rglob("*"))
    # No link out of the folder either.
    names = [name for p in found if folder.file(name := p.relative_to(folder.path).as_posix()).is_file()]
    if "adapter_config.json" in names:
        raise refusal(folder, "adapter_config.json", "this is an adapter for another model")
    for name in names:
        if name.endswith("config.json") or PurePosixPath(name).name in ("modules.json", _SETTINGS):
            _refuse_switches(folder, name, config)
    if not config.allow_pickle_weights:
        for name in names:
            if name.endswith(".bin") and str(PurePosixPath(name).with_name("model.safetensors")) not in names:
                raise refusal(folder, name, "the weights are a pickle")
    saved = folder.json(_SETTINGS)
    last: tuple[Layer, ...] = (Normalize(),) if types and types[-1].endswith(".Normalize") else ()
    return ModelDescription(
        folder=folder,
        layers=last,
        config=folder.json("config.json"),
        prompts=_prompts(folder, saved.get("prompts") or {}),
        similarity=saved.get("similarity_fn_name"),
        weights=tuple(n for n in names if n.endswith((".safetensors", ".bin", ".json"))),
    )


def load_sentence_transformers(
    description: ModelDescription, config: Config, *, prompts: Prompts, fingerprint: str
) -> SentenceTransformersModel:
    """Load the model in float32 from its folder, with pickles and remote code closed as the settings say.

    Raises:
        MissingDependencyError: sentence-transformers is not installed.
        ConfigError: `devices` are given, or the model has not the components or no room for the tokens asked.
        ModelFilesError: It cannot load the folder; the cause is chained.
    """
    if config.devices:
        raise ConfigError(
            "The engine sentence-transformers runs on one device. Set device (EMB_PROVIDER_DEVICE), not "
            "devices (EMB_PROVIDER_DEVICES)."
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "The engine sentence-transformers is not installed. "
            "Install with: pip install sentence-transformers"
        ) from error
    import torch

    trusted = config.trust_remote_code
    try:
        model: Any = SentenceTransformer(
            str(description.folder.path),
            device=None if config.device == "auto" else config.device,
            local_files_only=True,
            trust_remote_code=trusted,
            model_kwargs={
                "dtype": torch.float32,
                "weights_only": True,
                "use_safetensors": None if config.allow_pickle_weights else True,
                "trust_remote_code": trusted,
            },
        )
    except Exception as error:  # it raises what any of its modules does
        raise ModelFilesError(
            f"sentence-transformers cannot load {description.folder}: {error}. Use a complete copy."
        ) from error
    # Its own code would cut to nothing, or not at all, without a word.
    saved, model.truncate_dim = model.truncate_dim, None
    check_components(description, config.truncate_dim, model.get_embedding_dimension())
    model.truncate_dim = config.truncate_dim or saved
    if config.max_context_length is not None:
        tokenizer = getattr(model, "tokenizer", None)
        check_room(config.max_context_length, getattr(tokenizer, "num_special_tokens_to_add", lambda: 0)())
        model.max_seq_length = min(
            config.max_context_length, model.max_seq_length or config.max_context_length
        )
    return SentenceTransformersModel(model, description, config, prompts=prompts, fingerprint=fingerprint)


def _prompts(folder: ModelFolder, prompts: Any) -> dict[str, str]:
    """The saved prompts by name, without the empty ones."""
    if not isinstance(prompts, dict) or not all(isinstance(x, str | None) for x in prompts.values()):
        raise refusal(folder, _SETTINGS, "prompts is not an object of texts")
    return {name: prompt for name, prompt in prompts.items() if prompt}


def _refuse_switches(folder: ModelFolder, name: str, config: Config) -> None:
    content = folder.any_json(name)
    check_config(folder, name, content, trust_remote_code=config.trust_remote_code)
    for key, value in entries(content):
        if key.endswith(("_args", "_kwargs")) and value:
            raise refusal(folder, name, f"the key {key!r} passes arguments on to other libraries")

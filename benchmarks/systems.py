"""The systems that are compared: each opens the same model, as its own documentation says.

Batch sizes are each system's defaults. Every system reads at most MAX_TOKENS of a text: the model's files say
so, and fastembed, which does not read that file, is told.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

MAX_TOKENS = 256

Precision = Literal["fp32", "bf16", "int8"]

# What a user of the framework has imported before any adapter. langchain_core.embeddings alone imports
# nothing: the class in it is lazy.
FRAMEWORKS = {"langchain": "langchain_core.embeddings.embeddings", "llamaindex": "llama_index.core"}


@dataclass(frozen=True)
class Embedder:
    """A loaded model behind the calls that a user of the system makes."""

    documents: Callable[[list[str]], Any]
    query: Callable[[str], Any]
    aquery: Callable[[str], Awaitable[Any]] | None = None


@dataclass(frozen=True)
class System:
    """What is compared.

    Attributes:
        name: In tables and on the command line.
        module: What a user imports.
        open: From the model's folder and a folder for converted files to a model.
        framework: A key of FRAMEWORKS; None for a library of its own.
        precision: What the model computes in.
        ours: Whether it is this package.
    """

    name: str
    module: str
    open: Callable[[Path, Path], Embedder]
    framework: str | None = None
    precision: Precision = "fp32"
    ours: bool = False


def sentence_transformers(model: Path, _: Path) -> Embedder:
    """The oracle of every comparison, and what most ratios are against."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(model), device="cpu")
    return Embedder(
        documents=lambda texts: loaded.encode(texts, show_progress_bar=False),
        query=lambda text: loaded.encode(text, show_progress_bar=False),
    )


def langchain_huggingface(model: Path, _: Path) -> Embedder:
    """sentence-transformers behind LangChain."""
    from langchain_huggingface import HuggingFaceEmbeddings

    loaded = HuggingFaceEmbeddings(model_name=str(model), model_kwargs={"device": "cpu"})
    return Embedder(loaded.embed_documents, loaded.embed_query, loaded.aembed_query)


def llama_index_huggingface(model: Path, _: Path) -> Embedder:
    """sentence-transformers behind LlamaIndex."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    loaded = HuggingFaceEmbedding(model_name=str(model), device="cpu")
    return Embedder(loaded.get_text_embedding_batch, loaded.get_query_embedding, loaded.aget_query_embedding)


def fastembed(model: Path, cache: Path) -> Embedder:
    """ONNX Runtime on the same weights, exported as float32 because its own hub is not to be reached."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="benchmark/all-MiniLM-L6-v2",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="benchmark/all-MiniLM-L6-v2"),
        dim=384,
        model_file="model.onnx",
    )
    loaded = TextEmbedding(
        "benchmark/all-MiniLM-L6-v2", specific_model_path=str(_onnx_model(model, cache)), cuda=False
    )
    return Embedder(
        documents=lambda texts: list(loaded.embed(texts)),
        query=lambda text: next(iter(loaded.query_embed(text))),
    )


def _onnx_model(model: Path, cache: Path) -> Path:
    """The folder with the exported model; exported now if it is not there yet."""
    folder = cache / "onnx"
    if (folder / "model.onnx").is_file():
        return folder
    import torch
    from transformers import AutoModel

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Eager attention: the faster graph, and 1.6 GB less memory, in ONNX Runtime as well.
            self.model = AutoModel.from_pretrained(
                model, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
            )

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Any:
            return self.model(ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "special_tokens_map.json", "config.json"):
        shutil.copyfile(model / name, folder / name)
    settings = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": MAX_TOKENS}))
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        LastHiddenState().eval(),
        (mask, mask, torch.zeros_like(mask)),
        folder / "unchecked.onnx",
        input_names=inputs,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "texts", 1: "tokens"} for name in [*inputs, "last_hidden_state"]},
        dynamo=False,
    )
    (folder / "unchecked.onnx").rename(folder / "model.onnx")
    return folder


def _ours_langchain(precision: Precision) -> Callable[[Path, Path], Embedder]:
    def start(model: Path, _: Path) -> Embedder:
        from langchain_embprov import EmbProviderEmbeddings

        loaded = EmbProviderEmbeddings(
            model_path=str(model), device="cpu", engine="openvino", precision=precision
        )
        return Embedder(loaded.embed_documents, loaded.embed_query, loaded.aembed_query)

    return start


def _ours_llamaindex(precision: Precision) -> Callable[[Path, Path], Embedder]:
    def start(model: Path, _: Path) -> Embedder:
        from llamaindex_embprov import EmbProviderEmbedding

        loaded = EmbProviderEmbedding(
            model_path=str(model), device="cpu", engine="openvino", precision=precision
        )
        return Embedder(
            loaded.get_text_embedding_batch, loaded.get_query_embedding, loaded.aget_query_embedding
        )

    return start


BASELINE = "sentence-transformers"

_PEERS = [
    System(BASELINE, "sentence_transformers", sentence_transformers),
    System("langchain-huggingface", "langchain_huggingface", langchain_huggingface, "langchain"),
    System(
        "llama-index-huggingface",
        "llama_index.embeddings.huggingface",
        llama_index_huggingface,
        "llamaindex",
    ),
    System("fastembed", "fastembed", fastembed),
]

_OURS = [
    System(
        f"{module.replace('_', '-')}-{precision}", module, start(precision), framework, precision, ours=True
    )
    for precision in get_args(Precision)
    for framework, module, start in (
        ("langchain", "langchain_embprov", _ours_langchain),
        ("llamaindex", "llamaindex_embprov", _ours_llamaindex),
    )
]

SYSTEMS = {system.name: system for system in [*_PEERS, *_OURS]}


def peer(system: System) -> str:
    """The other adapter to the same framework."""
    same = (s.name for s in _PEERS if s.framework == system.framework)
    return next(same) if system.framework else BASELINE

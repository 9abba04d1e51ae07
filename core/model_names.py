"""From the name a user gives to the candidates to try, in order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from emb_model_provider.core.config import Config

Source = Literal["huggingface", "modelscope"]

# Name on Hugging Face -> id on ModelScope. An id of its own is exact: the same model, and the id is tried as
# it is. Any other is a substitute, a *different model*, tried last and only with `allow_substitutes`.
DEFAULT_MODELSCOPE_MAPPING: Mapping[str, str] = {
    # Substitutes of the same width, 384. Both hubs have all-MiniLM-L6-v2 itself, with equal hashes.
    "sentence-transformers/all-MiniLM-L6-v2": "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "sentence-transformers/all-MiniLM-L12-v2": "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    # Exact: published by BAAI on both hubs.
    "BAAI/bge-small-en-v1.5": "BAAI/bge-small-en-v1.5",
    "BAAI/bge-base-en-v1.5": "BAAI/bge-base-en-v1.5",
    # Exact by name, but ModelScope is not known to have an owner thenlper. It has copies that others made,
    # such as Xorbits/gte-base; their hashes were not compared: name one in modelscope_model_id to use it.
    "thenlper/gte-small": "thenlper/gte-small",
    "thenlper/gte-base": "thenlper/gte-base",
    # Substitutes, of width 768 for 768, and 768 for 1024.
    "shibing624/text2vec-base-chinese": "damo/nlp_gte_sentence-embedding_chinese-base",
    "GanymedeNil/text2vec-large-chinese": "damo/nlp_gte_sentence-embedding_chinese-base",
}


@dataclass(frozen=True)
class Candidate:
    """One place to try.

    Attributes:
        source: The hub.
        repo_id: `owner/name` there.
        substitute_for: The name asked for, when this is a different model; None when it is the same.
    """

    source: Source
    repo_id: str
    substitute_for: str | None = None

    def __str__(self) -> str:
        return f"{self.repo_id} on {HUB_NAMES[self.source]}"


HUB_NAMES: Mapping[str, str] = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}


def full_name(model_name: str) -> str:
    """A name without an owner belongs to `sentence-transformers`, as in that library."""
    return model_name if "/" in model_name else f"sentence-transformers/{model_name}"


def candidates(model_name: str, config: Config) -> tuple[Candidate, ...]:
    """Where to look for a model: exact ones first, then the default mapping's different model.

    An explicit `modelscope_model_id` or an entry of the user's mapping is the user's word that the model
    is the same, and replaces the name on ModelScope.
    """
    name = full_name(model_name)
    chosen = config.modelscope_model_id or config.modelscope_model_mapping.get(name)
    modelscope = Candidate("modelscope", chosen or name)
    huggingface = Candidate("huggingface", name)
    substitute = DEFAULT_MODELSCOPE_MAPPING.get(name, name)
    found: list[Candidate] = []
    if config.model_source in ("modelscope", "auto"):
        found.append(modelscope)
    if config.model_source in ("huggingface", "auto"):
        found.append(huggingface)
    wanted = config.allow_substitutes and not chosen and substitute != name
    if config.model_source != "huggingface" and wanted:
        found.append(Candidate("modelscope", substitute, substitute_for=name))
    return tuple(found)

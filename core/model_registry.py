"""Well-known models and what is known of them: dimension, length, prompts, languages, ids on both hubs.

The data is in model_registry.json, each entry with its sources. It describes and recommends; it never
takes the place of what a model's own files say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from emb_model_provider.core.errors import ConfigError

MULTILINGUAL = "multilingual"


@dataclass(frozen=True)
class RegisteredModel:
    """One well-known model. None stands for what could not be confirmed.

    Attributes:
        name: The name it is known by.
        huggingface: Its id there; None when it is not there.
        modelscope: Its id there; None when it is not there.
        modelscope_exact: Whether the ModelScope id is the publisher's own copy; False for another's.
        dimension: Width of its vectors.
        max_length: Tokens kept of a text.
        pooling: Such as `mean`, `cls`, `lasttoken`, or `static`.
        languages: Codes such as `en`; `multilingual` for a model made for many.
        prompts: What its card recommends to put before a text, by role; None when it recommends nothing.
        prompts_in_files: Whether its files carry those prompts.
        prompts_note: What else there is to know about its prompts.
        parameters_millions: Millions of parameters.
        licence: As its card has it.
        needs: What it needs besides its files, such as `trust_remote_code`.
        source: Where this is from.
    """

    name: str
    huggingface: str | None
    modelscope: str | None
    modelscope_exact: bool | None
    dimension: int
    max_length: int | None
    pooling: str | None
    languages: tuple[str, ...]
    prompts: Mapping[Literal["query", "document"], str] | None
    prompts_in_files: bool | None
    prompts_note: str | None
    parameters_millions: float | None
    licence: str | None
    needs: str | None
    source: tuple[str, ...]


def find(name: str) -> RegisteredModel | None:
    """The model known by a name or by an id on one of the hubs, upper and lower case being equal."""
    wanted = name.lower()
    return next((m for m in _read() if wanted in _names(m)), None)


def list_models(
    language: str | None = None,
    max_dimension: int | None = None,
    *,
    max_parameters_millions: float | None = None,
    min_length: int | None = None,
    source: Literal["huggingface", "modelscope"] | None = None,
    plain: bool = False,
) -> tuple[RegisteredModel, ...]:
    """The well-known models that meet every condition given, by name.

    Args:
        language: A code such as `zh`; models made for many languages count for each.
        max_dimension: Width of the vectors at most.
        max_parameters_millions: Millions of parameters at most; a model of unknown size does not count.
        min_length: Tokens that a text may have at least; a static model has no limit.
        source: Only models with an id on this hub.
        plain: Only models that load with the default settings.

    Raises:
        ConfigError: There is no such hub.
    """
    if source not in (None, "huggingface", "modelscope"):
        raise ConfigError(f"Unknown model source: {source}. source takes huggingface or modelscope.")
    return tuple(
        model
        for model in _read()
        if (language is None or {language, MULTILINGUAL} & set(model.languages))
        and (max_dimension is None or model.dimension <= max_dimension)
        and (max_parameters_millions is None or _size(model) <= max_parameters_millions)
        and (min_length is None or _length(model) >= min_length)
        and (source is None or getattr(model, source) is not None)
        and not (plain and model.needs)
    )


@lru_cache(maxsize=1)
def _read() -> tuple[RegisteredModel, ...]:
    text = files("emb_model_provider.core").joinpath("model_registry.json").read_text(encoding="utf-8")
    names = [f.name for f in fields(RegisteredModel)]
    models = [
        RegisteredModel(
            **{name: entry[name] for name in names}
            | {"languages": tuple(entry["languages"]), "source": tuple(entry["source"])}
        )
        for entry in json.loads(text)
    ]
    return tuple(sorted(models, key=lambda model: model.name.lower()))


def _names(model: RegisteredModel) -> set[str]:
    return {name.lower() for name in (model.name, model.huggingface, model.modelscope) if name}


def _size(model: RegisteredModel) -> float:
    return float("inf") if model.parameters_millions is None else model.parameters_millions


def _length(model: RegisteredModel) -> float:
    if model.max_length is not None:
        return model.max_length
    return float("inf") if model.pooling == "static" else 0

"""The data of well-known models: well-formed, with sources, and searchable."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import FrozenInstanceError, fields
from importlib.resources import files
from typing import Any

import pytest

from emb_model_provider.core import list_models
from emb_model_provider.core.config import Config
from emb_model_provider.core.errors import ConfigError
from emb_model_provider.core.model_names import DEFAULT_MODELSCOPE_MAPPING
from emb_model_provider.core.model_registry import MULTILINGUAL, RegisteredModel, find

MODELS = list_models()
ID = re.compile(r"[\w.-]+/[\w.-]+")

# The most used ones, by what a user writes: name, dimension, tokens, pooling.
POPULAR: list[tuple[str, int, int | None, str]] = [
    ("sentence-transformers/all-MiniLM-L6-v2", 384, 256, "mean"),
    ("sentence-transformers/all-MiniLM-L12-v2", 384, 128, "mean"),
    ("sentence-transformers/all-mpnet-base-v2", 768, 384, "mean"),
    ("sentence-transformers/multi-qa-MiniLM-L6-cos-v1", 384, 512, "mean"),
    ("sentence-transformers/multi-qa-mpnet-base-dot-v1", 768, 512, "cls"),
    ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", 384, 128, "mean"),
    ("sentence-transformers/paraphrase-multilingual-mpnet-base-v2", 768, 128, "mean"),
    ("sentence-transformers/distiluse-base-multilingual-cased-v2", 512, 128, "mean"),
    ("sentence-transformers/LaBSE", 768, 256, "cls"),
    ("BAAI/bge-small-en-v1.5", 384, 512, "cls"),
    ("BAAI/bge-base-en-v1.5", 768, 512, "cls"),
    ("BAAI/bge-large-en-v1.5", 1024, 512, "cls"),
    ("BAAI/bge-small-zh-v1.5", 512, 512, "cls"),
    ("BAAI/bge-base-zh-v1.5", 768, 512, "cls"),
    ("BAAI/bge-large-zh-v1.5", 1024, 512, "cls"),
    ("BAAI/bge-m3", 1024, 8192, "cls"),
    ("intfloat/e5-small-v2", 384, 512, "mean"),
    ("intfloat/e5-base-v2", 768, 512, "mean"),
    ("intfloat/e5-large-v2", 1024, 512, "mean"),
    ("intfloat/multilingual-e5-small", 384, 512, "mean"),
    ("intfloat/multilingual-e5-base", 768, 512, "mean"),
    ("intfloat/multilingual-e5-large", 1024, 512, "mean"),
    ("intfloat/multilingual-e5-large-instruct", 1024, 512, "mean"),
    ("thenlper/gte-small", 384, 512, "mean"),
    ("thenlper/gte-base", 768, 512, "mean"),
    ("thenlper/gte-large", 1024, 512, "mean"),
    ("Alibaba-NLP/gte-base-en-v1.5", 768, 8192, "cls"),
    ("Alibaba-NLP/gte-large-en-v1.5", 1024, 8192, "cls"),
    ("Alibaba-NLP/gte-multilingual-base", 768, 8192, "cls"),
    ("Alibaba-NLP/gte-modernbert-base", 768, 8192, "cls"),
    ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", 1536, 32768, "lasttoken"),
    ("jinaai/jina-embeddings-v2-base-en", 768, 8192, "mean"),
    ("jinaai/jina-embeddings-v2-base-de", 768, 8192, "mean"),
    ("jinaai/jina-embeddings-v2-base-zh", 768, 8192, "mean"),
    ("jinaai/jina-embeddings-v2-base-code", 768, 8192, "mean"),
    ("jinaai/jina-embeddings-v3", 1024, 8192, "mean"),
    ("nomic-ai/nomic-embed-text-v1", 768, 8192, "mean"),
    ("nomic-ai/nomic-embed-text-v1.5", 768, 8192, "mean"),
    ("nomic-ai/nomic-embed-text-v2-moe", 768, 512, "mean"),
    ("nomic-ai/modernbert-embed-base", 768, 8192, "mean"),
    ("Snowflake/snowflake-arctic-embed-xs", 384, 512, "cls"),
    ("Snowflake/snowflake-arctic-embed-s", 384, 512, "cls"),
    ("Snowflake/snowflake-arctic-embed-m", 768, 512, "cls"),
    ("Snowflake/snowflake-arctic-embed-m-v1.5", 768, 512, "cls"),
    ("Snowflake/snowflake-arctic-embed-l", 1024, 512, "cls"),
    ("Snowflake/snowflake-arctic-embed-l-v2.0", 1024, 8192, "cls"),
    ("Snowflake/snowflake-arctic-embed-m-v2.0", 768, 8192, "cls"),
    ("Qwen/Qwen3-Embedding-0.6B", 1024, 32768, "lasttoken"),
    ("Qwen/Qwen3-Embedding-4B", 2560, 32768, "lasttoken"),
    ("Qwen/Qwen3-Embedding-8B", 4096, 32768, "lasttoken"),
    ("google/embeddinggemma-300m", 768, 2048, "mean"),
    ("NovaSearch/stella_en_400M_v5", 1024, 512, "mean"),
    ("NovaSearch/stella_en_1.5B_v5", 1024, 512, "mean"),
    ("mixedbread-ai/mxbai-embed-large-v1", 1024, 512, "cls"),
    ("ibm-granite/granite-embedding-english-r2", 768, 8192, "cls"),
    ("ibm-granite/granite-embedding-small-english-r2", 384, 8192, "cls"),
    ("sentence-transformers/static-retrieval-mrl-en-v1", 1024, None, "static"),
    ("sentence-transformers/static-similarity-mrl-multilingual-v1", 1024, None, "static"),
    ("minishlab/potion-base-8M", 256, None, "static"),
    ("minishlab/potion-retrieval-32M", 512, None, "static"),
    ("hkunlp/instructor-base", 768, 512, "mean"),
    ("hkunlp/instructor-large", 768, 512, "mean"),
    ("hkunlp/instructor-xl", 768, 512, "mean"),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
class TestEveryEntry:
    def test_has_an_id_on_a_hub_and_its_sources(self, model: RegisteredModel) -> None:
        ids = [i for i in (model.huggingface, model.modelscope) if i is not None]
        assert model.name in ids
        assert all(ID.fullmatch(i) for i in ids)
        assert (model.modelscope is None) == (model.modelscope_exact is None)
        assert model.source
        assert all(len(text) > 10 for text in model.source)

    def test_has_plausible_numbers(self, model: RegisteredModel) -> None:
        assert 128 <= model.dimension <= 8192
        assert model.dimension % 32 == 0
        assert model.max_length is None or 64 <= model.max_length <= 131072
        assert model.parameters_millions is None or 1 < model.parameters_millions < 20000
        assert model.pooling in (None, "mean", "cls", "lasttoken", "static")

    def test_names_its_languages(self, model: RegisteredModel) -> None:
        assert model.languages
        assert all(code == MULTILINGUAL or re.fullmatch("[a-z]{2}", code) for code in model.languages)

    def test_has_prompts_for_both_roles_or_none(self, model: RegisteredModel) -> None:
        if model.prompts is not None:
            assert set(model.prompts) == {"query", "document"}
            assert any(model.prompts.values())
            assert all(isinstance(prompt, str) for prompt in model.prompts.values())
        else:
            assert model.prompts_in_files is None

    def test_is_found_by_the_id_on_either_hub_in_any_case(self, model: RegisteredModel) -> None:
        for name in (model.name, model.huggingface, model.modelscope):
            if name is not None:
                assert find(name) is model
                assert find(name.upper()) is model


def test_ids_are_unique_on_each_hub() -> None:
    for hub in ("name", "huggingface", "modelscope"):
        ids = Counter(getattr(m, hub).lower() for m in MODELS if getattr(m, hub))
        assert [i for i, count in ids.items() if count > 1] == []


def test_the_file_has_every_key_in_every_entry_and_no_other() -> None:
    text = files("emb_model_provider.core").joinpath("model_registry.json").read_text("utf-8")
    keys = {field.name for field in fields(RegisteredModel)}
    assert all(set(entry) == keys for entry in json.loads(text))


@pytest.mark.parametrize(("name", "dimension", "max_length", "pooling"), POPULAR, ids=[p[0] for p in POPULAR])
def test_the_popular_models_are_there(
    name: str, dimension: int, max_length: int | None, pooling: str
) -> None:
    model = find(name)
    assert model is not None
    assert (model.dimension, model.max_length, model.pooling) == (dimension, max_length, pooling)


@pytest.mark.parametrize(
    ("name", "query", "document", "in_files"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: ", False),
        ("intfloat/multilingual-e5-small", "query: ", "passage: ", False),
        (
            "BAAI/bge-base-en-v1.5",
            "Represent this sentence for searching relevant passages: ",
            "",
            False,
        ),
        ("BAAI/bge-large-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", "", False),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: ", False),
        ("nomic-ai/nomic-embed-text-v2-moe", "search_query: ", "search_document: ", True),
        (
            "Qwen/Qwen3-Embedding-0.6B",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
            "",
            True,
        ),
        ("google/embeddinggemma-300m", "task: search result | query: ", "title: none | text: ", True),
    ],
)
def test_prompts_are_those_of_the_model_cards(name: str, query: str, document: str, in_files: bool) -> None:
    model = find(name)
    assert model is not None
    assert model.prompts == {"query": query, "document": document}
    assert model.prompts_in_files is in_files


def test_the_default_model_is_known_and_loads_plainly() -> None:
    model = find(Config.model_fields["model_name"].default)
    assert model is not None
    assert model.needs is None


def test_an_unknown_name_is_not_found() -> None:
    assert find("nobody/nothing") is None


def test_an_entry_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        MODELS[0].dimension = 1  # type: ignore[misc]


@pytest.mark.parametrize(("name", "modelscope"), DEFAULT_MODELSCOPE_MAPPING.items())
def test_the_default_mapping_is_exact_just_where_the_name_is_the_same(name: str, modelscope: str) -> None:
    model = find(name)
    assert model is not None
    if name == modelscope:  # what is on ModelScope is this model, if only another's copy of it
        assert model.modelscope is not None
    else:
        assert modelscope not in (model.name, model.modelscope)
        other = find(modelscope.replace("damo/", "iic/"))  # the owner's new name
        assert other is not None
        assert other is not model


class TestSearch:
    def test_without_conditions_gives_all_by_name(self) -> None:
        names = [model.name.lower() for model in MODELS]
        assert names == sorted(names)
        assert len(names) >= 70

    def test_for_a_language_and_a_dimension(self) -> None:
        found = {model.name for model in list_models(language="zh", max_dimension=512)}
        assert {
            "BAAI/bge-small-zh-v1.5",
            "thenlper/gte-small-zh",
            "intfloat/multilingual-e5-small",
            "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
            "sentence-transformers/distiluse-base-multilingual-cased-v2",
        } <= found
        assert not {"BAAI/bge-m3", "BAAI/bge-small-en-v1.5", "BAAI/bge-base-zh-v1.5"} & found

    def test_a_model_for_many_languages_counts_for_each(self) -> None:
        swahili = {model.name for model in list_models("sw")}
        assert "BAAI/bge-m3" in swahili
        assert "BAAI/bge-base-en-v1.5" not in swahili

    @pytest.mark.parametrize(
        ("conditions", "inside", "outside"),
        [
            ({"max_parameters_millions": 30}, "minishlab/potion-base-8M", "BAAI/bge-base-en-v1.5"),
            ({"max_parameters_millions": 1e9}, "BAAI/bge-m3", "hkunlp/instructor-xl"),  # of unknown size
            ({"min_length": 8192}, "BAAI/bge-m3", "BAAI/bge-base-en-v1.5"),
            ({"min_length": 10**6}, "minishlab/potion-base-8M", "Qwen/Qwen3-Embedding-8B"),
            ({"source": "modelscope"}, "BAAI/bge-m3", "sentence-transformers/LaBSE"),
            (
                {"source": "huggingface"},
                "sentence-transformers/LaBSE",
                "iic/nlp_gte_sentence-embedding_chinese-base",
            ),
            ({"plain": True}, "BAAI/bge-base-en-v1.5", "jinaai/jina-embeddings-v3"),
            ({"plain": True, "language": "zh"}, "Qwen/Qwen3-Embedding-0.6B", "BAAI/bge-m3"),
        ],
        ids=str,
    )
    def test_each_condition_alone(self, conditions: dict[str, Any], inside: str, outside: str) -> None:
        found = {model.name for model in list_models(**conditions)}
        assert inside in found
        assert outside not in found

    def test_on_an_unknown_hub_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="Unknown model source: gitlab"):
            list_models(source="gitlab")  # type: ignore[arg-type]

    def test_that_nothing_meets_is_empty(self) -> None:
        assert list_models(max_dimension=1) == ()

"""Texts in one row without padding, with a kernel for the CPU in flash attention's place."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import model_of, torch_engine
from families import BY_NAME, TEXTS, make_model

from emb_model_provider.core.embedding import torch_engine as module
from emb_model_provider.core.embedding.packing import FLASH_ATTENTION, pack, unpack
from emb_model_provider.core.embedding.tokenization import Batch
from emb_model_provider.core.embedding.torch_engine import TorchEngine


def reference_kernel(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    **_: Any,
) -> Any:
    """What flash attention's kernel for variable lengths computes: (tokens, heads, width), text by text."""
    import torch

    ends = cu_seqlens_q.tolist()
    assert max(np.diff(ends)) == max_seqlen_q == max_seqlen_k
    left, right = window_size
    outputs = []
    for start, end in itertools.pairwise(ends):
        query, key, value = (x[start:end].transpose(0, 1) for x in (q, k, v))
        key, value = (x.repeat_interleave(len(query) // len(x), dim=0) for x in (key, value))
        scores = query @ key.transpose(1, 2) * (softmax_scale or query.shape[-1] ** -0.5)
        ahead = torch.arange(end - start)[None] - torch.arange(end - start)[:, None]
        unseen = (ahead > 0) & torch.tensor(causal)
        unseen |= (ahead < -left) & torch.tensor(left >= 0)
        unseen |= (ahead > right) & torch.tensor(right >= 0)
        outputs.append((scores.masked_fill(unseen, float("-inf")).softmax(-1) @ value).transpose(0, 1))
    return torch.cat(outputs)


def reference_for_equal_lengths(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """The kernel for texts of one length: (texts, tokens, heads, width)."""
    import torch

    texts, tokens = q.shape[:2]
    ends = torch.arange(texts + 1) * tokens
    flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))
    flat = reference_kernel(flat_q, flat_k, flat_v, ends, ends, tokens, tokens, **options)
    return flat.unflatten(0, (texts, tokens))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention as transformers finds it, on the CPU."""
    from transformers import modeling_flash_attention_utils as utils

    process = utils._lazy_define_process_function(reference_kernel)  # type: ignore[no-untyped-call]
    found = ((reference_for_equal_lengths, reference_kernel, None, None, None), (process, None))
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_, **__: found)


def packing_engine(folder: Path) -> TorchEngine:
    engine = torch_engine(folder)
    assert isinstance(engine, TorchEngine)
    engine.model.config._attn_implementation = FLASH_ATTENTION
    engine.packs = True
    return engine


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "modernbert", "qwen3", "mistral"])
def test_vectors_are_those_of_padded_texts(name: str, kernel: None, tmp_path: Path) -> None:
    folder = make_model(BY_NAME[name], tmp_path / "model")
    padded = model_of(folder, torch_engine(folder), max_batch_size=8).embed(TEXTS)
    packed = model_of(folder, packing_engine(folder), max_batch_size=8).embed(TEXTS)
    np.testing.assert_allclose(packed, padded, rtol=0, atol=1e-5)


def test_tokens_of_all_texts_come_in_one_row_and_go_back_to_their_places() -> None:
    import torch

    ids = np.array([[5, 6, 7], [8, 0, 0], [9, 10, 0]])
    batch = Batch(ids, (ids > 0).astype(np.int64), None)
    packed = pack(batch, first=2)
    assert packed["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert packed["position_ids"].tolist() == [[2, 3, 4, 2, 2, 3]]
    assert packed["cu_seq_lens_q"].tolist() == packed["cu_seq_lens_k"].tolist() == [0, 3, 4, 6]
    assert (packed["max_length_q"], packed["max_length_k"]) == (3, 3)
    hidden = torch.tensor(packed["input_ids"], dtype=torch.float32)[:, :, None]
    assert unpack(hidden, batch)[:, :, 0].tolist() == ids.tolist()


class TestWhetherToPack:
    def test_a_kernel_with_the_same_vectors_is_taken(
        self, toy_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = torch_engine(toy_model)
        assert isinstance(engine, TorchEngine)
        monkeypatch.setattr(type(engine.model), "set_attn_implementation", lambda *_: None)
        monkeypatch.setattr(module, "can_pack", lambda model: True)
        engine.pack_if_same(lambda: np.ones((2, 3), np.float32))
        assert engine.packs

    @pytest.mark.parametrize("wrong", [0.9, float("nan")])
    def test_a_kernel_with_other_vectors_is_not(
        self, toy_model: Path, wrong: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = torch_engine(toy_model)
        assert isinstance(engine, TorchEngine)
        chosen: list[str] = []
        monkeypatch.setattr(
            type(engine.model), "set_attn_implementation", lambda _, name: chosen.append(name)
        )
        monkeypatch.setattr(module, "can_pack", lambda model: True)
        answers = iter([np.ones((2, 3), np.float32), np.full((2, 3), wrong, np.float32)])
        engine.pack_if_same(lambda: next(answers))
        assert not engine.packs
        assert chosen == [FLASH_ATTENTION, "sdpa"]

    def test_a_machine_without_the_kernels_goes_on_padding(self, toy_model: Path) -> None:
        engine = torch_engine(toy_model)
        assert isinstance(engine, TorchEngine)
        engine.pack_if_same(lambda: np.ones((2, 3), np.float32))
        assert not engine.packs
        assert engine.model.config._attn_implementation == "sdpa"

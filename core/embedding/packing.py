"""Texts of different lengths in one row without padding, for attention kernels that keep them apart.

transformers hands `cu_seq_lens_*` and `max_length_*` on to flash attention's kernels for variable lengths
(its modeling_flash_attention_utils.py); the layers between them work on single tokens.
"""

from typing import Any

import numpy as np

from emb_model_provider.core.embedding.tokenization import Batch

FLASH_ATTENTION = "flash_attention_2"


def flash_attention_installed() -> bool:
    """Whether transformers finds flash attention and a device that runs it."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def can_pack(model: Any) -> bool:
    """Whether a model may be given packed texts; that it gives the same vectors is still to be seen."""
    kernels = getattr(model.config, "_attn_implementation", None) == FLASH_ATTENTION
    return kernels and bool(getattr(model, "is_backend_compatible", lambda: False)())


def first_position(model: Any) -> int:
    """The position of a text's first token: RoBERTa and its kin count from the id of padding on."""
    import torch

    for module in model.modules():
        padding, table = getattr(module, "padding_idx", None), getattr(module, "position_embeddings", None)
        if isinstance(padding, int) and isinstance(table, torch.nn.Embedding):
            return padding + 1
    return 0


def pack(batch: Batch, first: int) -> dict[str, Any]:
    """The tokens of a batch in one row, by the names of a model's arguments; numpy arrays and numbers."""
    lengths = batch.mask.sum(axis=1)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    kept = batch.mask == 1
    # Where positions start behind the id of padding, a token with that id, spelled out in a text, takes none.
    counted = batch.mask * (batch.ids != first - 1)
    positions = counted.cumsum(axis=1) * counted + first - 1
    packed: dict[str, Any] = {
        "input_ids": batch.ids[kept][None],
        "position_ids": positions[kept][None],
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
    }
    if batch.type_ids is not None:
        packed["token_type_ids"] = batch.type_ids[kept][None]
    return packed


def unpack(hidden: Any, batch: Batch) -> Any:
    """Hidden states of packed texts, (1, all tokens, width), in the rows of the batch; zero for padding."""
    import torch

    rows = hidden.new_zeros((*batch.ids.shape, hidden.shape[-1]))
    rows[torch.from_numpy(batch.mask == 1).to(hidden.device)] = hidden[0]
    return rows

"""Builds the tokenizer of a model from its folder's files."""

from typing import TYPE_CHECKING, Any

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.folder import join
from emb_model_provider.core.embedding.tokenization import TextTokenizer, smallest
from emb_model_provider.core.embedding.tokenizer_check import check_tokenizer_files
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_POSITIONS_IN_A_TABLE = ("bert", "distilbert", "albert", "electra")
# Positions are counted from the id of padding on (RoBERTa's modeling file).
_POSITIONS_AFTER_PADDING = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"),
    *("data2vec-text", "ibert", "longformer"),
)

# Tokenizers without a limit say about 1e30.
_NO_LIMIT = 10**9


def load_tokenizer(
    description: ModelDescription, *, max_context_length: int | None = None, trust_remote_code: bool = False
) -> TextTokenizer:
    """The model's tokenizer.

    Args:
        description: The model.
        max_context_length: Tokens kept of a text at most; None leaves the model's own limit.
        trust_remote_code: Whether Python code in the folder may run.

    Raises:
        ConfigError: `max_context_length` leaves no room for text.
        ModelFilesError: The tokenizer's files are missing or damaged.
        UnsupportedModelError: The tokenizer has no fast form, or would blow texts up.
    """
    check_tokenizer_files(description.folder, description.tokenizer_path or "")
    if description.is_static:
        return _load_static(description, max_context_length)
    return _load_transformers(description, max_context_length, trust_remote_code)


def _load_static(description: ModelDescription, max_context_length: int | None) -> TextTokenizer:
    """tokenizer.json as it is, with the truncation it carries, and without special tokens."""
    from tokenizers import Tokenizer

    path = description.folder.require(join(description.tokenizer_path or "", "tokenizer.json"))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise _damaged(description, error) from error
    own: dict[str, Any] = tokenizer.truncation or {}
    return TextTokenizer(
        tokenizer,
        max_length=smallest(own.get("max_length"), max_context_length),
        pad_id=0,
        truncate_left=own.get("direction") == "left",
        special_tokens=False,
        type_ids=False,
    )


def _load_transformers(
    description: ModelDescription, max_context_length: int | None, trust_remote_code: bool
) -> TextTokenizer:
    """As transformers builds it: its classes may add to what `tokenizer.json` says."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = description.folder
    try:
        loaded = AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=trust_remote_code
        )
        if not loaded.is_fast:
            raise UnsupportedModelError(f"{folder} has no fast tokenizer (tokenizer.json); refused.")
        tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except UnsupportedModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise _damaged(description, error) from error
    tokenizer.encode_special_tokens = loaded.split_special_tokens
    if description.do_lower_case:
        _lowercase_first(tokenizer)
    own = _model_limit(description, loaded.model_max_length)
    if own is not None and own <= tokenizer.num_special_tokens_to_add(False):
        raise ModelFilesError(
            f"{folder} says that its texts may have {own} tokens (max_seq_length or model_max_length), which "
            "leaves no room for text. Download the model again."
        )
    return TextTokenizer(
        tokenizer,
        max_length=smallest(own, max_context_length),
        pad_id=loaded.pad_token_id or 0,
        truncate_left=loaded.truncation_side == "left",
        type_ids="token_type_ids" in loaded.model_input_names,
    )


def _model_limit(description: ModelDescription, tokenizer_limit: int) -> int | None:
    """Tokens the model takes: its own saying, else the smaller of tokenizer's and positions'.

    The rule is sentence-transformers' (its transformer.py). Where the model has fewer positions than that,
    longer texts fail there; here they are cut to what the model can take.
    """
    positions = _positions(description)
    limit = smallest(description.max_seq_length or tokenizer_limit, _usable_positions(description, positions))
    if description.max_seq_length is None:
        limit = smallest(limit, positions)
    return limit if limit is not None and limit < _NO_LIMIT else None


def _positions(description: ModelDescription) -> int | None:
    """Positions that the model was made for: its config's, or what the architecture takes without it."""
    positions = description.config.get("max_position_embeddings")
    if positions is None:
        from transformers import CONFIG_MAPPING

        architecture = description.architecture
        if architecture in CONFIG_MAPPING:
            config = CONFIG_MAPPING[architecture].from_dict(dict(description.config))
            positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None  # XLNet's -1: no limit


def _usable_positions(description: ModelDescription, positions: int | None) -> int | None:
    """Rows of a table of positions; None for a model that computes them."""
    if description.architecture in _POSITIONS_AFTER_PADDING and positions is not None:
        return positions - int(description.config.get("pad_token_id") or 0) - 1
    return positions if description.architecture in _POSITIONS_IN_A_TABLE else None


def _lowercase_first(tokenizer: "Tokenizer") -> None:
    """Lowercase before anything else; once more where the tokenizer does so itself changes nothing."""
    from tokenizers.normalizers import Lowercase, Sequence

    own = tokenizer.normalizer
    tokenizer.normalizer = Lowercase() if own is None else Sequence([Lowercase(), own])


def _damaged(description: ModelDescription, error: Exception) -> ModelFilesError:
    where = description.folder.path / (description.tokenizer_path or "")
    return ModelFilesError(
        f"The tokenizer in {where} (tokenizer.json and the files beside it) cannot be read: {error}. "
        "Download the model again."
    )

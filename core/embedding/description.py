"""What a folder's own files say of its model: the layers after the transformer, prompts, lengths, weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.layers import Dense, Layer, LayerNorm, Normalize, Pooling
from emb_model_provider.core.embedding.weight_files import count_parameters

Role = Literal["query", "document"]

# The names a model may have saved its prompt for a role under, the first that is not empty counts.
# sentence-transformers 6 documents the same, but its encode_document does not look past "document".
_PROMPT_NAMES: Mapping[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


@dataclass(frozen=True)
class ModelDescription:
    """What the folder's own files say of the model.

    Attributes:
        folder: The folder read.
        layers: The layers after the transformer, in order; the first is the pooling.
        config: The transformer's `config.json`; {} for a static model, which has no transformer.
        max_seq_length: Tokens kept of a text, special tokens included; None leaves it to the tokenizer.
        do_lower_case: Whether texts are lowercased first.
        prompts: Prompts by name, as saved with the model, without the empty ones.
        similarity: The similarity the model was made for, such as `cosine`; None when the files do not say.
        truncate_dim: Leading components kept of a vector; None keeps all.
        weights: The transformer's weight files, or the one file of a static model's token vectors.
        tokenizer_path: The sub-folder of a static model's tokenizer.json; None for a transformer.
        requires_transformers: Versions of transformers that the model's author allows, such as `>=5.15`.
    """

    folder: ModelFolder
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    similarity: str | None = None
    truncate_dim: int | None = None
    weights: tuple[str, ...] = ()
    tokenizer_path: str | None = None
    requires_transformers: str | None = None

    @property
    def is_static(self) -> bool:
        """Whether a text's vector is the mean of fixed token vectors, without a transformer."""
        return self.tokenizer_path is not None

    @property
    def architecture(self) -> str:
        """The transformer's type, such as `bert`; `static` for a model without one."""
        return "static" if self.is_static else str(self.config.get("model_type", "unknown"))

    @property
    def head_width(self) -> int | None:
        """Width of an attention head; None where the config does not say."""
        config = self.config
        width = config.get("head_dim") or config.get("d_kv")
        hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
        if width is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            width = hidden // heads
        return width if isinstance(width, int) and width > 0 else None

    @property
    def pooling(self) -> Pooling:
        """The first layer: every model read here has one."""
        layer = self.layers[0]
        assert isinstance(layer, Pooling)  # _check_order
        return layer

    @property
    def pooling_name(self) -> str | None:
        """The pooling modes, joined by `+`; None when another library pools."""
        return "+".join(self.pooling.modes) if self.layers and isinstance(self.layers[0], Pooling) else None

    def dimension(self, hidden_size: int) -> int:
        """Width of the vectors, for a transformer whose token vectors are `hidden_size` wide."""
        for layer in reversed(self.layers):
            if isinstance(layer, Dense):
                return layer.out_features
        return hidden_size * len(self.pooling.modes)

    @property
    def normalized(self) -> bool:
        """Whether the vectors have unit length."""
        return bool(self.layers) and isinstance(self.layers[-1], Normalize)

    def saved_prompt(self, role: Role) -> str:
        """The prompt saved with the model for a role; "" for none."""
        return next((self.prompts[name] for name in _PROMPT_NAMES[role] if name in self.prompts), "")

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Every weight file of the model, those of the layers included."""
        return self.weights + tuple(x.weights for x in self.layers if isinstance(x, Dense | LayerNorm))

    @property
    def size_on_disk(self) -> int:
        """Bytes of all files in the folder."""
        return sum(path.stat().st_size for path in self.folder.path.rglob("*") if path.is_file())

    @property
    def licence(self) -> str | None:
        """The licence as the front matter of the model's README.md has it; None when it has none."""
        return self.folder.read_licence()

    @property
    def parameters(self) -> int | None:
        """Number of parameters, from the files' headers; None when they are pickles."""
        return count_parameters(self.folder, self.weight_files)[0]

    @property
    def dtype(self) -> str | None:
        """Type of most of the stored weights, such as `float32`; None when they are pickles."""
        return count_parameters(self.folder, self.weights)[1]

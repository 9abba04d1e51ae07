"""Whether two ways to run a model give the same vectors: of every conversion, other kernel, and padding."""

from collections.abc import Mapping, Sequence

import numpy as np

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.engine import Engine, Precision
from emb_model_provider.core.embedding.forward import Forward
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.tokenization import TextTokenizer
from emb_model_provider.core.errors import UnsupportedModelError

# Short and long, with and without padding, one script and several: the shapes and tokens that a trace of
# another shape may get wrong. The long one is longer than any sliding window known (512, Gemma 3).
_SHORT = (
    "",
    "Hello world",
    "The quick brown fox jumps over the lazy dog, twice.",
    "向量搜索把句子变成数字。 naïve café 🙂",
)
_PROBE = (*_SHORT, " ".join(f"Sentence number {i} of a long text says something new." for i in range(80)))

_SHORTEST = 8  # tokens that leave room for text among the special ones

# Largest difference of an element, as a share of its row's length. fp32 differs by rounding only; fp16 and
# bf16 keep 11 and 8 bits; int8 moves vectors, and its quality is measured (benchmarks/NOTES.md).
TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 2e-2, "int8": 1e-1}


def probe(description: ModelDescription, tokenizer: TextTokenizer, engine: Engine) -> Floats:
    """The vectors that an engine gives some telling texts, in one batch and more.

    The long one comes in a second length, too: as many tokens as a head is wide, where a matrix may be taken
    for its transpose.
    """
    forward = Forward(description, tokenizer, engine)
    vectors = forward.vectors(tokenizer.encode(_PROBE), "", 4)
    width = description.head_width
    if width is None or width < _SHORTEST:
        return vectors
    square = TextTokenizer.from_saved(tokenizer.saved(), width).encode(_PROBE[-1:])
    return np.concatenate([vectors, forward.vectors(square, "", 1)])


def check_padding(description: ModelDescription, tokenizer: TextTokenizer, engine: Engine) -> None:
    """Refuse a model whose vectors depend on the padding beside a text.

    Raises:
        UnsupportedModelError: They do: the architecture has no mask, or looks past it.
    """
    forward = Forward(description, tokenizer, engine)

    def vectors(texts: Sequence[str]) -> Floats:
        return forward.vectors(tokenizer.encode(texts), "", len(texts))

    alone = np.concatenate([vectors([text]) for text in _SHORT])
    differs = difference(vectors(_SHORT), alone)
    if differs > TOLERANCE[engine.precision]:
        raise UnsupportedModelError(
            f"{description.folder}: the vectors of this {description.architecture} depend on the padding "
            f"beside a text (they differ by {differs:.1e}); refused. Choose another model, or set engine "
            "(EMB_PROVIDER_ENGINE) to sentence-transformers and max_batch_size to 1, which pads nothing."
        )


def difference(found: Floats, expected: Floats) -> float:
    """Largest difference of an element, as a share of its row's length; NaN when a vector is not finite."""
    scale = np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    return float((np.abs(found - expected) / scale).max())

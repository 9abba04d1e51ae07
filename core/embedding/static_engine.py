"""Token ids to fixed token vectors, for models without a transformer; needs nothing but numpy."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.engine import Engine
from emb_model_provider.core.embedding.pooling import Floats
from emb_model_provider.core.embedding.tokenization import Batch
from emb_model_provider.core.embedding.weight_files import read_tensors
from emb_model_provider.core.embedding.weights import read_array
from emb_model_provider.core.errors import ModelFilesError


class StaticEngine(Engine):
    """A table with a vector for each token id."""

    def __init__(self, table: Floats) -> None:
        self._table = table
        self.hidden_size = table.shape[1]

    def hidden_states(self, batch: Batch) -> Floats:
        """The vector of each token: (rows, tokens, hidden_size)."""
        if batch.ids.max() >= len(self._table):
            raise ModelFilesError(
                f"The model's tokenizer gives the token id {batch.ids.max()}, but its weights have only "
                f"{len(self._table)} vectors: the two are of different models. Download the model again."
            )
        vectors: Floats = self._table[batch.ids]
        return vectors


def load_static_engine(description: ModelDescription) -> StaticEngine:
    """Load the table of a static model: `embedding.weight`, or the tensors that model2vec writes.

    model2vec's vector of a token id is `embeddings[mapping[id]] * weights[id]`; both are optional.

    Raises:
        ModelFilesError: The tensors are missing, damaged or do not fit each other or the tokenizer.
        UnsupportedModelError: They are of a type that is not known here.
    """
    folder, (file,) = description.folder, description.weights
    arrays = {t.name: read_array(folder, file, t) for t in read_tensors(folder, file)}
    try:
        table = _table(arrays)
    except (KeyError, ValueError, IndexError) as error:
        raise ModelFilesError(
            f"{folder.path / file}: its tensors {sorted(arrays)} are not a table of token vectors ({error}). "
            "Download the model again."
        ) from error
    return StaticEngine(table)


def _table(arrays: Mapping[str, npt.NDArray[np.generic]]) -> Floats:
    own = arrays.get("embedding.weight")
    table: Floats = (arrays["embeddings"] if own is None else own).astype(np.float32, copy=False)
    if own is None and "mapping" in arrays:
        mapping = arrays["mapping"].astype(np.int64)
        if mapping.size and mapping.min() < 0:
            raise IndexError("a negative index in mapping")
        table = table[mapping]
    if own is None and "weights" in arrays:
        # In the wider of the two types, as model2vec does.
        table = (table * arrays["weights"][:, None]).astype(np.float32)  # type: ignore[operator]
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError("not a matrix of finite numbers")
    return table

"""A transformer in torch to an OpenVINO model, in full or in int8; done once, see conversion.py."""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

from emb_model_provider.core.embedding import openvino_library
from emb_model_provider.core.embedding.engine import BUILDING
from emb_model_provider.core.embedding.openvino_engine import model_inputs
from emb_model_provider.core.embedding.tokenization import Batch

if TYPE_CHECKING:
    from emb_model_provider.core.embedding.torch_engine import TorchEngine


def convert(engine: "TorchEngine") -> Any:
    """The transformer of a torch engine as an `openvino.Model`; shares its weights in memory.

    Raises:
        Exception: OpenVINO cannot trace it; of many types.
    """
    import torch

    names = ["input_ids", "attention_mask", *(n for n in ("token_type_ids",) if n in engine.takes)]

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = engine.model

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.model(**dict(zip(names, inputs, strict=True))).last_hidden_state

    # One row is padded: a mask of ones may be dropped while tracing.
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    examples = {"input_ids": mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    with BUILDING, _quiet("transformers"), _traceable(engine.model), torch.inference_mode(False):
        model = openvino_library.openvino().convert_model(
            LastHiddenState().eval(), example_input=tuple(examples[name] for name in names)
        )
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino_library.openvino().PartialShape([-1, -1]))
    model.validate_nodes_and_infer_types()
    return model


def quantize(model: Any, samples: Sequence[Batch]) -> Any:
    """A converted model with int8 matrix products, their ranges set by what the samples make of them.

    Args:
        model: An `openvino.Model`.
        samples: Batches of typical texts.

    Raises:
        MissingDependencyError: NNCF is not installed.
        Exception: NNCF cannot do it; of many types.
    """
    nncf = openvino_library.nncf()
    with_type_ids = any(port.get_any_name() == "token_type_ids" for port in model.inputs)
    inputs = [model_inputs(sample, with_type_ids=with_type_ids) for sample in samples]
    # Its progress bars belong on stderr, where they do not mix with a program's output.
    with BUILDING, _quiet("nncf"), redirect_stdout(sys.stderr):
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,  # activations lie on both sides of zero, unevenly
            subset_size=len(inputs),
        )


@contextmanager
def _traceable(model: Any) -> Iterator[None]:
    """Masks that can be traced, while a model is: what comes of it is verified by its vectors.

    Eager attention adds a large negative number to what is masked, so that a padding token that may see no
    other one (in a sliding window) does not become NaN. A mask function made for single indices takes arrays
    of them as well, and needs no torch.vmap, which cannot be traced (transformers' masking_utils.py).
    """
    from transformers import masking_utils

    def broadcast(mask_function: Any) -> Any:
        return lambda *indices: mask_function(*masking_utils._non_vmap_expansion_sdpa(*indices))

    replaced = {"_vmap_expansion_sdpa": broadcast, "TransformGetItemToIndex": nullcontext}
    known = all(hasattr(masking_utils, name) for name in (*replaced, "_non_vmap_expansion_sdpa"))
    before = {name: getattr(masking_utils, name) for name in replaced if known}
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        for name in before:
            setattr(masking_utils, name, replaced[name])
        yield
    finally:
        for name, value in before.items():
            setattr(masking_utils, name, value)
        model.set_attn_implementation(attention)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Tracing warns of every branch of the model's code, and quantisation draws bars.

    What comes of them is verified by its vectors. `name` is that of the library's logger. OpenVINO changes
    the root logger meanwhile, and leaves it so when a conversion fails.
    """
    logger, root = logging.getLogger(name), logging.getLogger()
    before = logger.level
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers

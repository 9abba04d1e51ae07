"""A model in OpenVINO: converted from torch once, verified, and kept on disk for the next start.

The next start reads the compiled model and the finished tokenizer, and imports neither torch nor
transformers.
"""

import functools
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding import openvino_conversion, openvino_engine, openvino_library
from emb_model_provider.core.embedding.converted_cache import ConvertedCache
from emb_model_provider.core.embedding.description import ModelDescription
from emb_model_provider.core.embedding.engine import Precision
from emb_model_provider.core.embedding.file_hashes import FileHashes
from emb_model_provider.core.embedding.fingerprint import fingerprint
from emb_model_provider.core.embedding.openvino_engine import OpenVinoEngine
from emb_model_provider.core.embedding.precision import calibration_id, read_calibration_texts
from emb_model_provider.core.embedding.prompts import Prompts
from emb_model_provider.core.embedding.threads import allowed_threads
from emb_model_provider.core.embedding.tokenization import TextTokenizer
from emb_model_provider.core.embedding.verification import TOLERANCE, difference, probe
from emb_model_provider.core.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from emb_model_provider.core.embedding.torch_engine import TorchEngine

logger = logging.getLogger(__name__)

_FORMAT = 4  # of an entry's files
_TOKENIZER = "tokenizer.json"

# Tokens of a text that int8's ranges are set by: longer ones hold nothing new, and take minutes.
_CALIBRATION_LENGTH = 256


class ConversionError(Exception):
    """A model cannot be converted, or gives other vectors once it is."""


def load_converted(
    description: ModelDescription,
    config: Config,
    precision: Precision,
    load_torch: Callable[[], tuple[TextTokenizer, "TorchEngine"]],
) -> tuple[TextTokenizer, OpenVinoEngine]:
    """The model in OpenVINO: from the cache, else converted now.

    Args:
        description: The model.
        config: The settings.
        precision: What to compute in.
        load_torch: Loads the model in torch in fp32, with a tokenizer that only the model's own limit cuts.

    Returns:
        A tokenizer that only the model's own limit cuts, and the engine.

    Raises:
        MissingDependencyError: OpenVINO, or for int8 NNCF, is not installed.
        ConversionError: OpenVINO cannot do it; torch can.
        ModelLoadError: Torch cannot load it either; the subclass says why.
    """
    cache = _entry(description, config, precision)
    if cache.is_there():
        try:
            return _read(cache.folder, config, precision, description.head_width)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            # It stays: every byte is as it was written, and others may be able to use it.
            logger.warning(
                "The converted model in %s cannot be used (%s); converting it again.", cache.folder, error
            )
    tokenizer, engine = load_torch()
    try:
        return tokenizer, _convert(cache, description, config, precision, tokenizer, engine)
    except (ConversionError, MissingDependencyError, ConfigError):
        raise
    except Exception as error:  # tracing runs the model's code, which may raise anything
        raise ConversionError(f"OpenVINO cannot convert it ({error})") from error


def _entry(description: ModelDescription, config: Config, precision: Precision) -> ConvertedCache:
    """Where the converted model is kept: the same for every prompt and every `max_context_length`."""
    folder = Path(config.cache_dir)
    identity = fingerprint(
        description,
        FileHashes(description.folder, folder),
        prompts=Prompts(),
        precision=precision,
        calibration=calibration_id(precision, config.calibration_texts),
    )
    version = openvino_library.version()
    return ConvertedCache(folder, f"{identity[:32]}-{precision}-openvino{version}-{_FORMAT}")


def _read(
    folder: Path, config: Config, precision: Precision, head_width: int | None
) -> tuple[TextTokenizer, OpenVinoEngine]:
    threads = allowed_threads(config.num_threads)
    load = functools.partial(
        openvino_engine.load, precision=precision, threads=threads, head_width=head_width
    )
    with ThreadPoolExecutor(1, thread_name_prefix="embedding-load") as other:  # needs no lock of Python's
        engine = other.submit(load, folder)
        saved = json.loads((folder / _TOKENIZER).read_text(encoding="utf-8"))
        return TextTokenizer.from_saved(saved, None), engine.result()


def _convert(
    cache: ConvertedCache,
    description: ModelDescription,
    config: Config,
    precision: Precision,
    tokenizer: TextTokenizer,
    torch_engine: "TorchEngine",
) -> OpenVinoEngine:
    def compiled(source: Any) -> OpenVinoEngine:
        threads = allowed_threads(config.num_threads)
        engine = openvino_engine.compile_model(
            source, precision=precision, threads=threads, head_width=description.head_width
        )
        differs = difference(probe(description, tokenizer, engine), expected)
        if not differs <= TOLERANCE[precision]:
            raise ConversionError(
                f"converted to {precision} the model gives vectors that differ by {differs:.1e} from "
                f"torch's, more than {TOLERANCE[precision]:.0e}"
            )
        return engine

    def fill(folder: Path) -> None:
        openvino_engine.save(converted, folder)
        (folder / _TOKENIZER).write_text(json.dumps(tokenizer.saved()), encoding="utf-8")
        engines.append(compiled(folder))
        engines[0].export(folder)

    converted = openvino_conversion.convert(torch_engine)
    expected = probe(description, tokenizer, torch_engine)
    if precision == "int8":
        converted = _quantize(converted, config, tokenizer)
    engines: list[OpenVinoEngine] = []
    cache.write(fill)
    return engines[0] if engines else compiled(converted)


def _quantize(converted: Any, config: Config, tokenizer: TextTokenizer) -> Any:
    texts = read_calibration_texts(config.calibration_texts)
    logger.info("Setting the ranges of int8 by %d texts, once; it may take minutes.", len(texts))
    shorter = TextTokenizer.from_saved(tokenizer.saved(), _CALIBRATION_LENGTH)
    return openvino_conversion.quantize(converted, [shorter.pad([e]) for e in shorter.encode(texts)])

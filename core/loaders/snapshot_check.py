"""Whether a folder holds every file its model needs."""

from collections.abc import Callable

from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model_format import TRANSFORMER_CONFIGS, read_description
from emb_model_provider.core.embedding.modelscope_format import is_modelscope_native
from emb_model_provider.core.errors import ModelFilesError, UnsupportedModelError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)

# Files a model may lack, but whose loss changes vectors: a copy without them is complete only when it is
# known that the repository has none.
_OPTIONAL = (
    ("modules.json",),
    ("config_sentence_transformers.json",),
    TRANSFORMER_CONFIGS,
    ("tokenizer_config.json",),
)
_OPTIONAL_FOR_MODELSCOPE = _OPTIONAL[-1:]  # its own pipeline reads no file of sentence-transformers


def check_complete(folder: ModelFolder, known_absent: Callable[[str], bool] = lambda name: True) -> None:
    """Check that a folder holds all the files that its model needs. No file's content is verified.

    Args:
        folder: The folder.
        known_absent: Tells of a file that is not there whether the repository has none either; a copy
            that another program made of some files only cannot tell. A folder the user gave is the
            whole truth.

    Raises:
        ModelFilesError: A needed file is missing, or an optional one may be; the message names it.
    """
    native = folder.source == "modelscope" and not folder.file("modules.json").is_file()
    native = native and is_modelscope_native(folder)
    for names in _OPTIONAL_FOR_MODELSCOPE if native else _OPTIONAL:
        if not any(folder.file(name).is_file() for name in names) and not known_absent(names[0]):
            raise ModelFilesError(
                f"{folder.path / names[0]} is missing, and may be one of the model's files."
            )
    partial = sorted(folder.path.rglob("*.incomplete"))
    if partial:
        raise ModelFilesError(f"{partial[0]} is a download that was not finished.")
    try:
        # Trust is no matter of completeness.
        description = read_description(folder, trust_remote_code=True, allow_pickle_weights=True)
    except UnsupportedModelError:
        return  # complete as far as can be told; loading it gives the reason for the refusal
    if description.is_static:
        return
    if not any(folder.file(name).is_file() for name in _TOKENIZER_FILES):
        raise ModelFilesError(f"{folder.path / 'tokenizer.json'} is missing: the folder has no tokenizer.")

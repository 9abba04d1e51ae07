"""Tries the candidates of a name in order: local copies first, then downloads, a different model last."""

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.loading import load_embedding_model
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.errors import (
    FingerprintMismatchError,
    MissingDependencyError,
    ModelLoadError,
    ModelSubstitutionWarning,
    NoModelError,
    UnsupportedModelError,
)
from emb_model_provider.core.loaders.local import find_given_folder, find_package
from emb_model_provider.core.model_names import Candidate, candidates, full_name

logger = logging.getLogger(__name__)

# Another copy of the same files would fail the same way.
_FINAL = (UnsupportedModelError, MissingDependencyError, FingerprintMismatchError)


class Source(Protocol):
    """Where a model's folder comes from; see `BaseModelLoader`."""

    def find_local(self, repo_id: str) -> ModelFolder | None:
        """A complete copy in the source's cache."""
        ...

    def download(self, repo_id: str) -> ModelFolder:
        """A complete copy from the source."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model and how it was found.

    Attributes:
        model: The model.
        substitute_for: The name asked for, when this is a different model; None when it is the same.
        failures: Why each candidate tried before this one failed, in the order tried.
    """

    model: EmbeddingModel
    substitute_for: str | None
    failures: tuple[tuple[Candidate, ModelLoadError], ...]


def load_first(model_name: str, config: Config, sources: Mapping[str, Source]) -> LoadedModel:
    """Load the first candidate of a name that works.

    Args:
        model_name: `owner/name`, or a folder.
        config: The settings; `model_source` chooses among the sources.
        sources: The sources by name.

    Raises:
        NoModelError: Several candidates failed; lists each with its reason.
        ModelLoadError: The only candidate failed; the subclass says how.
    """
    given = find_given_folder(model_name, config)
    if given is not None:
        return LoadedModel(load_embedding_model(given, config), None, ())
    failures: dict[Candidate, ModelLoadError] = {}
    for candidate, find in _attempts(model_name, config, sources):
        on_disk = failures.get(candidate)
        if isinstance(on_disk, _FINAL):
            continue
        try:
            folder = find()
            if folder is None:
                continue
            model = load_embedding_model(folder, config)
        except ModelLoadError as error:
            if on_disk is not None:
                error.args = (f"{error} On disk: {on_disk}",)
            failures[candidate] = error
            logger.warning("%s: %s", candidate, error)
            continue
        logger.info("%s: loaded from %s", candidate, folder)
        if candidate.substitute_for is not None:
            _warn_of_substitute(candidate)
        return LoadedModel(model, candidate.substitute_for, tuple(failures.items()))
    raise _nothing_worked(model_name, list(failures.items()))


def _warn_of_substitute(candidate: Candidate) -> None:
    warnings.warn(
        f"Loaded {candidate} in place of {candidate.substitute_for}: a different model. Vectors of the two "
        "do not belong in one index. Set allow_substitutes=False (EMB_PROVIDER_ALLOW_SUBSTITUTES=false) to "
        "forbid it, or modelscope_model_id to name the model's own id.",
        ModelSubstitutionWarning,
        stacklevel=2,
    )


def _attempts(
    model_name: str, config: Config, sources: Mapping[str, Source]
) -> Iterator[tuple[Candidate, Callable[[], ModelFolder | None]]]:
    todo = [c for c in candidates(model_name, config) if c.source in sources]
    exact = [c for c in todo if c.substitute_for is None]
    for candidate in exact:
        yield candidate, lambda c=candidate: sources[c.source].find_local(c.repo_id)  # type: ignore[misc]
    if config.revision is None:  # a package does not say which revision it carries
        yield exact[0], lambda: find_package(full_name(model_name))
    for candidate in exact:
        yield candidate, lambda c=candidate: sources[c.source].download(c.repo_id)  # type: ignore[misc]
    for candidate in (c for c in todo if c.substitute_for is not None):
        yield candidate, lambda c=candidate: sources[c.source].find_local(c.repo_id)  # type: ignore[misc]
        yield candidate, lambda c=candidate: sources[c.source].download(c.repo_id)  # type: ignore[misc]


def _nothing_worked(model_name: str, failures: list[tuple[Candidate, ModelLoadError]]) -> ModelLoadError:
    errors = [error for _, error in failures]
    if len(errors) == 1:
        return errors[0]
    for earlier, later in itertools.pairwise(errors):
        later.__context__ = earlier
    lines = "\n".join(f"  - {candidate}: {error}" for candidate, error in failures)
    error = NoModelError(f"No candidate for the model {model_name!r} could be loaded:\n{lines}", errors)
    error.__cause__ = errors[-1]
    return error

"""Everything this package raises on purpose.

    EmbeddingProviderError
    ├── ConfigError (ValueError)                 a setting is impossible
    ├── EmbeddingInputError                      the caller's texts
    │   ├── TextTypeError (TypeError)            not a text, or not a list of texts
    │   └── TextValueError (ValueError)          a text that cannot be embedded
    ├── NonFiniteEmbeddingError (RuntimeError)   the model answered NaN or infinity
    └── ModelLoadError (RuntimeError)            no usable model
        ├── ModelNotLoadedError                  asked for vectors before load_model
        ├── MissingDependencyError (ImportError) an optional package is not installed
        ├── ModelNotFoundError (LookupError)     no such repository or revision
        ├── AccessDeniedError (PermissionError)  gated, private, or a wrong token
        ├── HubConnectionError (ConnectionError) the hub cannot be reached or does not answer as a hub
        ├── ModelFilesError                      a file is missing, unreadable or damaged
        ├── FingerprintMismatchError             another model than the one that is expected
        ├── UnsupportedModelError                the files ask for something the reader does not know
        └── NoModelError                         every candidate failed; lists each with its reason

    ModelSubstitutionWarning (UserWarning)       a different model was loaded in place of the one named

A message says what failed, on what, and what to do next. The cause is always chained.
"""

from collections.abc import Sequence


class EmbeddingProviderError(Exception):
    """Base of every error of this package."""


class ConfigError(EmbeddingProviderError, ValueError):
    """A setting is impossible. Names the setting, what it got and what is allowed."""


class EmbeddingInputError(EmbeddingProviderError):
    """The texts given cannot be embedded."""


class TextTypeError(EmbeddingInputError, TypeError):
    """Something other than a text, or a bare string where a list of texts is meant."""


class TextValueError(EmbeddingInputError, ValueError):
    """A text that is not valid Unicode, or too long where that is refused; or an impossible argument."""


class NonFiniteEmbeddingError(EmbeddingProviderError, RuntimeError):
    """The model produced NaN or infinity for a text."""


class ModelLoadError(EmbeddingProviderError, RuntimeError):
    """No usable model could be had."""


class ModelNotLoadedError(ModelLoadError):
    """Embeddings were asked for before `load_model`."""


class MissingDependencyError(ModelLoadError, ImportError):
    """An optional package is needed and not installed."""


class ModelNotFoundError(ModelLoadError, LookupError):
    """The hub has no such repository or revision, or nothing of that name is on disk."""


class AccessDeniedError(ModelLoadError, PermissionError):
    """The repository is gated or private, or the token is wrong."""


class HubConnectionError(ModelLoadError, ConnectionError):
    """The hub is unreachable, silent, overloaded, or something else answers in its place.

    Attributes:
        retry_after: Seconds after which the hub may answer; None when asking again soon is no use.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelFilesError(ModelLoadError):
    """A file of the model is missing, unreadable or damaged."""


class UnsupportedModelError(ModelLoadError):
    """The model's files ask for something that is not known to give the right vectors here."""


class FingerprintMismatchError(ModelLoadError):
    """The model is not the one whose fingerprint is expected."""


class ModelSubstitutionWarning(UserWarning):
    """A different model was loaded in place of the one named."""


class NoModelError(ModelLoadError):
    """Every candidate failed.

    Attributes:
        failures: One error for each candidate tried, in the order tried.
    """

    def __init__(self, message: str, failures: Sequence[ModelLoadError] = ()) -> None:
        super().__init__(message)
        self.failures = tuple(failures)

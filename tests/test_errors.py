"""The error tree: what a caller may catch."""

from __future__ import annotations

import inspect

import pytest

from emb_model_provider.core import errors

BUILTIN = {
    errors.ConfigError: ValueError,
    errors.TextTypeError: TypeError,
    errors.TextValueError: ValueError,
    errors.NonFiniteEmbeddingError: RuntimeError,
    errors.MissingDependencyError: ImportError,
    errors.ModelNotFoundError: LookupError,
    errors.AccessDeniedError: PermissionError,
    errors.HubConnectionError: ConnectionError,
}
OURS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if error.__module__ == errors.__name__ and issubclass(error, Exception) and not issubclass(error, Warning)
]


@pytest.mark.parametrize("error", OURS)
def test_every_error_has_our_base_and_is_drawn_in_the_tree(error: type[Exception]) -> None:
    assert issubclass(error, errors.EmbeddingProviderError)
    assert error.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(("error", "builtin"), BUILTIN.items())
def test_an_error_is_also_the_builtin_that_callers_expect(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)
    with pytest.raises(builtin, match="what failed"):
        raise error("what failed")


@pytest.mark.parametrize("error", [e for e in OURS if issubclass(e, errors.ModelLoadError)])
def test_every_way_not_to_get_a_model_is_one_error_to_catch(error: type[Exception]) -> None:
    assert issubclass(error, RuntimeError)


def test_the_error_of_many_candidates_keeps_each_reason() -> None:
    reasons = [errors.ModelNotFoundError("no such model"), errors.HubConnectionError("no answer")]
    assert errors.NoModelError("nothing worked", reasons).failures == tuple(reasons)

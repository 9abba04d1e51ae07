"""What can be embedded. Imports nothing, so that the adapters can ask before any model is there."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from emb_model_provider.core.errors import TextTypeError, TextValueError

if TYPE_CHECKING:
    from emb_model_provider.core.embedding.description import Role

ROLES: "tuple[Role, ...]" = ("query", "document")


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is not a list of encodable texts, before any work is done.

    Raises:
        TextTypeError: A bare string or bytes, not a sequence, or a member that is not a string.
        TextValueError: A text holds a lone surrogate.
    """
    for _ in checked(texts, Sequence):
        pass


def checked(texts: Iterable[str], kind: type = Iterable) -> Iterator[str]:
    """The same of texts that come one by one: each is checked when it is taken."""
    if isinstance(texts, str | bytes) or not isinstance(texts, kind):
        raise TextTypeError(
            f"Expected a list of texts, got {type(texts).__name__}. Wrap a single text in a list."
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextTypeError(f"Text {index} is not a str but {type(text).__name__}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextValueError(
                f"Text {index} has a lone surrogate at position {error.start}, which is not valid Unicode. "
                "Decode its source with errors='replace'."
            ) from None
        yield text


def check_role(role: str) -> None:
    """Refuse a role that is not known: a document's prompt before a query gives wrong vectors.

    Raises:
        TextValueError: It is neither `query` nor `document`.
    """
    if role not in ROLES:
        raise TextValueError(f"Unknown role {role!r}: a text is a query or a document.")

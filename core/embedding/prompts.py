"""Which text is put before a text in each role: the user's, else the model's own, else the known one."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from emb_model_provider.core.embedding.description import ModelDescription, Role
from emb_model_provider.core.embedding.texts import ROLES as ROLES
from emb_model_provider.core.embedding.texts import check_role
from emb_model_provider.core.model_registry import find

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompts:
    """The prompts in force.

    Attributes:
        query: Put before a query; "" for nothing.
        document: Put before a document; "" for nothing.
        expected: Prompts that the model is known to expect and that are not in force, by role.
    """

    query: str = ""
    document: str = ""
    expected: Mapping[Role, str] = field(default_factory=dict)

    def __getitem__(self, role: Role) -> str:
        check_role(role)
        return self.query if role == "query" else self.document

    @property
    def advice(self) -> str | None:
        """What to set for the expected prompts; None when there are none."""
        if not self.expected:
            return None
        settings = " and ".join(
            f"EMB_PROVIDER_{role.upper()}_PROMPT={_quoted(prompt)}" for role, prompt in self.expected.items()
        )
        return (
            f"this model expects prompts that its files do not carry; set {settings}, or "
            'EMB_PROVIDER_PROMPTS=recommended, or an empty prompt ("") to use none'
        )


def _quoted(prompt: str) -> str:
    """The prompt as a shell takes it, on one line; double quotes would not give a line break."""
    if "\n" in prompt:
        escaped = prompt.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"$'{escaped}'"
    return json.dumps(prompt, ensure_ascii=False)


def choose_prompts(
    description: ModelDescription,
    name: str | None,
    *,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    policy: Literal["saved", "recommended"] = "saved",
) -> Prompts:
    """The prompts to use, and those that a known model lacks. Says so in one line of the log.

    Args:
        description: The model.
        name: Its name on a hub, by which a known model is found; None when it has none.
        query_prompt: The user's; "" for none, None to use the model's own.
        document_prompt: Likewise.
        policy: `recommended` takes the known model's prompts where its files carry none.
    """
    registered = find(name) if name else None
    known: Mapping[Role, str] = (registered.prompts if registered else None) or {}
    chosen: dict[Role, str | None] = {"query": query_prompt, "document": document_prompt}
    prompts: dict[Role, str] = {}
    expected: dict[Role, str] = {}
    for role in ROLES:
        user = chosen[role]
        prompts[role] = description.saved_prompt(role) if user is None else user
        if user is None and not prompts[role] and known.get(role):
            (prompts if policy == "recommended" else expected)[role] = known[role]
    in_force = Prompts(prompts["query"], prompts["document"], expected)
    if in_force.advice:
        logger.warning("%s: %s.", name, in_force.advice)
    if policy == "recommended" and registered is None:
        logger.warning("No recommended prompts are known for %s.", name or description.folder.path)
    return in_force

"""The tables of README.md that say what the code says. `make readme` writes them; test_readme.py compares."""

import re
from pathlib import Path

from families import FAMILIES, Family

from emb_model_provider.core.config import Config
from emb_model_provider.core.model_registry import find

README = Path(__file__).parent.parent / "README.md"

# Models by the names that users know them by, with an id in the registry; "" where it has none.
_KNOWN_AS: dict[str, dict[str, str]] = {
    "bert": {
        "BGE": "BAAI/bge-base-en-v1.5",
        "E5": "intfloat/e5-base-v2",
        "GTE (thenlper)": "thenlper/gte-base",
        "MiniLM": "sentence-transformers/all-MiniLM-L6-v2",
        "mxbai": "mixedbread-ai/mxbai-embed-large-v1",
        "Snowflake Arctic 1": "Snowflake/snowflake-arctic-embed-m",
    },
    "xlm-roberta": {"BGE-M3": "BAAI/bge-m3", "multilingual E5": "intfloat/multilingual-e5-base"},
    "mpnet": {
        "all-mpnet-base-v2": "sentence-transformers/all-mpnet-base-v2",
        "multi-qa-mpnet": "sentence-transformers/multi-qa-mpnet-base-dot-v1",
    },
    "distilbert": {"distiluse": "sentence-transformers/distiluse-base-multilingual-cased-v2"},
    "modernbert": {
        "GTE ModernBERT": "Alibaba-NLP/gte-modernbert-base",
        "ModernBERT Embed": "nomic-ai/modernbert-embed-base",
        "Granite R2": "ibm-granite/granite-embedding-english-r2",
    },
    "nomic_bert": {"Nomic Embed 1, 1.5": "nomic-ai/nomic-embed-text-v1.5"},
    "t5": {"sentence-t5": "", "GTR": "", "INSTRUCTOR": "hkunlp/instructor-large"},
    "qwen3": {"Qwen3 Embedding": "Qwen/Qwen3-Embedding-0.6B"},
    "gemma3_text": {"EmbeddingGemma": "google/embeddinggemma-300m"},
    "mistral": {"E5 Mistral": ""},
}

# What the registry says that a model needs, as what a user does about it.
_TO_DO = {
    "pickle weights (no safetensors)": "`allow_pickle_weights=True`",
    "trust_remote_code": "`trust_remote_code=True`",
    "gated licence": "a token, for the licence must be accepted",
}


def settings_table() -> str:
    """Every setting: its variable, keyword, default and what it takes."""
    rows = ["| variable | keyword | default | takes |", "|---|---|---|---|"]
    for name, field in Config.model_fields.items():
        default = field.default
        shown = (
            "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        rows.append(f"| `{Config.variable(name)}` | `{name}` | {shown} | {field.description} |")
    return "\n".join(rows)


def families_table() -> str:
    """Every family of tests/families.py, which test_families.py compares with the oracle."""
    rows = ["| model family | verified | needs |", "|---|---|---|"]
    for family in FAMILIES:
        known = f" ({', '.join(_KNOWN_AS[family.name])})" if family.name in _KNOWN_AS else ""
        rows.append(f"| {family.name}{known} | {_verified(family)} | {_needs(family)} |")
    return "\n".join(rows)


def _verified(family: Family) -> str:
    layers = [f"{family.pooling} pooling" if isinstance(family.pooling, str) else " + ".join(family.pooling)]
    layers += [f"{len(family.dense)} Dense"] if family.dense else []
    layers += ["Normalize"] if family.normalize else []
    layers += ["left padding"] if family.padding_side == "left" else []
    layers += [f"prompts saved as {', '.join(family.prompts)}"] if family.prompts else []
    return ", ".join(layers)


def _needs(family: Family) -> str:
    """What a user does for the models of a family, from the registry."""
    wanted: dict[str, list[str]] = {}
    for label, name in _KNOWN_AS.get(family.name, {}).items():
        model = find(name)
        to_do = [_TO_DO[model.needs]] if model and model.needs else []
        if model and model.prompts and not model.prompts_in_files:
            to_do.append('`prompts="recommended"`')
        if to_do:
            wanted.setdefault(" and ".join(to_do), []).append(label)
    return "; ".join(f"{', '.join(labels)}: {what}" for what, labels in wanted.items()) or "nothing"


def with_tables(text: str) -> str:
    """The README's text with its tables as the code has them now."""
    for name, table in (("settings", settings_table()), ("families", families_table())):
        text = re.sub(
            rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end of {name} -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")

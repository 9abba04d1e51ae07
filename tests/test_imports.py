"""Who imports whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = "emb_model_provider.core"
HEAVY = ("torch", "transformers", "huggingface_hub", "modelscope", "modelscope_hub", "openvino")
# Each may import those before it: see "Flow" in core/__init__.py.
LEVELS = (
    "errors",
    "config",
    "model_registry",
    "model_names",
    "embedding",
    "loaders",
    "model_manager",
    "lazy_model",
)
FRAMEWORKS = {"langchain_embprov": "langchain_core", "llamaindex_embprov": "llama_index"}


def python(program: str) -> str:
    """What a program prints in a fresh interpreter; the current folder is not the repository."""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def imports(file: Path) -> set[str]:
    """Full names of what a file imports, at its top and inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_imports_inside_the_core_go_one_way(level: str) -> None:
    lower = LEVELS[: LEVELS.index(level) + 1]
    files = [*(ROOT / "core").glob(f"{level}.py"), *(ROOT / "core" / level).rglob("*.py")]
    assert files
    for file in files:
        ours = {name for name in imports(file) if name.startswith(CORE)}
        allowed = tuple(f"{CORE}.{name}" for name in lower)
        assert [name for name in ours if not name.startswith(allowed)] == [], file


def test_every_module_of_the_core_has_a_level() -> None:
    names = {path.stem for path in (ROOT / "core").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__pycache__"} == set(LEVELS)


def test_the_core_knows_no_framework_and_no_adapter() -> None:
    others = ("langchain", "llama_index", "llamaindex", "sentence_transformers")
    optional_engine = ROOT / "core" / "embedding" / "sentence_transformers_model.py"
    for file in {*(ROOT / "core").rglob("*.py")} - {optional_engine}:
        assert [name for name in imports(file) if name.startswith(others)] == [], file


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_an_adapter_knows_one_framework(package: str) -> None:
    others = tuple(name for name in (*FRAMEWORKS, *FRAMEWORKS.values()) if name != package)
    for file in (ROOT / package).rglob("*.py"):
        foreign = [name for name in imports(file) if name.startswith(others)]
        assert all(name.startswith(FRAMEWORKS[package]) for name in foreign), file


@pytest.mark.parametrize(
    ("before", "ours"),
    [
        ("", f"import {CORE}, {CORE}.config, {CORE}.model_manager, {CORE}.lazy_model"),
        (
            "import langchain_core.embeddings",
            "import langchain_embprov; langchain_embprov.EmbProviderEmbeddings()",
        ),
        (
            "import llama_index.core.base.embeddings.base",
            "import llamaindex_embprov; llamaindex_embprov.EmbProviderEmbedding()",
        ),
    ],
    ids=["core", "langchain", "llamaindex"],
)
def test_an_import_brings_in_no_runtime_and_no_hub_client(before: str, ours: str) -> None:
    printed = python(
        f"import sys\n{before}\nbefore = set(sys.modules)\n{ours}\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules and name not in before])"
    )
    assert printed.split() == []


def test_the_frameworks_alone_bring_in_no_runtime() -> None:
    """Otherwise the test above would prove nothing."""
    printed = python(
        "import sys, langchain_core.embeddings, llama_index.core.base.embeddings.base\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    assert printed.split() == []


@pytest.mark.parametrize(
    ("package", "blocked", "program"),
    [
        ("langchain_embprov", "llama_index", "EmbProviderEmbeddings().embed_documents([])"),
        ("llamaindex_embprov", "langchain_core", "EmbProviderEmbedding()._get_text_embeddings([])"),
    ],
)
def test_an_adapter_works_without_the_other_framework(package: str, blocked: str, program: str) -> None:
    block = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ({blocked!r}, "langchain", "sentence_transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import {package}
print({package}.{program})
"""
    assert python(block).strip() == "[]"


def test_the_folder_core_is_not_a_package_of_its_own() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import core"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "import that name" in run.stderr

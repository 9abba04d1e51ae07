"""Settings: where they come from, what they become, and what a bad one says."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_settings import DotEnvSettingsSource

from emb_model_provider.core.config import Config
from emb_model_provider.core.errors import ConfigError, EmbeddingProviderError

HEX = "0123456789abcdef" * 4

# setting, its variable, the variable's content, what the setting becomes
SETTINGS: list[tuple[str, str, str, Any]] = [
    ("model_name", "EMB_PROVIDER_MODEL_NAME", "BAAI/bge-small-en-v1.5", "BAAI/bge-small-en-v1.5"),
    ("model_path", "EMB_PROVIDER_MODEL_PATH", "/models/mine", "/models/mine"),
    ("model_source", "EMB_PROVIDER_MODEL_SOURCE", "modelscope", "modelscope"),
    ("modelscope_model_id", "EMB_PROVIDER_MODELSCOPE_MODEL_ID", "iic/gte", "iic/gte"),
    ("modelscope_cache_dir", "MODELSCOPE_CACHE_DIR", "/caches/ms", "/caches/ms"),
    ("modelscope_model_mapping", "EMB_PROVIDER_MODELSCOPE_MODEL_MAPPING", '{"a/b": "c/d"}', {"a/b": "c/d"}),
    ("device", "EMB_PROVIDER_DEVICE", "cuda:1", "cuda:1"),
    ("devices", "EMB_PROVIDER_DEVICES", "cuda:0, cuda:1", ("cuda:0", "cuda:1")),
    ("max_batch_size", "EMB_PROVIDER_MAX_BATCH_SIZE", "8", 8),
    ("max_context_length", "EMB_PROVIDER_MAX_CONTEXT_LENGTH", "128", 128),
    ("trust_remote_code", "EMB_PROVIDER_TRUST_REMOTE_CODE", "true", True),
    ("allow_pickle_weights", "EMB_PROVIDER_ALLOW_PICKLE_WEIGHTS", "true", True),
    ("query_prompt", "EMB_PROVIDER_QUERY_PROMPT", "query: ", "query: "),
    ("document_prompt", "EMB_PROVIDER_DOCUMENT_PROMPT", "passage: ", "passage: "),
    ("prompts", "EMB_PROVIDER_PROMPTS", "recommended", "recommended"),
    ("truncate_dim", "EMB_PROVIDER_TRUNCATE_DIM", "128", 128),
    ("on_truncation", "EMB_PROVIDER_ON_TRUNCATION", "error", "error"),
    ("revision", "EMB_PROVIDER_REVISION", "v1.0.0", "v1.0.0"),
    ("offline", "EMB_PROVIDER_OFFLINE", "1", True),
    ("hf_token", "EMB_PROVIDER_HF_TOKEN", "hf_abc", SecretStr("hf_abc")),
    ("modelscope_token", "EMB_PROVIDER_MODELSCOPE_TOKEN", "ms-abc", SecretStr("ms-abc")),
    ("allow_substitutes", "EMB_PROVIDER_ALLOW_SUBSTITUTES", "false", False),
    ("expected_fingerprint", "EMB_PROVIDER_EXPECTED_FINGERPRINT", HEX, HEX),
    ("connect_timeout", "EMB_PROVIDER_CONNECT_TIMEOUT", "2.5", 2.5),
    ("download_stall_timeout", "EMB_PROVIDER_DOWNLOAD_STALL_TIMEOUT", "60", 60.0),
    ("cache_dir", "EMB_PROVIDER_CACHE_DIR", "/caches/ours", "/caches/ours"),
    ("engine", "EMB_PROVIDER_ENGINE", "torch", "torch"),
    ("precision", "EMB_PROVIDER_PRECISION", "bf16", "bf16"),
    ("calibration_texts", "EMB_PROVIDER_CALIBRATION_TEXTS", "/texts.txt", "/texts.txt"),
    ("num_threads", "EMB_PROVIDER_NUM_THREADS", "3", 3),
]
NAMES = [setting[0] for setting in SETTINGS]

# setting, a value it refuses, what the message must say is allowed
BAD: list[tuple[str, str, str]] = [
    ("model_name", " ", "owner/name"),
    ("model_source", "gitlab", "huggingface, modelscope or auto"),
    ("modelscope_model_mapping", "{a: b}", "JSON object"),
    ("modelscope_model_mapping", "[]", "JSON object"),
    ("device", "tpu", "auto, cpu, cuda, cuda:N or mps"),
    ("device", "cuda:", "auto, cpu, cuda, cuda:N or mps"),
    ("devices", "cpu,tpu", "cpu, cuda:N and mps, joined by commas"),
    ("max_batch_size", "0", "1 or more"),
    ("max_batch_size", "many", "1 or more"),
    ("max_batch_size", "1" + "0" * 20, "1 or more"),
    ("max_context_length", "-1", "1 or more"),
    ("trust_remote_code", "maybe", "true or false"),
    ("allow_pickle_weights", "sometimes", "true or false"),
    ("prompts", "all", "saved (the model's files), or recommended"),
    ("truncate_dim", "0", "1 to the model's dimension"),
    ("on_truncation", "cut", "warn, error or ignore"),
    ("offline", "2", "true or false"),
    ("allow_substitutes", "perhaps", "true or false"),
    ("expected_fingerprint", "abc", "64 hexadecimal digits"),
    ("connect_timeout", "0", "seconds, above 0"),
    ("connect_timeout", "inf", "a day at most"),
    ("connect_timeout", "nan", "a day at most"),
    ("download_stall_timeout", "1e9", "a day at most"),
    ("download_stall_timeout", "soon", "seconds, above 0"),
    ("engine", "jax", "torch, openvino or sentence-transformers"),
    ("precision", "fp8", "fp32, bf16, fp16, int8 or auto"),
    ("num_threads", "0", "1 to 1024"),
    ("num_threads", "1000000000000", "1 to 1024"),
]


def test_every_setting_is_in_the_table_above() -> None:
    assert sorted(NAMES) == sorted(Config.model_fields)


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MODELSCOPE_CACHE_DIR", "EMB_PROVIDER_CACHE_DIR"):
        monkeypatch.delenv(variable)
    config = Config()
    assert config.model_name == "sentence-transformers/all-MiniLM-L6-v2"
    assert config.model_source == "huggingface"
    assert config.modelscope_cache_dir == str(Path.home() / ".cache/modelscope/hub") + "/"
    assert config.cache_dir == str(Path.home() / ".cache/emb-model-provider")
    assert config.modelscope_model_mapping == {}
    assert config.device == "auto"
    assert config.trust_remote_code is False
    assert config.offline is False
    assert (config.engine, config.precision) == ("auto", "fp32")
    assert (config.prompts, config.on_truncation) == ("saved", "warn")
    assert config.allow_pickle_weights is False
    unset = [
        *("model_path", "modelscope_model_id", "max_context_length", "revision", "hf_token"),
        *("query_prompt", "document_prompt", "truncate_dim"),
    ]
    assert [getattr(config, name) for name in unset] == [None] * len(unset)


@pytest.mark.parametrize(("name", "variable", "content", "expected"), SETTINGS, ids=NAMES)
class TestEverySetting:
    def test_comes_from_its_variable(
        self, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, content: str, expected: Any
    ) -> None:
        monkeypatch.setenv(variable, content)
        assert getattr(Config(), name) == expected

    def test_comes_from_an_argument_first(
        self, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, content: str, expected: Any
    ) -> None:
        monkeypatch.setenv(variable, "not this")
        Path(".env").write_text(f"{variable}=nor this\n")
        assert getattr(Config(**{name: expected}), name) == expected

    def test_comes_from_the_dotenv_file_last(
        self, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, content: str, expected: Any
    ) -> None:
        Path(".env").write_text(f"{variable}='{content}'\n")
        monkeypatch.delenv(variable, raising=False)
        assert getattr(Config(), name) == expected
        monkeypatch.setenv(variable, content)
        Path(".env").write_text(f"{variable}=not this\n")
        assert getattr(Config(), name) == expected

    def test_is_unset_by_an_empty_variable(
        self, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, content: str, expected: Any
    ) -> None:
        monkeypatch.delenv(variable, raising=False)
        # An empty prompt is a choice: none, also where the model has one.
        unset = "" if name in ("query_prompt", "document_prompt") else getattr(Config(), name)
        monkeypatch.setenv(variable, "")
        assert getattr(Config(), name) == unset
        Path(".env").write_text(f"{variable}=\n")
        monkeypatch.delenv(variable)
        assert getattr(Config(), name) == unset

    def test_distinguishes_configs(
        self, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, content: str, expected: Any
    ) -> None:
        config = Config(**{name: expected})
        assert config != Config()
        assert config == Config(**{name: expected})
        assert hash(config) == hash(Config(**{name: expected}))
        assert len({config, Config(), Config(**{name: expected})}) == 2

    def test_survives_a_pickle_and_a_copy(
        self, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, content: str, expected: Any
    ) -> None:
        config = Config(**{name: expected})
        monkeypatch.setenv(variable, "the child's environment does not matter")
        assert pickle.loads(pickle.dumps(config)) == config
        assert copy.deepcopy(config) == config

    def test_cannot_be_assigned(
        self, monkeypatch: pytest.MonkeyPatch, name: str, variable: str, content: str, expected: Any
    ) -> None:
        config = Config()
        with pytest.raises(ConfigError, match=f"{name} cannot change"):
            setattr(config, name, expected)


def test_the_environment_is_read_when_a_config_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Config()
    monkeypatch.setenv("EMB_PROVIDER_DEVICE", "cpu")
    assert (before.device, Config().device) == ("auto", "cpu")


def test_variables_of_other_programs_in_the_dotenv_file_do_not_matter(
    recwarn: pytest.WarningsRecorder,
) -> None:
    Path(".env").write_text("OPENAI_API_KEY=sk-1\nDEVICE=tpu\nEMB_PROVIDER_DEVICE=cpu\nMODEL_NAME=gpt\n")
    config = Config()
    assert config.device == "cpu"
    assert config.model_name == "sentence-transformers/all-MiniLM-L6-v2"
    assert not recwarn.list


@pytest.mark.parametrize("source", ["AUTO", "Auto", " auto ", "auto"])
def test_the_source_is_written_in_any_case(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    assert Config(model_source=source).model_source == "auto"  # type: ignore[arg-type]
    monkeypatch.setenv("EMB_PROVIDER_MODEL_SOURCE", source)
    assert Config().model_source == "auto"


@pytest.mark.parametrize("name", ["modelscope_cache_dir", "model_path", "cache_dir", "calibration_texts"])
def test_a_tilde_is_the_home_folder(name: str) -> None:
    assert getattr(Config(**{name: "~/models"}), name) == str(Path.home() / "models")  # type: ignore[arg-type]


def test_a_mapping_cannot_be_changed_afterwards() -> None:
    given = {"a/b": "c/d"}
    config = Config(modelscope_model_mapping=given)  # type: ignore[arg-type]
    given["a/b"] = "e/f"
    assert config.modelscope_model_mapping == {"a/b": "c/d"}
    with pytest.raises(TypeError):
        config.modelscope_model_mapping["a/b"] = "e/f"  # type: ignore[index]


class TestBadSetting:
    @pytest.mark.parametrize(("name", "value", "allowed"), BAD)
    def test_argument_names_setting_variable_value_and_what_is_allowed(
        self, name: str, value: str, allowed: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            Config(**{name: value})  # type: ignore[arg-type]
        said = str(caught.value)
        got = "[]" if value == "[]" else value
        assert name in said
        assert Config.variable(name) in said
        assert got in said
        assert allowed in said

    @pytest.mark.parametrize(("name", "value", "allowed"), BAD)
    def test_variable_says_the_same(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
    ) -> None:
        monkeypatch.setenv(Config.variable(name), value)
        with pytest.raises(ConfigError) as from_variable:
            Config()
        monkeypatch.delenv(Config.variable(name))
        with pytest.raises(ConfigError) as from_argument:
            Config(**{name: value})  # type: ignore[arg-type]
        assert str(from_variable.value) == str(from_argument.value)

    def test_source_is_unknown(self) -> None:
        with pytest.raises(ValueError, match="Unknown model source: GitLab") as caught:
            Config(model_source="GitLab")  # type: ignore[arg-type]
        assert isinstance(caught.value, ConfigError)
        assert isinstance(caught.value, EmbeddingProviderError)

    @pytest.mark.parametrize("name", ["model_name", "model_path", "cache_dir", "revision", "query_prompt"])
    @pytest.mark.parametrize(
        ("bad", "reason"), [("a\0b", "null character"), ("a\ud800", "not valid Unicode")]
    )
    def test_text_that_is_none_is_refused_at_once(self, name: str, bad: str, reason: str) -> None:
        with pytest.raises(ConfigError, match=rf"{reason}; got .*{name} \(EMB_PROVIDER_"):
            Config(**{name: bad})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("devices", None),
            ("devices", 5),
            ("cache_dir", ""),
            ("model_path", ""),
            ("modelscope_model_mapping", "[" * 100_000),
        ],
    )
    def test_of_another_type_is_refused(self, name: str, bad: Any) -> None:
        with pytest.raises(ConfigError, match=rf"{name} \(EMB_PROVIDER_"):
            Config(**{name: bad})

    def test_dotenv_file_that_may_not_be_read_is_done_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The current folder may be another user's, such as root's for a service."""

        read = DotEnvSettingsSource._read_env_files

        def forbidden(source: DotEnvSettingsSource) -> Any:
            if source.env_file is not None:
                raise PermissionError(13, "Permission denied", ".env")
            return read(source)

        monkeypatch.setattr(DotEnvSettingsSource, "_read_env_files", forbidden)
        with pytest.warns(UserWarning, match=r"The settings in \.env are not used: .*Permission denied"):
            assert Config(max_batch_size=7).max_batch_size == 7

    def test_dotenv_file_that_is_not_utf8_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".env").write_bytes("EMB_PROVIDER_QUERY_PROMPT=für".encode("latin-1"))
        with pytest.raises(ConfigError, match=rf"{tmp_path / '.env'} is not UTF-8") as caught:
            Config()
        assert isinstance(caught.value.__cause__, UnicodeDecodeError)

    def test_several_at_once_are_all_named(self) -> None:
        with pytest.raises(ConfigError, match=r"(?s)device .*max_batch_size "):
            Config(device="tpu", max_batch_size=0)

    @pytest.mark.parametrize(
        ("name", "near"),
        [("modle_name", "model_name"), ("batch_size", "max_batch_size"), ("model", "model_name")],
    )
    def test_unknown_argument_gets_a_suggestion(self, name: str, near: str) -> None:
        with pytest.raises(ConfigError, match=rf"Unknown setting '{name}': did you mean .*{near}"):
            Config(**{name: "x"})  # type: ignore[arg-type]

    def test_unknown_argument_without_a_near_one_points_to_the_list(self) -> None:
        with pytest.raises(ConfigError, match=r"Unknown setting 'zzz'.*README"):
            Config(zzz=1)  # type: ignore[call-arg]

    def test_mistyped_variable_warns_with_a_suggestion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMB_PROVIDER_MODLE_NAME", "x")
        expected = "EMB_PROVIDER_MODLE_NAME is not a setting; did you mean EMB_PROVIDER_MODEL_NAME?"
        with pytest.warns(UserWarning, match=expected.replace("?", r"\?")) as caught:
            Config()
        assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["SHOW_PROGRESS", "EMBED_BATCH_SIZE", "NUM_WORKERS"])
def test_the_variable_of_an_adapter_is_known_to_all(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, name: str
) -> None:
    monkeypatch.setenv(f"EMB_PROVIDER_{name}", "1")
    Config()
    assert not recwarn.list


class TestToken:
    def test_is_never_shown(self) -> None:
        config = Config(hf_token=SecretStr("hf_secret"), modelscope_token=SecretStr("ms-secret"))
        shown = f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
        assert "secret" not in shown

    def test_is_not_shown_by_an_error(self) -> None:
        with pytest.raises(ConfigError) as caught:
            Config(hf_token=["hf_secret"])  # type: ignore[arg-type]
        assert "hf_secret" not in str(caught.value)
        assert "hf_token (EMB_PROVIDER_HF_TOKEN)" in str(caught.value)

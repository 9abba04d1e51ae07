"""Everything a user may choose: arguments first, then the environment, then `.env`, then the defaults."""

import difflib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
)
from pydantic_core import core_schema
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from emb_model_provider.core.errors import ConfigError

ENV_PREFIX = "EMB_PROVIDER_"
SOURCES = ("huggingface", "modelscope", "auto")
# What one of the adapters reads besides, of an environment that all of them share.
_ADAPTER_VARIABLES = tuple(ENV_PREFIX + n for n in ("SHOW_PROGRESS", "EMBED_BATCH_SIZE", "NUM_WORKERS"))
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class ModelMapping(Mapping[str, str]):
    """An immutable `{Hugging Face name: ModelScope id}`, so that a Config can be hashed and shared."""

    def __init__(self, items: Mapping[str, str] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, name: str) -> str:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(
            cls,
            handler(dict[str, str]),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )


def _parse_json(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from error
    return dict(value) if isinstance(value, ModelMapping) else value


def _parse_source(value: Any) -> str:
    source = str(value).strip().lower()
    if source not in SOURCES:
        raise ValueError(f"Unknown model source: {value}")
    return source


def _parse_device(value: Any) -> str:
    device = str(value).strip().lower()
    if not _DEVICE.fullmatch(device):
        raise ValueError("not a device")
    return device


def _parse_devices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | list | tuple | set | frozenset):
        raise ValueError("not a list of devices")
    names = value.split(",") if isinstance(value, str) else value
    return tuple(_parse_device(name) for name in names if str(name).strip())


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("empty")
    return value


def _check_text(value: str) -> None:
    """Neither a path nor a prompt may hold these; they would fail later, as something else."""
    if "\0" in value:
        raise ValueError("a null character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode") from None


# What fits the counters of the libraries below, and what a clock can wait for: a day.
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Fingerprint = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")]


class Config(BaseSettings):
    """The settings of one model; frozen and hashable, so equal settings can share a loaded model.

    Every field is read from the environment variable named in the README's table when the Config is made
    (an empty variable counts as unset), unless it is given as an argument.

    Raises:
        ConfigError: A setting is impossible; the message names it, what it got and what is allowed.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    # Arguments of classes that users come from, and what to do instead.
    _elsewhere: ClassVar[Mapping[str, str]] = {}

    # Settings for which an empty variable says something: no prompt.
    _kept_empty: ClassVar[frozenset[str]] = frozenset({"query_prompt", "document_prompt"})

    model_name: Annotated[str, AfterValidator(_not_blank)] = Field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        description="a name `owner/name` on a hub, or a folder",
    )
    model_path: str | None = Field(
        default=None, description="a folder with the model; used instead of any hub"
    )
    model_source: Annotated[Literal["huggingface", "modelscope", "auto"], BeforeValidator(_parse_source)] = (
        Field(default="huggingface", description="huggingface, modelscope or auto")
    )
    modelscope_model_id: str | None = Field(
        default=None, description="the model's `owner/name` on ModelScope, where it differs"
    )
    modelscope_cache_dir: str = Field(
        default="~/.cache/modelscope/hub/",
        validation_alias="MODELSCOPE_CACHE_DIR",
        description="a folder; `~` is expanded",
    )
    modelscope_model_mapping: Annotated[ModelMapping, NoDecode, BeforeValidator(_parse_json)] = Field(
        default=ModelMapping(),
        description='a JSON object {"name": "owner/name on ModelScope"}',
    )
    device: Annotated[str, BeforeValidator(_parse_device)] = Field(
        default="auto", description="auto, cpu, cuda, cuda:N or mps"
    )
    devices: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_devices)] = Field(
        default=(),
        description="several of cpu, cuda:N and mps, joined by commas: lists are divided among them",
    )
    max_batch_size: Count = Field(
        default=64, description="a whole number of texts per forward pass, 1 or more"
    )
    max_context_length: Count | None = Field(
        default=None, description="a whole number of tokens, 1 or more; can only shorten the model's own"
    )
    trust_remote_code: bool = Field(
        default=False, description="true or false; true runs Python code from the model's folder"
    )
    allow_pickle_weights: bool = Field(
        default=False,
        description="true or false; true reads pytorch_model.bin where there is no model.safetensors",
    )
    query_prompt: str | None = Field(
        default=None, description='a text put before each query; "" for none, unset for the model\'s own'
    )
    document_prompt: str | None = Field(
        default=None, description='a text put before each document; "" for none, unset for the model\'s own'
    )
    prompts: Annotated[Literal["saved", "recommended"], BeforeValidator(_lower)] = Field(
        default="saved",
        description="saved (the model's files), or recommended (its card's, where the files carry none)",
    )
    truncate_dim: Count | None = Field(
        default=None,
        description="a whole number of components, 1 to the model's dimension, for a model trained for it",
    )
    on_truncation: Annotated[Literal["warn", "error", "ignore"], BeforeValidator(_lower)] = Field(
        default="warn", description="warn, error or ignore: what to do about a text that is too long"
    )
    revision: str | None = Field(
        default=None, description="a branch, tag or commit; the hub's default branch when unset"
    )
    offline: bool = Field(default=False, description="true or false; true makes no request to any hub")
    hf_token: SecretStr | None = Field(
        default=None, exclude=True, description="a token for Hugging Face; HF_TOKEN when unset"
    )
    modelscope_token: SecretStr | None = Field(
        default=None, exclude=True, description="a token for ModelScope; MODELSCOPE_API_TOKEN when unset"
    )
    allow_substitutes: bool = Field(
        default=True, description="true or false; false forbids a different model in place of the one named"
    )
    expected_fingerprint: Fingerprint | None = Field(
        default=None, description="64 hexadecimal digits, as get_model_info() shows them"
    )
    connect_timeout: Seconds = Field(
        default=10.0,
        description="seconds, above 0, a day at most, until a hub must have listed the model's files",
    )
    download_stall_timeout: Seconds = Field(
        default=30.0, description="seconds, above 0, a day at most, that a download may go on without a byte"
    )
    cache_dir: str = Field(
        default="~/.cache/emb-model-provider",
        description="a folder for what is worked out once: file hashes, converted models; `~` is expanded",
    )
    engine: Annotated[
        Literal["auto", "torch", "openvino", "sentence-transformers"], BeforeValidator(_lower)
    ] = Field(
        default="auto",
        description="auto (openvino on a CPU, where installed), torch, openvino or sentence-transformers",
    )
    precision: Annotated[Literal["fp32", "bf16", "fp16", "int8", "auto"], BeforeValidator(_lower)] = Field(
        default="fp32", description="fp32, bf16, fp16, int8 or auto"
    )
    calibration_texts: str | None = Field(
        default=None,
        description="a file of texts, one per line, that set the ranges of int8; built-in ones when unset",
    )
    num_threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="a whole number of threads, 1 to 1024; what the machine allows when unset"
    )

    if not TYPE_CHECKING:  # type checkers and editors know the arguments from the fields

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise ConfigError(self._explain(error)) from error
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{os.path.abspath('.env')} is not UTF-8 ({error}). Save it as UTF-8, or start the "
                    "process in another folder."
                ) from error
            except OSError as error:  # another user's, or in another user's folder
                warnings.warn(f"The settings in .env are not used: {error}", UserWarning, stacklevel=2)
                self.__init__(**{**settings, "_env_file": None})
                return
            self._warn_of_unknown_variables()

    @field_validator("*")
    @classmethod
    def _refuse_what_is_no_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            _check_text(value)
        return value

    @field_validator("modelscope_cache_dir", "model_path", "cache_dir", "calibration_texts")
    @classmethod
    def _expand_home(cls, value: str | None) -> str | None:
        return None if value is None else os.path.expanduser(_not_blank(value))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[Any, ...]:
        """Arguments, then the environment, then `.env`."""
        return init_settings, cls._known(env_settings), cls._known(dotenv_settings)

    @classmethod
    def _known(cls, source: PydanticBaseSettingsSource) -> Callable[[], dict[str, Any]]:
        """`.env` belongs to the whole application: take our settings from it, and skip empty ones."""
        names = {*cls.model_fields, *(cls._alias(name) for name in cls.model_fields)}
        return lambda: {k: v for k, v in source().items() if k in names and (v != "" or k in cls._kept_empty)}

    @classmethod
    def _alias(cls, name: str) -> str:
        alias = cls.model_fields[name].validation_alias
        return alias if isinstance(alias, str) else name

    @classmethod
    def variable(cls, name: str) -> str:
        """The environment variable of a field, such as `EMB_PROVIDER_DEVICE` for `device`."""
        alias = cls.model_fields[name].validation_alias
        return alias if isinstance(alias, str) else ENV_PREFIX + name.upper()

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        return "\n".join(cls._explain_one(details) for details in error.errors())

    @classmethod
    def _explain_one(cls, details: Any) -> str:
        key = str(details["loc"][0]) if details["loc"] else ""
        name = next((n for n in cls.model_fields if key in (n, cls._alias(n))), None)
        if name is None:
            near = difflib.get_close_matches(key, cls.model_fields, n=3)
            if key in cls._elsewhere:
                return f"Unknown setting {key!r}: {cls._elsewhere[key]}."
            hint = f"did you mean {' or '.join(near)}?" if near else "the README lists them all."
            return f"Unknown setting {key!r}: {hint}"
        reason = details["msg"].removeprefix("Value error, ")
        if not reason.startswith("Unknown model source"):
            secret = name.endswith("_token")  # an error must not show it
            reason = f"{reason}; got {'a secret' if secret else repr(details['input'])}"
        allowed = cls.model_fields[name].description
        return f"{reason}. {name} ({cls.variable(name)}) takes {allowed}."

    @classmethod
    def _warn_of_unknown_variables(cls) -> None:
        """A mistyped variable would otherwise change nothing, in silence."""
        known = [*(cls.variable(name) for name in cls.model_fields), *_ADAPTER_VARIABLES]
        for variable in os.environ:
            if variable.upper().startswith(ENV_PREFIX) and variable.upper() not in known:
                near = difflib.get_close_matches(variable.upper(), known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                warnings.warn(f"{variable} is not a setting{hint}", UserWarning, stacklevel=3)

    def __setattr__(self, name: str, value: Any) -> None:
        frozen = type(self) if self.model_config["frozen"] else Config
        if name in frozen.model_fields:
            raise ConfigError(
                f"{name} cannot change once the model may be in use; make a new object with it."
            )
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in Config.model_fields)

    def core(self) -> "Config":
        """The settings alone, without what a subclass adds: the key under which a model is shared."""
        if type(self) is Config:
            return self
        return Config.model_construct(**{n: getattr(self, n) for n in Config.model_fields})


def check_name(model_name: str) -> str:
    """A model's name that is given elsewhere than in a Config, checked as one of a Config is.

    Raises:
        ConfigError: It is not a name.
    """
    try:
        if not isinstance(model_name, str):
            raise ValueError(f"Input should be a valid string, not {type(model_name).__name__}")
        _check_text(_not_blank(model_name))
    except ValueError as error:
        allowed = Config.model_fields["model_name"].description
        raise ConfigError(f"{error}; got {model_name!r}. A model's name is {allowed}.") from error
    return model_name

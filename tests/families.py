"""Small random models in the Sentence-Transformers layout, written by Sentence-Transformers itself.

One model per architecture family, with a real fast tokenizer of that family built on the spot, so
tests compare our reader with the reference without network or stored weights.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

# Every pooling mode with its old switch.
POOLING_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
TANH = "torch.nn.modules.activation.Tanh"
IDENTITY = "torch.nn.modules.linear.Identity"
HIDDEN = 32

_SENTENCE = (
    "the vector of a sentence keeps its meaning when search engines compare every query with "
    "many documents about rivers, music, physics and old cities; numbers like 1984 or 3.14 appear "
    "too (rarely), but don't matter much: Berlin is in Germany, Tokyo isn't!"
)


def _words(count: int) -> str:
    words = _SENTENCE.split()
    return " ".join(words[(i * i + 3 * i + count) % len(words)] for i in range(count))


TEXTS: list[str] = [
    *("", " ", "\n\t  \n"),
    *("a", "Z", "?", "7", "中", "🙂", "龘"),
    *("hello", "Hello", "HELLO WORLD", "hello world", "  hello   world  "),
    *("first line\nsecond line\r\n\r\nthird line", "tab\tseparated\tvalues"),
    *("naïve café résumé Ünïcödé", "nai\u0308ve cafe\u0301", "zero\u200bwidth, no\u00a0break"),
    *("ﬁne ½ Ⅳ \uff21\uff22\uff23", "don't can't won't it's l'été"),
    *("向量搜索把句子变成数字。", "今天天气很好\uff0c我们去公园散步吧\uff01", "向量搜索" * 150),
    *("mixed 中文 and English 文本 in one line", "fun 🙂🚀 with emoji 👩‍👩‍👧 and more 🙂"),
    *("price: $3,999.99 (-20%) @ https://example.org/path?q=1", "snake_case CamelCase kebab-case"),
    "[CLS] special <s> looking </s> tokens [SEP] <|endoftext|> <pad>",
    "supercalifragilisticexpialidocious" * 3,
    *(_words(count) for count in (5, 7, 9, 14, 20, 26, 33, 47, 60, 300, 700)),
    *("hello world", _words(14)),
]

# The emoji and one rare character stay out of the vocabularies: unknown tokens and bytes.
_CORPUS = ["".join(c for c in text if ord(c) <= 0xFFFF and c != "龘") for text in TEXTS]
_CORPUS += [text.lower() for text in _CORPUS]
_ALPHABET = sorted({c for c in "".join(_CORPUS) + string.printable if not c.isspace()})


@dataclass(frozen=True)
class DenseSpec:
    """One Dense module; its input width is the output width of the module before it."""

    out_features: int
    bias: bool = True
    activation: str = TANH
    use_residual: bool = False


@dataclass(frozen=True)
class Family:
    """One architecture: what is built, and what a loader must find on disk.

    `name` is the transformers `model_type`. Variants come from `dataclasses.replace`, for example
    `replace(BY_NAME["qwen3"], pooling="cls")`.
    """

    name: str
    model_class: str
    tokenizer: str
    pooling: str | tuple[str, ...]
    config: Mapping[str, Any] = field(hash=False, repr=False)
    padding_side: str = "right"
    max_seq_length: int | None = 48
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    dense: tuple[DenseSpec, ...] = ()
    normalize: bool = True
    std: float = 0.3
    # Checkpoints without a pooling head exist: the one kind of missing key a loader may accept.
    with_pooler: bool = True


def _small(**options: Any) -> dict[str, Any]:
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    return sizes | {"intermediate_size": 64, "max_position_embeddings": 128} | options


# RoBERTa counts positions from pad_token_id + 1, so its table has two rows that are never used.
_ROBERTA = _small(max_position_embeddings=130, type_vocab_size=1)
_DECODER = _small(num_key_value_heads=2, head_dim=16)
_DISTILBERT = {"dim": HIDDEN, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
_T5 = {"d_model": HIDDEN, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}
_DEBERTA = _small(
    type_vocab_size=0,
    position_biased_input=False,
    relative_attention=True,
    position_buckets=8,
    pos_att_type=["p2c", "c2p"],
    share_att_key=True,
    norm_rel_ebd="layer_norm",
)
_ALBERT = _small(embedding_size=24)
_ELECTRA = _small(embedding_size=16)
# Windows far smaller than the texts, so that a sliding layer differs from a full one.
_MODERNBERT = _small(local_attention=16, layer_types=["full_attention", "sliding_attention"])
_MODERNBERT |= {"cls_token_id": None, "sep_token_id": None}
_MISTRAL = _DECODER | {"sliding_window": 16}
_GEMMA = _MISTRAL | {
    "use_bidirectional_attention": True,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
}
_GEMMA_PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
}
_SEARCH = {"query": "search_query: ", "document": "search_document: "}
# Sentence-Transformers 6 does not use "passage" for documents; nomic-embed-text-v2 has it.
_PASSAGE = {"query": "search_query: ", "passage": "search_document: "}
_QWEN_PROMPTS = {"query": "Instruct: find the answer\nQuery:", "document": ""}
_LINEAR = DenseSpec(HIDDEN, bias=False, activation=IDENTITY)
_WIDE = replace(_LINEAR, out_features=3 * HIDDEN)
_TANH = DenseSpec(24)

FAMILIES: tuple[Family, ...] = (
    Family("bert", "BertModel", "bert-cased", "mean", _small()),
    Family("roberta", "RobertaModel", "roberta", "cls", _ROBERTA),
    Family("xlm-roberta", "XLMRobertaModel", "xlm-roberta", "mean", _ROBERTA, with_pooler=False),
    Family("distilbert", "DistilBertModel", "distilbert", "max", _DISTILBERT, dense=(_TANH,)),
    Family("mpnet", "MPNetModel", "mpnet", "mean", _small(max_position_embeddings=130)),
    Family("albert", "AlbertModel", "albert", "mean_sqrt_len_tokens", _ALBERT, normalize=False),
    Family("electra", "ElectraModel", "bert", ("cls", "weightedmean"), _ELECTRA, max_seq_length=None),
    Family("deberta-v2", "DebertaV2Model", "deberta-v2", "cls", _DEBERTA),
    Family("modernbert", "ModernBertModel", "modernbert", "cls", _MODERNBERT, prompts=_SEARCH),
    Family("nomic_bert", "NomicBertModel", "bert", "mean", _small(), prompts=_PASSAGE),
    Family("t5", "T5EncoderModel", "t5", "mean", _T5, dense=(_LINEAR,)),
    Family("qwen3", "Qwen3Model", "qwen3", "lasttoken", _DECODER, "left", prompts=_QWEN_PROMPTS),
    Family(
        "gemma3_text",
        "Gemma3TextModel",
        "gemma",
        "mean",
        _GEMMA,
        padding_side="left",
        prompts=_GEMMA_PROMPTS,
        dense=(_WIDE, _LINEAR),
    ),
    Family("llama", "LlamaModel", "llama3", "lasttoken", _DECODER, "left"),
    Family("mistral", "MistralModel", "llama2", "lasttoken", _MISTRAL, "left"),
    Family("eurobert", "EuroBertModel", "eurobert", "mean", _DECODER | {"mask_token_id": 0}),
)
BY_NAME: dict[str, Family] = {family.name: family for family in FAMILIES}


def make_model(family: Family, folder: Path, *, seed: int = 0, dtype: str = "float32") -> Path:
    """Write one random model of `family` into `folder`, as Sentence-Transformers 6 saves it."""
    modules = [_transformer(family, dtype=dtype)]
    modules += _head(family.pooling, family.dense, normalize=family.normalize)
    return _save(folder, modules, seed=seed, std=family.std, prompts=family.prompts)


def make_bert(
    folder: Path,
    *,
    pooling: str | Sequence[str] = "mean",
    normalize: bool = True,
    dense: Sequence[DenseSpec] = (),
    layer_norm: bool = False,
    include_prompt: bool = True,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    max_seq_length: int | None = 32,
    do_lower_case: bool = False,
    dtype: str = "float32",
    legacy: bool = False,
    similarity: str | None = None,
    truncate_dim: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a small cased BERT with every switch of the format into `folder`.

    `legacy` writes the layout from before Sentence-Transformers 5.4, which most of the hub has. Its
    pooling switches carry no order: several modes are joined in the order of POOLING_MODES.

    `do_lower_case` only takes effect with `legacy`. Sentence-Transformers 6 saves it as a
    lower-casing normalizer in tokenizer.json, which BertTokenizer replaces when it loads the file.

    Without `max_seq_length` the limit is the number of positions, 128.
    """
    family = replace(BY_NAME["bert"], max_seq_length=None if legacy else max_seq_length)
    modules = [_transformer(family, do_lower_case=do_lower_case and not legacy, dtype=dtype)]
    modules += _head(
        pooling,
        dense,
        normalize=normalize,
        layer_norm=layer_norm,
        include_prompt=include_prompt,
    )
    _save(
        folder,
        modules,
        seed=seed,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        similarity_fn_name=similarity,
        truncate_dim=truncate_dim,
    )
    if legacy:
        limits = {"max_seq_length": max_seq_length, "do_lower_case": do_lower_case}
        _make_legacy(folder, limits, prompts or {})
    return folder


def make_static(
    folder: Path,
    *,
    layout: Literal["st", "model2vec"],
    normalize: bool = True,
    mapping: bool = False,
    weights: bool = False,
    seed: int = 0,
) -> Path:
    """Write a StaticEmbedding model into `folder`.

    Layout "st" has `embedding.weight` in 0_StaticEmbedding/; "model2vec" has `embeddings` in the
    root and optionally `mapping` (several token ids share a row) and `weights` (a factor per id).
    """
    import torch
    from safetensors.torch import save_file
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    tokenizer = _make_tokenizer("bert").backend_tokenizer
    size = tokenizer.get_vocab_size()
    if layout == "st":
        parts: list[Any] = [StaticEmbedding(tokenizer, embedding_dim=HIDDEN)]
        return _save(folder, parts + [Normalize()] * normalize, seed=seed)

    generator = torch.Generator().manual_seed(seed)
    rows = size // 2 if mapping else size
    tensors = {"embeddings": torch.randn(rows, HIDDEN, generator=generator)}
    if mapping:
        tensors["mapping"] = torch.randint(rows, (size,), generator=generator)
    if weights:
        tensors["weights"] = torch.rand(size, generator=generator, dtype=torch.float64)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "config.json", {"model_type": "model2vec", "normalize": normalize})
    kinds = [(".", "StaticEmbedding"), ("1_Normalize", "Normalize")][: 1 + normalize]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    _write(folder / "modules.json", modules)
    return folder


def _transformer(family: Family, *, do_lower_case: bool = False, dtype: str = "float32") -> Any:
    import torch
    import transformers
    from sentence_transformers.sentence_transformer.modules import Transformer

    tokenizer = _make_tokenizer(family.tokenizer)
    config = transformers.AutoConfig.for_model(
        family.name,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **family.config,
    )
    model = getattr(transformers, family.model_class)(config)
    with TemporaryDirectory() as raw:
        model.to(getattr(torch, dtype)).save_pretrained(raw)
        tokenizer.save_pretrained(raw)
        module = Transformer(raw, max_seq_length=family.max_seq_length, do_lower_case=do_lower_case)
    if not family.with_pooler:
        module.model.pooler = None
    return module


def _head(
    pooling: str | Sequence[str],
    dense: Sequence[DenseSpec],
    *,
    normalize: bool,
    layer_norm: bool = False,
    include_prompt: bool = True,
) -> list[Any]:
    from sentence_transformers.sentence_transformer import modules as st
    from sentence_transformers.util import import_from_string

    mode = pooling if isinstance(pooling, str) else tuple(pooling)
    modules: list[Any] = [st.Pooling(HIDDEN, pooling_mode=mode, include_prompt=include_prompt)]
    for spec in dense:
        modules.append(
            st.Dense(
                modules[-1].get_embedding_dimension(),
                spec.out_features,
                bias=spec.bias,
                activation_function=import_from_string(spec.activation)(),
                use_residual=spec.use_residual,
            )
        )
    if layer_norm:
        modules.append(st.LayerNorm(modules[-1].get_embedding_dimension()))
    if normalize:
        modules.append(st.Normalize())
    return modules


def _save(
    folder: Path,
    modules: list[Any],
    *,
    seed: int,
    std: float = 0.3,
    prompts: Mapping[str, str] | None = None,
    **settings: Any,
) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        modules=modules, device="cpu", prompts=dict(prompts) if prompts else None, **settings
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Every tensor is drawn, also biases, norms and the padding row, which a fresh model has at
        # 0 or 1: a reader that drops one of them must not get the right vector.
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 1:
                # Rounded: norms start at 1 and biases at 0, but torch draws those of a Linear.
                tensor.copy_(tensor.float().round() + noise * 0.1)
            else:
                # Positions and token types are common to all texts and would make them alike.
                shared = "position_embeddings" in name or "token_type_embeddings" in name
                tensor.copy_(noise * (std / 4 if shared else std))
    model.save(str(folder), create_model_card=False)
    return folder


def _make_legacy(folder: Path, transformer: Mapping[str, Any], prompts: Mapping[str, str]) -> None:
    """Rewrite the configuration of a new layout as versions before 5.4 wrote it."""
    modules = _read(folder / "modules.json")
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        module["type"] = f"sentence_transformers.models.{kind}"
        file = folder / module["path"] / "config.json"
        if kind == "Normalize":
            # It had no config, and git and the hub keep no empty folders.
            shutil.rmtree(file.parent)
        elif kind == "Pooling":
            new = _read(file)
            modes = new["pooling_mode"]
            modes = [modes] if isinstance(modes, str) else modes
            old = {"word_embedding_dimension": new["embedding_dimension"]}
            old |= {switch: mode in modes for mode, switch in POOLING_MODES.items()}
            _write(file, old | {"include_prompt": new["include_prompt"]})
        elif kind == "Dense":
            _write(file, {k: v for k, v in _read(file).items() if not k.startswith("module_")})
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", transformer)

    file = folder / "config_sentence_transformers.json"
    old = {k: v for k, v in _read(file).items() if k != "model_type"}
    versions = {"sentence_transformers": "2.2.2", "transformers": "4.6.1", "pytorch": "1.8.1"}
    _write(file, old | {"__version__": versions, "prompts": prompts})

    # Files of that age carry limits that do not apply (MiniLM: 128, padded): loaders undo them.
    file = folder / "tokenizer.json"
    padding: dict[str, Any] = {"strategy": {"Fixed": 16}, "direction": "Right"}
    padding |= {"pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    truncation = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    _write(file, _read(file) | {"truncation": truncation, "padding": padding})


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")


_BERT_TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK]"
_FAIRSEQ_TOKENS = "<s> <pad> </s> <unk> <mask>"
_ENDS = {"add_bos_token": True, "add_eos_token": True, "padding_side": "left"}
_LLAMA2 = _ENDS | {"pad_token": "</s>"}
_EOT = "<|end_of_text|>"
_LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": _EOT, "pad_token": _EOT}
_LLAMA3_ENDS = f"<|begin_of_text|> $A {_EOT}"
_QWEN = {"eos_token": "<|im_end|>", "padding_side": "left"}
_MODERN = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "CLS", "SEP", "PAD", "MASK")}
# Stands for checkpoints whose tokenizer.json is everything there is.
_PLAIN = "PreTrainedTokenizerFast"
# Class, vocabulary, its first tokens, options, template where the class does not bring it.
_TOKENIZERS: dict[str, tuple[str, str, str, dict[str, Any], str]] = {
    "bert": ("BertTokenizer", "wordpiece", _BERT_TOKENS, {}, ""),
    "bert-cased": ("BertTokenizer", "wordpiece", _BERT_TOKENS, {"do_lower_case": False}, ""),
    "distilbert": ("DistilBertTokenizer", "wordpiece", _BERT_TOKENS, {}, ""),
    "mpnet": ("MPNetTokenizer", "wordpiece", f"{_FAIRSEQ_TOKENS} [UNK]", {}, ""),
    "xlm-roberta": ("XLMRobertaTokenizer", "unigram", _FAIRSEQ_TOKENS, {}, ""),
    "albert": ("AlbertTokenizer", "unigram", "<pad> <unk> [CLS] [SEP] [MASK]", {}, ""),
    "deberta-v2": ("DebertaV2Tokenizer", "unigram", "[PAD] [CLS] [SEP] [UNK] [MASK]", {}, ""),
    "t5": ("T5Tokenizer", "unigram", "<pad> </s> <unk>", {}, ""),
    "gemma": ("GemmaTokenizer", "byte-fallback", "<pad> <eos> <bos> <unk> <mask>", _ENDS, ""),
    "llama2": ("LlamaTokenizer", "byte-fallback", "<unk> <s> </s>", _LLAMA2, ""),
    "roberta": ("RobertaTokenizer", "bytes", _FAIRSEQ_TOKENS, {}, ""),
    "qwen3": ("Qwen2Tokenizer", "bytes", "", _QWEN, "$A <|endoftext|>"),
    "llama3": (_PLAIN, "bytes", "", _LLAMA3 | {"padding_side": "left"}, _LLAMA3_ENDS),
    "eurobert": (_PLAIN, "bytes", "", _LLAMA3, _LLAMA3_ENDS),
    "modernbert": (_PLAIN, "bytes", "", _MODERN, "[CLS] $A [SEP]"),
}


def _make_tokenizer(kind: str) -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    name, scheme, first, options, template = _TOKENIZERS[kind]
    make = getattr(transformers, name)
    specials = first.split()
    if scheme == "wordpiece":
        pieces = [*specials, *_pieces("", "##")]
        tokenizer = make({piece: i for i, piece in enumerate(pieces)}, **options)
    elif scheme == "unigram":
        counts = _pieces("▁", "")
        scored = [(piece, math.log(n / sum(counts.values()))) for piece, n in counts.items()]
        tokenizer = make([(token, 0.0) for token in specials] + scored, **options)
    elif name == _PLAIN:
        backend = Tokenizer(models.BPE(*_bpe(scheme, specials)))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inputs = ["input_ids", "attention_mask"]
        tokenizer = make(tokenizer_object=backend, model_input_names=inputs, **options)
    else:
        tokenizer = make(*_bpe(scheme, specials), **options)
    if template:
        ends = [(t, tokenizer.convert_tokens_to_ids(t)) for t in template.split() if t != "$A"]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=ends
        )
    return tokenizer


def _pieces(start: str, inside: str) -> dict[str, int]:
    """Characters and word parts with their counts, most frequent first.

    Counted instead of trained: the WordPiece trainer numbers its tokens differently in every run.
    """
    counts = Counter({mark + char: 1 for char in _ALPHABET for mark in ("", inside)} | {"▁": 1})
    for word in re.findall(r"\w+", "\n".join(_CORPUS)):
        counts.update({f"{start}{word[:8]}", f"{start}{word[:3]}", inside + word[-3:]})
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _bpe(scheme: str, specials: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    if scheme == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        alphabet = _ALPHABET
        specials = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + len(alphabet) + 200,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]

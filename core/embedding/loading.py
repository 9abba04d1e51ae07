"""From a model's folder and the settings to a model ready to embed: chooses the engine."""

from emb_model_provider.core.config import Config
from emb_model_provider.core.embedding.description import read_description
from emb_model_provider.core.embedding.folder import ModelFolder
from emb_model_provider.core.embedding.model import EmbeddingModel
from emb_model_provider.core.embedding.tokenization import load_tokenizer


def load_embedding_model(folder: ModelFolder, config: Config) -> EmbeddingModel:
    """Load the model in a folder.

    Raises:
        ModelFilesError: A file is missing or damaged.
        UnsupportedModelError: The files ask for something not known here.
        ConfigError: The device is not there.
    """
    from emb_model_provider.core.embedding.torch_engine import load_torch_engine

    description = read_description(folder)
    engine = load_torch_engine(description, config.device, trust_remote_code=config.trust_remote_code)
    tokenizer = load_tokenizer(
        description,
        max_context_length=config.max_context_length,
        trust_remote_code=config.trust_remote_code,
    )
    return EmbeddingModel(description, tokenizer, engine, max_batch_size=config.max_batch_size)

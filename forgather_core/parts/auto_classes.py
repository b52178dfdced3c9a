"""Registration of remote-code models with transformers' Auto classes."""

import sys
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.modeling_layers import GenericForSequenceClassification, GenericForTokenClassification

from forgather_core.parts.initial_weights import Table, normal, zeros
from forgather_core.parts.pretrained import Pretrained

HEADS = {
    "SequenceClassification": (AutoModelForSequenceClassification, GenericForSequenceClassification),
    "TokenClassification": (AutoModelForTokenClassification, GenericForTokenClassification),
}


def register(config_class: Any, decoder_class: Any, language_model_class: Any) -> None:
    """Register a model with the Auto classes, and let `save_pretrained` copy its sources.

    Call this at the end of the modeling file, which the configuration file imports at its end: loading a configuration
    then registers its model, and `from_config` does not need `trust_remote_code`. The configuration class is not
    registered with AutoConfig, since a later directory of the same model type would get the class of the first one.
    Classes for sequence and token classification (transformers' heads on the decoder) are added to the same module.

    Args:
        config_class: The configuration class.
        decoder_class: The model class without a head.
        language_model_class: The model class with a language model head.
    """
    config_class.register_for_auto_class("AutoConfig")
    for auto_class, model_class in ((AutoModel, decoder_class), (AutoModelForCausalLM, language_model_class)):
        model_class.register_for_auto_class(auto_class.__name__)
        auto_class.register(config_class, model_class, exist_ok=True)
    module = sys.modules[language_model_class.__module__]
    for task, (auto_class, generic) in HEADS.items():
        name = f"{language_model_class.__name__.removesuffix('ForCausalLM')}For{task}"
        if not hasattr(module, name):
            content = {
                "config_class": config_class,
                "__module__": module.__name__,
                "__doc__": f"The decoder with a head for {task}.",
            }
            head_class: Any = type(name, (generic, Classifier), content)
            setattr(module, name, head_class)
            head_class.register_for_auto_class(auto_class.__name__)
            auto_class.register(config_class, head_class, exist_ok=True)


class Classifier(Pretrained):
    """Base of the classification models: adds the initialization of `score` to transformers' heads."""

    def initial_weights(self) -> Table:
        """Yield rows for the head, with std 0.02, and the decoder's table."""
        yield r"^score\.bias", zeros()
        yield r"^score", normal(std=0.02)
        yield from self.base_model.initial_weights()

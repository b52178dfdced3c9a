"""How a model of remote code becomes known to transformers' Auto classes."""

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
    """Let the Auto classes build a model from its configuration, and `save_pretrained` copy its sources along.

    Called as the modelling file is imported, which the configuration file does at its end. So whoever has loaded a
    configuration has the class for it: `from_config` needs no `trust_remote_code`. The configuration itself is not
    registered with AutoConfig: a later directory of the same model type would be given the first one's class.
    transformers' heads for sequence and token classification are put on the decoder, as classes of the same module.

    Args:
        config_class: The configuration.
        decoder_class: The model without a head.
        language_model_class: The model with one.
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
                "__doc__": f"The decoder for {task}.",
            }
            head_class: Any = type(name, (generic, Classifier), content)
            setattr(module, name, head_class)
            head_class.register_for_auto_class(auto_class.__name__)
            auto_class.register(config_class, head_class, exist_ok=True)


class Classifier(Pretrained):
    """What transformers' heads for classification lack: the initial weights of `score`."""

    def initial_weights(self) -> Table:
        """The decoder's table, and a head whose outputs begin small."""
        yield r"^score\.bias", zeros()
        yield r"^score", normal(std=0.02)
        yield from self.base_model.initial_weights()

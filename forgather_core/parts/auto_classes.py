"""How a model of remote code becomes known to transformers' Auto classes."""

from typing import Any

from transformers import AutoModel, AutoModelForCausalLM


def register(config_class: Any, decoder_class: Any, language_model_class: Any) -> None:
    """Let the Auto classes build a model from its configuration, and `save_pretrained` copy its sources along.

    Called as the modelling file is imported, which the configuration file does at its end. So whoever has loaded a
    configuration has the class for it: `from_config` needs no `trust_remote_code`. The configuration itself is not
    registered with AutoConfig: a later directory of the same model type would be given the first one's class.

    Args:
        config_class: The configuration.
        decoder_class: The model without a head.
        language_model_class: The model with one.
    """
    config_class.register_for_auto_class("AutoConfig")
    for auto_class, model_class in ((AutoModel, decoder_class), (AutoModelForCausalLM, language_model_class)):
        model_class.register_for_auto_class(auto_class.__name__)
        auto_class.register(config_class, model_class, exist_ok=True)

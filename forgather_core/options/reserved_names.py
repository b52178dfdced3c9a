"""Names that options of a definition cannot have, because transformers' configuration classes use them.

Options are fields of the configuration class. This module imports nothing, so that options are checked without torch.
"""

from __future__ import annotations

from collections.abc import Collection

# Attributes and keyword arguments of the base class. A test compares them with the installed release.
RESERVED = frozenset(
    """
    allow_global_per_layer_attribute_access also_reads architectures attn_implementation attribute_map auto_map
    base_config_key base_model_ep_plan base_model_fsdp_plan base_model_pp_plan base_model_tp_plan bos_token_id
    built_in chunk_size_feed_forward convert_rope_params_to_dict custom_pipelines default_config_fields
    default_rope_type default_theta dict_dtype_to_str dtype eos_token_id experts_implementation
    extra_config_files extra_files from_dict from_json_file from_pretrained get_config_dict get_mtp_config
    get_text_config id2label ignore_keys_at_rope_validation is_custom_code is_encoder_decoder is_heterogeneous
    is_remote_code keys_to_ignore_at_inference kwargs label2id model_type mtp_layer_types name_or_path native
    native_defaults native_ignores native_model_type nested_rope_parameter_keys num_labels
    output_attentions output_hidden_states pad_token_id
    per_layer_attributes per_layer_config problem_type push_to_hub quantization_config register_for_auto_class
    return_dict save_pretrained self serialize_explicit_per_layer_config skip_logits
    standardize_rope_params sub_configs sub_configs_defaults to_dict to_diff_dict to_json_file to_json_string
    torch_dtype transformers_version update update_from_string use_return_dict validate validate_architecture
    validate_layer_type validate_output_attentions validate_rope validate_token_ids
    """.split()  # noqa: SIM905 - a hundred names are easier to read as text
)
# transformers moves fields of these names into rope_parameters, if a configuration has that field.
FOLDED_INTO_ROPE = frozenset(
    {"original_max_position_embeddings", "partial_rotary_factor", "rope_scaling", "rope_theta"}
)


def name_problem(name: str, options: Collection[str]) -> tuple[str, str] | None:
    """Return the problem of an option's name and a hint, or None if the name is valid.

    The problem completes "the option 'name' ...".

    Args:
        name: The option.
        options: All options of its definition.
    """
    if name in RESERVED or name.startswith("_"):
        return "has a name that transformers' configuration classes use", "rename it"
    if name in FOLDED_INTO_ROPE and "rope_parameters" in options:
        return (
            "has a name that transformers moves into rope_parameters",
            "rename it, or make it a key of rope_parameters",
        )
    return None

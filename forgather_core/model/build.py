"""Build the model of a directory from its files: on a device, in a dtype, with or without initial weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..definitions import contracts
from ..errors import BuildError, ConfigurationError, access_hint, first_line
from ..options.shared import BuildOptions
from ..options.torch_names import device_parts
from ..parts.table_init import find_rule
from ..runtime.extras import install_hint
from .code_cache import code_cache
from .directory_errors import load_config, loading_errors
from .dtypes import default_dtype, parse_dtype
from .no_init import no_init_weights

if TYPE_CHECKING:
    from ..parallel.mesh import Mesh

# Arguments: a configuration, and a function that builds its model on meta.
BeforeBuild = Callable[[Any, Callable[[], nn.Module]], None]

_ATTENTION = "--attn-implementation"
_CORRECT_TABLE = "correct initial_weights() of its decoder"  # a hint


def parse_device(text: str, *, real: bool = False) -> torch.device:
    """Return the device of this name, if this machine has it.

    Args:
        text: The name.
        real: Refuse the meta device.

    Raises:
        BuildError: The name is invalid, or this machine has no such device.
    """
    try:
        kind, index = device_parts(text, real=real)
    except ConfigurationError as error:
        raise error.at(BuildError, option="--device") from None
    use = "use cpu" if real else "use cpu or meta"
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            problem = f"'{text}': torch {torch.__version__} finds no CUDA device"
            raise BuildError(problem, option="--device", hint=use)
        if index is not None and index >= count:
            hint = "use cuda:0" if count == 1 else f"use cuda:0 to cuda:{count - 1}"
            raise BuildError(f"'{text}' does not exist on this machine", option="--device", hint=hint)
    if kind == "mps" and not torch.backends.mps.is_available():
        problem = f"'{text}': torch {torch.__version__} finds no Metal device"
        raise BuildError(problem, option="--device", hint=use)
    return torch.device(text)


def first_device() -> str:
    """Return the device that commands use by default: CUDA, MPS or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return str(accelerator) if accelerator is not None and accelerator.type in {"cuda", "mps"} else "cpu"


def check_attention(
    implementation: str | None, device: torch.device, dtype: torch.dtype | None, unsupported: Mapping[str, str]
) -> None:
    """Refuse an attention implementation that cannot run, before any work.

    Args:
        implementation: Name of the implementation.
        device: Device of the model.
        dtype: Dtype of the model.
        unsupported: Implementations that cannot compute the model, with the reason.

    Raises:
        BuildError: The implementation cannot compute the model, is not installed, or does not support this device or
            dtype.
    """
    if implementation is not None and implementation in unsupported:
        raise BuildError(f"{implementation}: {unsupported[implementation]}", option=_ATTENTION)
    if implementation != "flash_attention_2":
        return
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        reason = "the package flash-attn is not installed or finds no GPU"
        hint = f"use sdpa or flex_attention{install_hint(reason)}"
        raise BuildError(f"flash_attention_2: {reason}", option=_ATTENTION, hint=hint)
    if device.type == "cpu":
        raise BuildError("flash_attention_2 requires CUDA", option=_ATTENTION, hint="use sdpa or eager")
    if dtype not in (torch.bfloat16, torch.float16):
        hint = "use --dtype bfloat16 or --dtype float16"
        raise BuildError("flash_attention_2 requires half precision", option=_ATTENTION, hint=hint)


def check_build(options: BuildOptions, model_options: Any = None) -> tuple[torch.device, torch.dtype | None]:
    """Return the device and dtype of a build, checked together with the attention implementation before any work.

    Args:
        options: Build options: device, dtype, attention implementation.
        model_options: Options of the definition, which list the attention implementations that it does not support.

    Raises:
        BuildError: The device, dtype or attention implementation is not supported.
    """
    device = parse_device(options.device)
    dtype = parse_dtype(options.dtype) if options.dtype is not None else None
    check_attention(options.attn_implementation, device, dtype, contracts.unsupported_attention(model_options))
    return device, dtype


def build(
    directory: Path, options: BuildOptions, *, before: BeforeBuild | None = None, mesh: Mesh | None = None
) -> nn.Module:
    """Build the model of a directory through its own configuration and source files.

    Weights are initialized once, after construction: by the initialization table, after `torch.manual_seed(seed)`. They
    equal those of `from_config` after that seed, on every device and in every dtype. With `no_init_weights` they stay
    uninitialized, but tensors that no checkpoint contains (RoPE tables) and tied weights are correct. On meta, nothing
    is allocated.

    Args:
        directory: A model directory.
        options: Device, dtype (default: torch's default dtype), seed, attention, gradient checkpointing.
        before: Called before anything is allocated. It may raise an exception to cancel the build.
        mesh: A device mesh over which the model is distributed: each process allocates and draws its part only. All
            processes must call this function.

    Returns:
        The model, in training mode as constructed.

    Raises:
        BuildError: The device, dtype or attention implementation is not supported, the initialization table does not
            cover a parameter, or a file of the directory cannot be read.
    """
    device, dtype = check_build(options)
    kwargs: dict[str, Any] = {"dtype": dtype or torch.get_default_dtype()}
    if options.attn_implementation is not None:
        kwargs["attn_implementation"] = options.attn_implementation
    with default_dtype(kwargs["dtype"]):
        config = load_config(directory, BuildError)
        if before is not None:
            before(config, lambda: _from_config(directory, copy.deepcopy(config), torch.device("meta"), kwargs))
        model = _from_config(directory, config, device if mesh is None else torch.device("meta"), kwargs)
        _set_generation(model, directory / "generation_config.json")
        _check_table(model)
        if mesh is not None:
            model = _distributed(model, mesh)
        # All tensors are on the device already. The `device` context would slow every operation.
        if not options.no_init_weights and device.type != "meta":
            torch.manual_seed(options.seed)  # just before drawing: imports may have drawn random numbers
            model.init_weights()
    if options.gradient_checkpointing:
        enable_checkpointing(model)
    return model  # type: ignore[no-any-return]


def _distributed(model: Any, mesh: Mesh) -> Any:
    """Distribute a model on meta, and allocate this process's part of it."""
    model = mesh.distribute(model)
    model.to_empty(device=mesh.device)
    model.tie_weights()
    for module in model.modules():
        if hasattr(module, "reset_buffers"):
            module.reset_buffers()
    return model


def _check_table(model: Any) -> None:
    """Check the initialization table on every device, even if no weights are drawn."""
    table = contracts.initial_weights(model)
    if table is None:
        return
    for name, parameter in model.named_parameters():
        try:
            rule = find_rule(table, name)
        except ValueError as error:
            problem = f"{type(model).__name__}: {error}"
            raise BuildError(problem, hint=_CORRECT_TABLE) from None
        try:
            getattr(rule, "check", _accept_any_shape)(parameter.shape)  # sources of an older export lack this method
        except ValueError as error:
            problem = f"{type(model).__name__}: the rule of '{name}' does not fit its shape: {error}"
            raise BuildError(problem, hint=_CORRECT_TABLE) from None


def _accept_any_shape(shape: torch.Size) -> None:
    """Accept every shape."""


def is_checkpointing(model: nn.Module) -> bool:
    """Return whether gradient checkpointing is on: layers recompute their activations in backward."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def enable_checkpointing(model: Any) -> None:
    """Enable gradient checkpointing: layers recompute their activations in backward."""
    # Newer transformers releases call it activation checkpointing, and warn about the old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def _from_config(directory: Path, config: Any, device: torch.device, kwargs: Mapping[str, Any]) -> Any:
    with loading_errors(directory, BuildError, imports_only=True):
        from transformers import AutoModelForCausalLM

        with device, no_init_weights(), code_cache(BuildError):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=True, **kwargs)


def _set_generation(model: Any, file: Path) -> None:
    """Set the generation configuration from the directory's file, like `from_pretrained`."""
    from transformers import GenerationConfig

    if not file.is_file() or not model.can_generate():
        return
    try:
        model.generation_config = GenerationConfig.from_pretrained(file.parent)
    except (OSError, ValueError, TypeError) as error:
        raise BuildError(f"cannot be used: {first_line(error)}", file=file, hint=access_hint(error)) from None

"""Run transformers' own model tests on transformers' Llama, or on a model directory.

    python model_suite.py SOURCES REPORT [DIRECTORY]

SOURCES holds `tests/` of transformers' source distribution and the package `parameterized`. What the tests import and
the distribution lacks is replaced: the generation tests by generation_suite.py, the tester of causal language models by
the one below, the others by stubs. Writes the outcome of each test to REPORT, as JSON; test_model_suite.py judges it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
import types
import unittest
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

PACKAGE = "transformers_tests"
# Fields of transformers' LlamaConfig or of a definition; each configuration gets those that it has.
SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 512,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
}
# Values that a configuration must keep unchanged, beside those of its architecture.
COMMON = {
    "architectures": ["SomeModel"],
    "chunk_size_feed_forward": 4,
    "dtype": "float16",
    "id2label": {0: "yes", 1: "no"},
    "label2id": {"yes": 0, "no": 1},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}


def stub(name: str, **content: Any) -> None:
    """Insert a module for one that the source distribution lacks."""
    for package in [name.rsplit(".", 1)[0]] if "." in name else []:
        if f"{PACKAGE}.{package}" not in sys.modules:
            stub(package)
            sys.modules[f"{PACKAGE}.{package}"].__path__ = []
    module = types.ModuleType(f"{PACKAGE}.{name}")
    vars(module).update(content)
    sys.modules[module.__name__] = module


def import_tests(sources: Path) -> dict[str, type]:
    """Import the test classes from the sources, by name."""
    from generation_suite import GenerationTesterMixin

    sys.path.append(str(sources))
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(sources / "tests")]
    sys.modules[PACKAGE] = package

    def skip(*_: Any, **__: Any) -> Any:
        raise unittest.SkipTest("needs several processes: tests/e2e/test_scale_out.py")

    stub("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    stub("generation.test_utils", GenerationTesterMixin=GenerationTesterMixin)
    stub("utils.test_configuration_utils", config_common_kwargs=COMMON)
    names = ("_get_distributed_backend", "_get_distributed_device_type", "_get_rank_device", "_set_rank_device")
    stub("distributed_testing_utils", **dict.fromkeys((*names, "_start_rank_processes", "run_distributed"), skip))
    found: dict[str, type] = {"GenerationTesterMixin": GenerationTesterMixin}
    for module, name in (
        ("test_modeling_common", "ModelTesterMixin"),
        ("test_configuration_common", "ConfigTester"),
        ("test_training_mixin", "TrainingTesterMixin"),
        ("test_tensor_parallel_mixin", "TensorParallelTesterMixin"),
        ("test_fsdp_mixin", "FSDPTesterMixin"),
    ):
        if (sources / "tests" / f"{module}.py").exists():  # older releases have fewer
            found[name] = getattr(__import__(f"{PACKAGE}.{module}", fromlist=[name]), name)
    return found


@dataclasses.dataclass
class Model:
    """The classes of a model, and the tiny sizes of its tests."""

    config_class: Any
    base_model_class: Any
    causal_lm_class: Any

    def get_config(self, **changes: Any) -> Any:
        """Return a new configuration."""
        known = {field.name for field in dataclasses.fields(self.config_class)}
        return self.config_class(**{name: value for name, value in (SIZES | changes).items() if name in known})


def transformers_llama() -> Model:
    """Return transformers' Llama, the baseline of all others."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

    return Model(LlamaConfig, LlamaModel, LlamaForCausalLM)


def exported(directory: Path) -> Model:
    """Return the classes of a model directory."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.models.auto import modeling_auto

    auto_map = json.loads((directory / "config.json").read_text())["auto_map"]
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    model = Model(*(get_class_from_dynamic_module(auto_map[name], str(directory)) for name in names))
    # As in transformers' models: tests look up class names here.
    modeling_auto.MODEL_MAPPING_NAMES[auto_map["AutoModel"]] = model.base_model_class.__name__
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[auto_map["AutoModel"]] = model.causal_lm_class.__name__
    return model


def tester(model: Model) -> Any:
    """The tester object, from which the test classes read sizes and inputs."""
    import torch

    class Tester(types.SimpleNamespace):
        def get_config(self, **changes: Any) -> Any:
            return model.get_config(**changes)

        def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
            ids = torch.randint(3, SIZES["vocab_size"], (self.batch_size, self.seq_length))
            return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids).tril()}

    config = model.get_config()
    sizes = {name: getattr(config, name, value) for name, value in SIZES.items()}
    return Tester(
        batch_size=13, seq_length=7, is_training=True, num_labels=3, type_sequence_label_size=2, **vars(model), **sizes
    )


def test_class(model: Model, mixins: dict[str, Any]) -> type[unittest.TestCase]:
    """Build all test classes for one model."""
    import torch
    from transformers import PreTrainedModel

    config_tester = mixins.pop("ConfigTester")
    sizes = tester(model)

    def test_config(self: Any) -> None:
        config_tester(self, config_class=model.config_class).run_common_tests()

    def test_model(self: Any) -> None:
        config, inputs = sizes.prepare_config_and_inputs_for_common()
        states = model.base_model_class(config).eval()(**inputs).last_hidden_state
        self.assertEqual(states.shape, (sizes.batch_size, sizes.seq_length, sizes.hidden_size))

    def test_can_init_all_missing_weights(self: Any) -> None:
        construct = PreTrainedModel.__init__

        def seeded(self: Any, *args: Any, **kwargs: Any) -> None:
            torch.manual_seed(42)  # exported models take their seed here, transformers' later
            construct(self, *args, **kwargs)

        with patch.object(PreTrainedModel, "__init__", seeded):
            super(type(self), self).test_can_init_all_missing_weights()

    def test_model_rope_scaling_frequencies(self: Any) -> None:
        # The test looks for a module that is constructed from a configuration.
        if not hasattr(model.base_model_class(model.get_config()), "rotary_emb"):
            self.skipTest("This model has no rotary positions")

        class Rotary(torch.nn.Module):
            def __init__(self, config: Any) -> None:
                super().__init__()
                self.module = model.base_model_class(config).rotary_emb
                self.inv_freq = self.module.inv_freq

            def forward(self, *args: Any) -> Any:
                return self.module(*args)

        def holder(_: Any, config: Any) -> Any:
            return torch.nn.ModuleDict({"rotary_emb": Rotary(config)})

        self.all_model_classes = (type(model.base_model_class.__name__, (), {"__new__": holder}),)
        super(type(self), self).test_model_rope_scaling_frequencies()

    content = {
        "model_tester": sizes,
        "all_model_classes": (model.base_model_class, model.causal_lm_class),
        "test_can_init_all_missing_weights_before_2023": True,
        "test_config": test_config,
        "test_model": test_model,
    }
    for test in (test_can_init_all_missing_weights, test_model_rope_scaling_frequencies):
        if hasattr(mixins["ModelTesterMixin"], test.__name__):
            content[test.__name__] = test
    return type("ModelTest", (*mixins.values(), unittest.TestCase), content)


class Outcomes(unittest.TestResult):
    """The outcome, the reason and the duration of each test."""

    def __init__(self) -> None:
        super().__init__()
        self.tests: dict[str, dict[str, Any]] = {}

    def startTest(self, test: Any) -> None:  # noqa: N802
        super().startTest(test)
        self.tests[test._testMethodName] = {"outcome": "passed", "why": "", "began": time.perf_counter()}

    def stopTest(self, test: Any) -> None:  # noqa: N802
        entry = self.tests[test._testMethodName]
        entry["seconds"] = time.perf_counter() - entry.pop("began")

    def _note(self, test: Any, outcome: str, why: str) -> None:
        entry = self.tests[test._testMethodName]
        if entry["outcome"] != "failed":
            entry |= {"outcome": outcome, "why": why}

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        test = getattr(test, "test_case", test)
        self._note(test, "skipped", reason)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        self._note(test, "failed", "".join(traceback.format_exception(*err)))

    addFailure = addError  # noqa: N815

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._note(test, "failed", "".join(traceback.format_exception(*err)))


def main(sources: Path, report: Path, directory: Path | None) -> None:
    """Run all tests; the environment variable ONLY selects tests by a part of their names."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("always")  # tests look for warnings
    mixins = import_tests(sources)
    model = transformers_llama() if directory is None else exported(directory)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(test_class(model, mixins))
    only = os.environ.get("ONLY", "")
    chosen = [test for test in suite if only in test._testMethodName]  # type: ignore[union-attr]
    outcomes = Outcomes()
    for test in chosen:
        torch.manual_seed(0)
        test.run(outcomes)
    report.write_text(json.dumps(outcomes.tests))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)

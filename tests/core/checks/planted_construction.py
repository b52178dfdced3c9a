"""Mistakes that the checks of construction must find."""

from __future__ import annotations

from typing import NamedTuple

from forgather_core.checks.buffers import buffers
from forgather_core.checks.estimates import estimates
from forgather_core.checks.init_std import init_std
from forgather_core.checks.initial_weights import initial_weights
from forgather_core.checks.manifest import manifest
from forgather_core.checks.native_parity import native_parity
from forgather_core.checks.no_dead_options import no_dead_options
from forgather_core.checks.precision import precision
from forgather_core.checks.reference_parity import reference_parity
from forgather_core.checks.round_trip import round_trip
from forgather_core.checks.same_seed import same_seed
from forgather_core.checks.signal_propagation import signal_propagation
from forgather_core.checks.standalone import standalone
from forgather_core.definitions.check import Check


class Mistake(NamedTuple):
    """A replacement in a file of an exported directory, and the check that must fail."""

    check: Check
    definition: str
    file: str
    right: str
    wrong: str


SUPPORTS = "    supports_gradient_checkpointing = True"
QUICK_MISTAKES = {
    "a std that is ten percent larger": Mistake(
        initial_weights,
        "llama",
        "initial_weights.py",
        "normal_(0.0, self.scale, generator=generator)\n\n",
        "normal_(0.0, 1.1 * self.scale, generator=generator)\n\n",
    ),
    "an initialization that never runs": Mistake(
        initial_weights, "llama", "table_init.py", "        work.fill()", "        pass"
    ),
    "residuals that double": Mistake(
        signal_propagation,
        "llama",
        "blocks.py",
        "hidden_states + self.drop(attended)",
        "2 * hidden_states + self.drop(attended)",
    ),
    "randomness that ignores the seed": Mistake(
        same_seed,
        "llama",
        "weight_pieces.py",
        "    for fill in fills:\n        try:",
        "    torch.seed()\n    seed = None\n    for fill in fills:\n        try:",
    ),
    "frequencies that are not recomputed": Mistake(
        buffers, "llama", "rope.py", "self.inv_freq = self._frequencies(device)[0]", "pass"
    ),
    "angles in the dtype of the weights": Mistake(
        precision,
        "llama",
        "rope.py",
        "position_ids[..., None].float() *",
        "position_ids[..., None].to(x.dtype) *",
    ),
    "a weight that is not saved": Mistake(
        round_trip,
        "llama",
        "pretrained.py",
        SUPPORTS,
        f'{SUPPORTS}\n    _keys_to_ignore_on_save = {{"model.norm.weight"}}',
    ),
    "an edited file": Mistake(manifest, "llama", "norms.py", "import torch", "import torch  # edited"),
    "an option that is not read": Mistake(
        no_dead_options, "deepone", "modeling_deepone.py", "trainable=c.alibi_trainable", "trainable=True"
    ),
    "a rotation the other way": Mistake(native_parity, "llama", "rotation.py", "(-first, first)", "(first, -first)"),
    "another activation": Mistake(
        reference_parity, "deepone", "modeling_deepone.py", 'activation="relu"', 'activation="silu"'
    ),
    "residual branches that are not scaled by depth": Mistake(
        init_std, "qwen3", "llama_weights.py", "truncated_normal(std=0.02 * depth)", "truncated_normal(std=0.02)"
    ),
    "another size than the settings'": Mistake(
        estimates, "llama", "config.json", '"intermediate_size": 768', '"intermediate_size": 770'
    ),
}
LAST = "        self.post_init()"
UNTIED = "self.lm_head.weight = nn.Parameter(self.lm_head.weight.detach().clone())"
MISTAKES = {
    "a mean that is not 0": Mistake(
        initial_weights,
        "causal_lm",
        "initial_weights.py",
        "uniform_(-bound, bound,",
        "uniform_(-0.9 * bound, 1.1 * bound,",
    ),
    "another constant": Mistake(
        initial_weights, "deepone", "initial_weights.py", "numbers.fill_(self.values[0])", "numbers.fill_(0.99)"
    ),
    "other slopes": Mistake(
        initial_weights,
        "deepone",
        "initial_weights.py",
        "copy_(torch.tensor(given",
        "copy_(0.9 * torch.tensor(given",
    ),
    "a random padding row": Mistake(
        initial_weights, "qwen3", "weight_pieces.py", "run[lo - first : hi - first].zero_()", "pass"
    ),
    "a parameter without a row": Mistake(
        initial_weights, "llama", "llama_weights.py", r"(q|k|v|gate|up)_proj", r"(q|k|v|up)_proj"
    ),
    "a head with large rows": Mistake(
        signal_propagation,
        "llama",
        "llama_weights.py",
        "truncated_normal(std=hidden_size**-0.5, cut=3)",
        "truncated_normal(std=1.0)",
    ),
    "branches that vanish": Mistake(
        signal_propagation, "deepone", "blocks.py", "torch.add(branch, residual, alpha=self.alpha)", "branch * 0.1"
    ),
    "dropout in eval": Mistake(
        same_seed, "causal_lm", "modeling_causal_lm.py", "self.embed_drop(scaled", "nn.functional.dropout(scaled"
    ),
    "dropout nowhere": Mistake(
        same_seed, "deepone", "modeling_deepone.py", "return self.embed_drop(inputs_embeds)", "return inputs_embeds"
    ),
    "buffers that are cast": Mistake(
        buffers, "causal_lm", "computed_buffers.py", "            self.reset_buffers()", "            pass"
    ),
    "slopes that are cast": Mistake(
        precision, "deepone", "alibi.py", "if self.slopes.dtype != torch.float32 and", "if False and"
    ),
    "sines of rounded positions": Mistake(
        precision,
        "causal_lm",
        "modeling_causal_lm.py",
        "self.embed_positions(position_ids)",
        "self.embed_positions(position_ids.to(scaled.dtype))",
    ),
    "a tied head that is untied": Mistake(
        round_trip, "single_head", "language_model.py", LAST, f"{LAST}\n        {UNTIED}"
    ),
    "an import of Forgather": Mistake(
        standalone, "llama", "blocks.py", "import torch\n", "import torch\n__import__('forgather_core')\n"
    ),
    "an eps that is not read": Mistake(no_dead_options, "llama", "modeling_llama.py", "eps=c.rms_norm_eps", "eps=1e-5"),
    "a window that is not read": Mistake(
        no_dead_options, "mistral", "modeling_mistral.py", "sliding_window=c.sliding_window", "sliding_window=None"
    ),
    "an option that has an effect only with another and is not read": Mistake(
        no_dead_options, "qwen3", "configuration_qwen3.py", "if i >= self.max_window_layers", "if i >= 0"
    ),
    "a dropout that is not read": Mistake(
        no_dead_options, "deepone", "modeling_deepone.py", "dropout=c.layer_dropout", "dropout=0.0"
    ),
    "head norms with another eps": Mistake(native_parity, "qwen3", "norms.py", "+ self.eps", "+ 1e-2"),
}

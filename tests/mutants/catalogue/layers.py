"""Mistakes in decoders whose layers differ."""

from __future__ import annotations

from .mutant import WINDOW, Mutant

WINDOW_FIRST = WINDOW | {"layer_types": ["sliding_attention", "full_attention"] * 2}

MUTANTS = [
    Mutant(
        name="all-layers-rotated",
        definition="smollm3",
        file="modeling_smollm3.py",
        old='rope="default" if c.no_rope_layers[i] else None',
        new='rope="default"',
        mistake="no_rope_layers has no effect: every layer has RoPE",
        check="no-dead-options",
    ),
    Mutant(
        name="no-layer-rotated",
        definition="smollm3",
        file="layer_inputs.py",
        old='more | {"position_embeddings": angles}',
        new="more",
        mistake="the position embeddings are computed and not passed on",
        check="native-parity",
    ),
    Mutant(
        name="rotation-of-other-layers",
        definition="smollm3",
        file="requirements.py",
        old='        for name in ("mask", "rope", "cache", "bias"):\n            value = getattr(declared, name)\n',
        new='        for name in ("mask", "rope", "cache", "bias"):\n'
        '            value = getattr(declared, name) or ("default" if name == "rope" else None)\n',
        mistake="a layer that asks for no RoPE gets that of the others",
        check="reference-parity",
    ),
    Mutant(
        name="flex-mask-of-the-first-layer",
        definition="smollm3",
        file="caches.py",
        old="self._cache.get_mask_sizes(query_length, self._layer_idx)",
        new="self._cache.get_mask_sizes(query_length, 0)",
        mistake="with flex attention, all masks have the size of the first layer's cache",
        check="call-agreement",
        options=WINDOW_FIRST,
        error="block_mask",
    ),
    Mutant(
        name="window-in-the-wrong-layers",
        definition="smollm3",
        file="modeling_smollm3.py",
        old='if c.layer_types[i] == "sliding_attention"',
        new='if c.layer_types[i] != "sliding_attention"',
        mistake="windows and full attention are exchanged",
        check="round-trip",
        options=WINDOW | {"no_rope_layer_interval": 2},
        error="layer_types: layer 0 is 'sliding_attention' in the model",
    ),
]

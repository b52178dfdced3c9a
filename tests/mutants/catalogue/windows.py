"""Mistakes in sliding windows."""

from __future__ import annotations

from .mutant import WINDOW, Mutant

MUTANTS = [
    Mutant(
        name="window-ignored",
        definition="mistral",
        file="masks.py",
        old="MASKS[kind.layer_type](",
        new="create_causal_mask(",
        mistake="the window is read under another name and has no effect in eager and sdpa (seen in practice)",
        check="sliding-window",
    ),
    Mutant(
        name="window-option-dead",
        definition="llama",
        file="modeling_llama.py",
        old="sliding_window=c.sliding_window,",
        new="sliding_window=None,",
        mistake="the option is accepted and has no effect",
        check="sliding-window",
        options=WINDOW,
    ),
    Mutant(
        name="window-one-more",
        definition="mistral",
        file="masks.py",
        old="and_mask_function=overlay,",
        new="and_mask_function=overlay,\n"
        "        or_mask_function=lambda batch, head, q, kv: kv == q - config.sliding_window,",
        mistake="off by one: a query attends to one key more than the window, as if it did not count itself",
        check="sliding-window",
    ),
    Mutant(
        name="window-one-less",
        definition="llama",
        file="masks.py",
        old="    mask = MASKS[kind.layer_type](",
        new="    if kind.size is not None and overlay is None:\n"
        "        overlay = lambda batch, head, q, kv: kv > q - kind.size + 1\n"
        "    mask = MASKS[kind.layer_type](",
        mistake="off by one in the other direction, in every implementation and every cache",
        check="sliding-window",
        options=WINDOW,
    ),
    Mutant(
        name="window-one-less-in-given-masks-too",
        definition="mistral",
        file="masks.py",
        old="    mask = MASKS[kind.layer_type](",
        new="    before = overlay\n"
        "    near = lambda q, kv: kv > q - kind.size + 1\n"
        "    overlay = lambda batch, head, q, kv: near(q, kv) & (before is None or before(batch, head, q, kv))\n"
        "    if attention_mask is not None and attention_mask.dim() == 4:\n"
        "        rows, columns = (torch.arange(size) for size in attention_mask.shape[-2:])\n"
        "        hidden = ~near(rows[:, None] + len(columns) - len(rows), columns)\n"
        "        lowest = False if attention_mask.dtype == torch.bool else torch.finfo(attention_mask.dtype).min\n"
        "        attention_mask = attention_mask.masked_fill(hidden, lowest)\n"
        "    mask = MASKS[kind.layer_type](",
        mistake="off by one in every call: a given mask is narrowed to the same wrong window",
        check="sliding-window",
        beyond_calls=True,
    ),
    Mutant(
        name="window-ignored-with-cache",
        definition="mistral",
        file="masks.py",
        old="MASKS[kind.layer_type](",
        new="(MASKS[kind.layer_type] if cache is None or cache.get_seq_length() == 0 else create_causal_mask)(",
        mistake="chunks after the first are masked without a window",
        check="kv-cache",
    ),
    Mutant(
        name="window-of-first-layer-for-all",
        definition="qwen3",
        file="decoder.py",
        old="inputs.of(need, i) for i, need in enumerate(needs)",
        new="inputs.of(needs[0], 0) for _ in needs",
        mistake="one mask for all layers, although only some have a window",
        check="native-parity",
        options=WINDOW | {"max_window_layers": 1},
    ),
    Mutant(
        name="max-window-layers-dead",
        definition="qwen3",
        file="modeling_qwen3.py",
        old='sliding_window=c.sliding_window if c.layer_types[i] == "sliding_attention" else None,',
        new="sliding_window=c.sliding_window,",
        mistake="all layers have the window, although layer_types of the configuration names only some",
        check="native-parity",
        options=WINDOW | {"max_window_layers": 2},
    ),
]

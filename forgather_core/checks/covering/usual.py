"""Calls that programs usually make: combinations of many levels, which an array of pairs contains by chance only."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .factors import Case, case_of
from .rules import RULES, Rule, violated

_BATCH = "length=65,rows=unequal,padding=left,mask=2d,chunks=uneven"  # generate() on prompts
_TRAINING = "mode=train,gradients=on,length=65,rows=equal,labels=all"
_OWN_MASK = "length=33,rows=unequal,positions=given,mask=4d-float"
USUAL = tuple(
    case_of(text)
    for text in (
        *(
            f"attention={name},{_BATCH},cache={cache}"
            for name in ("sdpa", "flex_attention")
            for cache in ("dynamic", "static")
        ),
        f"attention=sdpa,dtype=bfloat16,made=from-pretrained,positions=given,cache=dynamic,{_BATCH}",
        f"attention=sdpa,dtype=float16,{_OWN_MASK},padding=left",
        f"dtype=float16,{_OWN_MASK},padding=middle,cache=dynamic,chunks=uneven",
        f"attention=sdpa,{_TRAINING},checkpointing=non-reentrant,loss=chunked",
        f"attention=sdpa,{_TRAINING},checkpointing=non-reentrant,packing=position-ids,positions=given,padding=right,mask=2d",
        f"attention=sdpa,{_TRAINING},dtype=autocast-bfloat16,packing=position-ids,positions=given,loss=chunked",
    )
)


def usual_cases(levels: Mapping[str, tuple[str, ...]], rules: Collection[Rule] = RULES) -> tuple[Case, ...]:
    """Return the usual calls that have a meaning for a model.

    Args:
        levels: The levels of each factor that apply to the model.
        rules: The conditions that its cases satisfy.
    """
    return tuple(
        case for case in USUAL if violated(case, rules) is None and all(case[name] in levels[name] for name in levels)
    )

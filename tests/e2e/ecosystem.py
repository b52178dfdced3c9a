"""Use a model directory with Hugging Face's tools: the Trainer, TRL, PEFT and pipelines.

    python ecosystem.py DIRECTORY REPORT TOPIC ...

Writes to the file REPORT what each topic saw: figures, or the error that ended it. It judges nothing; test_ecosystem.py
does.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    pipeline,
)

# Rows of many lengths reveal a loss that is averaged in the wrong order.
TEXTS = [f"def f{i}(x):\n    return {' + '.join(['x'] * (1 + 3 * i % 17))}\n" for i in range(24)]
PROMPTS = ["def main():", "import os\n\nprint(os"]
NEW_TOKENS = 7
# Plain SGD does not amplify rounding differences.
TRAINING: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.05,
    "max_steps": 4,
    "logging_steps": 1,
    "save_steps": 2,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 0,
}
Weights = dict[str, Tensor]


def load(directory: Path) -> Any:
    """Load a model in the documented way."""
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)


def weights_of(model: nn.Module) -> Weights:
    """Return a copy of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(before: Weights, after: Weights) -> dict[str, float]:
    """Return the largest change of each parameter."""
    return {name: largest(after[name] - weight) for name, weight in before.items()}


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value."""
    return tensor.float().abs().max().item()


@torch.no_grad()
def logits(model: Any, tokenizer: Any) -> Tensor:
    """Return the logits of a padded batch, without those at padding."""
    batch = tokenizer(TEXTS[:4], return_tensors="pt", padding=True)
    result: Tensor = model.eval()(**batch).logits
    return result[batch["attention_mask"].bool()]


def trainer(directory: Path, place: Path) -> dict[str, Any]:
    """Train with accumulated gradients, resume, load the saved model; then train with the batch in one piece."""
    # Right padding: with left padding, the first token would also be a target, predicted from padding.
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True, padding_side="right")
    rows = Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in TEXTS])

    def made(model: Any, name: str, **sizes: int) -> Trainer:
        return Trainer(
            model=model,
            args=TrainingArguments(output_dir=str(place / name), **sizes, **TRAINING),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            processing_class=tokenizer,
        )

    pieces = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    model = load(directory)
    before, counts = weights_of(model), []

    def count(_: Any, __: Any, given: Mapping[str, Any]) -> None:
        targets = int((given["labels"][:, 1:] != -100).sum())
        counts.append((targets, int(given.get("num_items_in_batch", -1))))

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    run = made(model, "pieces", **pieces)
    run.train()
    hook.remove()
    after = weights_of(model)

    whole = load(directory)
    made(whole, "whole", per_device_train_batch_size=4).train()
    resumed = load(directory)
    again = made(resumed, "resumed", **pieces)
    again.train(resume_from_checkpoint=str(place / "pieces" / "checkpoint-2"))
    saved = place / "pieces" / "checkpoint-4"
    return {
        "losses": [entry["loss"] for entry in run.state.log_history if "loss" in entry],
        "moved": moved(before, after),
        "targets, items": counts,
        "from the batch in one piece": max(moved(after, weights_of(whole)).values()),
        "from the resumed": max(moved(after, weights_of(resumed)).values()),
        "steps of the resumed": [entry["step"] for entry in again.state.log_history if "loss" in entry],
        "logits of the saved": largest(logits(load(saved), tokenizer) - logits(model, tokenizer)),
        "logits of the untrained": largest(logits(load(directory), tokenizer) - logits(model, tokenizer)),
    }


def sft(directory: Path, place: Path) -> dict[str, Any]:
    """Run TRL's trainer on single and packed rows of text."""
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    report = {}
    for name, options in (("rows", {"packing": False}), ("packed", {"packing": True, "max_length": 64})):
        model = load(directory)
        before, batches = weights_of(model), []

        def keep(_: Any, __: Any, given: Mapping[str, Any], batches: list[Any] = batches) -> None:
            batches.append({name: x.clone() for name, x in given.items() if isinstance(x, Tensor)})

        hook = model.model.register_forward_pre_hook(keep, with_kwargs=True)
        run = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(place / name), bf16=False, per_device_train_batch_size=2, **TRAINING, **options
            ),
            train_dataset=Dataset.from_list([{"text": text} for text in TEXTS]),
            processing_class=tokenizer,
        )
        run.train()
        hook.remove()
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        report[name] = {
            "losses": losses,
            "moved": moved(before, weights_of(model)),
            "documents": [len(document) for document in documents_of(batches[0])],
            "rows": len(batches[0]["input_ids"]),
            "first loss, documents apart": apart(load(directory), batches[0]),
            "first loss, documents seen by each other": as_one(load(directory), batches[0]),
            "logits of the saved": largest(
                logits(load(place / name / "checkpoint-4"), tokenizer) - logits(model, tokenizer)
            ),
        }
    return report


def documents_of(batch: dict[str, Tensor]) -> list[Tensor]:
    """Return the token ids of each document, from padded rows or from one packed row."""
    ids = batch["input_ids"]
    if "position_ids" not in batch:
        return [row[mask.bool()] for row, mask in zip(ids, batch["attention_mask"], strict=True)]
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    return [ids[0, start:end] for start, end in zip(starts, [*starts[1:], ids.shape[1]], strict=True)]


@torch.no_grad()
def apart(model: Any, batch: dict[str, Tensor]) -> float:
    """Return the mean loss over all targets of a batch, computed document by document."""
    documents = documents_of(batch)
    losses = [target_losses(model.eval()(document[None]).logits[0], document) for document in documents]
    return torch.cat(losses).mean().item()


@torch.no_grad()
def as_one(model: Any, batch: dict[str, Tensor]) -> float:
    """Return the mean loss of the concatenated documents: the result of a model that ignores their starts."""
    documents = documents_of(batch)
    scores = model.eval()(torch.cat(documents)[None]).logits[0].split([len(document) for document in documents])
    return torch.cat([target_losses(*pair) for pair in zip(scores, documents, strict=True)]).mean().item()


def target_losses(scores: Tensor, document: Tensor) -> Tensor:
    """Return the loss of each token except the first."""
    return nn.functional.cross_entropy(scores[:-1], document[1:], reduction="none")


def lora(directory: Path, place: Path) -> dict[str, Any]:
    """Train, save, load and merge PEFT's low-rank adapters on every linear layer."""
    from peft import LoraConfig, PeftModel, get_peft_model

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    base = load(directory)
    linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = weights_of(model)
    Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(place / "training"), per_device_train_batch_size=4, **TRAINING | {"learning_rate": 1.0}
        ),
        train_dataset=Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in TEXTS]),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ).train()
    after, adapted = weights_of(model), logits(model, tokenizer)
    model.save_pretrained(place / "adapter")
    loaded = PeftModel.from_pretrained(load(directory), place / "adapter")
    merged = loaded.merge_and_unload()
    again = PeftModel.from_pretrained(load(directory), place / "adapter")
    return {
        "linear layers": linear,
        "trained": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "moved": moved(before, after),
        "logits of the base": largest(logits(load(directory), tokenizer) - adapted),
        "logits of the loaded": largest(logits(again, tokenizer) - adapted),
        "logits of the merged": largest(logits(merged, tokenizer) - adapted),
        "merged is": type(merged).__name__,
        "base is": type(base).__name__,
    }


def generation(directory: Path, place: Path) -> dict[str, Any]:
    """Run the text generation pipeline with the path of the directory alone."""
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    generate = pipeline("text-generation", model=str(directory), trust_remote_code=True, device="cpu")
    tokenizer, model = AutoTokenizer.from_pretrained(directory, trust_remote_code=True), load(directory)
    given = [tokenizer(prompt, return_tensors="pt") for prompt in PROMPTS]
    return {
        "prompts": [x["input_ids"].shape[1] for x in given],
        "by the pipeline": [
            generate(prompt, return_tensors=True, **options)[0]["generated_token_ids"] for prompt in PROMPTS
        ],
        "by generate": [model.generate(**x, **options)[0].tolist() for x in given],
        "texts": [generate(prompt, **options)[0]["generated_text"] for prompt in PROMPTS],
    }


TOPICS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "trainer": trainer,
    "sft": sft,
    "lora": lora,
    "generation": generation,
}


def main(directory: Path, file: Path, topics: list[str]) -> None:
    """Run every topic, also after a failed one."""
    for name in ("forgather", "forgather_core", "forgather_cli"):
        sys.modules[name] = None  # type: ignore[assignment]  # a model directory needs none of it
    report: dict[str, Any] = {}
    for topic in topics:
        with tempfile.TemporaryDirectory() as place:
            try:
                report[topic] = TOPICS[topic](directory, Path(place))
            except Exception:
                report[topic] = {"error": traceback.format_exc()}
    file.write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

"""Compare the logits of exported models on the oldest, an intermediate and the newest supported transformers.

python tools/compatibility.py [DIRECTORY]

For each release, it creates a virtual environment without Forgather in DIRECTORY (default: a temporary directory), and
loads models there that the environment of this script has exported. Then it runs the numerical tests (parity with
transformers' own classes and with the references, packing, caches, options, weights) on each release from the sources,
and the tests of the command line on the oldest and the newest supported Typer. The exit code is 1 if logits differ by
more than 1e-5, or if a test fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

RELEASES = {"oldest": "transformers==5.4.0", "intermediate": "transformers==5.13.0", "newest": "transformers>=5.4,<6"}
TYPER = {"oldest": "typer==0.26.0", "newest": "typer>=0.26"}
NUMERICAL_TESTS = ["tests/parts", "tests/plugins"]
ROOT = Path(__file__).parent.parent
TORCH = "torch>=2.10,<2.14"
TOLERANCE = 1e-5
# Name of a case -> preset and options.
MODELS = {
    "causal_lm": ("causal_lm/4M", []),
    "deepone": ("deepone/4M", ["--sliding-window=24", "--num-key-value-heads=2"]),
    "single_head": ("single_head/4M", ["--num-hidden-layers=2"]),
    "mistral": ("mistral/4M", ["--sliding-window=24"]),
    "qwen3, window in half of the layers": ("qwen3/4M", ["--sliding-window=24", "--max-window-layers=2"]),
    "llama, native": ("llama/4M", ["--native"]),
    "llama, grouped, tied, window, llama3 RoPE": (
        "llama/4M",
        [
            "--num-key-value-heads=2",
            "--tie-word-embeddings",
            "--sliding-window=24",
            "--rope-parameters={rope_type: llama3, rope_theta: 5e5, factor: 8, low_freq_factor: 1, high_freq_factor: 4,"
            " original_max_position_embeddings: 32}",
        ],
    ),
}
PROBE = """
import importlib.util, json, sys
import torch, transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

assert importlib.util.find_spec("forgather_core") is None, "Forgather is installed here"
directory = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
fresh = AutoModelForCausalLM.from_config(config)
model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()
base = AutoModel.from_pretrained(directory, trust_remote_code=True).eval()
ids = tokenizer("def main():\\n    return [x for x in range(10)]\\n" * 3, return_tensors="pt")["input_ids"]
with torch.no_grad():
    logits = model(ids).logits
    assert torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)
    new = model.generate(ids, max_new_tokens=8, do_sample=False, min_new_tokens=8)[0, -8:]
    fresh.save_pretrained(sys.argv[2])
    again = AutoModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True).eval()
    assert torch.equal(again(ids).logits, fresh.eval()(ids).logits)
print(json.dumps({
    "transformers": transformers.__version__, "torch": torch.__version__, "python": sys.version.split()[0],
    "logits": logits[0].tolist(), "tokens": new.tolist(), "ids": ids[0].tolist(),
}))
"""


def main() -> int:
    """Export models, load them in every environment, compare them, and run the tests; return the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        environments = {name: _environment(work / name, release) for name, release in RELEASES.items()}
        worst = 0.0
        for number, (title, (preset, options)) in enumerate(MODELS.items()):
            exported = Path(temporary) / f"model_{number}"
            _export(exported, preset, options)
            results = {name: _probe(python, exported, Path(temporary)) for name, python in environments.items()}
            new, largest = results["newest"], 0.0
            for old in results.values():
                assert old["ids"] == new["ids"], "the tokenizers differ"
                assert old["tokens"] == new["tokens"], f"generated tokens differ: {old['tokens']} and {new['tokens']}"
                pairs = zip(old["logits"], new["logits"], strict=True)
                error = max(abs(a - b) for row in pairs for a, b in zip(*row, strict=True))
                largest = max(largest, error)
            worst = max(worst, largest)
            versions = ", ".join(result["transformers"] for result in results.values())
            print(f"{title}: transformers {versions}: {len(new['ids'])} tokens, logits differ by {largest:.1e} at most")
        failed = [name for name, python in environments.items() if not _numerical_tests(python, name)]
        failed += [release for release in TYPER.values() if not _command_line_tests(work, release)]
        print(f"torch {new['torch']}, Python {new['python']}")
    return int(worst > TOLERANCE or bool(failed))


def _environment(directory: Path, release: str) -> Path:
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", TORCH, release], check=True)
    return python


def _command_line_tests(directory: Path, release: str) -> bool:
    """Run the tests of the command line in an environment with Forgather and a release of Typer."""
    python = _environment(directory / "command-line", RELEASES["newest"])
    subprocess.run([python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[test]", release], check=True)
    return _tests(python, ["tests/cli"], f"tests of the command line with {release}")


def _numerical_tests(python: Path, name: str) -> bool:
    subprocess.run([python, "-m", "pip", "install", "-q", "pytest", "hypothesis", "pluggy", "xxhash"], check=True)
    return _tests(python, NUMERICAL_TESTS, f"numerical tests on the {name} transformers")


def _tests(python: Path, tests: list[str], title: str) -> bool:
    """Run tests from the sources, and print their totals and the failed ones."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "-W", "ignore", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or ["did not run"]
    print(f"{title}: " + lines[-1].strip("= "))
    print("".join(f"  {line}\n" for line in lines if line.startswith(("FAILED", "ERROR"))), end="")
    return done.returncode == 0


def _export(directory: Path, preset: str, options: list[str]) -> None:
    weights = ["--device", "cpu", "--save-checkpoint", "--safetensors"]
    command = [sys.executable, "-m", "forgather_cli.main", "-t", preset, "model", *weights, *options]
    subprocess.run([*command, "--output-dir", str(directory), "construct"], check=True, stdout=subprocess.DEVNULL)


def _probe(python: Path, exported: Path, work: Path) -> dict[str, object]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / python.parts[-3])}
    with tempfile.TemporaryDirectory(dir=work) as saved:
        command = [python, "-c", PROBE, exported, saved]
        done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr}")
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(main())

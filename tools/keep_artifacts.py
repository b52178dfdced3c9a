"""Archive files that the installed version writes, for tests of later versions.

python tools/keep_artifacts.py VERSION

Writes tests/artifacts/VERSION.tar.xz: a small directory of each definition with weights in one of the formats, the
directory of a killed save, a YAML configuration, a third-party plugin, and the logits of the models.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZES = ["--hidden-size", "32", "--intermediate-size", "48", "--num-hidden-layers", "2", "--tokenizer", "bytes"]
DEFINITIONS = {
    "causal_lm": ["--num-attention-heads", "4"],
    "deepone": ["--num-attention-heads", "4", "--num-key-value-heads", "2"],
    "llama": ["--num-attention-heads", "4", "--num-key-value-heads", "2", "--safetensors", "--max-shard-size", "20KB"],
    "mistral": ["--num-attention-heads", "4", "--sliding-window", "5", "--safetensors"],
    "qwen3": ["--num-attention-heads", "4", "--head-dim", "16", "--tie-word-embeddings", "--safetensors"],
    "single_head": ["--max-shard-size", "20KB"],
}
CONFIGURATION = """\
extends: llama/4M
model_name: kept
hidden_size: 32
intermediate_size: ${hidden_size}
num_hidden_layers: 1
num_key_value_heads: 2
tokenizer: bytes
device: cpu
gradient_checkpointing: true
"""
LOGITS = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
ids = torch.arange(5, 45).reshape(2, 20)
logits = {}
for name in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True).eval()
    with torch.no_grad():
        logits[name] = model(ids).logits
save_file({"ids": ids, **logits}, "logits.safetensors")
"""
# Exits like a kill, directly before the new index is renamed into place.
KILLED = """
import os
import torch
from forgather.ml.sharded_checkpoint import load_checkpoint, save_checkpoint
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("killed", trust_remote_code=True)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(7.0)
rename = os.rename
def stop(source, target, **kwargs):
    if str(target).endswith("index.json"):
        os._exit(9)
    rename(source, target, **kwargs)
os.rename = os.replace = stop
save_checkpoint("killed", model, safetensors=True, max_shard_size=20_000)
"""


def main() -> None:
    """Create the files in a temporary directory and archive them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="version of Forgather, the name of the archive")
    name = parser.parse_args().version
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / name
        root.mkdir()

        def run(*arguments: str, code: int = 0) -> None:
            env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(work) / "hf")}
            process = subprocess.run([sys.executable, *arguments], cwd=root, env=env, check=False)
            assert process.returncode == code, arguments

        for definition, options in DEFINITIONS.items():
            build = ["--device", "cpu", "--seed", "5", "--save-checkpoint", "--output-dir", definition]
            program = ["-m", "forgather_cli.main", "-t", definition, "model"]
            run(*program, *SIZES, *options, *build, "construct", "-o", "report.txt")
        run("-c", LOGITS, *DEFINITIONS)
        shutil.copytree(root / "llama", root / "killed")
        run("-c", KILLED, code=9)
        (root / "report.txt").unlink()
        (root / "configuration.yaml").write_text(CONFIGURATION)
        shutil.copytree(ROOT / "tests" / "packages" / "parallel_lm", root / "parallel_lm")
        target = ROOT / "tests" / "artifacts" / f"{name}.tar.xz"
        target.parent.mkdir(exist_ok=True)
        with tarfile.open(target, "w:xz", preset=9) as archive:
            archive.add(root, arcname=name)
        print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

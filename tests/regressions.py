"""Faults that were reported and fixed. `@pytest.mark.regression("R1")` marks each test that reproduces one.

`python tools/regressions.py COMMIT` runs the marked tests on an older commit and on this one.
"""

FAULTS = {
    # Wrong results
    "R1": "generate() in training mode with gradient checkpointing forgets the prompt",
    "R2": "generate() forgets a right-padded prompt",
    "R3": "ALiBi ignores positions and padding where the mask is four-dimensional",
    "R4": "post_init() called a second time re-initializes every weight",
    "R5": "--like reads original_max_position_embeddings of scaled RoPE differently from transformers",
    "R6": "--like uses fields that the native class ignores",
    "R7": "FP8 weights load without their scales",
    "R8": "A tensor of another shape keeps its initial value, and the exit code is 0",
    "R9": "NaN is not reported where an older index vouches for a newer shard",
    "R10": "Names with a wrapper's prefix load in part",
    "R11": "Initialization rules fail, or use the wrong fan, for weights of three dimensions",
    "R12": "test ignores --optimizer, and does not report which weights it trains",
    "R13": "A model whose layers keep a state is reported to work in vLLM",
    # Hostile files
    "H1": "A planted journal deletes files outside the directory",
    "H2": "A directory of the user beside a model is deleted",
    "H3": "config.json is read without limits",
    "H4": "The pickle of a .bin file takes quadratic time or unbounded memory",
    "H5": "The directory of a zip archive is read without limits",
    "H6": "Markup and control characters of a file reach the terminal",
    "H7": "A malformed journal gives a traceback or a hang",
    "H8": "A FIFO, socket or device in a model directory blocks a rebuild",
    "H9": "A report grows without bound",
    "H10": "An expanded tensor of a .bin file is written in full by convert",
    "H11": "Many shards exhaust the file descriptors",
    "H12": "Files that are no checkpoint are described wrongly; a dangling lock creates its target",
    # The others of the same round
    "like-native": "--like is not compared with the native class, and unread keys are not reported",
    "typed-options": "A typed option of another command, or without effect, is accepted",
    "test-optimizer": "test has no --optimizer",
    "tokenizing": "Tokenizing of long words stops early, with a false end of text",
    "tokenizer-config": "A changed tokenizer_config.json is not noticed by a rebuild",
    "no-measurement": "A check of verify without a measurement counts as passed",
    "causality-refused": "A model that refuses eager and sdpa passes causality",
    "q-norm": "Attention with q_norm but without k_norm applies neither",
    "kv-groups": "A number of heads that the KV heads do not divide is accepted",
    "compare-dtype": "compare heads a bf16 column with fp32",
    "fused-hooks": "FusedStepper never removes its hooks",
    "endless-stream": "An endless stream of one-token documents never fills a row",
    "datasets-logger": "The datasets logger stays silenced while a generator is open",
    "exit-noise": "An 'Exception ignored' is printed at exit",
    "residual-init": "gate_proj, which does not write to the residual stream, is scaled by depth",
    "seeded-pieces": "Initial weights depend on the order and the piece size in which they are drawn",
    "fresh-seeds": "Two models initialized in one process do not follow torch's global generator",
    # The program and the tools around it
    "P13": "Hypothesis fails tests on a busy machine",
    "P15": "A code block of the documentation does not work as it is printed",
    "P17": "README's main command ends on a rising loss, and does not say what became of the weights",
    "windows": "Importing fails on Windows",
    "P11": "Several chat templates of a tokenizer are not carried, and a change of them is not noticed",
    "E5": "The shipped chat templates do not mark what the assistant writes",
    "E6": "generate() runs on after the token that ends a turn of the chat template",
    "E11": "The shipped tokenizers split text as no tokenizer that llama.cpp knows",
    "P1": "An option of another command is accepted without effect",
    "P2": "Work that does not fit into memory is started",
    "P3": "A broken model directory is a traceback",
    "P4": "An option whose name transformers reserves fails only in construct",
    "P5": "A preset is blamed for the value of a flag, and a flag for a value of an earlier run",
    "P6": "The memory block of construct does not add up to its peak",
    "P7": "Ctrl-C loses what was measured, or shows a traceback",
    "cpu-memory": "Out of memory on the CPU is a traceback",
    "P8": "Closed streams, an unwritable cache, a full disk and names that are not UTF-8 give tracebacks",
    "P9": "Tables break numbers and URLs, and are wider than the terminal",
    "P10": "The working directory is replaced, or fails as an output directory",
    "P12": "YAML reads text as numbers, and numbers need not be finite",
    "P14": "A plugin that imports torch slows every command, and is not named",
    "P18": "A byte order mark stays in what is read",
    "E10": "Completion is installed for another shell, and offers no values",
    "wrapped": "A compiled, data-parallel, FSDP or PEFT model is saved by the names of its wrappers",
    "E7": "save_pretrained into an export leaves a stale index, because one shard is written with an index",
    "E12-repr": "The report of a load or save prints a long repr in a notebook",
    "P7-counts": "A tied model is saved as 50 tensors and loaded as 51",
    "sha256-of-weights": "Saves are as slow as SHA-256 on processors without instructions for it",
    "bin-at-once": "Saving .bin holds all tensors of a shard in memory at once",
    "E1": "Continuous batching fails: layers do not pass cache.update the arguments that a paged cache needs",
    "E2": "position_embeddings and other values between modules do not have the form of transformers' models",
    "E3": "An exported graph of a model with ALiBi does not decompose, so that the ONNX export fails",
    "E4": "An export that transformers' class cannot express has the name of that class",
    "E12": "Smaller ones: classification heads, LoRA without target_modules, num_attention_heads of single_head",
    # Both rounds
    "old-artifacts": "Directories, checkpoints, YAML files and plugins of the version before load",
}

# Entries that hold before and after: what must not be broken by the others.
KEPT = {
    "old-artifacts",
    "P1",  # fixed with the option scopes of the round before
    "P13",  # a fault of the tests' own conftest.py, which comes with them
    "P15",  # a fault of the documentation, which the tests read in their own tree
}

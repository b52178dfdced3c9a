"""Modules round-trip bit for bit: generated shapes, dtypes, layouts and ties, both formats, any shards."""

from __future__ import annotations

import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from forgather_core.checkpoint import LoadReport, load_checkpoint, save_checkpoint
from forgather_core.errors import CheckpointError

FLOATS = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
OTHERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64]

DENSE = ["plain", "transposed", "every second", "slice"]  # no two elements share memory
LAYOUTS = [*DENSE, "overlapping slice", "expanded"]
IMPOSSIBLE = {  # a parameter must be writable; tensors that are not saved must not overlap others
    "parameter": {"expanded"},
    "buffer": set[str](),
    "unsaved": {"slice", "overlapping slice"},
}
TIES = ["same object", "same memory", "transposed"]
POOL = 8192  # elements of the storage that slices are cut from

MODULES = ["layers", "0", "1", "é"]
LEAVES = ["weight", "bias", "w 2", "ß", "running_mean", "scale"]
NAMES = st.tuples(st.lists(st.sampled_from(MODULES), max_size=3), st.sampled_from(LEAVES)).map(
    lambda parts: ".".join([*parts[0], parts[1]])
)
SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 5, 2, 3, 0]), max_size=4).map(tuple)
SEEDS = st.integers(0, 2**16)
LIMITS = st.one_of(st.integers(1, 1500), st.just("5GB"))


# --- made-up modules -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A tensor of a module: `kind` is parameter, buffer or unsaved (a non-persistent buffer)."""

    name: str
    kind: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True)
class Tie:
    """Another name for the memory of a leaf."""

    name: str
    leaf: int
    how: str


@dataclass(frozen=True)
class Plan:
    """The tensors of a module; with `twice`, its first submodule has a second name."""

    leaves: tuple[Leaf, ...]
    ties: tuple[Tie, ...]
    twice: bool


@st.composite
def plans(
    draw: st.DrawFn,
    *,
    dtypes: list[torch.dtype] = FLOATS + OTHERS,
    layouts: list[str] = LAYOUTS,
    ties: list[str] = TIES,
    kinds: tuple[str, ...] = ("parameter", "buffer", "unsaved"),
) -> Plan:
    leaves: list[Leaf] = []
    tied: list[Tie] = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=8, unique=True)):
        if leaves and ties and draw(st.integers(0, 3)) == 0:
            tied.append(Tie(name, draw(st.integers(0, len(leaves) - 1)), draw(st.sampled_from(ties))))
            continue
        kind = draw(st.sampled_from(kinds)) if leaves else kinds[0]
        dtype = draw(st.sampled_from([d for d in dtypes if kind != "parameter" or not d.is_complex]))
        layout = draw(st.sampled_from([one for one in layouts if one not in IMPOSSIBLE[kind]]))
        leaves.append(Leaf(name, kind, dtype, draw(SHAPES), layout))
    return Plan(tuple(leaves), tuple(tied), draw(st.booleans()) if ties else False)


class Memory:
    """Create tensors with random values.

    Args:
        seed: Of the values.
        device: On meta there are none.
    """

    def __init__(self, seed: int, device: str) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device
        self.pools: dict[torch.dtype, Tensor] = {}
        self.used: dict[torch.dtype, int] = {}

    def tensor(self, leaf: Leaf) -> Tensor:
        """A tensor that lies in memory as the leaf says."""
        shape, dtype, dims = leaf.shape, leaf.dtype, len(leaf.shape)
        if leaf.layout.endswith("slice"):
            # A single element would not overlap the one before it, but be tied to it.
            overlaps = leaf.layout.startswith("overlapping") and prod(shape) > 1
            return self._slice(shape, dtype, back=1 if overlaps else 0)
        if leaf.layout == "transposed":
            return backwards(self._new(shape[::-1], dtype))
        if leaf.layout == "every second" and dims:
            return self._new((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
        if leaf.layout == "expanded" and dims:
            return self._new((1, *shape[1:]), dtype).expand(shape)
        return self._new(shape, dtype)

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.device == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        if dtype == torch.bool:
            return torch.randint(0, 2, shape, generator=self.generator).bool()
        count, width = prod(shape), dtype.itemsize
        values = torch.randint(0, 256, (count, width), dtype=torch.uint8, generator=self.generator)
        if dtype.is_floating_point:
            special = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0]).to(dtype).view(torch.uint8).view(4, width)
            pick = torch.randint(0, 16, (count,), generator=self.generator)
            values = torch.where((pick < 4)[:, None], special[pick % 4], values)
        return values.contiguous().view(dtype).view(shape)

    def _slice(self, shape: tuple[int, ...], dtype: torch.dtype, back: int) -> Tensor:
        pool = self.pools.setdefault(dtype, self._new((POOL,), dtype))
        begin = max(self.used.get(dtype, 3) - back, 0)
        self.used[dtype] = begin + prod(shape)
        return pool[begin : begin + prod(shape)].view(shape)


def backwards(tensor: Tensor) -> Tensor:
    """Return a view with its dimensions reversed."""
    return tensor.permute(tuple(reversed(range(tensor.dim()))))


def writable(plan: Plan) -> Plan:
    """Return the plan without tensors that repeat elements, to which torch cannot write."""
    return replace(plan, leaves=tuple(replace(x, layout=x.layout.replace("expanded", "plain")) for x in plan.leaves))


def build(plan: Plan, seed: int, device: str = "cpu") -> nn.Module:
    """Return the module of a plan, with random values."""
    root, memory, tensors = nn.Module(), Memory(seed, device), []
    for leaf in plan.leaves:
        values = memory.tensor(leaf)
        if leaf.kind == "parameter":
            values = nn.Parameter(values, requires_grad=leaf.dtype.is_floating_point)
        tensors.append(values)
        _register(root, leaf.name, leaf.kind, values)
    for tie in plan.ties:
        kind, values = plan.leaves[tie.leaf].kind, tensors[tie.leaf]
        if tie.how != "same object":
            data = backwards(values.detach()) if tie.how == "transposed" else values.detach()
            values = nn.Parameter(data, requires_grad=values.requires_grad) if kind == "parameter" else data
        _register(root, tie.name, kind, values)
    children = list(root.children())
    if plan.twice and children:
        root.add_module("again", children[0])
    return root


def _register(root: nn.Module, name: str, kind: str, values: Tensor) -> None:
    *path, leaf = name.split(".")
    module = root
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if kind == "parameter":
        module.register_parameter(leaf, values)  # type: ignore[arg-type]
    else:
        module.register_buffer(leaf, values, persistent=kind == "buffer")


# --- what is compared ------------------------------------------------------------------------------------------------


def raw(tensor: Tensor) -> bytes:
    """Return the bytes of the values, so that the payload of a NaN and the sign of a zero count."""
    dense = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return bytes(dense.view(-1).view(torch.uint8).numpy())


Exact = tuple[torch.dtype, torch.Size, bytes]


def exact(tensor: Tensor) -> Exact:
    return tensor.dtype, tensor.shape, raw(tensor)


def state(model: nn.Module) -> dict[str, Exact]:
    return {name: exact(tensor) for name, tensor in model.state_dict().items()}


def unsaved(model: nn.Module) -> dict[str, Exact]:
    kept = model.state_dict().keys()
    buffers = dict(model.named_buffers(remove_duplicate=False))
    return {name: exact(buffer) for name, buffer in buffers.items() if name not in kept}


def first_names(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of each tensor of the state by its first name; an empty tensor equals no other."""
    found: dict[Any, list[str]] = {}
    for name, tensor in model.state_dict().items():
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        found.setdefault(where, []).append(name)
    return {names[0]: names for names in found.values()}


def unique(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a save must contain."""
    tensors = model.state_dict()
    return {name: tensors[name] for name in first_names(model)}


def ties_of(model: nn.Module) -> list[list[str]]:
    """Return the names of each object that has several."""
    found: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def load(path: Path, model: nn.Module, **options: Any) -> LoadReport:
    """Load; any warning except that about NaN and Inf is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*with NaN or Inf")
        return load_checkpoint(path, model, **options)


def load_and_listen(path: Path, model: nn.Module, **options: Any) -> LoadReport:
    """Load a checkpoint that does not fit; exactly that must be reported."""
    with pytest.warns(UserWarning) as said:
        report = load_checkpoint(path, model, **options)
    assert [str(warning.message) for warning in said] == report.problems()
    return report


@contextmanager
def two_directories() -> Iterator[tuple[Path, Path]]:
    """Yield two new directories for one example of a property test."""
    with TemporaryDirectory() as place:
        directories = (Path(place) / "one", Path(place) / "two")
        for directory in directories:
            directory.mkdir()
        yield directories


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def few(examples: int) -> settings:
    return settings(max_examples=examples)


# --- save and load ---------------------------------------------------------------------------------------------------


@given(plans(), SEEDS, st.booleans(), LIMITS)
@few(50)
def test_module_round_trips_bit_for_bit(plan: Plan, seed: int, safetensors: bool, limit: int | str) -> None:
    model, other = build(plan, seed), build(writable(plan), seed + 1)
    left_alone = unsaved(other)
    with two_directories() as (directory, _):
        saved = save_checkpoint(directory, model, safetensors=safetensors, max_shard_size=limit)
        report = load(directory, other, verify_checksums=True)
        assert state(other) == state(model)
        assert unsaved(other) == left_alone
        assert report.complete
        assert sorted(report.loaded) == sorted(model.state_dict())
        assert report.non_finite is not None
        assert sorted(report.non_finite) == sorted(
            name
            for name, tensor in unique(model).items()
            if tensor.is_floating_point() and not tensor.double().isfinite().all()
        )
        assert report.verified == tuple(sorted(name for name in saved.files if not name.endswith(".json")))
        assert report.unverified == ()


@given(plans(), SEEDS, st.booleans(), LIMITS)
@few(40)
def test_files_match_their_index(plan: Plan, seed: int, safetensors: bool, limit: int | str) -> None:
    model = build(plan, seed)
    expected = unique(model)
    with two_directories() as directories:
        for directory in directories:
            saved = save_checkpoint(directory, model, safetensors=safetensors, max_shard_size=limit)
        one, two = (contents(directory) for directory in directories)
        assert one == two
        assert sorted(one) == sorted(saved.files)
        single = "model.safetensors" if safetensors else "pytorch_model.bin"
        if single in one:
            manifest, covered = manifest_of(one[single])
            index = {"metadata": manifest, "weight_map": dict.fromkeys(expected, single)}
        else:
            index, covered = json.loads(one[f"{single}.index.json"]), b""
        shards = {name: data for name, data in one.items() if not name.endswith(".json")}
        assert index["weight_map"].keys() == expected.keys()
        assert set(index["weight_map"].values()) == shards.keys()
        assert index["metadata"]["total_size"] == saved.bytes == sum(t.nbytes for t in expected.values())
        assert saved.tensors == len(expected)
        whole = {name: covered or data for name, data in shards.items()}
        checksums = {name: f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}" for name, data in whole.items()}
        assert index["metadata"]["checksums"] == saved.checksums == checksums
        for shard in shards:
            names = [name for name, file in index["weight_map"].items() if file == shard]
            size = sum(expected[name].nbytes for name in names)
            assert limit == "5GB" or size <= int(limit) or len(names) == 1
            found = by_the_library(directories[0] / shard)
            assert {name: exact(tensor) for name, tensor in found.items()} == {n: exact(expected[n]) for n in names}
            for tensor in found.values():
                assert tensor.untyped_storage().nbytes() == tensor.nbytes  # not a view of a larger tensor


@pytest.mark.parametrize(("limit", "shards"), [(15, 4), (16, 4), (31, 4), (32, 2), (63, 2), (64, 1), ("5GB", 1)])
def test_a_shard_is_filled_up_to_the_limit(tmp_path: Path, limit: int | str, shards: int) -> None:
    leaves = [Leaf(f"{n}.weight", "parameter", torch.float32, (4,), "plain") for n in range(4)]
    saved = save_checkpoint(tmp_path, build(Plan(tuple(leaves), (), twice=False), 0), max_shard_size=limit)
    assert len(saved.files) == shards + (shards > 1)


def manifest_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the manifest in a file, and the bytes that its checksum covers, in order."""
    if data.startswith(b"PK"):
        comment = zipfile.ZipFile(io.BytesIO(data)).comment
        manifest = json.loads(comment)
        parts = [data[: -2 - len(comment)], b"\0\0", len(comment).to_bytes(2, "little"), comment]
    else:
        start = 8 + int.from_bytes(data[:8], "little")
        manifest = json.loads(json.loads(data[8:start])["__metadata__"]["forgather"])
        parts = [data[start:], data[:start]]
    (checksum,) = manifest["checksums"].values()
    blank = parts[-1].replace(checksum.encode(), b"_" * len(checksum))
    return manifest, b"".join([*parts[:-1], blank])


def by_the_library(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


@given(st.data(), st.sampled_from([dtype for dtype in FLOATS + OTHERS if not dtype.is_complex]), SEEDS, LIMITS)
@few(30)
def test_safetensors_file_of_one_dtype_equals_the_librarys_except_for_padding(
    data: st.DataObject, dtype: torch.dtype, seed: int, limit: int | str
) -> None:
    """The header is padded with spaces, so that the data begins at a multiple of 64 bytes."""

    def parts(file: bytes) -> tuple[bytes, bytes]:
        start = 8 + int.from_bytes(file[:8], "little")
        return file[8:start].rstrip(b" "), file[start:]

    model = build(data.draw(plans(dtypes=[dtype])), seed)
    tensors = {name: tensor.contiguous().clone() for name, tensor in unique(model).items()}
    with two_directories() as (directory, _):
        save_checkpoint(directory, model, safetensors=True, max_shard_size=limit)
        index = directory / "model.safetensors.index.json"
        weight_map = dict.fromkeys(tensors, "model.safetensors")
        if index.exists():
            weight_map = json.loads(index.read_bytes())["weight_map"]
        for shard in set(weight_map.values()):
            of_it = {name: tensors[name] for name, file in weight_map.items() if file == shard}
            file = (directory / shard).read_bytes()
            header, values = parts(save(of_it, metadata={"format": "pt"}))
            if not index.exists():
                text = json.dumps(json.loads(parts(file)[0])["__metadata__"], separators=(",", ":"))
                header = header.replace(b'{"format":"pt"}', text.encode(), 1)
            assert parts(file) == (header, values)
            assert (8 + int.from_bytes(file[:8], "little")) % 64 == 0


FORMATS = st.fixed_dictionaries({"safetensors": st.booleans(), "max_shard_size": LIMITS})
FOREIGN = {"notes.txt": b"mine", "adapter_model.safetensors": b"mine too"}


@given(plans(), FORMATS, plans(), FORMATS, SEEDS)
@few(30)
def test_second_save_keeps_its_own_files_and_foreign_files(
    first: Plan, then: dict[str, Any], second: Plan, now: dict[str, Any], seed: int
) -> None:
    model, other = build(second, seed), build(writable(second), seed + 1)
    with two_directories() as (directory, fresh):
        save_checkpoint(directory, build(first, seed), **then)
        for name, data in FOREIGN.items():
            (directory / name).write_bytes(data)
        saved = save_checkpoint(directory, model, **now)
        found = contents(directory)
        assert sorted(found) == sorted([*saved.files, *FOREIGN])
        assert found.items() >= FOREIGN.items()
        if then["safetensors"] != now["safetensors"]:
            save_checkpoint(fresh, model, **now)
            assert found == contents(fresh) | FOREIGN
        assert load(directory, other).complete
        assert state(other) == state(model)


@given(plans(ties=[]), SEEDS, st.booleans())
@few(30)
def test_file_of_another_program_round_trips(plan: Plan, seed: int, safe: bool) -> None:
    model, other = build(plan, seed), build(writable(plan), seed + 1)
    tensors = model.state_dict()
    with two_directories() as (directory, _):
        if safe:
            copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
            save_file(copies, directory / "model.safetensors")
        else:
            torch.save(tensors, directory / "pytorch_model.bin")  # views and all
        assert load(directory, other, strict=True).complete
        assert state(other) == state(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(
    ("shape", "value"), [((3, 4), 1.0), ((3, 4), torch.nan), ((0, 4), 1.0)], ids=["a number", "NaN", "nothing"]
)
@pytest.mark.parametrize("safe", [False, True], ids=["bin", "safetensors"])
def test_tied_tensor_that_was_saved_twice_loads_without_remarks(
    tmp_path: Path, safe: bool, shape: tuple[int, ...], value: float, dtype: torch.dtype
) -> None:
    leaf = Leaf("embed.weight", "parameter", dtype, shape, "plain")
    model, other = (build(Plan((leaf,), (Tie("head.weight", 0, "same object"),), twice=False), n) for n in range(2))
    model.get_parameter("embed.weight").data[:] = value
    if safe:
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    else:
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")  # one storage under two names
    assert load(tmp_path, other, strict=True).complete
    assert state(other) == state(model)


# --- into models that are laid out otherwise -------------------------------------------------------------------------


@given(plans(layouts=["plain"], ties=[]), st.data(), SEEDS, st.booleans())
@few(30)
def test_model_may_have_another_memory_layout(plan: Plan, data: st.DataObject, seed: int, safetensors: bool) -> None:
    leaves = tuple(replace(leaf, layout=data.draw(st.sampled_from(DENSE))) for leaf in plan.leaves)
    model, other = build(plan, seed), build(replace(plan, leaves=leaves), seed + 1)
    strides = {name: tensor.stride() for name, tensor in other.state_dict().items()}
    with two_directories() as (directory, _):
        save_checkpoint(directory, model, safetensors=safetensors)
        assert load(directory, other).complete
        assert state(other) == state(model)
        assert {name: tensor.stride() for name, tensor in other.state_dict().items()} == strides


@given(plans(layouts=DENSE, ties=[], dtypes=FLOATS), st.data(), SEEDS, st.booleans(), st.sampled_from([8, 16, 40]))
@few(30)
def test_piece_boundaries_do_not_matter(
    plan: Plan, data: st.DataObject, seed: int, safetensors: bool, size: int
) -> None:
    leaves = tuple(replace(leaf, dtype=data.draw(st.sampled_from(FLOATS))) for leaf in plan.leaves)
    model, whole, pieces = build(plan, seed), *(build(replace(plan, leaves=leaves), seed + n) for n in (1, 2))
    with two_directories() as (directory, _), pytest.MonkeyPatch.context() as patch:
        save_checkpoint(directory, model, safetensors=safetensors)
        before = contents(directory)
        load(directory, whole)
        for limit, value in {
            "read.copying._CHUNK": size,
            "read.copying.CACHE_BLOCK_BYTES": 16,
            "read.reader._CHUNK": size - 1,
            "write.weight_stream._CHUNK": size - 1,
            "write.weight_stream._SMALL": 20,
        }.items():
            patch.setattr(f"forgather_core.checkpoint.{limit}", value)
        patch.setattr(torch, "get_num_threads", lambda: 3)
        load(directory, pieces, verify_checksums=True)
        save_checkpoint(directory, model, safetensors=not safetensors)
        save_checkpoint(directory, model, safetensors=safetensors)
        assert contents(directory) == before
    for name, tensor in pieces.state_dict().items():
        for expected in (whole.state_dict()[name], model.state_dict()[name].to(tensor.dtype)):
            assert raw(without_payloads(tensor)) == raw(without_payloads(expected))


def without_payloads(tensor: Tensor) -> Tensor:
    """Return the values with a canonical NaN: conversions do not preserve the bits of a NaN."""
    return tensor.double().masked_fill(tensor.double().isnan(), torch.nan)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("safetensors", [False, True])
def test_buffer_with_repeated_elements_is_filled(tmp_path: Path, safetensors: bool, assign: bool) -> None:
    plan = Plan((Leaf("running_mean", "buffer", torch.float32, (3, 4), "expanded"),), (), twice=False)
    model, other = build(plan, 0), build(plan, 1)
    save_checkpoint(tmp_path, model, safetensors=safetensors)
    assert load(tmp_path, other, assign=assign).complete
    assert state(other) == state(model)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("view", ["conjugate", "imaginary part of the conjugate"])
def test_lazily_negated_values(tmp_path: Path, view: str, assign: bool) -> None:
    """The memory of such a view differs from its values."""

    def made(seed: int) -> nn.Module:
        values = torch.randn(3, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed)).conj()
        module = nn.Module()
        module.register_buffer("phase", values if view == "conjugate" else values.imag)
        return module

    model, other = made(0), made(1)
    save_checkpoint(tmp_path, model, safetensors=True)
    assert exact(load_file(next(tmp_path.glob("*.safetensors")))["phase"]) == exact(model.phase)
    assert load(tmp_path, other, assign=assign).complete
    assert state(other) == state(model)


@given(plans(dtypes=[torch.float32], layouts=DENSE), SEEDS, st.booleans(), st.booleans())
@few(30)
def test_float32_is_converted_to_bfloat16(plan: Plan, seed: int, safetensors: bool, assign: bool) -> None:
    low = replace(plan, leaves=tuple(replace(leaf, dtype=torch.bfloat16) for leaf in plan.leaves))
    model, other = build(plan, seed), build(low, seed + 1)
    with two_directories() as (directory, _):
        save_checkpoint(directory, model, safetensors=safetensors)
        report = load(directory, other, assign=assign)
    assert report.complete
    for name, tensor in other.state_dict().items():
        assert raw(without_payloads(tensor)) == raw(without_payloads(model.state_dict()[name].to(torch.bfloat16)))
    if not assign:  # a large number may round to an infinity
        finite = {name for name, tensor in other.state_dict().items() if tensor.isfinite().all()}
        assert set(report.non_finite or ()) == unique(model).keys() - finite


# --- without copying -------------------------------------------------------------------------------------------------


def mapped_from(directory: Path) -> list[tuple[int, int]]:
    """Return start and end of the memory of this process that maps files of the directory."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(f"{directory}/"):
            begin, end = (int(text, 16) for text in fields[0].split("-"))
            found.append((begin, end))
    return found


COLUMN = Plan((Leaf("weight", "parameter", torch.float32, (1, 2), "transposed"),), (), twice=False)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@example(COLUMN, 0, False, "5GB")  # contiguous, with a stride that has no effect
@given(plans(), SEEDS, st.booleans(), LIMITS)
@few(30)
def test_assigned_parameters_are_pages_of_the_file(plan: Plan, seed: int, safetensors: bool, limit: int | str) -> None:
    model, other = build(plan, seed), build(writable(plan), seed + 1)
    objects = {name: id(parameter) for name, parameter in other.named_parameters(remove_duplicate=False)}
    with two_directories() as (directory, _):
        save_checkpoint(directory, model, safetensors=safetensors, max_shard_size=limit)
        before = contents(directory)
        report = load(directory, other, assign=True)
        assert state(other) == state(model)
        assert report.complete
        assert report.non_finite is None  # not checked
        assert {name: id(p) for name, p in other.named_parameters(remove_duplicate=False)} == objects
        live = other.state_dict(keep_vars=True)
        for names in ties_of(model):
            assert len({id(live[name]) for name in names}) == 1
        maps = mapped_from(directory.resolve())
        for name, tensor in other.state_dict().items():
            at, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
            assert not tensor.numel() or any(begin <= at and end <= close for begin, close in maps), name
        for names in first_names(model).values():
            assert len({other.state_dict()[name].data_ptr() for name in names}) == 1
        shutil.rmtree(directory)
        assert state(other) == state(model)
        directory.mkdir()
        save_checkpoint(directory, model, safetensors=safetensors, max_shard_size=limit)
        load(directory, other, assign=True)
        for tensor in other.state_dict().values():
            tensor.zero_()
        assert contents(directory) == before


# --- from meta -------------------------------------------------------------------------------------------------------


@given(
    plans(layouts=["plain", "transposed"], ties=["same object"], kinds=("parameter", "buffer")),
    SEEDS,
    st.booleans(),
    st.booleans(),
)
@few(40)
def test_module_on_meta_is_allocated_and_keeps_its_ties(plan: Plan, seed: int, safetensors: bool, assign: bool) -> None:
    model, empty = build(plan, seed), build(plan, seed, device="meta")
    trained = {name: p.requires_grad for name, p in empty.named_parameters(remove_duplicate=False)}
    with two_directories() as (directory, _):
        save_checkpoint(directory, model, safetensors=safetensors)
        report = load(directory, empty, device="cpu", assign=assign)
        assert report.complete
        assert state(empty) == state(model)
    assert ties_of(empty) == ties_of(model)
    assert {name: p.requires_grad for name, p in empty.named_parameters(remove_duplicate=False)} == trained
    assert all(isinstance(p, nn.Parameter) for p in empty.parameters())


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("why", ["missing", "computed"])
def test_incomplete_load_leaves_a_module_on_meta(tmp_path: Path, why: str, assign: bool) -> None:
    leaf = Leaf("weight", "parameter", torch.float32, (2,), "plain")
    more = replace(leaf, name="scale", kind="parameter" if why == "missing" else "unsaved")
    save_checkpoint(tmp_path, build(Plan((leaf,), (), twice=False), 0))
    empty = build(Plan((leaf, more), (), twice=False), 0, device="meta")
    with pytest.raises(CheckpointError, match=f"'scale' is on the meta device and {why}.*: build the model on cpu"):
        load_checkpoint(tmp_path, empty, device="cpu", assign=assign)
    assert all(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])


# --- what does not fit -----------------------------------------------------------------------------------------------


@given(
    plans(layouts=DENSE, ties=[]),
    SEEDS,
    st.data(),
    st.sampled_from(["missing", "unexpected", "other shape"]),
    st.booleans(),
)
@few(40)
def test_mismatches_are_reported_and_strict_refuses_them_before_any_change(
    plan: Plan, seed: int, data: st.DataObject, what: str, assign: bool
) -> None:
    saved = [leaf for leaf in plan.leaves if leaf.kind != "unsaved"]
    assume(len(saved) > 1)
    odd = data.draw(st.sampled_from(saved))
    assume(not is_scale(odd, saved))
    wider = replace(plan, leaves=tuple(replace(x, shape=(*x.shape, 2)) if x is odd else x for x in plan.leaves))
    without = replace(plan, leaves=tuple(leaf for leaf in plan.leaves if leaf is not odd))
    there, here = {"missing": (without, plan), "unexpected": (plan, without), "other shape": (wider, plan)}[what]
    model, other = build(there, seed), build(here, seed + 1)
    before, left_alone, places = state(other), unsaved(other), addresses(other)
    with two_directories() as (directory, _):
        save_checkpoint(directory, model)
        with pytest.raises(CheckpointError, match="nothing was loaded") as refused:
            load(directory, other, strict=True, assign=assign)
        assert odd.name in str(refused.value)
        assert (state(other), unsaved(other), addresses(other)) == (before, left_alone, places)
        if what == "other shape":
            with pytest.raises(CheckpointError, match="ignore_mismatched_sizes"):
                load(directory, other, assign=assign)
            assert (state(other), unsaved(other), addresses(other)) == (before, left_alone, places)
        report = load_and_listen(directory, other, ignore_mismatched_sizes=True, assign=assign)
    assert [item.name for item in report.missing] == ([odd.name] if what == "missing" else [])
    assert list(report.unexpected) == ([odd.name] if what == "unexpected" else [])
    assert [(item.name, item.stored, item.model) for item in report.other_shape] == (
        [(odd.name, (*odd.shape, 2), odd.shape)] if what == "other shape" else []
    )
    assert not report.complete
    expected = {name: value for name, value in state(model).items() if name != odd.name}
    assert state(other) == expected | ({} if what == "unexpected" else {odd.name: before[odd.name]})


def is_scale(leaf: Leaf, others: list[Leaf]) -> bool:
    """Return whether a leaf has the name of the scale of an 8-bit weight: such files are quantized (test_fp8.py)."""
    stem, _, name = leaf.name.rpartition("scale")
    weights = {other.name for other in others if other.dtype.itemsize == 1}
    return not name and f"{stem}weight" in weights


def addresses(model: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}


@given(st.lists(st.sampled_from("abcdefghijklm"), min_size=6, unique=True).map("".join), st.data(), SEEDS)
@few(20)
def test_missing_tensor_is_reported_with_the_most_similar_name(name: str, data: st.DataObject, seed: int) -> None:
    cut = data.draw(st.integers(0, len(name) - 1))
    near, far = name[:cut] + name[cut + 1 :], "nopqrstuvwxyz"
    plain = Leaf("", "parameter", torch.float32, (2,), "plain")

    def made(*names: str) -> nn.Module:
        return build(Plan(tuple(replace(plain, name=f"layers.{one}") for one in names), (), twice=False), seed)

    with two_directories() as (directory, _):
        save_checkpoint(directory, made(near, "scale", "wzyxyzw"))
        report = load_and_listen(directory, made(name, "scale", far))
    hints = {item.name: item.hint for item in report.missing}
    assert hints == {f"layers.{name}": f"the checkpoint has layers.{near}", f"layers.{far}": None}


# --- at the edges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("safetensors", [False, True])
def test_module_without_tensors_does_not_replace_a_checkpoint(tmp_path: Path, safetensors: bool) -> None:
    """It may be refused, but the directory must still load."""
    model = nn.Linear(2, 3)
    save_checkpoint(tmp_path, model, safetensors=safetensors)
    with suppress(CheckpointError):
        save_checkpoint(tmp_path, nn.Module(), safetensors=safetensors)
        assert load(tmp_path, nn.Module()).complete
        return
    assert load(tmp_path, nn.Linear(2, 3)).complete


def test_one_memory_viewed_as_two_dtypes_is_two_tensors(tmp_path: Path) -> None:
    for safetensors in (False, True):
        models = [nn.Linear(2, 3), nn.Linear(2, 3)]
        for model in models:
            model.register_buffer("bits", model.weight.detach().view(torch.int32))
        save_checkpoint(tmp_path, models[0], safetensors=safetensors)
        assert load(tmp_path, models[1]).complete
        assert state(models[1]) == state(models[0])


def test_name_reserved_by_safetensors_is_refused(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_buffer("__metadata__", torch.ones(2))
    save_checkpoint(tmp_path, model)
    with pytest.raises(CheckpointError, match="__metadata__"):
        save_checkpoint(tmp_path, model, safetensors=True)
    assert load(tmp_path, model).complete

"""Device files: the shipped one, valid and invalid user files."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.errors import ConfigurationError
from forgather_core.estimate.devices import load_devices


def test_every_shipped_device_is_complete_and_has_a_source() -> None:
    devices = load_devices()
    assert [d.memory for d in devices] == sorted(d.memory for d in devices)
    for device in devices:
        assert device.source is not None
        assert device.source.startswith("https://")
        assert device.bandwidth is not None
        fp32, bf16 = device.flops_in("fp32"), device.flops_in("bf16")
        assert fp32 is not None
        assert bf16 is not None
        assert bf16 > fp32
        assert device.flops_in("mixed") == bf16
        assert device.node is not None
        assert device.link is not None
        assert (device.network is None) == (device.node_source is None)
        assert device.network is None or device.network < device.link
    h100 = next(d for d in devices if d.name.startswith("H100"))
    assert h100.flops_in("bf16") == 989e12
    assert h100.bandwidth == 3350e9
    assert (h100.node, h100.link, h100.network) == (8, 450e9, 50e9)


def test_a_user_file_replaces_the_shipped_devices(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text("Mine: {memory: 0.5, flops: {bf16: 10}}\n")
    (mine,) = load_devices(file)
    assert (mine.name, mine.memory, mine.bandwidth, mine.source) == ("Mine", 2**29, None, None)
    assert mine.flops_in("fp32") is None
    assert mine.node is mine.link is mine.network is mine.node_source is None
    assert mine.flops_in("mixed") == 1e13


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a mapping from device names"),
        ("- a", "expected a mapping from device names"),
        ("Mine: 5", "1:1: Mine: expected a mapping with memory, bandwidth and flops"),
        (
            "\nMine: {memory: 1, memroy: 2}",
            "2:1: Mine: unknown key 'memroy'; use bandwidth, flops, link, memory, network, node, node_source, source",
        ),
        ("Mine: {bandwidth: 1}", "memory is missing"),
        ("Mine: {memory: -1}", "memory must be a number above zero, got '-1'"),
        ("Mine: {memory: big}", "memory must be a number above zero, got 'big'"),
        ("Mine: {memory: .inf}", "memory must be a number above zero, got 'inf'"),
        ("Mine: {memory: true}", "memory must be a number above zero, got 'True'"),
        ("Mine: {memory: 1, bandwidth: 0}", "bandwidth must be a number above zero, got '0'"),
        ("Mine: {memory: 1, flops: 5}", "flops must be a mapping with fp32 and bf16"),
        ("Mine: {memory: 1, flops: {fp8: 5}}", "flops must be a mapping with fp32 and bf16"),
        ("Mine: {memory: 1, flops: {bf16: fast}}", "flops of bf16 must be a number above zero, got 'fast'"),
        ("Mine: {memory: 1, link: 5}", "link and network require node"),
        ("Mine: {memory: 1, node: 8, link: fast}", "link must be a number above zero, got 'fast'"),
        ("Mine: {memory: 1, node: 1.5}", "node must be a whole number of devices, got '1.5'"),
        ("Mine: {memory: 1}\nMine: {memory: 2}", "Mine"),
        ("a: [", ""),
    ],
)
def test_an_invalid_file_is_refused_with_line_and_column(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load_devices(file)
    assert str(file) in str(error.value)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--hardware: .*none\.yaml cannot be read: No such file"):
        load_devices(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_devices(tmp_path / "binary.yaml")

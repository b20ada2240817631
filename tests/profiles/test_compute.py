"""Compute profiles: tables, interpolation, files and their errors."""

from __future__ import annotations

import json
import pickle
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProfileError
from distredge.model.signatures import Signature
from distredge.profiles.compute import (
    ComputeProfile,
    load_profile,
    shipped_profiles,
    user_profile_path,
    write_profile,
)
from distredge.profiles.schema import Board, Copy, Handling, Measured, Messages, Origin, ProfileFile, Runtime


def conv(rows: int = 56, channels: int = 64, kernel: int = 3, stride: int = 1, group: int = 1) -> Signature:
    """A convolution of as many input as output channels."""
    macs = rows * rows * channels * channels // group * kernel * kernel
    return Signature(
        op_type="Conv+Relu",
        in_shape=(channels, rows * stride, rows * stride),
        out_shape=(channels, rows, rows),
        kernel=(kernel, kernel),
        strides=(stride, stride),
        dilations=(1, 1),
        group=group,
        rows=rows,
        macs=macs,
        weight_bytes=4 * channels * channels // group * kernel * kernel,
        io_bytes=4 * channels * rows * rows * (1 + stride * stride),
        detail="00000000",
    )


def measured(rows: tuple[int, ...], median_s: tuple[float, ...], key: str = "") -> ComputeProfile:
    count = len(rows)
    entry = Measured(rows=rows, median_s=median_s, p95_s=median_s, spread=(0.0,) * count, repeats=(5,) * count)
    data = ProfileFile(
        name="bench",
        device=Board(name="bench"),
        runtime=Runtime(name="onnxruntime"),
        origin=Origin(kind="measured", date="2026-11-22"),
        operators={key or conv().key: entry},
    )
    return ComputeProfile(data, "bench.json")


def test_measured_rows_are_returned_as_measured_and_between_them_linearly() -> None:
    profile = measured((1, 4, 8, 56), (1.0, 4.0, 3.0, 30.0))
    table = profile.table_s(conv(), 56)
    assert table[[0, 1, 4, 8, 56]].tolist() == [0.0, 1.0, 4.0, 3.0, 30.0]
    assert table[2] == pytest.approx(2.0)
    assert table[6] == pytest.approx(3.5)
    assert profile.operator_s(conv(), 6) == table[6]


def test_rows_beyond_the_measured_go_on_with_the_last_slope() -> None:
    profile = measured((1, 10, 20), (1.0, 10.0, 30.0))
    assert profile.table_s(conv(), 60)[25] == pytest.approx(40.0)


def test_a_missing_operator_is_named_with_the_command_that_measures_it() -> None:
    profile = measured((1,), (1.0,))
    with pytest.raises(ProfileError, match=r"bench\.json.*64x28x28>64x28x28.*distredge profile run"):
        profile.operator_s(conv(rows=28), 3)
    assert not profile.covers(conv(rows=28))


@given(st.sampled_from(["nano", "pi3", "xavier", "tx2"]), st.integers(1, 60), st.sampled_from([1, 3, 5]))
def test_modelled_time_never_falls_with_rows(name: str, rows: int, kernel: int) -> None:
    table = load_profile(name).table_s(conv(rows=rows, kernel=kernel), rows)
    assert table.shape == (rows + 1,)
    assert table[0] == 0.0
    assert np.all(np.diff(table) >= 0)


def test_winograd_time_moves_in_tiles_of_rows() -> None:
    profile = load_profile("pi3")
    assert profile.data.coefficients is not None
    tile = profile.data.coefficients.tile_rows
    table = profile.table_s(conv(channels=512), 56)
    assert tile > 1
    within, across = np.diff(table)[1:tile], np.diff(table)[tile]
    assert across > 5 * within.max()


def test_modelled_profiles_say_so_and_name_their_sources() -> None:
    for name in shipped_profiles():
        profile = load_profile(name)
        assert not profile.measured
        assert profile.source.sources
        assert all(source.source and source.date for source in profile.source.sources)
        assert "odelled" in profile.source.note


def test_a_reduction_is_profiled_over_its_input_rows() -> None:
    pool = Signature("GlobalAveragePool", (64, 56, 56), (64, 1, 1), (), (), (), 1, 1, 0, 0, 4 * 64 * 57 * 56, "0")
    table = load_profile("pi3").table_s(pool, 56)
    assert table[56] > 5 * table[1] > 0


def test_a_profile_survives_its_file_and_pickling(tmp_path: Path) -> None:
    for profile in (measured((1, 4), (1e-3, 2.5e-3)), load_profile("nano")):
        path = tmp_path / f"{profile.name}.json"
        profile.save(path)
        assert ComputeProfile.load(path) == profile
        assert pickle.loads(pickle.dumps(profile)) == profile  # noqa: S301
        assert load_profile(path) == load_profile(str(path)) == profile


def test_profiles_with_the_same_content_are_equal_and_hash_alike() -> None:
    assert load_profile("nano") == load_profile("default:nano")
    assert hash(load_profile("nano")) == hash(load_profile("default:nano"))
    assert load_profile("nano") != load_profile("tx2")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["copy", "fixed_s"], "much", r"p\.json: copy\.fixed_s: found 'much', accepted: float"),
        (["copy", "fixed_s"], -1, r"p\.json: copy\.fixed_s: found -1, accepted: float >= 0"),
        (["copy", "fixd_s"], 1, r"p\.json: copy\.fixd_s: unknown key; did you mean 'fixed_s'\?"),
        (["runtime", "precision"], "float8", r"p\.json: runtime\.precision: found 'float8', accepted: .*'float16'"),
        (["format"], "distredge.profile/9", r"p\.json: format: found 'distredge.profile/9', accepted: .*profile/1"),
        (["device"], None, r"p\.json: device"),
        (["operators", "KEY", "rows"], [4, 1], r"p\.json: operators\.Conv.*: rows must ascend"),
        (["operators", "KEY", "rows"], [1], r"p\.json: operators\.Conv.*: median_s has 2 entries, rows has 1"),
        (["operators", "KEY", "median_s"], [1, "x"], r"p\.json: operators\.Conv.*\.median_s\[1\]: found 'x'"),
        (["operators"], None, r"p\.json: a measured profile has 'operators'"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, path: list[str], value: object, message: str) -> None:
    profile = measured((1, 4), (1e-3, 2.5e-3))
    data = json.loads(msgspec.json.encode(profile.data))
    place = data
    for step in path[:-1]:
        place = place[conv().key if step == "KEY" else step]
    place[path[-1]] = value
    target = tmp_path / "p.json"
    target.write_text(json.dumps(data))
    with pytest.raises(ProfileError, match=message):
        load_profile(target)


@pytest.mark.parametrize("text", ["", "{", '{"format": NaN}', "[]", "\xff"])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    target = tmp_path / "p.json"
    target.write_text(text)
    with pytest.raises(ProfileError, match=r"p\.json"):
        load_profile(target)


def test_unknown_names_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="did you mean 'default:nano'"):
        load_profile("nanoo")
    with pytest.raises(ProfileError, match="cannot be read: No such file"):
        load_profile(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(ProfileError, match="cannot be written"):
        load_profile("nano").save(tmp_path / "file" / "p.json")


def test_this_machine_is_the_users_measured_profile_once_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert not load_profile("this-machine").measured
    profile = measured((1, 4), (1e-3, 2.5e-3))
    profile.save(user_profile_path())
    assert load_profile("this-machine") == profile


def test_a_profile_without_message_costs_has_those_of_copies_and_encryption(tmp_path: Path) -> None:
    text = json.loads((resources.files("distredge.profiles.data") / "distredge-paper-nano.json").read_bytes())
    text["device"].pop("cores", None)
    assert "messages" not in text
    path = tmp_path / "old.json"
    path.write_text(json.dumps(text))
    profile = ComputeProfile.load(path)
    assert profile.board.cores is None
    for end in (profile.messages.send, profile.messages.receive):
        assert (end.own.fixed_s, end.own.s_per_byte) == (profile.copy_fixed_s, profile.copy_s_per_byte)
        assert end.io == Copy()
        assert end.io_encrypted == Copy(s_per_byte=profile.encrypt_s_per_byte)


def test_message_costs_are_kept_in_the_file(tmp_path: Path) -> None:
    end = Handling(own=Copy(fixed_s=1e-4, s_per_byte=1e-10), io=Copy(fixed_s=2e-5))
    messages = Messages(send=end, receive=end, compress_s_per_byte=2e-10, source="here")
    data = msgspec.structs.replace(measured((1, 2), (1.0, 2.0)).data, messages=messages)
    write_profile(data, tmp_path / "p.json")
    assert ComputeProfile.load(tmp_path / "p.json").messages == messages


def test_below_the_fewest_measured_rows_times_fall_to_nothing() -> None:
    # As in a profile whose measuring was broken off: 14 of 56 rows do not cost what 56 do.
    table = measured((56,), (28.0,)).table_s(conv(), 56)
    assert table[[0, 14, 28, 56]].tolist() == pytest.approx([0.0, 7.0, 14.0, 28.0])

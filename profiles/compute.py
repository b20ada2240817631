"""Compute profiles: how long a board takes for so many rows of an operator.

A measured profile is a table; between measured row counts it is interpolated piecewise linearly, so that staircases
and spots where more rows take less time survive. A modelled one computes the same from published figures and says so.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from distredge.checked_reading import decode_json, read_bytes
from distredge.errors import ProfileError, did_you_mean
from distredge.folders import user_folder
from distredge.model.signatures import Signature
from distredge.profiles.modelled import modelled_s, profile_rows
from distredge.profiles.schema import Board, Copy, Handling, Measured, Messages, Origin, Pictures, ProfileFile, Runtime
from distredge.writing import write

THIS_MACHINE = "this-machine"
SETS = ("default", "distredge-paper")

PICTURES = Pictures(
    s_per_pixel=6.9e-9,
    s_per_input_pixel=5.1e-9,
    source="assumed: measured by profiles.measuring.pictures on one core of a virtual machine, AMD EPYC (Zen 5)",
)
"""What a profile that says nothing of pictures is taken to have, by how much slower its processor packs rows."""

_PICTURES_COMPRESS_S_PER_BYTE = 2.0e-10
"""`messages.compress_s_per_byte` of that core: the one figure of every profile that says how fast a core is."""

_PICTURES_SLOWER = 6.0
"""How much slower a processor is of which not even that is known: a Raspberry Pi 4's by the same figure."""


@dataclass(frozen=True, eq=False)
class ComputeProfile:
    """What a board computes how fast.

    Args:
        data: the file's content.
        where: the file or the name it was loaded by, for messages.
    """

    data: ProfileFile
    where: str = ""
    _tables: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComputeProfile) and self.data == other.data

    def __hash__(self) -> int:
        return hash((self.data.name, self.data.origin, self.data.device, self.data.coefficients))

    def __getstate__(self) -> dict[str, object]:
        return {"data": self.data, "where": self.where, "_tables": {}}

    @property
    def name(self) -> str:
        """Name in cluster files and reports."""
        return self.data.name

    @property
    def board(self) -> Board:
        """The board and the state it was measured in."""
        return self.data.device

    @property
    def runtime(self) -> Runtime:
        """Engine, version, provider and precision."""
        return self.data.runtime

    @property
    def measured(self) -> bool:
        """Whether the times were measured on the board; modelled otherwise."""
        return self.data.origin.kind == "measured"

    @property
    def source(self) -> Origin:
        """How the profile came to be, with the source and date of its figures."""
        return self.data.origin

    @property
    def segment_factor(self) -> float:
        """Factor on the sum of a part's operators; see `segment_overhead_s`."""
        return self.data.segments.factor

    @property
    def segment_overhead_s(self) -> float:
        """A part takes segment_overhead_s + segment_factor * (sum of its operators) + segment_s_per_byte * bytes."""
        return self.data.segments.overhead_s

    @property
    def segment_s_per_byte(self) -> float:
        """Seconds for each byte that enters or leaves a part; see `segment_overhead_s`."""
        return self.data.segments.s_per_byte

    @property
    def copy_fixed_s(self) -> float:
        """Fixed part of packing or placing one message, each end."""
        return self.data.copy.fixed_s

    @property
    def copy_s_per_byte(self) -> float:
        """Packing or placing, each end."""
        return self.data.copy.s_per_byte

    @property
    def encrypt_s_per_byte(self) -> float:
        """Encryption or decryption, each end."""
        return self.data.encrypt_s_per_byte

    @property
    def messages(self) -> Messages:
        """What messages cost its processor; a profile without such figures has those of `copy` and encryption."""
        if self.data.messages is not None:
            return self.data.messages
        end = Handling(own=self.data.copy, io_encrypted=Copy(s_per_byte=self.data.encrypt_s_per_byte))
        return Messages(send=end, receive=end)

    @property
    def pictures(self) -> Pictures:
        """What a JPEG file costs its processor; a profile without such figures has those of `PICTURES`, scaled."""
        if self.data.pictures is not None:
            return self.data.pictures
        known = self.messages.compress_s_per_byte
        slower = known / _PICTURES_COMPRESS_S_PER_BYTE if known else _PICTURES_SLOWER
        return Pictures(
            s_per_pixel=slower * PICTURES.s_per_pixel,
            s_per_input_pixel=slower * PICTURES.s_per_input_pixel,
            source=f"{PICTURES.source}, taken {slower:.3g} times",
        )

    @property
    def memory_bytes(self) -> int | None:
        """Memory that a worker may use; None unknown."""
        return self.data.memory_bytes

    @property
    def idle_w(self) -> float | None:
        """Watts of the idle board; None unknown."""
        return self.data.power.idle_w if self.data.power else None

    @property
    def busy_w(self) -> float | None:
        """Watts of the computing board; None unknown."""
        return self.data.power.busy_w if self.data.power else None

    def covers(self, signature: Signature) -> bool:
        """Whether it can say what an operator costs."""
        return self.data.operators is None or signature.key in self.data.operators

    def operator_s(self, signature: Signature, rows: int) -> float:
        """Returns the seconds of `rows` output rows, all columns, of an operator; 0 rows cost nothing.

        Raises:
            ProfileError: if a measured profile lacks the operator.
        """
        return float(self.table_s(signature, max(rows, profile_rows(signature)))[rows])

    def table_s(self, signature: Signature, max_rows: int) -> NDArray[np.float64]:
        """Returns the seconds of 0, 1, ... `max_rows` output rows of an operator (cached; do not write into it).

        Args:
            signature: the operator.
            max_rows: last row count wanted, >= 0; beyond the whole operator's rows the last slope goes on.

        Returns:
            (max_rows + 1,) float64, entry 0 is 0.

        Raises:
            ProfileError: if a measured profile lacks the operator.
        """
        table = self._tables.get(signature.key)
        if table is None or len(table) <= max_rows:
            table = self._compute(signature, max(max_rows, profile_rows(signature)))
            table.setflags(write=False)
            self._tables[signature.key] = table
        return table[: max_rows + 1]

    def _compute(self, signature: Signature, max_rows: int) -> NDArray[np.float64]:
        rows = np.arange(max_rows + 1, dtype=np.int64)
        if self.data.coefficients is not None:
            return modelled_s(self.data.coefficients, signature, rows)
        return interpolated(self._measured(signature), rows)

    def _measured(self, signature: Signature) -> Measured:
        operators = self.data.operators or {}
        entry = operators.get(signature.key)
        if entry is None:
            near = difflib.get_close_matches(signature.key, operators, n=1)
            hint = f" (nearest measured: '{near[0]}')" if near else ""
            raise ProfileError(
                f"profile '{self.where or self.name}' has no time for the operator '{signature.key}'{hint}; measure it "
                f"on that board with: distredge profile run --model MODEL --out {self.where or self.name}"
            )
        return entry

    def save(self, path: str | Path) -> None:
        """Writes the profile; an existing file is replaced whole, never left half written."""
        write_profile(self.data, path)

    @classmethod
    def load(cls, path: str | Path) -> ComputeProfile:
        """Reads a profile file.

        Raises:
            ProfileError: naming file and field, when it is missing or wrong.
        """
        return cls(decode_json(read_bytes(path, ProfileError), ProfileFile, path, ProfileError), str(path))


def load_profile(path_or_name: str | Path) -> ComputeProfile:
    """Returns a profile by path or by name.

    Args:
        path_or_name: the path of a file; or the name of a shipped profile, "default:nano" or "nano" for short; or
            "this-machine": the measured profile that `distredge profile run` keeps for this computer, or, as long as
            there is none, a modelled x86-64 core that says so.

    Raises:
        ProfileError: if there is no such file or name, or the file is wrong.
    """
    text = str(path_or_name)
    if text == THIS_MACHINE:
        own = user_profile_path()
        return ComputeProfile.load(own) if own.is_file() else load_shipped(f"default:{THIS_MACHINE}")
    if text.endswith(".json") or os.sep in text:
        return ComputeProfile.load(path_or_name)
    return load_shipped(text if ":" in text else f"default:{text}")


def load_shipped(name: str) -> ComputeProfile:
    """Returns a shipped profile by its full name, as "default:nano"."""
    profile_set, _, board = name.partition(":")
    entry = resources.files("distredge.profiles.data") / f"{profile_set}-{board}.json"
    if not entry.is_file():
        known = shipped_profiles()
        raise ProfileError(f"there is no shipped profile '{name}'{did_you_mean(name, known)}; or give a file's path")
    return ComputeProfile(decode_json(entry.read_bytes(), ProfileFile, name, ProfileError), name)


def shipped_profiles() -> tuple[str, ...]:
    """Returns the names of the shipped profiles, as `set:board`."""
    data = resources.files("distredge.profiles.data")
    names = []
    for entry in data.iterdir():
        for profile_set in SETS:
            if entry.name.startswith(f"{profile_set}-") and entry.name.endswith(".json"):
                names.append(f"{profile_set}:{entry.name[len(profile_set) + 1 : -len('.json')]}")
    return tuple(sorted(names))


def user_profile_path() -> Path:
    """Returns where the measured profile of this machine is kept: `$XDG_DATA_HOME/distredge/this-machine.json`."""
    return user_folder("XDG_DATA_HOME", ".local", "share") / "distredge" / f"{THIS_MACHINE}.json"


def write_profile(data: ProfileFile, path: str | Path) -> None:
    """Writes a profile's content as JSON, one operator a line."""
    target = Path(path)
    text = msgspec.json.encode(_without_defaults(data))
    text = msgspec.json.format(text, indent=1) if data.operators is None else _one_operator_a_line(text)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target, text + b"\n")
    except OSError as reason:
        raise ProfileError(f"{path}: cannot be written: {reason.strerror or reason}") from None


def interpolated(entry: Measured, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns a measured operator's seconds: linear between measured row counts, the last slope beyond them.

    Below the fewest rows that were measured, which are one unless measuring was broken off, they fall to 0.

    Args:
        entry: the operator.
        rows: (n,) int64 output rows, ascending from 0.

    Returns:
        (n,) float64 seconds, entry 0 is 0.
    """
    known = np.asarray(entry.rows, dtype=np.float64)
    seconds = np.asarray(entry.median_s, dtype=np.float64)
    table: NDArray[np.float64] = np.interp(rows, [0.0, *known], [0.0, *seconds])
    beyond = rows > known[-1]
    if beyond.any():
        slope = (seconds[-1] - seconds[-2]) / (known[-1] - known[-2]) if len(known) > 1 else seconds[-1] / known[-1]
        table[beyond] = seconds[-1] + max(0.0, slope) * (rows[beyond] - known[-1])
    table[0] = 0.0
    return table


def _without_defaults(data: ProfileFile) -> dict[str, object]:
    return {name: value for name in data.__struct_fields__ if (value := getattr(data, name)) is not None}


def _one_operator_a_line(text: bytes) -> bytes:
    head, _, operators = text.partition(b'"operators":{')
    return head + b'\n"operators":{\n' + operators.replace(b'},"', b'},\n"')

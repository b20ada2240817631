"""The commands. They run nothing of the current folder, so it is left before they import anything else."""

from __future__ import annotations

from distredge.child_processes import leave_current_folder

leave_current_folder()

"""The main job from nothing: train on modelled boards, compare, deploy on local workers and emulated boards, stream.

Runs the commands that a user would type and shows them. Exits 0 only if the deployments' outputs equal the whole
model's to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from distredge.experiments.common.demo_on_testbed import BOARDS, RATE_BPS, show
from distredge.experiments.common.fidelity_strategies import photograph

BIN = Path(sys.executable).parent
CLUSTER, MODEL = "db-50", "vgg16"
DEPLOYED = "efficientnet-lite0"
ALLOWED = 1e-5
SECTIONS = 24


def run(*command: str) -> str:
    """Runs one of this environment's commands, prints it and what it says, and returns its standard output."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    result = subprocess.run([str(BIN / command[0]), *command[1:]], stdout=subprocess.PIPE, text=True, check=False)
    print(result.stdout, end="", flush=True)
    if result.returncode:
        sys.exit(f"demo: '{shlex.join(command)}' ended with exit code {result.returncode}")
    return result.stdout


def draw_sections(folder: Path) -> None:
    """Writes SECTIONS square JPEG pictures, each a section of a picture that matplotlib ships."""
    from PIL import Image

    sources = sorted(path for path in photograph().parent.iterdir() if path.suffix in (".jpg", ".png"))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SECTIONS):
        with Image.open(sources[number % len(sources)]) as opened:
            whole = opened.convert("RGB")
        size = min(whole.size) * 3 // 4
        left, top = ((whole.size[axis] - size) * number // SECTIONS for axis in (0, 1))
        section = whole.crop((left, top, left + size, top + size))
        section.save(folder / f"{number:02}-{sources[number % len(sources)].stem}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000, help="training episodes")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    options = parser.parse_args()

    print("1. Train an agent as the paper does: VGG-16 on two Xavier and two Nano at 50 Mbit/s (modelled, simulated)")
    said = run("train-agent", "--model", MODEL, "--cluster", CLUSTER, "--episodes", str(options.episodes),
               "--seed", "1", "--as-published", "-f", options.runs)  # fmt: skip
    trained = Path(next(line.split(maxsplit=1)[1] for line in said.splitlines() if line.startswith("strategy")))

    print("\n2. Compare it with the other methods on the same footing, also as published (simulated)")
    run("distredge", "compare", "--model", MODEL, "--cluster", CLUSTER, "--methods", "offload,deepthings,auto",
        "--as-published", "--strategy", str(trained), "--budget", "5")  # fmt: skip

    print(f"\n3. Deploy {DEPLOYED} on four worker processes of this machine, with a real photograph")
    run("distredge", "profile", "run", "--model", DEPLOYED, "--quick")
    strategy = str(Path(options.runs) / f"{DEPLOYED}_this-machine.json")
    run("distredge", "plan", "--model", DEPLOYED, "--cluster", "this-machine", "--method", "deepthings",
        "--out", strategy)  # fmt: skip
    timeline = str(Path(options.runs) / f"{DEPLOYED}_timeline.json")
    run("deploy-strategy", strategy, "--cluster", "this-machine", "--image", str(photograph()), "--check",
        "--repeat", "10", "--timeline", timeline)  # fmt: skip

    print(
        f"\n4. The same photograph on an emulated cluster: {BOARDS} boards of this machine's speed, each behind a link "
        f"of {RATE_BPS / 1e6:.0f} Mbit/s"
    )
    if not show(DEPLOYED) <= ALLOWED:
        sys.exit("demo: the output differs from the whole model's")

    print("\n5. A stream of pictures through the workers of this machine: sections of pictures that matplotlib ships")
    pictures, report = Path(options.runs) / "pictures", Path(options.runs) / "stream.json"
    draw_sections(pictures)
    run("deploy-strategy", strategy, "--cluster", "this-machine", "--images", str(pictures), "--in-flight", "4",
        "--out", str(Path(options.runs) / "stream.jsonl"), "--report", str(report))  # fmt: skip
    streamed = json.loads(report.read_text(encoding="utf-8"))
    if not (streamed["correct"] and streamed["done"] == SECTIONS and streamed["lost"] == 0):
        sys.exit(f"demo: {streamed['done']} of {SECTIONS} pictures came through: see {report}")

    print(f"\nTensorBoard:  tensorboard --logdir {trained.parent}")
    print(f"Timeline:     open {timeline} at https://ui.perfetto.dev")


if __name__ == "__main__":
    main()

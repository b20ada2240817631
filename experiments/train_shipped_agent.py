"""Trains the agent that is shipped: a network that plans any model on any cluster, in milliseconds.

    python experiments/train_shipped_agent.py --folder runs/shipped-agent
    python experiments/train_shipped_agent.py --folder runs/shipped-agent --rounds 5 --device cuda --ray-address auto
    python experiments/train_shipped_agent.py --quick           some minutes, to see that it works

1. Cases are drawn by seed (experiments/common/agent_cases.py) and labelled by short searches.
2. The network learns from the labels, the best mode taking all (experiments/common/agent_training.py).
3. Rounds of expert iteration: new cases are labelled by what the network proposes and some milliseconds of polish,
   known ones too where that is better than their label, and the network goes on learning from all of them. That ends
   when a round gains less than 0.1 % on the validation cases.

Validation cases are others, drawn alike, the same ones after every round, and never learned from. For each: images per
second of the best of the proposals as they are ("raw"), and after 5 ms of polish, over those of a search four times as
long as for labels.

Everything is written to the folder as it comes: validation.jsonl, labels-R.jsonl, network-R.pt, policy-R.onnx,
learned-R.json, curve.jsonl, sessions.jsonl; the same command goes on where it was stopped, and more rounds may be asked
for later, of other sizes too. `--install` ships the best policy and writes experiments/results/shipped_agent.json. Ends
with one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distredge.errors import DistredgeError, FileError
from distredge.experiments.common.agent_labels import (
    Label,
    drawn,
    proposed,
    ratios,
    read_labels,
    searched,
    write_label,
)
from distredge.experiments.common.agent_models import PREFIX
from distredge.experiments.common.agent_network import AgentNetwork, export
from distredge.experiments.common.agent_training import Example, batches, example, mean_loss, train_epoch
from distredge.experiments.common.agent_workers import spread
from distredge.experiments.common.records import RESULTS, append_line, today
from distredge.planners.agent.features import FEATURES, LAYOUT
from distredge.planners.agent.policy import SHIPPED
from distredge.processors import usable_cores
from distredge.writing import write

VALIDATION_SEEDS, VALIDATED, VALIDATION_TIMES = 900_000_000, 240, 4
"""First seed of validation cases, how many there are, and how much longer their search is."""

ROUND_SEEDS = 100_000
"""Seeds of each round's new cases begin so much higher than those of the one before."""

STOP_BELOW = 0.001
"""Gain of a round, on validation cases with 5 ms of polish, below which training ends."""

RECORD = RESULTS / "shipped_agent.json"
"""How the agent that is shipped came about."""

FIRST_RATE, LATER_RATE, DECAY = 1.5e-3, 7e-4, 0.01
"""Learning rates (AdamW, one cycle) of the first training and of those that go on, and the decay of weights."""


def main() -> int:
    options = _arguments()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    started_s = time.time()
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        curve, complete = _rounds(options)
        if complete and options.install:
            _install(options.folder, curve)
    except KeyboardInterrupt:
        _say("stopped: the same command goes on from here")
        curve, complete = list(_read_curve(options.folder).values()), False
    except (DistredgeError, OSError) as error:
        _say(f"train_shipped_agent: {error}")
        return 2
    finally:
        if options.folder.is_dir():
            session = {"arguments": sys.argv[1:], "date": today(), "seconds": time.time() - started_s}
            append_line(options.folder / "sessions.jsonl", json.dumps(session).encode())
    print(json.dumps({"rounds": curve, "seconds": time.time() - started_s, "complete": complete}))
    return 0 if complete else 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/shipped-agent"))
    parser.add_argument("--labels", type=_count, default=1000, help="cases labelled by searches at first")
    parser.add_argument("--cases", type=_count, default=4000, help="new cases in each round")
    parser.add_argument("--known", type=int, default=1000, help="known cases that each round looks at again")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of expert iteration at most")
    parser.add_argument("--old-share", type=float, default=1.0, help="share of older rounds' labels that a round keeps")
    parser.add_argument("--stop-below", type=float, default=STOP_BELOW, help="gain of a round below which it ends")
    parser.add_argument("--epochs", type=_count, default=24, help="epochs of the first training, half of that later")
    parser.add_argument("--search-s", type=float, default=0.3, help="seconds of a search")
    parser.add_argument("--polish-s", type=float, default=0.08, help="seconds of polish for a label")
    parser.add_argument("--workers", type=_count, help="processes that label, or tasks at a time; all cores by default")
    parser.add_argument("--ray-address", help="label on a Ray cluster instead, such as auto or ray://HOST:10001")
    parser.add_argument("--device", default="cpu", help="where the network learns: cpu or cuda")
    parser.add_argument("--threads", type=_count, default=usable_cores(), help="of torch")
    parser.add_argument("--seed", type=int, default=0, help="of the network and the order of examples")
    parser.add_argument("--install", action="store_true", help="ship the best policy")
    parser.add_argument("--quick", action="store_true", help="60 cases and two epochs, in a folder of its own")
    options = parser.parse_args()
    try:
        torch.zeros(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device: found {options.device}: {str(error).splitlines()[0]}")
    if options.quick and options.install:
        parser.error("--quick trains nothing that could be shipped: leave --install away")
    if options.quick:
        options.labels, options.cases, options.rounds, options.epochs = 40, 20, 1, 2
        options.folder = options.folder.with_name(options.folder.name + "-quick")
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _rounds(options: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Goes through all rounds; those that are done are only validated, and that only where the cases are others now."""
    folder: Path = options.folder
    held = _validation(folder, options)
    digest = hashlib.sha256(json.dumps([(label.seed, label.latency_s) for label in held]).encode()).hexdigest()[:16]
    known, done = _read_curve(folder), list[dict[str, Any]]()
    for number in range(options.rounds + 1):
        if len(done) > 2 and done[-1]["polished_mean"] - done[-2]["polished_mean"] < options.stop_below:
            _say(f"round {number - 1} gained less than {options.stop_below:.1%}: this is the end")
            break
        if known.get(number, {}).get("validation") != digest:
            known[number] = {**_round(folder, number, held, options), "validation": digest}
            lines = [json.dumps(line) + "\n" for _, line in sorted(known.items())]
            write(folder / "curve.jsonl", "".join(lines))
        done.append(known[number])
    return done, True


def _round(folder: Path, number: int, held: list[Label], options: argparse.Namespace) -> dict[str, Any]:
    """Labels, learns, validates; returns a line of the curve."""
    policy, said = folder / f"policy-{number}.onnx", folder / f"learned-{number}.json"
    if not (policy.exists() and said.exists()):
        before_s = time.time()
        labels = _label(folder, number, options)
        labelled_s = time.time()
        old = [label for label in labels if label.seed < number * ROUND_SEEDS]
        new = [label for label in labels if label.seed >= number * ROUND_SEEDS]
        chosen = random.Random(number).sample(old, round(options.old_share * len(old)))
        learned, known = _examples([*chosen, *new], options), _examples(held, options)
        network, losses = _learn(folder, number, learned, known, options)
        notes = {"features": f"{LAYOUT}:{FEATURES}", "round": str(number), "labels": str(len(learned))}
        export(network, policy, notes)
        told = {"labels": len(learned), "losses": losses, "label_s": labelled_s - before_s}
        said.write_text(json.dumps({**told, "learn_s": time.time() - labelled_s}))
    found = np.array(list(_over(partial(_validate, policy.read_bytes()), held, options, "validation", len(held))))
    line: dict[str, Any] = {
        "round": number, **json.loads(said.read_text()), "validation_cases": len(found),
        "raw_mean": float(found[:, 0].mean()), "raw_worst": float(found[:, 0].min()),
        "polished_mean": float(found[:, 1].mean()), "polished_worst": float(found[:, 1].min()),
    }  # fmt: skip
    _say(
        f"round {number}: {line['labels']} labels; on {len(found)} other cases {line['raw_mean']:.4f} of a search "
        f"(worst {line['raw_worst']:.3f}), polished {line['polished_mean']:.4f} ({line['polished_worst']:.3f})"
    )
    return line


def _validation(folder: Path, options: argparse.Namespace) -> list[Label]:
    """The validation cases, labelled by searches if they are not yet."""
    path, wanted = folder / "validation.jsonl", VALIDATED if not options.quick else 8
    made = {label.seed: label for label in read_labels(path)}
    job = partial(_searched, VALIDATION_TIMES * options.search_s)
    new = iter(range(max(made, default=VALIDATION_SEEDS - 1) + 1, 2 * VALIDATION_SEEDS))
    missing = wanted - len(made)
    for label in _until(_over(job, new, options, "validation cases", missing), missing):
        write_label(path, label)
        made[label.seed] = label
    return sorted(made.values(), key=lambda label: label.seed)[:wanted]


def _label(folder: Path, number: int, options: argparse.Namespace) -> list[Label]:
    """All labels, those of this round made first."""
    known = {label.seed: label for r in range(number) for label in read_labels(folder / f"labels-{r}.jsonl")}
    path = folder / f"labels-{number}.jsonl"
    made = {label.seed: label for label in read_labels(path)}
    if number == 0:
        wanted, job = options.labels - len(made), partial(_searched, options.search_s)
        new: Iterable[Any] = iter(range(max(made, default=-1) + 1, 10**9))
        for label in _until(_over(job, new, options, "searches", wanted), wanted):
            write_label(path, label)
            made[label.seed] = label
        return list(made.values())
    first = number * ROUND_SEEDS
    fresh = [seed for seed in made if seed >= first]
    job = partial(_proposed, (folder / f"policy-{number - 1}.onnx").read_bytes(), options.polish_s, f"round {number}")
    wanted = options.cases - len(fresh)
    new = ((seed, None) for seed in range(max(fresh, default=first - 1) + 1, 10**9))
    for label in _until(_over(job, new, options, f"round {number}, new cases", wanted), wanted):
        write_label(path, label)
        made[label.seed] = label
    again = random.Random(number).sample(sorted(known), min(options.known, len(known)))
    old = [(seed, known[seed]) for seed in again if seed not in made]
    for label in _over(job, old, options, f"round {number}, known cases", len(old)):
        if label is not None:
            write_label(path, label)
            made[label.seed] = label
    return list({**known, **made}.values())


def _examples(labels: Sequence[Label], options: argparse.Namespace) -> list[Example]:
    """Labels as arrays, in the order of their seeds; those that cannot be made are left out."""
    made = dict(_over(_example, labels, options, "reading cases", len(labels)))
    return [found for _, found in sorted(made.items()) if found is not None]


def _example(label: Label) -> tuple[int, Example | None]:
    return label.seed, example(label)


def _searched(seconds: float, seed: int) -> Label | None:
    return searched(seed, seconds)


def _proposed(policy: bytes, seconds: float, origin: str, item: tuple[int, Label | None]) -> Label | None:
    seed, known = item
    return proposed(seed, drawn(seed) if known is None else known.case, policy, seconds, origin, known)


def _validate(policy: bytes, label: Label) -> tuple[float, float]:
    return ratios(label, policy)


def _over(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    options: argparse.Namespace,
    what: str,
    total: int | None = None,
) -> Iterator[Any]:
    """Results of a function, with a progress bar."""
    return _shown(spread(function, items, options.workers, options.ray_address), what, total)


def _shown(items: Iterable[Any], what: str, total: int | None = None) -> Iterator[Any]:
    from tqdm import tqdm

    yield from tqdm(items, what, total, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)


def _until(labels: Iterator[Label | None], wanted: int) -> Iterator[Label]:
    """The labels that are there, until there are enough."""
    found = 0
    for label in labels if wanted > 0 else ():
        if label is not None:
            found += 1
            yield label
        if found >= wanted:
            return


def _learn(
    folder: Path, number: int, learned: list[Example], held: list[Example], options: argparse.Namespace
) -> tuple[AgentNetwork, list[tuple[float, float]]]:
    """Trains the network, from that of the round before; returns it, and the losses learned and held out."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng((options.seed, number))
    network, path = AgentNetwork(), folder / f"network-{number - 1}.pt"
    if number > 0:
        if not path.exists():
            raise FileError(f"{path}: no such file: round {number} goes on from there")
        network.load_state_dict(torch.load(path, weights_only=True))
    network.to(options.device)
    epochs = options.epochs if number == 0 else max(1, options.epochs // 2)
    steps = epochs * (sum(1 for _ in batches(learned, rng)) + 1)
    rate = FIRST_RATE if number == 0 else LATER_RATE
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=DECAY)
    # Batches are made anew each epoch, so that their number varies a little.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=int(1.05 * steps) + 10, pct_start=0.1)
    found = []
    for epoch in _shown(range(epochs), f"round {number}, epochs", epochs):
        loss = train_epoch(network, optimizer, schedule, learned, rng, options.device)
        found.append((loss, mean_loss(network, held, options.device)))
        _say(f"round {number}, epoch {epoch + 1} of {epochs}: loss {loss:.3f}, held out {found[-1][1]:.3f}")
    torch.save(network.state_dict(), folder / f"network-{number}.pt")
    return network, found


def _install(folder: Path, curve: list[dict[str, Any]]) -> None:
    """Ships the best policy, and says on record how it came about."""
    best = max(curve, key=lambda line: line["polished_mean"])
    shutil.copy(folder / f"policy-{best['round']}.onnx", SHIPPED)
    data = {}
    for path in (folder / "validation.jsonl", *(folder / f"labels-{line['round']}.jsonl" for line in curve)):
        found = read_labels(path)
        drawn_models = sum(label.case.model.startswith(PREFIX) for label in found)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        data[path.name] = {"labels": len(found), "of_drawn_models": drawn_models, "sha256": digest}
    sessions = folder / "sessions.jsonl"
    record = {
        "date": today(), "cores": usable_cores(), "shipped_round": best["round"],
        "sha256": hashlib.sha256(SHIPPED.read_bytes()).hexdigest(),
        "sessions": [json.loads(line) for line in sessions.read_text().splitlines()] if sessions.exists() else [],
        "data": data, "curve": curve,
    }  # fmt: skip
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


def _read_curve(folder: Path) -> dict[int, dict[str, Any]]:
    """Round -> its line; none if there is no file."""
    path = folder / "curve.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {line["round"]: line for line in lines}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

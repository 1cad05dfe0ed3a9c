"""What stands after kills, full disks, damage, ill-typed fields, odd command lines, and when two
commands write to one output: counts.

    python benchmarks/reliability.py --kills 600 --disks 99 --damages 1590 --fields 1624
    python benchmarks/reliability.py --lines 10000 --pairs 200 --stock 400

Every try is a function of the seed and its number. What was tried is kept in --work, so that the
same command goes on; more tries may be asked for later.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stock_tries
from evidence import markdown, put_table, write_experiment
from forked_commands import (
    Ended,
    fresh,
    import_all,
    listing,
    run_command,
    run_pair,
    small_disk,
    weights_digest,
)

FEW = ["--data.num-train", "64", "--data.num-test", "16"]
SHORT = [
    *FEW,
    "--run.keep-checkpoints",
    "3",
    "--run.max-steps",
    "6",
    "--run.checkpoint-every",
    "2",
    "--run.log-every",
    "1",
]
VERBS = {
    "train": ["train", "tiny", *SHORT, "-o", "out"],
    "sweep": ["sweep", "tiny", *FEW, "--run.max-steps", "2", "--grid",
              "objective.sparsity-weight=0", "-o", "out"],
    "analyze": ["analyze", "run", "--num-pictures", "16", "--num-curve", "8", "--num-search", "8",
                "--effort", "fast", "-o", "out"],
    "prune": ["prune", "run", "--keep", "0,1", "-o", "out"],
    "recover": ["recover", "small", "--teacher", "run", "--steps", "3", "--batch-size", "4",
                "--num-pictures", "16", "--checkpoint-every", "1", "--data.source", "photos",
                "--data.size", "16", *FEW, "-o", "out"],
    "export": ["export", "run", "-o", "out"],
    "sample": ["sample", "run", "--num", "4", "--steps", "2", "-o", "out"],
    "evaluate": ["evaluate", "run", "--evaluation.num-samples", "8"],
}  # fmt: skip
READERS = {
    "resume": ["resume", "half"],
    "evaluate": VERBS["evaluate"],
    "sample": VERBS["sample"],
    "prune": VERBS["prune"],
    "prune small": ["prune", "small", "--keep", "0", "-o", "out"],
    "prune by analysis": ["prune", "run", "--keep", "2", "--analysis", "analysis", "-o", "out"],
    "analyze": VERBS["analyze"],
    "diagnose": ["diagnose", "run", "--num-pictures", "8"],
    "report": ["report", "run", "-o", "out"],
    "describe": ["describe", "run"],
}
WRITERS = VERBS | {
    "resume": READERS["resume"],
    "diagnose": READERS["diagnose"],
    "report": READERS["report"],
    "compare": ["compare", "run", "--num-pictures", "8", "--num-samples", "8", "--steps", "2",
                "--num-prompts", "2", "--batch-sizes", "1", *FEW,
                "--data.source", "photos", "--data.size", "16", "-o", "out"],
    "prune over": [*VERBS["prune"][:-1], "small", "--overwrite"],
    "export over": [*VERBS["export"], "--overwrite"],
}  # fmt: skip
ODD = ("", "-1", "0", "nan", "inf", "1e400", "99999999999999999999", "None", "[]", "a b", "\udcff",
       "é", "'", "--", "-", "0,0", "1e-400", "true", "photos", "\x1b[2J", "run", "small", ".",
       "a" * 5000)  # fmt: skip
ILL = (None, "x", "", -1, 0, 1e308, True, [], {}, [[1]], {"a": 1}, 2**70, "\u0000", float("nan"))
KINDS = ("kills", "disks", "damages", "fields", "lines", "pairs", "stock")
FAULTS = ("traceback", "hang", "wrong", "leftover", "refused")


@dataclass(frozen=True)
class Whole:
    """How a verb ends that nothing disturbs."""

    ended: Ended
    files: list[str]
    """That it leaves, with those that were there before."""
    digest: str
    """Of what must be the same at every call."""
    largest: int
    """Bytes of the largest file."""


class Tries:
    """All tries of one seed, in a folder of their own.

    Args:
        work: Keeps what was tried.
        seed: Of all that is drawn.
    """

    def __init__(self, work: Path, seed: int):
        self.work, self.seed = work.resolve(), seed
        self.log = self.work / f"tries-{seed}.jsonl"
        self.home, self.place = self.work / "home", self.work / "tried" / "place"
        self.place.parent.mkdir(parents=True, exist_ok=True)
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.done = [json.loads(line) for line in lines]
        self.whole: dict[str, Whole] = {}

    def take(self, kind: str, num: int) -> None:
        """Try what was not tried yet of the first `num` of a kind."""
        known = {one["number"] for one in self.done if one["kind"] == kind}
        for number in range(num):
            if number in known:
                continue
            source = random.Random(f"{self.seed} {kind} {number}")
            found = getattr(self, f"_{kind}")(number, source)
            found = {"kind": kind, "number": number, **found}
            self.done.append(found)
            with self.log.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(kind, number, *found.values(), flush=True)  # noqa: T201

    def make_home(self) -> None:
        """A trained and evaluated run, an analysis and a pruned model of it, and a run that was
        interrupted; made once."""
        if (self.home / "small").exists():
            return
        self.home.mkdir(exist_ok=True)
        for words in (
            [*VERBS["train"][:-1], "run"],
            VERBS["evaluate"],
            [*VERBS["analyze"][:-1], "analysis"],
            [*VERBS["prune"][:-1], "small"],
        ):
            ended = run_command(words, self.home)
            if ended.code:
                raise SystemExit(f"{words}: {ended.said}")
        shutil.copytree(self.home / "run", self.home / "half")
        shutil.rmtree(self.home / "half" / "checkpoints" / "step_6")

    def _undisturbed(self, verb: str) -> Whole:
        if verb not in self.whole:
            fresh(self.home, self.place)
            ended = run_command(WRITERS[verb], self.place, timeout=600)
            assert ended.code == 0, ended.said
            files = listing(self.place)
            largest = max((self.place / name).stat().st_size for name in files)
            self.whole[verb] = Whole(ended, files, weights_digest(self.place), largest)
        return self.whole[verb]

    def _kills(self, number: int, source: random.Random) -> dict[str, Any]:
        verb = list(VERBS)[number % len(VERBS)]
        ended = self._undisturbed(verb).ended
        fresh(self.home, self.place)
        how: dict[str, Any] = {"kill_after": source.uniform(0, ended.seconds)}
        if number // len(VERBS) % 2:
            how = {"kill_at": source.randint(1, max(1, ended.num_changes))}
        run_command(VERBS[verb], self.place, timeout=600, **how)
        return {"verb": verb, **how, **self._again(verb)}

    def _again(self, verb: str) -> dict[str, Any]:
        """What is wrong after the same command is typed again; it may find that all is done, for
        the other died after its last step."""
        whole = self._undisturbed(verb)
        is_there = (self.place / "out").exists()
        words = ["resume", "out"] if verb == "train" and is_there else VERBS[verb]
        ended = run_command(words, self.place, timeout=600)
        now, said = listing(self.place), ended.said.strip().splitlines()[-1:]
        fault = None
        if ended.has_traceback:
            fault = "traceback"
        elif ended.is_hung or ended.was_stopped:
            fault = "hang"
        elif ended.code != 0 and not (now == whole.files and ended.is_one_line):
            fault = "refused"
        elif set(now) - set(whole.files):
            fault, said = "leftover", sorted(set(now) - set(whole.files))
        elif now != whole.files or weights_digest(self.place) != whole.digest:
            fault, said = "wrong", sorted(set(whole.files) - set(now))
        return {"fault": fault, "said": said if fault else []}

    def _disks(self, number: int, source: random.Random) -> dict[str, Any]:
        verb = list(VERBS)[number % len(VERBS)]
        largest = self._undisturbed(verb).largest.bit_length()
        limit = int(2 ** source.uniform(12, max(13, largest)))
        if number // len(VERBS) % 2:
            size = sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file())
            with small_disk(self.place, size + (size >> 2) + limit) as enlarge:
                if enlarge is not None:
                    return self._on_full_disk(verb, "tmpfs", limit, enlarge)
        return self._on_full_disk(verb, "file size", limit, None)

    def _on_full_disk(
        self, verb: str, how: str, limit: int, enlarge: Callable[[], None] | None
    ) -> dict[str, Any]:
        fresh(self.home, self.place)
        file_limit = limit if enlarge is None else None
        ended = run_command(VERBS[verb], self.place, file_limit=file_limit, timeout=600)
        told = {"verb": verb, "how": how, "limit": limit, "code": ended.code}
        if found := _fault(ended):
            return {**told, "fault": found, "said": ended.said.strip().splitlines()[-1:]}
        if enlarge is not None:
            enlarge()
        return {**told, **self._again(verb)}

    def _damages(self, number: int, source: random.Random) -> dict[str, Any]:
        place, (reader, words) = fresh(self.home, self.place), source.choice([*READERS.items()])
        return {"verb": reader, **_with_damage(words, place, source)}

    def _fields(self, number: int, source: random.Random) -> dict[str, Any]:
        place, (reader, words) = fresh(self.home, self.place), source.choice([*READERS.items()])
        return {"verb": reader, **_with_ill_field(words, place, source)}

    def _stock(self, number: int, source: random.Random) -> dict[str, Any]:
        stock_tries.make_pipelines(home := self.work / "stock")
        pipeline, reader = stock_tries.choose(home, source)
        place, words = fresh(pipeline, self.place), stock_tries.READERS[reader]
        spoil = _with_damage if number % 2 else _with_ill_field
        return {"verb": f"{reader}, {pipeline.name}", **spoil(words, place, source)}

    def _lines(self, number: int, source: random.Random) -> dict[str, Any]:
        place = fresh(self.home, self.place)
        words = list(source.choice([*VERBS.values(), *READERS.values()]))
        for _ in range(source.randint(1, 3)):
            spot = source.randrange(len(words))
            values = [at for at in range(1, len(words)) if words[at - 1].startswith("-")]
            match source.randrange(7):
                case 0:
                    words.insert(spot, source.choice(ODD))
                case 1:
                    del words[spot]
                case 2:
                    words.insert(spot, source.choice(words))
                case _:
                    words[source.choice(values or [spot])] = source.choice(ODD)
            words = words or ["--help"]
        ended = run_command(words, place, timeout=60)
        shown = [word[:80].encode("utf-8", "backslashreplace").decode() for word in words]
        return {"words": shown, "code": ended.code, **_told(ended)}

    def _pairs(self, number: int, source: random.Random) -> dict[str, Any]:
        verb = list(WRITERS)[number % len(WRITERS)]
        whole = self._undisturbed(verb)
        fresh(self.home, self.place)
        delay = source.uniform(0, 1.2 * whole.ended.seconds) if number // len(WRITERS) % 2 else 0.0
        both = run_pair(WRITERS[verb], self.place, delay, timeout=600)
        told = {"verb": verb, "delay": delay, "codes": [ended.code for ended in both]}
        for ended in both:
            found = _fault(ended)
            if found or not (ended.code == 0 or ended.is_one_line):
                last = ended.said.strip().splitlines()[-1:]
                return {**told, "fault": found or "refused", "said": last}
        now = listing(self.place)
        fault, said = None, []
        if not any(ended.code == 0 for ended in both):
            fault, said = "refused", [ended.said.strip() for ended in both]
        elif set(now) - set(whole.files):
            fault, said = "leftover", sorted(set(now) - set(whole.files))
        elif now != whole.files or weights_digest(self.place) != whole.digest:
            fault, said = "wrong", sorted(set(whole.files) - set(now))
        return {**told, "fault": fault, "said": said}


def _with_damage(words: list[str], place: Path, source: random.Random) -> dict[str, Any]:
    """How a command ends that reads a damaged file."""
    name = source.choice([n for n in _read_by(words, place) if not n.endswith(".lock")])
    how = _damage(place / name, source)
    ended = run_command(words, place)
    return {"file": name, "how": how, "code": ended.code, **_told(ended)}


def _with_ill_field(words: list[str], place: Path, source: random.Random) -> dict[str, Any]:
    """How a command ends that reads a field of another type, or out of all range."""
    name = source.choice([n for n in _read_by(words, place) if n.endswith(".json")])
    values = json.loads((place / name).read_text())
    spot, field = source.choice([*_fields_of(values)])
    ill = source.choice(ILL)
    spot[field] = ill
    (place / name).write_text(json.dumps(values))
    ended = run_command(words, place)
    return {"file": name, "field": str(field), "value": repr(ill), "code": ended.code,
            **_told(ended)}  # fmt: skip


def _told(ended: Ended) -> dict[str, Any]:
    fault = _fault(ended)
    return {"fault": fault, "said": ended.said.strip().splitlines()[-1:] if fault else []}


def _fault(ended: Ended) -> str | None:
    """What is wrong with how a command ended that was fed or denied something."""
    if ended.has_traceback or (ended.code is None and not ended.is_hung):
        return "traceback"
    if ended.is_hung:
        return "hang"
    if ended.was_stopped or ended.code in (0, 1, 130):
        return None
    return None if ended.is_one_line else "refused"


def _damage(path: Path, source: random.Random) -> str:
    content = bytearray(path.read_bytes())
    how = source.choice(["flip", "truncate", "empty", "zeros", "noise", "remove"])
    spot = source.randrange(max(1, len(content)))
    if how == "remove":
        path.unlink()
        return how
    if how == "flip" and content:
        content[spot] ^= 1 << source.randrange(8)
    elif how == "truncate":
        del content[spot:]
    elif how == "empty":
        content.clear()
    else:
        part = content[spot : spot + 64]
        zeros = how == "zeros"
        content[spot : spot + 64] = bytes(len(part)) if zeros else source.randbytes(len(part))
    path.write_bytes(content)
    return how


def _read_by(words: list[str], place: Path) -> list[str]:
    """Files of the folders that a command names."""
    return [name for name in listing(place) if name.partition("/")[0] in words]


def _fields_of(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every field of nested values, as its holder and its key or index."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(values, dict):
        pairs = list(values.items())
    elif isinstance(values, list):
        pairs = list(enumerate(values))
    for key, value in pairs:
        yield values, key
        yield from _fields_of(value)


def count(tries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By kind: how many were tried, how they ended, and what was wrong."""
    rows = []
    for kind in KINDS:
        of_kind = [one for one in tries if one["kind"] == kind]
        faults = Counter(one["fault"] for one in of_kind if one["fault"])
        rows.append({"kind": kind, "tried": len(of_kind), **{f: faults[f] for f in FAULTS}})
    return rows


def unnoticed(tries: list[dict[str, Any]]) -> list[list[Any]]:
    """Files whose damage ended with exit code 0, and how often: no digest covers them, or nothing
    of them was read."""
    found = Counter(
        one["file"] for one in tries
        if one["kind"] in ("damages", "stock") and one["code"] == 0
        and one.get("how", "remove") != "remove"
    )  # fmt: skip
    return [list(pair) for pair in sorted(found.items())]


def table(rows: list[dict[str, Any]]) -> str:
    """Counts as markdown."""
    header = ["what", "tried", *FAULTS]
    return markdown(header, ([str(value) for value in row.values()] for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "reliability")
    parser.add_argument("--output", type=Path, default=Path("results/reliability"))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import_all()
    tries = Tries(chosen.work, chosen.seed)
    tries.make_home()
    take: Callable[[str, int], None] = tries.take
    for kind in KINDS:
        take(kind, getattr(chosen, kind))
    rows = count(tries.done)
    faults = [one for one in tries.done if one["fault"]]
    content = {
        "seed": chosen.seed, "counts": rows, "faults": faults, "unnoticed": unnoticed(tries.done),
    }  # fmt: skip
    name = chosen.output.name
    write_experiment(chosen.output / f"{name}.json", __doc__, content)
    put_table(chosen.output / "README.md", "counts", table(rows))


if __name__ == "__main__":
    main()

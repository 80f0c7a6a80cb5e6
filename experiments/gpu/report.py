"""From what the parts found to a page."""

from collections.abc import Iterator
from typing import Any

MOST_FAILURES = 50  # of a part on the page; the record has all


def markdown(record: dict[str, Any]) -> str:
    """The machine, how each part ended, and what it found."""
    parts = record["parts"]
    sections = [
        f"# {record['device']}",
        _machine(record),
        "\n".join(_overview(parts)),
        *(
            f"## {name}\n\n" + "\n".join([*_failures(part), *WRITERS[name](part["found"])])
            for name, part in parts.items()
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _machine(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    gpu = "".join(f", {name} {value}" for name, value in record["gpu"].items())
    small = " Small sizes." if record["config"]["small"] else ""
    return f"Commit {record['git_commit']}; {versions}{gpu}; {record['threads']} threads.{small}"


def _overview(parts: dict[str, Any]) -> Iterator[str]:
    yield "| part | | seconds | |"
    yield "| --- | --- | ---: | --- |"
    for name, part in parts.items():
        state = f"{part['state']}, {len(part['failures'])} failures" if part["failures"] else part["state"]
        yield f"| {name} | {state} | {part['seconds']:.0f} | {_cell(part['summary'])} |"


def _failures(part: dict[str, Any]) -> Iterator[str]:
    for failure in part["failures"][:MOST_FAILURES]:
        yield f"- **fails**: {failure}"
    left_out = len(part["failures"]) - MOST_FAILURES
    if left_out > 0:
        yield f"- and {left_out} more"
    if part["failures"]:
        yield ""


def _correctness(found: dict[str, Any]) -> Iterator[str]:
    yield "| | hold | fail | do not apply |"
    yield "| --- | ---: | ---: | ---: |"
    counts: dict[str, dict[bool | None, int]] = {}
    for line in found.get("lines", {}).values():
        count = counts.setdefault(line["table"], {True: 0, False: 0, None: 0})
        count[line["passed"]] += 1
    for table, count in counts.items():
        yield f"| {table} | {count[True]} | {count[False]} | {count[None]} |"


def _benchmark(found: dict[str, Any]) -> Iterator[str]:
    yield f"Measured: {', '.join(found.get('workloads', [])) or 'nothing yet'}. All times are in `benchmark`."
    yield ""
    yield found.get("ratios", "")


def _memory(found: dict[str, Any]) -> Iterator[str]:
    yield "MB: input and weights; what the output keeps for the backward pass, these included; the height of a step."
    yield ""
    yield "| | input, weights | kept | peak |"
    yield "| --- | ---: | ---: | ---: |"
    for name, layer in found.get("layers", {}).items():
        sizes = (layer["state_bytes"], layer["saved_bytes"], layer["peak_bytes"])
        yield f"| {name} | {' | '.join('' if size is None else f'{size / 1e6:.2f}' for size in sizes)} |"


def _train(found: dict[str, Any]) -> Iterator[str]:
    if "result" not in found:
        yield "No record yet."
        return
    yield f"On {found['dataset']} in {found['precision']}; the run is in `train`."
    yield ""
    yield "| | |"
    yield "| --- | ---: |"
    for key, value in found["result"].items():
        yield f"| `{key}` | {value:.4g} |" if isinstance(value, float) else f"| `{key}` | {value} |"


def _tests(found: dict[str, Any]) -> Iterator[str]:
    yield "What the tests said is in `tests.log`."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


WRITERS = {
    "correctness": _correctness,
    "benchmark": _benchmark,
    "memory": _memory,
    "train": _train,
    "tests": _tests,
}

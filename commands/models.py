"""`panoptic models`: the published checkpoints that can be named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from panoptic_cli import console
from panoptic_cli.transfer.sizes import human_size

from . import options as o

if TYPE_CHECKING:
    from panoptic_cli.weights.published import Published


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show everything about one.", show_default=False),
    ] = None,
    json_output: o.Json = False,
) -> None:
    """List the published checkpoints that --checkpoint and --init-checkpoint take by name.

    The first command that uses one fetches it into a cache (PANOPTIC_CACHE, or Hugging Face's own). After that no
    network is needed.

    Examples:
        panoptic models
        panoptic models panoptic_fpn_r50_3x
    """
    from panoptic_cli.weights.published import find_published, published_checkpoints

    if name is not None:
        described = _describe(find_published(name))
        console.result(described, _in_full(described))
        return
    found = [_describe(published) for published in published_checkpoints().values()]
    console.result({"models": found}, _table(found), _note(found))


def _describe(published: Published) -> dict[str, Any]:
    """Returns values for JSON; `bytes` is None where they are not known."""
    from panoptic_cli.weights.copies import describe_copy

    copy = describe_copy(published)
    return {
        "name": published.name,
        "architecture": published.architecture,
        "pq": published.pq,
        "figures": published.figures,
        "measured_by": published.measured_by,
        "parameters": published.parameters,
        "input_size": list(published.input_size),
        "bytes": copy.bytes if copy.place is not None else published.bytes,
        "bytes_of_parameters": published.bytes_of_parameters,
        "licence": published.licence,
        "source": published.source,
        "files": [file.model_dump() for file in published.files],
        "experiment": published.experiment,
        "schedule": published.schedule,
        "categories": published.categories,
        "cached": copy.place is not None,
        "place": copy.place or copy.expected_place,
        "commands": _commands(published),
    }


def _commands(published: Published) -> list[str]:
    """Returns the lines that use a checkpoint."""
    if published.is_backbone:
        return [f"panoptic train --init-checkpoint {published.name}"]
    option = f"--checkpoint {published.name}"
    return [
        f"panoptic predict photo.jpg {option}",
        f"panoptic evaluate {option}",
        f"panoptic export {option} --output exported",
        f"panoptic train --experiment {published.experiment} --init-checkpoint {published.name}",
    ]


def _size(described: dict[str, Any]) -> str:
    """Returns the bytes to fetch; where the source has not said them yet, those of the parameters."""
    known = described["bytes"]
    return human_size(known) if known is not None else f"~{human_size(described['bytes_of_parameters'])}"


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _table(found: list[dict[str, Any]]) -> Any:
    columns = ["name", "network", "licence", "PQ", "params", "input", "to fetch"]
    rows = [
        [
            item["name"],
            item["architecture"],
            item["licence"],
            "" if item["pq"] is None else f"{item['pq']:.1f}",
            _parameters(item["parameters"]),
            str(max(item["input_size"])),
            "cached" if item["cached"] else _size(item),
        ]
        for item in found
    ]
    table = console.table(None, columns, rows, left=3)
    table.columns[0].no_wrap = True  # to be copied
    return table


def _note(found: list[dict[str, Any]]) -> str:
    measured: dict[str, list[str]] = {}
    for item in found:
        if item["pq"] is not None:
            measured.setdefault(item["measured_by"], []).append(item["architecture"].partition(",")[0])
    by = "; ".join(f"{', '.join(dict.fromkeys(names))}: {who}" for who, names in measured.items())
    return f"PQ on COCO val2017 as others report it ({by}). ~: the parameters in float32."


def _in_full(described: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value:.2f}" for name, value in described["figures"].items())
    files = ", ".join(file["name"] for file in described["files"])
    preset = " ".join(
        [described["experiment"] or "", *([f"({described['schedule']})"] if described["schedule"] else [])]
    )
    categories = {"coco_panoptic": "COCO's 133 panoptic categories"}.get(described["categories"] or "")
    rows = [
        ("name", described["name"]),
        ("architecture", described["architecture"]),
        ("figures", f"{figures}, on COCO val2017" if figures else ""),
        ("measured by", f"{described['measured_by']}, not with panoptic" if figures else ""),
        ("parameters", f"{described['parameters']:,}"),
        ("input", "{}x{} pixels".format(*described["input_size"])),
        ("licence", described["licence"]),
        ("source", described["source"]),
        ("files", files),
        ("to fetch", _size(described) + ("" if described["bytes"] is not None else " (the parameters in float32)")),
        ("preset", preset),
        ("categories", categories or ""),
        ("cached", f"{'yes' if described['cached'] else 'no'}, in {described['place']}"),
    ]
    width = max(len(title) for title, _ in rows) + 2
    lines = [f"{title:<{width}}{value}" for title, value in rows if value]
    return "\n".join([*lines, "", "Use it:", *(f"  {command}" for command in described["commands"])])

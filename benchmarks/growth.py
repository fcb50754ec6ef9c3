"""How a training step of the U-Net grows with images, pixels, channels, classes and devices.

    python benchmarks/growth.py --device cpu --repeats 5

One of them changes at a time. README.md says what the columns mean.
"""

import argparse
import json
import pathlib

import machine
import turns
from contestants import ONE, OURS, Problem

CHANGES = (
    *({"side": side} for side in (128, 64, 256, 512)),
    *({"images": images} for images in (8, 16)),
    *({"widths": [first * 2**level for level in range(5)]} for first in (16, 64)),
    *({"classes": classes} for classes in (21, 150)),
)
COLUMNS = ("changed", "contestant", "ms", "times the first", "images/s", "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=pathlib.Path, help="results/growth-<device>.json")
    args = parser.parse_args()
    base = Problem("training", 4, 128, 3, [32, 64, 128, 256, 512], "float32", args.device)
    names = [OURS, ONE] if args.device == "cpu" else [OURS]
    output = args.output or turns.RESULTS / f"growth-{args.device}.json"
    report = {**machine.facts(("jaxseg", "jax", "jaxlib", "flax")), **base._asdict()}
    report |= {"repeats": args.repeats, "rows": []}
    print(f"{report['machine']}, load {report['load'][0]:.1f}")
    print(f"| {' | '.join(COLUMNS)} |\n" + "|---" * len(COLUMNS) + "|")
    for change in CHANGES:
        for row in turns.measure(base._replace(**change), names, args.repeats, None):
            report["rows"].append({"changed": change, **row})
            first = next(x for x in report["rows"] if x["contestant"] == row["contestant"])
            cells = (
                *(f"{name} {value}" for name, value in change.items()),
                row["contestant"],
                f"{row['milliseconds']:.3g}",
                f"{row['milliseconds'] / first['milliseconds']:.2f}",
                f"{row['images_per_second']:.3g}",
                f"{row['megabytes']:.0f}",
            )
            print(f"| {' | '.join(cells)} |", flush=True)
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""From a workload file to its first result, in a process of its own: `python benchmarks/first_result.py [FILE...]`.

Of every file: importing the package, choosing tiles, emitting and compiling with an empty cache, the first call, a call
thereafter, and the whole again in a second process that finds the compiled kernel in the cache. Measuring this machine,
which is done once and takes some seconds, is not in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from flashc.commands.render import Table, print_blocks, progress, seconds

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FILES = ("plain_fp32.yaml", "causal_bf16.yaml", "decode.yaml", "gemm.yaml")
PROCESS = """
import json, sys, time
marks = [time.perf_counter()]
mark = lambda: marks.append(time.perf_counter())
import flashc
from flashc.compiler.kernel import compile_for
from flashc.compiler.tune import tune
from flashc.compiler.verify import random_inputs
mark()
workload = flashc.load_workload(sys.argv[1])
device = flashc.load_device("native")
tuning = tune(workload, device)
mark()
kernel = compile_for(workload, device, tuning=tuning)
mark()
inputs = random_inputs(kernel.operator, workload.spec, 0)
marks.append(time.perf_counter())
kernel(**inputs)
mark()
kernel(**inputs)
mark()
steps = [b - a for a, b in zip(marks, marks[1:])]
print(json.dumps([*steps[:3], *steps[4:]]))
"""
STEPS = ("import", "tiles", "compile", "first call", "next call")


def python(code: str, cache: str, *arguments: str) -> str:
    """What a fresh process prints."""
    env = {**os.environ, "FLASHC_CACHE_DIR": cache}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr.strip().splitlines()[-1])
    return done.stdout


@click.command(help=__doc__)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False))
def main(files: tuple[str, ...]) -> None:
    rows = []
    for file in files or [str(EXAMPLES / name) for name in FILES]:
        with progress(file), tempfile.TemporaryDirectory() as cache:
            python("import flashc; flashc.load_device('native')", cache)
            cold, warm = (json.loads(python(PROCESS, cache, file)) for _ in range(2))
        total = sum(cold[:4])
        rows.append((Path(file).name, *map(seconds, cold), seconds(total), seconds(sum(warm[:4]))))
    columns = ("workload", *STEPS, "file to result", "again, cached")
    print_blocks([Table("From file to result", columns, tuple(rows), frozenset(columns[1:]))])


if __name__ == "__main__":
    main()

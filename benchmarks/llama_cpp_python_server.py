"""llama-cpp-python's own server, for `benchmarks.servers`; runs in the peers' environment.

    python llama_cpp_python_server.py EXTRA_BUFFERS [OPTION ...]

EXTRA_BUFFERS is 0 where llama.cpp must keep off the processor's AMX tiles (`llama_library.has_broken_tiles`): the
server has no option for that. What follows are its own options.
"""

import sys

from llama_cpp import llama_cpp
from llama_cpp.server.__main__ import main


def without_extra_buffers() -> None:
    """Make llama.cpp's default model parameters ones without repacked weights."""
    defaults = llama_cpp.llama_model_default_params

    def changed() -> llama_cpp.llama_model_params:
        params: llama_cpp.llama_model_params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_model_default_params = changed


if __name__ == "__main__":
    if sys.argv.pop(1) == "0":
        without_extra_buffers()
    main()  # type: ignore[no-untyped-call]

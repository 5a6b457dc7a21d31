"""`SentenceTransformer.encode` itself, in a process without a server, for `benchmarks.embeddings`.

    python -m benchmarks.encode_process MODEL_DIRECTORY THREADS

Takes JSON, one line a job: {"texts": […], "batch_size": 32}; answers each by a line with the seconds, and the
rows where the job has `"rows": true`.
"""

import json
import sys
import time

import torch
from sentence_transformers import SentenceTransformer

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    print("{}", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        started = time.perf_counter()
        rows = model.encode(job["texts"], batch_size=job["batch_size"], show_progress_bar=False)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "rows": rows.tolist() if job.get("rows") else []}), flush=True)

"""A diffusers pipeline itself, in a process without a server, for `benchmarks.images`.

    python -m benchmarks.paint_process PIPELINE_DIRECTORY THREADS

Takes JSON, one line a job: {"prompts": […], "seeds": […], "steps": 15, "guidance": 7.5}; paints one image after the
other, and answers by a line with the seconds, and with the pixels of each where the job has `"pixels": true`.
"""

import json
import sys
import time

import numpy as np
import torch
from diffusers import DiffusionPipeline

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    print("{}", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        started = time.perf_counter()
        images = [
            pipeline(
                prompt,
                num_inference_steps=job["steps"],
                guidance_scale=job["guidance"],
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images[0]
            for prompt, seed in zip(job["prompts"], job["seeds"], strict=True)
        ]
        seconds = time.perf_counter() - started
        pixels = [np.asarray(image).tolist() for image in images] if job.get("pixels") else []
        print(json.dumps({"seconds": seconds, "pixels": pixels}), flush=True)

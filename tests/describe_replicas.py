"""`python -m tests.describe_replicas GCS_ADDRESS MODEL`: what a loaded model's replicas say of themselves, as JSON.

A process of its own: a Ray driver ends with its node, and would take the tests along.
"""

import asyncio
import json
import sys

import ray

from deployments.serve_apps import app_name, model_handle


async def main(address: str, model: str) -> None:
    ray.init(address, namespace="serve", log_to_driver=False, logging_level="ERROR")
    replicas = await model_handle(app_name(model)).broadcast("describe").results_async(timeout_s=10)
    print(json.dumps(replicas))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""NVIDIA FLARE's proof of concept: server and sites as processes, by the recipe of the simulator.

Run in FLARE's environment: python nvflare_poc.py data.npz sites rounds out.json started workspace
A round ends when the first site receives the next model, as in `nvflare_job`.
"""

import json
import os
import sys
import time
from pathlib import Path

LIMIT_SECONDS = 200


def main() -> None:
    """Start the deployment, hand it the recipe, and end it when all rounds were seen."""
    data, sites, rounds, out, started, workspace = sys.argv[1:7]
    os.environ["NVFLARE_POC_WORKSPACE"] = workspace
    from nvflare.app_common.np.recipes.lr.fedavg import FedAvgLrRecipe
    from nvflare.recipe import PocEnv

    os.chdir(Path(__file__).parent)
    stamps = Path(f"{workspace}.stamps")
    recipe = FedAvgLrRecipe(
        min_clients=int(sites),
        num_rounds=int(rounds),
        damping_factor=1.0,
        num_features=13,
        train_script="nvflare_client.py",
        train_args=f"--data {data} --stamps {stamps}",
    )
    place = PocEnv(num_clients=int(sites))
    try:
        recipe.execute(place)
        end = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end:
            received = stamps.read_text().split() if stamps.exists() else []
            if len(received) >= int(rounds):
                break
            time.sleep(0.2)
    finally:
        place.stop(clean_up=True)
    ends = [float(line) for line in received]
    Path(out).write_text(json.dumps({"first": ends[1] - float(started), "ends": ends[1:]}))


if __name__ == "__main__":
    main()

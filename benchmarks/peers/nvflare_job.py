"""NVIDIA FLARE's simulator: its own logistic regression recipe by Newton's method.

Run in FLARE's environment: python nvflare_job.py data.npz sites rounds out.json started workspace
One thread a site, client scripts in process, logging off: the fastest that the simulator offers.
The first site writes when it received each round's model: a round ends when the next one's comes.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Deploy the recipe to the simulator and wait for its end."""
    from nvflare.app_common.np.recipes.lr.fedavg import FedAvgLrRecipe
    from nvflare.recipe import SimEnv

    data, sites, rounds, out, started, workspace = sys.argv[1:7]
    os.chdir(Path(__file__).parent)
    recipe = FedAvgLrRecipe(
        min_clients=int(sites),
        num_rounds=int(rounds),
        damping_factor=1.0,
        num_features=13,
        train_script="nvflare_client.py",
        train_args=f"--data {data} --stamps {workspace}.stamps",
    )
    recipe.execute(SimEnv(num_clients=int(sites), workspace_root=workspace, log_config="concise"))
    received = [float(line) for line in Path(f"{workspace}.stamps").read_text().split()]
    Path(out).write_text(json.dumps({"first": received[1] - float(started), "ends": received[1:]}))


if __name__ == "__main__":
    main()

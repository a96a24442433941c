"""A site of the job in `nvflare_job`: answers every model with gradient and Hessian."""

import argparse
import time

import numpy as np
import nvflare.client as flare
from newton import derivatives


def main() -> None:
    """Answer until the job ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--stamps")
    arguments = parser.parse_args()
    flare.init()
    name = flare.get_site_name()
    site = int(name.rsplit("-", 1)[1]) - 1
    with np.load(arguments.data) as data:
        features, label = data[f"features{site}"], data[f"label{site}"]
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        if site == 0:
            with open(arguments.stamps, "a") as file:
                file.write(f"{time.time()}\n")
        (parameters,) = model.params.values()
        gradient, hessian = derivatives(features, label, parameters[:, 0])
        flare.send(
            flare.FLModel(
                params={"gradient": gradient[:, None], "hessian": hessian},
                meta={"NUM_STEPS_CURRENT_ROUND": len(label)},
            )
        )


if __name__ == "__main__":
    main()

"""Flower's simulation: logistic regression by Newton's method, one message exchange a round.

Run in Flower's environment: python flwr_app.py data.npz sites rounds out.json started
`started` is the wall-clock second at which the process was asked for. The server talks to all
nodes through the grid itself, without a strategy around it: the least that Flower can do.
"""

import json
import sys
import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from newton import derivatives

DATA, SITES, ROUNDS, OUT, STARTED = sys.argv[1:6]

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answer with gradient and Hessian of this node's rows."""
    with np.load(DATA) as data:
        site = int(context.node_config["partition-id"])
        features, label = data[f"features{site}"], data[f"label{site}"]
    (parameters,) = message.content["model"].to_numpy_ndarrays()
    gradient, hessian = derivatives(features, label, parameters)
    content = RecordDict(
        {
            "sums": ArrayRecord([gradient, hessian]),
            "rows": MetricRecord({"rows": len(label)}),
        }
    )
    return Message(content=content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write when each one ended."""
    while len(nodes := list(grid.get_node_ids())) < int(SITES):
        time.sleep(0.05)
    parameters = np.zeros(14)
    ends = []
    for number in range(int(ROUNDS)):
        messages = [
            Message(
                content=RecordDict({"model": ArrayRecord([parameters])}),
                message_type="train",
                dst_node_id=node,
                group_id=str(number),
            )
            for node in nodes
        ]
        replies = [reply for reply in grid.send_and_receive(messages) if not reply.has_error()]
        if len(replies) != len(nodes):
            raise RuntimeError(f"expected {len(nodes)} replies, got {len(replies)}")
        sums = [reply.content["sums"].to_numpy_ndarrays() for reply in replies]
        gradient = sum(one[0] for one in sums) - parameters
        hessian = sum(one[1] for one in sums) + np.eye(14)
        parameters = parameters + np.linalg.solve(hessian, gradient)
        ends.append(time.time())
    with open(OUT, "w") as file:
        json.dump({"first": ends[0] - float(STARTED), "ends": ends}, file)


if __name__ == "__main__":
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=int(SITES),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2, "include_dashboard": False},
        },
    )

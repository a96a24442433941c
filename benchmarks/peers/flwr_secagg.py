"""One round of Flower's SecAgg+, its own client mod and server workflow, in one process.

Run in Flower's environment: python flwr_secagg.py words clients lost out.json

The grid hands messages over by reference: what serialisation and transport cost is not counted.
Clients that are lost answer until their shares are dealt, and not with a masked vector. The
received average is compared with the inputs'.
"""

import copy
import json
import sys
import time

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.common.secure_aggregation.secaggplus_constants import Key as Masked
from flwr.compat.common import recorddict_compat
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from flwr.supercore.task_identity import TaskIdentity
from meter import Meter

WORDS, CLIENTS, LOST = (int(one) for one in sys.argv[1:4])
OUT = sys.argv[4]
STAGES = ("setup_stage", "share_keys_stage", "collect_masked_vectors_stage", "unmask_stage")


def update(number):
    """Return the client's update, the same at each call."""
    return np.random.default_rng(number).uniform(-1, 1, WORDS)


class Proxy:
    """What the workflow needs to know of a client."""

    def __init__(self, node_id):
        self.node_id = node_id


class Strategy:
    """Asks every client, and keeps the average that the workflow hands over."""

    def __init__(self, proxies):
        self.proxies = proxies
        self.average = None

    def configure_fit(self, server_round, parameters, client_manager):
        empty = Parameters(tensors=[], tensor_type="numpy.ndarray")
        return [(proxy, FitIns(empty, {})) for proxy in self.proxies]

    def aggregate_fit(self, server_round, results, failures):
        self.average = results[0][1].parameters
        return None, {}


class Manager:
    """The workflow prints how many clients there are."""

    def num_available(self):
        return CLIENTS


class Grid:
    """Runs each client's mod where its message arrives, metered by itself."""

    def __init__(self):
        self.contexts = {
            number: Context(1, number, {}, RecordDict(), {}) for number in range(1, CLIENTS + 1)
        }
        self.stage = 0
        self.seconds = dict.fromkeys(self.contexts, 0.0)
        self.mebibytes = dict.fromkeys(self.contexts, 0.0)
        self.upload = 0
        self.inside = 0.0

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        start = time.process_time()
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            if self.stage == 2 and node > CLIENTS - LOST:
                continue
            # Each client has its own copy, as if it had come over a network.
            received = copy.deepcopy(message)
            result = None
            if self.stage == 2:
                parameters = ndarrays_to_parameters([update(node)])
                result = recorddict_compat.fitres_to_recorddict(
                    FitRes(Status(Code.OK, ""), parameters, 1000, {}), keep_input=False
                )
            with Meter() as meter:
                reply = secaggplus_mod(
                    received,
                    self.contexts[node],
                    lambda asked, _, result=result: Message(result, reply_to=asked),
                )
            self.seconds[node] += meter.seconds
            self.mebibytes[node] = max(self.mebibytes[node], meter.mebibytes)
            if self.stage == 2:
                record = reply.content.config_records[RECORD_KEY_CONFIGS]
                self.upload = sum(len(one) for one in record[Masked.MASKED_PARAMETERS])
            replies.append(reply)
        self.stage += 1
        self.inside += time.process_time() - start
        return replies


def main():
    """Run the round, compare its average and write the figures."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    grid = Grid()
    strategy = Strategy([Proxy(number) for number in grid.contexts])
    base = Context(1, 0, {}, RecordDict(), {})
    context = LegacyContext(base, strategy=strategy, client_manager=Manager())
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
        Parameters(tensors=[], tensor_type="numpy.ndarray"), True
    )
    # The same threshold as ours: more than half, with one colluder.
    workflow = SecAggPlusWorkflow(
        num_shares=CLIENTS,
        reconstruction_threshold=(CLIENTS + 1) // 2 + 1,
        clipping_range=1.0,
        max_weight=1000.0,
    )
    server = []
    state = WorkflowState()
    peak = 0.0
    for name in STAGES:
        before = grid.inside
        with Meter() as meter:
            done = getattr(workflow, name)(grid, context, state)
        if not done:
            raise SystemExit(f"{name} halted")
        server.append(meter.seconds - (grid.inside - before))
        if name == "unmask_stage":
            peak = meter.mebibytes
    (average,) = parameters_to_ndarrays(strategy.average)
    expected = sum(update(number) for number in range(1, CLIENTS - LOST + 1)) / (CLIENTS - LOST)
    error = float(np.abs(average - expected).max())
    if error > 1e-4:
        raise SystemExit(f"the average differs by {error}")
    times = sorted(grid.seconds.values())[LOST:]
    with open(OUT, "w") as file:
        json.dump(
            {
                "client_seconds": times[0],
                "client_median": times[len(times) // 2],
                "client_mebibytes": max(grid.mebibytes.values()),
                "server_seconds": sum(server),
                "server_mebibytes": peak,
                "upload": grid.upload,
                "error": error,
            },
            file,
        )


if __name__ == "__main__":
    main()

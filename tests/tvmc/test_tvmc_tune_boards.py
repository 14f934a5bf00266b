"""``tvmc tune`` over a farm: a tracker and three servers on this machine, one of which dies during the search."""

import json
import signal
from threading import Lock

import numpy as np
import pytest
import torch
from farm_servers import ARCHITECTURE, KEY, RunningServers
from torch import nn

from cospipe.backends.tvm.farm import farm as farm_module
from cospipe.backends.tvm.tuning.comparisons import KernelComparisons, read_comparisons, write_comparisons
from cospipe.tvmc.main import _main

TRIALS = 16
TARGET = ["--target", f"llvm -mtriple={ARCHITECTURE}-linux-gnu -num-cores=1"]


class KillAtSecondCandidate:
    """Kills the first board that is about to get a second candidate."""

    def __init__(self, servers):
        self._servers, self._run, self._lock = servers, farm_module.Farm._run, Lock()
        self._seen, self.killed = set(), None

    def run(self, farm, board, offer, job):
        with self._lock:
            if self.killed is None and board.address in self._seen:
                self.killed = board.address
                self._servers.send(self.killed, signal.SIGKILL)
            self._seen.add(board.address)
        self._run(farm, board, offer, job)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU()).eval()


@pytest.mark.slow
def test_tuning_goes_on_when_a_board_dies(tmp_path, network, monkeypatch, caplog, capsys):
    model, records, package = tmp_path / "tiny.pt2", tmp_path / "records", tmp_path / "module.tar"
    frame = torch.rand(1, 8, 12, 12)
    torch.export.save(torch.export.export(network, (frame,)), model)
    with RunningServers(tmp_path, 3) as servers:
        killer = KillAtSecondCandidate(servers)
        monkeypatch.setattr(farm_module.Farm, "_run", lambda *arguments: killer.run(*arguments))
        # servers on one machine take time from each other: how quick they are says nothing
        monkeypatch.setattr(farm_module, "slow_boards", lambda *_: {})
        tracker = ["--rpc-tracker", "{}:{}".format(*servers.tracker), "--rpc-key", KEY]
        options = ["--trials", str(TRIALS), "--number", "1", "--parallel", "2", "--timeout", "60"]
        assert _main(["tune", str(model), "-o", str(records), *TARGET, *tracker, *options]) == 0
    assert f"{killer.killed}: a candidate failed" in caplog.text
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["0", "conv2d,", "relu"]

    stored = [json.loads(line) for line in (records / "database_tuning_record.json").read_text().splitlines()]
    assert len(stored) >= TRIALS
    assert all(0 < seconds < 1 for _, (_, run_seconds, *_) in stored for seconds in run_seconds)
    (compared,) = read_comparisons(records).comparisons
    assert compared.machine.partition(" ")[0] in servers.pids.keys() - {killer.killed}

    # which one is faster here says nothing; what is compiled next has the tuned one
    write_comparisons(records, KernelComparisons(comparisons=(compared.model_copy(update={"ours_us": 1e6}),)))
    assert _main(["compile", str(model), "-v", "-o", str(package), *TARGET, "--tuning-records", str(records)]) == 0
    assert "1 used; for 0 more" in caplog.text
    name = torch.export.load(model).graph_signature.user_inputs[0]
    np.savez(tmp_path / "in.npz", **{name: frame.numpy()})
    assert _main(["run", str(package), "-i", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]) == 0
    with torch.no_grad():
        expected = network(frame).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["output_0"], expected, rtol=1e-4, atol=1e-5)

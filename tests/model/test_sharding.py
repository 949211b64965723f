"""lora_scratch/model/sharding.py: a base shared out over two processes trains, predicts and saves as a whole one."""

import numpy as np
import pytest
import torch
from support import rank_work
from support.ranks import in_processes
from support.tiny import tiny_distilbert, tiny_rows

from lora_scratch.errors import ConfigError
from lora_scratch.evaluation import Predictor
from lora_scratch.model.sharding import shard_base
from lora_scratch.serialization import load_adapter


@pytest.mark.parametrize(
    "adapter", [{}, {"variant": "dora", "targets": ["all-linear"]}, {"init": "pissa", "bias": "lora_only"}], ids=str
)
def test_a_sharded_base_trains_as_a_whole_one(adapter):
    """Losses to 1e-6 and counts exactly; of the frozen encoder each process holds a part, of what is trained all."""
    alone = rank_work.trained(adapter=adapter)
    main, other = in_processes(rank_work.trained, sharded=True, adapter=adapter)
    np.testing.assert_allclose(main["losses"], alone["losses"], rtol=1e-6)
    assert main["result"].best.accuracy == alone["result"].best.accuracy
    assert all(np.array_equal(tensor, other["tensors"][name]) for name, tensor in main["tensors"].items())
    frozen = [name for name, p in rank_work.adapted(**adapter).named_parameters() if not p.requires_grad]
    assert main["sharded"] == [name for name in frozen if name.startswith("distilbert.")]
    assert len(main["sharded"]) > 20


def test_the_adapter_of_a_sharded_base_is_that_of_a_whole_one(tmp_path):
    """It loads into a whole model, base verified, with the tensors that one process trains; disabled, it is the base."""
    base_logits, _ = in_processes(rank_work.saved_adapter, tmp_path / "adapter")
    model = tiny_distilbert()
    of_base = Predictor(model, rank_work.FP32, 0).logits(tiny_rows(19, seed=1))
    np.testing.assert_allclose(base_logits, of_base.numpy(), atol=1e-5)
    load_adapter(model, tmp_path / "adapter")
    alone = rank_work.trained()
    for name, tensor in alone["tensors"].items():
        # Adam divides by |g|, so entries whose gradient is rounding noise may differ by up to the learning rate
        assert np.isclose(model.get_parameter(name).detach().numpy(), tensor, atol=1e-5).mean() > 0.95, name


def test_sharding_is_refused_in_one_process():
    """There would be nobody to share with."""
    with pytest.raises(ConfigError, match="--fsdp: there is one process; expected several, started by torchrun"):
        shard_base(tiny_distilbert(), torch.device("cpu"))

"""Weights, gradients and optimizer state cut up among processes while training (trainer=fsdp, PyTorch's FSDP2)."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from spamlit.model.classifier import Classifier


def shard(classifier: Classifier, mesh: DeviceMesh) -> None:
    """Leaves each process a share of every parameter; a block is whole only while it computes.

    Args:
        classifier: changed in place, for good.
        mesh: (machines, processes of one): cut up within a machine, repeated over machines.
    """
    for module in (*classifier.backbone.blocks, classifier):  # the last one has embeddings, norm and head
        sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        sharded.set_force_sum_reduction_for_comms(mesh.device_type == "cpu")  # gloo knows no mean
    for method in ("prefix", "suffix", "learn", "below", "learn_block"):  # what training calls in place of forward
        register_fsdp_forward_method(classifier, method)


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the shares of all processes, which must call it together; what is not cut up stays itself."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def placed(value: Tensor, like: Tensor) -> Tensor:
    """`value` where `like` is: on its device, and cut up as it is."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value

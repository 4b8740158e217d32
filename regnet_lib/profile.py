"""What a model costs, counted on tensors that have a shape and no values (PyTorch's fake tensors).

The real model runs, so nothing is estimated, yet no memory is taken and a volume of any size is
counted in seconds. One dispatch mode sees every kernel of the forward and the backward pass; a
weak reference on every storage tells when its bytes are free again.

    cost = account(create_model("lganetpp"), (144, 176, 144))
    f"{cost.flops / 1e12:.1f} TFLOP, {cost.peak_bytes / 2**30:.1f} GiB"
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from regnet_lib.losses import Objective
from regnet_lib.types import Displacement, Image, Registration

_ATEN = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """Of one forward pass or one training step; parameters and images are not counted.

    Attributes:
        flops: two per multiply-add of convolutions, matrix products and attention.
        kernels: operations that read or write memory; views and allocations are free.
        traffic_bytes: what these operations read and write, each of their tensors once.
        saved_bytes: alive between the forward and the backward pass; 0 without training.
        peak_bytes: alive at the worst moment, with the gradients of the parameters but without
            the work space inside a kernel.
    """

    flops: int
    kernels: int
    traffic_bytes: int
    saved_bytes: int
    peak_bytes: int


def account(
    model: nn.Module,
    shape: Sequence[int],
    *,
    training: bool = True,
    batch: int = 1,
    autocast: torch.dtype | None = None,
    objective: Callable[[Displacement, Image, Image], tuple[Tensor, object]] | None = None,
) -> Cost:
    """Count a registration network on images `(batch, 1, *shape)` without computing anything.

    Args:
        model: from two images to a `Registration` or a displacement. It is left as it is; its
            parameters' memory format matters.
        training: forward pass, loss and backward pass; else a forward pass without gradients.
        autocast: precision of autocast in the network, as `torch.bfloat16`; none if None.
        objective: loss of the training step; `Objective()` if None.
    """
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        model = deepcopy(model).train(training).requires_grad_(training)
    for weights in model.parameters():
        weights.grad = None
    with fake, torch.set_grad_enabled(training):
        moving, fixed = torch.empty(2, batch, 1, *shape).unbind()
        with _Ledger() as ledger:
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                result = model(moving, fixed)
            saved = 0
            if training:
                field = result.displacement if isinstance(result, Registration) else result
                loss, _ = (objective or Objective())(field, moving, fixed)
                del result, field, _
                saved = ledger.live
                loss.backward()
    return Cost(ledger.flops, ledger.kernels, ledger.traffic, saved, ledger.peak)


class _Ledger(TorchDispatchMode):
    """Keeps the sums while kernels run."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.kernels = self.traffic = self.live = self.peak = 0
        self.storages: dict[int, tuple[ref, int]] = {}

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = kernel(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if outputs and not (kernel.is_view or kernel.overloadpacket in _FREE):
            self.kernels += 1
            tensors = {id(tensor): tensor for tensor in (*inputs, *outputs)}
            self.traffic += sum(t.numel() * t.element_size() for t in tensors.values())
        formula = _FLOPS.get(kernel.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                self._open(storage)
        return result

    def _open(self, storage: torch.UntypedStorage) -> None:
        """Count the bytes of a new storage until it dies."""
        key, size = storage._cdata, storage.nbytes()
        if key in self.storages:
            return

        def close(_: ref) -> None:
            del self.storages[key]
            self.live -= size

        self.storages[key] = (ref(storage, close), size)
        self.live += size
        self.peak = max(self.peak, self.live)


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_, **__) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _cpu_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_, **__
) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


# PyTorch's table, and the attention kernels of the CPU, which it leaves out.
_FLOPS = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
_FREE = {_ATEN.empty, _ATEN.empty_like, _ATEN.new_empty, _ATEN.empty_strided, _ATEN.detach}

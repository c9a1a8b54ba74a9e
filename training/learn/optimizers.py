"""Adagrad with momentum, as GRU4Rec's authors train it (torch's Adagrad has none)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

EPSILON = 1e-6


class AdagradMomentum(torch.optim.Optimizer):
    """G ← G + g²;  m ← μm − lr · g / sqrt(G + ε);  p ← p + m (Duchi et al., JMLR 2011, with heavy ball).

    Of the `tables` a step updates only the rows that have a gradient: the others stay where they are,
    whatever their momentum.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        tables: Iterable[Tensor] = (),
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._tables = {id(table) for table in tables}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "one evaluation a step"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = parameter.grad
        assert gradient is not None
        touched: Tensor | None = None  # (rows, 1) or (rows,), 1 or 0: a GPU would be waited for to list them
        if id(parameter) in self._tables:
            some = gradient != 0
            touched = (some if some.dim() == 1 else some.any(1, keepdim=True)).to(gradient.dtype)
        if group["weight_decay"]:
            decay = group["weight_decay"] * parameter
            gradient = gradient + (decay if touched is None else decay * touched)
        if not state:
            state["squares"] = torch.zeros_like(parameter)
        squares = state["squares"].addcmul_(gradient, gradient)
        change = gradient * squares.add(EPSILON).rsqrt_().mul_(-group["lr"])
        if group["momentum"]:
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            if touched is None:
                change = state["momentum"].mul_(group["momentum"]).add_(change)
            else:
                kept = 1 + touched * (group["momentum"] - 1)
                change = state["momentum"].mul_(kept).add_(change) * touched
        parameter.add_(change)

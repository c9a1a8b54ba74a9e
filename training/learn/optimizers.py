"""Optimisers that move of a table only the rows that a step touches: Adam, and Adagrad with momentum.

Adagrad has its momentum as GRU4Rec's authors train it (torch's has none). A row that a step does not touch
stays where it is, whatever its momentum; it is touched if its gradient is not all zero. With a sparse
gradient a step costs as much as the rows in it, with a dense one as much as the table; the weights are the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

EPSILON = 1e-6


class Rows:
    """What of a table a step touches; of what is no table (`all_rows`), everything.

    Of a dense gradient the rows are all there, and a mask: to list those that count, a GPU would have to be
    waited for.
    """

    def __init__(self, gradient: Tensor, *, all_rows: bool = False) -> None:
        self._index: Tensor | None = None  # (U,) the rows that are there; None: all
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            self._index, gradient = gradient.indices()[0], gradient.values()
        self.gradient = gradient  # (U, D) or (U,)
        self._touched: Tensor | None = None  # (U, 1) or (U,), bool; None: all
        if not all_rows:
            some = gradient != 0
            self._touched = some if some.dim() == 1 else some.any(1, keepdim=True)

    def of(self, whole: Tensor) -> Tensor:
        """Those rows of the parameter, or of what is kept of it."""
        return whole if self._index is None else whole[self._index]

    def set(self, whole: Tensor, rows: Tensor) -> None:
        """Give the touched ones new values."""
        if self._touched is not None:
            rows = torch.where(self._touched, rows, self.of(whole))
        if self._index is None:
            whole.copy_(rows)
        else:
            whole.index_copy_(0, self._index, rows)


class RowWiseAdam(torch.optim.Adam):
    """Adam (Kingma & Ba, ICLR 2015), in which of the `tables` only the touched rows move.

    m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  p ← p − lr · m̂ / (sqrt(v̂) + ε). As in torch's SparseAdam m
    and v of other rows do not decay, and m̂ and v̂ count all steps, not a row's own. The weight decay, added
    to the gradient, is the touched rows', too.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        weight_decay: float = 0.0,
        tables: Iterable[Tensor] = (),
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self._tables = {id(table) for table in tables}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "one evaluation a step"
        held: list[tuple[Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._tables and parameter.grad is not None:
                    self._update(parameter, group)
                    held.append((parameter, parameter.grad))
                    parameter.grad = None  # torch's own step passes over it
        super().step()
        for parameter, gradient in held:
            parameter.grad = gradient

    def _update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter) for _ in range(2))
        rows = Rows(parameter.grad)
        gradient, values = rows.gradient, rows.of(parameter)
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * values
        steps = state["step"].add_(1).double()  # stays on the device
        mean = rows.of(state["exp_avg"]).lerp(gradient, 1 - beta1)
        square = (rows.of(state["exp_avg_sq"]) * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rows.set(state["exp_avg"], mean)
        rows.set(state["exp_avg_sq"], square)
        root = (square.sqrt() / (1 - beta2**steps).sqrt()).add_(group["eps"])
        rows.set(parameter, values - mean * (group["lr"] / (1 - beta1**steps)) / root)


class AdagradMomentum(torch.optim.Optimizer):
    """G ← G + g²;  m ← μm − lr · g / sqrt(G + ε);  p ← p + m (Duchi et al., JMLR 2011, with heavy ball).

    Of the `tables` a step updates only the rows that have a gradient.
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
        assert parameter.grad is not None
        state = self.state[parameter]
        rows = Rows(parameter.grad, all_rows=id(parameter) not in self._tables)
        gradient, values = rows.gradient, rows.of(parameter)
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * values
        if not state:
            state["squares"] = torch.zeros_like(parameter)
        squares = rows.of(state["squares"]).addcmul(gradient, gradient)
        rows.set(state["squares"], squares)
        change = gradient * squares.add(EPSILON).rsqrt_().mul_(-group["lr"])
        if group["momentum"]:
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            change = rows.of(state["momentum"]).mul(group["momentum"]).add_(change)
            rows.set(state["momentum"], change)
        rows.set(parameter, values + change)

"""A plain residual network as a PyTorch module. Imported only where PyTorch is wanted."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ideareg._rows import TINY_POWER, Scaling


def module(network: Any, dtype: str) -> Any:
    """Return the ``torch.nn.Module`` of a `PlainResNet`."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("to_torch needs PyTorch: pip install torch") from error
    kind = {"float32": torch.float32, "float64": torch.float64}[dtype]
    functions = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softplus": torch.nn.functional.softplus,
        "sigmoid": torch.sigmoid,
    }
    first, last = functions[network.activation], functions[network.output_activation]

    def tensor(array: Any) -> Any:
        return torch.tensor(np.asarray(array), dtype=kind)

    def linear(W: Any, b: Any) -> Any:
        layer = torch.nn.Linear(W.shape[1], W.shape[0], dtype=kind)
        layer.weight.data, layer.bias.data = tensor(W), tensor(b)
        return layer

    class Member(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, member: Any) -> None:
            super().__init__()
            pairs = zip(member.weights, member.biases, strict=True)
            self.layers = torch.nn.ModuleList([linear(W, b) for W, b in pairs])
            self.output = linear(member.output, member.output_bias)
            self.register_buffer("stretch", tensor(member.stretch))
            self.register_buffer("restretch", tensor(member.restretch))

        def forward(self, x: Any) -> Any:
            x = x * self.stretch
            for layer in self.layers:
                x = x + layer(first(x))
            return self.output(last(x * self.restretch))

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.members = torch.nn.ModuleList([Member(m) for m in network.members])
            self.register_buffer("shares", tensor([m.share for m in network.members]))
            for name, value in _columns(network.inputs).items():
                self.register_buffer(name, tensor(value))
            self.register_buffer("target_mean", tensor(network.target_mean))
            self.register_buffer("target_scale", tensor(network.target_scale))

        def forward(self, x: Any) -> Any:
            x = x / self.unit
            exponent = torch.where(x >= 0, self.power, 2 - self.power)
            log = torch.log1p(x.abs())
            safe = exponent.clamp(min=TINY_POWER)
            bent = torch.where(exponent > TINY_POWER, torch.expm1(safe * log) / safe, log)
            x = (torch.sign(x) * bent - self.mean) * self.slope
            pairs = zip(self.shares, self.members, strict=True)
            total = sum(share * member(x) for share, member in pairs)
            return total * self.target_scale + self.target_mean

    return Network()


def _columns(scaling: Scaling) -> dict[str, Any]:
    slope = np.where(scaling.varies, 1 / scaling.scale, 0.0)
    return {"unit": scaling.unit, "power": scaling.power, "mean": scaling.mean, "slope": slope}

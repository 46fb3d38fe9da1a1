"""The peer of the image benchmark: a small convolutional network with Dropout, in PyTorch.

Two blocks of two 3x3 convolutions with 32 and 64 channels, each with batch normalisation, maxima
over 2x2 and Dropout of 0.25; then 256 units with Dropout of 0.5, and a softmax. It is trained by
AdamW on random batches of 128, for a given number of seconds: the rate rises over their first
tenth and falls to zero with a cosine.
"""

from __future__ import annotations

import time
from typing import Any, Self

import numpy as np

CHANNELS, UNITS = (32, 64), 256
DROPOUT, LAST_DROPOUT = 0.25, 0.5
BATCH, PREDICTED = 128, 1000
RATE, DECAY, WARM_UP = 3e-3, 1e-2, 0.1


class ConvNet:
    """A small CNN that trains for a budget of seconds.

    Parameters
    ----------
    image_shape : tuple of int
        Height, width and channels; rows are flattened images.
    seconds : float
        Of training.
    random_state : int
        Of the first weights, the batches and Dropout.
    """

    classes_: np.ndarray

    def __init__(self, image_shape: tuple[int, int, int], seconds: float, random_state: int = 0):
        self.image_shape = image_shape
        self.seconds = seconds
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Train on images in [0, 255] or smaller."""
        import torch

        torch.manual_seed(self.random_state)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._largest = max(float(X.max()), 1.0)
        images, targets = self._images(X), torch.from_numpy(labels)
        self._net = net = _network(self.image_shape, len(self.classes_))
        optimiser = torch.optim.AdamW(net.parameters(), weight_decay=DECAY)
        net.train()
        start, share = time.perf_counter(), 0.0
        while share < 1:
            for rows in torch.randperm(len(images)).split(BATCH):
                if share >= 1 or len(rows) < 2:  # one row has no variance for batch normalisation
                    break
                for group in optimiser.param_groups:
                    group["lr"] = RATE * _rate(share)
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(images[rows]), targets[rows])
                loss.backward()
                optimiser.step()
                share = (time.perf_counter() - start) / self.seconds
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the probabilities of `classes_`."""
        import torch

        self._net.eval()
        with torch.inference_mode():
            parts = [self._net(part).softmax(1) for part in self._images(X).split(PREDICTED)]
            return np.asarray(torch.cat(parts).double())

    def _images(self, X: np.ndarray) -> Any:
        import torch

        images = (X / self._largest).astype(np.float32).reshape(-1, *self.image_shape)
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _rate(share: float) -> float:
    """Return the rate, as a part of the highest, after a share of the seconds."""
    if share < WARM_UP:
        return share / WARM_UP
    return 0.5 * (1 + float(np.cos(np.pi * (share - WARM_UP) / (1 - WARM_UP))))


def _network(shape: tuple[int, int, int], classes: int) -> Any:
    from torch import nn

    height, width, before = shape
    layers: list[Any] = []
    for channels in CHANNELS:
        for inputs in (before, channels):
            layers += [
                nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            ]  # fmt: skip
        layers += [nn.MaxPool2d(2), nn.Dropout(DROPOUT)]
        before, height, width = channels, height // 2, width // 2
    head = [nn.Linear(before * height * width, UNITS), nn.ReLU(), nn.Dropout(LAST_DROPOUT)]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(UNITS, classes))

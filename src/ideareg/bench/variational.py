"""The peers of the regression benchmark from GPyTorch: a sparse and a deep Gaussian process.

Both maximise the evidence lower bound on random batches, with the settings of GPyTorch's own
examples: batches of 1024 rows, Adam with a rate of 0.01, float32, inducing points that are learnt.

This module needs PyTorch and GPyTorch: it is imported where a peer is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import gpytorch
import numpy as np
import torch
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean, LinearMean
from gpytorch.mlls import DeepApproximateMLL, VariationalELBO
from gpytorch.models import ApproximateGP
from gpytorch.models.deep_gps import DeepGP, DeepGPLayer
from gpytorch.variational import CholeskyVariationalDistribution, VariationalStrategy

from ideareg.calibration import Mixture

INDUCING = 500  # of the sparse process
DEEP_INDUCING, SAMPLES = 128, 10  # of each layer of the deep one; of the hidden layer
START = 1e-2  # the hidden layer's first deviation, whitened
BATCH, PREDICTED = 1024, 1024
RATE, STEPS = 0.01, 2000


class _Sparse(ApproximateGP):
    """A constant mean and a Matérn-5/2 kernel with a length for each column."""

    def __init__(self, points: torch.Tensor) -> None:
        inner = CholeskyVariationalDistribution(len(points))
        super().__init__(VariationalStrategy(self, points, inner))
        self.mean = ConstantMean()
        self.kernel = ScaleKernel(MaternKernel(2.5, ard_num_dims=points.shape[1]))

    def forward(self, x: Any) -> MultivariateNormal:
        return MultivariateNormal(self.mean(x), self.kernel(x))


class _Layer(DeepGPLayer):
    """``outputs`` independent processes on the same inputs; one without an axis if it is None."""

    def __init__(self, points: torch.Tensor, outputs: int | None, mean: Any) -> None:
        n, inputs = points.shape
        batch = torch.Size([] if outputs is None else [outputs])
        inner = CholeskyVariationalDistribution(n, batch_shape=batch)
        strategy = VariationalStrategy(self, points.repeat(*batch, 1, 1), inner)
        super().__init__(strategy, inputs, outputs)
        self.mean = mean
        lengths = RBFKernel(batch_shape=batch, ard_num_dims=inputs)
        self.kernel = ScaleKernel(lengths, batch_shape=batch)

    def forward(self, x: Any) -> MultivariateNormal:
        return MultivariateNormal(self.mean(x), self.kernel(x))


class _Deep(DeepGP):
    """Two layers: a process for each column, which starts as the column, and one on top."""

    def __init__(self, points: torch.Tensor) -> None:
        super().__init__()
        d = points.shape[1]
        mean = LinearMean(d, batch_shape=torch.Size([d]))
        mean.weights.data = torch.eye(d)[:, :, None]
        mean.bias.data.zero_()
        self.hidden, self.top = _Layer(points, d, mean), _Layer(points, None, ConstantMean())
        inner = self.hidden.variational_strategy
        inner.variational_params_initialized.fill_(1)  # or the first call starts it at the prior
        inner._variational_distribution.chol_variational_covar.data.mul_(START)

    def forward(self, x: Any) -> Any:
        return self.top(self.hidden(x))


class SparseProcess:
    r"""A sparse Gaussian process with 500 inducing points u, trained on batches.

    .. math:: \max\; \sum_i E_{q(f_i)}[\log N(y_i \mid f_i, s^2)] - KL(q(u) \,\|\, p(u))

    Columns and targets are standardised; the points start at random training rows.

    Parameters
    ----------
    steps : int
        Of Adam.

    References
    ----------
    J. Hensman, A. Matthews, Z. Ghahramani (2015). Scalable variational Gaussian process
    classification. AISTATS.
    """

    def __init__(self, steps: int = STEPS) -> None:
        self.steps = steps

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Train for ``steps`` on rows (n, d) and targets (n,)."""
        for _ in zip(range(self.steps), self.training(X, y), strict=False):
            pass
        return self

    def training(self, X: np.ndarray, y: np.ndarray) -> Iterator[None]:
        """Train for as long as the caller goes on; what has been trained by then predicts."""
        torch.manual_seed(0)
        self._centre, self._scale = X.mean(0), X.std(0)
        self._scale[self._scale == 0] = 1.0
        self._mean, self._std = float(y.mean()), float(y.std()) or 1.0
        rows, targets = self._rows(X), _tensor((y - self._mean) / self._std)
        self._net, self._likelihood = self._model(rows), GaussianLikelihood()
        bound = self._bound(len(rows))
        parameters = [*self._net.parameters(), *self._likelihood.parameters()]
        optimiser = torch.optim.Adam(parameters, RATE)
        while True:
            for batch in torch.randperm(len(rows)).split(BATCH):
                self._net.train()
                optimiser.zero_grad()
                with gpytorch.settings.num_likelihood_samples(SAMPLES):
                    loss = -bound(self._net(rows[batch]), targets[batch])
                loss.backward()
                optimiser.step()
                yield

    def predict_mixture(self, X: np.ndarray) -> Mixture:
        """Return a normal for each row; of the deep process a mixture of ten."""
        torch.manual_seed(0)
        self._net.eval()
        means, variances = [], []
        with torch.no_grad(), gpytorch.settings.num_likelihood_samples(SAMPLES):
            for part in self._rows(X).split(PREDICTED):
                found = self._likelihood(self._net(part))
                means.append(np.atleast_2d(found.mean.double()))
                variances.append(np.atleast_2d(found.variance.double()))
        mean = self._mean + self._std * np.concatenate(means, axis=1)
        std = self._std * np.sqrt(np.concatenate(variances, axis=1))
        return Mixture(np.full(len(mean), 1 / len(mean)), mean, std)

    def _model(self, rows: torch.Tensor) -> Any:
        return _Sparse(_some(rows, INDUCING))

    def _bound(self, n: int) -> Any:
        return VariationalELBO(self._likelihood, self._net, n)

    def _rows(self, X: np.ndarray) -> torch.Tensor:
        return _tensor((X - self._centre) / self._scale)


class DeepProcess(SparseProcess):
    """A deep Gaussian process of two layers, doubly stochastic.

    The bound is that of `SparseProcess` with the divergences of both layers; ten samples of the
    hidden layer estimate its expectation, and its forecast is the mixture over ten. As in the
    paper the hidden layer starts near the identity, and inducing points at training rows: from
    the random start of GPyTorch's example sets of a few hundred rows are not learnt.

    References
    ----------
    H. Salimbeni, M. Deisenroth (2017). Doubly stochastic variational inference for deep Gaussian
    processes. NeurIPS. GPyTorch, "Deep Gaussian Processes", in its documentation.
    """

    def _model(self, rows: torch.Tensor) -> Any:
        return _Deep(_some(rows, DEEP_INDUCING))

    def _bound(self, n: int) -> Any:
        return DeepApproximateMLL(VariationalELBO(self._likelihood, self._net, n))


def _some(rows: torch.Tensor, count: int) -> torch.Tensor:
    return rows[torch.randperm(len(rows))[:count]]


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))

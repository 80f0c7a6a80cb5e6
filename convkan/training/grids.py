"""Grids that change while a model is trained, as Lightning callbacks."""

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from convkan.grid import adapt_grids, coverages, refine_grids, spline_layers
from convkan.grid.models import SHARDING

_log = logging.getLogger(__name__)


class AdaptGrids(Callback):
    """Moves the grids of all spline layers to where their inputs are, every few steps, from the step's own batch.

    Models that average the weights move along: those that Lightning's callbacks keep, and every
    ``torch.optim.swa_utils.AveragedModel`` within the Lightning module.

    Args:
        every: Steps between adaptations.
        until: The last step at which to adapt; weights settle on grids that stay.
        grid_eps: Share of equally spaced knots; see ``convkan.grid.adapt_grid``.

    Attributes:
        changes: For each step at which grids were adapted, the largest relative change of a layer's functions.

    Raises:
        ValueError: ``every`` or ``until`` is below 1.
    """

    def __init__(self, every: int, until: int, grid_eps: float = 0.05) -> None:
        if every < 1 or until < 1:
            raise ValueError(f"every and until must be at least 1, got {every} and {until}")
        self.every, self.until, self.grid_eps = every, until, grid_eps
        self.changes: dict[int, float] = {}
        self._last_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """No step has been adapted at yet."""
        self._last_step = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Adapt if it is time."""
        step = trainer.global_step
        if step == self._last_step:  # gradients accumulate: those so far belong to the grids as they are
            return
        self._last_step = step
        if 0 < step <= self.until and step % self.every == 0 and spline_layers(pl_module):
            averages = _averages(trainer, pl_module)
            changes = adapt_grids(_model_of(pl_module), [batch[0]], grid_eps=self.grid_eps, averages=averages)
            self.changes[step] = max(changes.values())

    def state_dict(self) -> dict[str, Any]:
        """The changes so far, for the checkpoint."""
        return {"changes": self.changes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up those of a checkpoint."""
        self.changes = dict(state_dict["changes"])


class RefineGrids(Callback):
    """Makes all grids finer at the start of given epochs, keeping the functions on the grid.

    Coefficients become new parameters; the optimiser is given them in the old ones' places and their state starts anew.
    Of several processes, all refine at the same step, and share the gradients of the new parameters from then on.
    Models that average the weights are refined with them, as in ``AdaptGrids``.

    Args:
        schedule: For epochs, counted from 0, the number of intervals from then on.
        keep_beyond: See ``convkan.grid.refine_grid``. Training goes on, so by default speed is preferred.

    Raises:
        ValueError: An epoch is negative or a size below 1.
    """

    def __init__(self, schedule: Mapping[int, int], keep_beyond: bool = False) -> None:
        if any(epoch < 0 or size < 1 for epoch, size in schedule.items()):
            raise ValueError(f"schedule must map epochs from 0 to sizes from 1, got {dict(schedule)}")
        self.schedule, self.keep_beyond = dict(schedule), keep_beyond

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refine if it is time.

        Raises:
            RuntimeError: The model is sharded over devices, which leaves no process a whole layer.
        """
        size = self.schedule.get(trainer.current_epoch)
        layers = spline_layers(pl_module)
        if size is None or all(layer.basis.grid_size == size for layer in layers.values()):  # type: ignore[attr-defined]
            return  # a resumed run may be there already
        if {parent.__name__ for parent in type(trainer.strategy.model).__mro__} & set(SHARDING):
            raise RuntimeError(f"grids cannot be refined within {' or '.join(SHARDING)}: train each size on its own")
        with _unwrapped(trainer, pl_module):
            averages, optimizer = _averages(trainer, pl_module), trainer.optimizers[0]
            refine_grids(_model_of(pl_module), size, optimizer, keep_beyond=self.keep_beyond, averages=averages)


class WatchCoverage(Callback):
    """Logs, at the end of each epoch, the share of every spline layer's inputs that lie off its grid.

    Args:
        threshold: Warn, once, if it is more than this in a layer.

    Attributes:
        off_grid: The shares by layer, of the last epoch's last batch.
    """

    def __init__(self, threshold: float = 0.3) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self.threshold, self.warned = threshold, False
        self.off_grid: dict[str, float] = {}
        self._images: Tensor | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the images."""
        self._images = batch[0]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, log and warn."""
        if self._images is None:
            return
        found = coverages(_model_of(pl_module), [self._images])
        self._images = None
        self.off_grid = {name: coverage.off_grid.mean().item() for name, coverage in found.items()}
        for name, share in self.off_grid.items():
            pl_module.log(f"off_grid/{name}", torch.tensor(share), sync_dist=True)
        worst = max(self.off_grid, key=lambda name: self.off_grid[name], default=None)
        if worst is not None and self.off_grid[worst] > self.threshold and not self.warned:
            self.warned = True
            _log.warning(
                "%.0f %% of the inputs of layer %s lie off its grid, where its splines do not follow them: "
                "normalise them, or adapt the grids",
                100 * self.off_grid[worst],
                worst,
            )

    def state_dict(self) -> dict[str, Any]:
        """Whether it has warned, for the checkpoint."""
        return {"warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.warned = bool(state_dict["warned"])


@contextmanager
def _unwrapped(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[None]:
    """Within a ``with`` block, have no process hold on to parameters for the others, and afterwards to the new ones."""
    strategy = trainer.strategy
    if not isinstance(strategy.model, DistributedDataParallel):
        yield
        return
    assert isinstance(strategy, DDPStrategy)
    strategy.model = pl_module
    gc.collect()  # what reduced the old gradients is in a circle of references, and would go on
    yield
    strategy.configure_ddp()


def _averages(trainer: L.Trainer, pl_module: L.LightningModule) -> list[nn.Module]:
    """The networks that average the one in training."""
    kept = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    own = [module for module in pl_module.modules() if isinstance(module, AveragedModel)]
    found = [average for average in (*kept, *own) if isinstance(average, nn.Module)]
    networks = [average.module if isinstance(average, AveragedModel) else average for average in found]
    networks = [_model_of(network) if isinstance(network, L.LightningModule) else network for network in networks]
    wanted = spline_layers(_model_of(pl_module)).keys()
    # Of other networks, or of parts of this one: those that are left behind say so when they are used.
    return [network for network in networks if wanted <= spline_layers(network).keys()]


def _model_of(pl_module: nn.Module) -> nn.Module:
    """The network within a Lightning module."""
    model = getattr(pl_module, "model", pl_module)
    assert isinstance(model, nn.Module)
    return model

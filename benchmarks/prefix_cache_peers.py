"""The arms of `prefix_cache.py` on torch: the same network, batches and data with Lightning.

    python -m pip install -r benchmarks/peers.txt

is what the environment that runs this file needs; keras_freeze is not.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

import lightning as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn

BATCH, CLASSES = 32, 15
FILTERS = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]


def blocks() -> nn.Sequential:
    """Return VGG16's five blocks."""
    made, channels = [], 3
    for filters, count in FILTERS:
        parts: list[nn.Module] = []
        for _ in range(count):
            parts += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
        made.append(nn.Sequential(*parts, nn.MaxPool2d(2)))
    return nn.Sequential(*made)


class Classifier(pl.LightningModule):
    """VGG16 with the head that the arms on Keras have."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = blocks()
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(512),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, CLASSES),
        )

    def forward(self, x: Any) -> Any:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=1e-3)


class Frozen(BackboneFinetuning):
    """Lightning's callback, with the backbone frozen to the end."""

    def __init__(self) -> None:
        super().__init__(unfreeze_backbone_at_epoch=10**6)


class Blockwise(BaseFinetuning):
    """Lightning's own way to unfreeze part after part."""

    def freeze_before_training(self, module: Any) -> None:
        self.freeze(module.backbone)

    def finetune_function(self, module: Any, epoch: int, optimizer: Any) -> None:
        if epoch in (5, 10):
            block = module.backbone[4 if epoch == 5 else 3]
            self.unfreeze_and_add_param_group(block, optimizer, initial_denom_lr=1.0)


def scheduler(case: str, folder: str, epochs: int) -> Any:
    """Return a FinetuningScheduler with the case's schedule, by epochs alone."""
    from finetuning_scheduler import FinetuningScheduler

    phases = [r"head.*"]
    if case == "gradual-15":
        phases += [r"backbone\.4.*", r"backbone\.3.*"]
    lines = []
    for n, pattern in enumerate(phases):
        end = epochs if n + 1 == len(phases) else 5 * (n + 1)
        lines += [f"{n}:", "  params:", f"  - {pattern}", f"  max_transition_epoch: {end}"]
    file = Path(folder) / "schedule.yaml"
    file.write_text("\n".join(lines) + "\n")
    return FinetuningScheduler(
        ft_schedule=str(file),
        epoch_transitions_only=True,
        restore_best=False,
        enforce_phase0_params=True,
    )


def loader(rows: int, seed: int, shuffle: bool) -> Any:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(0, 1, (rows, 3, 64, 64)).astype("float32"))
    y = torch.from_numpy(rng.integers(0, CLASSES, rows))
    data = torch.utils.data.TensorDataset(x, y)
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=shuffle)


def main(case: str, arm: str) -> None:
    """Train once and print what it took."""
    torch.manual_seed(0)
    epochs = {"head-10": 10, "head-30": 30, "gradual-15": 15}[case]
    model = Classifier()
    with tempfile.TemporaryDirectory() as folder:
        if arm == "finetuning-scheduler":
            callback = scheduler(case, folder, epochs)
        else:
            callback = Blockwise() if case == "gradual-15" else Frozen()
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=[callback],
        )
        parts = loader(512, 0, shuffle=True), loader(128, 1, shuffle=False)
        began, began_processor = time.perf_counter(), time.process_time()
        trainer.fit(model, *parts)
        seconds = time.perf_counter() - began
        processor = time.process_time() - began_processor
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    measures = {"seconds": seconds, "processor_s": processor, "peak_bytes": peak}
    print(json.dumps({**measures, "trained_params": trained}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

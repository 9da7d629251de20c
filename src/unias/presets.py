"""Named settings: architectures, training recipes, and the presets that combine them.

``paper`` and ``released`` are the source's; ``small`` is ours, made for two CPU cores (docs/LOG.md has the tries).
"""

from __future__ import annotations

from unias.config import BackboneConfig, Config, MapConfig, ModelConfig, TrainConfig
from unias.errors import UsageError

ARCHITECTURES: dict[str, ModelConfig] = {
    "paper": ModelConfig(),
    "released": ModelConfig(sar="released", head_padding="each"),
    "small": ModelConfig(
        standardize=True,
        jitter_scale=1.0,
        jitter_norm="rms",
        width=64,
        ffn=256,
        dropout=0.0,
        norm="pre",
        encoder_layers=2,
        fpn_widths=(128, 64, 32, 16),
        patch_widths=(),
        cnn_residual=True,
        head="subpixel",
    ),
}
SOURCE_BACKBONE = BackboneConfig(name="tf_efficientnet_b4.aa_in1k")

PRESETS: dict[str, Config] = {
    "small": Config(
        preset="small",
        model=ARCHITECTURES["small"],
        maps=MapConfig(
            fusion="mean", weights=(2.0, 3.0, 3.0, 1.0), power=0.7, local_sigma=5.0, wide_sigma=8.0, drawn=80
        ),
        train=TrainConfig(
            recipe="auto",
            batch_size=8,
            epochs=32,
            optimizer="muon",
            muon_rate=3e-3,
            learning_rate=1e-3,
            clip=1.0,
            schedule="cosine",
            warmup_steps=100,
            practice=160,
            keep_photos=8,
            ema=0.998,
            cache=True,
        ),
    ),
    "paper": Config(
        preset="paper",
        backbone=SOURCE_BACKBONE,
        model=ARCHITECTURES["paper"],
        train=TrainConfig(precision="32-true"),
    ),
    "visa": Config(
        preset="visa",
        backbone=SOURCE_BACKBONE,
        model=ARCHITECTURES["paper"],
        train=TrainConfig(recipe="visa", loss_weight=1.0, precision="32-true"),
    ),
    "released": Config(
        preset="released",
        backbone=SOURCE_BACKBONE,
        model=ARCHITECTURES["released"],
        train=TrainConfig(schedule="step_released", precision="32-true"),
    ),
}


def preset(name: str) -> Config:
    """The settings of a preset. Raises UsageError for a name that does not exist."""
    if name not in PRESETS:
        raise UsageError(f"preset: {name!r} is not one of {', '.join(PRESETS)}.")
    return PRESETS[name]

"""Every setting of a model and its training, as frozen dataclasses that are checked when they are made.

A model on disk carries its settings as ``config.yaml``; ``configs/*.yaml`` in the repository are the same kind of file.
Level numbers follow the paper: 1 = finest (stride 2) ... 4 = coarsest (stride 16).
"""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from unias.errors import UsageError

LEVELS = (4, 3, 2, 1)
STRIDES = {1: 2, 2: 4, 3: 8, 4: 16}
MIN_SIZE = 128
SIZE_MULTIPLE = 32
MOST_TILES = 8


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen feature extractor (spec section 1)."""

    name: str = "tf_efficientnet_lite2"  # any timm `features_only` backbone with strides 2, 4, 8, 16
    weights: str = "auto"  # auto | random | a local .safetensors or .pth file | a timm / Hugging Face name
    authors_padding: bool = False  # the one convolution in which timm's B4 differs from the authors' at 224 pixels


@dataclass(frozen=True)
class ModelConfig:
    """The trained part: feature filter, pixel decoder, query, decoder, reconstruction heads (spec sections 2 to 8)."""

    levels: tuple[int, ...] = LEVELS  # which levels are reconstructed and mapped, coarse to fine (Table 4)
    filter: str = "gaussian_concat"  # none | average | gaussian | gaussian_concat (Table 3)
    standardize: bool = False  # features per channel to mean 0, deviation 1, by the training photos' statistics
    jitter_scale: float = 20.0  # section 3: noise deviation = scale / sqrt or width; see jitter_norm
    jitter_probability: float = 0.5  # chance, a level and batch, that noise is added at all (training only)
    jitter_norm: str = "channels"  # channels: scale * ||x|| / D as in UniAD | rms: scale * rms(x)
    width: int = 256  # d: channels of tokens, query and decoder
    heads: int = 4  # attention heads, of consecutive channels
    ffn: int = 2048  # width inside every feed-forward step
    dropout: float = 0.1  # on attention weights, after attention, inside and after the feed-forward step
    norm: str = "post"  # post: x = norm(x + step(x)) as published | pre: x = x + step(norm(x))
    encoder_layers: int = 3  # transformer layers on the coarsest level of the pixel decoder
    fpn_widths: tuple[int, ...] = (256, 256, 256, 256)  # channels of y_4, y_3, y_2, y_1
    patch_widths: tuple[int, ...] = (256, 384, 512)  # channels between patch and 1x1 convolution, levels 3, 2, 1
    sar: str = "paper"  # query: paper (Eq. 1) | released (two queries and an MGG-CNN) | none (plain learned query)
    channel_branch: bool = True  # the channel half of the hybrid block
    cnn: str = "mgg"  # after each hybrid block: mgg | mg (no gate) | conv3 | none (Table 3)
    cnn_residual: bool = False  # x + cnn(x) instead of cnn(x)
    neighbour_window: int = 7  # side of the window a query may not attend to
    head: str = "conv3"  # conv3: upsample, three 3x3 convolutions | subpixel: one 3x3 convolution, pixel shuffle
    head_padding: str = "once"  # conv3 only: once (pad by 3, then valid) | each (zero padding three times, released)

    def __post_init__(self) -> None:
        _one_of("filter", self.filter, ("none", "average", "gaussian", "gaussian_concat"))
        _one_of("jitter_norm", self.jitter_norm, ("channels", "rms"))
        _one_of("norm", self.norm, ("post", "pre"))
        _one_of("sar", self.sar, ("paper", "released", "none"))
        _one_of("cnn", self.cnn, ("mgg", "mg", "conv3", "none"))
        _one_of("head", self.head, ("conv3", "subpixel"))
        _one_of("head_padding", self.head_padding, ("once", "each"))
        object.__setattr__(self, "levels", tuple(sorted(set(self.levels), reverse=True)))
        if not self.levels or any(level not in LEVELS for level in self.levels):
            raise UsageError(f"levels: {self.levels} is not a subset of 4, 3, 2, 1. Name at least one of them.")
        if min(self.width, self.heads, self.ffn) < 1 or self.encoder_layers < 0:
            raise UsageError("width, heads and ffn must be at least 1, encoder_layers at least 0.")
        if len(self.fpn_widths) != 4 or any(w < 8 or w % 8 for w in self.fpn_widths) or self.fpn_widths[0] % self.heads:
            raise UsageError(
                f"fpn_widths: {self.fpn_widths} must be four multiples of 8 (levels 4, 3, 2, 1), the first of heads too."
            )
        if len(self.patch_widths) not in (0, 3):
            raise UsageError(
                "patch_widths: three numbers are needed (levels 3, 2, 1), or none for a direct patch embedding."
            )
        if self.width % self.heads or self.width % 4:
            raise UsageError(f"width: {self.width} must divide by 4 and by heads ({self.heads}).")
        if not 0 <= self.dropout < 1 or not 0 <= self.jitter_probability <= 1 or self.jitter_scale < 0:
            raise UsageError("dropout must be in [0, 1), jitter_probability in [0, 1], jitter_scale at least 0.")
        if self.neighbour_window % 2 == 0 or self.neighbour_window < 1:
            raise UsageError(f"neighbour_window: {self.neighbour_window} must be odd and at least 1.")


@dataclass(frozen=True)
class MapConfig:
    """From reconstructions to one anomaly map (spec section 8)."""

    fusion: str = "product"  # product (paper) | mean (weighted mean of the levels, each over what is usual there)
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # of levels 4, 3, 2, 1 in `mean`
    power: float = 1.0  # `mean`: levels are raised to it first; 1 = sum, towards 0 = product
    local_sigma: float = 0.0  # `mean`: sigma of a place's surroundings, in pixels of level 1's map at 224; 0 = off
    wide_sigma: float = 0.0  # `mean`: sigma of a last blur that a product's rule may ask for, as above; 0 = never
    local_spread: float = 0.8  # `mean`: photo-to-photo deviation of the log local noise at which both weigh alike
    drawn: int = 0  # `mean`: photos a product that defects are drawn into to choose the rule; 0 = the above
    kernels: tuple[int, ...] = (3, 5, 7, 9)  # Gaussian smoothing of levels 4, 3, 2, 1; sigma = kernel / 3

    def __post_init__(self) -> None:
        _one_of("fusion", self.fusion, ("product", "mean"))
        if len(self.weights) != 4 or len(self.kernels) != 4 or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise UsageError("maps: four weights and four odd kernel sizes are needed, for levels 4, 3, 2, 1.")
        if (
            min(self.weights) < 0
            or sum(self.weights) <= 0
            or min(self.local_sigma, self.wide_sigma) < 0
            or min(self.local_spread, self.power) <= 0
            or self.drawn < 0
        ):
            raise UsageError("maps: weights must be at least 0 and not all 0, sigmas at least 0, local_spread above 0.")


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained (spec section 9)."""

    recipe: str = "mvtec"  # mvtec | visa: the paper's lists of products to flip and rotate | auto: found out | none
    loss_weight: float = 10.0  # factor on the summed loss: 10 for MVTec-AD, 1 for VisA
    cosine_sign: str = "paper"  # paper: + (1 - cosine) | released: + cosine, the published fault, for study only
    epochs: int = 1000  # how long, where neither steps nor minutes is given
    steps: int | None = None  # number of optimiser steps; wins over epochs
    minutes: float | None = None  # wall-clock budget from start to the model on disk; fixes `steps` itself
    batch_size: int = 64  # photos a step
    optimizer: str = "adamw"  # adamw | muon: Muon for the weight matrices, AdamW for the rest
    learning_rate: float = 1e-4  # of AdamW, betas 0.9 / 0.999
    muon_rate: float = 3e-3  # of Muon, whose steps are scaled to AdamW's size
    weight_decay: float = 1e-4  # on every trained parameter
    clip: float = 0.1  # largest total L2 norm of the gradient
    schedule: str = "step"  # step: x 0.1 after drop_epochs | step_released: an epoch later | cosine: after warm-up
    drop_epochs: int = 400  # epochs between drops of the step schedule
    warmup_steps: int = 0  # linear warm-up of the cosine schedule
    ema: float = 0.0  # decay of averaged weights that become the model; 0 = none
    cache: bool = False  # keep the frozen features on disk, those of turned photos too
    cache_gib: float = 8.0  # how much disk the feature cache may take
    seed: int = 0  # of weights, split, order, noise
    precision: str = "auto"  # auto | 32-true | bf16-mixed
    checkpoint_minutes: float = 2.0  # how often the training state is kept for --resume
    hold_out: float = 0.2  # share of each product's good photos kept for the cut and nothing else
    hold_out_least: int = 20  # at least so many, or half of them
    practice: int = 0  # drawn textures that steps see beside the photos of one or two products
    keep_photos: int = 0  # training photos a product that the model keeps for `unias extend`, as it saw them

    def __post_init__(self) -> None:
        _one_of("recipe", self.recipe, ("mvtec", "visa", "auto", "none"))
        _one_of("cosine_sign", self.cosine_sign, ("paper", "released"))
        _one_of("optimizer", self.optimizer, ("adamw", "muon"))
        _one_of("schedule", self.schedule, ("step", "step_released", "cosine"))
        _one_of("precision", self.precision, ("auto", "32-true", "bf16-mixed"))
        if self.batch_size < 1 or self.epochs < 1 or (self.steps is not None and self.steps < 1):
            raise UsageError("batch_size, epochs and steps must be at least 1.")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise UsageError(f"minutes: {self.minutes} must be above 0.")
        if self.keep_photos < 0 or self.practice < 0:
            raise UsageError("keep_photos and practice must be at least 0.")
        if not 0 <= self.hold_out < 1 or not 0 <= self.ema < 1:
            raise UsageError("hold_out and ema must be in [0, 1).")
        if not (0 < self.learning_rate < float("inf") and 0 < self.muon_rate < float("inf")):
            raise UsageError("learning_rate and muon_rate must be above 0.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed: {self.seed} is not between 0 and {2**32 - 1}.")
        if self.drop_epochs < 1 or not self.clip > 0:
            raise UsageError("drop_epochs must be at least 1, clip above 0.")
        if self.schedule == "cosine" and self.warmup_steps < 1:
            raise UsageError("warmup_steps must be at least 1 with the cosine schedule: they are timed for --minutes.")


@dataclass(frozen=True)
class CalibrationConfig:
    """When is a part bad, without a defect photo (issue 6)."""

    false_alarms: float = 0.05  # share of good photos that may fail, wished; what n held-out photos allow is told
    min_area: int = 1  # pixels of the model's map that a region must have to count
    lower_quantile: float = 0.99999  # of good training photos' pixels: marked regions are grown down to it
    unknown_reach: float = 1.2  # how far a product reaches, in distances of its farthest good photo

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms < 1 or not 0 < self.lower_quantile < 1:
            raise UsageError("false_alarms and lower_quantile must lie between 0 and 1.")
        if self.min_area < 1 or not self.unknown_reach > 0:
            raise UsageError("min_area must be at least 1, unknown_reach above 0.")


@dataclass(frozen=True)
class Tiling:
    """How a photo is cut into overlapping square views, each seen at the model's input size."""

    grid: int  # views along one side
    size: int  # side of a view in pixels
    overlap: int  # pixels that neighbours share, even

    @property
    def views(self) -> int:
        """Views of one photo."""
        return self.grid**2

    @property
    def side(self) -> int:
        """Side of the square that a photo is brought to before it is cut: the views laid out with their overlap."""
        return self.grid * self.size - (self.grid - 1) * self.overlap

    @property
    def starts(self) -> tuple[int, ...]:
        """Where views begin along one side; views are numbered row by row."""
        return tuple(place * (self.size - self.overlap) for place in range(self.grid))


@dataclass(frozen=True)
class Config:
    """All of it: what ``config.yaml`` of a model holds."""

    preset: str = "small"  # the preset it started from
    system: str = "unias"  # or one of the systems it is compared with, or one that you registered
    size: int = 224  # side of the square input in pixels, a multiple of 32 from 128 up
    tile: int = 1  # views along a photo's side, each seen at the input size: small defects; 1 = photos whole
    tile_overlap: float = 0.125  # share of a view that its neighbour shows too, 0 to 0.5
    bits: int | None = None  # real depth of data kept in 16-bit files, 9 to 16; None = the type's full range
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    maps: MapConfig = field(default_factory=MapConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    settings: dict[str, Any] = field(default_factory=dict)  # of a system other than UniAS, which checks them itself

    def __post_init__(self) -> None:
        if self.settings and self.system == "unias":
            raise UsageError("settings: are for other systems; UniAS's own stand under model, maps and train.")
        if self.size < MIN_SIZE or self.size % SIZE_MULTIPLE:
            raise UsageError(
                f"size: {self.size} is not a multiple of {SIZE_MULTIPLE} from {MIN_SIZE} up. Try 224 or 256."
            )
        if not 1 <= self.tile <= MOST_TILES or not 0 <= self.tile_overlap <= 0.5:
            raise UsageError(f"tile: {self.tile} must be 1 to {MOST_TILES}, tile_overlap {self.tile_overlap} 0 to 0.5.")
        if self.tile > 1 and self.system != "unias":
            raise UsageError(f"tile: is for unias; {self.system} sees photos whole. Leave it out.")
        if self.bits is not None and not 9 <= self.bits <= 16:
            raise UsageError(f"bits: {self.bits} is not between 9 and 16 (the depth of data in 16-bit files).")

        if self.maps.fusion == "mean" and not sum(self.maps.weights[LEVELS.index(k)] for k in self.model.levels):
            raise UsageError(f"maps: the weights of the levels {self.model.levels} are all 0. Raise one of them.")
        if self.maps.local_sigma > 20:
            raise UsageError(f"maps: local_sigma {self.maps.local_sigma} is too wide for the map; use at most 20.")

    @property
    def grid(self) -> int:
        """Tokens along one side (size / 16)."""
        return self.size // STRIDES[4]

    @property
    def tiling(self) -> Tiling:
        """How photos are cut into views."""
        return Tiling(self.tile, self.size, 2 * round(self.size * self.tile_overlap / 2))

    @property
    def input_size(self) -> int:
        """Side of the square that photos are brought to, and of maps: the input size, or more where photos are tiled."""
        return self.tiling.side


ConfigType = TypeVar("ConfigType")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain types only, ready for YAML or JSON; tuples become lists."""
    plain = dataclasses.asdict(config)

    def lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: lists(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    result = lists(plain)
    assert isinstance(result, dict)
    return result


def from_dict(kind: type[ConfigType], values: dict[str, Any], where: str = "config") -> ConfigType:
    """Build a config dataclass from plain types.

    Raises UsageError for a name that does not exist or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{where}: settings are expected (name: value), got {type(values).__name__}.")
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{where}: there is no setting {name!r}. Known: {', '.join(sorted(known))}.")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = from_dict(typing.cast(type, hint), value, f"{where}.{name}")
        else:
            arguments[name] = _typed(value, hint, f"{where}.{name}")
    return kind(**arguments)


def load_config(path: Path | str) -> Config:
    """Read a YAML config. Raises UsageError naming file and fault."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML settings ({error}).") from error
    return from_dict(Config, {} if values is None else values, str(path))


def dump_config(config: Config) -> str:
    """The YAML text of a config, in the order of the fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, allow_unicode=True)


def _typed(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise UsageError(f"{where}: settings are expected (name: value), got {value!r}.")
        return dict(value)
    options = typing.get_args(hint) if typing.get_origin(hint) is not tuple else ()
    if type(None) in options:
        if value is None:
            return None
        hint = next(option for option in options if option is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where}: a list is expected, got {value!r}.")
        return tuple(_typed(item, typing.get_args(hint)[0], where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
        return float(value)  # YAML 1.1 reads 1e-3, without a dot, as text
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"{where}: {hint.__name__} is expected, got {value!r}.")
    return value


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}: {value!r} is not one of {', '.join(allowed)}.")

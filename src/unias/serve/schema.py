"""The answers' shapes, for /docs and for clients made from /openapi.json; what is sent is not run through them again."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unias.serve.answers import MapForm, MaskForm


class Wishes(BaseModel):
    """The query of an inspection; a parameter that is none of these is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")

    product: str | None = Field(
        None, max_length=500, description="Which product the photo shows. Left out, it is recognised."
    )
    mask: MaskForm = Field(
        "png",
        description="png: 1 bit, base64. rle: COCO's uncompressed counts. polygon: outer outlines, x, y in pixels. none.",
    )
    map: MapForm = Field("none", description="png: the anomaly map at the model's size, 16 bit, base64.")


class Problem(BaseModel):
    """What went wrong and what to do."""

    error: str
    hint: str


class ModelInfo(BaseModel):
    """Which model answered."""

    name: str
    version: str = Field(description="SHA-256 of its manifest.json.")


class Region(BaseModel):
    """One marked region, in the photo's own pixels."""

    box: tuple[float, float, float, float] = Field(description="x, y, width, height.")
    area: float
    score: float = Field(description="The map's highest value in it, on the scale of pred_score.")
    contour: list[tuple[float, float]] = Field(
        description="x, y of its outer outline, closed without its first point again."
    )


class Mask(BaseModel):
    """What is marked, at the photo's own size."""

    format: Literal["png", "rle", "polygon"]
    size: tuple[int, int] = Field(description="Height, width.")
    data: str | None = Field(None, description="png: base64 of a 1-bit PNG, white = marked.")
    counts: list[int] | None = Field(None, description="rle: run lengths down the columns, not marked first.")
    polygons: list[list[tuple[float, float]]] | None = Field(None, description="polygon: one outline a region.")


class AnomalyMap(BaseModel):
    """The map that decided: value = pixel x scale, on the scale of raw_score."""

    format: Literal["png"]
    bits: Literal[16]
    size: tuple[int, int] = Field(description="Height, width: the model's, not the photo's.")
    scale: float
    data: str = Field(description="Base64 of a 16-bit grey PNG.")


class Inspection(BaseModel):
    """One photo's answer."""

    id: str = Field(description="The request's X-Request-Id, or one made here.")
    model: ModelInfo
    verdict: Literal["ok", "defect", "unknown product"]
    ok: bool
    product: str | None = Field(description="Null where it is none that the model knows.")
    product_known: bool
    nearest: str = Field(description="The product whose cut was used.")
    pred_score: float = Field(description="0 to 1, 0.5 = the cut.")
    p_value: float | None = Field(description="Share of good parts as unusual as this one, at most.")
    raw_score: float
    cut: float = Field(description="On the scale of raw_score.")
    size: tuple[int, int] = Field(description="The photo's height, width, upright.")
    defect_area: float = Field(description="Share of the photo that is marked.")
    regions: list[Region]
    timings: dict[str, float] = Field(description="Seconds: decode, model, verdict.")
    mask: Mask | None
    map: AnomalyMap | None


class Promise(BaseModel):
    """What the cut's rank among held-out good photos promises."""

    false_alarm_rate: float = Field(description="Of good parts, on average; 1 = nothing is promised.")
    at_most: float = Field(description="With 95% confidence.")
    wished: float
    held_out: int
    rank: int
    missing: int = Field(description="Held-out photos still lacking for the wished rate.")
    text: str


class DriftInfo(BaseModel):
    """Whether the last passed parts still look like the held-out photos."""

    drifted: bool
    chance: float
    parts: int
    held_out: int
    text: str


class Product(BaseModel):
    """One product of the model."""

    name: str
    cut: float
    provisional: bool
    promise: Promise
    training_photos: int
    held_out_photos: int
    min_area: int
    ignored_share: float
    drift: DriftInfo


class Products(BaseModel):
    """All of them."""

    model: ModelInfo
    products: list[Product]

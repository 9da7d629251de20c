"""A trained model as one graph for another runtime: written, compared with the original on photos, bundled."""

from unias.export.bundle import write_bundle
from unias.export.run import export_model

__all__ = ["export_model", "write_bundle"]

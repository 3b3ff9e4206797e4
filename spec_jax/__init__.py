"""spec_jax: speculative decoding in JAX, every rule proven exact."""

from spec_jax import systems
from spec_jax import verifiers
from spec_jax.api import generate
from spec_jax.api import Generated
from spec_jax.core.registry import UnknownName
from spec_jax.core.sampling import Sampling
from spec_jax.core.system import IncompatibleParts
from spec_jax.core.system import System
from spec_jax.core.types import Params
from spec_jax.models.bundle import Bundle
from spec_jax.models.bundle import from_hf
from spec_jax.models.bundle import load_bundle
from spec_jax.models.checkpoint import load_hf
from spec_jax.models.draft_checkpoint import add_draft
from spec_jax.systems import build
from spec_jax.systems import citation

__version__ = "0.1.0"

__all__ = (
    "add_draft",
    "build",
    "Bundle",
    "citation",
    "from_hf",
    "generate",
    "Generated",
    "IncompatibleParts",
    "load_bundle",
    "load_hf",
    "Params",
    "Sampling",
    "System",
    "systems",
    "UnknownName",
    "verifiers",
)

"""Packaging of spec_jax; tested versions are pinned in constraints.txt."""

import pathlib

import setuptools

_HERE = pathlib.Path(__file__).parent

setuptools.setup(
    name="spec-jax",
    version="0.1.0",
    description="Speculative decoding in JAX: every rule proven exact, every"
    " method on one counter and one clock.",
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(
        include=("spec_jax", "spec_jax.*", "theory", "theory.*",
                 "experiments", "experiments.*")),
    package_data={"spec_jax": ["data/*/*", "data/*/heads/*"],
                  "theory": ["*.bib", "notes/*.md"]},
    install_requires=[
        "absl-py",
        "chex",
        "flax",
        "jax>=0.10",
        "matplotlib",
        "numpy",
        "optax>=0.2.6",
        "orbax-checkpoint",
        "safetensors",
        "scipy",
        "tokenizers",
        "tqdm",
    ],
    extras_require={
        # pytest-xdist 3.8 loses its groups in pytest 9.2.
        "test": ["bayesian-optimization", "hypothesis", "ipykernel",
                 "nbclient", "nbformat", "pytest<9.2", "pytest-xdist", "ruff"],
        "notebooks": ["ipykernel", "jupyterlab", "nbclient", "nbformat"],
        # experiments.search_layers.
        "search": ["bayesian-optimization"],
        # Golden fixtures and comparisons; plain torch brings CUDA with it.
        "parity": ["torch==2.13.0", "transformers"],
    },
)

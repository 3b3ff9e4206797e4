"""Ways to compile a program."""

# For what runs a few times only: compiled sooner, and slower then. Not for what
# is timed, and not inside of another program.
ONCE = {"xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True}

"""Ways to compile a program."""

# For what runs a few times only: there in a third of the time, and slower. Not
# for what is timed.
ONCE = {"xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True}

"""The GPU interpreter of Pallas, which jax shows only in part."""

from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call
from jax._src.pallas.mosaic_gpu.interpret import params

InterpretGPUParams = params.InterpretGPUParams
# After an error in a kernel; the simulated memory survives it otherwise.
reset = interpret_pallas_call.reset_gpu_interpret_mode_state
# Of the last call with `detect_races`.
get_races = interpret_pallas_call.get_races

// Optimizer steps of tensors of f16.
#include "adam.cuh"

typedef Step<AdamWRule<float>> AdamW;
typedef Step<RowRule<float>> RowAdam;

extern "C" __global__ void __launch_bounds__(256) adamw_f16(const AdamW job) { adamw<F16>(job); }
extern "C" __global__ void __launch_bounds__(256) row_adam_f16(const RowAdam job) { row_adam<F16>(job); }

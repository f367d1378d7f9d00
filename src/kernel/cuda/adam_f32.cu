// Optimizer steps of tensors of f32.
#include "adam.cuh"

typedef Step<AdamWRule<float>> AdamW;
typedef Step<RowRule<float>> RowAdam;

extern "C" __global__ void __launch_bounds__(256) adamw_f32(const AdamW job) { adamw<F32>(job); }
extern "C" __global__ void __launch_bounds__(256) row_adam_f32(const RowAdam job) { row_adam<F32>(job); }

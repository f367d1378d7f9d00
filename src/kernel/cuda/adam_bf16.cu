// Optimizer steps of tensors of bf16.
#include "adam.cuh"

typedef Step<AdamWRule<float>> AdamW;
typedef Step<RowRule<float>> RowAdam;

extern "C" __global__ void __launch_bounds__(256) adamw_bf16(const AdamW job) { adamw<Bf16>(job); }
extern "C" __global__ void __launch_bounds__(256) row_adam_bf16(const RowAdam job) { row_adam<Bf16>(job); }

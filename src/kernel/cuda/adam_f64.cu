// Optimizer steps of tensors of f64.
#include "adam.cuh"

typedef Step<AdamWRule<double>> AdamW;
typedef Step<RowRule<double>> RowAdam;

extern "C" __global__ void __launch_bounds__(256) adamw_f64(const AdamW job) { adamw<F64>(job); }
extern "C" __global__ void __launch_bounds__(256) row_adam_f64(const RowAdam job) { row_adam<F64>(job); }

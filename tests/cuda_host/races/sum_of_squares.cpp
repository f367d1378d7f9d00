// The norm: sums of rows, then of runs of rows.
#include "gradients.h"

namespace {

const dim3 ROWS = {LANES, 32, 1};

template <class N> void norm(unsigned width, void (*sum_of_squares)(const Squares)) {
    Gradients<N> gradients(width);
    const unsigned rows_per_run = 5, n_runs = V / rows_per_run;
    Memory sums(V * LANES * sizeof(double)), runs(n_runs * sizeof(double));
    for (const bool has_dense : {false, true}) {
        const Squares job = {sums.as<double>(), gradients.get(has_dense), V * width, width};
        launch({V / ROWS.y + 1, 1, 1}, ROWS, {&sums}, [=] { sum_of_squares(job); });
        const Runs add = {runs.as<double>(), sums.as<double>(), V, rows_per_run};
        launch({1, 1, 1}, {256, 1, 1}, {&runs}, [=] { add_rows_f64(add); });
    }
}

} // namespace

int main() {
    return over_widths([](unsigned width) {
        norm<F32>(width, sum_of_squares_f32);
        norm<Bf16>(width, sum_of_squares_bf16);
    });
}

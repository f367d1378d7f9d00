// Steps of both optimizers.
#include "gradients.h"

namespace {

template <class N> void step(unsigned width, void (*adamw)(const AdamW), void (*row_adam)(const RowAdam)) {
    Gradients<N> gradients(width);
    Memory param = values<N>(V * width), exp_avg = values<N>(V * width), exp_avg_sq = values<N>(V * width);
    const auto all = {&param, &exp_avg, &exp_avg_sq};
    for (const unsigned blocks : {V / BLOCK.y, 2u}) {
        const AdamW step = {param.as<void>(), exp_avg.as<void>(), exp_avg_sq.as<void>(), gradients.get(true), V * width, width,
                            {1, 0.99f, true, 0.1f, 0.9f, 0.1f, 1, 1e-8f, -0.01f}};
        launch({blocks, 1, 1}, BLOCK, all, [=] { adamw(step); });
        const RowAdam row_step = {param.as<void>(), exp_avg.as<void>(), exp_avg_sq.as<void>(), gradients.get(false), V * width,
                                  width, {1, 0.99f, 0.1f, 0.1f, 1e-8f, -0.01f}};
        launch({blocks, 1, 1}, BLOCK, all, [=] { row_adam(row_step); });
    }
}

} // namespace

int main() {
    return over_widths([](unsigned width) { step<ELEMENT>(width, ADAMW, ROW_ADAM); });
}

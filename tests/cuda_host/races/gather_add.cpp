// Look-ups and sums, with ids inside and outside their tables.
#include "threads.h"

namespace {

const unsigned V = 40, P = 16, B = 12, T = 10, N_IDS = B * T;

Ids ids_of(std::vector<u32> &numbers, Memory &notes, unsigned table) {
    Ids ids = {};
    ids.values = numbers.data();
    ids.bytes = sizeof(u32);
    ids.note = notes.as<Note>() + table;
    ids.shape.rank = 2;
    ids.shape.dims[0] = numbers.size() / T;
    ids.shape.dims[1] = T;
    return ids;
}

template <class N> void look_up(unsigned width, void (*gather)(const Gather), void (*gather_add)(const Gather)) {
    Memory wte = values<N>(V * width), wpe = values<N>(P * width);
    for (const bool bad : {false, true}) {
        // Some of them out of three are bad.
        std::vector<u32> tokens(N_IDS), places(T);
        for (u32 &id : tokens) id = below(bad ? 3 * V : V);
        for (u32 &id : places) id = below(bad ? 2 * P : P);
        Memory out(N_IDS * width * sizeof(typename N::Stored)), notes(2 * sizeof(Note));
        Gather job = {};
        job.out = out.as<void>();
        job.ids = ids_of(tokens, notes, 0);
        job.wte = wte.as<void>();
        job.wpe = wpe.as<void>();
        job.call = 3;
        job.n_ids = N_IDS;
        job.start = bad ? 9 : 2;
        job.t = T;
        job.wte_rows = V;
        job.wpe_rows = P;
        job.width = width;
        // A row of the grid for each id, and fewer.
        for (const unsigned blocks : {N_IDS / BLOCK.y, 2u}) {
            launch({blocks, 2, 1}, BLOCK, {&out, &notes}, [=] { gather(job); });
            launch({blocks, 2, 1}, BLOCK, {&out, &notes}, [=] { gather_add(job); });
        }
        job.places = ids_of(places, notes, 1);
        job.n_places = T;
        job.call = 4;
        notes = Memory(2 * sizeof(Note));
        job.ids.note = notes.as<Note>();
        job.places.note = notes.as<Note>() + 1;
        launch({N_IDS / BLOCK.y, 2, 1}, BLOCK, {&out, &notes}, [=] { gather_add(job); });
    }
}

} // namespace

int main() {
    return over_widths([](unsigned width) {
        look_up<F32>(width, gather_f32, gather_add_f32);
        look_up<Bf16>(width, gather_bf16, gather_add_bf16);
    });
}

// The conversions of number.cuh on all half values, and on the f32 values around them and between: rounded once, to
// nearest even, and NaN stays NaN. That of a device has all bits set but the sign.
#include <cstdio>

#include "shim.h"

#include "number.cuh"

namespace {

int n_wrong = 0;

void expect(bool is_right, const char *what, u32 bits) {
    if (!is_right && n_wrong++ < 10) std::fprintf(stderr, "%s of %#x is wrong\n", what, bits);
}

// Rounds to the half value that is nearest, found by looking at both neighbors.
template <class N> void check_rounding(u32 infinity) {
    for (u32 bits = 0; bits < infinity; bits++) {
        const float value = N::widen(bits), next = N::widen(bits + 1);
        // Beyond the largest value the next one counts as finite.
        const double above = bits + 1 == infinity ? 2 * double(value) - N::widen(bits - 1) : next;
        const double middle = (double(value) + above) / 2;
        for (const double sign : {1., -1.}) {
            const u16 of_sign = sign < 0 ? 0x8000 : 0;
            const auto rounds_to = [&](double from, u32 expected) {
                const float single = float(sign * from);
                expect(N::narrow(single) == (of_sign | expected), "rounding", bits_as<u32>(single));
            };
            rounds_to(value, bits);
            rounds_to(middle, bits % 2 ? bits + 1 : bits);
            rounds_to(std::nextafter(float(middle), 0.f), bits);
            rounds_to(std::nextafter(float(middle), INFINITY), bits + 1);
        }
    }
    expect(N::narrow(INFINITY) == infinity && N::narrow(-INFINITY) == (0x8000 | infinity), "infinity", infinity);
    const auto is_nan = [&](u16 half) { return (half & 0x7fff) > infinity && N::widen(half) != N::widen(half); };
    for (const u32 nan : {0x7fffffffu, 0xffffffffu, 0x7f800001u, 0xff800001u, 0x7fc00000u, 0xffc00000u, 0x7f80ffffu}) {
        expect(is_nan(N::narrow(bits_as<float>(nan))), "NaN", nan);
    }
    for (u32 bits = infinity + 1; bits < 0x8000; bits++) {
        expect(is_nan(bits) && is_nan(N::narrow(N::widen(bits))), "a NaN", bits);
    }
    expect(is_nan(N::nan()), "NaN for bad ids", N::nan());
}

} // namespace

int main() {
    check_rounding<Bf16>(0x7f80);
    check_rounding<F16>(0x7c00);
    return n_wrong > 0;
}

// The element types of tables, as in element.rs: widened for a sum, rounded once to nearest even. The other files of
// kernels are compiled behind this one.
//
// Halves are kept as bits and converted by integers, so that no device's rules for them matter. No rounded product is
// added to anything: a compiler that fuses both changes no bit. In the tests g++ compiles the same text.
#include <metal_stdlib>
using namespace metal;

struct F32 {
    typedef float Stored;
    typedef float4 Stored4;
    static float widen(float value) { return value; }
    static float narrow(float wide) { return wide; }
    static float nan() { return as_type<float>(0x7fc00000u); }
};

struct Bf16 {
    typedef ushort Stored;
    typedef ushort4 Stored4;
    static float widen(ushort bits) { return as_type<float>(uint(bits) << 16); }
    static ushort narrow(float wide) {
        const uint bits = as_type<uint>(wide);
        const uint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        const uint nan = (bits >> 16) | 0x40; // quiet, and never rounded into an infinity
        return ushort((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
    }
    static ushort nan() { return 0x7fc0; }
};

struct F16 {
    typedef ushort Stored;
    typedef ushort4 Stored4;
    static float widen(ushort half_bits) {
        const uint bits = half_bits, magnitude = bits & 0x7fff, sign = (bits & 0x8000) << 16;
        const uint subnormal = as_type<uint>(float(magnitude) * (1.0f / 16777216)); // of 2^-24 each: exact
        const uint normal = (magnitude << 13) + (112 << 23); // the exponents of the types differ by 112
        const uint special = (magnitude << 13) | 0x7f800000; // infinity or NaN
        return as_type<float>(sign | (magnitude >= 0x7c00 ? special : magnitude < 0x400 ? subnormal : normal));
    }
    static ushort narrow(float wide) {
        const uint bits = as_type<uint>(wide), magnitude = bits & 0x7fffffff;
        // The sum with 0.5 has an ulp of 2^-24, as subnormal halves have: it rounds, and leaves them in its low bits.
        const uint subnormal = as_type<uint>(as_type<float>(magnitude) + 0.5f) - as_type<uint>(0.5f);
        const uint normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
        const uint special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00; // NaN or infinity
        // From 2^16 on, below 2^-14, and between: 65520 and above carry into the infinity.
        const uint rounded = magnitude >= 0x47800000 ? special : magnitude < 0x38800000 ? subnormal : normal;
        return ushort((bits >> 16 & 0x8000) | rounded);
    }
    static ushort nan() { return 0x7e00; }
};

// What a thread loads and stores at a time: one element of type N.
template <class N> struct One {
    typedef typename N::Stored Piece;
    typedef float Wide;
    static Wide widen(Piece piece) { return N::widen(piece); }
    static Piece narrow(Wide wide) { return N::narrow(wide); }
    static Piece nan() { return N::nan(); }
};

// Four elements, if all rows begin at multiples of four.
template <class N> struct Four {
    typedef typename N::Stored4 Piece;
    typedef float4 Wide;
    static Wide widen(Piece piece) {
        Wide wide = {};
        for (uint lane = 0; lane < 4; lane++) wide[lane] = N::widen(piece[lane]);
        return wide;
    }
    static Piece narrow(Wide wide) {
        Piece piece = {};
        for (uint lane = 0; lane < 4; lane++) piece[lane] = N::narrow(wide[lane]);
        return piece;
    }
    static Piece nan() {
        Piece piece = {};
        for (uint lane = 0; lane < 4; lane++) piece[lane] = N::nan();
        return piece;
    }
};

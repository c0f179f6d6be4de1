// Vectors of the instruction set this file is compiled for, and the walk over the columns of a row.
//
// Every kernel file is compiled once per level (build.py: LEVEL = baseline, avx2, avx512), so everything lives in
// the namespace LEVEL and no standard library template is used: two levels must never share a symbol.
// Storage is float32 or bfloat16, arithmetic float32.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
// The C name of a kernel, as in gelu_forward_avx512. It takes one struct, laid out as library.py says.
#define EXPORT(name) extern "C" __attribute__((visibility("default"))) void JOIN(name, LEVEL)
#define INLINE static inline __attribute__((always_inline))

namespace LEVEL {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef float VecLoose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint16_t HalvesLoose __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

struct bf16 {
    uint16_t bits;
};

INLINE Vec fill(float value) { return value - Vec{}; }

INLINE Vec widen(Halves halves) { return (Vec)(__builtin_convertvector(halves, Bits) << 16); }

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
INLINE Halves narrow(Vec value) {
    const Bits bits = (Bits)value;
    const Bits nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Ints is_nan = value != value;
    return __builtin_convertvector((Bits)(is_nan ? (Ints)((bits >> 16) | 0x40) : (Ints)nearest), Halves);
}

INLINE Vec load(const float* from) { return *reinterpret_cast<const VecLoose*>(from); }
INLINE Vec load(const bf16* from) { return widen(*reinterpret_cast<const HalvesLoose*>(from)); }
INLINE void store(float* to, Vec value) { *reinterpret_cast<VecLoose*>(to) = value; }
INLINE void store(bf16* to, Vec value) { *reinterpret_cast<HalvesLoose*>(to) = narrow(value); }

// What a value stored as this type reads back as.
INLINE Vec stored(const float*, Vec value) { return value; }
INLINE Vec stored(const bf16*, Vec value) { return widen(narrow(value)); }

// Past the cache: the line is not read before it is written. The address is a multiple of the vector's size.
INLINE void stream(float* to, Vec value) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, (__m512)value);
#elif defined(__AVX2__)
    _mm256_stream_ps(to, (__m256)value);
#else
    store(to, value);
#endif
}

INLINE void stream(bf16* to, Vec value) { store(to, value); }

INLINE void end_streams() {
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

// The lanes of one vector that belong to the row: all of them, or the first `count`.
struct Whole {};
struct Part {
    int count;
};

template <class T>
INLINE Vec load(const T* from, Whole) {
    return load(from);
}

template <class T>
INLINE Vec load(const T* from, Part part) {
    T lanes[LANES] = {};
    memcpy(lanes, from, part.count * sizeof(T));
    return load(lanes);
}

template <class T>
INLINE void store(T* to, Vec value, Whole) {
    store(to, value);
}

template <class T>
INLINE void store(T* to, Vec value, Part part) {
    T lanes[LANES];
    store(lanes, value);
    memcpy(to, lanes, part.count * sizeof(T));
}

// The value with zeros in the lanes outside the row.
INLINE Vec inside(Vec value, Whole) { return value; }
INLINE Vec inside(Vec value, Part part) {
    float lanes[LANES];
    store(lanes, value);
    return load(lanes, part);
}

INLINE void add(float* to, Vec value) { store(to, load(to) + value); }
template <class Lanes>
INLINE void add(float* to, Vec value, Lanes lanes) {
    store(to, load(to, lanes) + value, lanes);
}

// A vector of results, past the cache where that pays (see rows.h).
template <bool PAST_CACHE, class T>
INLINE void put(T* to, Vec value, Whole) {
    PAST_CACHE ? stream(to, value) : store(to, value);
}
template <bool PAST_CACHE, class T>
INLINE void put(T* to, Vec value, Part part) {
    store(to, value, part);
}

// body(at, lanes) for every vector of columns.
template <class Body>
INLINE void columns(int64_t width, Body body) {
    int64_t at = 0;
    for (; at + LANES <= width; at += LANES) body(at, Whole{});
    if (at < width) body(at, Part{static_cast<int>(width - at)});
}

INLINE float total(Vec value) {
    Ints order;
    for (int half = LANES / 2; half; half /= 2) {
        for (int lane = 0; lane < LANES; ++lane) order[lane] = lane ^ half;
        value += __builtin_shuffle(value, order);
    }
    return value[0];
}

// N sums over the columns of a row: body(at, lanes, sums) adds to them. Four chains hide the latency of addition.
template <int N, class Body>
INLINE void sum_columns(int64_t width, float (&sums)[N], Body body) {
    Vec chains[4][N] = {};
    int64_t at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES)
        for (int chain = 0; chain < 4; ++chain) body(at + chain * LANES, Whole{}, chains[chain]);
    for (; at + LANES <= width; at += LANES) body(at, Whole{}, chains[0]);
    if (at < width) body(at, Part{static_cast<int>(width - at)}, chains[0]);
    for (int n = 0; n < N; ++n) sums[n] = total((chains[0][n] + chains[1][n]) + (chains[2][n] + chains[3][n]));
}

}  // namespace LEVEL
